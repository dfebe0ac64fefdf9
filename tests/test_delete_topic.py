"""Deleted topics: gone at once and for all, whoever has them open or dies; never mixed up with later ones."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import deleters
import lives
import pystream
from administrators import leftovers
from harness import Life, Snapshot, contents, quick_directory
from pystream import TopicDeletedError, deletion

POINTS = (
    "delete.locked",
    "delete.renamed",
    "delete.synced",
    "delete.marked",
    "delete.unlocked",
    "delete.removing",
    "delete.emptied",
    "delete.removed",
)
"""Where a deleter can be killed."""


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def create(store: pystream.Store, name: str = "t", partitions: int = 2) -> pystream.Topic:
    return store.topic(name, create=True, partitions=partitions, segment_bytes=65536)


def test_every_point_is_known() -> None:
    source = Path(deletion.__file__).read_text()
    assert set(re.findall(r'"(delete\.[a-z]+)"', source)) == set(POINTS)


def test_deleted(path: Path) -> None:
    with pystream.open(path) as store:
        topic = create(store)
        create(store, "u").append([b"stays"], partition=0)
        topic.append([b"a"], partition=0)
        batch = next(topic.batches())
        assert store.delete_topic("t") is None
        assert store.topics() == list(store) == ["u"]
        assert "t" not in store
        assert os.listdir(path / "topics") == ["u"]
        for use in (
            lambda: topic.append([b"b"], partition=0),
            lambda: topic.append([b"b"], partition=1),  # not opened before
            lambda: list(topic.records()),
            lambda: topic.partition(0)[0],
            lambda: topic.partition(0).flush(),
            lambda: topic.partition(0).end_offset,
            lambda: topic.producer(),
        ):
            with pytest.raises(TopicDeletedError, match="deleted") as caught:
                use()
            assert caught.value.topic == "t"
            assert isinstance(caught.value, LookupError)
        assert bytes(batch.values[0]) == b"a"
        assert [record.value for record in store["u"].records()] == [b"stays"]
        with pytest.raises(pystream.TopicNotFoundError, match="no topic 't'"):
            store["t"]
    with pystream.open(path) as store:
        assert store.topics() == ["u"]


def test_refused(path: Path) -> None:
    store = pystream.open(path)
    create(store, "clicks")
    before = contents(path)
    with pytest.raises(
        pystream.TopicNotFoundError, match=r"no topic 'click' .*did you mean 'clicks'"
    ) as caught:
        store.delete_topic("click")
    assert caught.value.topic == "click"
    with pytest.raises(pystream.TopicNotFoundError, match=r"no topic 'x' in [^;]*$"):
        store.delete_topic("x")
    for name in ("", ".", "..", "a/b", "../topics", ".deleted+0", "__x", "x" * 250):
        with pytest.raises(pystream.OptionError, match="topic name"):
            store.delete_topic(name)
    with pytest.raises(TypeError, match="topic name must be a str"):
        store.delete_topic(store["clicks"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="force"):
        store.delete_topic("clicks", force=True)  # type: ignore[arg-type]
    with pytest.raises(pystream.OptionError, match="timeout"):
        store.delete_topic("clicks", timeout=-1)
    assert contents(path) == before
    store.close()
    with pytest.raises(pystream.ClosedError):
        store.delete_topic("clicks")
    assert contents(path) == before


def test_a_later_topic_is_another(path: Path) -> None:
    with pystream.open(path) as store:
        old = create(store)
        old.append([b"old"] * 3, partition=0)
        store.delete_topic("t")
        new = create(store)
        assert new.uuid != old.uuid
        assert new.offsets() == {0: (0, 0), 1: (0, 0)}
        assert new.append([b"new"], partition=0) == 0
        before = contents(path / "topics")
        for index in (0, 1):
            with pytest.raises(TopicDeletedError):
                old.append([b"old"], partition=index)
            with pytest.raises(TopicDeletedError):
                old.partition(index).flush()
        assert contents(path / "topics") == before
        assert [record.value for record in new.records()] == [b"new"]
    with pystream.open(path) as store:
        assert [record.value for record in store["t"].records()] == [b"new"]


def test_handles_of_another_process(path: Path) -> None:
    with pystream.open(path) as store:
        create(store)
        life = Life(deleters.hold_everything, str(path), "t")
        assert life.receive() == "ready"
        store.delete_topic("t")
        create(store).append([b"new"], partition=0)
        before = contents(path / "topics")
        life.channel.send("go on")
        said = life.receive()
        assert said.pop("flush producer") == "DeliveryError"
        assert said.pop("open") == "False"
        assert said == dict.fromkeys(said, "TopicDeletedError")
        assert life.receive() == b"mine"
        assert life.end() == 0  # it was told once what its producer lost
        assert {name: size for name, (size, _) in contents(path / "topics").items()} == {
            name: size for name, (size, _) in before.items()
        }
        assert [record.value for record in store["t"].records()] == [b"new"]


def test_waiting_consumers_are_woken(path: Path) -> None:
    """In this process and in another: at once, not at the next look around."""
    with pystream.open(path) as store:
        create(store)
        took = []
        for _ in range(3):
            waiting = [Life(deleters.wait_for_records, str(path), "t") for _ in range(2)]
            assert [life.receive() for life in waiting] == ["ready", "ready"]
            time.sleep(0.05)
            begun = time.monotonic()
            store.delete_topic("t")
            assert [life.receive() for life in waiting] == ["TopicDeletedError"] * 2
            took.append(time.monotonic() - begun)
            assert [life.end() for life in waiting] == [0, 0]
            create(store)
        assert min(took) < 0.4


def test_stores_open_to_read(path: Path) -> None:
    """They hear of it, too, and delete nothing."""
    with pystream.open(path) as store:
        create(store).append([b"a"], partition=0)
        with pystream.open(path, mode="r") as reading:
            topic = reading["t"]
            partition = topic.partition(0)
            assert partition[0].value == b"a"
            consumer = reading.consumer("t", start="latest")
            with pytest.raises(pystream.ReadOnlyError):
                reading.delete_topic("t")
            store.delete_topic("t")
            assert reading.topics() == []
            for use in (partition.tail, lambda: consumer.poll(5), lambda: topic.partition(1).tail()):
                with pytest.raises(TopicDeletedError):
                    use()
            create(store).append([b"new"], partition=0)
            assert [record.value for record in reading["t"].records()] == [b"new"]


def test_a_consumer_goes_on_without_it(path: Path) -> None:
    with pystream.open(path) as store:
        create(store, partitions=1)
        other = create(store, "u", partitions=1)
        consumer = store.consumer("t", "u", timeout=0)
        store.delete_topic("t")
        other.append([b"a"])
        got = []
        for _ in range(4):  # the others are not held up
            try:
                got.append(consumer.poll(0))
            except TopicDeletedError as error:
                assert error.topic == "t"
        assert [batch.values.to_pylist() for batch in got if batch] == [[b"a"]]
        create(store, partitions=1).append([b"new"])
        consumer.subscribe(["t", "u"])
        other.append([b"b"])
        assert sorted(record.value or b"" for record in consumer) == [b"b", b"new"]


def test_records_in_a_producer_are_lost_aloud(path: Path) -> None:
    with pystream.open(path) as store:
        producer = create(store, partitions=1).producer(linger=60)
        heard = []
        for _ in range(3):
            producer.send(b"queued", on_delivery=lambda error, where: heard.append(error))
        store.delete_topic("t")
        with pytest.raises(pystream.DeliveryError, match="3 records of topic 't'") as caught:
            producer.close()
        assert isinstance(caught.value.__cause__, TopicDeletedError)
        assert caught.value.records == 3
        assert [type(error) for error in heard] == [TopicDeletedError] * 3


@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_beneath_a_busy_writer(path: Path, durability: str) -> None:
    """A topic of that name is made while the old one's writer still runs and rolls: nothing gets there."""
    with pystream.open(path) as store:
        for size in (100, 30_000):
            store.topic("t", create=True, segment_bytes=65536, durability=durability)
            life = Life(deleters.append_until_refused, str(path), "t", size, durability)
            assert life.receive() == "ready"
            store.delete_topic("t")
            store.topic("t", create=True, segment_bytes=65536).append([b"new"])
            name, count = life.receive()
            assert name == "TopicDeletedError"
            assert count >= 5
            assert life.end() == 0
            assert [record.value for record in store["t"].records()] == [b"new"]
            assert sorted(os.listdir(path / "topics/t/0")) == [
                f"{0:020}.index",
                f"{0:020}.log",
                "epochs",
                "head",
            ]
            store.delete_topic("t")


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point(path: Path, point: str) -> None:
    """The deleter dies; this process has the topic open all the while, makes another, and rolls the old."""
    with pystream.open(path) as store:
        old = create(store)
        old.append([b"a"], partition=1)
        life = Life(deleters.delete, str(path), "t", fault=f"{point}:1:kill")
        assert life.received() == ["ready"]
        assert life.end() == -signal.SIGKILL
        if point == "delete.locked":  # nothing was done yet, and its locks went with it
            assert store.topics() == ["t"]
            assert old.append([b"b"], partition=0) == 1
            store.delete_topic("t")
            assert os.listdir(path / "topics") == []
            return
        assert store.topics() == []
        assert bool(leftovers(path)) == (point != "delete.removed")
        new = create(store)
        new.append([b"new"], partition=0)
        before = contents(path / "topics")
        with pytest.raises(TopicDeletedError):
            for _ in range(9):
                old.append([bytes(30_000)], partition=0)
        with pytest.raises(TopicDeletedError):
            old.append([b"x"], partition=1)
        assert contents(path / "topics") == before
        assert leftovers(path) == []
        assert [record.value for record in new.records()] == [b"new"]
    with pystream.open(path) as store:
        assert [record.value for record in store["t"].records()] == [b"new"]


