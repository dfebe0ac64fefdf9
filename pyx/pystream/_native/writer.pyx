# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Appending in the caller's thread, and the helper threads of the process."""
import atexit
import sys
import weakref

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t

from pystream._native.c_api cimport (
    PS_ATTR_LOG_APPEND_TIME, PS_CODEC_NONE, PS_DURABILITY_INTERVAL, PS_DURABILITY_SYNC, PS_INTERRUPTED, PS_OK,
    PS_READ_ONLY, PS_RECORDS_PER_BATCH_MAX, PS_TIMEOUT, PS_TOO_LARGE, ps_error, ps_fail, ps_frame_bytes_raw, ps_frame_meta,
    ps_frame_meta_init, ps_frame_prepare, ps_frame_scratch_bytes, ps_log_append, ps_log_catch_up, ps_log_end_offset, ps_log_is_late,
    ps_log_frame_bytes_max, ps_log_needs_keys, ps_log_segment_bytes, ps_log_stamps, ps_os_monotonic_ns, ps_prepared, ps_status,
)
from pystream._native.encode cimport Input
from pystream._native.errors cimport raise_error
from pystream._native.forks cimport add_fork_hooks
from pystream._native.log cimport set_dirty_hook, set_drop_hook, set_options_hook
from pystream._native.schema cimport Schema
from pystream._native.write_api cimport (
    ps_keeper_forget, ps_keeper_keep, ps_kept_set, ps_kept_free, ps_kept_is_behind, ps_kept_lag_ns_max, ps_kept_late_ns, ps_kept_note,
    ps_kept_poke, ps_kept_wait, ps_scratch_free, ps_scratch_reserve, ps_worker_after_fork_child, ps_worker_after_fork_parent,
    ps_worker_before_fork, ps_worker_new, ps_worker_start, ps_worker_stop,
)

from pystream._native.errors import BatchTooLargeError

# A batch up to this size is written in less time than giving the GIL away costs: beside one busy Python
# thread, taking it back waits for a switch interval (5 ms). Larger ones, and those to compress, go without.
cdef uint64_t HOLD_BYTES_MAX = 320 << 10
cdef uint64_t HOLD_COMPRESS_BYTES_MAX = 32 << 10
# Waits without the GIL are cut here, so that a signal that came in between is seen.
cdef int64_t SLICE_NS = 200_000_000


# ---- the process ------------------------------------------------------------------------------------

cdef ps_worker *worker = NULL
cdef bint exiting = False
_stores = weakref.WeakKeyDictionary()  # StoreHandle -> StoreWriters


cdef void before_fork() noexcept nogil:
    if worker != NULL:
        ps_worker_before_fork(worker)


cdef void after_fork_parent() noexcept nogil:
    if worker != NULL:
        ps_worker_after_fork_parent(worker)


cdef void after_fork_child() noexcept nogil:
    if worker != NULL:
        ps_worker_after_fork_child(worker)


def _at_exit():
    global exiting
    for writers in list(_stores.values()):
        try:
            writers.close_producers()
        except Exception as error:
            print(f"pystream: at exit: {type(error).__name__}: {error}", file=sys.stderr)
    exiting = True
    if worker != NULL:
        with nogil:
            ps_worker_stop(worker)


cdef ps_worker *get_worker() except NULL:
    global worker
    cdef ps_error err
    cdef ps_status status
    if worker == NULL:
        worker = ps_worker_new()
        if worker == NULL:
            raise MemoryError()
        atexit.register(_at_exit)
    if not exiting:
        status = ps_worker_start(worker, &err)
        if status != PS_OK:
            raise_error(&err)
    return worker


cdef ps_worker *the_worker() noexcept nogil:
    return worker


cdef class Kept:

    def __dealloc__(self):
        if self.entry != NULL:
            with nogil:
                ps_keeper_forget(&worker.keeper, self.entry)
            ps_kept_free(self.entry)

    cdef int forget(self) except -1:
        if self.entry != NULL:
            with nogil:
                ps_keeper_forget(&worker.keeper, self.entry)
        return 0


cdef class StoreWriters:

    def __cinit__(self):
        self.producers = weakref.WeakSet()
        self.logs = []

    def close_producers(self):
        """Flush and close every producer; the first error is raised when all are closed."""
        first = None
        for producer in list(self.producers):
            try:
                producer.close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def __call__(self):
        """The store is about to close its logs."""
        cdef LogHandle log
        try:
            self.close_producers()
        finally:
            for log in self.logs:
                (<Kept>log.kept).forget()
            self.logs.clear()


cdef StoreWriters writers_of(StoreHandle store):
    cdef StoreWriters writers = _stores.get(store)
    if writers is None:
        writers = StoreWriters.__new__(StoreWriters)
        _stores[store] = writers
        store.add_close_hook(writers)
    return writers


