# cython: language_level=3, binding=False
"""Segments copied while others append to them, and the pages that a copy begins with. `pystream.backups` says when."""
import os

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, ENODATA
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pystream._native.c_api cimport (
    PS_HEAD_BYTES, PS_OK, c_bool, ps_env, ps_env_ask, ps_error, ps_fault_hook, ps_fault_parse, ps_fault_plan,
    ps_head_identity, ps_os_lock_try, ps_os_monotonic_ns, ps_os_now_ns, ps_os_random_u64, ps_segment_info, ps_status,
)
from pystream._native.errors cimport raise_error


cdef extern from "ps_format.h" nogil:
    enum:
        PS_LOCK_MAINTAIN
        PS_LOCK_STRIDE
        PS_SEGMENT_HEADER_BYTES


cdef extern from "ps_segment.h" nogil:
    void ps_segment_encode_header(const ps_segment_info *info, uint8_t *out)
    ps_status ps_segment_decode_header(const uint8_t *p, uint64_t limit, ps_segment_info *info)


cdef extern from "ps_os.h" nogil:
    int ps_os_nap(int64_t ns)
    int ps_os_pread_all(const ps_env *env, int fd, void *buffer, size_t bytes, int64_t at)


cdef extern from "ps_log.h" nogil:
    void ps_live_boot_id(const ps_env *env, uint8_t *out)


cdef extern from "ps_backup.h" nogil:
    ctypedef struct ps_backup:
        const ps_env *env
        int from_ "from"
        int to
        const char *from_path
        const char *to_path
        const char *to_directory
        uint8_t topic_uuid[16]
        uint32_t partition
        int64_t base_offset
        int64_t end_offset
        uint32_t index_interval_bytes
        ps_segment_info info
        uint64_t frames
        uint64_t records
        uint64_t position
        int64_t next_offset
        int64_t max_timestamp
    ps_status ps_backup_begin(ps_backup *copy, ps_error *err)
    ps_status ps_backup_step(ps_backup *copy, uint64_t bytes_max, c_bool *done, ps_error *err)
    void ps_backup_end(ps_backup *copy)
    c_bool ps_backup_is_copy(const ps_env *env, int copy, int source, int64_t end_offset)
    void ps_backup_head(const ps_head_identity *identity, int64_t log_start, int64_t end_offset,
                        int32_t leader_epoch, const uint8_t *boot_id, uint8_t *out)
    int ps_backup_exchange(const ps_env *env, const char *one, const char *other)


cdef ps_env plain
memset(&plain, 0, sizeof(plain))


cdef class Site:
    """Where a backup is made: what its steps have in common."""
    cdef ps_env env
    cdef ps_fault_plan plan

    def __init__(self):
        memset(&self.env, 0, sizeof(self.env))
        armed = os.environ.get("PYSTREAM_FAULT")
        if armed is not None and ps_fault_parse(armed.encode(), &self.plan):
            self.env.context = &self.plan
            self.env.hook = ps_fault_hook

    def point(self, str name not None):
        """A named place between two steps, where tests may end the process."""
        cdef bytes encoded = name.encode()
        ps_env_ask(&self.env, encoded)

    def exchange(self, str one not None, str other not None):
        """Have two directories change their names, in one step. Raises OSError; EINVAL, ENOSYS, EOPNOTSUPP: this
        file system cannot."""
        cdef bytes first = os.fsencode(one)
        cdef bytes second = os.fsencode(other)
        cdef int rc = ps_backup_exchange(&self.env, first, second)
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc), one, None, other)

    def keep_files(self, int locks, int partition, int64_t timeout_ns):
        """Have every segment of a partition stay what it is, until the descriptor of the topic's locks is closed. False:
        somebody kept removing or replacing some all the time."""
        cdef int64_t at = <int64_t>partition * PS_LOCK_STRIDE + PS_LOCK_MAINTAIN
        cdef int64_t until = ps_os_monotonic_ns() + timeout_ns
        cdef int rc
        while True:
            rc = ps_os_lock_try(&self.env, locks, at, True)
            if rc != -EAGAIN:
                break
            if ps_os_monotonic_ns() >= until:
                return False
            with nogil:
                ps_os_nap(2_000_000)
            PyErr_CheckSignals()
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))
        return True

    def header(self, int fd):
        """(leader epoch, created ns) of the segment that a descriptor is of; None: its header is not sound."""
        cdef ps_segment_info info
        cdef uint8_t header[PS_SEGMENT_HEADER_BYTES]
        cdef int rc = ps_os_pread_all(&self.env, fd, header, sizeof(header), 0)
        if rc < 0 and rc != -ENODATA:
            raise OSError(-rc, os.strerror(-rc))
        if rc < 0 or ps_segment_decode_header(header, sizeof(header), &info) != PS_OK:
            return None
        return info.leader_epoch, info.created_ns

    def is_copy(self, int copy, int source, int64_t end_offset):
        """Whether the file of one descriptor is a whole copy, up to that offset, of the segment that the other is of:
        by headers and seals, not by their batches."""
        cdef bint same
        with nogil:
            same = ps_backup_is_copy(&self.env, copy, source, end_offset)
        return bool(same)


