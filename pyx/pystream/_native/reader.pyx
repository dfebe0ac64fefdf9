# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""PartitionReader reads one partition, as records or batches."""
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pystream._native.arrow cimport ArrowSource, batch_export
from pystream._native.batch cimport (
    Batch,
    Record,
    batch_find,
    batch_from_view,
    batch_record,
    batch_slice,
    batch_trim,
)
from pystream._native.c_api cimport (
    PS_END,
    PS_OK,
    ps_cursor,
    ps_cursor_clear,
    ps_cursor_init,
    ps_cursor_next,
    ps_cursor_seek,
    ps_error,
    ps_frame_next_offset,
    ps_frame_view,
    ps_log_start_offset,
    ps_status,
)
from pystream._native.log cimport LogHandle
from pystream._native.memory cimport ArrowArray
from pystream._native.schema cimport Schema
from pystream._native.serial cimport calls_back

from pystream._native.errors import ClosedError, OffsetOutOfRangeError

cdef extern from *:
    """
    #include <time.h>
    /* To a few ms, for a fifth of what the exact time costs: it is asked for once a batch. */
    static inline int64_t coarse_now_ns(void) {
      struct timespec t;
      clock_gettime(CLOCK_REALTIME_COARSE, &t);
      return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    """
    int64_t coarse_now_ns() noexcept nogil

cdef enum:
    LARGE_FRAME_BYTES = 1 << 20  # checksummed in about 50 us when in memory, in far more when not


