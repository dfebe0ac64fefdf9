# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Fetcher reads several partitions in turn and waits for more; Attention is what it looks at meanwhile."""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from pystream._native.batch cimport Record, batch_record
from pystream._native.bells cimport Waits, ps_watch_log, ps_watch_word
from pystream._native.c_api cimport (
    PS_WAIT_WORDS_MAX, ps_log, ps_log_is_read_only, ps_log_listen, ps_log_readable_offset, ps_log_signal_word,
    ps_log_trim, ps_log_wake, ps_os_futex_wait, ps_os_futex_wait_many, ps_os_futex_wake_all, ps_os_monotonic_ns,
    ps_os_nap,
)
from pystream._native.forks cimport forks_seen
from pystream._native.reader cimport PartitionReader, hand_out, settle_mark

from pystream._native.errors import ClosedError, ForkedError, TopicDeletedError

cdef extern from "ps_base.h" nogil:
    void ps_pause()

cdef extern from *:
    """
    #include <errno.h>
    static inline int ps_flag_get(const int *flag) { return __atomic_load_n(flag, __ATOMIC_SEQ_CST); }
    static inline void ps_flag_set(int *flag, int value) { __atomic_store_n(flag, value, __ATOMIC_SEQ_CST); }
    static inline uint32_t ps_word_get(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    /* One writer: a load and a store, no locked addition. Relaxed: it says only that time goes on. */
    static inline void ps_beat(uint64_t *beats) {
      __atomic_store_n(beats, __atomic_load_n(beats, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
    }
    """
    int ps_flag_get(const int *flag) noexcept nogil
    void ps_flag_set(int *flag, int value) noexcept nogil
    uint32_t ps_word_get(const uint32_t *word) noexcept nogil
    void ps_beat(uint64_t *beats) noexcept nogil
    const int ETIMEDOUT
    const int EINTR
    const int ENOSYS

cdef enum:
    SPIN_LOOKS = 64   # looks at the watermarks between two looks at the clock
    OWN_WORDS = 3     # slept on beside those of the logs: halt, due, and the attention's word

# A wait is cut into slices, for the writer that died between publishing and waking.
cdef int64_t SLICE_NS = 1000000000
# Where the kernel cannot wait for the words: naps that double from the first to the last.
cdef int64_t NAP_NS_MIN = 1000000
cdef int64_t NAP_NS_MAX = 50000000

SPIN_NS_DEFAULT = 20_000


cdef class Attention:
    """What a Fetcher looks at at each ask for a record or batch, and in its waits.

    Each ask, and each wait at least once in `slice_ns` nanoseconds, adds one to `beats`. When `word` has
    changed, or want() was called, and after each slice of a wait, `notice(waited)` is called by the thread
    that asks, which may add and remove readers there. What it raises goes to who asked, and it is called
    again at the next ask; nothing has been taken. With neither word nor beats, who iterates asks once a batch.

    word, beats: writable buffers of 4 and of 8 bytes, in memory that others may share; None: none.
    """

    def __cinit__(self, *args, **kwargs):
        self.slice_ns = SLICE_NS
        self.generation = forks_seen()
        self.is_close = True

    def __init__(self, notice, *, word=None, beats=None, int64_t slice_ns=SLICE_NS):
        if slice_ns <= 0:
            raise ValueError(f"slice_ns must be more than 0, not {slice_ns}")
        if word is not None:
            self.word_owner = shared(word, sizeof(uint32_t), "word")
            self.word = <const uint32_t *>PyMemoryView_GET_BUFFER(self.word_owner).buf
            self.seen = ps_word_get(self.word)
        if beats is not None:
            self.beats_owner = shared(beats, sizeof(uint64_t), "beats")
            self.beats = <uint64_t *>PyMemoryView_GET_BUFFER(self.beats_owner).buf
        self.is_close = self.word != NULL or self.beats != NULL
        self.slice_ns = slice_ns
        self.notice = notice

    cdef void beat(self) noexcept:
        if self.beats != NULL:
            ps_beat(self.beats)

    cdef bint is_wanted(self) noexcept:
        return ps_flag_get(&self.due) or (self.word != NULL and ps_word_get(self.word) != self.seen)

    cdef int call(self, bint waited) except -1:
        # Both before the call: what changes meanwhile is noticed next time.
        ps_flag_set(&self.due, 0)
        if not waited:
            ps_flag_set(&self.later, 0)
        if self.word != NULL:
            self.seen = ps_word_get(self.word)
        try:
            self.notice(waited)
        except BaseException:
            ps_flag_set(&self.due, 1)
            raise
        return 0

    cpdef void want(self) noexcept:
        """Have notice() called at the next ask, or now where a thread or an event loop waits. From any thread."""
        ps_flag_set(&self.due, 1)
        ps_os_futex_wake_all(&self.due)

    cpdef void want_later(self) noexcept:
        """Have notice() called at the next ask, but not for the sake of one that waits. From any thread."""
        ps_flag_set(&self.later, 1)

    def __reduce__(self):
        raise TypeError("an Attention cannot be pickled")


