# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Consumers and producers under an event loop: waits that ring a bell instead of blocking a thread."""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pystream._native.batch cimport Record
from pystream._native.bells cimport (
    Bell,
    ps_bell_answer,
    ps_bell_take,
    ps_watch,
    ps_watch_abandon,
    ps_watch_begin,
    ps_watch_free,
    ps_watch_log,
    ps_watch_new,
    ps_watch_producer,
    ps_watch_ring,
    ps_watch_word,
)
from pystream._native.c_api cimport PS_END, PS_OK, ps_error, ps_os_monotonic_ns, ps_status
from pystream._native.errors cimport raise_error
from pystream._native.fetcher cimport Attention, Fetcher
from pystream._native.forks cimport forks_seen
from pystream._native.producer cimport ProducerCore
from pystream._native.reader cimport PartitionReader
from pystream._native.write_api cimport (
    ps_producer_deliveries, ps_producer_get_stats, ps_producer_is_settled, ps_producer_send_off, ps_producer_stats,
)

from pystream._native.errors import ClosedError, ForkedError, LockTimeoutError

cdef extern from *:
    """
    static inline PyObject *ps_own(PyObject *result) { return result; }
    static inline void ps_set_iternext(PyObject *type, iternextfunc function) {
      ((PyTypeObject *)type)->tp_iternext = function;
    }
    """
    object ps_own(PyObject *result)
    ctypedef PyObject *(*iternextfunc)(PyObject *) except? NULL
    void ps_set_iternext(PyObject *type, iternextfunc function)

cdef extern from "Python.h":
    PyObject *PyExc_StopIteration
    void PyErr_SetObject(PyObject *kind, PyObject *value)

# A task that always finds something gives way to the others after this long.
cdef int64_t TURN_NS = 1_000_000
cdef enum:
    STEP_MAX = 64


# Not cleared by the collector: what is waited for must be there until the wait has ended.
@cython.final
@cython.no_gc_clear
cdef class Watch:

    def __init__(self):
        raise TypeError("made by watch_fetcher() and watch_producer()")

    cdef Watch open(self, Bell bell, object future, size_t count):
        if bell.generation != forks_seen():
            raise ForkedError("the event loop was used before a fork; run another one in the child")
        self.bell = bell
        self.future = future
        self.held = []
        self.watch = ps_watch_new(bell.bell, count, <void *>self)
        if self.watch == NULL:
            raise MemoryError()
        return self

    cdef bint begin(self) except -1:
        cdef ps_error err
        cdef ps_status status = ps_watch_begin(self.watch, &err)
        if status == PS_OK:
            return True
        self.cancel()
        if status != PS_END:
            raise_error(&err)
        return False

    def __dealloc__(self):
        self.end()

    def ring(self):
        """End the wait now. From any thread."""
        if self.watch != NULL and self.bell.generation == forks_seen():
            ps_watch_ring(self.watch)

    def cancel(self):
        """End the wait: the future is not touched any more. Again is fine."""
        if self.fetcher is not None and self.fetcher.watch is self:
            self.fetcher.watch = None
        self.fetcher = None
        self.end()

    cdef void end(self) noexcept:
        cdef ps_watch *watch = self.watch
        self.watch = NULL
        if watch == NULL:
            return
        if self.bell.generation == forks_seen():
            ps_watch_free(watch)
        else:
            ps_watch_abandon(watch)


def answer(Bell bell not None):
    """Set the futures of the watches that have rung. For the loop's thread."""
    cdef void *user
    if bell.generation != forks_seen():
        return
    ps_bell_answer(bell.bell)
    while True:
        user = ps_bell_take(bell.bell)
        if user == NULL:
            return
        # Alive: a Watch that goes, takes its name away first, and we hold the GIL.
        future = (<Watch>user).future
        if future is not None and not future.done():
            future.set_result(True)


def watch_fetcher(Fetcher fetcher not None, Bell bell not None, future):
    """Set the future's result when a partition may have more, when its Attention is wanted, or when the fetcher
    is nudged or closed. None: look at once. Raises RuntimeError when somebody waits for this fetcher already."""
    cdef Watch watch = Watch.__new__(Watch)
    cdef PartitionReader reader
    cdef Attention attention = fetcher.attention
    cdef list active
    cdef Py_ssize_t i
    cdef size_t words = 0 if attention is None else 1 if attention.word == NULL else 2
    if fetcher.closing:
        raise ClosedError("the consumer is closed")
    if fetcher.watch is not None or fetcher.busy:
        raise RuntimeError("another task is waiting for records of this consumer")
    active = [r for r in fetcher.members if not (<PartitionReader>r).paused and not (<PartitionReader>r).done]
    watch.open(bell, future, len(active) + words)
    for i in range(len(active)):
        reader = <PartitionReader>active[i]
        watch.held.append(reader.handle)
        ps_watch_log(watch.watch, i, reader.handle.log, reader.wanted, reader.cursor.durable)
    if attention is not None:
        watch.held.append(attention)
        ps_watch_word(watch.watch, len(active), <const uint32_t *>&attention.due, 0)
        if attention.word != NULL:
            ps_watch_word(watch.watch, len(active) + 1, attention.word, attention.seen)
    if not watch.begin():
        return None
    watch.fetcher = fetcher
    fetcher.watch = watch
    return watch