@pytest.mark.parametrize("point", POINTS[1:-1])
@pytest.mark.parametrize("by", ["open", "delete", "create"])
def test_leftovers_are_removed_by_others(path: Path, point: str, by: str) -> None:
    with pystream.open(path) as store:
        create(store)
        create(store, "u")
    opened = pystream.open(path) if by != "open" else None
    life = Life(deleters.delete, str(path), "t", fault=f"{point}:1:kill")
    assert life.end() == -signal.SIGKILL
    assert len(leftovers(path)) == 1
    if opened is None:
        opened = pystream.open(path)
    elif by == "delete":
        opened.delete_topic("u")
    else:
        create(opened, "v")
    assert leftovers(path) == []
    opened.close()


def test_killed_before_it_could_tell(path: Path) -> None:
    """Renamed, nobody told, nobody comes to finish it: who has the topic open finds out at his next file."""
    with pystream.open(path) as store:
        old = create(store)
        old.append([b"a"], partition=0)
        records = old.partition(0).records()
        life = Life(deleters.delete, str(path), "t", fault="delete.renamed:1:kill")
        assert life.end() == -signal.SIGKILL
        with pytest.raises(TopicDeletedError):
            for _ in range(9):
                old.append([bytes(30_000)], partition=0)
        with pytest.raises(TopicDeletedError):
            old.partition(1)[0]
        with pytest.raises(TopicDeletedError):
            list(records)
        assert store.topics() == []