cdef int64_t interval_of(LogHandle log) noexcept:
    return log.sync_interval_ns if log.durability == PS_DURABILITY_INTERVAL else 0


cdef ps_kept *keep(LogHandle log) except NULL:
    cdef Kept kept
    cdef ps_error err
    if log.kept is not None:
        return (<Kept>log.kept).entry
    if log.store.read_only:
        ps_fail(&err, PS_READ_ONLY, NULL, b"the store was opened with mode='r'; nothing can be appended")
        log.raise_error(&err)
    get_worker()
    kept = Kept.__new__(Kept)
    kept.entry = ps_keeper_keep(&worker.keeper, log.log, interval_of(log), log.durability != PS_DURABILITY_SYNC,
                                ps_log_segment_bytes(log.log))
    if kept.entry == NULL:
        raise MemoryError()
    log.kept = kept
    writers_of(log.store).logs.append(log)
    return kept.entry


cdef int found_dirty(LogHandle log) except -1:
    """A log was opened with something left to sync."""
    if log.durability == PS_DURABILITY_INTERVAL:
        ps_kept_poke(keep(log))
    return 0


cdef int altered(LogHandle log) except -1:
    """A log goes by other options: the keeper looks after it in another way."""
    cdef ps_kept *entry
    cdef int64_t interval_ns = interval_of(log)
    cdef bint populates = log.durability != PS_DURABILITY_SYNC
    cdef uint32_t segment_bytes = ps_log_segment_bytes(log.log)
    if log.kept is not None:
        entry = (<Kept>log.kept).entry
        with nogil:  # it may be in a sync of this log
            ps_kept_set(entry, interval_ns, populates, segment_bytes)
    return 0


cdef int dropped(LogHandle log) except -1:
    """The topic of a log was deleted: nothing is left to sync."""
    if log.kept is not None:
        (<Kept>log.kept).forget()
        logs = writers_of(log.store).logs
        if log in logs:
            logs.remove(log)
    return 0


def lag_ns_max(LogHandle log not None):
    """The longest time, in ns, that a record of this process has waited for the sync that covered it."""
    return 0 if log.kept is None else ps_kept_lag_ns_max((<Kept>log.kept).entry)


def syncs_of(StoreHandle store not None):
    """[(log, ns by which a sync that holds its appends back is late, or 0, longest wait of a record in ns)] of the logs
    of a store that this process has written to."""
    cdef LogHandle log
    cdef StoreWriters writers = _stores.get(store)
    found = []
    if writers is None:
        return found
    for log in list(writers.logs):
        kept = log.kept
        if kept is not None and (<Kept>kept).entry != NULL:
            found.append((log, ps_kept_late_ns((<Kept>kept).entry), ps_kept_lag_ns_max((<Kept>kept).entry)))
    return found


add_fork_hooks(before_fork, after_fork_parent, after_fork_child)
set_dirty_hook(found_dirty)
set_drop_hook(dropped)
set_options_hook(altered)


# ---- appending --------------------------------------------------------------------------------------

cdef object too_large(LogHandle log, const ps_columns *columns, const ps_error *err):
    cdef uint64_t limit = ps_log_frame_bytes_max(log.log)
    cdef uint64_t needed = ps_frame_bytes_raw(columns)
    cdef ps_error why
    if needed <= limit:
        why = err[0]
        return BatchTooLargeError(why.what.decode("utf-8", "replace"), topic=log.topic, partition=log.partition)
    return BatchTooLargeError(
        f"one batch of {columns.count} records takes {needed} bytes: this topic takes {limit}; append less at a time, "
        "use a producer's send_many, or alter the topic: a larger segment_bytes= or max_message_bytes=",
        topic=log.topic, partition=log.partition)


cdef int wait_for_sync(LogHandle log, ps_kept *kept, int64_t deadline_ns) except -1:
    """Hold back while the interval sync is far behind."""
    cdef ps_error err
    cdef ps_status status
    cdef int64_t left
    while True:
        left = SLICE_NS
        if deadline_ns >= 0:
            left = min(left, max(deadline_ns - ps_os_monotonic_ns(), <int64_t>0))
        with nogil:
            status = ps_kept_wait(kept, left)
        if status == PS_OK:
            return 0
        PyErr_CheckSignals()
        if deadline_ns >= 0 and ps_os_monotonic_ns() >= deadline_ns:
            ps_fail(&err, PS_TIMEOUT, NULL, "syncing has fallen too far behind to take more records")
            log.raise_error(&err)


