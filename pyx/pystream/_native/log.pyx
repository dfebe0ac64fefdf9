# cython: language_level=3, binding=False
"""Owners of the native store and log handles: opening, sharing, forking, closing."""
import os
import weakref
from _thread import allocate_lock

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, int32_t, int64_t
from libc.string cimport memcpy, memset

from pystream._native.c_api cimport (
    PS_DELETED, PS_END, PS_INTERRUPTED, PS_MAPS_MAX, PS_OK, PS_TIMEOUT, ps_durability, ps_error, ps_fault_hook,
    ps_fault_parse, ps_io, ps_live_enter, ps_log_alterable, ps_log_check, ps_log_close, ps_log_durable_offset,
    ps_log_end_offset, ps_log_epoch_end, ps_log_find_time, ps_log_free, ps_log_get_counters, ps_log_get_stats,
    ps_log_high_watermark, ps_log_hold, ps_log_is_dirty, ps_log_is_held, ps_log_leader_epoch, ps_log_needs_keys,
    ps_log_open, ps_log_options, ps_log_poison, ps_log_release, ps_log_set_needs_keys, ps_log_set_options,
    ps_log_start_offset, ps_log_start_writeback, ps_log_stats, ps_log_sync, ps_log_trim, ps_log_wait, ps_log_wake,
    ps_os_monotonic_ns, ps_status,
)
from pystream._native.errors cimport deleted_error, raise_error
from pystream._native.forks cimport LockFile, forget_log, forks_seen, remember_log

from pystream._native.errors import ClosedError, ForkedError, OptionError, TopicDeletedError


cdef log_hook dirty_hook = NULL
cdef log_hook drop_hook = NULL
cdef log_hook options_hook = NULL


cdef void set_dirty_hook(log_hook hook) noexcept:
    global dirty_hook
    dirty_hook = hook


cdef void set_drop_hook(log_hook hook) noexcept:
    global drop_hook
    drop_hook = hook


cdef void set_options_hook(log_hook hook) noexcept:
    global options_hook
    options_hook = hook


cdef int start_writeback(list logs) except -1:
    cdef LogHandle handle
    if len(logs) > 1:  # a sync that comes alone begins no later
        for handle in logs:
            with nogil:
                ps_log_start_writeback(handle.log)
    return 0


# ---- stores ----------------------------------------------------------------------------------------

_handles = {}  # (device, inode, read_only) -> StoreHandle, of stores that are open


