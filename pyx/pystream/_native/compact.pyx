# cython: language_level=3, binding=False
"""Compaction of one log: of each key the last record stays. The mechanics are in csrc/ps_compact.h."""
import os
import threading
from collections import namedtuple

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.string cimport memset

from pystream._native.c_api cimport PS_END, PS_INTERRUPTED, PS_OK, ps_env, ps_error, ps_log, ps_status
from pystream._native.log cimport LogHandle

cdef extern from "ps_keymap.h" nogil:
    enum:
        PS_KEYMAP_KEY_BYTES
        PS_KEYMAP_BYTES_MIN

cdef extern from "ps_compact.h" nogil:
    ctypedef struct ps_compaction:
        int64_t now_ns
        int64_t lag_ns
        int64_t delete_retention_ns
        double min_dirty_ratio
        uint64_t map_bytes
        uint64_t bytes_per_second
        uint64_t max_bytes
        const int *stop
    ctypedef struct ps_compactable:
        uint64_t dirty_bytes
        uint64_t clean_bytes
        double ratio
        bint due
        int64_t cleaned
    ctypedef struct ps_compacted:
        bint ran
        bint more
        uint64_t dirty_bytes
        uint64_t clean_bytes
        uint64_t read_bytes
        uint64_t written_bytes
        uint64_t records_removed
        uint64_t segments_before
        uint64_t segments_after
        int64_t cleaned_offset
        uint64_t keys
        int64_t next_horizon
    ctypedef struct ps_compactor:
        pass
    ps_status ps_compact_look(ps_log *log, int64_t now_ns, int64_t lag_ns, ps_compactable *out, ps_error *err)
    ps_status ps_compact_sweep(ps_log *log, uint64_t *files, ps_error *err)
    ps_status ps_compact_begin(ps_log *log, const ps_compaction *rule, ps_compactor **out, ps_error *err)
    ps_status ps_compact_step(ps_compactor *compactor, uint64_t bytes, ps_error *err)
    ps_status ps_compact_run(ps_compactor *compactor, int64_t slice_ns, ps_error *err)
    const ps_compacted *ps_compact_result(const ps_compactor *compactor)
    void ps_compact_end(ps_compactor *compactor)

cdef extern from "ps_inspect.h" nogil:
    ps_status ps_inspect_end(const ps_env *env, const char *path, int64_t base_offset, int64_t *end)

cdef ps_env plain
memset(&plain, 0, sizeof(plain))

# In the main thread a pass is interrupted for signals this often; elsewhere nobody would see them.
cdef int64_t SLICE_NS = 100_000_000

KEY_BYTES = PS_KEYMAP_KEY_BYTES  # of memory that a key takes: a MiB serves 32,768
MAP_BYTES_MIN = PS_KEYMAP_BYTES_MIN
MAP_BYTES = 64 << 20  # for keys, unless another size is given

Compactable = namedtuple("Compactable", "dirty_bytes clean_bytes ratio due")
Compacted = namedtuple(
    "Compacted",
    "ran more dirty_bytes clean_bytes read_bytes written_bytes records_removed segments_before segments_after "
    "cleaned_offset keys next_horizon",
)


cdef class Stop:
    """Stop() - for one thread to end the compactions of others, as soon as can be: nothing is lost."""
    cdef int word

    def set(self):
        """End them."""
        self.word = 1

    def clear(self):
        """Let new ones run."""
        self.word = 0

    def is_set(self):
        """True once `set` was called."""
        return self.word != 0


def compactable(LogHandle log not None, *, int64_t now_ns, int64_t lag_ns=0):
    """How much of a log a compaction would take on: bytes of finished segments that came since the last one, and of
    those before; their ratio; `due`: tombstones whose time is over could go. Reads no records."""
    cdef ps_error err
    cdef ps_compactable found
    cdef ps_status status
    log.check()
    with nogil:
        status = ps_compact_look(log.log, now_ns, lag_ns, &found, &err)
    if status != PS_OK:
        log.raise_error(&err)
    return Compactable(found.dirty_bytes, found.clean_bytes, found.ratio, bool(found.due))


def without_leftovers(list files not None):
    """Of (base offset, path) of a partition's segments, in order: those that are no left-overs of a merge that was
    interrupted, which the one before them covers. One that does not say where it ends, ends where the next begins."""
    cdef int64_t reached = -1
    cdef int64_t base, end
    cdef bytes path
    cdef list kept = []
    cdef Py_ssize_t i
    for i, (base, name) in enumerate(files):
        path = os.fsencode(name)
        end = INT64_MAX
        found = ps_inspect_end(&plain, path, base, &end) == PS_OK if len(files) > 1 else False
        if not found and i + 1 < len(files):
            end = files[i + 1][0]
        if base < reached and end <= reached:
            continue
        kept.append((base, name))
        if found:
            reached = max(reached, end)
    return kept


def sweep_leftovers(LogHandle log not None):
    """Unlink the files that interrupted compactions have left; how many there were. Raises LockTimeoutError where
    another process keeps maintaining the partition, PartitionHeldError where this one is compacting it."""
    cdef ps_error err
    cdef uint64_t files
    cdef ps_status status
    log.check()
    with nogil:
        status = ps_compact_sweep(log.log, &files, &err)
    if status != PS_OK:
        log.raise_error(&err)
    return files


