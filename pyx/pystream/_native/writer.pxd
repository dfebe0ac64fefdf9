from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t

from pystream._native.c_api cimport ps_columns
from pystream._native.log cimport LogHandle, StoreHandle
from pystream._native.write_api cimport ps_kept, ps_scratch, ps_worker


# The keeper's entry of a log. It is freed with the LogHandle that holds it, forgotten when the store closes.
cdef class Kept:
    cdef ps_kept *entry
    cdef int forget(self) except -1


# What writes to one store: closed before its logs are.
cdef class StoreWriters:
    cdef object producers  # weak set of ProducerCore
    cdef list logs         # LogHandles with a Kept


# The process's helper threads; starts them.
cdef ps_worker *get_worker() except NULL
# The same where there are producers, and so threads.
cdef ps_worker *the_worker() noexcept nogil
cdef StoreWriters writers_of(StoreHandle store)
# The entry of a log that is written to through this process; makes it at the first call.
cdef ps_kept *keep(LogHandle log) except NULL
# What became of a batch.
cdef struct Appended:
    int64_t base_offset
    int64_t first_timestamp  # as stored
    uint32_t frame_bytes

# Who wrote a batch, and which of its records come first in it; kept in the frame's header.
cdef struct Origin:
    int64_t producer_id
    int16_t producer_epoch
    int32_t base_sequence

# Append one batch in this thread. `origin` may be NULL.
cdef int append_columns(LogHandle log, const ps_columns *columns, uint32_t codec, const Origin *origin,
                        ps_scratch *scratch, int64_t timeout_ns, Appended *out) except -1
