from libc.stdint cimport int64_t, uint64_t

from pystream._native.batch cimport Record
from pystream._native.c_api cimport ps_error, ps_log, ps_status
from pystream._native.producer cimport ProducerCore
from pystream._native.reader cimport Fetcher
from pystream._native.write_api cimport ps_producer


cdef extern from "ps_watch.h" nogil:
    ctypedef struct ps_watcher:
        pass
    ctypedef struct ps_bell:
        pass
    ctypedef struct ps_watch:
        pass
    ps_watcher *ps_watcher_new()
    void ps_watcher_stop(ps_watcher *watcher)
    ps_status ps_bell_new(ps_watcher *watcher, ps_bell **out, ps_error *err)
    void ps_bell_free(ps_bell *bell)
    int ps_bell_fd(const ps_bell *bell)
    void ps_bell_answer(ps_bell *bell)
    void *ps_bell_take(ps_bell *bell)
    ps_watch *ps_watch_new(ps_bell *bell, size_t count, void *user)
    void ps_watch_log(ps_watch *watch, size_t i, ps_log *log, int64_t wanted)
    void ps_watch_producer(ps_watch *watch, size_t i, ps_producer *producer, uint64_t seen)
    ps_status ps_watch_begin(ps_watch *watch, ps_error *err)
    void ps_watch_ring(ps_watch *watch)
    void ps_watch_free(ps_watch *watch)
    void ps_watch_abandon(ps_watch *watch)


cdef class Bell:
    """What wakes one event loop. Not used in a forked child."""
    cdef ps_bell *bell
    cdef long generation  # forks seen when it was made
    cdef object __weakref__


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