cdef shared(memory, Py_ssize_t size, str name):
    view = memoryview(memory)
    if view.readonly or view.nbytes != size or not view.c_contiguous:
        raise ValueError(f"{name} takes a writable buffer of {size} bytes")
    return view

# ---- waiting, without the GIL -----------------------------------------------------------------

cdef bint moved(const Wait *wait) noexcept nogil:
    cdef size_t i
    if ps_flag_get(wait.halt) or (wait.due != NULL and ps_flag_get(wait.due)):
        return True
    if wait.word != NULL and ps_word_get(wait.word) != wait.seen:
        return True
    for i in range(wait.count):
        if ps_log_readable_offset(wait.watches[i].log, wait.watches[i].durable) > wait.watches[i].wanted:
            return True
    return False


cdef bint is_looked_at(const Wait *wait) noexcept nogil:
    """Whether nobody changes a word: a store that is only read."""
    cdef size_t i
    for i in range(wait.count):
        if ps_log_is_read_only(wait.watches[i].log):
            return True
    return False


cdef bint spin(const Wait *wait, int64_t until) noexcept nogil:
    cdef int look
    while True:
        for look in range(SPIN_LOOKS):
            if moved(wait):
                return True
            ps_pause()
        if ps_os_monotonic_ns() >= until:
            return False


