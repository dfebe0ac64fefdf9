"""Power failures of whole Python processes: each trial prepares a store, has a process work on it until power
fails at one of its calls, opens what the disk may have kept, where power may fail again, and compares what is
found with what the process had been told.

A process that is to see failures has the played disk loaded before libc: `pool` in processes.py makes such.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pystream
from pystream import metadata

from .processes import Ended, Say, in_a_process, said_of
from .scenes import SCENES, Ground, number_of, plainly, value

BOTH: Final = ("mmap", "pwrite")
TOPICS: Final = {"interval": "interval", "sync": "sync", "none": "none"}
"""The topics of a store, and their durability."""
LATER: Final = 10**6
"""The first number of records that are appended after the failure."""
CALLS_MAX: Final = 400
"""Power fails at one of so many calls, or when the work is done."""


def _names_not_synced() -> None:
    metadata.sync_directory = lambda path: None


def _files_not_synced() -> None:
    os.fsync = lambda descriptor: None  # type: ignore[assignment]


BROKEN: Final[dict[str, Callable[[], None]]] = {
    "names-not-synced": _names_not_synced,
    "files-not-synced": _files_not_synced,
}
"""What can be taken from the library in the processes to which power fails: the trials must notice."""


class Disk:
    """The played disk of this process."""

    def __init__(self) -> None:
        self.verbs = ctypes.CDLL(None)
        self.verbs.ps_disk_photo.argtypes = [ctypes.c_char_p, ctypes.c_uint64]
        self.verbs.ps_disk_boot.argtypes = [ctypes.c_uint64]
        self.verbs.ps_disk_write_back_often.argtypes = [ctypes.c_uint32, ctypes.c_uint64]

    def arm(self, root: Path, plan: str) -> None:
        failed = self.verbs.ps_disk_arm(os.fsencode(root), plan.encode())
        assert failed == 0, f"{root}: {plan}: {os.strerror(failed)}"


class Trial:
    """One of them. `machine` is the directory that its disk holds; another one after each failure."""

    def __init__(self, seed: int, base: Path, broken: str | None = None) -> None:
        self.seed = seed
        self.broken = broken
        self.random = random.Random(seed)
        self.base = base
        self.boots = 1
        self.machine = base / "0"
        self.machine.mkdir()
        self.io = self.random.choice(BOTH)
        self.often = self.random.choice((0, 0, 8, 64))
        self.number = 0
        self.delivered: set[tuple[str, int, int]] = set()

    @property
    def path(self) -> str:
        return str(self.machine / "s")

    def open(self, mode: str = "rw") -> pystream.Store:
        if mode == "r":
            return pystream.open(self.path, "r")
        return pystream.open(self.path, io=self.io, sync_interval=0.01, force=True)

    def values(self, count: int) -> list[bytes]:
        """Values with numbers that no other record has."""
        size = self.random.choice((10, 300, 3000))
        self.number += count
        return [value(number, size) for number in range(self.number - count, self.number)]

    def live(self, work: Callable[[Say], None], calls: int | None) -> Ended:
        """Do `work` in a process of its own, to its end (None), or until power fails: at a call, or then."""
        dest = self.base / str(self.boots)
        seed = self.random.getrandbits(40)

        def body(say: Say) -> None:
            disk = Disk()
            disk.verbs.ps_disk_boot(self.boots)
            if calls is None:
                disk.arm(self.machine, "count")
            else:
                disk.arm(self.machine, f"photo:{calls}:{seed}:{dest}")
                disk.verbs.ps_disk_write_back_often(self.often, seed)
                if self.broken:
                    BROKEN[self.broken]()
            work(say)
            if calls is not None:
                assert disk.verbs.ps_disk_photo(os.fsencode(dest), seed) == 0

        ended = in_a_process(body)
        if ended.failure:
            raise AssertionError(ended.failure)
        if calls is not None:
            assert dest.is_dir(), f"no photo was taken; {ended.status}, {ended.said[-3:]}"
            self.machine = dest
            self.boots += 1
        else:
            assert not ended.killed
        return ended


# ---- what is done --------------------------------------------------------------------------------------


def make(store: pystream.Store, name: str, durability: str = "interval") -> pystream.Topic:
    return store.topic(
        name, create=True, durability=durability, segment_bytes=65536, index_interval_bytes=1024
    )


def prepare(trial: Trial, say: Say) -> None:
    """A store with a topic of each durability, some of them with records, closed and synced."""
    with trial.open() as store:
        for name, durability in TOPICS.items():
            topic = make(store, name, durability)
            if trial.random.random() < 0.5:
                append(trial, topic, say)
        make(store, "doomed").append(trial.values(3))
        for name in TOPICS:
            store.topic(name).flush()
    say("number", trial.number)


def append(trial: Trial, topic: pystream.Topic, say: Say) -> None:
    values = trial.values(trial.random.choice((1, 1, 3, 10)))
    say("appending", (topic.name, [number_of(one) for one in values]))
    say("appended", (topic.name, topic.partition(0).append(values), len(values)))
    say("durable", (topic.name, topic.partition(0).durable_offset))


def send(trial: Trial, topic: pystream.Topic, say: Say) -> None:
    values = trial.values(trial.random.choice((1, 5, 20)))
    durable = trial.random.random() < 0.5
    say("appending", (topic.name, [number_of(one) for one in values]))
    with topic.producer() as producer:
        for one in values:
            producer.send(one)
        producer.flush(durable=durable)
        end = topic.partition(0).end_offset
        say("appended", (topic.name, end - len(values), len(values)))
        if durable:
            say("durable", (topic.name, end))


def flush(trial: Trial, topic: pystream.Topic, say: Say) -> None:
    end = topic.partition(0).end_offset
    topic.partition(0).flush()
    say("durable", (topic.name, end))


def work(trial: Trial, store: pystream.Store, say: Say) -> None:
    """Appends, sends and flushes in all topics; a group reads one of them; topics come and go."""
    consumer = None
    topics = {name: make(store, name, durability) for name, durability in TOPICS.items()}
    for step in range(trial.random.randint(3, 25)):
        topic = topics[trial.random.choice(list(topics))]
        chosen = trial.random.random()
        if chosen < 0.5:
            append(trial, topic, say)
        elif chosen < 0.65:
            send(trial, topic, say)
        elif chosen < 0.75:
            flush(trial, topic, say)
        elif chosen < 0.93:
            if consumer is None:
                consumer = store.consumer("interval", group="g", auto_commit=False)
            read(trial, consumer, say)
        elif chosen < 0.96:
            name = f"made-{step}"
            say("making", name)
            make(store, name).append(trial.values(1))
            say("made", name)
        elif "doomed" in store.topics():
            say("deleting", "doomed")
            store.delete_topic("doomed")
            say("deleted", "doomed")
    if consumer:
        consumer.close()


def read(trial: Trial, consumer: pystream.Consumer, say: Say) -> None:
    """Batches are done when they have been told of; then they are committed."""
    for _ in range(trial.random.randint(1, 4)):
        batch = consumer.poll(timeout=0.05)
        if batch is None:
            break
        numbers = map(number_of, batch.values.to_pylist())
        say("got", list(zip(map(int, batch.offsets), numbers, strict=True)))
        durable = trial.random.random() < 0.3
        consumer.commit(durable=durable)
        if durable:
            say("committed", int(batch.offsets[-1]) + 1)


# ---- what must be true ---------------------------------------------------------------------------------


def expected(said: list[tuple[str, Any]], name: str) -> tuple[dict[int, int], list[list[int]], int]:
    """Of a topic: the numbers at offsets that were told; those of batches of which nothing was told; and
    below what offset nothing may be lost."""
    at: dict[int, int] = {}
    unknown: list[list[int]] = []
    promised = 0
    for word, what in said:
        if word == "appending" and what[0] == name:
            unknown.append(what[1])
        elif word == "appended" and what[0] == name:
            at.update(enumerate(unknown.pop(), what[1]))
            promised = max(promised, what[1] + what[2] if TOPICS[name] == "sync" else 0)
        elif word == "durable" and what[0] == name:
            promised = max(promised, what[1])
    return at, unknown, promised


def check_topic(topic: pystream.Topic, said: list[tuple[str, Any]]) -> None:
    at, unknown, promised = expected(said, topic.name)
    partition = topic.partition(0)
    found = [(record.offset, number_of(record.value)) for record in partition.records()]
    assert [offset for offset, _ in found] == list(range(partition.end_offset)), "offsets are not dense"
    assert len(found) >= promised, f"{topic.name}: {len(found)} records, promised {promised} of {len(at)}"
    begun = [number for numbers in unknown for number in numbers]
    told = [at[offset] for offset in sorted(at)]
    assert [number for _, number in found] == (told + begun)[: len(found)], f"{topic.name}: {found} of {told}"


def check_group(trial: Trial, store: pystream.Store, said: list[tuple[str, Any]]) -> None:
    """Nothing is skipped: neither what was there, nor what is appended now."""
    got = {pair for pairs in said_of(said, "got") for pair in pairs}
    partition = store.topic("interval").partition(0)
    there = [(record.offset, number_of(record.value)) for record in partition.records()]
    consumer = store.consumer("interval", group="g", auto_commit=False, session_timeout=600)
    begun: list[tuple[int, int]] = []
    later = [value(LATER + n, 10) for n in range(3)]
    cut = False
    for _ in range(1000):
        try:
            batch = consumer.poll(timeout=0)
        except pystream.LogTruncatedError:
            cut = True
            continue
        if batch is not None:
            begun += zip(map(int, batch.offsets), map(number_of, batch.values.to_pylist()), strict=True)
        elif later:
            partition.append(later)
            there += [(len(there) + n, number_of(one)) for n, one in enumerate(later)]
            later = []
        else:
            break
    consumer.close()
    skipped = [pair for pair in there if pair not in got and pair not in begun]
    assert not skipped, f"the group skipped {skipped} of {there}"
    assert begun == there[len(there) - len(begun) :]
    committed = max(said_of(said, "committed"), default=0)
    assert len(there) - len(begun) >= committed, f"committed {committed}, began at {len(there) - len(begun)}"
    if cut:
        assert not all(pair in there for pair in got), "a cut is told of, and nothing was lost"


def check(trial: Trial, said: list[tuple[str, Any]], say: Say) -> None:
    with trial.open() as store:
        names = set(store.topics())
        made, making = said_of(said, "made"), said_of(said, "making")
        assert {*TOPICS, *made} <= names <= {*TOPICS, *making, "doomed"}, names
        for name in TOPICS:
            check_topic(store.topic(name), said)
        for name in names & {*making}:
            assert store.topic(name).partition(0).end_offset <= 1
        if "doomed" in names:
            assert not said_of(said, "deleted"), "a deleted topic is back"
            found = [number_of(record.value) for record in store.topic("doomed").records()]
            assert found == said_of(said, "doomed")[0], found
        check_group(trial, store, said)
        ends = {name: store.topic(name).partition(0).end_offset for name in TOPICS}
    with trial.open() as store:
        assert ends == {name: store.topic(name).partition(0).end_offset for name in TOPICS}
    report = pystream.verify(trial.path)
    assert not any(partition.lost for partition in report.partitions), report.partitions
    # The index of the last segment may be torn and, in a topic that nobody syncs, seals: they hold nothing
    # that is not elsewhere.
    found = [
        finding
        for finding in report.damage
        if finding.part != "index" and (finding.topic, finding.part) != ("none", "seal")
    ]
    assert not found, found


def play(trial: Trial) -> dict[str, int]:
    """One trial with a store at work."""
    fresh = trial.random.random() < 0.15
    said: list[tuple[str, Any]] = []

    def begin(say: Say) -> None:
        prepare(trial, say)

    def act(say: Say) -> None:
        with trial.open() as store:
            work(trial, store, say)

    if fresh:  # the making of it fails, too
        ended = trial.live(begin, trial.random.randint(1, 120))
        if not said_of(ended.said, "number"):

            def again(say: Say) -> None:
                with trial.open() as store:
                    for name, durability in TOPICS.items():
                        make(store, name, durability).append(trial.values(1))

            trial.number = 1000
            trial.live(again, None)
            return {"unmade": 1}
    else:
        ended = trial.live(begin, None)
    said += ended.said
    trial.number = said_of(said, "number")[0]
    said.append(("doomed", [trial.number - 3, trial.number - 2, trial.number - 1]))
    deaths = 1
    said += trial.live(act, trial.random.randint(1, CALLS_MAX)).said
    while deaths < 3 and trial.random.random() < 0.4:  # and in what opens it next

        def look(say: Say) -> None:
            with trial.open() as store:
                for name in TOPICS:
                    list(store.topic(name).records())

        trial.live(look, trial.random.randint(1, 80))
        deaths += 1
    trial.live(lambda say: check(trial, said, say), None)
    return {"power_failures": deaths}


def play_repair(trial: Trial) -> dict[str, int]:
    """Power fails while a damaged store is repaired, perhaps again; then it is repaired once more."""
    scene = SCENES["repair"]
    durability = trial.random.choice(tuple(TOPICS.values()))

    def ground() -> Ground:
        return Ground(trial.machine, trial.io, durability)

    trial.live(lambda say: scene.prepare(ground()), None)
    said: list[tuple[str, Any]] = []
    deaths = trial.random.randint(1, 2)
    for _ in range(deaths):
        calls = trial.random.randint(1, 250)
        said += trial.live(lambda say: scene.act(ground(), plainly, say), calls).said
    trial.live(lambda say: scene.check(ground(), said), None)
    return {"power_failures": deaths, "repairs": 1}


@contextmanager
def directory() -> Iterator[Path]:
    """One in memory, where there is some, that is gone afterwards."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    found = Path(tempfile.mkdtemp(prefix="pystream-power-", dir=memory))
    try:
        yield found
    finally:
        shutil.rmtree(found, ignore_errors=True)


def trial(seed: int, broken: str | None = None) -> tuple[str | None, dict[str, int]]:
    """Play one trial, in a process that has the played disk loaded, and no thread.

    Args:
        broken: take this from the library; a name of `BROKEN`.

    Returns:
        What went wrong, or None; and what was done.
    """
    with directory() as base:
        one = Trial(seed, base, broken)
        try:
            return None, (play_repair if one.random.random() < 0.15 else play)(one)
        except AssertionError as error:
            return f"seed {seed}: {error}", {}
