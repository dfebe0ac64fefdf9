"""The loops that are measured, each in a thread of a worker."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from time import monotonic_ns
from typing import Any, Final

import numpy as np

import pystream
from pystream.benchmark import data
from pystream.benchmark.histogram import Latencies
from pystream.benchmark.plan import STAMP_BYTES, Plan

TOPIC: Final = "bench"
BLOCK_NS: Final = 10_000_000
"""Between looks at the clock's end and the counters, about; calls themselves are timed each."""
BLOCK_MAX: Final = 4096
READ_RUN: Final = 1000
"""Records that are read between two looks at the clock: one takes about as long as the look."""
SPIN_BEFORE_NS: Final = 200_000
"""A sleep may be this late: the rest of the time until a call is due is spent looking at the clock."""
IDLE_SECONDS: Final = 0.2


@dataclass
class Tally:
    """What a thread has done so far; read by others while it goes on."""

    records: int = 0
    size: int = 0


@dataclass
class Stretch:
    """A measured stretch of one thread: from when to when, on the machine's clock, and what it did."""

    name: str
    begin_ns: int
    end_ns: int = 0
    records: int = 0
    size: int = 0
    calls: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    ended_by: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the parent."""
        latencies = {"histogram": self.latencies.as_text(), "max_ns": self.latencies.max_ns}
        own = {name: value for name, value in vars(self).items() if name != "latencies"}
        return own | latencies


class Worker:
    """What one process needs for its part: the store, the topic, and for each thread a loop.

    Everything is made before the clock starts: `prepare` gives a function for each thread, which takes the
    moment to begin.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stop = threading.Event()
        self.expected: int | None = None
        """For `latency`: how many records there are to receive, once that is known."""
        self.tallies = [Tally() for _ in range(plan.threads)]
        self.store = pystream.open(plan.store, create=False)
        self.topic = self.store.topic(TOPIC)
        self._opened: list[Any] = []

    def prepare(self) -> list[Callable[[int], list[Stretch]]]:
        """The loop of each thread."""
        plan = self.plan
        if plan.mode == "receive":
            return [self._receiver(self.tallies[0])]
        if plan.mode == "pace":
            return [self._sender(self.tallies[0])]
        first = (plan.part or 0) * plan.threads
        if plan.mode == "consume":
            return [self._reader(first + i, tally) for i, tally in enumerate(self.tallies)]
        count = data.pool_records(plan)
        values = data.make_values(plan, count, plan.part or 0)
        keys = data.make_keys(plan, count, plan.part or 0)
        return [self._writer(first + i, tally, values, keys) for i, tally in enumerate(self.tallies)]

    def close(self) -> None:
        """Close what was opened; the store last."""
        for thing in self._opened:
            thing.close()
        self.store.close()

    def sync(self) -> int:
        """Put what was appended on the disk; when that was done."""
        for index in range(self.topic.partitions):
            self.topic.partition(index).flush(durable=True)
        return monotonic_ns()

    # ---- writing ----------------------------------------------------------------------------------

    def _writer(self, number: int, tally: Tally, values: Any, keys: Any) -> Callable[[int], list[Stretch]]:
        plan = self.plan
        calls, finish = self._calls(number, values, keys)
        per_call = plan.batch_records
        most = plan.calls_for_space
        if plan.total_bytes is not None:
            most = min(most, plan.calls_for_bytes)
        size = per_call * plan.size
        loop = self._paced if plan.rate is not None else self._flat_out

        def work(begin_ns: int) -> list[Stretch]:
            stretch = Stretch(plan.mode, begin_ns)
            loop(stretch, calls, most, tally, (per_call, size))
            finish()
            stretch.end_ns = monotonic_ns()
            stretch.records, stretch.size = stretch.calls * per_call, stretch.calls * size
            if not stretch.ended_by:
                reached = plan.total_bytes is not None and stretch.calls >= plan.calls_for_bytes
                stretch.ended_by = "bytes" if reached else "space"
            return [stretch]

        return work

    def _calls(
        self, number: int, values: Any, keys: list[bytes] | None
    ) -> tuple[list[Callable[[], Any]], Callable[[], Any]]:
        """The calls to make, again and again, and what acknowledges those that were made."""
        plan, batch = self.plan, self.plan.batch_records
        begins = range(0, len(values), batch)
        chunks = [values[at : at + batch] for at in begins]
        key_chunks = [keys[at : at + batch] for at in begins] if keys is not None else None
        if plan.call in ("append", "flush"):
            partitions = [self.topic.partition(index) for index in range(self.topic.partitions)]
            for partition in partitions:
                _ = partition.end_offset  # opens its files
            # Every partition in turn, each writer beginning elsewhere.
            whole = -(-max(len(chunks), len(partitions)) // len(partitions)) * len(partitions)
            put = _append_and_sync if plan.call == "flush" else pystream.Partition.append
            calls: list[Callable[[], Any]] = []
            for i in range(whole):
                at = i % len(chunks)
                extra: dict[str, Any] = {} if key_chunks is None else {"keys": key_chunks[at]}
                calls.append(partial(put, partitions[(number + i) % len(partitions)], chunks[at], **extra))
            return calls, _nothing
        options: dict[str, Any] = (
            {} if plan.batch is None or plan.call == "send_many" else {"batch_records": plan.batch}
        )
        producer = self.topic.producer(**options)
        self._opened.append(producer)
        if plan.call == "send_many":
            if key_chunks is None:
                return [partial(producer.send_many, chunk) for chunk in chunks], producer.flush
            pairs = zip(chunks, key_chunks, strict=True)
            return [partial(producer.send_many, chunk, keys=own) for chunk, own in pairs], producer.flush
        if not isinstance(values, list):
            chunks = [[row.tobytes() for row in chunk] for chunk in chunks]
        if key_chunks is None:
            return [partial(_send_each, producer.send, chunk) for chunk in chunks], producer.flush
        pairs = zip(chunks, key_chunks, strict=True)
        return [partial(_send_keyed, producer.send, chunk, own) for chunk, own in pairs], producer.flush

    def _flat_out(
        self, stretch: Stretch, calls: list[Callable[[], Any]], most: int, tally: Tally, each: tuple[int, int]
    ) -> None:
        """Closed loop: each call begins when the one before has returned."""
        work = cycle(calls)
        end_ns = self._end_ns(stretch.begin_ns)
        now = monotonic_ns
        before = _wait_until(stretch.begin_ns)
        block = 1
        while stretch.calls < most:
            stamps = array("q", (before,))
            stamp = stamps.append
            for call in islice(work, min(block, most - stretch.calls)):
                call()
                stamp(now())
            done = len(stamps) - 1
            after = stamps[-1]
            stretch.calls += done
            tally.records = stretch.calls * each[0]
            tally.size = stretch.calls * each[1]
            stretch.latencies.add_stamps(stamps)
            if after >= end_ns or self.stop.is_set():
                stretch.ended_by = "time"
                return
            block = _next_block(after - before, done)
            before = now()

    def _paced(
        self, stretch: Stretch, calls: list[Callable[[], Any]], most: int, tally: Tally, each: tuple[int, int]
    ) -> None:
        """Open loop: calls are due at fixed times, whatever became of those before, and timed from then."""
        plan = self.plan
        assert plan.rate is not None
        interval_ns = each[0] * plan.crew * 1e9 / plan.rate
        end_ns = self._end_ns(stretch.begin_ns)
        spent = array("q")
        for call in islice(cycle(calls), most):
            due_ns = stretch.begin_ns + int(stretch.calls * interval_ns)
            if due_ns >= end_ns or self.stop.is_set():
                stretch.ended_by = "time"
                break
            _wait_until(due_ns)
            call()
            after = monotonic_ns()
            spent.append(after - due_ns)
            stretch.calls += 1
            tally.records += each[0]
            tally.size += each[1]
            if after >= end_ns + (end_ns - stretch.begin_ns) // 2:  # hopelessly behind
                stretch.ended_by = "time"
                break
            if len(spent) == BLOCK_MAX:
                stretch.latencies.add(np.array(spent, np.int64))
                del spent[:]
        stretch.latencies.add(np.array(spent, np.int64))

    def _end_ns(self, begin_ns: int) -> int:
        seconds = self.plan.seconds
        return begin_ns + int((seconds if seconds is not None else 1e9) * 1e9)

    # ---- reading ----------------------------------------------------------------------------------

    def _reader(self, number: int, tally: Tally) -> Callable[[int], list[Stretch]]:
        plan = self.plan
        step = 1 if plan.fan_out else plan.crew
        first = 0 if plan.fan_out else number
        consumer = self.store.consumer(timeout=0)
        consumer.assign([(TOPIC, index) for index in range(first, self.topic.partitions, step)])
        self._opened.append(consumer)
        read = {"records": _read_records, "batches": _read_batches, "arrays": _read_arrays}[plan.reading]

        def work(begin_ns: int) -> list[Stretch]:
            stretches = []
            _wait_until(begin_ns)
            for turn in range(plan.passes):
                consumer.seek_to_beginning()
                stretch = Stretch("first pass" if turn == 0 else "again", monotonic_ns())
                read(consumer, stretch, tally, self.stop)
                stretch.end_ns = monotonic_ns()
                stretches.append(stretch)
                if self.stop.is_set():
                    break
            return stretches

        return work

    # ---- hand-over --------------------------------------------------------------------------------

    def _sender(self, tally: Tally) -> Callable[[int], list[Stretch]]:
        plan = self.plan
        assert plan.rate is not None
        batch = plan.batch_records
        interval_ns = batch * 1e9 / plan.rate
        rest = np.random.default_rng(plan.seed).bytes(plan.size - STAMP_BYTES)
        partition = self.topic.partition(0)
        _ = partition.end_offset  # opens its files

        def work(begin_ns: int) -> list[Stretch]:
            stretch = Stretch("sent", begin_ns)
            end_ns = self._end_ns(begin_ns)
            give_up_ns = end_ns + (end_ns - begin_ns) // 2
            stretch.ended_by = "space"
            for number in range(plan.calls_for_space):
                due_ns = begin_ns + int(number * interval_ns)
                if due_ns >= end_ns or self.stop.is_set() or monotonic_ns() >= give_up_ns:
                    stretch.ended_by = "time"
                    break
                _wait_until(due_ns)
                due = due_ns.to_bytes(8, "little")
                value = due + monotonic_ns().to_bytes(8, "little") + rest
                partition.append([value] * batch)
                tally.records += batch
                tally.size += batch * plan.size
            stretch.end_ns = monotonic_ns()
            stretch.records, stretch.size = tally.records, tally.size
            stretch.calls = tally.records // batch
            return [stretch]

        return work

    def _receiver(self, tally: Tally) -> Callable[[int], list[Stretch]]:
        plan = self.plan
        spin = 1.0 if plan.spin else 0.0
        consumer = self.store.consumer(TOPIC, start="latest", timeout=IDLE_SECONDS, spin=spin)
        assert consumer.poll(timeout=0) is None
        self._opened.append(consumer)

        def work(begin_ns: int) -> list[Stretch]:
            due, called = Stretch("from when it was due", begin_ns), Stretch("from the call", begin_ns)
            counted_ns = begin_ns + int(plan.warmup * 1e9)
            from_due, from_call = array("q"), array("q")
            now = monotonic_ns
            while not self.stop.is_set() and (self.expected is None or tally.records < self.expected):
                for record in consumer:
                    seen_ns = now()
                    value = record.value
                    assert value is not None
                    tally.records += 1
                    tally.size += len(value)
                    due_ns = int.from_bytes(value[:8], "little")
                    if due_ns >= counted_ns:
                        from_due.append(seen_ns - due_ns)
                        from_call.append(seen_ns - int.from_bytes(value[8:16], "little"))
                    if tally.records == self.expected or self.stop.is_set():
                        break
            for stretch, spent in ((due, from_due), (called, from_call)):
                stretch.end_ns = now()
                stretch.records, stretch.size = tally.records, tally.size
                stretch.calls = len(spent)
                stretch.latencies.add(np.array(spent, np.int64))
            return [due, called]

        return work


def _append_and_sync(partition: pystream.Partition, values: Any, **extra: Any) -> None:
    partition.append(values, **extra)
    partition.flush(durable=True)


def _send_each(send: Callable[[Any], None], values: list[bytes]) -> None:
    for value in values:
        send(value)


def _send_keyed(send: Callable[..., None], values: list[bytes], keys: list[bytes]) -> None:
    for value, key in zip(values, keys, strict=True):
        send(value, key=key)


def _nothing() -> None:
    """What `append` returned needs no more to be acknowledged."""


def _wait_until(moment_ns: int) -> int:
    """Sleep until shortly before, then look at the clock. The time when it is over."""
    while True:
        now = monotonic_ns()
        left = moment_ns - now
        if left <= 0:
            return now
        if left > SPIN_BEFORE_NS:
            time.sleep((left - SPIN_BEFORE_NS) / 1e9)


def _next_block(spent_ns: int, calls: int) -> int:
    """As many calls as take about `BLOCK_NS`."""
    return max(1, min(BLOCK_MAX, BLOCK_NS * calls // max(spent_ns, 1)))


def _read_records(consumer: pystream.Consumer, stretch: Stretch, tally: Tally, stop: threading.Event) -> None:
    """Each record, its offset and its value; times are of so many together."""
    records = iter(consumer)
    stamps = array("q", (monotonic_ns(),))
    while not stop.is_set():
        number = size = 0
        for record in islice(records, READ_RUN):
            number += 1
            record.offset  # noqa: B018  as every reader looks at it
            size += len(record.value)
        _count(stretch, tally, number, size)
        if number < READ_RUN:
            break
        stamps.append(monotonic_ns())
        _fold(stretch, stamps)
    stretch.latencies.add_stamps(stamps)


def _read_batches(consumer: pystream.Consumer, stretch: Stretch, tally: Tally, stop: threading.Event) -> None:
    """Each batch, its values lent and none of them looked at."""
    _read_each(consumer, stretch, tally, stop, lambda batch: batch.values.data.nbytes)


def _read_arrays(consumer: pystream.Consumer, stretch: Stretch, tally: Tally, stop: threading.Event) -> None:
    """Each batch as an array over the mapped file, none of it looked at."""
    _read_each(consumer, stretch, tally, stop, lambda batch: batch.array.nbytes)


def _read_each(
    consumer: pystream.Consumer,
    stretch: Stretch,
    tally: Tally,
    stop: threading.Event,
    take: Callable[[Any], int],
) -> None:
    now = monotonic_ns
    stamps = array("q", (now(),))
    stamp = stamps.append
    for batch in consumer.batches():
        size = take(batch)
        stamp(now())
        _count(stretch, tally, len(batch), size)
        if len(stamps) > BLOCK_MAX:
            _fold(stretch, stamps)
            if stop.is_set():
                break
    stretch.latencies.add_stamps(stamps)


def _count(stretch: Stretch, tally: Tally, records: int, size: int) -> None:
    stretch.records += records
    stretch.size += size
    stretch.calls += 1
    tally.records += records
    tally.size += size


def _fold(stretch: Stretch, stamps: array[int]) -> None:
    """Count the times when they are many; the clock begins anew, so that counting them is in none."""
    if len(stamps) > BLOCK_MAX:
        stretch.latencies.add_stamps(stamps)
        del stamps[:]
        stamps.append(monotonic_ns())
