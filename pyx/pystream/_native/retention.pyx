# cython: language_level=3, binding=False
"""Where a log starts, what goes because it lies below, and which segments there are."""
from collections import namedtuple

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free

from pystream._native.c_api cimport (
    PS_INTERRUPTED,
    PS_OK,
    PS_TIMESTAMP_NONE,
    ps_error,
    ps_log_delete_before,
    ps_log_retain,
    ps_log_segments,
    ps_log_start_offset,
    ps_retained,
    ps_retention,
    ps_segment_facts,
    ps_status,
)
from pystream._native.log cimport LogHandle

Retained = namedtuple("Retained", "files bytes log_start more rolled")
SegmentFacts = namedtuple("SegmentFacts", "base end bytes max_timestamp created")


def delete_before(LogHandle handle not None, int64_t offset):
    """Have the log start at `offset`, durably; answers where it starts now. Nobody can read the records below any
    more; their files go with the next `retain`.

    Raises OffsetOutOfRangeError beyond the high watermark, LockTimeoutError when the maintenance of others took
    longer than half a minute."""
    cdef ps_error err
    cdef ps_status status
    handle.check()
    while True:
        with nogil:
            status = ps_log_delete_before(handle.log, offset, &err)
        if status != PS_INTERRUPTED:
            break
        PyErr_CheckSignals()
    if status != PS_OK:
        handle.raise_error(&err)
    return ps_log_start_offset(handle.log)


def retain(LogHandle handle not None, *, min_timestamp=None, max_bytes=None, roll_before=None,
           uint32_t max_files=64):
    """One bounded step of retention: have the log start behind the segments that are to go, and remove at most
    `max_files` of those below its start; with no rule, only that.

    min_timestamp: ns; segments whose records are all older go, the active one too, which is rolled then.
    max_bytes: the oldest segments go as long as no less than this is left. roll_before: ns; the active segment is
    rolled when its first record is older. Answers Retained(files, bytes, log_start, more, rolled); `more`: some
    are left to be removed. Raises LockTimeoutError when another is looking after the partition, or when, where
    something was to be rolled, others kept the append lock: what could be done without that was done."""
    cdef ps_error err
    cdef ps_status status
    cdef ps_retention rule
    cdef ps_retained out
    if max_bytes is not None and max_bytes < 0:
        raise ValueError(f"max_bytes must be 0 or more, not {max_bytes}")
    rule.min_timestamp = PS_TIMESTAMP_NONE if min_timestamp is None else min_timestamp
    rule.max_bytes = -1 if max_bytes is None else max_bytes
    rule.roll_before = PS_TIMESTAMP_NONE if roll_before is None else roll_before
    handle.check()
    while True:
        with nogil:
            status = ps_log_retain(handle.log, &rule, max_files, &out, &err)
        if status != PS_INTERRUPTED:
            break
        PyErr_CheckSignals()
    if status != PS_OK:
        handle.raise_error(&err)
    return Retained(out.files, out.bytes, out.log_start, bool(out.more), bool(out.rolled))


def segments(LogHandle handle not None):
    """The segments from the log start on, as SegmentFacts(base, end, bytes, max_timestamp, created): offsets,
    bytes used, ns (where no record has a timestamp, when the file was last written to). None is mapped."""
    cdef ps_error err
    cdef ps_status status
    cdef ps_segment_facts *facts
    cdef size_t i, count
    with nogil:
        status = ps_log_segments(handle.log, &facts, &count, &err)
    if status != PS_OK:
        handle.raise_error(&err)
    try:
        return [
            SegmentFacts(facts[i].base_offset, facts[i].end_offset, facts[i].bytes, facts[i].max_timestamp,
                         facts[i].created_ns)
            for i in range(count)
        ]
    finally:
        free(facts)
