"""Writers are killed between any two stores; nothing acknowledged is lost, nothing torn is ever seen."""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lives
import pystream
from faults import points
from harness import LONG, T0, Life, quick_directory
from lives import numbered, parsed

SOURCES = Path(__file__).resolve().parent.parent / "csrc"

POINTS = {
    name: verb
    for verb, names in {
        "mmap": "append.body append.zeroed append.header",
        "any": "append.begun append.log_end append.published append.indexed append.even prepare.created "
        "segment.header segment.renamed roll.seal roll.sealed roll.created roll.moved roll.cut sync.durable",
    }.items()
    for name in names.split()
}
"""Where a writer can be killed, and with which way of storing it comes there."""

RECOVERY = tuple("epoch save aside seal create rewrite head slot slots headed".split())
"""Where the recovery after such a death can be killed in turn; tested in tests/c/test_log.c."""

HOLDING = {"hold.held"}
"""Where a process can be killed that holds a partition; tested in tests/c/test_lock.c."""

READING = {"view.anew"}
"""Where a thread has others read on that have not seen yet what it has; tested in tests/c/test_view.c."""

RETAINING = {
    f"retain.{step}" for step in "rolling synced raised durable unlinking index unlinked done".split()
}
"""Where retention can be killed; tested in tests/c/test_retain.c."""

COMPACTING = {
    f"compact.{step}"
    for step in "begun mapped opened written indexed synced renamed dirsynced unlinking cleaned".split()
}
"""Where compaction can be killed; tested in tests/c/test_compact.c."""

VERBS = sorted(set(re.findall(r'ASK\(env, "(\w+)"\)', (SOURCES / "ps_os.c").read_text())))
"""System calls that can be made to fail."""

COUNT = 3  # records in a batch
SIZE = 2500  # bytes in a value: a segment of 64 KiB has room for eight batches


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def create(path: Path, io: str, durability: str = "interval", compression: str = "none") -> pystream.Store:
    store = lives.open_store(str(path), io)
    store.topic(
        "t",
        create=True,
        durability=durability,
        compression=compression,
        segment_bytes=65536,
        index_interval_bytes=1024,
    )
    return store


class Reader(threading.Thread):
    """Follows the log all the while; whatever it sees must be whole, in order, and stay."""

    def __init__(self, store: pystream.Store) -> None:
        super().__init__(daemon=True)
        self.consumer = store.consumer("t")
        self.seen: list[tuple[int, int]] = []
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            for record in self.consumer:
                assert record.offset == len(self.seen)
                assert record.value is not None
                self.seen.append(parsed(record.value))
        except pystream.ClosedError:
            pass
        except BaseException as error:
            self.failed = error

    def stop(self, end: int) -> list[tuple[int, int]]:
        """What it has seen, which is all."""
        deadline = time.monotonic() + 30
        while len(self.seen) < end and self.failed is None and time.monotonic() < deadline:
            time.sleep(0.002)
        self.consumer.close()
        self.join(30)
        assert self.failed is None, self.failed
        return self.seen


def check(partition: pystream.Partition, acknowledged: list[tuple[int, int]], count: int = COUNT) -> int:
    """Every acknowledged batch is where it was said to be; all else is whole batches. Returns the end."""
    log = [parsed(record.value or b"") for record in partition]
    assert [record.offset for record in partition] == list(range(len(log)))
    for offset, begin in acknowledged:
        assert [number for _, number in log[offset : offset + count]] == list(range(begin, begin + count))
    assert len(log) % count == 0
    for at in range(0, len(log), count):
        writer, begin = log[at]
        assert log[at : at + count] == [(writer, begin + i) for i in range(count)], "a torn batch"
    return len(log)


def append_until_killed(path: Path, io: str, fault: str, writer: int, batches: int = 12) -> tuple[list, int]:
    life = Life(lives.append_for_ever, str(path), io, writer, 0, SIZE, COUNT, batches, fault=fault)
    said = [word for word in life.received() if word != "ready"]
    return said, life.end()


def test_every_point_is_known() -> None:
    """A point that is added to the sources is added to these tests."""
    sources = "".join(file.read_text() for file in SOURCES.glob("*.c"))
    named = set(re.findall(r'PS_POINT\([^"]*"([^"]+)"\)', sources))
    recovering = {f"recover.{name}" for name in RECOVERY}
    assert named == POINTS.keys() | recovering | HOLDING | READING | RETAINING | COMPACTING
    assert named == set(points.kernel_points())
    assert set(points.library_points()) == points.PLACES.keys()


def test_death_at_every_point() -> None:
    """Once at each, in each durability mode, with both ways of storing, alone and beside others."""
    known = points.combinations()
    assert {one.point for one in known} == {*points.kernel_points(), *points.library_points()}
    assert {(one.mode, one.io) for one in known} == {(m, io) for m in points.MODES for io in points.IOS}
    found = points.run(0, len(known))
    assert not found["failures"], "\n".join(found["failures"])
    assert found["trials"] == found["seeds"] == len(known)


