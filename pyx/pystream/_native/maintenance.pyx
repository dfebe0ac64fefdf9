# cython: language_level=3, binding=False
"""What maintenance asks of the machine: looks at partitions, the claim, the sleep between rolls, a low priority."""
import os
from collections import namedtuple


from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pystream._native.c_api cimport (
    PS_NOT_FOUND, PS_OK, PS_TIMEOUT, PS_TIMESTAMP_NONE, c_bool, ps_env, ps_error, ps_log, ps_log_keep,
    ps_log_rolls, ps_log_set_keep_bytes, ps_log_take_due, ps_os_monotonic_ns, ps_status,
)
from pystream._native.errors cimport raise_error
from pystream._native.log cimport LogHandle, StoreHandle


cdef extern from "ps_survey.h" nogil:
    ctypedef struct ps_survey:
        int64_t changed_ns
        uint64_t files
        c_bool sound
        c_bool poisoned
        c_bool deleted
        int64_t log_start
        int64_t log_end
        int64_t durable
        int64_t cleaned
        int64_t horizon
        uint64_t segments
        int64_t first
        int64_t second
        int64_t active
        uint64_t clean_bytes
        uint64_t dirty_bytes
        uint64_t active_bytes
        uint64_t active_frames
        uint64_t oldest_bytes
        c_bool oldest_known
        int64_t oldest_timestamp
        int64_t active_since
        int64_t active_timestamp
        uint64_t strays
    ps_status ps_survey_partition(const ps_env *env, const char *dir, ps_survey *out, ps_error *err)
    int64_t ps_survey_changed_ns(const ps_env *env, const char *path)


cdef extern from "ps_log.h" nogil:
    ps_status ps_live_claim(const ps_env *env, const char *path, int fd, ps_error *err)
    void ps_live_unclaim(int fd)


cdef extern from "ps_os.h" nogil:
    int ps_os_futex_wait(const void *word, uint32_t seen, int64_t timeout_ns)
    void ps_os_futex_wake_all(const void *word)


cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    #define PS_IOPRIO_WHO_PROCESS 1
    #define PS_IOPRIO_IDLE (3 << 13)
    #ifdef SYS_ioprio_set
    static long ps_io_idle(void) { return syscall(SYS_ioprio_set, PS_IOPRIO_WHO_PROCESS, 0, PS_IOPRIO_IDLE); }
    #else
    static long ps_io_idle(void) { return -1; }
    #endif
    static uint32_t ps_word_load(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static void ps_word_move(uint32_t *word) { __atomic_fetch_add(word, 1, __ATOMIC_RELEASE); }
    """
    long ps_io_idle() nogil
    uint32_t ps_word_load(const uint32_t *word) nogil
    void ps_word_move(uint32_t *word) nogil


Survey = namedtuple("Survey", [
    "changed_ns", "files", "sound", "poisoned", "deleted", "log_start", "log_end", "durable", "cleaned", "horizon", "segments",
    "first", "second", "active", "clean_bytes", "dirty_bytes", "active_bytes", "active_frames", "oldest_bytes",
    "oldest_known", "oldest_timestamp", "active_since", "active_timestamp", "strays",
])


cdef enum:
    PENDING_NS = 2000000   # until another look where somebody else is at a log
    SLICE_NS = 1000000000


cdef object moment(int64_t timestamp):
    return None if timestamp == PS_TIMESTAMP_NONE else timestamp


def look(StoreHandle store not None, str directory not None):
    """What is in the directory of a partition, and what its head says, as a `Survey`; None: there is no such. Offsets
    that there are not are -1, timestamps None. Opens no log, takes no lock, writes nothing."""
    cdef ps_survey s
    cdef ps_error err
    cdef ps_status status
    cdef bytes encoded = os.fsencode(directory)
    cdef const char *text = encoded
    with nogil:
        status = ps_survey_partition(&store.env, text, &s, &err)
    if status == PS_NOT_FOUND:
        return None
    if status != PS_OK:
        raise_error(&err)
    return Survey(s.changed_ns, s.files, bool(s.sound), bool(s.poisoned), bool(s.deleted), s.log_start, s.log_end,
                  s.durable, s.cleaned, moment(s.horizon), s.segments, s.first, s.second, s.active, s.clean_bytes, s.dirty_bytes,
                  s.active_bytes, s.active_frames, s.oldest_bytes, bool(s.oldest_known), moment(s.oldest_timestamp),
                  moment(s.active_since), moment(s.active_timestamp), s.strays)


def changed_ns(str path not None):
    """When a directory or file last changed, in ns; -1: it cannot be seen."""
    cdef ps_env plain
    cdef bytes encoded = os.fsencode(path)
    cdef const char *text = encoded
    memset(&plain, 0, sizeof(plain))
    found = ps_survey_changed_ns(&plain, text)
    return found if found > 0 else -1


def claim(StoreHandle store not None):
    """Claim the maintenance of the whole store for this process; False: another has it. Threads of this process need
    a lock of their own before it."""
    cdef ps_error err
    cdef bytes encoded = os.fsencode(store.live.path)
    cdef ps_status status = ps_live_claim(&store.env, encoded, store.live.fd, &err)
    if status == PS_TIMEOUT:
        return False
    if status != PS_OK:
        raise_error(&err)
    return True


def unclaim(StoreHandle store not None):
    """Give the claim back. In a forked child, and once the store is closed, it is gone already."""
    if not store.is_forked() and store.live.fd >= 0:
        ps_live_unclaim(store.live.fd)


def bell(StoreHandle store not None):
    """What `sleep` is to be given: it changes with every roll of a log in this process, and with `ring`."""
    return ps_word_load(&store.reserve.rolls)


def ring(StoreHandle store not None):
    """Wake who sleeps."""
    store.rings += 1
    ps_word_move(&store.reserve.rolls)
    ps_os_futex_wake_all(&store.reserve.rolls)
    ps_word_move(&store.reserve.trims)
    ps_os_futex_wake_all(&store.reserve.trims)


def rings(StoreHandle store not None):
    """How often `ring` was called."""
    return store.rings


cdef struct Bound:
    ps_log *log
    int64_t max_bytes
    uint64_t first  # rolls when the bounds were made
    bint pending    # somebody else was at it


cdef class Bounds:
    """The logs that are open here and may keep so many bytes, for `keep`. One thread is in that, one in `sleep`."""
    cdef readonly list logs
    cdef Bound *bounds
    cdef Py_ssize_t count
    cdef uint32_t word  # of the bell, counted up to
    cdef int64_t moves  # how often it has changed
    cdef int64_t told   # and how often that was none of these logs, as far as `sleep` has said

    def __cinit__(self, StoreHandle store not None):
        cdef Py_ssize_t i
        cdef LogHandle handle
        cdef Bound *bound
        self.word = ps_word_load(&store.reserve.rolls)
        for handle in list(store.logs.values()):
            ps_log_set_keep_bytes(handle.log, handle.keep_bytes)
        self.logs = [log for log in store.logs.values() if (<LogHandle>log).keep_bytes >= 0]
        self.bounds = <Bound *>calloc(max(len(self.logs), 1), sizeof(Bound))
        if self.bounds == NULL:
            raise MemoryError()
        for i in range(len(self.logs)):
            handle = self.logs[i]
            bound = &self.bounds[i]
            bound.log = handle.log
            bound.max_bytes = handle.keep_bytes
            bound.first = ps_log_rolls(handle.log)
            bound.pending = True  # what was too much before is seen to at once
        self.count = len(self.logs)

    def __dealloc__(self):
        free(self.bounds)

    def is_as(self, Bounds other):
        """Whether it is about the same."""
        cdef Py_ssize_t i
        if other is None or self.count != other.count:
            return False
        for i in range(self.count):
            if self.bounds[i].log != other.bounds[i].log or self.bounds[i].max_bytes != other.bounds[i].max_bytes:
                return False
        return True

    cdef bint is_other(self, uint32_t word) noexcept nogil:
        """True: a log that is not here has gone on in a new segment. `word`: the bell, read before."""
        cdef int64_t ours = 0
        cdef Py_ssize_t i
        self.moves += <uint32_t>(word - self.word)
        self.word = word
        for i in range(self.count):
            ours += <int64_t>(ps_log_rolls(self.bounds[i].log) - self.bounds[i].first)
        if self.moves - ours <= self.told:
            return False
        self.told = self.moves - ours
        return True

    cdef bint tend(self) noexcept nogil:
        """Remove what is too much where a log is filled so far that something is. True: somebody was at one of them.
        What fails, fails again where it is said."""
        cdef Py_ssize_t i
        cdef Bound *bound
        cdef bint pending = False
        for i in range(self.count):
            bound = &self.bounds[i]
            if ps_log_take_due(bound.log) or bound.pending:
                bound.pending = ps_log_keep(bound.log, NULL) == PS_TIMEOUT
                pending = pending or bound.pending
        return pending


def keep(StoreHandle store not None, Bounds bounds not None, uint64_t rings):
    """Hold logs within their bounds, without the GIL, until the number of `rings` is another one."""
    cdef uint32_t word
    cdef bint pending
    with nogil:
        while store.rings == rings:
            word = ps_word_load(&store.reserve.trims)
            pending = bounds.tend()
            ps_os_futex_wait(&store.reserve.trims, word, PENDING_NS if pending else SLICE_NS)


def sleep(StoreHandle store not None, uint32_t seen, int64_t timeout_ns, Bounds bounds=None):
    """Sleep for so long, until `ring`, or until a log goes on in a new segment, but for those that are kept within
    bounds: until the bell is not `seen` any more."""
    cdef int64_t until = ps_os_monotonic_ns() + timeout_ns
    cdef uint64_t rings = store.rings
    cdef int64_t left
    cdef uint32_t word
    with nogil:
        while store.rings == rings:
            word = ps_word_load(&store.reserve.rolls)
            left = until - ps_os_monotonic_ns()
            if left <= 0 or (bounds is None and word != seen) or (bounds is not None and bounds.is_other(word)):
                break
            ps_os_futex_wait(&store.reserve.rolls, word, left)


def rolled(StoreHandle store not None):
    """The logs that have gone on in a new segment, by this process, since this was last asked."""
    cdef LogHandle handle
    cdef uint64_t rolls
    found = []
    for handle in list(store.logs.values()):
        rolls = ps_log_rolls(handle.log)
        if rolls != handle.rolls_seen:
            handle.rolls_seen = rolls
            found.append(handle)
    return found


def lower_priority():
    """Let this thread have what others leave: nice 19, idle class of I/O. What the system refuses is done without."""
    from threading import get_native_id

    try:
        os.setpriority(os.PRIO_PROCESS, get_native_id(), 19)
    except OSError:
        pass
    ps_io_idle()