cdef class SegmentCopy:
    """The segment `source` (a descriptor) on its way to `target`, up to the batch that ends at end_offset. Paths are
    for what is said; the index is made in the directory of `target_path`. Raises CorruptLogError, FormatVersionError,
    StorageError."""
    cdef Site site
    cdef ps_backup copy
    cdef bytes from_path
    cdef bytes to_path
    cdef bytes to_directory
    cdef str topic

    def __cinit__(self):
        memset(&self.copy, 0, sizeof(self.copy))

    def __init__(self, Site site not None, int source, str source_path not None, int target, str target_path not None,
                 str topic not None, bytes uuid not None, int partition, int64_t base_offset, int64_t end_offset,
                 uint32_t index_interval_bytes):
        cdef ps_error err
        cdef ps_status status
        cdef const uint8_t *id = uuid
        if len(uuid) != 16:
            raise ValueError("a uuid has 16 bytes")
        if self.site is not None:
            raise RuntimeError("a SegmentCopy is made once")
        self.site = site
        self.topic = topic
        self.from_path = os.fsencode(source_path)
        self.to_path = os.fsencode(target_path)
        self.to_directory = os.path.dirname(self.to_path)
        self.copy.env = &site.env
        self.copy.from_ = source
        self.copy.to = target
        self.copy.from_path = self.from_path
        self.copy.to_path = self.to_path
        self.copy.to_directory = self.to_directory
        memcpy(self.copy.topic_uuid, id, 16)
        self.copy.partition = partition
        self.copy.base_offset = base_offset
        self.copy.end_offset = end_offset
        self.copy.index_interval_bytes = index_interval_bytes
        with nogil:
            status = ps_backup_begin(&self.copy, &err)
        if status != PS_OK:
            raise_error(&err, topic, partition)

    def __dealloc__(self):
        self.close()

    def step(self, uint64_t bytes_max):
        """Copy about that many bytes more. True: all is copied, and sealed."""
        cdef ps_error err
        cdef ps_status status
        cdef c_bool done = False
        with nogil:
            status = ps_backup_step(&self.copy, bytes_max, &done, &err)
        if status != PS_OK:
            raise_error(&err, self.topic, self.copy.partition)
        return bool(done)

    @property
    def position(self):
        """Up to which byte it has come."""
        return self.copy.position

    @property
    def records(self):
        """Records copied so far."""
        return self.copy.records

    def close(self):
        """Let go of memory and of the index. Twice is once."""
        if self.site is not None:
            ps_backup_end(&self.copy)


def segment_header(bytes uuid not None, int partition, int64_t base_offset, int32_t epoch, uint32_t capacity):
    """The header of a new segment, with a salt of its own."""
    cdef ps_segment_info info
    cdef uint8_t out[PS_SEGMENT_HEADER_BYTES]
    cdef const uint8_t *id = uuid
    if len(uuid) != 16:
        raise ValueError("a uuid has 16 bytes")
    memset(&info, 0, sizeof(info))
    memcpy(info.topic_uuid, id, 16)
    info.base_offset = base_offset
    info.salt = ps_os_random_u64()
    info.leader_epoch = epoch
    info.partition = partition
    info.capacity = capacity
    info.created_ns = ps_os_now_ns()
    ps_segment_encode_header(&info, out)
    return out[:PS_SEGMENT_HEADER_BYTES]


def head_page(bytes uuid not None, int partition, uint64_t device, uint64_t inode, int64_t log_start,
              int64_t end_offset, int32_t epoch):
    """The head page, to be written to the file of that device and inode, of a log that was synced up to its end, where
    an empty segment begins."""
    cdef ps_head_identity identity
    cdef uint64_t page[512]
    cdef uint8_t boot_id[16]
    cdef const uint8_t *id = uuid
    if len(uuid) != 16:
        raise ValueError("a uuid has 16 bytes")
    assert sizeof(page) == PS_HEAD_BYTES
    memcpy(identity.topic_uuid, id, 16)
    identity.partition = partition
    identity.device = device
    identity.inode = inode
    ps_live_boot_id(&plain, boot_id)
    ps_backup_head(&identity, log_start, end_offset, epoch, boot_id, <uint8_t *>page)
    return (<uint8_t *>page)[:PS_HEAD_BYTES]
