# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Many records sent at once: in batches of their own, in the caller's thread."""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc

from pystream._native.c_api cimport PS_OK, ps_columns, ps_log_frame_bytes_max, ps_os_now_ns
from pystream._native.delivery cimport delivery_error, report_columns
from pystream._native.encode cimport Input
from pystream._native.log cimport LogHandle
from pystream._native.producer cimport ProducerCore, lane_of_hash
from pystream._native.source cimport Source, View, release_view, scalar_bytes
from pystream._native.write_api cimport (
    ps_lane_set_unsynced, ps_producer_lane, ps_producer_next_sticky, ps_scratch, ps_scratch_free,
)
from pystream._native.writer cimport Appended, append_columns


cdef class Sender:
    """One send_many under way."""
    cdef ProducerCore core
    cdef Input given
    cdef ps_scratch scratch
    cdef Py_ssize_t sent
    cdef uint32_t *lanes  # of each record
    cdef uint32_t *order  # records, lane by lane
    cdef object raised    # by a callback

    def __dealloc__(self):
        ps_scratch_free(&self.scratch)
        free(self.lanes)
        free(self.order)

    cdef int run(self, int64_t lane, Py_ssize_t start, Py_ssize_t stop, const uint32_t *order) except -1:
        """Append records start .. stop, through order, to a lane; -1: each batch to the next."""
        cdef ProducerCore core = self.core
        cdef Py_ssize_t at = start, end
        cdef uint32_t to
        cdef ps_columns columns
        cdef Appended appended
        cdef LogHandle log
        while at < stop:
            to = ps_producer_next_sticky(core.p) if lane < 0 else <uint32_t>lane
            log = core.logs[to]
            while core.drain(to, -1, False) != PS_OK:
                core.collect()  # raises, unless another thread was told
            try:
                end = self.given.cut(at, stop, order, min(core.batch_bytes, ps_log_frame_bytes_max(log.log)),
                                     core.batch_records)
                self.given.take(at, end - at, order, &columns)
                append_columns(log, &columns, core.codec, NULL, &self.scratch, -1, &appended)
            except Exception as error:
                left = self.given.count - self.sent
                core.failed_in += left
                core.errors_in += 1
                raise delivery_error(log, left, error) from error
            self.sent += end - at
            core.records_in += end - at
            core.batches_in += 1
            core.bytes_in += appended.frame_bytes
            core.last_in = ps_os_now_ns()
            ps_lane_set_unsynced(ps_producer_lane(core.p, to))
            if core.on_delivery is not None:
                raised = report_columns(log, core.on_delivery, &columns, appended.base_offset,
                                        appended.first_timestamp)
                self.raised = self.raised or raised
            at = end
        return 0

    cdef int choose(self, uint32_t lanes) except -1:
        """The lane of each record; the first `lanes` if the producer has not grown meanwhile."""
        cdef ProducerCore core = self.core
        cdef Py_ssize_t i
        cdef Source keys = self.given.keys
        cdef const uint8_t *data
        cdef int64_t size
        cdef View view
        cdef uint32_t sticky = ps_producer_next_sticky(core.p)
        for i in range(self.given.count):
            data = NULL
            view.obj = NULL
            size = -1 if keys is None else keys.peek(i, &data)
            if size >= 0 and data == NULL:
                size = scalar_bytes(keys.items[i], f"keys[{i}]", &view, &data)
            try:
                if core.partitioner is None:
                    self.lanes[i] = sticky if size < 0 else lane_of_hash(data, <size_t>size, lanes)
                else:
                    self.lanes[i] = <uint32_t>core.lane_of((<const char *>data)[:size] if size >= 0 else None, data, size)
            finally:
                if view.obj != NULL:
                    release_view(&view)
        return 0

    cdef int spread(self) except -1:
        """Choose a lane for each record, then send lane by lane; order within a lane is the order given."""
        cdef Py_ssize_t i = 0, n = self.given.count
        cdef uint32_t lane, lanes = 0
        cdef Py_ssize_t *ends = NULL
        self.lanes = <uint32_t *>malloc(n * sizeof(uint32_t))
        self.order = <uint32_t *>malloc(n * sizeof(uint32_t))
        try:
            if self.lanes == NULL or self.order == NULL:
                raise MemoryError()
            while lanes != self.core.lane_count:  # it may grow while a partitioner runs: then all choose anew
                lanes = self.core.lane_count
                self.choose(lanes)
            ends = <Py_ssize_t *>calloc(lanes + 1, sizeof(Py_ssize_t))
            if ends == NULL:
                raise MemoryError()
            for i in range(n):
                ends[self.lanes[i] + 1] += 1
            for lane in range(lanes):
                ends[lane + 1] += ends[lane]
            for i in range(n):
                lane = self.lanes[i]
                self.order[ends[lane]] = <uint32_t>i
                ends[lane] += 1  # now the end of what stands there
            i = 0
            for lane in range(lanes):
                if ends[lane] > i:
                    self.run(lane, i, ends[lane], self.order)
                i = ends[lane]
        finally:
            free(ends)
        return 0


cdef class SendingCore(ProducerCore):
    """A `ProducerCore` that takes many records at once, too."""
    def send_many(self, values, *, keys=None, headers=None, timestamps=None, partition=None):
        """Send n records in this thread, as batches of their own; they are delivered when it returns.

        Everything is checked before anything is written. What was sent before goes first. Arrays are read
        where they lie, so no other thread may change them during the call."""
        cdef Input given = Input.__new__(Input)
        cdef Sender sender
        self.check_open()
        self.collect()
        self.check_open()
        given.open(self.schema, values, keys, headers, timestamps, self.parse_time)
        if given.count == 0:
            if partition is not None:
                self.lane_named(partition)
            return
        if self.needs_keys():
            given.check_keys()
        given.check_records(ps_log_frame_bytes_max(ps_producer_lane(self.p, 0).log))
        sender = Sender.__new__(Sender)
        sender.core = self
        sender.given = given
        if partition is not None:
            sender.run(self.lane_named(partition), 0, given.count, NULL)
        elif self.lane_count == 1:
            sender.run(0, 0, given.count, NULL)
        elif self.partitioner is None and (keys is None or not self.hashes):
            sender.run(-1, 0, given.count, NULL)
        else:
            sender.spread()
        if sender.raised is not None:
            raise sender.raised
