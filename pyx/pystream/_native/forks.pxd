from pystream._native.c_api cimport ps_log

ctypedef void (*fork_hook)() noexcept nogil

# Called around fork by the one pthread_atfork handler of the process, in the order of registration. In the child
# only async-signal-safe work is allowed.
cdef int add_fork_hooks(fork_hook prepare, fork_hook parent, fork_hook child) except -1
# Forks between the first process and this one: what was opened under another number is a parent's.
cdef long forks_seen() noexcept nogil
# Open logs, for the handler.
cdef int remember_log(ps_log *log) except -1
cdef void forget_log(ps_log *log) noexcept nogil


cdef class LockFile:
    """A file to be locked, made if it is not there; closed with its last user, and first thing in a forked child."""
    cdef int fd           # -1: not there, and only to be read
    cdef long generation  # forks seen when it was opened
    cdef readonly str path
    cdef void close(self) noexcept
    # Whether the path still leads to this file.
    cdef bint in_place(self) except -1
