from libc.stdint cimport int64_t, uint32_t, uint64_t

from pystream._native.batch cimport Record
from pystream._native.bells cimport Waits
from pystream._native.c_api cimport ps_log
from pystream._native.reader cimport PartitionReader


cdef struct Watch:
    ps_log *log
    int64_t wanted  # the watermark has to pass it
    bint durable    # or what is on the disk


# What ends a wait: its conditions, and the words that change with them.
cdef struct Wait:
    Watch *watches
    size_t count
    const int *halt
    const int *due          # NULL without an Attention
    const uint32_t *word    # likewise, or where it has none
    uint32_t seen


cdef class Attention:
    """What a Fetcher looks at between two records and while it waits: a word that others change, a count that
    tells them that it goes on, and whom to call."""
    cdef const uint32_t *word  # shared futex word; NULL: none
    cdef uint64_t *beats       # shared, written by this reader only; NULL: none
    cdef uint32_t seen         # value of *word that was last dealt with
    cdef int64_t slice_ns      # longest sleep at a stretch
    cdef bint is_close         # asked at each record
    cdef int due               # atomic flag, set by any thread: notice() is wanted; also slept on
    cdef int later             # atomic flag, set by any thread: the same, but nobody wakes for it
    cdef object notice         # callable(waited: bool), called in the reading thread
    cdef long generation       # of processes: what is shared is its maker's, and no forked child's
    cdef object word_owner     # keeps the memory of each
    cdef object beats_owner

    cdef void beat(self) noexcept
    cdef bint is_wanted(self) noexcept
    cdef int call(self, bint waited) except -1
    # notice() is wanted: at the next ask, or now where a thread waits.
    cpdef void want(self) noexcept
    cpdef void want_later(self) noexcept


cdef class Fetcher:
    """Several partitions read in turn, with waiting. One thread at a time; wake() and close() from any."""
    cdef list members
    cdef Py_ssize_t turn
    cdef PartitionReader current  # the one that records come from
    cdef PartitionReader last     # what it handed out is settled by the next ask; kept with `attention` only
    cdef Attention attention      # None: reads for nobody else
    cdef bint noticing            # attention.notice is running
    cdef int64_t spin_ns
    cdef int64_t nap_ns
    cdef int halt                 # atomic: end the wait under way; also slept on
    cdef ps_log *alone            # the only word slept on is this log's
    cdef bint closing
    cdef bint busy
    cdef bint no_wait_many        # the kernel has no futex_waitv
    cdef object watch             # the wait of an event loop (aio.Watch), or None
    cdef Waits waits              # for more than the kernel waits for at once; None until needed
    cdef list waits_for           # the readers it was made for

    # What readers that were removed have read.
    cdef uint64_t batches_gone
    cdef uint64_t records_gone
    cdef uint64_t bytes_gone
    cdef uint64_t errors_gone
    cdef int64_t last_gone_ns

    cdef void count_gone(self, PartitionReader reader) noexcept
    cdef int enter(self) except -1
    cdef void leave(self) noexcept
    cdef bint ask(self) except -1
    cdef bint heed(self, bint waited) except -1
    cdef bint heed_inside(self) except -1
    cdef PartitionReader ready(self)
    cdef PartitionReader next_ready(self, int64_t timeout_ns)
    cdef int sleep(self, int64_t until, bint spin_first) except -1
    cdef int sleep_on_many(self, list active, const Wait *wait, int64_t timeout_ns) except? 1
    cdef void nap(self, int64_t slice_ns) noexcept
    cdef Record take_record(self, int64_t timeout_ns)
    cdef Record take_asked(self, int64_t timeout_ns)
