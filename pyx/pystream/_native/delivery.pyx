# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""What a producer's callers hear of their records, and how long it may take."""
from cpython.ref cimport Py_DECREF
from libc.stdint cimport INT64_MAX

from pystream._native.c_api cimport PS_OK, PS_TIMESTAMP_NONE, ps_os_monotonic_ns
from pystream._native.log cimport LogHandle
from pystream._native.write_api cimport ps_builder_timestamp, ps_producer_recycle

from pystream._native.errors import DeliveryError

# Waits are cut here, so that a signal is seen.
cdef int64_t SLICE_NS = 100_000_000


class BufferFull(Exception):
    """There is no room for a record now, and the caller does not want to wait."""


cdef class RecordMetadata:
    """Where a record went: topic, partition, offset (None when it was not delivered), timestamp (ns or None)."""

    def __repr__(self):
        return (f"RecordMetadata(topic={self.topic!r}, partition={self.partition}, offset={self.offset}, "
                f"timestamp={self.timestamp})")

    def __eq__(self, other):
        if not isinstance(other, RecordMetadata):
            return NotImplemented
        return (self.topic, self.partition, self.offset, self.timestamp) == (
            other.topic, other.partition, other.offset, other.timestamp)


cdef RecordMetadata make_metadata(str topic, int partition, int64_t offset, int64_t timestamp):
    cdef RecordMetadata metadata = RecordMetadata.__new__(RecordMetadata)
    metadata.topic = topic
    metadata.partition = partition
    metadata.offset = offset if offset >= 0 else None
    metadata.timestamp = timestamp if timestamp != PS_TIMESTAMP_NONE else None
    return metadata


cdef class Tracked:
    pass


cdef void drop_user(ps_builder *b) noexcept:
    if b.user != NULL:
        Py_DECREF(<object>b.user)
        b.user = NULL


cdef object error_of(LogHandle log, const ps_error *err):
    try:
        log.raise_error(err)
    except Exception as error:
        return error


cdef object delivery_error(LogHandle log, uint64_t records, object cause):
    error = DeliveryError(
        f"{records} record{'s' if records != 1 else ''} of topic {log.topic!r} not delivered: {cause}",
        topic=log.topic, partition=log.partition)
    error.records = records
    error.__cause__ = cause
    return error


cdef object report(ps_producer *p, LogHandle log, object default, ps_builder *b):
    cdef uint32_t i
    cdef Py_ssize_t at = 0
    cdef Tracked tracked
    error = error_of(log, &b.error) if b.error.status != PS_OK else None
    own = <list>b.user if b.user != NULL else []
    drop_user(b)
    outcomes = []
    for i in range(b.count):
        callback = default
        if at < len(own):
            tracked = own[at]
            if tracked.index == i:
                callback = tracked.callback
                at += 1
        elif callback is None:
            break
        if callback is not None:
            offset = b.base_offset + i if error is None else -1
            outcomes.append((callback, make_metadata(log.topic, log.partition, offset, ps_builder_timestamp(b, i))))
    ps_producer_recycle(p, b)  # before anything of the caller's runs
    first = None
    for callback, metadata in outcomes:
        try:
            callback(error, metadata)
        except BaseException as raised:
            first = first or raised
    return first


cdef object report_columns(LogHandle log, object callback, const ps_columns *columns, int64_t base_offset,
                           int64_t stamp):
    cdef uint32_t i
    outcomes = []
    for i in range(columns.count):
        if columns.timestamps != NULL:
            stamp = columns.timestamps[i]
        outcomes.append(make_metadata(log.topic, log.partition, base_offset + i, stamp))
    first = None
    for metadata in outcomes:
        try:
            callback(None, metadata)
        except BaseException as raised:
            first = first or raised
    return first


cdef int64_t remaining(int64_t deadline_ns) noexcept nogil:
    """What is left of a slice; deadline_ns < 0: no deadline."""
    if deadline_ns < 0:
        return SLICE_NS
    return max(<int64_t>0, min(SLICE_NS, deadline_ns - ps_os_monotonic_ns()))


cdef bint is_past(int64_t deadline_ns) noexcept nogil:
    return deadline_ns >= 0 and ps_os_monotonic_ns() >= deadline_ns


cdef int64_t deadline_of(int64_t timeout_ns) noexcept nogil:
    cdef int64_t now = ps_os_monotonic_ns()
    return -1 if timeout_ns < 0 or timeout_ns > INT64_MAX - now else now + timeout_ns
