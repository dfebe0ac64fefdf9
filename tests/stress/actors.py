"""What each process does. All are forked from the conductor, which has no store open."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any, Final

import pystream

from .history import History, Runs
from .values import LAST_STREAM, decode, encode

TOPICS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"partitions": 3},
    "packed": {"partitions": 1, "compression": "lz4"},
    "safe": {"partitions": 1, "durability": "sync"},
    "loose": {"partitions": 1, "durability": "none"},
}
"""One for each durability. Of 64 KiB segments, the smallest there are, so that they roll all the while."""
PARTITIONS: Final = [
    (name, index) for name, options in TOPICS.items() for index in range(options["partitions"])
]
RACE: Final = "race"
"""A topic for two processes that hand a record to and fro."""

POINTS: Final = (
    "append.begun append.body append.zeroed append.header append.log_end append.published append.indexed "
    "append.even roll.seal roll.sealed roll.created roll.moved roll.cut segment.header segment.renamed"
).split()
"""Where a writer can be made to die between two of its stores."""

BATCH_BYTES_MAX: Final = 30_000
"""Two batches of this size fill a segment."""
LONG_WAIT_NS: Final = 500_000_000
RACE_NS: Final = 400
"""How far about the right moment ping tries."""


def label(topic: str, index: int) -> str:
    return f"{topic}/{index}"


def create(path: str, io: str) -> None:
    """Make the store and its topics."""
    with pystream.open(path, io=io) as store:
        for name, options in TOPICS.items():
            store.topic(name, create=True, segment_bytes="64KiB", index_interval_bytes=1024, **options)
        store.topic(RACE, create=True, segment_bytes="64KiB", partitions=2)


def partitions_of(path: str, beside: Container[str]) -> list[tuple[str, int]]:
    """All that there are, those of groups' topics among them, but for those of some topics."""
    with pystream.open(path, "r") as store:
        names = [name for name in store.topics() if name not in beside]
        return [(name, index) for name in names for index in range(store.topic(name).partitions)]


class Actor:
    """One process: its name, its source of chance, its history, and how long it goes on."""

    def __init__(self, name: str, number: int, seed: int, path: str, histories: str, until: float) -> None:
        self.name = name
        self.number = number
        self.path = path
        self.until = until
        self.rng = random.Random(f"{seed} {name}")
        self.history = History(histories, name)
        self.streams = 0
        self.lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether writers are to end."""
        return time.monotonic() > self.until

    def open(self) -> pystream.Store:
        return pystream.open(self.path, io=self.rng.choice(("mmap", "pwrite")), create=False)

    def stream(self) -> int:
        """The number of a new stream, which no other process or thread has."""
        with self.lock:
            self.streams += 1
            return self.number << 16 | self.streams

    def pause(self, longest: float) -> None:
        time.sleep(self.rng.random() * longest)


class Stream:
    """Numbered records of one thread for one partition."""

    def __init__(self, actor: Actor, topic: str, index: int) -> None:
        self.actor, self.topic, self.index = actor, topic, index
        self.id = actor.stream()
        self.next = 0

    def take(self, count: int) -> list[bytes]:
        """Values about to be written, which is noted."""
        rng, first = self.actor.rng, self.next
        self.next += count
        self.actor.history.note("send", self.id, label(self.topic, self.index), first, count)
        largest = BATCH_BYTES_MAX // count if rng.random() < 0.05 else 200
        return [encode(self.id, first + i, rng.randrange(largest)) for i in range(count)]

    def ack(self, count: int, offset: int, began: int, ended: int | None = None, ahead: int = 0) -> None:
        """The last `count` are acknowledged, not counting the very last, `ahead`."""
        first, ended = self.next - ahead - count, ended or time.monotonic_ns()
        self.actor.history.note("ack", self.id, first, count, offset, began, ended)

    def fail(self, count: int, error: Exception) -> None:
        """The last `count` were refused."""
        self.actor.history.note("fail", self.id, self.next - count, count, type(error).__name__)


class Streams:
    """A stream for each partition, made at first use. Of one thread."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.known: dict[tuple[str, int], Stream] = {}

    def any(self, among: list[tuple[str, int]] = PARTITIONS) -> Stream:
        key = self.actor.rng.choice(among)
        if key not in self.known:
            self.known[key] = Stream(self.actor, *key)
        return self.known[key]


# ---- writers --------------------------------------------------------------------------------------


def append(store: pystream.Store, stream: Stream, count: int, timeout: float | None = None) -> int:
    """Append one batch; where it is, or -1 when that took longer than `timeout`."""
    values = stream.take(count)
    began = time.monotonic_ns()
    try:
        offset = store.topic(stream.topic).append(values, partition=stream.index, timeout=timeout)
    except pystream.LockTimeoutError as error:
        stream.fail(count, error)
        return -1
    stream.ack(count, offset, began)
    return offset