def watch_producer(ProducerCore core not None, Bell bell not None, future, uint64_t seen):
    """Set the future's result when `deliveries` differs from `seen`. None: it does already."""
    cdef Watch watch = Watch.__new__(Watch)
    watch.open(bell, future, 1)
    watch.held.append(core)
    ps_watch_producer(watch.watch, 0, core.p, seen)
    return watch if watch.begin() else None

# ---- turns ------------------------------------------------------------------------------------------


@cython.final
cdef class Turn:

    def __init__(self):
        self.begin()

    def begin(self):
        """The others have had the loop."""
        self.began = self.looked = ps_os_monotonic_ns()
        self.step = self.left = 1

    cdef bint over(self) noexcept:
        cdef int64_t now, spent
        self.left -= 1
        if self.left > 0:
            return False
        now = ps_os_monotonic_ns()
        spent = now - self.looked
        self.looked = now
        # So often that a quarter of a turn, about, lies between two looks.
        self.step = 1 if spent > TURN_NS // 4 else min(self.step * 2, STEP_MAX)
        self.left = self.step
        return now - self.began > TURN_NS

    def is_over(self):
        """Whether to give way to the others now."""
        return self.over()

# ---- records ----------------------------------------------------------------------------------------


@cython.final
cdef class AsyncRecords:

    def __init__(self, Fetcher fetcher not None, Turn turn not None, later):
        self.fetcher = fetcher
        self.turn = turn
        self.later = later

    def __aiter__(self):
        return self

    def __anext__(self):
        cdef PartitionReader reader = self.fetcher.current
        cdef NextRecord found
        if (self.turn.over() or reader is None or reader.paused or reader.batch is None
                or reader.at >= reader.batch.count):
            return self.later()
        found = NextRecord.__new__(NextRecord)
        found.records = self
        return found


# Nothing is taken before it is awaited, so that one that is thrown away has taken nothing. It knows nobody who
# knows it, but while it waits for `later`: and that is only where somebody else took the record meanwhile.
@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class NextRecord:
    """The awaitable of a record that is at hand."""
    cdef AsyncRecords records
    cdef object later  # the iterator of the coroutine that waits, where it was gone

    def __init__(self):
        raise TypeError("made by AsyncRecords")

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return ps_own(next_record(<PyObject *>self))

    def send(self, value):
        """As of a coroutine."""
        return next(self) if self.later is None else self.later.send(value)

    def throw(self, *error):
        """As of a coroutine."""
        if self.later is not None:
            return self.later.throw(*error)
        raise error[0] if len(error) == 1 or error[1] is None else error[1]

    def close(self):
        """As of a coroutine."""
        if self.later is not None:
            self.later.close()


cdef PyObject *next_record(PyObject *self) except? NULL:
    cdef NextRecord found = <NextRecord>self
    cdef Record record
    if found.later is None:
        record = found.records.fetcher.take_record(0)
        if record is not None:
            # Raised by hand: making the exception would cost more than all the rest.
            PyErr_SetObject(PyExc_StopIteration, <PyObject *>record)
            return NULL
        found.later = found.records.later().__await__()
    result = next(found.later)
    Py_INCREF(result)
    return <PyObject *>result


ps_set_iternext(<PyObject *>NextRecord, next_record)

# ---- producers --------------------------------------------------------------------------------------


def deliveries(ProducerCore core not None):
    """How often something was delivered, or failed to be. Raises ClosedError, ForkedError."""
    core.check_open()
    return ps_producer_deliveries(core.p)


def never_wait(ProducerCore core not None):
    """Have `send` raise BufferFull, and take nothing, where it would wait for room."""
    core.never_waits = True


def has_news(ProducerCore core not None):
    """Whether an error, or records to be reported, are to be collected."""
    return bool(core.p.attention)


def has_error(ProducerCore core not None):
    """Whether something failed, for now or for good."""
    return bool(core.p.has_error)


def collect(ProducerCore core not None):
    """Call delivery callbacks that are due; raise what they raise, or DeliveryError for what did not go out."""
    core.check_open()
    core.collect()


def raise_late(ProducerCore core not None):
    """Raise LockTimeoutError for what is still here."""
    cdef ps_producer_stats stats
    ps_producer_get_stats(core.p, &stats)
    raise LockTimeoutError(f"{stats.pending_records} records of topic {core.schema.topic!r} were not delivered "
                           "in time; they stay queued", topic=core.schema.topic)


def sync(ProducerCore core not None):
    """Put on the disk what was delivered. Blocks, without the GIL. Raises StorageError."""
    core.check_open()
    core.sync_lanes()


@cython.final
cdef class Departure:
    """What a producer holds now goes out, by the helper thread."""

    def __init__(self, ProducerCore core not None):
        cdef uint32_t i
        core.check_open()
        self.core = core
        self.targets = [ps_producer_send_off(core.p, i) for i in range(core.lane_count)]

    def is_done(self):
        """Whether all of it was delivered, or has failed for good."""
        cdef uint32_t i
        for i in range(<uint32_t>len(self.targets)):
            if not ps_producer_is_settled(self.core.p, i, <uint64_t>self.targets[i]):
                return False
        return True
