from libc.stdint cimport int64_t

from pystream._native.batch cimport Record
from pystream._native.bells cimport Bell, ps_watch
from pystream._native.fetcher cimport Fetcher
from pystream._native.producer cimport ProducerCore


cdef class Watch:
    """A wait of an event loop: it sets the result of a future, once. Ended by cancel(), or with its life."""
    cdef ps_watch *watch
    cdef Bell bell
    cdef list held        # what it waits for, which must live on
    cdef Fetcher fetcher  # whose only wait it is, or None
    cdef object future

    cdef Watch open(self, Bell bell, object future, size_t count)
    cdef bint begin(self) except -1
    cdef void end(self) noexcept


cdef class Turn:
    """How long a task has kept the event loop from the others."""
    cdef int64_t began   # ns
    cdef int64_t looked
    cdef int step        # calls between two looks at the clock
    cdef int left

    cdef bint over(self) noexcept


cdef class AsyncRecords:
    """Records of a Fetcher, as an asynchronous iterator."""
    cdef Fetcher fetcher
    cdef Turn turn
    cdef object later    # async callable: the next record, or StopAsyncIteration


cdef class Departure:
    """What a producer held at one moment, on its way out."""
    cdef ProducerCore core
    cdef list targets    # of each lane