def appender(actor: Actor) -> None:
    """Batches, one by one, sometimes with a limit to the wait for others."""
    with actor.open() as store:
        streams = Streams(actor)
        while not actor.over:
            append(store, streams.any(), actor.rng.randint(1, 20), actor.rng.choice((None, None, 0.02)))
            actor.pause(0.004)


def armed(actor: Actor) -> None:
    """Appends, and dies between two stores of one of them."""
    actor.history.note("armed")
    actor.pause(0.5)
    with actor.open() as store:
        store._handle.arm(f"{actor.rng.choice(POINTS)}:{actor.rng.randint(1, 12)}:kill")
        streams = Streams(actor)
        while not actor.over:
            append(store, streams.any(), actor.rng.randint(1, 8))
            actor.pause(0.004)


def sender(actor: Actor) -> None:
    """Two threads with one producer, and one with its own: send and flush, send_many, delivery callbacks."""
    with actor.open() as store:
        topic = store.topic("plain")
        shared = topic.producer(linger=0.001, batch_bytes=actor.rng.choice((500, 4096, 20_000)))
        own = store.topic("packed").producer(linger=0.02, batch_bytes=8192)
        threads = [
            threading.Thread(
                target=guarded, args=(actor, partial(send_for_long, actor, producer, name, count))
            )
            for producer, name, count in ((shared, "plain", 3), (shared, "plain", 3), (own, "packed", 1))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def send_for_long(actor: Actor, producer: pystream.Producer, topic: str, partitions: int) -> None:
    streams = Streams(actor)
    among = [(topic, index) for index in range(partitions)]
    while not actor.over:
        stream = streams.any(among)
        count = actor.rng.randint(1, 30)
        values = stream.take(count)
        way = actor.rng.randrange(3)
        began = time.monotonic_ns()
        if way == 0:
            producer.send_many(values, partition=stream.index)
            stream.ack(count, -1, began)
        elif way == 1:
            for value in values:
                producer.send(value, partition=stream.index)
            producer.flush()
            stream.ack(count, -1, began)
        else:
            told: list[int] = []
            for value in values:
                producer.send(value, partition=stream.index, on_delivery=partial(note_delivery, told))
            producer.flush()
            while len(told) < count:  # they come in whatever thread calls the producer next
                producer.flush()
                time.sleep(0.0002)
            for i, offset in enumerate(told):
                stream.ack(1, offset, began, ahead=count - i - 1)
        actor.pause(0.01)


def note_delivery(told: list[int], error: Exception | None, metadata: Any) -> None:
    if error is not None:
        raise error
    told.append(metadata.offset)


def holder(actor: Actor) -> None:
    """Holds a partition for exclusive writing, forks at times while it does, and appends."""
    with actor.open() as store:
        streams = Streams(actor)
        while not actor.over:
            stream = streams.any()
            partition, name = (
                store.topic(stream.topic).partition(stream.index),
                label(stream.topic, stream.index),
            )
            try:
                hold = partition.exclusive(timeout=actor.rng.choice((0, 0.2)))
            except pystream.PartitionHeldError:
                actor.pause(0.02)
                continue
            actor.history.note("hold", name)
            begin = append(store, stream, 1)
            for _ in range(actor.rng.randint(1, 10)):
                if actor.rng.random() < 0.2:
                    fork(actor, store)
                append(store, stream, actor.rng.randint(1, 8))
                actor.pause(0.02)
            actor.history.note("alone", stream.id, begin, partition.end_offset)
            hold.release()
            actor.history.note("release", name)
            actor.pause(0.05)


def opener(actor: Actor) -> None:
    """Opens the store, uses it a little, and closes it, again and again."""
    streams = Streams(actor)
    while not actor.over:
        with actor.open() as store:
            stream = streams.any()
            append(store, stream, actor.rng.randint(1, 4))
            for record in store.topic(stream.topic).partition(stream.index).tail(3):
                if decode(record.value) is None:
                    actor.history.note("torn", f"{stream.topic}/{stream.index}@{record.offset}")
        actor.pause(0.05)


def forker(actor: Actor) -> None:
    """Appends and sends in threads while it forks."""
    with actor.open() as store:
        thread = threading.Thread(target=guarded, args=(actor, partial(append_for_long, actor, store)))
        thread.start()
        producer = store.topic("plain").producer(linger=0.05)
        stream = Stream(actor, "plain", 0)
        while not actor.over:
            for value in stream.take(3):
                producer.send(value, partition=0)
            for _ in range(actor.rng.choice((0, 1, 5))):
                fork(actor, store)
            began = time.monotonic_ns()
            producer.flush()
            stream.ack(3, -1, began)
            actor.pause(0.2)
        thread.join()


def append_for_long(actor: Actor, store: pystream.Store) -> None:
    streams = Streams(actor)
    while not actor.over:
        append(store, streams.any(), actor.rng.randint(1, 5))
        actor.pause(0.002)


def fork(actor: Actor, store: pystream.Store) -> None:
    """Make a child that idles longer than an append may take, dies at once, or appends for itself."""
    stream = Stream(actor, *actor.rng.choice(PARTITIONS))
    way = actor.rng.randrange(5)
    if os.fork() != 0:
        actor.history.note("forked", 1)
        return
    try:
        if way == 0:
            time.sleep(6)
        elif way == 1:
            try:
                store.topic(stream.topic).append([b"never"], partition=stream.index)
                actor.history.note("error", "an inherited store appends")
            except pystream.ForkedError:
                pass
        elif way == 2:
            with pystream.open(actor.path) as own:
                append(own, stream, 3)
    except BaseException as error:
        actor.history.note("error", f"in a forked child: {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def closer(actor: Actor, beside: Container[str] = ()) -> None:
    """Ends every partition by a last record."""
    with pystream.open(actor.path) as store:
        for number, (name, index) in enumerate(partitions_of(actor.path, beside)):
            stream = Stream(actor, name, index)
            stream.id = LAST_STREAM + number
            append(store, stream, 1)


# ---- readers --------------------------------------------------------------------------------------


class Sight:
    """What one reader is given, noted."""

    def __init__(self, actor: Actor, number: int = 0) -> None:
        self.actor = actor
        self.reader = f"{actor.name}.{number}"
        self.runs = Runs(actor.history, self.reader)
        self.left: set[str] = set()

    def open(self, partition: str, offset: int) -> None:
        self.runs.flush()
        self.left.add(partition)
        self.actor.history.note("open", self.reader, partition, offset)

    def record(self, partition: str, offset: int, value: bytes | None) -> None:
        found = decode(value)
        if found is None:
            self.actor.history.note("torn", f"{partition}@{offset}", f"given to {self.reader}")
            return
        self.runs.add(partition, offset, *found)
        if found[0] >= LAST_STREAM:
            self.runs.flush()
            self.actor.history.note("done", self.reader, partition)
            self.left.discard(partition)

    def batch(self, batch: pystream.Batch) -> None:
        partition = label(batch.topic, batch.partition)
        values = batch.values.to_pylist()
        if batch.next_offset - batch.base_offset != len(values):
            self.actor.history.note("torn", partition, f"a batch of {len(values)} has other offsets")
        for i, value in enumerate(values):
            self.record(partition, batch.base_offset + i, value)

    @property
    def complete(self) -> bool:
        """Whether the last record of every partition was seen."""
        return not self.left


def begin(actor: Actor, store: pystream.Store, sight: Sight) -> dict[tuple[str, int], int]:
    """Somewhere in every partition."""
    places = {}
    latest = actor.rng.random() < 0.5
    for name, index in PARTITIONS:
        end = store.topic(name).partition(index).end_offset
        places[name, index] = end if latest else actor.rng.randint(max(0, end - 20_000), end)
        sight.open(label(name, index), places[name, index])
    return places


def tail(actor: Actor) -> None:
    """Batches by poll or iteration, of all partitions."""
    with pystream.open(actor.path, actor.rng.choice(("r", "rw", "rw"))) as store:
        sight = Sight(actor)
        places = begin(actor, store, sight)
        with store.consumer(start=places, spin=actor.rng.choice((0, 20e-6))) as consumer:
            consumer.assign(list(places))
            while not sight.complete:
                began = time.monotonic_ns()
                batch = consumer.poll(timeout=actor.rng.choice((None, 0.01, 0)))
                if batch is not None:
                    note_wait(actor, label(batch.topic, batch.partition), batch.base_offset, began)
                    sight.batch(batch)
                    sight.runs.flush()
                elif actor.rng.random() < 0.1:
                    actor.pause(0.01)


def iterator(actor: Actor) -> None:
    """Records one by one; sometimes a partition is paused for a while, or read anew from an earlier place."""
    with pystream.open(actor.path) as store:
        sight = Sight(actor)
        places = begin(actor, store, sight)
        with store.consumer(start=places, timeout=actor.rng.choice((None, 0.05))) as consumer:
            consumer.assign(list(places))
            while not sight.complete:
                left = len(sight.left)
                for record in consumer:
                    sight.record(label(record.topic, record.partition), record.offset, record.value)
                    if len(sight.left) < left or actor.rng.random() < 0.001:
                        break
                sight.runs.flush()
                if not sight.complete:
                    shuffle(actor, consumer, sight)


def shuffle(actor: Actor, consumer: pystream.Consumer, sight: Sight) -> None:
    consumer.resume(*consumer.paused())
    key = actor.rng.choice(PARTITIONS)
    if actor.rng.random() < 0.5 and label(*key) in sight.left:
        place = max(0, consumer.position(key) - actor.rng.randrange(100))
        consumer.seek(key, place)
        sight.open(label(*key), place)
    elif len(sight.left) > 1:
        consumer.pause(key)


def waiter(actor: Actor) -> None:
    """Waits for the next offset of a partition, however long that takes, and looks at it."""
    with pystream.open(actor.path) as store:
        sight = Sight(actor)
        name, index = actor.rng.choice(PARTITIONS)
        partition = store.topic(name).partition(index)
        place = partition.end_offset
        sight.open(label(name, index), place)
        while not sight.complete:
            wait(actor, partition, place)
            for batch in partition.scan(place):
                sight.batch(batch)
                place = batch.next_offset
            sight.runs.flush()


def wait(actor: Actor, partition: pystream.Partition, offset: int) -> None:
    began = time.monotonic_ns()
    if not partition.wait(offset):
        actor.history.note("error", "a wait without a limit has ended without its record")
    note_wait(actor, label(partition.topic, partition.index), offset, began)


def note_wait(actor: Actor, partition: str, offset: int, began: int) -> None:
    ended = time.monotonic_ns()
    if ended - began > LONG_WAIT_NS:
        actor.history.note("waited", actor.name, partition, offset, began, ended)


# ---- a race for the wake-up -----------------------------------------------------------------------


class Hand:
    """Appends to a partition of the race, one record at a time, and writes the history for many at once."""

    CHUNK = 256

    def __init__(self, actor: Actor, store: pystream.Store, index: int) -> None:
        self.partition = store.topic(RACE).partition(index)
        self.stream = Stream(actor, RACE, index)
        self.values: list[bytes] = []
        self.unsaid = self.offset = self.began = self.ended = 0

    def put(self) -> None:
        if not self.values:
            self.settle()
            self.values = self.stream.take(self.CHUNK)
        value = [self.values.pop(0)]
        self.began = time.monotonic_ns()
        self.offset = self.partition.append(value)
        self.ended = time.monotonic_ns()
        self.unsaid += 1

    def settle(self) -> None:
        """Say what is acknowledged: the last one just when it was, those before not later than they were."""
        if self.unsaid:
            first = self.offset - self.unsaid + 1
            self.stream.ack(self.unsaid, first, self.began, self.ended, ahead=len(self.values))
            self.unsaid = 0


def ping(actor: Actor) -> None:
    """Appends just when pong is about to sleep; the next only when pong has answered."""
    with pystream.open(actor.path, io="mmap") as store:
        hand, back = Hand(actor, store, 0), store.topic(RACE).partition(1)
        delay, quickest = 1000, 1 << 62
        while not actor.over:
            until = time.perf_counter_ns() + delay + actor.rng.randrange(RACE_NS)
            while time.perf_counter_ns() < until:
                pass
            hand.put()
            # An append that takes longer has woken pong: it was asleep. So aim at the moment before it is.
            took = hand.ended - hand.began
            quickest = min(quickest, took)
            delay = delay + RACE_NS // 4 if took < 2 * quickest else max(0, delay - RACE_NS // 4)
            while back.high_watermark <= hand.offset and not actor.over:
                if time.monotonic_ns() - hand.ended > LONG_WAIT_NS // 2:
                    hand.settle()
                    time.sleep(0.001)
        hand.settle()


def pong(actor: Actor) -> None:
    """Sleeps until ping has appended, and answers."""
    with pystream.open(actor.path, io="mmap") as store:
        there, hand = store.topic(RACE).partition(0), Hand(actor, store, 1)
        place = 0
        while not actor.over:
            began = time.monotonic_ns()
            if not there.wait(place, timeout=3):
                continue
            note_wait(actor, label(RACE, 0), place, began)
            hand.put()
            place += 1
        hand.settle()


# ---- their life -----------------------------------------------------------------------------------


def guarded(actor: Actor, task: Callable[[], None]) -> None:
    """Run a task; what it raises is noted."""
    try:
        task()
    except pystream.CorruptLogError as error:
        actor.history.note("torn", f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BaseException as error:
        actor.history.note("error", f"{type(error).__name__}: {error}{' at '.join(['', *where(error)])}")


def where(error: BaseException) -> Iterator[str]:
    trace = error.__traceback__
    while trace is not None:
        yield f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next


WRITERS: Final[dict[str, Callable[[Actor], None]]] = {
    role.__name__: role for role in (appender, armed, sender, holder, opener, forker, ping, pong)
}
READERS: Final[dict[str, Callable[[Actor], None]]] = {
    role.__name__: role for role in (tail, iterator, waiter)
}
ROLES: Final = WRITERS | READERS
RACERS: Final = frozenset({"ping", "pong"})
SPARED: Final = RACERS | {"closer"}
"""Not killed and not stopped: how long they sleep is to have no other reason."""
