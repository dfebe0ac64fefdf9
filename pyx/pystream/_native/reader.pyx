# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""PartitionReader reads one partition; Fetcher reads several in turn and waits for more."""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, int64_t, uint32_t
from libc.stdlib cimport free, malloc

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
    PS_WAIT_WORDS_MAX,
    ps_cursor,
    ps_cursor_clear,
    ps_cursor_init,
    ps_cursor_next,
    ps_cursor_seek,
    ps_error,
    ps_frame_next_offset,
    ps_frame_view,
    ps_log,
    ps_log_high_watermark,
    ps_log_is_read_only,
    ps_log_signal_word,
    ps_log_wait_begin,
    ps_log_wait_end,
    ps_log_wake,
    ps_os_futex_wait,
    ps_os_futex_wait_many,
    ps_os_monotonic_ns,
    ps_status,
)
from pystream._native.log cimport LogHandle
from pystream._native.memory cimport ArrowArray
from pystream._native.schema cimport Schema
from pystream._native.serial cimport calls_back

from pystream._native.errors import ClosedError

cdef extern from "ps_base.h" nogil:
    void ps_pause()

cdef extern from *:
    """
    #include <errno.h>
    #include <time.h>
    static inline int ps_flag_get(const int *flag) { return __atomic_load_n(flag, __ATOMIC_SEQ_CST); }
    static inline void ps_flag_set(int *flag, int value) { __atomic_store_n(flag, value, __ATOMIC_SEQ_CST); }
    static inline int ps_nap(int64_t ns) {
      struct timespec t = {ns / 1000000000, ns % 1000000000};
      return nanosleep(&t, NULL);
    }
    """
    int ps_flag_get(const int *flag) noexcept nogil
    void ps_flag_set(int *flag, int value) noexcept nogil
    int ps_nap(int64_t ns) noexcept nogil
    const int ETIMEDOUT
    const int EINTR

cdef enum:
    LARGE_FRAME_BYTES = 1 << 20  # checksummed in about 50 us when in memory, in far more when not
    SPIN_LOOKS = 64              # looks at the watermarks between two looks at the clock

# A wait is cut into slices, for the writer that died between publishing and waking.
cdef int64_t SLICE_NS = 1000000000
# Where the kernel cannot wait for the words: naps that double from the first to the last.
cdef int64_t NAP_NS_MIN = 1000000
cdef int64_t NAP_NS_MAX = 50000000

SPIN_NS_DEFAULT = 20_000


cdef class PartitionReader(ArrowSource):
    """Reads one partition forward from `start_offset`, up to `stop_offset` (not included) when it is >= 0.

    `next_batch()` gives batches, sliced at both ends of the range; iteration gives records. Both go on
    from the same place. At the end of the log they give None, or stop, and may be asked again. Records are
    made as `schema`, the log's own when left out, says. One that it cannot make stays the next one.
    Raises OffsetOutOfRangeError when start_offset is below the log start or beyond the high watermark.
    """

    def __cinit__(self):
        ps_cursor_init(&self.cursor)

    def __init__(self, LogHandle handle not None, int64_t start_offset, int64_t stop_offset=-1,
                 Schema schema=None):
        if self.handle is not None:
            raise RuntimeError("a PartitionReader is made once")
        self.handle = handle
        self.schema = schema or handle.schema
        self.calls_back = calls_back(self.schema)
        self.stop = stop_offset
        self.place(start_offset)

    def __dealloc__(self):
        ps_cursor_clear(&self.cursor)

    cdef int place(self, int64_t offset) except -1:
        cdef ps_cursor cursor
        cdef ps_error err
        if self.handle.log == NULL:
            raise ClosedError(f"{self.handle.topic}[{self.handle.partition}] is closed")
        ps_cursor_init(&cursor)
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
            if not self.placed:
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
        self.settle()
        self.batch = self.read()
        self.at = 0
        return self.batch is not None

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
        return batch

    cdef Record take_record(self):
        cdef Record record
        if not self.load():
            return None
        if self.calls_back:
            return self.take_guarded()
        self.in_hand = False
        record = batch_record(self.batch, self.at)
        self.at += 1
        self.in_hand = True
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
        self.at += 1
        self.in_hand = True
        return record

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
        self.batch = None
        self.in_hand = False

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
        if self.in_hand:
            return self.batch.offset_at(self.at - 1)
        return self.batch.offset_at(self.at) if self.at < self.batch.count else self.batch.end_offset()

    @property
    def stop_offset(self):
        """First offset that is not read any more; None when there is no such bound."""
        return None if self.stop < 0 else self.stop

    def __reduce__(self):
        raise TypeError("a PartitionReader cannot be pickled")

    def __repr__(self):
        return f"<PartitionReader of {self.handle.topic}[{self.handle.partition}] at {self.position}>"

# ---- waiting, without the GIL -----------------------------------------------------------------