cdef int append_columns(LogHandle log, const ps_columns *columns, uint32_t codec, const Origin *origin,
                        ps_scratch *scratch, int64_t timeout_ns, Appended *out) except -1:
    cdef ps_kept *kept = keep(log)
    cdef ps_frame_meta proto
    cdef ps_prepared batch
    cdef ps_error err
    cdef ps_status status
    cdef int64_t base = -1
    cdef int64_t left = timeout_ns
    cdef int64_t deadline = -1
    cdef uint32_t frame_max = ps_log_frame_bytes_max(log.log)
    cdef uint64_t raw = ps_frame_bytes_raw(columns)
    cdef uint64_t need = ps_frame_scratch_bytes(columns, codec)
    cdef bint hold = log.durability != PS_DURABILITY_SYNC and raw <= (
        HOLD_BYTES_MAX if codec == PS_CODEC_NONE else HOLD_COMPRESS_BYTES_MAX)
    if raw > 0x7fffffff:
        raise too_large(log, columns, NULL)
    if need and ps_scratch_reserve(scratch, need) == NULL:
        raise MemoryError("no memory to compress a batch")
    if timeout_ns >= 0:
        deadline = ps_os_monotonic_ns() + timeout_ns
    if ps_kept_is_behind(kept):
        wait_for_sync(log, kept, deadline)
    while ps_log_is_late(log.log) and (deadline < 0 or ps_os_monotonic_ns() < deadline):
        with nogil:
            ps_log_catch_up(log.log)
        PyErr_CheckSignals()
    ps_frame_meta_init(&proto)
    if origin != NULL:
        proto.producer_id = origin.producer_id
        proto.producer_epoch = origin.producer_epoch
        proto.base_sequence = origin.base_sequence
    if ps_log_stamps(log.log):
        proto.attributes |= PS_ATTR_LOG_APPEND_TIME
    if hold:
        status = ps_frame_prepare(columns, &proto, codec, frame_max, scratch.data, scratch.bytes, &batch, &err)
        if status == PS_OK:
            status = ps_log_append(log.log, &batch, 0, &base, &err)
    else:
        with nogil:
            status = ps_frame_prepare(columns, &proto, codec, frame_max, scratch.data, scratch.bytes, &batch, &err)
            if status == PS_OK:
                status = ps_log_append(log.log, &batch, timeout_ns, &base, &err)
    # The lock was not free, or a signal ended the wait.
    while status == PS_INTERRUPTED or (status == PS_TIMEOUT and hold and timeout_ns != 0):
        hold = False
        PyErr_CheckSignals()
        if deadline >= 0:
            left = max(deadline - ps_os_monotonic_ns(), <int64_t>0)
        with nogil:
            status = ps_log_append(log.log, &batch, left, &base, &err)
    if status == PS_TOO_LARGE:
        raise too_large(log, columns, &err)
    if status != PS_OK:
        log.raise_error(&err)
    ps_kept_note(kept, batch.meta.frame_bytes)
    out.base_offset = base
    out.first_timestamp = batch.meta.first_timestamp
    out.frame_bytes = batch.meta.frame_bytes
    return 0


def append_batch(LogHandle log not None, values, keys=None, headers=None, timestamps=None, int64_t timeout_ns=-1,
                 parse_time=None, origin=None, Schema schema=None):
    """Append everything as one batch and answer its first offset; of nothing, the log end.

    origin: None, or (producer id, producer epoch, sequence of the first record), kept with the batch.
    schema: the log's own, or one with serializers.
    Raises BatchTooLargeError or RecordTooLargeError where it does not fit one batch; nothing is written then.
    """
    cdef Input given = Input.__new__(Input)
    cdef ps_columns columns
    cdef ps_scratch scratch
    cdef Appended appended
    cdef Origin by
    cdef uint32_t frame_max
    if schema is None:
        schema = log.schema
    log.check()
    if origin is not None:
        by.producer_id, by.producer_epoch, by.base_sequence = origin
        if by.producer_id < 0 or by.producer_epoch < 0 or by.base_sequence < 0:
            raise ValueError(f"origin={origin}: must not be negative")
    given.open(schema, values, keys, headers, timestamps, parse_time)
    if given.count == 0:
        return ps_log_end_offset(log.log)
    if given.count > PS_RECORDS_PER_BATCH_MAX:
        raise BatchTooLargeError(f"{given.count} records are more than one batch holds, {PS_RECORDS_PER_BATCH_MAX}",
                                 topic=log.topic, partition=log.partition)
    if ps_log_needs_keys(log.log):
        given.check_keys()
    frame_max = ps_log_frame_bytes_max(log.log)
    given.check_records(frame_max)
    given.check_batch(schema.codec, frame_max)
    given.take(0, given.count, NULL, &columns)
    scratch.data = NULL
    scratch.bytes = 0
    try:
        append_columns(log, &columns, schema.codec, &by if origin is not None else NULL, &scratch,
                       timeout_ns, &appended)
        return appended.base_offset
    finally:
        ps_scratch_free(&scratch)