cdef class StoreHandle:

    def __cinit__(self):
        self.closed = True
        self.logs = {}
        self.locks = {}
        self.close_hooks = []
        self.maps.max = PS_MAPS_MAX
        self.opening = allocate_lock()

    @staticmethod
    def acquire(str path not None, bint read_only=False):
        """The handle of the store in directory `path`, opened once a process however often it is asked for, and
        once more for reading only. Each call is to be matched by one of `release`."""
        cdef StoreHandle handle
        path = os.path.realpath(path)
        st = os.stat(path)
        identity = (st.st_dev, st.st_ino, read_only)
        handle = _handles.get(identity)
        if handle is not None and not handle.closed and not handle.is_forked():
            handle.opens += 1
            return handle
        handle = StoreHandle.__new__(StoreHandle)
        handle.identity = identity
        handle.read_only = read_only
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
        self.generation = forks_seen()
        self.arm(os.environ.get("PYSTREAM_FAULT"))
        self.live = LockFile(live, self.read_only)
        if not self.read_only:  # who only reads is nobody to wait for, and leaves recovery to the next writer
            with nogil:
                status = ps_live_enter(&self.env, text, self.live.fd, &self.incarnation, &err)
            if status != PS_OK:
                self.live.close()
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
        return self.generation != forks_seen()

    @property
    def forked(self):
        """True in a child of the process that opened it."""
        return self.is_forked()

    def add_close_hook(self, hook):
        """Call `hook` (kept weakly if it is a bound method) when the store closes, before its logs do."""
        self.close_hooks.append(weakref.WeakMethod(hook) if hasattr(hook, "__self__") else lambda: hook)

    def on_first_log(self, hook):
        """Call `hook` once, when the next log has been opened by somebody who is not only passing by."""
        self.log_hook = hook

    def open_log(self, str directory not None, str topic not None, int partition, bytes uuid not None,
                 Schema schema not None, *, unsigned int segment_bytes, unsigned int index_interval_bytes,
                 int durability, int io, int64_t sync_interval_ns, bint create, owner,
                 unsigned int message_bytes_max=0, bint needs_keys=False, bint passing=False):
        """The log in `directory`, opened once a process. Sizes in bytes, durability and io as numbers of the
        format; owner() tells the uuid of the topic that is now in the directory above, None: there is none.
        Raises CorruptLogError, FormatVersionError or StorageError when it cannot be opened, TopicDeletedError
        when it is another topic's, or nobody's. passing: only to be given back; see `give_back`."""
        cdef LogHandle handle
        if self.is_forked():
            raise ForkedError("the store was opened before a fork; open it again in the child", path=self.path)
        if self.closed:
            raise ClosedError("the store is closed", path=self.path)
        key = (uuid, partition)
        handle = self.logs.get(key)
        if handle is not None and (handle.topic != topic or ps_log_check(handle.log, NULL) == PS_DELETED):  # renamed
            if owner() != uuid:
                raise deleted_error(topic, partition, directory, handle.locks.fd)
            handle.drop()
            handle = None
        if handle is not None:
            handle.wanted = handle.wanted or not passing
            return handle
        with self.opening:  # two handles of one log would share descriptors, and so not exclude each other
            handle = self.logs.get(key)
            if handle is None:
                handle = LogHandle.__new__(LogHandle)
                handle.open(self, directory, topic, partition, uuid, schema, segment_bytes, index_interval_bytes,
                            message_bytes_max, durability, io, sync_interval_ns, create, owner)
                handle.needs_keys = needs_keys
                self.logs[key] = handle
            handle.wanted = handle.wanted or not passing
        if not passing and self.log_hook is not None:
            hook, self.log_hook = self.log_hook, None
            hook()
        return handle

    def open_logs(self):
        """The logs that are open in this process."""
        return list(self.logs.values())

    def give_back(self, LogHandle handle not None):
        """Close a log that was opened in passing, unless somebody else has asked for it since."""
        with self.opening:  # nobody opens it anew before it is closed
            if handle.wanted or self.closed or self.logs.get((handle.uuid, handle.partition)) is not handle:
                return
            del self.logs[handle.uuid, handle.partition]
            if not any(uuid == handle.uuid for uuid, _ in self.logs):
                self.locks.pop(handle.uuid, None)  # closed when `handle` goes
            if drop_hook != NULL:
                drop_hook(handle)
            handle.close()

    cdef LockFile lock_file(self, str directory, str topic, bytes uuid, owner):
        """The topic's `locks` file, once it is sure that it is this topic's."""
        cdef LockFile file = self.locks.get(uuid)
        if file is not None:
            return file
        path = os.path.join(os.path.dirname(directory), "locks")
        while True:
            try:
                file = LockFile(path, self.read_only)
            except (FileNotFoundError, NotADirectoryError):
                there = None
                break
            there = owner()
            # A topic that has left its place never comes back: if it is there now, it was when the uuid was read.
            # (And two files would be two locks.)
            if file.fd < 0 or file.in_place():
                break
        if there != uuid:
            raise TopicDeletedError(f"the topic was deleted (topic {topic!r})", topic=topic, path=directory)
        if file.fd >= 0:
            self.locks[uuid] = file
        return file

    def find_log(self, bytes uuid not None, int partition):
        """The log of a partition if it is open here, else None."""
        return self.logs.get((uuid, partition))

    @property
    def low_on_space(self):
        """An append was refused for `min_free_bytes`, and there is not an eighth more than that free again."""
        return bool(self.reserve.low)

    @property
    def min_free_bytes(self):
        """What is left free on the file system; 0: nothing. To be set before the first log is opened."""
        return self.reserve.min_free_bytes

    @min_free_bytes.setter
    def min_free_bytes(self, int64_t value):
        self.reserve.min_free_bytes = value

    def sync(self, bytes uuid=None):
        """Make durable what was appended to the logs that are open here, those of one topic or all. The first error
        is raised when all that can be synced is."""
        cdef LogHandle handle
        first = None
        logs = []
        for handle in list(self.logs.values()):
            if (uuid is None or handle.uuid == uuid) and ps_log_durable_offset(handle.log) < ps_log_end_offset(handle.log):
                logs.append(handle)
        start_writeback(logs)
        for handle in logs:
            try:
                handle.sync()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def release_holds(self, str topic not None):
        """End what `LogHandle.hold` got of the partitions of a topic."""
        cdef LogHandle handle
        for handle in list(self.logs.values()):
            if handle.topic == topic:
                handle.release()

    def set_options(self, bytes uuid not None, **options):
        """Have the logs of a topic that are open here go by other options; see `LogHandle.set_options`."""
        cdef LogHandle handle
        for handle in list(self.logs.values()):
            if handle.uuid == uuid:
                handle.set_options(**options)

    def drop_deleted(self):
        """Let go of all logs whose topic was deleted: their files and memory, but for what is lent."""
        cdef LogHandle handle
        for handle in list(self.logs.values()):
            if ps_log_check(handle.log, NULL) == PS_DELETED:
                handle.drop()

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
        cdef LockFile file
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
        for file in self.locks.values():
            file.close()
        self.locks.clear()
        self.live.close()
        if first is not None:
            raise first

