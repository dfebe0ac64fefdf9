# cython: language_level=3, binding=False
"""Owners of the native store and log handles: opening, sharing, forking, closing."""
import os
import weakref
from _thread import allocate_lock

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport errno
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from pystream._native.c_api cimport (
    PS_CLOSED, PS_END, PS_INTERRUPTED, PS_IO_MAP, PS_IO_PWRITE, PS_IO_REFUSED, PS_OK, PS_TIMEOUT, ps_durability,
    ps_error, ps_fail, ps_fault_hook, ps_fault_parse, ps_io, ps_live_enter, ps_log, ps_log_after_fork, ps_log_check,
    ps_log_close, ps_log_durable_offset, ps_log_end_offset, ps_log_find_time, ps_log_free, ps_log_get_stats,
    ps_log_high_watermark, ps_log_is_dirty, ps_log_leader_epoch, ps_log_open, ps_log_options, ps_log_poison,
    ps_log_start_offset, ps_log_stats, ps_log_sync, ps_log_wait, ps_log_wake, ps_os_choose_io, ps_os_close, ps_status,
)
from pystream._native.errors cimport raise_error

from pystream._native.errors import ClosedError, ForkedError, OptionError


cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags, ...)
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


# ---- fork ------------------------------------------------------------------------------------------
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
cdef log_hook dirty_hook = NULL


cdef int add_fork_hooks(fork_hook prepare, fork_hook parent, fork_hook child) except -1:
    global hook_count
    if hook_count == MAX_HOOKS:
        raise RuntimeError("too many fork hooks")
    prepare_hooks[hook_count] = prepare
    parent_hooks[hook_count] = parent
    child_hooks[hook_count] = child
    hook_count += 1
    return 0


cdef void set_dirty_hook(log_hook hook) noexcept:
    global dirty_hook
    dirty_hook = hook


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


cdef int open_lock_file(str path) except -1:
    """Open (or create) a file to be locked. No fork comes between its opening and its being listed."""
    global lock_fds
    cdef bytes encoded = os.fsencode(path)
    cdef const char *text = encoded
    cdef FdNode *node = <FdNode *>calloc(1, sizeof(FdNode))
    cdef int failed = 0
    if node == NULL:
        raise MemoryError()
    with nogil:
        pthread_mutex_lock(&registry_mutex)
        node.fd = c_open(text, O_RDWR | O_CREAT | O_CLOEXEC, 0o666)
        if node.fd < 0:
            failed = errno
        else:
            node.next = lock_fds
            lock_fds = node
        pthread_mutex_unlock(&registry_mutex)
    if failed:
        free(node)
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


# ---- stores ----------------------------------------------------------------------------------------

_handles = {}  # (device, inode) -> StoreHandle, of stores that are open


