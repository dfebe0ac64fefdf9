# cython: language_level=3, binding=False
"""What a forked child must let go of: the descriptors that carry its parent's locks."""
import os

from libc.errno cimport ENOENT, errno
from libc.stdlib cimport calloc, free

from pystream._native.c_api cimport ps_log, ps_log_after_fork, ps_os_close


cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags, ...)
    const int O_RDONLY
    const int O_RDWR
    const int O_CREAT
    const int O_CLOEXEC


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)


# A forked child holds copies of every descriptor, and with them the parent's locks: for as long as the child
# lives, the parent's death would free nothing. So the child closes them first thing. It never unlocks: that would
# take the locks from the parent. What must be reached from the handler is kept in plain lists, under one mutex
# that is held across the fork, so that they are never seen half changed.

cdef struct FdNode:
    int fd
    FdNode *next

cdef struct LogNode:
    ps_log *log
    LogNode *next

cdef pthread_mutex_t registry_mutex
cdef FdNode *lock_fds = NULL
cdef LogNode *open_logs = NULL
cdef long generation = 0  # forks between the first process and this one

cdef enum:
    MAX_HOOKS = 4

cdef fork_hook prepare_hooks[MAX_HOOKS]
cdef fork_hook parent_hooks[MAX_HOOKS]
cdef fork_hook child_hooks[MAX_HOOKS]
cdef int hook_count = 0


cdef int add_fork_hooks(fork_hook prepare, fork_hook parent, fork_hook child) except -1:
    global hook_count
    if hook_count == MAX_HOOKS:
        raise RuntimeError("too many fork hooks")
    prepare_hooks[hook_count] = prepare
    parent_hooks[hook_count] = parent
    child_hooks[hook_count] = child
    hook_count += 1
    return 0


cdef long forks_seen() noexcept nogil:
    return generation


cdef void before_fork() noexcept nogil:
    cdef int i
    pthread_mutex_lock(&registry_mutex)
    for i in range(hook_count):
        if prepare_hooks[i] != NULL:
            prepare_hooks[i]()


cdef void after_fork_parent() noexcept nogil:
    cdef int i
    for i in range(hook_count - 1, -1, -1):
        if parent_hooks[i] != NULL:
            parent_hooks[i]()
    pthread_mutex_unlock(&registry_mutex)


cdef void after_fork_child() noexcept nogil:
    global generation
    cdef int i
    cdef FdNode *fd = lock_fds
    cdef LogNode *log = open_logs
    generation += 1
    while fd != NULL:
        ps_os_close(fd.fd)
        fd.fd = -1
        fd = fd.next
    while log != NULL:
        ps_log_after_fork(log.log)
        log = log.next
    for i in range(hook_count - 1, -1, -1):
        if child_hooks[i] != NULL:
            child_hooks[i]()
    pthread_mutex_unlock(&registry_mutex)


pthread_mutex_init(&registry_mutex, NULL)
pthread_atfork(before_fork, after_fork_parent, after_fork_child)


cdef int open_lock_file(str path, bint read_only) except -2:
    """Open (or create) a file to be locked; -1 when it is only to be read, and not there. No fork comes between
    its opening and its being listed."""
    global lock_fds
    cdef bytes encoded = os.fsencode(path)
    cdef const char *text = encoded
    cdef FdNode *node = <FdNode *>calloc(1, sizeof(FdNode))
    cdef int failed = 0
    cdef int flags = O_RDONLY | O_CLOEXEC if read_only else O_RDWR | O_CREAT | O_CLOEXEC
    if node == NULL:
        raise MemoryError()
    with nogil:
        pthread_mutex_lock(&registry_mutex)
        node.fd = c_open(text, flags, 0o666)
        if node.fd < 0:
            failed = errno
        else:
            node.next = lock_fds
            lock_fds = node
        pthread_mutex_unlock(&registry_mutex)
    if failed:
        free(node)
        if read_only and failed == ENOENT:
            return -1
        raise OSError(failed, os.strerror(failed), path)
    return node.fd


cdef void forget_fd(int fd) noexcept nogil:
    """Close a remembered descriptor."""
    cdef FdNode **link
    cdef FdNode *node
    pthread_mutex_lock(&registry_mutex)
    link = &lock_fds
    while link[0] != NULL:
        node = link[0]
        if node.fd == fd:
            link[0] = node.next
            ps_os_close(fd)
            free(node)
            break
        link = &node.next
    pthread_mutex_unlock(&registry_mutex)


cdef class LockFile:

    def __cinit__(self, str path not None, bint read_only=False):
        self.fd = -1
        self.generation = generation
        self.fd = open_lock_file(path, read_only)
        self.path = path

    def __dealloc__(self):
        self.close()

    cdef void close(self) noexcept:
        if self.fd >= 0 and self.generation == generation:  # in a forked child the number may be another file's
            forget_fd(self.fd)
        self.fd = -1

    cdef bint in_place(self) except -1:
        mine = os.fstat(self.fd)
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


cdef int remember_log(ps_log *log) except -1:
    global open_logs
    cdef LogNode *node = <LogNode *>calloc(1, sizeof(LogNode))
    if node == NULL:
        raise MemoryError()
    node.log = log
    with nogil:
        pthread_mutex_lock(&registry_mutex)
        node.next = open_logs
        open_logs = node
        pthread_mutex_unlock(&registry_mutex)
    return 0


cdef void forget_log(ps_log *log) noexcept nogil:
    cdef LogNode **link
    cdef LogNode *node
    pthread_mutex_lock(&registry_mutex)
    link = &open_logs
    while link[0] != NULL:
        node = link[0]
        if node.log == log:
            link[0] = node.next
            free(node)
            break
        link = &node.next
    pthread_mutex_unlock(&registry_mutex)