def test_trials_go_on_where_they_stopped() -> None:
    """The rounds after the first differ from it and from one another."""
    total = len(points.combinations())
    found = points.run(total, 60)
    assert not found["failures"], "\n".join(found["failures"])
    assert found["trials"] >= 60
    assert found["seeds"] == found["trials"] + found["lived"]


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize("point", sorted(POINTS))
def test_killed_at_a_point(path: Path, io: str, point: str) -> None:
    """Killed there; a reader of this process has the partition open all the while; then others write on."""
    if POINTS[point] not in ("any", io):
        return
    reached = 0
    with create(path, io, "sync" if point.startswith("sync") else "interval") as store:
        partition = store.topic("t").partition(0)
        reader = Reader(store)
        reader.start()
        acknowledged: list[tuple[int, int]] = []
        nths = [1, 2] if point.startswith(("segment", "roll", "prepare")) else [1, 4, 9]
        for writer, nth in enumerate(nths):
            said, code = append_until_killed(path, io, f"{point}:{nth}:kill", writer)
            reached += code == -signal.SIGKILL
            acknowledged += said
            end = check(partition, acknowledged)
            # The next writer mends what the dead one left. What was whole may come to light with it.
            first = partition.append([numbered(90 + writer, i, 10) for i in range(COUNT)], timestamps=T0)
            assert end <= first <= end + COUNT
            acknowledged.append((first, 0))
            end = check(partition, acknowledged)
        assert [offset for offset, _ in acknowledged] == sorted({offset for offset, _ in acknowledged})
        assert reader.stop(end) == [parsed(record.value or b"") for record in partition]
    assert reached or point == "prepare.created", "nobody was killed"
    with lives.open_store(str(path), io) as store:
        assert check(store.topic("t").partition(0), acknowledged) == end


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize("point", sorted(POINTS))
def test_killed_alone(path: Path, io: str, point: str) -> None:
    """Killed there with nobody else in the store, so that whoever opens it next recovers. Compressed."""
    if POINTS[point] not in ("any", io):
        return
    create(path, io, "sync" if point.startswith("sync") else "interval", "lz4").close()
    acknowledged: list[tuple[int, int]] = []
    for writer, nth in enumerate([1, 3]):
        said, _ = append_until_killed(path, io, f"{point}:{nth}:kill", writer)
        acknowledged += said
        with lives.open_store(str(path), io) as store:
            partition = store.topic("t").partition(0)
            end = check(partition, acknowledged)
            first = partition.append([numbered(90 + writer, i, 10) for i in range(COUNT)], timestamps=T0)
            assert end <= first <= end + COUNT
            acknowledged.append((first, 0))
            check(partition, acknowledged)


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_killed_before_any_call(path: Path, io: str, durability: str) -> None:
    """Killed before the n-th system call of any kind, from opening to closing, for every n."""
    create(path, io, durability).close()
    acknowledged: list[tuple[int, int]] = []
    nth, step = 1, 1 if LONG else 5
    while True:
        said, code = append_until_killed(path, io, f"*:{nth}:kill", nth, batches=10)
        acknowledged += said
        with lives.open_store(str(path), io) as store:
            check(store.topic("t").partition(0), acknowledged)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        nth += step
    assert nth > 30


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize("verb", VERBS)
def test_failing_calls(path: Path, io: str, verb: str) -> None:
    """A call fails: the append says so, what was acknowledged is there, and the log goes on once reopened."""
    with create(path, io) as store:
        partition = store.topic("t").partition(0)
        acknowledged: list[tuple[int, int]] = []
        store._handle.arm(f"{verb}:3:errno=5:2")
        for begin in range(0, 12 * COUNT, COUNT):
            try:
                values = [numbered(0, number, SIZE) for number in range(begin, begin + COUNT)]
                acknowledged.append((partition.append(values, timestamps=T0), begin))
            except pystream.StorageError as error:
                assert error.errno == 5
        store._handle.arm(None)
        check(partition, acknowledged)
    with lives.open_store(str(path), io) as store:
        partition = store.topic("t").partition(0)
        check(partition, acknowledged)
        partition.append([numbered(1, i, 10) for i in range(COUNT)])
        check(partition, acknowledged)


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_full_disk(path: Path, io: str) -> None:
    """ENOSPC is OSError(ENOSPC) from append, nothing is poisoned, and there is room again the next time."""
    with create(path, io, "none") as store:
        partition = store.topic("t").partition(0)
        acknowledged: list[tuple[int, int]] = []
        refused = 0
        store._handle.arm(f"{'allocate' if io == 'mmap' else 'pwrite'}:2:errno=28:3")
        for begin in range(0, 30 * COUNT, COUNT):
            values = [numbered(0, number, SIZE) for number in range(begin, begin + COUNT)]
            for _ in range(9):
                try:
                    acknowledged.append((partition.append(values, timestamps=T0), begin))
                    break
                except OSError as error:
                    assert error.errno == 28
                    assert isinstance(error, pystream.StorageError)
                    assert not isinstance(error, pystream.PoisonedError)
                    refused += 1
        assert len(acknowledged) == 30
        assert refused
        assert check(partition, acknowledged) == 30 * COUNT