cdef class LogHandle:

    cdef int open(self, StoreHandle store, str directory, str topic, int partition, bytes uuid, Schema schema,
                  unsigned int segment_bytes, unsigned int index_interval_bytes, unsigned int message_bytes_max,
                  int durability, int io, int64_t sync_interval_ns, bint create, owner) except -1:
        cdef ps_error err
        cdef ps_log_options options
        cdef ps_status status
        cdef bytes encoded = os.fsencode(directory)
        cdef const char *text = encoded
        cdef const unsigned char *uuid_bytes = uuid
        cdef LockFile locks = store.lock_file(directory, topic, uuid, owner)
        if len(uuid) != 16:
            raise ValueError(f"a topic uuid has 16 bytes, not {len(uuid)}")
        self.store = store
        self.uuid = uuid
        self.locks = locks
        self.topic = topic
        self.partition = partition
        self.path = directory
        self.schema = schema
        self.durability = durability
        self.sync_interval_ns = sync_interval_ns
        self.keep_bytes = -1
        memset(&options, 0, sizeof(options))
        memcpy(options.topic_uuid, uuid_bytes, 16)
        options.partition = partition
        options.segment_bytes = segment_bytes
        options.index_interval_bytes = index_interval_bytes
        options.message_bytes_max = message_bytes_max
        options.durability = <ps_durability>durability
        options.io = <ps_io>io
        options.incarnation = store.incarnation
        options.log_append_time = schema.log_append_time
        options.topic_locks = locks.fd >= 0
        if store.read_only and store.live.fd < 0:  # no writer had ever come; since then, one may have
            store.live = LockFile(store.live.path, True)
        options.read_only = store.read_only
        options.reserve = &store.reserve
        options.maps = &store.maps
        options.live_fd = store.live.fd
        while True:
            with nogil:
                status = ps_log_open(&store.env, text, locks.fd, &options, create, &self.log, &err)
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
        if err.status == PS_DELETED:
            self.drop()
            raise deleted_error(self.topic, self.partition, self.path, self.locks.fd)
        return raise_error(err, self.topic, self.partition)

    cdef int drop(self) except -1:
        if self.dropped or self.log == NULL or self.store.is_forked():
            return 0
        self.dropped = True
        if self.store.logs.get((self.uuid, self.partition)) is self:
            del self.store.logs[self.uuid, self.partition]
            self.store.locks.pop(self.uuid, None)  # closed when the last log that needs it goes
        if drop_hook != NULL:
            drop_hook(self)
        with nogil:
            ps_log_close(self.log, NULL)
        return 0

    cdef int check_there(self) except -1:
        if ps_log_check(self.log, NULL) == PS_DELETED:
            self.check()
        return 0

    @property
    def start_offset(self):
        """The first offset that can be read."""
        self.check_there()
        if self.store.read_only:
            ps_log_high_watermark(self.log)  # looks how things stand
        return ps_log_start_offset(self.log)

    @property
    def high_watermark(self):
        """The first offset that cannot be read yet."""
        self.check_there()
        return ps_log_high_watermark(self.log)

    @property
    def end_offset(self):
        """The offset the next record gets."""
        self.check_there()
        return ps_log_end_offset(self.log)

    @property
    def durable_offset(self):
        """Everything below it survives a power failure."""
        self.check_there()
        return ps_log_durable_offset(self.log)

    @property
    def leader_epoch(self):
        """Counts the times a torn tail was cut."""
        return ps_log_leader_epoch(self.log)

    @property
    def dirty(self):
        """True when this process stored something that is not known to be durable."""
        return bool(ps_log_is_dirty(self.log))

    @property
    def deleted(self):
        """True when the topic was deleted."""
        return ps_log_check(self.log, NULL) == PS_DELETED

    @property
    def needs_keys(self):
        """Whether records without keys are refused, because the topic is compacted."""
        return bool(ps_log_needs_keys(self.log))

    @needs_keys.setter
    def needs_keys(self, bint value):
        ps_log_set_needs_keys(self.log, value)

    def set_options(self, *, unsigned int segment_bytes, unsigned int index_interval_bytes,
                    unsigned int message_bytes_max, int durability, bint log_append_time, bint needs_keys=False):
        """Go by other options from now on; see `StoreHandle.open_log`."""
        cdef ps_log_alterable options
        options.segment_bytes = segment_bytes
        options.index_interval_bytes = index_interval_bytes
        options.message_bytes_max = message_bytes_max
        options.durability = <ps_durability>durability
        options.log_append_time = log_append_time
        ps_log_set_options(self.log, &options)
        ps_log_set_needs_keys(self.log, needs_keys)
        self.durability = durability
        if options_hook != NULL:
            options_hook(self)

    def ensure_open(self):
        """Raise unless the log can be used: closed, forked, poisoned, topic deleted."""
        self.check()

    @property
    def held(self):
        """True while this process holds the partition for exclusive writing."""
        return bool(ps_log_is_held(self.log))

    def hold(self, int64_t timeout_ns):
        """Hold the partition for exclusive writing, by all threads of this process, until `release`. Raises
        PartitionHeldError when somebody does already and does not let go within timeout_ns (-1: wait for ever)."""
        cdef ps_error err
        cdef ps_status status
        cdef int64_t deadline = ps_os_monotonic_ns() + timeout_ns
        while True:
            with nogil:
                status = ps_log_hold(self.log, timeout_ns, &err)
            if status != PS_INTERRUPTED:
                break
            PyErr_CheckSignals()
            if timeout_ns >= 0:
                timeout_ns = max(deadline - ps_os_monotonic_ns(), <int64_t>0)
        if status != PS_OK:
            self.raise_error(&err)

    def release(self):
        """Let go of what `hold` got. An append under way ends first."""
        with nogil:
            ps_log_release(self.log)

    def sync(self):
        """Make everything appended so far durable. Raises StorageError, and poisons the log, when that fails."""
        cdef ps_error err
        cdef ps_status status
        with nogil:
            status = ps_log_sync(self.log, &err)
        if status != PS_OK:
            self.raise_error(&err)

    def epoch_end(self, int32_t epoch):
        """Where records of a leader epoch end for certain, as a later one begins there; None: no later one does."""
        cdef ps_error err
        cdef int64_t end
        self.check()
        if ps_log_epoch_end(self.log, epoch, &end, &err) != PS_OK:
            self.raise_error(&err)
        return None if end == INT64_MAX else end

    def retain(self, **rule):
        """See `retention.retain`."""
        from pystream._native.retention import retain
        return retain(self, **rule)

    def segments(self):
        """See `retention.segments`."""
        from pystream._native.retention import segments
        return segments(self)

    def trim(self):
        """Let go of files that others have removed or replaced; cheap where none was."""
        ps_log_trim(self.log)

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

    def stats(self, bint disk=True):
        """Counters of this process (appends, syncs, rolls, mends, cuts, wakes) and the present state of the log; sizes
        in bytes. Without `disk`, `segments` and `stored_bytes` are 0."""
        cdef ps_log_stats s
        with nogil:
            if disk:
                ps_log_get_stats(self.log, &s)
            else:
                ps_log_get_counters(self.log, &s)
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
        return (f"<LogHandle {self.topic}-{self.partition} "
                f"{ps_log_start_offset(self.log)}..{ps_log_high_watermark(self.log)}>")