def test_writers_are_waited_for(path: Path) -> None:
    with pystream.open(path) as store:
        create(store).append([b"a"], partition=0)
        life = Life(deleters.hold_partition, str(path), "t")
        assert life.receive() == "holding"
        snapshot = Snapshot(path)
        begun = time.monotonic()
        with pytest.raises(
            pystream.LockTimeoutError, match=f"process {life.pid} holds partition 1"
        ) as caught:
            store.delete_topic("t", timeout=0.3)
        assert 0.25 < time.monotonic() - begun < 10
        assert caught.value.topic == "t"
        with pytest.raises(pystream.LockTimeoutError):
            store.delete_topic("t", timeout=0)
        assert snapshot.files == Snapshot(path).files
        assert store["t"].append([b"b"], partition=0) == 1  # no lock was kept
        life.channel.send("go on")
        store.delete_topic("t", timeout=None)
        assert life.end() == 0
        assert store.topics() == []


def test_a_stopped_writer_is_waited_for(path: Path) -> None:
    with pystream.open(path) as store:
        create(store, partitions=1)
        life = Life(lives.hold_lock, str(path))
        assert life.receive() == "holding"
        with pytest.raises(pystream.LockTimeoutError, match="a writer kept partition 0"):
            store.delete_topic("t", timeout=0.1)
        life.channel.send("go on")
        assert life.receive() == "gone on"
        assert life.end() == 0
        store.delete_topic("t")


