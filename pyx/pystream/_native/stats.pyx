# cython: language_level=3, binding=False
"""How much is in a partition, from its files, without opening it. `pystream.stats` names what is found."""
import os

from libc.stdint cimport INT64_MIN, int64_t, uint64_t
from libc.string cimport memset

from pystream._native.c_api cimport (
    PS_END, PS_HEAD_SIGNAL_WAITED, PS_NOT_FOUND, PS_OK, PS_SOUND, PS_TIMESTAMP_NONE, PS_UNCHECKED, ps_env, ps_error,
    ps_stats, ps_stats_free, ps_stats_init, ps_stats_measure, ps_stats_segment, ps_stats_sizes, ps_stats_timestamp,
    ps_stats_wanted, ps_status,
)
from pystream._native.errors cimport raise_error

cdef ps_env plain
memset(&plain, 0, sizeof(plain))


cdef object moment(int64_t timestamp):
    return None if timestamp == PS_TIMESTAMP_NONE else timestamp


cdef class PartitionFiles:
    """The files of the partition in `directory`, and what was found out about those that do not change any more.
    Used by one thread at a time; a second one waits for the GIL only, so calls are to be kept apart."""
    cdef ps_stats stats
    cdef ps_stats_sizes sizes
    cdef readonly str directory

    def __cinit__(self, str directory not None):
        cdef bytes encoded = os.fsencode(directory)
        if <size_t>len(encoded) >= sizeof(self.stats.dir):
            raise ValueError(f"a path of {len(encoded)} bytes is too long: {directory}")
        self.directory = directory
        ps_stats_init(&self.stats, &plain, encoded)

    def __dealloc__(self):
        ps_stats_free(&self.stats)

    def measure(self, bint exact=False, bint compacted=False, min_timestamp=None, bytes_max=None):
        """Look. "gone": there is no such directory; "unused": nobody has written to it yet; "unknown": its head tells
        nothing that can be believed before the log is opened; else "known". Raises StorageError."""
        cdef ps_stats_wanted wanted
        cdef ps_error err
        cdef ps_status status
        wanted.exact = exact
        wanted.compacted = compacted
        wanted.counts_expired = min_timestamp is not None
        wanted.min_timestamp = INT64_MIN if min_timestamp is None else min_timestamp
        wanted.bytes_max = -1 if bytes_max is None else bytes_max
        with nogil:
            status = ps_stats_measure(&self.stats, &wanted, &self.sizes, &err)
        if status == PS_NOT_FOUND:
            return "gone"
        if status != PS_OK:
            raise_error(&err)
        if self.stats.identity == PS_UNCHECKED and self.stats.count == 0:
            return "unused"
        if self.stats.identity != PS_SOUND or self.stats.moved or not self.stats.has_slot:
            return "unknown"
        return "known"

    def found(self):
        """What the last `measure` found, as a dict; without an answer of "known", only `disk_bytes` is true."""
        cdef ps_stats_sizes *s = &self.sizes
        return {
            "log_start": s.log_start,
            "high_watermark": s.high_watermark,
            "log_end": s.log_end,
            "durable_offset": s.durable,
            "records": s.records,
            "segments": s.segments,
            "stored_bytes": s.stored_bytes,
            "raw_bytes": s.raw_bytes,
            "disk_bytes": s.disk_bytes,
            "exact": bool(s.is_exact),
            "oldest_timestamp_ns": moment(s.oldest),
            "newest_timestamp_ns": moment(s.newest),
            "reclaimable_bytes": s.reclaimable_bytes,
            "dirty_bytes": s.dirty_bytes,
            "leader_epoch": self.stats.slot.leader_epoch,
            "poison_errno": self.stats.head.poison or None,
            "waited_for": bool(self.stats.head.signal & PS_HEAD_SIGNAL_WAITED),
        }

    @property
    def disk_bytes(self):
        """Blocks of all its files, in bytes."""
        return self.sizes.disk_bytes

    @property
    def damaged(self):
        """How many segments could not be looked into."""
        return self.sizes.damaged

    @property
    def topic_uuid(self):
        """Of the topic that its head belongs to, 16 bytes."""
        return self.stats.head.who.topic_uuid[:16]

    @property
    def deleted(self):
        """Its head says that the topic was deleted."""
        return bool(self.stats.head.deleted)

    def timestamp_at(self, int64_t offset):
        """The first timestamp (ns) of the batch that holds `offset`, or of the next one; None: there is none."""
        cdef ps_error err
        cdef ps_status status
        cdef int64_t timestamp
        with nogil:
            status = ps_stats_timestamp(&self.stats, offset, &timestamp, &err)
        if status == PS_END:
            return None
        if status != PS_OK:
            raise_error(&err)
        return moment(timestamp)

    def segments(self):
        """[(base offset, used bytes, disk bytes, newest timestamp in ns or None)], by base offset, as last measured;
        the timestamp is known of those whose seal was looked at."""
        cdef size_t i
        cdef ps_stats_segment *segment
        found = []
        for i in range(self.stats.count):
            segment = &self.stats.segments[i]
            if not segment.gone:
                found.append((segment.base_offset, segment.used_bytes, segment.disk_bytes,
                              moment(segment.seal.max_timestamp) if segment.has_seal else None))
        return found