cdef class PartitionReader(ArrowSource):
    """Reads one partition forward from `start_offset`, up to `stop_offset` (not included) when it is >= 0.

    `next_batch()` gives batches, sliced at both ends of the range; iteration gives records. Both go on
    from the same place. At the end of the log they give None, or stop, and may be asked again. Records are
    made as `schema`, the log's own when left out, says. One that it cannot make stays the next one. `durable`: the
    log ends where what is known to be on the disk does.
    Raises OffsetOutOfRangeError when start_offset is below the log start or beyond the high watermark.
    """

    def __cinit__(self):
        ps_cursor_init(&self.cursor)

    def __init__(self, LogHandle handle not None, int64_t start_offset, int64_t stop_offset=-1,
                 Schema schema=None, bint durable=False):
        if self.handle is not None:
            raise RuntimeError("a PartitionReader is made once")
        self.handle = handle
        self.schema = schema or handle.schema
        self.calls_back = calls_back(self.schema)
        self.stop = stop_offset
        self.cursor.durable = durable
        self.place(start_offset)

    def __dealloc__(self):
        ps_cursor_clear(&self.cursor)

    cdef int place(self, int64_t offset) except -1:
        cdef ps_cursor cursor
        cdef ps_error err
        if self.handle.log == NULL:
            raise ClosedError(f"{self.handle.topic}[{self.handle.partition}] is closed")
        ps_cursor_init(&cursor)
        cursor.durable = self.cursor.durable
        if ps_cursor_seek(self.handle.log, &cursor, offset, &err) != PS_OK:
            ps_cursor_clear(&cursor)
            self.handle.raise_error(&err)
        ps_cursor_clear(&self.cursor)
        self.cursor = cursor
        self.placed = True
        self.wanted = offset
        self.done = self.stop >= 0 and offset >= self.stop
        return 0

    cdef Batch read(self):
        """The next batch of the log that holds a wanted record, trimmed; None when there is none yet."""
        cdef ps_frame_view view
        cdef ps_error err
        cdef ps_status status
        cdef int64_t next_offset
        cdef Batch batch
        cdef uint32_t first, last
        if self.done:
            return None
        if self.busy:
            raise RuntimeError("another thread is reading from this consumer")
        if self.handle.log == NULL:
            raise ClosedError(f"{self.handle.topic}[{self.handle.partition}] is closed")
        self.busy = True
        try:
            # Nobody reads what was deleted, though it may be there still.
            if not self.placed or self.wanted < ps_log_start_offset(self.handle.log):
                self.place(self.wanted)
            while True:
                if self.large:
                    with nogil:
                        status = ps_cursor_next(self.handle.log, &self.cursor, &view, &err)
                else:
                    status = ps_cursor_next(self.handle.log, &self.cursor, &view, &err)
                if status == PS_END:
                    # Frames without records have been passed over.
                    self.wanted = max(self.wanted, self.cursor.next_offset)
                    return None
                if status != PS_OK:
                    self.handle.raise_error(&err)
                self.large = view.meta.frame_bytes >= LARGE_FRAME_BYTES
                next_offset = ps_frame_next_offset(&view.meta)
                if self.stop >= 0 and next_offset >= self.stop:
                    self.done = True
                if next_offset <= self.wanted:
                    continue
                if view.meta.record_count:
                    # Until the batch is made, its offsets have not been read: a failure comes again.
                    self.placed = False
                    batch = batch_from_view(&view, self.schema, self.handle.partition)
                    self.placed = True
                    first = 0 if view.meta.base_offset >= self.wanted else batch_find(batch, self.wanted)
                    last = batch.count
                    if self.stop >= 0 and next_offset > self.stop:
                        last = batch_find(batch, self.stop)
                    if first < last:
                        batch_trim(batch, first, last)
                        self.wanted = self.stop if self.done else next_offset
                        return batch
                if self.done:
                    self.wanted = self.stop
                    return None
                self.wanted = next_offset
        finally:
            if not self.placed:
                self.done = False
            self.busy = False

    # ---- batches and records from one place

    cdef bint load(self) except -1:
        """Whether `batch` holds a record not yet handed out, reading the next one if need be."""
        if self.batch is not None and self.at < self.batch.count:
            return True
        return self.load_next()

    cdef bint load_next(self) except -1:
        self.settle()
        while True:
            try:
                self.batch = self.read()
                break
            except OffsetOutOfRangeError:
                self.errors += 1
                if self.on_fall is None or self.wanted >= ps_log_start_offset(self.handle.log):
                    raise
            except BaseException:
                self.errors += 1
                raise
            self.on_fall(self)
        self.at = 0
        if self.batch is None:
            return False
        self.batches_in += 1
        self.records_in += self.batch.count
        self.bytes_in += self.batch.meta.frame_bytes
        self.last_ns = coarse_now_ns()
        return True

    cdef uint32_t unread(self) noexcept:
        """Records of the batch in hand that were not handed out."""
        return self.batch.count - self.at if self.batch is not None and self.at < self.batch.count else 0

    cdef void settle(self) noexcept:
        """The next one is asked for: the record in hand has been read."""
        self.in_hand = False
        if self.batch is not None and self.at >= self.batch.count:
            self.batch = None

    cdef Batch take_batch(self):
        cdef Batch batch
        if not self.load():
            return None
        batch = self.batch if self.at == 0 else batch_slice(self.batch, self.at, self.batch.count)
        self.batch = None
        self.in_hand = False
        if self.mark != NULL:
            move_mark(self, batch.first_offset())
        return batch

    cdef Record take_record(self):
        cdef Record record
        if not self.load():
            return None
        if self.calls_back:
            return self.take_guarded()
        self.in_hand = False
        record = batch_record(self.batch, self.at)
        hand_out(self)
        return record

    cdef Record take_guarded(self):
        """While what is not ours runs, nobody moves the place."""
        cdef Record record
        if self.busy:
            raise RuntimeError("this consumer is being read from already")
        self.busy = True
        self.in_hand = False
        try:
            record = batch_record(self.batch, self.at)
        finally:
            self.busy = False
        hand_out(self)
        return record

    # ---- what was consumed, where others see it

    def settle_mark(self):
        """What was handed out is consumed: the mark goes behind it. After a seek it stays where it is until
        something was handed out from there."""
        settle_mark(self)

    cdef int64_t behind(self) noexcept:
        if self.batch is None:
            return self.wanted
        if self.at < self.batch.count:
            return self.batch.offset_at(self.at)
        return self.batch.end_offset()

    def share_mark(self, memory):
        """Keep the mark in `memory`: a writable buffer of one int64, left as it is until something is handed
        out."""
        view = memoryview(memory)
        if view.readonly or view.nbytes != sizeof(int64_t) or not view.c_contiguous:
            raise ValueError("a mark takes a writable buffer of 8 bytes")
        self.mark = <int64_t *>PyMemoryView_GET_BUFFER(view).buf
        self.mark_owner = view

    cdef int arrow_next(self, ArrowArray *out) except -1:
        cdef Batch batch = self.take_batch()
        out.release = NULL
        if batch is None:
            return 0
        batch_export(batch.schema, batch.lease, &batch.columns, batch.meta.base_offset, batch.start,
                     batch.count, out)
        return 1

    def next_batch(self):
        """The next Batch, or None when there is none (yet)."""
        return self.take_batch()

    def __iter__(self):
        return self

    def __next__(self):
        cdef Record record = self.take_record()
        if record is None:
            raise StopIteration
        return record

    def seek(self, int64_t offset):
        """Go on at `offset`. Raises OffsetOutOfRangeError, and stays where it was."""
        if self.busy:
            raise RuntimeError("another thread is reading from this consumer")
        self.place(offset)
        self.records_in -= self.unread()
        self.batch = None
        self.in_hand = False
        self.mark_follows = False

    def pause(self):
        """Let a Fetcher pass over this partition until resume()."""
        self.paused = True

    def resume(self):
        """End pause()."""
        self.paused = False

    @property
    def topic(self):
        """Name of the topic."""
        return self.handle.topic

    @property
    def partition(self):
        """Number of the partition."""
        return self.handle.partition

    @property
    def position(self):
        """Offset of the next record to be read. A record handed out by iteration counts as read when the
        next one is asked for; a batch, at once."""
        if self.batch is None:
            return self.wanted
        return self.batch.offset_at(self.at - 1) if self.in_hand else self.behind()

    @property
    def reached(self):
        """Offset behind all that was handed out, the record in hand counted as read."""
        return self.behind()

    @property
    def stop_offset(self):
        """First offset that is not read any more; None when there is no such bound."""
        return None if self.stop < 0 else self.stop

    def __reduce__(self):
        raise TypeError("a PartitionReader cannot be pickled")

    def __repr__(self):
        return f"<PartitionReader of {self.handle.topic}[{self.handle.partition}] at {self.position}>"
