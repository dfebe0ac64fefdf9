from libc.stdint cimport int64_t, uint32_t

from pystream._native.c_api cimport ps_columns
from pystream._native.schema cimport Schema
from pystream._native.source cimport Buffer, Source
from pystream._native.write_api cimport ps_header


cdef class Input:
    """All that one append or send_many was given."""
    cdef Schema schema
    cdef readonly Py_ssize_t count
    cdef Source values
    cdef Source keys               # or None
    cdef object headers            # list or tuple, or None
    cdef uint32_t *header_bytes    # of each record
    cdef object timestamps_owner
    cdef const int64_t *timestamps # NULL: all records have `stamp`
    cdef int64_t stamp             # or PS_TIMESTAMP_NONE with has_stamp false: now
    cdef bint has_stamp
    cdef Buffer order_times
    cdef Buffer header_lists
    cdef Buffer header_key_offsets
    cdef Buffer header_keys
    cdef Buffer header_value_offsets
    cdef Buffer header_values
    cdef Buffer header_validity

    # Check everything and remember it. `parse_time` turns what is not an int into nanoseconds, or is None.
    cdef int open(self, Schema schema, object values, object keys, object headers, object timestamps,
                  object parse_time) except -1
    # Upper bound of what record i adds to a frame.
    cdef int64_t cost(self, Py_ssize_t i) except -1
    # Raise KeyRequiredError if any record has no key.
    cdef int check_keys(self) except -1
    # Raise RecordTooLargeError if any record alone exceeds a frame.
    cdef int check_records(self, uint32_t frame_bytes_max) except -1
    # Raise BatchTooLargeError if all of it plainly exceeds one frame.
    cdef int check_batch(self, uint32_t codec, uint32_t frame_bytes_max) except -1
    # The end of the longest run from `start` that stays within limits; at least one record.
    cdef Py_ssize_t cut(self, Py_ssize_t start, Py_ssize_t stop, const uint32_t *order, int64_t bytes_max,
                        Py_ssize_t records_max) except -1
    # The columns of records start .. start + count (through `order` if given); good until the next take.
    cdef int take(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order, ps_columns *out) except -1

    cdef int open_headers(self, object headers) except -1
    cdef int open_timestamps(self, object timestamps, object parse_time) except -1
    cdef int take_headers(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order,
                          ps_columns *out) except -1


# One record's headers for the kernel; keeps what they point to.
cdef class Headers:
    cdef ps_header *items
    cdef uint32_t count
    cdef list owners
    cdef int open(self, object headers) except -1


# The KeyRequiredError to raise.
cdef object key_required(str topic, str record, object index)
# The items of one record's headers as a list or tuple of pairs, checked.
cdef object header_items(object headers, str place)
cdef int64_t timestamp_ns(object value, object parse_time) except? -1