cdef class StoreHandle:

    def __cinit__(self):
        self.live_fd = -1
        self.closed = True
        self.logs = {}
        self.locks = {}
        self.close_hooks = []
        self.opening = allocate_lock()

    @staticmethod
    def acquire(str path not None):
        """The handle of the store in directory `path`, opened once a process however often it is asked for.
        Each call is to be matched by one of `release`."""
        cdef StoreHandle handle
        path = os.path.realpath(path)
        st = os.stat(path)
        identity = (st.st_dev, st.st_ino)
        handle = _handles.get(identity)
        if handle is not None and not handle.closed and not handle.is_forked():
            handle.opens += 1
            return handle
        handle = StoreHandle.__new__(StoreHandle)
        handle.identity = identity
        handle.open(path)
        _handles[identity] = handle
        return handle

    cdef int open(self, str path) except -1:
        cdef ps_error err
        cdef str live = os.path.join(path, "live")
        cdef bytes encoded = os.fsencode(live)
        cdef ps_status status
        cdef const char *text = encoded
        if len(os.fsencode(path)) > 400:
            raise OptionError(
                f"the path of a store may have 400 bytes at most, not {len(os.fsencode(path))}: {path}")
        self.path = path
        self.generation = generation
        self.arm(os.environ.get("PYSTREAM_FAULT"))
        self.live_fd = open_lock_file(live)
        with nogil:
            status = ps_live_enter(&self.env, text, self.live_fd, &self.incarnation, &err)
        if status != PS_OK:
            forget_fd(self.live_fd)
            raise_error(&err)
        self.opens = 1
        self.closed = False
        return 0

    def arm(self, plan):
        """For tests: fail or die at a named point, "NAME:NTH:kill" or "NAME:NTH:errno=N[:TIMES]"; None disarms."""
        self.env.hook = NULL
        if plan is None:
            return
        if not ps_fault_parse(plan.encode(), &self.plan):
            raise OptionError(f"not a fault plan: {plan!r}; NAME:NTH:kill or NAME:NTH:errno=N[:TIMES]")
        self.env.context = &self.plan
        self.env.hook = ps_fault_hook

    cdef bint is_forked(self) noexcept:
        return self.generation != generation

    @property
    def forked(self):
        """True in a child of the process that opened it."""
        return self.is_forked()

    @staticmethod
    def choose_io(str path not None):
        """How records may be stored below `path`: ("mmap" | "pwrite" | "refused", name of the file system)."""
        cdef char name[32]
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            io = ps_os_choose_io(fd, name)
        finally:
            os.close(fd)
        verb = {<int>PS_IO_MAP: "mmap", <int>PS_IO_PWRITE: "pwrite", <int>PS_IO_REFUSED: "refused"}[<int>io]
        return verb, name.decode()

    def add_close_hook(self, hook):
        """Call `hook` (kept weakly if it is a bound method) when the store closes, before its logs do."""
        self.close_hooks.append(weakref.WeakMethod(hook) if hasattr(hook, "__self__") else lambda: hook)

    def open_log(self, str directory not None, str topic not None, int partition, bytes uuid not None,
                 Schema schema not None, *, unsigned int segment_bytes, unsigned int index_interval_bytes,
                 int durability, int io, int64_t sync_interval_ns, bint create):
        """The log in `directory`, opened once a process. Sizes in bytes, durability and io as numbers of the
        format; raises CorruptLogError, FormatVersionError or StorageError when it cannot be opened."""
        cdef LogHandle handle
        if self.is_forked():
            raise ForkedError("the store was opened before a fork; open it again in the child", path=self.path)
        if self.closed:
            raise ClosedError("the store is closed", path=self.path)
        key = (uuid, partition)
        handle = self.logs.get(key)
        if handle is not None:
            return handle
        with self.opening:  # two handles of one log would share descriptors, and so not exclude each other
            handle = self.logs.get(key)
            if handle is None:
                handle = LogHandle.__new__(LogHandle)
                handle.open(self, directory, topic, partition, uuid, schema, segment_bytes, index_interval_bytes,
                            durability, io, sync_interval_ns, create)
                self.logs[key] = handle
        return handle

    cdef int locks_fd(self, str directory, bytes uuid) except -1:
        """The descriptor of the topic's `locks` file."""
        fd = self.locks.get(uuid)
        if fd is not None:
            return fd
        path = os.path.join(os.path.dirname(directory), "locks")
        while True:
            fd = open_lock_file(path)
            mine, there = os.fstat(fd), os.stat(path)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                break
            forget_fd(fd)  # it was replaced between the two: two files would be two locks
        self.locks[uuid] = fd
        return fd

    def release(self):
        """Undo one `acquire`. The last one flushes producers, syncs, and closes every log."""
        if self.closed or self.is_forked():
            self.closed = True
            return
        self.opens -= 1
        if self.opens == 0:
            self.close()

    def close(self):
        """Close for everyone in this process. The first error is raised when all that can be closed is."""
        cdef LogHandle handle
        if self.closed or self.is_forked():
            self.closed = True
            return
        first = None
        for hook in list(self.close_hooks):
            call = hook()
            if call is None:
                continue
            try:
                call()
            except Exception as error:
                first = first or error
        self.close_hooks.clear()
        for handle in list(self.logs.values()):
            try:
                handle.close()
            except Exception as error:
                first = first or error
        self.logs.clear()
        self.closed = True
        if _handles.get(self.identity) is self:
            del _handles[self.identity]
        for fd in self.locks.values():
            forget_fd(fd)
        self.locks.clear()
        forget_fd(self.live_fd)
        self.live_fd = -1
        if first is not None:
            raise first

    def __repr__(self):
        return f"<StoreHandle {self.path!r} opens={self.opens} closed={bool(self.closed)}>"