cdef class Compactor:
    """A pass of compaction, to be carried on step by step and from one thread at a time. Sizes in bytes, times in
    nanoseconds: `now_ns` and `lag_ns` by the clock of the records, `map_bytes` the memory for keys (32 bytes each),
    `max_bytes` how much that is new to take on (0: all), `bytes_per_second` (0: no limit) for `run`.

    Raises PartitionHeldError while another compaction of the log is under way in this process, LockTimeoutError
    while another process keeps maintaining it, CorruptLogError when it comes to damage (nothing is lost by that)."""
    cdef LogHandle log
    cdef Stop stop
    cdef ps_compactor *compactor
    cdef ps_compaction rule
    cdef ps_compacted found
    cdef bint over

    def __init__(self, LogHandle log not None, *, int64_t now_ns, int64_t lag_ns=0,
                 int64_t delete_retention_ns=86_400_000_000_000, double min_dirty_ratio=0.0,
                 uint64_t map_bytes=64 << 20, uint64_t bytes_per_second=0, uint64_t max_bytes=0, Stop stop=None):
        cdef ps_error err
        cdef ps_status status
        if self.compactor != NULL:
            raise RuntimeError("the compaction has begun already")
        if map_bytes < MAP_BYTES_MIN:
            raise ValueError(f"map_bytes={map_bytes} must be {MAP_BYTES_MIN} at least")
        if not 0 <= min_dirty_ratio <= 1:
            raise ValueError(f"min_dirty_ratio={min_dirty_ratio} must lie in 0 .. 1")
        if lag_ns < 0 or delete_retention_ns < 0:
            raise ValueError("lag_ns and delete_retention_ns must not be negative")
        log.check()
        self.log = log
        self.stop = stop
        self.rule = ps_compaction(now_ns, lag_ns, delete_retention_ns, min_dirty_ratio, map_bytes, bytes_per_second,
                                  max_bytes, NULL)
        if stop is not None:
            self.rule.stop = &stop.word
        with nogil:
            status = ps_compact_begin(log.log, &self.rule, &self.compactor, &err)
        self.over = status != PS_OK
        if status != PS_OK and status != PS_END:
            log.raise_error(&err)

    def __dealloc__(self):
        if self.compactor != NULL:
            ps_compact_end(self.compactor)

    cdef int end(self, ps_status status, const ps_error *err) except -1:
        """What a step has answered. The files that it may leave go at once."""
        self.over = status != PS_OK
        if not self.over:
            return 0
        self.close()
        if status != PS_END and status != PS_INTERRUPTED:
            self.log.raise_error(err)
        return 0

    def step(self, uint64_t max_bytes=1 << 20):
        """Read and write about so much. True while there is more to do."""
        cdef ps_error err
        cdef ps_status status
        if not self.over:
            with nogil:
                status = ps_compact_step(self.compactor, max_bytes, &err)
            self.end(status, &err)
        return not self.over

    def run(self, int64_t slice_ns=-1):
        """Carry on for so long (-1: to the end), at `bytes_per_second`. True while there is more to do."""
        cdef ps_error err
        cdef ps_status status
        if not self.over:
            with nogil:
                status = ps_compact_run(self.compactor, slice_ns, &err)
            self.end(status, &err)
        return not self.over

    @property
    def result(self):
        """A Compacted of what was done so far."""
        cdef ps_compacted found = self.found
        if self.compactor != NULL:
            found = ps_compact_result(self.compactor)[0]
        return Compacted(bool(found.ran), bool(found.more), found.dirty_bytes, found.clean_bytes, found.read_bytes,
                         found.written_bytes, found.records_removed, found.segments_before, found.segments_after,
                         found.cleaned_offset, found.keys, found.next_horizon)

    def close(self):
        """End it here: what is finished stays, the rest is as it was. Twice is once."""
        self.over = True
        if self.compactor != NULL:
            self.found = ps_compact_result(self.compactor)[0]
            with nogil:
                ps_compact_end(self.compactor)
            self.compactor = NULL


def compact(LogHandle log not None, *, int64_t now_ns, int64_t lag_ns=0,
            int64_t delete_retention_ns=86_400_000_000_000, double min_dirty_ratio=0.0, uint64_t map_bytes=64 << 20,
            uint64_t bytes_per_second=0, uint64_t max_bytes=0, Stop stop=None):
    """One pass over a log, if there is enough to do; the GIL is free meanwhile. Gives a Compacted: `ran` says whether
    there was, `more` that not all could be taken on (memory, `max_bytes`, `stop`, another process). Parameters and
    errors as for Compactor."""
    cdef Compactor pass_ = Compactor(log, now_ns=now_ns, lag_ns=lag_ns, delete_retention_ns=delete_retention_ns,
                                     min_dirty_ratio=min_dirty_ratio, map_bytes=map_bytes,
                                     bytes_per_second=bytes_per_second, max_bytes=max_bytes, stop=stop)
    try:
        if threading.current_thread() is not threading.main_thread():
            pass_.run()
        while pass_.run(SLICE_NS):
            PyErr_CheckSignals()
    finally:
        pass_.close()
    return pass_.result
