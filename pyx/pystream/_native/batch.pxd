from libc.stdint cimport int64_t, uint32_t

from pystream._native.c_api cimport ps_columns, ps_frame_meta, ps_frame_view
from pystream._native.column cimport Column
from pystream._native.memory cimport ps_lease
from pystream._native.schema cimport Schema


cdef class Record:
    """One record. Owns its bytes."""
    # Objects are made with the record: their attributes are plain slots (see batch.pyx).
    cdef str topic
    cdef object offset
    cdef object key         # bytes, what a serializer made of them, or None
    cdef object value       # likewise
    cdef tuple headers      # of (str, bytes or None)
    # Numbers become objects when asked for.
    cdef int64_t timestamp_ns
    cdef readonly int partition


cdef class Batch:
    """A stored batch, or a slice of one, lent from where it is stored."""
    # Memory: `columns` points into what the lease keeps.
    cdef ps_lease *lease
    cdef ps_frame_meta meta
    cdef ps_columns columns
    # The records start .. start + count of the stored batch.
    cdef uint32_t start
    cdef uint32_t count
    cdef Schema schema
    cdef readonly int partition
    # Made when first asked for.
    cdef Column values_made
    cdef Column keys_made
    cdef object offsets_made
    cdef object timestamps_made

    cdef inline int64_t offset_at(self, uint32_t i) noexcept
    cdef inline int64_t timestamp_at(self, uint32_t i) noexcept
    cdef int64_t first_offset(self) noexcept
    cdef int64_t end_offset(self) noexcept


# The batch that `view` shows, decompressed if need be (without the GIL when that takes long). The caller
# keeps the view's segment until this returns. Raises CorruptLogError.
cdef Batch batch_from_view(ps_frame_view *view, Schema schema, int partition)
# Records start .. stop of a batch, 0 <= start <= stop <= batch.count, over the same memory.
cdef Batch batch_slice(Batch batch, uint32_t start, uint32_t stop)
# The same in place, for a batch that nobody else has seen.
cdef void batch_trim(Batch batch, uint32_t start, uint32_t stop) noexcept
# Record i, 0 <= i < batch.count.
cdef Record batch_record(Batch batch, uint32_t i)
# Index of the first record with an offset >= offset; batch.count when there is none.
cdef uint32_t batch_find(Batch batch, int64_t offset) noexcept
