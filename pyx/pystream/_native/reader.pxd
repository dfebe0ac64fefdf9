from libc.stdint cimport int64_t, uint32_t, uint64_t

from pystream._native.arrow cimport ArrowSource
from pystream._native.batch cimport Batch, Record
from pystream._native.c_api cimport ps_cursor
from pystream._native.log cimport LogHandle
from pystream._native.schema cimport Schema


cdef class PartitionReader(ArrowSource):
    """Reads one partition forward. Used by one thread at a time; a second one gets RuntimeError."""
    cdef readonly LogHandle handle
    cdef Schema schema      # of the batches: with the serializers of whoever reads
    cdef bint calls_back    # making a record calls what is the user's own
    # Where in the log: `wanted` is the next offset not yet read; the cursor stands there when placed.
    cdef ps_cursor cursor
    cdef bint placed
    cdef int64_t wanted
    cdef int64_t stop       # first offset not wanted; -1 = none
    cdef readonly bint done  # `stop` has been reached
    cdef bint large         # the last frame was large: the next one is read without the GIL
    cdef bint busy
    cdef readonly bint paused
    # Reading records: the batch they come from, how many were handed out, whether the last still counts
    # as unread.
    cdef Batch batch
    cdef uint32_t at
    cdef bint in_hand
    # What has been read so far: counted a batch at a time.
    cdef uint64_t batches_in
    cdef uint64_t records_in
    cdef uint64_t bytes_in  # of frames, as stored
    cdef uint64_t errors
    cdef int64_t last_ns    # wall clock of the last batch, to a few ms; 0: none
    # Where others see what was consumed: the offset in hand, or behind all that was handed out once more is
    # asked for. A shared word, written by this reader only; NULL: nobody looks.
    cdef int64_t *mark
    cdef object mark_owner  # keeps the memory
    # Called with the reader when its place is below the log start, to seek elsewhere; None: that is an error.
    cdef public object on_fall
    cdef bint mark_follows  # something was handed out since the last seek

    cdef int place(self, int64_t offset) except -1
    cdef Batch read(self)
    cdef bint load(self) except -1
    cdef bint load_next(self) except -1
    cdef uint32_t unread(self) noexcept
    cdef void settle(self) noexcept
    cdef Batch take_batch(self)
    cdef Record take_record(self)
    cdef Record take_guarded(self)
    cdef int64_t behind(self) noexcept


cdef extern from "ps_base.h" nogil:
    void ps_release_i64(void *p, int64_t v)


# Release: whoever reads a mark (acquire) finds done what was done with the records below it.
cdef inline void move_mark(PartitionReader reader, int64_t offset) noexcept:
    ps_release_i64(reader.mark, offset)
    reader.mark_follows = True


cdef inline void settle_mark(PartitionReader reader) noexcept:
    if reader.mark != NULL and reader.mark_follows:
        ps_release_i64(reader.mark, reader.behind())


# Record `at` of the batch has been made and goes to the user.
cdef inline void hand_out(PartitionReader reader) noexcept:
    reader.at += 1
    reader.in_hand = True
    if reader.mark != NULL:
        move_mark(reader, reader.batch.offset_at(reader.at - 1))