cdef struct Watch:
    ps_log *log
    int64_t wanted  # the watermark has to pass it


cdef bint moved(const Watch *watches, size_t count, const int *halt) noexcept nogil:
    cdef size_t i
    if ps_flag_get(halt):
        return True
    for i in range(count):
        if ps_log_high_watermark(watches[i].log) > watches[i].wanted:
            return True
    return False


cdef bint spin(const Watch *watches, size_t count, const int *halt, int64_t until) noexcept nogil:
    cdef int look
    while True:
        for look in range(SPIN_LOOKS):
            if moved(watches, count, halt):
                return True
            ps_pause()
        if ps_os_monotonic_ns() >= until:
            return False


# Sleep on the logs' signal words. No wake-up is missed: a writer publishes, then looks for waiters; we
# register as waiters and read the words, then look at the watermarks again. What is published after
# that look changes a word, and the kernel does not let us sleep on a changed word. wake() and close()
# set the flag before they change the words, so the same holds for them. Answers what the kernel did: 0, or
# -errno; 1 when the words are too many, or none, or not all can be slept on.
cdef int sleep_on_words(const Watch *watches, size_t count, const int *halt, int64_t timeout_ns) noexcept nogil:
    cdef const void *words[PS_WAIT_WORDS_MAX]
    cdef uint32_t seen[PS_WAIT_WORDS_MAX]
    cdef size_t i
    cdef int answer = 0
    if count == 0 or count > PS_WAIT_WORDS_MAX:
        return 1
    for i in range(count):
        if ps_log_is_read_only(watches[i].log):
            return 1
    for i in range(count):
        words[i] = ps_log_signal_word(watches[i].log)
        seen[i] = ps_log_wait_begin(watches[i].log)
    if not moved(watches, count, halt):
        if count == 1:
            answer = ps_os_futex_wait(words[0], seen[0], timeout_ns)
        else:
            answer = ps_os_futex_wait_many(words, seen, count, timeout_ns)
    for i in range(count):
        ps_log_wait_end(watches[i].log)
    return answer

# ---- several partitions -----------------------------------------------------------------------

