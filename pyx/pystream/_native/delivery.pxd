from libc.stdint cimport int64_t, uint32_t, uint64_t

from pystream._native.c_api cimport ps_columns, ps_error
from pystream._native.log cimport LogHandle
from pystream._native.write_api cimport ps_builder, ps_producer


cdef class RecordMetadata:
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly object offset     # int, or None when it was not delivered
    cdef readonly object timestamp  # int ns, or None


# The callback of one record in a builder.
cdef class Tracked:
    cdef uint32_t index
    cdef object callback


# offset < 0: not delivered.
cdef RecordMetadata make_metadata(str topic, int partition, int64_t offset, int64_t timestamp)
# The exception that stands for *err.
cdef object error_of(LogHandle log, const ps_error *err)
cdef object delivery_error(LogHandle log, uint64_t records, object cause)
# Call the callbacks of a finished builder, and recycle it. Answers the first exception that one of them raised.
cdef object report(ps_producer *p, LogHandle log, object default, ps_builder *b)
# The same for a batch appended from `columns`; `stamp`: the timestamp of all, where they have none each.
cdef object report_columns(LogHandle log, object callback, const ps_columns *columns, int64_t base_offset,
                           int64_t stamp)
# Let go of the list of Tracked that a builder carries.
cdef void drop_user(ps_builder *b) noexcept

# Monotonic deadlines in ns, < 0: none. What is left of one, at most a slice.
cdef int64_t deadline_of(int64_t timeout_ns) noexcept nogil
cdef int64_t remaining(int64_t deadline_ns) noexcept nogil
cdef bint is_past(int64_t deadline_ns) noexcept nogil
