# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Appending batches as they were read, without looking at records."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from pystream._native.batch cimport Batch
from pystream._native.c_api cimport ps_columns
from pystream._native.log cimport LogHandle
from pystream._native.write_api cimport ps_scratch, ps_scratch_free
from pystream._native.writer cimport Appended, append_columns

from pystream._native.errors import KeyRequiredError, RecordTooLargeError

cdef extern from "ps_slice.h" nogil:
    uint64_t ps_slice_bytes(const ps_columns *columns, uint32_t start, uint32_t count)
    void ps_columns_slice(const ps_columns *columns, uint32_t start, uint32_t count, void *memory, ps_columns *out)
    bint ps_columns_keyed(const ps_columns *columns)


cdef class BatchWriter:
    """BatchWriter(log, codec, keyed): appends to a log what was read from another one of the same widths. keyed: a
    record without a key is refused."""
    cdef LogHandle log
    cdef uint32_t codec
    cdef bint keyed
    cdef ps_scratch scratch
    cdef void *memory
    cdef uint64_t memory_bytes

    def __init__(self, LogHandle log not None, uint32_t codec, bint keyed):
        self.log = log
        self.codec = codec
        self.keyed = keyed

    def __dealloc__(self):
        ps_scratch_free(&self.scratch)
        free(self.memory)

    def append(self, Batch batch not None):
        """Append the records of a batch, as one, or as several where one would be larger than the log takes. Answers
        the bytes stored."""
        return self.put(batch, batch.start, batch.count)

    cdef int64_t put(self, Batch batch, uint32_t start, uint32_t count) except -1:
        cdef ps_columns columns
        cdef Appended appended
        cdef uint32_t half = count // 2
        if count == 0:
            return 0
        self.make_room(ps_slice_bytes(&batch.columns, start, count))
        ps_columns_slice(&batch.columns, start, count, self.memory, &columns)
        if self.keyed and not ps_columns_keyed(&columns):
            raise KeyRequiredError(f"a record in {batch!r} has no key; topic {self.log.topic!r} is compacted, and takes none",
                              topic=self.log.topic, partition=self.log.partition)
        try:
            append_columns(self.log, &columns, self.codec, NULL, &self.scratch, -1, &appended)
        except RecordTooLargeError:
            if count == 1:
                raise
            return self.put(batch, start, half) + self.put(batch, start + half, count - half)
        return appended.frame_bytes

    cdef int make_room(self, uint64_t size) except -1:
        cdef void *memory
        if size <= self.memory_bytes:
            return 0
        memory = realloc(self.memory, size)
        if memory == NULL:
            raise MemoryError()
        self.memory = memory
        self.memory_bytes = size
        return 0
