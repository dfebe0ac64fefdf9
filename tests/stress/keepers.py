"""Topics that look after themselves: who writes to them by key, reads them, looks after them, and cuts them.

Their histories have words of their own (`history`), as what they hold does not stay: `upkeep` checks it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import pystream

from .actors import Actor, label, note_delivery
from .history import Runs
from .values import HEAD, LAST_STREAM, decode, encode

BOUND_BYTES: Final = 256 << 10
AGE_S: Final = 1.5
DIRTY: Final = 0.2
TOPICS: Final[dict[str, dict[str, Any]]] = {
    "sized": {"partitions": 2, "retention_bytes": BOUND_BYTES},
    "aged": {"retention": AGE_S, "segment_age": 0.5, "durability": "sync"},
    "table": {"cleanup": "compact", "partitions": 2},
    "recent": {"cleanup": "compact,delete", "retention_bytes": BOUND_BYTES, "compression": "lz4"},
}
"""Each rule alone, and two together. Of small segments, so that there is always something to do."""
PARTITIONS: Final = [
    (name, index) for name, options in TOPICS.items() for index in range(options.get("partitions", 1))
]
KEYS: Final = 40
SEGMENT_BYTES: Final = 64 << 10

POINTS: Final = (
    "retain.synced retain.raised retain.durable retain.unlinking retain.index retain.unlinked retain.done "
    "retain.rolling compact.begun compact.mapped compact.opened compact.written compact.synced "
    "compact.indexed compact.renamed compact.dirsynced compact.unlinking compact.cleaned"
).split()
"""Where who looks after a partition can be made to die."""

PINNED_S: Final = 3.0
"""How long a process that is not idle may have a file open that another has removed or replaced."""
PINNED_LOOKS: Final = 8
"""And how often it looks meanwhile: who was stopped, or hardly ran, has had no time to let go."""


def create(path: str) -> None:
    with pystream.open(path) as store:
        for name, options in TOPICS.items():
            more = {"min_cleanable_dirty_ratio": DIRTY, "delete_retention": 1}
            store.topic(
                name,
                create=True,
                segment_bytes=SEGMENT_BYTES,
                index_interval_bytes=1024,
                **(more if "cleanup" in options else {}),
                **options,
            )


def is_tombstone(number: int) -> bool:
    return number % 11 == 7


def key_number(stream: int, number: int) -> int:
    """Which key a record has, of those of its partition."""
    return crc32(HEAD.pack(0, stream, number)) % KEYS


def key_of(index: int, stream: int, number: int) -> bytes:
    """No other partition has it; and no other record, where it is the one that ends a partition."""
    if stream >= LAST_STREAM:
        return b"last-%d" % index
    return b"%d-key-%d" % (index, key_number(stream, number))


Made = tuple[bytes, bytes | None, dict[str, bytes]]
BATCH_ROOM: Final = 400
RECORD_ROOM: Final = 50
"""What a batch, and a record in it, takes at most besides the values; of a tombstone, the header."""


def record_of(index: int, stream: int, number: int, fill: int) -> Made:
    """Key, value and headers: of a tombstone, these say which it is."""
    whole = encode(stream, number, fill)
    key = key_of(index, stream, number)
    if stream < LAST_STREAM and is_tombstone(number):
        return key, None, {"is": whole}
    return key, whole, {}


def identify(record: pystream.Record) -> tuple[int, int] | None:
    """Stream and number of a record; None for what `record_of` has not made."""
    value = record.value
    found = decode(dict(record.headers).get("is") if value is None else value)
    if found is None or record.key != key_of(record.partition, *found):
        return None
    stream, number = found
    return found if (value is None) == (stream < LAST_STREAM and is_tombstone(number)) else None


def open_store(actor: Actor, mode: str = "rw") -> pystream.Store:
    """Some look after what they have open, some leave it to others."""
    if mode == "r":
        return pystream.open(actor.path, "r")
    rng = actor.rng
    return pystream.open(
        actor.path,
        io=rng.choice(("mmap", "pwrite")),
        create=False,
        maintenance=rng.choice((0.01, 0.05, False)),
    )


# ---- writers ----------------------------------------------------------------------------------------


class Keyed:
    """Numbered records with keys, of one actor for one partition."""

    def __init__(self, actor: Actor, topic: str, index: int) -> None:
        self.actor, self.topic, self.index = actor, topic, index
        self.id = actor.stream()
        self.next = 0

    def take(self, count: int) -> list[Made]:
        """Records about to be written, which is noted, with the most that they can take on the disk."""
        rng = self.actor.rng
        largest = 40_000 // count if rng.random() < 0.1 else 300
        made = [record_of(self.index, self.id, self.next + i, rng.randrange(largest)) for i in range(count)]
        room = BATCH_ROOM + sum(RECORD_ROOM + len(v if v is not None else h["is"]) for _, v, h in made)
        self.actor.history.note("put", self.id, label(self.topic, self.index), self.next, count, room)
        self.next += count
        return made

    def kept(self, number: int, count: int, offset: int, began: int) -> None:
        self.actor.history.note("kept", self.id, number, count, offset, began)


def keyer(actor: Actor) -> None:
    """Batches and single records, by key, to all of the topics."""
    with open_store(actor) as store:
        streams = {key: Keyed(actor, *key) for key in PARTITIONS}
        producers = {name: store.topic(name).producer(linger=0.001, batch_bytes=4096) for name in TOPICS}
        while not actor.over:
            stream = streams[actor.rng.choice(PARTITIONS)]
            number, made = stream.next, stream.take(actor.rng.randint(1, 40))
            began = time.monotonic_ns()
            if actor.rng.random() < 0.7:
                keys, values, headers = (list(column) for column in zip(*made, strict=True))
                offset = store.topic(stream.topic).append(
                    values, keys=keys, headers=headers, partition=stream.index
                )
                stream.kept(number, len(made), offset, began)
            else:
                send(producers[stream.topic], stream, number, made, began)
            actor.pause(0.006)


def send(producer: pystream.Producer, stream: Keyed, number: int, made: list[Made], began: int) -> None:
    told: list[int] = []
    for key, value, headers in made:
        producer.send(
            value, key, headers=headers, partition=stream.index, on_delivery=partial(note_delivery, told)
        )
    producer.flush()
    while len(told) < len(made):  # they come in whatever thread calls the producer next
        producer.flush()
        time.sleep(0.0002)
    for i, offset in enumerate(told):
        stream.kept(number + i, 1, offset, began)


def seal(actor: Actor) -> None:
    """End every partition by a last record."""
    with pystream.open(actor.path) as store:
        for number, (name, index) in enumerate(PARTITIONS):
            stream = Keyed(actor, name, index)
            stream.id = LAST_STREAM + number
            ((key, value, _),) = stream.take(1)
            began = time.monotonic_ns()
            offset = store.topic(name).append([value], keys=[key], partition=index)
            stream.kept(0, 1, offset, began)


# ---- those who look after it ------------------------------------------------------------------------


def tidier(actor: Actor) -> None:
    """Does all that is due, again and again."""
    with pystream.open(actor.path, create=False, maintenance=False) as store:
        while not actor.over:
            try:
                report = store.maintain(timeout=actor.rng.choice((0.02, 1)))
            except pystream.LockTimeoutError:
                continue
            for problem in report.problems:
                if not problem.error.startswith("LockTimeoutError"):  # who trims there may be stopped
                    actor.history.note("error", f"maintain: {problem}")
            actor.history.note("tidied", report.segments_removed, report.records_removed)
            actor.pause(0.05)


def armed_tidier(actor: Actor) -> None:
    """The same, and dies between two of its steps."""
    actor.history.note("armed")
    actor.pause(0.2)
    with pystream.open(actor.path, create=False, maintenance=False) as store:
        store._handle.arm(f"{actor.rng.choice(POINTS)}:{actor.rng.randint(1, 3)}:kill")
        while not actor.over:
            try:
                store.maintain(timeout=1)
            except pystream.LockTimeoutError:
                continue
            actor.pause(0.02)


def look_at_start(actor: Actor, partition: pystream.Partition) -> int:
    """Where it starts now; `since`: as early as it was asked."""
    since = time.monotonic_ns()
    offset = partition.beginning_offset
    actor.history.note("begins", label(partition.topic, partition.index), offset, since)
    return offset


def trimmer(actor: Actor) -> None:
    """Deletes the oldest records of a partition, now and then."""
    with open_store(actor) as store:
        while not actor.over:
            name, index = actor.rng.choice(PARTITIONS)
            partition = store.topic(name).partition(index)
            start, end = look_at_start(actor, partition), partition.high_watermark
            if name != "table" and start < end:
                before = actor.rng.randint(start, min(end, start + 300))
                actor.history.note("delete", label(name, index), before)
                since = time.monotonic_ns()
                now = partition.delete_records(before)
                actor.history.note("begins", label(name, index), now, since)
                if now < before:
                    actor.history.note("error", f"{name}/{index} starts at {now}, was cut at {before}")
            actor.pause(0.1)


# ---- readers ----------------------------------------------------------------------------------------


class Glance:
    """What one reader is given of these topics, noted; where offsets are missing, where the log starts."""

    def __init__(self, actor: Actor, store: pystream.Store) -> None:
        self.actor, self.store = actor, store
        self.runs = Runs(actor.history, actor.name, "got")
        self.places: dict[tuple[str, int], int] = {}
        self.left = set(PARTITIONS)

    def begin(self, key: tuple[str, int], offset: int) -> None:
        self.runs.flush()
        self.places[key] = offset
        self.actor.history.note("from", self.actor.name, label(*key), offset)

    def record(self, record: pystream.Record) -> None:
        key = record.topic, record.partition
        found = identify(record)
        if found is None:
            self.actor.history.note("torn", f"{label(*key)}@{record.offset}", f"given to {self.actor.name}")
            return
        if record.offset != self.places[key]:
            self.runs.flush()
        self.runs.add(label(*key), record.offset, *found)
        if record.offset != self.places[key]:
            self.runs.flush()
            look_at_start(self.actor, self.store.topic(key[0]).partition(key[1]))
        self.places[key] = record.offset + 1
        if found[0] >= LAST_STREAM:
            self.left.discard(key)


def follower(actor: Actor) -> None:
    """Batches or records of all partitions, from anywhere on; falls off the log, and goes on."""
    with open_store(actor, actor.rng.choice(("r", "rw", "rw"))) as store:
        glance = Glance(actor, store)
        policy = actor.rng.choice(("earliest", "raise"))
        with store.consumer(out_of_range=policy, timeout=0.05) as consumer:
            consumer.assign(PARTITIONS)
            for key in PARTITIONS:
                seek(actor, glance, consumer, key)
            while glance.left:
                try:
                    if actor.rng.random() < 0.5:
                        batch = consumer.poll(timeout=0.05)
                        for record in batch or ():
                            glance.record(record)
                    else:
                        for record in consumer:
                            glance.record(record)
                            if actor.rng.random() < 0.002 or not glance.left:
                                break
                except pystream.OffsetOutOfRangeError:
                    if policy != "raise":
                        raise
                glance.runs.flush()
                if actor.rng.random() < 0.05:
                    actor.pause(0.5)  # so that it is overtaken


def seek(actor: Actor, glance: Glance, consumer: pystream.Consumer, key: tuple[str, int]) -> None:
    partition = glance.store.topic(key[0]).partition(key[1])
    while True:
        place = actor.rng.randint(partition.beginning_offset, partition.end_offset)
        try:
            consumer.seek(key, place)
        except pystream.OffsetOutOfRangeError:  # it was deleted this moment
            continue
        glance.begin(key, place)
        return


def scanner(actor: Actor) -> None:
    """Reads partitions from their beginning to their end, by records or batches, or the last of them."""
    with open_store(actor, actor.rng.choice(("r", "rw"))) as store:
        glance = Glance(actor, store)
        while glance.left:
            key = actor.rng.choice(PARTITIONS)
            partition = store.topic(key[0]).partition(key[1])
            if actor.rng.random() < 0.2:
                for record in partition.tail(5):
                    glance.begin(key, record.offset)
                    glance.record(record)
            else:
                scan(actor, glance, partition)
            glance.runs.flush()
            actor.pause(0.05)


def scan(actor: Actor, glance: Glance, partition: pystream.Partition) -> None:
    start = look_at_start(actor, partition)
    glance.begin((partition.topic, partition.index), start)
    try:
        if actor.rng.random() < 0.5:
            for record in partition.records(start):
                glance.record(record)
        else:
            for batch in partition.scan(start):
                for record in batch:
                    glance.record(record)
    except pystream.OffsetOutOfRangeError:
        if look_at_start(actor, partition) <= start:
            actor.history.note("error", f"{partition.topic}/{partition.index}@{start} is out of range")


def viewer(actor: Actor) -> None:
    """Keeps tables of the last values; at the end, says what is in them."""
    with open_store(actor, actor.rng.choice(("r", "rw"))) as store:
        views = {name: store.topic(name).latest() for name in TOPICS}
        known: dict[tuple[str, bytes], tuple[int, int]] = {}
        glance = Glance(actor, store)
        while glance.left:
            name = actor.rng.choice(list(views))
            view = views[name]
            for key in list(view):
                check_place(actor, name, view, key, known)
            for topic, index in list(glance.left):
                partition = store.topic(topic).partition(index)
                if any(is_last(record) for record in partition.tail(1)):
                    glance.left.discard((topic, index))
            actor.pause(0.05)
        for name, view in views.items():
            tell(actor, name, view)


def is_last(record: pystream.Record) -> bool:
    found = identify(record)
    return found is not None and found[0] >= LAST_STREAM


def check_place(
    actor: Actor,
    name: str,
    view: pystream.Latest,
    key: bytes,
    known: dict[tuple[str, bytes], tuple[int, int]],
) -> None:
    """The last record of a key is never an earlier one than it was."""
    try:
        now = view.restarts, view.offset(key)
    except KeyError:
        return
    before = known.get((name, key), now)
    known[name, key] = now
    if before[0] == now[0] and now[1] < before[1]:
        actor.history.note("error", f"the table of {name} went back: {key!r} from {before[1]} to {now[1]}")


def tell(actor: Actor, name: str, view: pystream.Latest) -> None:
    words: list[object] = [name]
    for key, value in view.items():
        stream, number = decode(value) or (-1, 0)
        words += [key.decode(), view.offset(key), stream, number]
    actor.history.note("table", *words)


def watcher(actor: Actor) -> None:
    """Follows all of it, and looks which files it has open that are gone: they are to be let go of."""
    with pystream.open(actor.path, create=False, maintenance=False) as store:
        first: dict[str, tuple[float, int]] = {}  # when each was seen to be gone, and how many looks ago
        with store.consumer(start="latest", out_of_range="latest", timeout=0.02) as consumer:
            consumer.assign(PARTITIONS)
            while not actor.over:
                for _ in range(50):
                    consumer.poll(timeout=0.02)
                now = time.monotonic()
                gone = deleted_maps(actor.path)
                first = {file: first.get(file, (now, 0)) for file in gone}
                for file, (since, looks) in list(first.items()):
                    first[file] = since, looks + 1
                    if now - since > PINNED_S and looks > PINNED_LOOKS:
                        actor.history.note("pinned", file)
                        first[file] = now + 1e9, 0


def deleted_maps(path: str) -> set[str]:
    """Segments of the store that this process has mapped though they are gone: place and inode."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".log (deleted)") and path in line:
            _, _, _, _, inode, name, _ = line.split()
            found.add(f"{os.path.relpath(name, path)}#{inode}")
    return found


WRITERS: Final[dict[str, Callable[[Actor], None]]] = {
    role.__name__: role for role in (keyer, tidier, armed_tidier, trimmer, watcher)
}
READERS: Final[dict[str, Callable[[Actor], None]]] = {
    role.__name__: role for role in (follower, scanner, viewer)
}
ROLES: Final = WRITERS | READERS
SPARED: Final = frozenset({"watcher"})
"""Neither killed nor stopped: it is to let go of files in time."""
