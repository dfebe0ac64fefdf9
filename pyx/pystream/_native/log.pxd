from libc.stdint cimport int64_t, uint64_t

from pystream._native.c_api cimport ps_env, ps_error, ps_fault_plan, ps_log, ps_maps, ps_reserve
from pystream._native.forks cimport LockFile
from pystream._native.schema cimport Schema

ctypedef int (*log_hook)(LogHandle) except -1

# Called with every log that is opened with something left to sync, so that somebody does.
cdef void set_dirty_hook(log_hook hook) noexcept
# Have the kernel begin to write out what is to be synced next, all at once.
cdef int start_writeback(list logs) except -1
# Called with every log whose topic was found to be deleted, once, before its files are let go.
cdef void set_drop_hook(log_hook hook) noexcept
# Called with every log that goes by other options from now on.
cdef void set_options_hook(log_hook hook) noexcept


cdef class StoreHandle:
    """A store directory opened by this process: one for each (device, inode), shared by all who open it, and
    another for those who only read it."""
    cdef ps_env env
    cdef ps_fault_plan plan
    cdef ps_reserve reserve
    cdef ps_maps maps      # segments that stay mapped
    cdef object __weakref__
    cdef readonly str path
    cdef readonly uint64_t incarnation
    cdef readonly bint closed
    cdef readonly bint read_only
    cdef long generation   # forks seen when it was opened
    cdef LockFile live
    cdef int opens
    cdef tuple identity    # (device, inode, read_only)
    cdef dict logs         # (topic uuid, partition) -> LogHandle
    cdef dict locks        # topic uuid -> LockFile
    cdef list close_hooks  # called before the logs are closed: producers flush
    cdef object log_hook   # called once, when the first log has been opened; then None
    cdef uint64_t rings    # of maintenance.ring
    cdef object opening    # lock: one thread at a time opens logs
    cdef bint is_forked(self) noexcept
    cdef int open(self, str path) except -1
    cdef LockFile lock_file(self, str directory, str topic, bytes uuid, owner)


cdef class LogHandle:
    """One partition in this process."""
    cdef ps_log *log
    cdef StoreHandle store
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly str path
    cdef readonly Schema schema
    cdef readonly int durability          # PS_DURABILITY_*
    cdef readonly int64_t sync_interval_ns
    cdef bytes uuid                       # of the topic
    cdef LockFile locks
    cdef bint dropped                     # the topic was deleted, and its files let go
    cdef object kept                      # the keeper's entry (writer.Kept), None until it has one
    cdef bint wanted                      # somebody has asked for it who was not only passing by
    cdef uint64_t rolls_seen              # of ps_log_rolls, when rolled() was last asked
    cdef public int64_t keep_bytes        # more is removed at once when it goes on in a new segment; -1: nothing is
    cdef object __weakref__
    # Raise unless the handle may be used: closed, forked, poisoned, topic deleted.
    cdef int check(self) except -1
    cdef int open(self, StoreHandle store, str directory, str topic, int partition, bytes uuid, Schema schema,
                  unsigned int segment_bytes, unsigned int index_interval_bytes, unsigned int message_bytes_max,
                  int durability, int io, int64_t sync_interval_ns, bint create, owner) except -1
    cdef int raise_error(self, const ps_error *err) except -1
    cdef int drop(self) except -1
    # Raise if the topic was deleted, and only then.
    cdef int check_there(self) except -1
