# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bells, which the process's few waiting threads ring for event loops and for those who wait for very much."""
import atexit

cimport cython

from pystream._native.c_api cimport PS_END, PS_OK, ps_error, ps_status
from pystream._native.errors cimport raise_error
from pystream._native.forks cimport forks_seen

cdef ps_watcher *watcher = NULL
cdef long watcher_generation = -1  # a forked child has none of its parent's threads, and begins anew


cdef ps_watcher *get_watcher() except NULL:
    global watcher, watcher_generation
    if watcher == NULL or watcher_generation != forks_seen():
        watcher = ps_watcher_new()
        if watcher == NULL:
            raise MemoryError()
        watcher_generation = forks_seen()
        atexit.register(_stop, watcher_generation)
    return watcher


def _stop(long generation):
    if generation == forks_seen():
        with nogil:
            ps_watcher_stop(watcher)


@cython.final
cdef class Bell:

    def __init__(self):
        cdef ps_error err
        if self.bell != NULL:
            raise RuntimeError("a Bell is made once")
        self.generation = forks_seen()
        if ps_bell_new(get_watcher(), &self.bell, &err) != PS_OK:
            raise_error(&err)

    def __dealloc__(self):
        if self.bell != NULL:
            ps_bell_free(self.bell)

    @property
    def forked(self):
        """True in a child of the process that made it."""
        return self.generation != forks_seen()

    def fileno(self):
        """The descriptor that becomes readable when a watch has rung."""
        return ps_bell_fd(self.bell)


# Not cleared by the collector: what is waited for must be there until the wait has ended.
@cython.final
@cython.no_gc_clear
cdef class Waits:

    cdef int open(self, list held, size_t count) except -1:
        self.bell = Bell()
        self.held = held
        self.watch = ps_watch_new(self.bell.bell, count, NULL)
        if self.watch == NULL:
            raise MemoryError()
        ps_watch_stand(self.watch)
        return 0

    cdef int wait(self, int64_t timeout_ns) except? 1:
        cdef ps_error err
        cdef ps_status status
        cdef int answer = 0
        with nogil:
            status = ps_watch_begin(self.watch, &err)
            if status == PS_OK:
                answer = ps_bell_wait(self.bell.bell, timeout_ns)
                ps_bell_answer(self.bell.bell)
        if status != PS_OK and status != PS_END:
            raise_error(&err)
        return answer

    def __dealloc__(self):
        if self.watch == NULL:
            return
        if self.bell.generation == forks_seen():
            ps_watch_free(self.watch)
        else:
            ps_watch_abandon(self.watch)
