# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Producers: records go into batches, which go out behind the caller's back or, by send_many, at once."""
import warnings

from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.string cimport memset

from pystream._native.c_api cimport (
    PS_CLOSED, PS_OK, PS_RECORDS_PER_BATCH_MAX, PS_SEGMENT_BYTES_MAX, PS_TIMEOUT, PS_TOO_LARGE, ps_error, ps_fail,
    ps_log_frame_bytes_max, ps_log_needs_keys_place, ps_log_sync, ps_status,
)
from pystream._native.delivery cimport (
    Tracked, deadline_of, delivery_error, drop_user, error_of, is_past, remaining, report,
)
from pystream._native.encode cimport Headers, key_required, timestamp_ns
from pystream._native.log cimport LogHandle, start_writeback
from pystream._native.serial cimport encode_scalar, encoder_of
from pystream._native.source cimport View, release_view, scalar_bytes
from pystream._native.write_api cimport (
    PS_LANE_STICKY, ps_added, ps_builder, ps_lane, ps_lane_set_unsynced, ps_lane_take_unsynced, ps_lanes,
    ps_lanes_free, ps_producer_abandon, ps_producer_add, ps_producer_add_keyed, ps_producer_add_plain,
    ps_producer_drain, ps_producer_fetch, ps_producer_free, ps_producer_get_stats, ps_producer_grow, ps_producer_lane,
    ps_producer_more, ps_producer_new, ps_producer_options, ps_producer_recycle, ps_producer_stats,
    ps_producer_take_error, ps_producer_wait_room, ps_scratch, ps_scratch_free, ps_worker_attach, ps_worker_detach,
)
from pystream._native.writer cimport get_worker, keep, the_worker, writers_of

from pystream._native.errors import ClosedError, ForkedError, LockTimeoutError, OptionError, RecordTooLargeError
from pystream._native.delivery import BufferFull, RecordMetadata
from pystream._native.writer import append_batch

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    bint PyBytes_CheckExact(PyObject *item)
    Py_ssize_t PyBytes_GET_SIZE(PyObject *item)
    char *PyBytes_AS_STRING(PyObject *item)

cdef int64_t SLICE_NS = 100_000_000  # waits are cut here, so that a signal is seen
# What an unclosed producer may take to flush when it is collected.
cdef int64_t FINALIZE_NS = 2_000_000_000


