# cython: language_level=3, binding=False
"""A store kept to oneself, and segments written anew. `pystream.repairs` says when."""
import os

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pystream._native.c_api cimport (
    PS_EPOCH_ENTRY_BYTES, PS_OK, ps_env, ps_env_ask, ps_error, ps_fault_hook, ps_fault_parse, ps_fault_plan,
    ps_os_lock_try, ps_os_now_ns, ps_os_random_u64, ps_os_unlock, ps_segment_info, ps_status,
)
from pystream._native.errors cimport raise_error
from pystream._native.forks cimport LockFile


cdef extern from "ps_repair.h" nogil:
    ctypedef struct ps_repair_order:
        const ps_env *env
        int from_ "from"
        int to
        uint64_t salt
        ps_segment_info info
        int64_t through
        bint finished
    ctypedef struct ps_repair_outcome:
        uint64_t frames
        uint64_t records
        int64_t lost
        int64_t end_offset
        uint64_t bytes
    ps_status ps_repair_segment(const ps_repair_order *order, ps_repair_outcome *out, ps_error *err)
    ps_status ps_repair_index(const ps_env *env, const char *dir, int64_t base_offset, uint32_t interval_bytes,
                              ps_error *err)
    ps_status ps_repair_unsettle(const ps_env *env, const char *path, ps_error *err)
    void ps_repair_epoch(int32_t epoch, int64_t first_offset, int64_t created_ns, uint8_t *out)


cdef extern from "ps_format.h" nogil:
    enum:
        PS_LIVE_LOCK_PRESENCE
        PS_LIVE_LOCK_GATE


cdef class Workshop:
    """The store in directory `path`, for this object alone until `close()`. BlockingIOError: somebody has it open."""
    cdef ps_env env
    cdef ps_fault_plan plan
    cdef LockFile live

    def __init__(self, str path not None):
        cdef int rc
        memset(&self.env, 0, sizeof(self.env))
        armed = os.environ.get("PYSTREAM_FAULT")
        if armed is not None and ps_fault_parse(armed.encode(), &self.plan):
            self.env.context = &self.plan
            self.env.hook = ps_fault_hook
        self.live = LockFile(os.path.join(path, "live"))
        rc = ps_os_lock_try(&self.env, self.live.fd, PS_LIVE_LOCK_GATE, False)
        if rc == 0:
            # From now on, who comes is told that the lock cannot be had; who only reads waits for a while.
            rc = ps_os_lock_try(&self.env, self.live.fd, PS_LIVE_LOCK_PRESENCE, False)
            ps_os_unlock(self.live.fd, PS_LIVE_LOCK_GATE)
        if rc < 0:
            self.live.close()
            raise OSError(-rc, os.strerror(-rc), self.live.path)  # EAGAIN is BlockingIOError

    def close(self):
        """Let others in. Twice is once."""
        self.live.close()

    def point(self, str name not None):
        """A named place between two steps, where tests may end the process."""
        cdef bytes encoded = name.encode()
        ps_env_ask(&self.env, encoded)

    def write_segment(self, source, int target, int64_t base_offset, bytes uuid not None, int partition,
                      int32_t epoch, uint32_t capacity, salt, int64_t through, bint finished):
        """Write the segment anew, from the descriptor `source` (None: nothing of it is of use) to `target`. Gives
        (batches and records kept, offsets lost, end offset, bytes)."""
        cdef ps_repair_order order
        cdef ps_repair_outcome out
        cdef ps_error err
        cdef ps_status status
        cdef const uint8_t *id = uuid
        memset(&order, 0, sizeof(order))
        order.env = &self.env
        order.from_ = -1 if source is None else source
        order.to = target
        order.salt = 0 if salt is None else salt
        order.info.base_offset = base_offset
        order.info.salt = ps_os_random_u64()
        order.info.leader_epoch = epoch
        order.info.partition = partition
        order.info.capacity = capacity
        order.info.created_ns = ps_os_now_ns()
        if len(uuid) != 16:
            raise ValueError("a uuid has 16 bytes")
        memcpy(order.info.topic_uuid, id, 16)
        order.through = through
        order.finished = finished
        with nogil:
            status = ps_repair_segment(&order, &out, &err)
        if status != PS_OK:
            raise_error(&err)
        return out.frames, out.records, out.lost, out.end_offset, out.bytes

    def make_index(self, str directory not None, int64_t base_offset, uint32_t interval_bytes):
        """Make the index of a segment again."""
        cdef ps_error err
        cdef ps_status status
        cdef bytes encoded = os.fsencode(directory)
        cdef const char *text = encoded
        with nogil:
            status = ps_repair_index(&self.env, text, base_offset, interval_bytes, &err)
        if status != PS_OK:
            raise_error(&err)

    def unsettle(self, str head not None):
        """Have the next who opens the partition find out where its log ends."""
        cdef ps_error err
        cdef bytes encoded = os.fsencode(head)
        if ps_repair_unsettle(&self.env, encoded, &err) != PS_OK:
            raise_error(&err)


def epochs(entries):
    """An epochs file of these (epoch, first offset, created ns)."""
    cdef uint8_t entry[PS_EPOCH_ENTRY_BYTES]
    found = bytearray()
    for epoch, first_offset, created in entries:
        ps_repair_epoch(epoch, first_offset, created, entry)
        found += entry[:PS_EPOCH_ENTRY_BYTES]
    return bytes(found)