def test_nobody_is_held_up_while_a_holder_is_waited_for(path: Path) -> None:
    """Another process keeps the last partition: the others are appended to and synced all the same."""
    with pystream.open(path) as store:
        topic = create(store)
        life = Life(lives.hold_partition, str(path), False, 1)
        assert life.receive() == "held"
        failed: list[BaseException] = []

        def delete() -> None:
            try:
                store.delete_topic("t", timeout=2)
            except pystream.LockTimeoutError as error:
                failed.append(error)

        thread = threading.Thread(target=delete)
        began = time.monotonic()
        thread.start()
        time.sleep(0.2)
        end = topic.partition(0).append([b"x"], timeout=0.5)
        topic.partition(0).flush(durable=True)
        assert topic.partition(0).durable_offset == end + 1
        assert time.monotonic() - began < 1.5, "it waited for the deleter"
        thread.join()
        assert len(failed) == 1 and "partition 1" in str(failed[0])
        assert "t" in store
        life.kill()
        life.end()


def test_own_holds_end(path: Path) -> None:
    with pystream.open(path) as store:
        partition = create(store).partition(0)
        with partition.exclusive():
            store.delete_topic("t", timeout=5)
            with pytest.raises(TopicDeletedError):
                partition.append([b"x"])


def test_damaged_topics_can_be_deleted(path: Path) -> None:
    with pystream.open(path) as store:
        for victim in ("topic.json", "locks", "0/head"):
            create(store).append([b"a"], partition=0)
            file = path / "topics/t" / victim
            if victim == "locks":
                file.unlink()
            else:
                file.write_bytes(b"{" * (file.stat().st_size // 2))
            if victim == "topic.json":
                with pytest.raises(pystream.CorruptLogError):
                    store.topic("t")
            store.delete_topic("t")
            assert os.listdir(path / "topics") == []


def test_space_is_free_at_once(path: Path) -> None:
    """The process that deleted keeps nothing of the files but what is lent, and that no longer than lent."""
    with pystream.open(path) as store:
        for _ in range(3):
            topic = create(store)
            for index in (0, 1):
                topic.append([bytes(1000)] * 20, partition=index)
            batches = list(topic.batches())
            del batches[1]
            store.delete_topic("t")
            assert len(kept(path)) == 1
            del batches
            assert kept(path) == set()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(30):
            create(store).append([b"x"], partition=0)
            store.delete_topic("t")
        gc.collect()  # topics and their partitions know each other
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


def kept(path: Path) -> set[str]:
    """Segments of the store that have no name any more and that this process has open or mapped."""
    open_files = {
        os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)
    }
    maps = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    start = f"{path.resolve()}/topics/.deleted+"
    return {name for name in open_files | maps if name.startswith(start) and name.endswith(".log (deleted)")}


def test_a_failed_rename_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pystream.open(path) as store:
        topic = create(store)
        topic.append([b"a"], partition=0)

        def fail(*ignored: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "rename", fail)
        with pytest.raises(pystream.StorageError, match="not permitted"):
            store.delete_topic("t")
        monkeypatch.undo()
        assert topic.append([b"b"], partition=0) == 1
        assert store.topics() == ["t"]


def test_many_partitions(path: Path) -> None:
    with pystream.open(path) as store:
        topic = create(store, partitions=1000)
        for index in (0, 500, 999):
            topic.append([b"a"], partition=index)
        store.delete_topic("t")
        assert os.listdir(path / "topics") == []
        for index in (0, 1, 999):
            with pytest.raises(TopicDeletedError):
                topic.append([b"a"], partition=index)


def test_made_and_deleted_by_several(path: Path) -> None:
    """Processes make, fill and delete the same topics; each sees whole ones, or hears that they are gone."""
    pystream.open(path).close()
    makers = [Life(deleters.make_and_delete, str(path), seed, 40) for seed in range(3)]
    assert [life.receive(120) for life in makers] == ["done"] * 3
    assert [life.end() for life in makers] == [0] * 3
    with pystream.open(path) as store:
        for name in store:
            values = [record.value or b"" for record in store[name].records()]
            assert all(value.endswith(bytes(5000)) for value in values)
        assert leftovers(path) == []