# Sleep on all the words. No wake-up is missed: we listen, then look at the watermarks again, and what is
# published after that look changes a word (ps_head.h), and the kernel lets nobody sleep on a changed word.
# wake(), close() and want() set their flag, which is a word itself, before they wake; where one log's word is
# the only one, wake() changes that after it has set the flag. Answers what the kernel did: 0, or -errno.
cdef int sleep_on_words(const Wait *wait, bint alone, int64_t timeout_ns) noexcept nogil:
    cdef const void *words[PS_WAIT_WORDS_MAX]
    cdef uint32_t seen[PS_WAIT_WORDS_MAX]
    cdef size_t i, count = wait.count
    cdef int answer = 0
    for i in range(count):
        words[i] = ps_log_signal_word(wait.watches[i].log)
        seen[i] = ps_log_listen(wait.watches[i].log)
    if not alone:
        words[count], seen[count] = wait.halt, 0
        count += 1
        if wait.due != NULL:
            words[count], seen[count] = wait.due, 0
            count += 1
        if wait.word != NULL:
            words[count], seen[count] = wait.word, wait.seen
            count += 1
    if not moved(wait):
        if count == 1:
            answer = ps_os_futex_wait(words[0], seen[0], timeout_ns)
        else:
            answer = ps_os_futex_wait_many(words, seen, count, timeout_ns)
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
        self.waits = None
        self.leave()

    def remove(self, PartitionReader reader not None):
        """Read from it no more. ValueError when it is not one of `readers`."""
        self.enter()
        try:
            self.members.remove(reader)
            self.count_gone(reader)
            self.waits = None
            if self.current is reader:
                self.current = None
            if self.last is reader:
                self.last = None
        finally:
            self.leave()

    def attend(self, Attention attention):
        """Look at `attention` from now on; None: at nothing. With one, a Fetcher without readers waits, too, and
        the marks of its readers are kept."""
        self.enter()
        self.attention = attention
        self.last = None
        self.waits = None
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

    # ---- what was read

    cdef void count_gone(self, PartitionReader reader) noexcept:
        self.batches_gone += reader.batches_in
        self.records_gone += reader.records_in - reader.unread()
        self.bytes_gone += reader.bytes_in
        self.errors_gone += reader.errors
        self.last_gone_ns = max(self.last_gone_ns, reader.last_ns)

    def counters(self):
        """Since it was made, of all readers it has or had: records handed out; batches, and bytes of them as stored,
        that they came from; errors (asks that failed); last_ns (wall clock of the last batch, 0: none)."""
        cdef Fetcher sums = Fetcher.__new__(Fetcher)
        cdef PartitionReader reader
        for reader in list(self.members):
            sums.count_gone(reader)
        return {
            "records": self.records_gone + sums.records_gone, "batches": self.batches_gone + sums.batches_gone,
            "bytes": self.bytes_gone + sums.bytes_gone, "errors": self.errors_gone + sums.errors_gone,
            "last_ns": max(self.last_gone_ns, sums.last_gone_ns),
        }

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
        cdef PartitionReader reader
        if self.closing:
            for reader in self.members:
                self.count_gone(reader)
            self.members = []
            self.current = None
            self.last = None
            self.waits = None

    # Somebody asks for the next record or batch, and there is an Attention. False: closed meanwhile, by what
    # was called.
    cdef bint ask(self) except -1:
        if self.closing:
            raise ClosedError("the consumer is closed")
        if self.noticing:
            raise RuntimeError("this consumer is calling back: no records can be asked for until that returns")
        if self.busy:
            raise RuntimeError("another thread is reading from this consumer")
        if self.attention.generation != forks_seen():
            raise ForkedError("the consumer was made before a fork; make another one in the child")
        self.attention.beat()
        if self.last is not None:
            settle_mark(self.last)
        return not (self.attention.is_wanted() or ps_flag_get(&self.attention.later)) or self.heed(False)

    # Not busy while it runs: it may add and remove. False: closed meanwhile.
    cdef bint heed(self, bint waited) except -1:
        cdef Attention attention = self.attention  # which may be exchanged meanwhile
        self.noticing = True
        try:
            attention.call(waited)
        finally:
            self.noticing = False
        return not self.closing

    def waited(self, bint rang):
        """What an event loop calls after each wait, where it takes the place of a thread that waits: whether
        its bell rang, or a slice is over."""
        if self.attention is None or self.closing or self.noticing or self.busy:
            return
        self.attention.beat()
        if not rang or self.attention.is_wanted():
            self.heed(True)

    @property
    def slice_ns(self):
        """How long an event loop may wait at a stretch; None: for ever."""
        return None if self.attention is None else self.attention.slice_ns

    def wake(self):
        """End the wait under way, or the next one: poll() gives None, iteration stops. From any thread."""
        ps_flag_set(&self.halt, 1)
        ps_os_futex_wake_all(&self.halt)
        if self.alone != NULL:
            ps_log_wake(self.alone)
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
        cdef bint loaded
        for i in range(count):
            k = (first + i) % count
            reader = <PartitionReader>self.members[k]
            if reader.paused:
                continue
            self.turn = k + 1  # where it fails, too: the others are not to wait for it
            try:
                loaded = reader.load()
            except TopicDeletedError:  # who reads by a pattern drops it, perhaps before being told
                if self.attention is None or not self.heed_inside() or reader in self.members:
                    raise
                return self.ready()
            if loaded:
                self.nap_ns = NAP_NS_MIN
                return reader
        self.turn = first
        return None

    cdef PartitionReader next_ready(self, int64_t timeout_ns):
        cdef PartitionReader reader
        cdef int64_t deadline = INT64_MAX
        cdef int64_t slice_end = INT64_MAX
        cdef int64_t now
        cdef bint spin = True
        if self.current is not None:
            self.current.settle()
        reader = self.ready()
        if reader is not None or timeout_ns == 0:
            return reader
        now = ps_os_monotonic_ns()
        if timeout_ns > 0:
            deadline = now + timeout_ns if timeout_ns < INT64_MAX - now else INT64_MAX
        if self.attention is not None:
            slice_end = now + self.attention.slice_ns
        while True:
            if not self.sleep(min(deadline, slice_end), spin):
                return None
            spin = False
            PyErr_CheckSignals()
            if ps_flag_get(&self.halt):
                ps_flag_set(&self.halt, 0)
                return None
            now = ps_os_monotonic_ns()
            if self.attention is not None:
                self.attention.beat()
                if self.attention.is_wanted() or now >= slice_end:
                    if not self.heed_inside():
                        return None
                    now = ps_os_monotonic_ns()
                    slice_end = INT64_MAX if self.attention is None else now + self.attention.slice_ns
            reader = self.ready()
            if reader is not None or now >= deadline:
                return reader

    # A wait is interrupted: what is called finds nobody inside.
    cdef bint heed_inside(self) except -1:
        self.leave()
        try:
            return self.heed(True)
        finally:
            self.busy = True

    # Until a partition may have more, the attention wants something, the time has come, a slice is over or a
    # signal came: 1. 0: none will have more.
    cdef int sleep(self, int64_t until, bint spin_first) except -1:
        cdef list active = [r for r in self.members if not (<PartitionReader>r).paused
                            and not (<PartitionReader>r).done]
        cdef Wait wait
        cdef size_t i
        cdef int64_t now = ps_os_monotonic_ns()
        cdef int64_t slice_ns = min(max(until - now, 0), SLICE_NS)
        cdef int64_t spin_until = min(now + self.spin_ns, until)
        cdef PartitionReader reader
        cdef bint alone, spun
        cdef int answer = 0
        wait.count = len(active)
        wait.halt = &self.halt
        wait.due = NULL
        wait.word = NULL
        wait.seen = 0
        if self.attention is not None:
            wait.due = &self.attention.due
            wait.word = self.attention.word
            wait.seen = self.attention.seen
        elif wait.count == 0 and any((<PartitionReader>r).done for r in self.members):
            return 0
        wait.watches = <Watch *>malloc(max(wait.count, <size_t>1) * sizeof(Watch))
        if wait.watches == NULL:
            raise MemoryError()
        for i in range(wait.count):
            reader = <PartitionReader>active[i]
            wait.watches[i].log = reader.handle.log
            wait.watches[i].wanted = reader.wanted
            wait.watches[i].durable = reader.cursor.durable
            ps_log_trim(reader.handle.log)  # of what others have removed, though nobody maintains here
        alone = wait.count == 1 and wait.due == NULL
        try:
            with nogil:
                spun = spin_first and wait.count and self.spin_ns and spin(&wait, spin_until)
            if spun:
                return 1
            if is_looked_at(&wait) or (self.no_wait_many and not alone):
                answer = -ENOSYS
            elif wait.count + OWN_WORDS > PS_WAIT_WORDS_MAX:
                answer = self.sleep_on_many(active, &wait, -1 if until == INT64_MAX else max(until - now, 0))
            else:
                self.alone = wait.watches[0].log if alone else NULL
                with nogil:
                    answer = sleep_on_words(&wait, alone, slice_ns)
                self.alone = NULL
        finally:
            free(wait.watches)
        if answer < 0 and answer != -ETIMEDOUT and answer != -EINTR:
            self.no_wait_many = self.no_wait_many or not alone
            self.nap(slice_ns)
        return 1

    # The process's watcher sleeps on the words, and looks once a second: no slice is needed here.
    cdef int sleep_on_many(self, list active, const Wait *wait, int64_t timeout_ns) except? 1:
        cdef Waits waits = self.waits
        cdef size_t i, count = wait.count
        if waits is None or waits.bell.forked or self.waits_for != active:
            waits = Waits.__new__(Waits)
            self.waits = None
            waits.open([self.attention, [(<PartitionReader>r).handle for r in active]],
                       count + 1 + (wait.due != NULL) + (wait.word != NULL))
            self.waits, self.waits_for = waits, active
        for i in range(count):
            ps_watch_log(waits.watch, i, wait.watches[i].log, wait.watches[i].wanted, wait.watches[i].durable)
        ps_watch_word(waits.watch, count, <const uint32_t *>wait.halt, 0)
        if wait.due != NULL:
            ps_watch_word(waits.watch, count + 1, <const uint32_t *>wait.due, 0)
        if wait.word != NULL:
            ps_watch_word(waits.watch, count + 2, wait.word, wait.seen)
        return waits.wait(timeout_ns)

    cdef void nap(self, int64_t slice_ns) noexcept:
        cdef int64_t ns = min(self.nap_ns, slice_ns)
        self.nap_ns = min(self.nap_ns * 2, NAP_NS_MAX)
        if not ps_flag_get(&self.halt):
            with nogil:
                ps_os_nap(ns)

    cdef Record take_record(self, int64_t timeout_ns):
        if self.attention is not None and not self.ask():
            return None
        return self.take_asked(timeout_ns)

    cdef Record take_asked(self, int64_t timeout_ns):
        cdef PartitionReader reader
        self.enter()
        try:
            reader = self.current
            if reader is None or reader.paused or reader.batch is None or reader.at >= reader.batch.count:
                reader = self.next_ready(timeout_ns)
                self.current = reader
            if reader is None or self.closing:  # others may be reading from there by now
                return None
            if self.attention is not None:
                self.last = reader
            return reader.take_record()
        finally:
            self.leave()

    def poll(self, int64_t timeout_ns=-1):
        """The next Batch of any partition, or None when there was none in time."""
        cdef PartitionReader reader
        if self.attention is not None and not self.ask():
            return None
        self.enter()
        try:
            reader = self.next_ready(timeout_ns)
            if reader is None or self.closing:
                return None
            if self.attention is not None:
                self.last = reader
            return reader.take_batch()
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
        cdef PartitionReader reader
        cdef Record record
        reader = fetcher.current
        if fetcher.attention is not None and (fetcher.attention.is_close or reader is None or reader.batch is None
                                              or reader.at >= reader.batch.count):
            if not fetcher.ask():
                raise StopIteration
            reader = fetcher.current
            if reader is not None:
                fetcher.last = reader
        if (reader is not None and reader.batch is not None and reader.at < reader.batch.count
                and not reader.paused and not fetcher.busy and not reader.calls_back):
            reader.in_hand = False
            record = batch_record(reader.batch, reader.at)
            hand_out(reader)
            return record
        record = fetcher.take_asked(self.timeout_ns)
        if record is None:
            raise StopIteration
        return record