def test_failed_sync_poisons_all(path: Path) -> None:
    """After a failed sync no process appends before the store was closed everywhere and opened again."""
    with create(path, "mmap") as store:
        partition = store.topic("t").partition(0)
        partition.append([b"a"], timestamps=T0)
        store._handle.arm("sync:1:errno=5")
        with pytest.raises(pystream.StorageError):
            partition.flush()
        store._handle.arm(None)
        for _ in range(2):
            with pytest.raises(pystream.PoisonedError):
                partition.append([b"b"])
            with pytest.raises(pystream.PoisonedError):
                partition.flush()
        life = Life(lives.call, lives.append_one, str(path))
        assert life.receive().startswith("PoisonedError")
        assert life.end() == 0
        assert partition[0].value == b"a"  # reading goes on
    with lives.open_store(str(path), "mmap") as store:
        partition = store.topic("t").partition(0)
        assert partition.append([b"c"], timestamps=T0) == 1
        assert [record.value for record in partition] == [b"a", b"c"]
        assert partition.durable_offset >= 1


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_kill_9_at_random(path: Path, io: str, durability: str) -> None:
    """Several writers, one killed at a time, a new one in its place; this process reads on."""
    seeded = random.Random(11)
    with create(path, io, durability) as store:
        partition = store.topic("t").partition(0)
        reader = Reader(store)
        reader.start()
        acknowledged: list[tuple[int, int]] = []

        def begin(writer: int) -> Life:
            life = Life(lives.append_for_ever, str(path), io, writer, 0, 700, COUNT, 10**6)
            assert life.receive() == "ready"
            return life

        alive = [begin(writer) for writer in range(3)]
        for writer in range(3, 60 if LONG else 11):
            time.sleep(seeded.uniform(0.001, 0.06))
            life = alive.pop(seeded.randrange(len(alive)))
            life.kill()
            acknowledged += life.received()
            assert life.end() == -signal.SIGKILL
            alive.append(begin(writer))
        for life in alive:
            life.kill()
            acknowledged += life.received()
            life.end()
        first = partition.append([numbered(99, i, 10) for i in range(COUNT)], timestamps=T0)
        assert len(acknowledged) > 10
        end = check(partition, acknowledged)
        assert first + COUNT == end
        assert len(reader.stop(end)) == end
        for writer in {writer for writer, _ in reader.seen}:
            numbers = [number for who, number in reader.seen if who == writer]
            assert numbers == list(range(len(numbers)))
    with lives.open_store(str(path), io) as store:
        assert check(store.topic("t").partition(0), acknowledged) == end


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_producers_killed(path: Path, io: str) -> None:
    """What `flush` acknowledged is there; of what lingered, whole batches or nothing; in order, once."""
    seeded = random.Random(5)
    with create(path, io) as store:
        partition = store.topic("t").partition(0)
        flushed: dict[int, int] = {}
        for writer in range(20 if LONG else 6):
            life = Life(lives.produce_for_ever, str(path), io, writer, 60, 10**7)
            assert life.receive() == "ready"
            time.sleep(seeded.uniform(0.01, 0.1))
            life.kill()
            flushed[writer] = max([0, *life.received()])
            assert life.end() == -signal.SIGKILL
        partition.append([numbered(99, 0, 1)])
        log = [parsed(record.value or b"") for record in partition]
        for writer, acknowledged in flushed.items():
            numbers = [number for who, number in log if who == writer]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= acknowledged
        assert sum(flushed.values()) > 0


def test_a_stopped_writer_keeps_its_lock(path: Path) -> None:
    """Locks are never taken away by time: a timeout says so, and the writer goes on afterwards."""
    with create(path, "mmap") as store:
        partition = store.topic("t").partition(0)
        life = Life(lives.hold_lock, str(path))
        assert life.receive() == "holding"
        assert partition.end_offset == 1
        begun = time.monotonic()
        with pytest.raises(pystream.LockTimeoutError) as caught:
            partition.append([b"x"], timeout=0.2)
        assert 0.15 < time.monotonic() - begun < 5
        assert isinstance(caught.value, TimeoutError)
        assert str(life.pid) in str(caught.value)
        with pytest.raises(pystream.LockTimeoutError):
            partition.append([b"x"], timeout=0)
        assert partition.end_offset == 1
        life.channel.send("go on")
        assert life.receive() == "gone on"
        assert life.end() == 0
        assert partition.append([b"y"], timeout=5) == 2


def test_a_stopped_writer_holds_up_no_reader(path: Path) -> None:
    """Opening and reading need no lock."""
    create(path, "mmap").close()
    life = Life(lives.hold_lock, str(path))
    assert life.receive() == "holding"
    with lives.open_store(str(path), "mmap") as store:
        partition = store.topic("t").partition(0)
        assert [record.value for record in partition] == [b"mine"]
        with pytest.raises(pystream.LockTimeoutError):
            partition.append([b"x"], timeout=0.05)
        life.channel.send("go on")
        assert life.receive() == "gone on"
        assert partition.end_offset == 2
    assert life.end() == 0
