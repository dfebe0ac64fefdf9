from libc.stdint cimport int64_t, uint32_t, uint64_t

from pystream._native.c_api cimport ps_error, ps_log, ps_status
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
    int ps_bell_wait(const ps_bell *bell, int64_t timeout_ns)
    void *ps_bell_take(ps_bell *bell)
    ps_watch *ps_watch_new(ps_bell *bell, size_t count, void *user)
    void ps_watch_stand(ps_watch *watch)
    void ps_watch_log(ps_watch *watch, size_t i, ps_log *log, int64_t wanted, bint durable)
    void ps_watch_producer(ps_watch *watch, size_t i, ps_producer *producer, uint64_t seen)
    void ps_watch_word(ps_watch *watch, size_t i, const uint32_t *word, uint32_t seen)
    ps_status ps_watch_begin(ps_watch *watch, ps_error *err)
    void ps_watch_ring(ps_watch *watch)
    void ps_watch_free(ps_watch *watch)
    void ps_watch_abandon(ps_watch *watch)


cdef class Bell:
    """What wakes one event loop, or one thread. Not used in a forked child."""
    cdef ps_bell *bell
    cdef long generation  # forks seen when it was made
    cdef object __weakref__


cdef class Waits:
    """A wait for so many things that the process's watcher must help, begun again and again by one thread."""
    cdef ps_watch *watch
    cdef Bell bell
    cdef list held        # what it waits for, which must live on

    # Make it one for `count` things; what they are is said by ps_watch_log and its like.
    cdef int open(self, list held, size_t count) except -1
    # Until something is there, in time: 0, or -errno.
    cdef int wait(self, int64_t timeout_ns) except? 1
