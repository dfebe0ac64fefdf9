# cython: language_level=3, binding=False
"""Everybody locked out of a topic, to delete or rename it."""
import os

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t

from pystream._native.c_api cimport (
    PS_INTERRUPTED, PS_NOT_FOUND, PS_OK, ps_env_ask, ps_error, ps_fault_hook, ps_fault_parse, ps_fault_plan,
    ps_os_monotonic_ns, ps_status, ps_topic_lock, ps_topic_mark_deleted,
    ps_topic_mark_moved,
)
from pystream._native.errors cimport raise_error
from pystream._native.forks cimport LockFile
from pystream._native.log cimport StoreHandle


cdef class TopicLock:
    """Every lock of the topic in `directory`, held until `release()`: nobody appends, syncs or opens a partition
    of it for the first time, in any process. Waits for writers timeout_ns at most (-1: for ever, 0: not at all);
    then raises LockTimeoutError. Needs a `locks` file there; makes one where that is missing."""
    cdef StoreHandle store
    cdef LockFile file

    def __init__(self, StoreHandle store not None, str directory not None, str topic, uint32_t partitions,
                 int64_t timeout_ns):
        cdef ps_error err
        cdef ps_status status
        cdef uint32_t held = 0
        cdef int64_t begun = ps_os_monotonic_ns()
        cdef int64_t left = timeout_ns
        cdef bytes encoded = os.fsencode(directory)
        cdef const char *text = encoded
        self.store = store
        self.file = LockFile(os.path.join(directory, "locks"))
        while True:
            with nogil:
                status = ps_topic_lock(&store.env, self.file.fd, partitions, &held, left, text, &err)
            if status != PS_INTERRUPTED:
                break
            PyErr_CheckSignals()
            if timeout_ns >= 0:
                left = max(begun + timeout_ns - ps_os_monotonic_ns(), <int64_t>0)
        if status != PS_OK:
            self.file.close()
            raise_error(&err, topic)

    def in_place(self):
        """Whether the directory is still that of the topic whose locks these are."""
        return self.file.in_place()

    def mark(self, str head not None):
        """Tell all who have the head page at this path mapped that its topic was deleted. False: there is none."""
        cdef ps_error err
        cdef bytes encoded = os.fsencode(head)
        cdef ps_status status = ps_topic_mark_deleted(&self.store.env, encoded, &err)
        if status != PS_OK and status != PS_NOT_FOUND:
            raise_error(&err)
        return status == PS_OK

    def mark_moved(self, str head not None):
        """Tell them that it was renamed. False: there is none."""
        cdef ps_error err
        cdef bytes encoded = os.fsencode(head)
        cdef ps_status status = ps_topic_mark_moved(&self.store.env, encoded, &err)
        if status != PS_OK and status != PS_NOT_FOUND:
            raise_error(&err)
        return status == PS_OK

    def release(self):
        """Let go. Twice is once."""
        self.file.close()


def point(StoreHandle store, str name not None):
    """A named place between two steps, where tests may end the process. Without a store, which may only be in the
    making, by the plan that its opening would arm."""
    cdef bytes encoded = name.encode()
    cdef ps_fault_plan plan
    if store is not None:
        ps_env_ask(&store.env, encoded)
    elif "PYSTREAM_FAULT" in os.environ and ps_fault_parse(os.environ["PYSTREAM_FAULT"].encode(), &plan):
        ps_fault_hook(&plan, encoded)