cdef class Fetcher:
    """Reads the partitions of `readers` in turn, one batch each, and waits when there is nothing.

    A wait spins for `spin_ns` nanoseconds (0: not at all), then sleeps until a writer in any process
    publishes; an idle one wakes once a second. It ends for signals, `wake()` and `close()`.
    Timeouts are in nanoseconds: -1 waits for ever, 0 never.
    """

    def __init__(self, readers=(), *, int64_t spin_ns=SPIN_NS_DEFAULT):
        if spin_ns < 0:
            raise ValueError(f"spin_ns must be 0 or more, not {spin_ns}")
        self.members = []
        self.spin_ns = spin_ns
        self.nap_ns = NAP_NS_MIN
        for reader in readers:
            self.add(reader)

    def add(self, PartitionReader reader not None):
        """Read from one more partition."""
        self.enter()
        self.members.append(reader)
        self.leave()

    def remove(self, PartitionReader reader not None):
        """Read from it no more. ValueError when it is not one of `readers`."""
        self.enter()
        try:
            self.members.remove(reader)
            if self.current is reader:
                self.current = None
        finally:
            self.leave()

    @property
    def readers(self):
        """The partition readers, as a tuple."""
        return tuple(self.members)

    @property
    def closed(self):
        """Whether close() was called."""
        return self.closing

    @property
    def is_watched(self):
        """Whether an event loop waits for it."""
        return self.watch is not None

    # ---- one thread at a time

    cdef int enter(self) except -1:
        if self.closing:
            raise ClosedError("the consumer is closed")
        if self.busy:
            raise RuntimeError("another thread is reading from this consumer")
        self.busy = True
        return 0

    cdef void leave(self) noexcept:
        self.busy = False
        if self.closing:
            self.members = []
            self.current = None

    def wake(self):
        """End the wait under way, or the next one: poll() gives None, iteration stops. From any thread."""
        cdef PartitionReader reader
        ps_flag_set(&self.halt, 1)
        for reader in list(self.members):
            if reader.handle.log != NULL and not reader.paused and not reader.done:
                ps_log_wake(reader.handle.log)
        self.nudge()

    def nudge(self):
        """Have an event loop that waits look again: what is read has changed."""
        watch = self.watch
        if watch is not None:
            watch.ring()

    def close(self):
        """Let go of the partitions; a wait under way ends. From any thread; again is fine."""
        if self.closing:
            return
        self.closing = True
        if self.busy:  # another thread is inside: it lets go when it leaves
            self.wake()
        else:
            self.leave()
            self.nudge()

    # ---- reading

    cdef PartitionReader ready(self):
        """The next reader in turn that has a record, or None."""
        cdef Py_ssize_t i, k, count = len(self.members)
        cdef Py_ssize_t first = self.turn
        cdef PartitionReader reader
        for i in range(count):
            k = (first + i) % count
            reader = <PartitionReader>self.members[k]
            if reader.paused:
                continue
            self.turn = k + 1  # where it fails, too: the others are not to wait for it
            if reader.load():
                self.nap_ns = NAP_NS_MIN
                return reader
        self.turn = first
        return None

    cdef PartitionReader next_ready(self, int64_t timeout_ns):
        cdef PartitionReader reader
        cdef int64_t deadline = INT64_MAX
        cdef int64_t now
        cdef bint spin = True
        if self.current is not None:
            self.current.settle()
        reader = self.ready()
        if reader is not None or timeout_ns == 0:
            return reader
        if timeout_ns > 0:
            now = ps_os_monotonic_ns()
            deadline = now + timeout_ns if timeout_ns < INT64_MAX - now else INT64_MAX
        while True:
            if not self.sleep(deadline, spin):
                return None
            spin = False
            PyErr_CheckSignals()
            if ps_flag_get(&self.halt):
                ps_flag_set(&self.halt, 0)
                return None
            reader = self.ready()
            if reader is not None or ps_os_monotonic_ns() >= deadline:
                return reader

    cdef int sleep(self, int64_t deadline, bint spin_first) except -1:
        """Until a partition may have more, a slice is over or a signal came: 1. 0: none will have more."""
        cdef list active = [r for r in self.members if not (<PartitionReader>r).paused
                            and not (<PartitionReader>r).done]
        cdef size_t i, count = len(active)
        cdef int64_t now = ps_os_monotonic_ns()
        cdef int64_t slice_ns = min(max(deadline - now, 0), SLICE_NS)
        cdef int64_t until = min(now + self.spin_ns, deadline)
        cdef Watch *watches
        cdef PartitionReader reader
        cdef int answer = 0
        if count == 0 and any((<PartitionReader>r).done for r in self.members):
            return 0
        watches = <Watch *>malloc(max(count, <size_t>1) * sizeof(Watch))
        if watches == NULL:
            raise MemoryError()
        for i in range(count):
            reader = <PartitionReader>active[i]
            watches[i].log = reader.handle.log
            watches[i].wanted = reader.wanted
        with nogil:
            if not (spin_first and count and self.spin_ns and spin(watches, count, &self.halt, until)):
                if count > 1 and self.no_wait_many:
                    answer = 1
                else:
                    answer = sleep_on_words(watches, count, &self.halt, slice_ns)
        free(watches)
        if answer < 0 and answer != -ETIMEDOUT and answer != -EINTR:
            self.no_wait_many = self.no_wait_many or count > 1
            answer = 1
        if answer == 1:
            self.nap(slice_ns)
        return 1

    cdef void nap(self, int64_t slice_ns) noexcept:
        cdef int64_t ns = min(self.nap_ns, slice_ns)
        self.nap_ns = min(self.nap_ns * 2, NAP_NS_MAX)
        if not ps_flag_get(&self.halt):
            with nogil:
                ps_nap(ns)

    cdef Record take_record(self, int64_t timeout_ns):
        cdef PartitionReader reader
        self.enter()
        try:
            reader = self.current
            if reader is None or reader.paused or reader.batch is None or reader.at >= reader.batch.count:
                reader = self.next_ready(timeout_ns)
                self.current = reader
            return None if reader is None else reader.take_record()
        finally:
            self.leave()

    def poll(self, int64_t timeout_ns=-1):
        """The next Batch of any partition, or None when there was none in time."""
        cdef PartitionReader reader
        self.enter()
        try:
            reader = self.next_ready(timeout_ns)
            return None if reader is None else reader.take_batch()
        finally:
            self.leave()

    def records(self, int64_t timeout_ns=-1):
        """An iterator of Records that stops when none came for `timeout_ns`. Where several are made, they
        go on from the same place."""
        cdef RecordStream stream = RecordStream.__new__(RecordStream)
        stream.fetcher = self
        stream.timeout_ns = timeout_ns
        return stream

    def __reduce__(self):
        raise TypeError("a Fetcher cannot be pickled")

    def __repr__(self):
        return f"<Fetcher of {len(self.members)} partitions{', closed' if self.closing else ''}>"


@cython.final
cdef class RecordStream:
    """Records of a Fetcher."""
    cdef Fetcher fetcher
    cdef int64_t timeout_ns

    def __init__(self):
        raise TypeError("made by Fetcher.records()")

    def __iter__(self):
        return self

    def __next__(self):
        cdef Fetcher fetcher = self.fetcher
        cdef PartitionReader reader = fetcher.current
        cdef Record record
        if (reader is not None and reader.batch is not None and reader.at < reader.batch.count
                and not reader.paused and not fetcher.busy and not reader.calls_back):
            reader.in_hand = False
            record = batch_record(reader.batch, reader.at)
            reader.at += 1
            reader.in_hand = True
            return record
        record = fetcher.take_record(self.timeout_ns)
        if record is None:
            raise StopIteration
        return record