cdef class ProducerCore:

    def __init__(self, logs, *, uint64_t batch_bytes, uint64_t batch_records=PS_RECORDS_PER_BATCH_MAX,
                 int64_t linger_ns, uint64_t buffer_bytes, partitioner=None, on_delivery=None, int codec=-1,
                 parse_time=None, Schema schema=None):
        """Sizes in bytes, linger in ns. codec: a PS_CODEC_* number, -1 for the topic's. schema: the topic's,
        or that with serializers."""
        cdef ps_producer_options options
        cdef LogHandle log
        cdef uint32_t i
        if self.p != NULL:
            raise RuntimeError("the producer is open already")
        self.logs = list(logs)
        if not self.logs:
            raise ValueError("a producer needs the logs of its topic's partitions")
        log = self.logs[0]
        self.schema = schema or log.schema
        self.value_coder = encoder_of(self.schema, False)
        self.key_coder = encoder_of(self.schema, True)
        self.is_coded = self.value_coder is not None or self.key_coder is not None
        self.store = log.store
        self.lane_count = len(self.logs)
        self.codec = self.schema.codec if codec < 0 else codec
        self.set_options(batch_bytes, batch_records, linger_ns, buffer_bytes, partitioner, on_delivery)
        self.parse_time = parse_time
        memset(&options, 0, sizeof(options))
        options.batch_bytes = self.batch_bytes = <uint32_t>min(batch_bytes, <uint64_t>PS_SEGMENT_BYTES_MAX)
        options.batch_records = self.batch_records = <uint32_t>batch_records
        options.buffer_bytes = buffer_bytes
        options.linger_ns = linger_ns
        options.reports = on_delivery is not None
        get_worker()
        self.p = ps_producer_new(&options, self.lane_count)
        if self.p == NULL:
            raise MemoryError()
        for i in range(self.lane_count):
            self.fill(ps_producer_lane(self.p, i), self.logs[i])
        self.key_rule = ps_log_needs_keys_place(log.log)
        ps_worker_attach(get_worker(), self.p)
        self.is_closed = False
        writers_of(self.store).producers.add(self)

    cdef int fill(self, ps_lane *lane, LogHandle log) except -1:
        log.check()
        lane.log = log.log
        lane.kept = keep(log)
        lane.codec = self.codec
        lane.value_width = self.schema.value_width
        lane.key_width = self.schema.key_width
        return 0

    def grow(self, logs):
        """Send to these partitions, too, from now on: the topic has got them. One thread at a time grows; any others
        may be sending."""
        cdef ps_lanes *more
        cdef uint32_t i, count
        more_logs = list(logs)
        count = len(more_logs)
        self.check_open()
        if count == 0:
            return
        more = ps_producer_more(self.p, count)
        if more == NULL:
            raise MemoryError()
        try:
            for i in range(count):
                self.fill(&more.lanes[i], more_logs[i])
        except BaseException:
            ps_lanes_free(more)
            raise
        self.logs = self.logs + more_logs  # whoever goes through them goes by the old list
        ps_producer_grow(self.p, more)
        self.lane_count += count

    @property
    def partitions(self):
        """To how many partitions it sends."""
        return self.lane_count

    cdef int set_options(self, uint64_t batch_bytes, uint64_t batch_records, int64_t linger_ns,
                         uint64_t buffer_bytes, object partitioner, object on_delivery) except -1:
        if not 1 <= batch_records <= PS_RECORDS_PER_BATCH_MAX:
            raise OptionError(f"batch_records={batch_records} must lie in 1 .. {PS_RECORDS_PER_BATCH_MAX}")
        if batch_bytes < 1 or buffer_bytes < 1:
            raise OptionError("batch_bytes and buffer_bytes must be positive")
        if linger_ns < 0:
            raise OptionError("linger must not be negative")
        if on_delivery is not None and not callable(on_delivery):
            raise TypeError(f"on_delivery must be a callable(error, metadata), not {type(on_delivery).__name__}")
        if isinstance(partitioner, str) and partitioner not in ("murmur2", "sticky"):
            raise OptionError(f'partitioner={partitioner!r} is not "murmur2", "sticky" or a callable(key, partitions)')
        if partitioner is not None and not isinstance(partitioner, str) and not callable(partitioner):
            raise TypeError(f"partitioner must be a str or a callable, not {type(partitioner).__name__}")
        self.hashes = partitioner is None or partitioner == "murmur2"
        self.partitioner = partitioner if callable(partitioner) else None
        self.on_delivery = on_delivery
        return 0

    def __cinit__(self):
        self.is_closed = True

    def __del__(self):
        if self.p == NULL or self.is_closed or self.p.forked or self.store.is_forked():
            return
        try:
            ProducerCore.close(self, FINALIZE_NS)  # a subclass may take other units
        finally:
            warnings.warn(f"unclosed producer of topic {self.schema.topic!r}", ResourceWarning, source=self)

    def __dealloc__(self):
        cdef ps_builder *b
        if self.p == NULL:
            return
        if not self.is_closed and not self.p.forked:
            with nogil:
                ps_worker_detach(the_worker(), self.p)
        while True:
            b = ps_producer_fetch(self.p)
            if b == NULL:
                break
            drop_user(b)
            ps_producer_recycle(self.p, b)
        ps_producer_free(self.p)

    # ---- state

    @property
    def closed(self):
        """True once `close` was called, or the store was closed."""
        return bool(self.is_closed)

    def stats(self):
        """Counters since it was made: records, bytes (of frames) and batches delivered, failed_records, errors (tries
        that failed) and retries (those that are tried again), last_ns (wall clock of the last delivery, 0: none), and
        pending_records and pending_bytes that wait here."""
        cdef ps_producer_stats s
        memset(&s, 0, sizeof(s))
        if self.p != NULL:
            ps_producer_get_stats(self.p, &s)
        return {
            "records": s.records + self.records_in,
            "bytes": s.bytes + self.bytes_in,
            "batches": s.batches + self.batches_in,
            "failed_records": s.failed_records + self.failed_in,
            "errors": s.errors + self.errors_in,
            "retries": s.retries,
            "last_ns": max(s.last_ns, self.last_in),
            "pending_records": s.pending_records,
            "pending_bytes": s.pending_bytes,
        }

    cdef int check_open(self) except -1:
        if self.p != NULL and (self.p.forked or self.store.is_forked()):
            raise ForkedError("the producer was opened before a fork; open the store again in the child",
                              topic=self.schema.topic)
        if self.is_closed or self.is_closing:
            raise ClosedError("the producer is closed", topic=None if self.schema is None else self.schema.topic)
        return 0

    # ---- what came of earlier records

    cdef int collect(self) except -1:
        """Report what has finished; raise what a callback raised, or the error of records that did not go out.

        One thread at a time calls callbacks, or those of a partition would not come in the order of its records.
        Another one leaves it to that thread, and a callback that calls the producer to the call it is in."""
        cdef ps_error err
        cdef uint64_t records
        cdef uint32_t lane
        if self.reporter == 0:
            self.reporter = PyThread_get_thread_ident()
            try:
                first = self.report_all()
            finally:
                self.reporter = 0
            if first is not None:
                raise first
        if ps_producer_take_error(self.p, &err, &records, &lane):
            raise delivery_error(self.logs[lane], records, error_of(self.logs[lane], &err))
        return 0

    cdef object report_all(self):
        cdef ps_builder *b
        first = None
        while True:
            b = ps_producer_fetch(self.p)
            if b == NULL:
                return first
            raised = report(self.p, self.logs[b.lane], self.on_delivery, b)
            first = first or raised

    cdef bint wait_for_reports(self, int64_t deadline_ns) except -1:
        """Wait while another thread calls callbacks. False: the deadline has passed."""
        while self.reporter != 0 and self.reporter != PyThread_get_thread_ident():
            if is_past(deadline_ns):
                return False
            with nogil:
                usleep(200)
            PyErr_CheckSignals()
        return True

    # ---- send

    cdef bint needs_keys(self) noexcept:
        return self.key_rule[0]

    def send(self, value, key=None, *, headers=None, timestamp=None, partition=None, on_delivery=None):
        """Put one record into the open batch of its partition. Accepted when it returns, delivered when
        `flush` returns or its callback is called."""
        cdef ps_producer *p = self.p
        cdef PyObject *v = <PyObject *>value
        cdef PyObject *k = <PyObject *>key
        cdef uint32_t lane = 0
        if self.is_coded:
            self.send_coded(value, key, headers, timestamp, partition, on_delivery)
            return
        if (headers is None and timestamp is None and partition is None and on_delivery is None
                and self.partitioner is None and not self.is_closed and PyBytes_CheckExact(v)
                and not p.attention and not p.forked):
            if key is None:
                if not self.key_rule[0] and ps_producer_add_plain(p, PyBytes_AS_STRING(v), PyBytes_GET_SIZE(v)):
                    return
            elif PyBytes_CheckExact(k) and (self.hashes or self.lane_count == 1):
                if self.lane_count > 1:
                    lane = lane_of_hash(PyBytes_AS_STRING(k), PyBytes_GET_SIZE(k), self.lane_count)
                if ps_producer_add_keyed(p, lane, PyBytes_AS_STRING(v), PyBytes_GET_SIZE(v),
                                         PyBytes_AS_STRING(k), PyBytes_GET_SIZE(k)):
                    return
        self.send_any(value, key, headers, timestamp, partition, on_delivery)

    cdef int send_coded(self, object value, object key, object headers, object timestamp, object partition,
                        object on_delivery) except -1:
        """`send` through serializers: the same, once there are bytes."""
        cdef ps_producer *p = self.p
        cdef const uint8_t *v
        cdef const uint8_t *k
        cdef int64_t v_size, k_size
        cdef uint32_t lane = 0
        value = encode_scalar(self.value_coder, value, False, self.schema, &v, &v_size)
        key = encode_scalar(self.key_coder, key, True, self.schema, &k, &k_size)
        if (headers is None and timestamp is None and partition is None and on_delivery is None
                and self.partitioner is None and not self.is_closed and v_size >= 0
                and not p.attention and not p.forked):
            if k_size == -1:
                if not self.key_rule[0] and ps_producer_add_plain(p, v, v_size):
                    return 0
            elif k_size >= 0 and (self.hashes or self.lane_count == 1):
                if self.lane_count > 1:
                    lane = lane_of_hash(k, k_size, self.lane_count)
                if ps_producer_add_keyed(p, lane, v, v_size, k, k_size):
                    return 0
        if isinstance(value, str) and v_size >= 0:
            value = (<const char *>v)[:v_size]
        if isinstance(key, str) and k_size >= 0:
            key = (<const char *>k)[:k_size]
        return self.send_any(value, key, headers, timestamp, partition, on_delivery)

    cdef int64_t lane_named(self, object partition) except -1:
        if isinstance(partition, bool) or not hasattr(partition, "__index__"):
            raise TypeError(f"partition must be an int, not {type(partition).__name__}")
        index = partition.__index__()
        if not 0 <= index < self.lane_count:
            raise OptionError(f"partition {index} is not one of topic {self.schema.topic!r}, which has "
                              f"{self.lane_count}", topic=self.schema.topic)
        return index

    cdef int64_t lane_of(self, object key, const uint8_t *data, int64_t key_bytes) except -1:
        """Where a record with this key goes; key is only looked at by a caller's partitioner."""
        if self.partitioner is not None:
            index = self.partitioner(None if key_bytes < 0 else bytes(key), self.lane_count)
            if isinstance(index, bool) or not hasattr(index, "__index__"):
                raise TypeError(f"the partitioner returned {index!r}, not an int")
            index = index.__index__()
            if not 0 <= index < self.lane_count:
                raise ValueError(f"the partitioner returned {index}, which is not one of {self.lane_count} partitions")
            return index
        if key_bytes < 0 or not self.hashes:
            return PS_LANE_STICKY
        return lane_of_hash(data, key_bytes, self.lane_count)

    cdef int send_any(self, object value, object key, object headers, object timestamp, object partition,
                      object on_delivery) except -1:
        cdef ps_record r
        cdef View value_view, key_view
        cdef const uint8_t *data
        cdef Headers packed = None
        cdef int64_t lane
        self.check_open()
        self.collect()
        self.check_open()  # callbacks may have closed it
        memset(&r, 0, sizeof(r))
        value_view.obj = key_view.obj = NULL
        if on_delivery is not None and not callable(on_delivery):
            raise TypeError(f"on_delivery must be a callable(error, metadata), not {type(on_delivery).__name__}")
        if headers is not None:
            packed = Headers.__new__(Headers)
            packed.open(headers)
            r.headers = packed.items
            r.header_count = packed.count
        if timestamp is not None:
            if self.schema.log_append_time:
                raise ValueError('timestamp= cannot be given: the topic stamps records itself '
                                 '(timestamp_type="append")')
            r.timestamp = timestamp_ns(timestamp, self.parse_time)
            r.has_timestamp = True
        if self.schema.dtype is not None:
            if value is None:
                raise TypeError("value is null: a dtype= topic has no null values")
            if getattr(value, "dtype", self.schema.dtype) != self.schema.dtype:
                raise TypeError(f"value is of dtype {value.dtype}, the topic of {self.schema.dtype}")
        try:
            r.value_bytes = scalar_bytes(value, "value", &value_view, &data)
            r.value = data
            self.check_width("value", r.value_bytes, self.schema.value_width)
            r.key_bytes = scalar_bytes(key, "key", &key_view, &data)
            r.key = data
            self.check_width("key", r.key_bytes, self.schema.key_width)
            if r.key_bytes < 0 and self.needs_keys():
                raise key_required(self.schema.topic, "the record", None)
            lane = self.lane_of(key, data, r.key_bytes) if partition is None else self.lane_named(partition)
            return self.add(lane, &r, on_delivery)
        finally:
            if value_view.obj != NULL:
                release_view(&value_view)
            if key_view.obj != NULL:
                release_view(&key_view)

    cdef int check_width(self, str name, int64_t got, int32_t width) except -1:
        if width >= 0 and got >= 0 and got != width:
            raise ValueError(f"{name} has {got} bytes: this topic's {name}s have exactly {width}")
        return 0

    cdef int add(self, int64_t lane, const ps_record *r, object on_delivery) except -1:
        cdef ps_error err
        cdef ps_added added
        cdef ps_status status
        cdef bint is_tracked = on_delivery is not None
        cdef Tracked tracked = None
        cdef list spare = None
        if is_tracked:  # made beforehand: nothing may come between adding and noting
            tracked = Tracked.__new__(Tracked)
            tracked.callback = on_delivery
            spare = []
        while True:
            status = ps_producer_add(self.p, <uint32_t>lane, r, is_tracked, &added, &err)
            if status != PS_TIMEOUT:
                break
            if self.never_waits:
                raise BufferFull()
            with nogil:
                ps_producer_wait_room(self.p, SLICE_NS)
            PyErr_CheckSignals()
            self.check_open()
            self.collect()
            self.check_open()
        if status == PS_TOO_LARGE:
            raise RecordTooLargeError(
                f"the record does not fit a batch: those of this topic have at most "
                f"{ps_log_frame_bytes_max(ps_producer_lane(self.p, 0).log)} bytes; alter the topic: a larger "
                "segment_bytes= or max_message_bytes=",
                topic=self.schema.topic)
        if status != PS_OK:
            raise error_of(self.logs[<uint32_t>lane if lane != PS_LANE_STICKY else 0], &err)
        if is_tracked:
            tracked.index = added.index
            if added.builder.user == NULL:
                Py_INCREF(spare)
                added.builder.user = <void *>spare
            (<list>added.builder.user).append(tracked)
        return 0

    # ---- flush and close

    cdef int64_t drain(self, uint32_t lane, int64_t deadline_ns, bint patient) except -1:
        """Deliver all that a lane holds now. Answers PS_OK, PS_TIMEOUT, or else that a try failed. patient: try
        failures again until the deadline."""
        cdef ps_scratch scratch
        cdef ps_status status
        scratch.data = NULL
        scratch.bytes = 0
        try:
            while True:
                with nogil:
                    status = ps_producer_drain(self.p, lane, &scratch, remaining(deadline_ns))
                if status == PS_OK:
                    return status
                PyErr_CheckSignals()
                if is_past(deadline_ns):
                    return status
                if status != PS_TIMEOUT:
                    if not patient:
                        return status
                    with nogil:
                        usleep(10_000)
        finally:
            ps_scratch_free(&scratch)

    cdef int finish(self, int64_t deadline_ns) except -1:
        """Deliver what all lanes hold now, report it, and raise if something is left."""
        cdef uint32_t i
        cdef bint late = False
        cdef ps_producer_stats stats
        for i in range(self.lane_count):
            if self.drain(i, deadline_ns, False) == PS_TIMEOUT:
                late = True
        told = self.wait_for_reports(deadline_ns)
        self.collect()
        if not told:
            raise LockTimeoutError("delivery callbacks that another thread calls had not returned in time",
                                   topic=self.schema.topic)
        if late:
            ps_producer_get_stats(self.p, &stats)
            raise LockTimeoutError(f"{stats.pending_records} records of topic {self.schema.topic!r} were not delivered "
                                   "in time; they stay queued", topic=self.schema.topic)
        return 0

    def flush(self, int64_t timeout_ns=-1, bint durable=False):
        """Deliver everything sent so far; durable: put it on the disk too."""
        self.check_open()
        self.finish(deadline_of(timeout_ns))
        if durable:
            self.sync_lanes()

    cdef int sync_lanes(self) except -1:
        """Put on the disk what was delivered."""
        cdef uint32_t i
        cdef ps_status status
        cdef ps_error err
        cdef LogHandle log
        start_writeback(self.logs)
        for i in range(self.lane_count):
            if not ps_lane_take_unsynced(ps_producer_lane(self.p, i)):
                continue
            log = self.logs[i]
            with nogil:
                status = ps_log_sync(log.log, &err)
            if status != PS_OK:
                ps_lane_set_unsynced(ps_producer_lane(self.p, i))
                log.raise_error(&err)
        return 0

    def close(self, int64_t timeout_ns=-1):
        """Flush and close. What cannot be delivered is given up, counted in the DeliveryError, and reported to
        its callbacks. A timeout allows that long for repeated tries."""
        cdef uint32_t i
        cdef int64_t deadline = deadline_of(timeout_ns)
        if self.is_closed or self.is_closing or self.p == NULL:
            return
        if self.p.forked or self.store.is_forked():
            self.is_closed = True  # what it held is the parent's to deliver
            return
        self.is_closing = True
        try:
            for i in range(self.lane_count):
                self.drain(i, deadline, timeout_ns >= 0)
            self.wait_for_reports(deadline)
        except BaseException:  # a signal: it stays open, with all it holds
            self.is_closing = False
            raise
        with nogil:
            ps_worker_detach(the_worker(), self.p)
        self.is_closed = True
        self.abandon()

    cdef int abandon(self) except -1:
        """Give up what is left, report everything, and raise if something was lost."""
        cdef ps_error fallback, why
        cdef uint64_t lost
        cdef uint32_t lane = 0
        ps_fail(&fallback, PS_CLOSED, NULL, "the producer was closed before the record could be delivered")
        with nogil:
            lost = ps_producer_abandon(self.p, &fallback, &why, &lane)
        first = self.report_all()
        if lost:
            raise delivery_error(self.logs[lane], lost, error_of(self.logs[lane], &why))
        if first is not None:
            raise first
        return 0

    # ---- send_many