cdef class LogHandle:

    cdef int open(self, StoreHandle store, str directory, str topic, int partition, bytes uuid, Schema schema,
                  unsigned int segment_bytes, unsigned int index_interval_bytes, int durability, int io,
                  int64_t sync_interval_ns, bint create) except -1:
        cdef ps_error err
        cdef ps_log_options options
        cdef ps_status status
        cdef bytes encoded = os.fsencode(directory)
        cdef const char *text = encoded
        cdef const unsigned char *uuid_bytes = uuid
        cdef int locks_fd = store.locks_fd(directory, uuid)
        if len(uuid) != 16:
            raise ValueError(f"a topic uuid has 16 bytes, not {len(uuid)}")
        self.store = store
        self.topic = topic
        self.partition = partition
        self.path = directory
        self.schema = schema
        self.durability = durability
        self.sync_interval_ns = sync_interval_ns
        memset(&options, 0, sizeof(options))
        memcpy(options.topic_uuid, uuid_bytes, 16)
        options.partition = partition
        options.segment_bytes = segment_bytes
        options.index_interval_bytes = index_interval_bytes
        options.durability = <ps_durability>durability
        options.io = <ps_io>io
        options.incarnation = store.incarnation
        options.log_append_time = schema.log_append_time
        while True:
            with nogil:
                status = ps_log_open(&store.env, text, locks_fd, &options, create, &self.log, &err)
            if status != PS_INTERRUPTED:
                break
            PyErr_CheckSignals()
        if status != PS_OK:
            self.raise_error(&err)
        remember_log(self.log)
        if dirty_hook != NULL and ps_log_is_dirty(self.log):
            dirty_hook(self)
        return 0

    def __dealloc__(self):
        if self.log != NULL:
            forget_log(self.log)
            ps_log_free(self.log)

    cdef int check(self) except -1:
        cdef ps_error err
        if ps_log_check(self.log, NULL) == PS_OK:
            return 0
        if ps_log_check(self.log, &err) != PS_OK:
            self.raise_error(&err)
        return 0

    cdef int raise_error(self, const ps_error *err) except -1:
        return raise_error(err, self.topic, self.partition)

    @property
    def start_offset(self):
        """The first offset that can be read."""
        return ps_log_start_offset(self.log)

    @property
    def high_watermark(self):
        """The first offset that cannot be read yet."""
        return ps_log_high_watermark(self.log)

    @property
    def end_offset(self):
        """The offset the next record gets."""
        return ps_log_end_offset(self.log)

    @property
    def durable_offset(self):
        """Everything below it survives a power failure."""
        return ps_log_durable_offset(self.log)

    @property
    def leader_epoch(self):
        """Counts the times a torn tail was cut."""
        return ps_log_leader_epoch(self.log)

    @property
    def dirty(self):
        """True when this process stored something that is not known to be durable."""
        return bool(ps_log_is_dirty(self.log))

    def ensure_open(self):
        """Raise unless the log can be used: closed, forked, poisoned, topic deleted."""
        self.check()

    def sync(self):
        """Make everything appended so far durable. Raises StorageError, and poisons the log, when that fails."""
        cdef ps_error err
        cdef ps_status status
        with nogil:
            status = ps_log_sync(self.log, &err)
        if status != PS_OK:
            self.raise_error(&err)

    def find_time(self, int64_t timestamp):
        """(offset, timestamp) of the first record not older than `timestamp` (ns), or None."""
        cdef ps_error err
        cdef int64_t offset, found
        cdef ps_status status
        self.check()
        with nogil:
            status = ps_log_find_time(self.log, timestamp, &offset, &found, &err)
        if status == PS_END:
            return None
        if status != PS_OK:
            self.raise_error(&err)
        return offset, found

    def wait(self, int64_t offset, int64_t spin_ns, int64_t timeout_ns):
        """Wait until the record at `offset` can be read; False after timeout_ns (-1: never)."""
        cdef ps_status status
        cdef int64_t left = timeout_ns
        cdef int64_t slice_ns
        while True:
            slice_ns = 1000000000 if left < 0 or left > 1000000000 else left
            with nogil:
                status = ps_log_wait(self.log, offset, spin_ns, slice_ns)
            if status == PS_OK:
                return True
            PyErr_CheckSignals()
            if status != PS_TIMEOUT and status != PS_INTERRUPTED:
                self.check()
                return False
            if left >= 0:
                left -= slice_ns
                if left <= 0 and status == PS_TIMEOUT:
                    return False
                if left < 0:
                    left = 0
            spin_ns = 0

    def wake(self):
        """End all waits on this log; those who wait look again."""
        if not self.store.is_forked():
            ps_log_wake(self.log)

    def poison(self, int os_errno):
        """For tests and fatal errors: refuse every append to this log, in all processes, until it is reopened."""
        ps_log_poison(self.log, os_errno)

    def stats(self):
        """Counters of this process (appends, syncs, rolls, mends, cuts) and the present state of the log; sizes
        in bytes."""
        cdef ps_log_stats s
        with nogil:
            ps_log_get_stats(self.log, &s)
        return s

    def close(self):
        """Sync (unless durability is "none") and let go of files and locks. What was lent stays valid."""
        cdef ps_error err
        cdef ps_status status
        with nogil:
            status = ps_log_close(self.log, &err)
        if status != PS_OK:
            self.raise_error(&err)

    def __repr__(self):
        return f"<LogHandle {self.topic}-{self.partition} {self.start_offset}..{self.high_watermark}>"
