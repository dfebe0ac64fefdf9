from libc.stdint cimport int64_t, uint32_t

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

    cdef int place(self, int64_t offset) except -1
    cdef Batch read(self)
    cdef bint load(self) except -1
    cdef void settle(self) noexcept
    cdef Batch take_batch(self)
    cdef Record take_record(self)
    cdef Record take_guarded(self)


cdef class Fetcher:
    """Several partitions read in turn, with waiting. One thread at a time; wake() and close() from any."""
    cdef list members
    cdef Py_ssize_t turn
    cdef PartitionReader current  # the one that records come from
    cdef int64_t spin_ns
    cdef int64_t nap_ns
    cdef int halt                 # atomic: end the wait under way
    cdef bint closing
    cdef bint busy
    cdef bint no_wait_many        # the kernel has no futex_waitv
    cdef object watch             # the wait of an event loop (aio.Watch), or None

    cdef int enter(self) except -1
    cdef void leave(self) noexcept
    cdef PartitionReader ready(self)
    cdef PartitionReader next_ready(self, int64_t timeout_ns)
    cdef int sleep(self, int64_t deadline, bint spin_first) except -1
    cdef void nap(self, int64_t slice_ns) noexcept
    cdef Record take_record(self, int64_t timeout_ns)
