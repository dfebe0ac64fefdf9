"""Numbers of stores, topics and partitions, held against what was done; found without opening anything."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pystream
from harness import T0, Life
from pystream import inspection

S = 10**9


def files_of(partition: Path) -> dict[str, os.stat_result]:
    found = {}
    with os.scandir(partition) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # what is being made has another name in a moment
                found[entry.name] = entry.stat()
    return found


def directory(store: pystream.Store, topic: str = "t", partition: int = 0) -> Path:
    return Path(store.path) / "topics" / topic / str(partition)


def frames(path: Path) -> list[Any]:
    return [event for event in inspection.walk_partition(path) if isinstance(event, inspection.Frame)]


def raw_of(path: Path, stored: int) -> int:
    """What the frames would take without compression, and the rest as it is."""
    found = frames(path)
    return stored + sum(192 + (frame.raw_bytes + 63) // 64 * 64 - frame.frame_bytes for frame in found)


def check_against_files(partition: pystream.Partition, path: Path, exact: bool = False) -> None:
    """All that can be told from the files by other means; once more where they changed meanwhile, as the next
    segment is made ready by another thread."""
    for _ in range(100):
        before = files_of(path)
        stats = partition.stats(exact=exact)
        if files_of(path).keys() == before.keys():
            break
    found = frames(path)
    head = inspection.read_head(path / "head")
    files = before
    logs = sorted(name for name in files if name.endswith(".log"))
    assert head.slot is not None
    used = sum(files[name].st_size for name in logs[:-1]) + head.slot.position
    assert stats.used and stats.error is None
    assert stats.log_start == head.log_start
    assert stats.high_watermark == head.high_watermark
    assert stats.log_end == head.log_end and stats.durable_offset == head.durable_offset
    assert stats.unsynced_records == head.log_end - head.durable_offset
    assert stats.leader_epoch == head.slot.leader_epoch
    assert stats.segments == len(logs)
    assert stats.stored_bytes == used
    assert stats.disk_bytes == sum(each.st_blocks * 512 for each in files.values())
    assert stats.records == head.high_watermark - (head.log_start or 0)
    if stats.exact:
        assert stats.raw_bytes == raw_of(path, used)
    if found:
        assert stats.oldest_timestamp_ns == found[0].first_timestamp


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_numbers_are_those_of_the_files(store: pystream.Store, compression: str, any_io: str) -> None:
    topic = store.topic("t", create=True, segment_bytes="64KiB", compression=compression)
    partition, path = topic.partition(0), directory(store)
    for number in range(60):
        partition.append([b"%d " % number * 300] * 3, timestamps=T0 + number * S)
        if number % 9 == 0:
            check_against_files(partition, path)
    partition.flush()
    check_against_files(partition, path, exact=True)
    stats = partition.stats(exact=True)
    assert stats.exact and stats.records == 180
    assert stats.segments > 2 or compression == "lz4"
    assert (stats.oldest_timestamp_ns, stats.newest_timestamp_ns) == (T0, T0 + 59 * S)
    rough = partition.stats()
    assert not rough.exact and rough.records == 180
    assert abs(rough.raw_bytes - stats.raw_bytes) <= stats.raw_bytes * 0.1
    if compression == "none":
        assert rough.raw_bytes == stats.raw_bytes == stats.stored_bytes
    else:
        assert stats.raw_bytes > 3 * stats.stored_bytes


def test_the_newest_is_the_largest_of_the_newest_segment(topic: pystream.Topic) -> None:
    partition = topic.partition(0)
    assert partition.stats().newest_timestamp_ns is None
    partition.append([b"x"], timestamps=T0 + 9 * S)
    partition.append([b"late"], timestamps=T0)
    stats = partition.stats()
    assert (stats.oldest_timestamp_ns, stats.newest_timestamp_ns) == (T0 + 9 * S, T0 + 9 * S)
    while partition.stats().segments < 2:
        partition.append([bytes(20_000)], timestamps=T0 + 1 * S)
    assert partition.stats().newest_timestamp_ns == T0 + 1 * S


def test_nothing_is_opened_or_written(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        store.topic("t", create=True, partitions=5, segment_bytes="64KiB")
        for index in range(3):
            store["t"].partition(index).append([b"x" * 3000] * 20)
    before = {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*") if p.is_file()}
    descriptors = len(os.listdir("/proc/self/fd"))
    for mode in ("r", "rw"):
        with pystream.open(path, mode) as store:
            held = len(os.listdir("/proc/self/fd"))
            for exact in (False, True):
                stats = store.stats(exact=exact)
                assert [part.used for part in stats["t"].partitions] == [True] * 3 + [False] * 2
                assert [part.records for part in stats.partitions] == [20] * 3 + [0] * 2
                assert [part.process for part in stats.partitions] == [None] * 5
            assert len(os.listdir("/proc/self/fd")) == held
            if mode == "r":
                now = {
                    str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*") if p.is_file()
                }
                assert now == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_sums_and_documents(store: pystream.Store) -> None:
    for name, partitions in (("a", 3), ("b", 2)):
        topic = store.topic(name, create=True, partitions=partitions)
        for index in range(partitions):
            topic.append([b"x"] * (index + 1), partition=index, timestamps=T0 + index)
    stats = store.stats()
    assert stats["a"].records == 6 and stats["b"].records == 3 and stats.records == 9
    for field in ("stored_bytes", "raw_bytes", "disk_bytes", "segments", "unsynced_records"):
        assert getattr(stats, field) == sum(getattr(part, field) for part in stats.partitions)
    assert (stats.oldest_timestamp_ns, stats["a"].newest_timestamp_ns) == (T0, T0 + 2)
    assert list(stats.topics) == ["a", "b"] and stats["a"][2].partition == 2
    assert 0 < stats.free_bytes <= stats.size_bytes and not stats.low_on_space
    assert abs(stats.taken_ns - time.time_ns()) < 60 * S
    document = json.loads(json.dumps(stats.to_dict()))
    assert document["uuid"] == str(store.uuid) and document["records"] == 9
    assert document["topics"]["a"]["partitions"][1]["high_watermark"] == 2
    assert document["topics"]["b"]["records"] == 3 and document["errors"] == []
    assert store.stats("b").topics.keys() == {"b"} and store.stats(["b", "a"]).records == 9
    assert store["a"].stats().to_dict()["partitions"] == document["topics"]["a"]["partitions"]


def test_an_empty_store_has_numbers_too(store: pystream.Store) -> None:
    stats = store.stats()
    assert (stats.records, stats.disk_bytes, stats.oldest_timestamp_ns, stats.errors) == (0, 0, None, ())
    assert store.stats(exact=True).exact


def test_what_cannot_be_asked(store: pystream.Store, topic: pystream.Topic) -> None:
    with pytest.raises(pystream.TopicNotFoundError, match=r"no topic 'tt'.*did you mean 't'"):
        store.stats(["t", "tt"])
    with pytest.raises(pystream.OptionError, match="topic name"):
        store.stats("a/b")
    with pytest.raises(TypeError, match="exact"):
        topic.stats(exact=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        topic.stats(True)  # type: ignore[misc]
    store.close()
    for ask in (store.stats, topic.stats, topic.partition(0).stats):
        with pytest.raises(pystream.ClosedError):
            ask()


def test_this_process_s_part(topic: pystream.Topic) -> None:
    partition = topic.partition(0)
    assert partition.stats().process is None
    partition.append([b"x"] * 7)
    first = partition.stats().process
    assert first is not None and (first.appends, first.appended_records, first.rolls) == (1, 7, 0)
    batch = next(partition.scan())
    while partition.stats().segments < 2:
        partition.append([bytes(20_000)])
    lent = partition.stats()
    assert lent.process is not None and lent.process.rolls == 1 and lent.process.appends > 1
    assert lent.lent_bytes >= lent.process.lent_bytes > 0
    assert lent.pinned_bytes == 0
    partition.delete_records(partition.end_offset)
    assert 0 < partition.stats().pinned_bytes <= partition.stats().lent_bytes
    assert batch[0].value == b"x"
    del batch
    assert partition.stats().pinned_bytes == 0
    partition.append([b"y"])
    partition.flush()
    assert partition.stats().process.syncs >= 1  # type: ignore[union-attr]


# ---- what goes wrong ------------------------------------------------------------------------------------


def test_a_poisoned_partition_says_so(store: pystream.Store, topic: pystream.Topic) -> None:
    topic.append([b"x"])
    assert not topic.stats()[0].poisoned
    topic.partition(0)._log().poison(28)
    stats = store.stats()
    assert stats["t"][0].poisoned and stats["t"][0].poison_errno == 28
    assert stats.poisoned == 1 and stats.records == 1


def test_topics_that_go_and_come_back(store: pystream.Store) -> None:
    old = store.topic("t", create=True, segment_bytes="64KiB")
    old.append([b"x" * 1000] * 10)
    store.topic("u", create=True)
    assert store.stats().records == 10
    partition = old.partition(0)
    store.delete_topic("t")
    assert list(store.stats().topics) == ["u"]
    for ask in (old.stats, partition.stats):
        with pytest.raises(pystream.TopicDeletedError):
            ask()
    new = store.topic("t", create=True, partitions=2)
    new.append([b"y"] * 3, partition=1)
    assert [part.records for part in store.stats()["t"].partitions] == [0, 3]
    with pytest.raises(pystream.TopicDeletedError):
        old.stats()
    with pytest.raises(pystream.TopicNotFoundError):
        store.stats("v")


def test_deleted_while_others_look(store: pystream.Store) -> None:
    over, failures = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            try:
                stats = store.stats()
                for part in stats.partitions:
                    assert part.error is None and part.records in (0, 5), part
                assert stats.errors == ()
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(25):
        store.topic("t", create=True, partitions=3).append([b"x"] * 5, partition=1)
        store.delete_topic("t")
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_is_damaged_is_told_and_the_rest_is_there(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        for name in ("a", "b", "c"):
            topic = store.topic(name, create=True, segment_bytes="64KiB")
            for _ in range(8):
                topic.append([bytes(20_000)])
    first = sorted((path / "topics/a/0").glob("*.log"))[0]
    with open(first, "r+b") as file:
        file.write(b"nonsense")
    (path / "topics/b/topic.json").write_bytes(b"{}")
    with pystream.open(path, "r") as store:
        for exact in (False, True):
            stats = store.stats(exact=exact)
            assert list(stats.topics) == ["a", "c"]
            assert stats["a"].records == stats["c"].records == 8
            assert "1 segment cannot be read" in str(stats["a"][0].error) and not stats["a"].exact
            assert stats["c"].exact is exact and stats["c"].errors == ()
            assert len(stats.errors) == 2 and "topic.json" in stats.errors[0]


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_lost_head_costs_an_opening(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        partition = store.topic("t", create=True, segment_bytes="64KiB").partition(0)
        for number in range(9):
            partition.append([bytes(9_000)] * 2, timestamps=T0 + number)
        partition.flush()
        wanted = partition.stats()
    os.unlink(path / "topics/t/0/head")
    with pystream.open(path, mode) as store:
        stats = store.stats()["t"][0]
        assert stats.error is None and stats.process is not None
        for field in ("records", "high_watermark", "oldest_timestamp_ns", "newest_timestamp_ns"):
            assert getattr(stats, field) == getattr(wanted, field), field
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)  # heads are of another place now
    with pystream.open(copy, mode) as store:
        assert store.stats().records == 18


def test_a_head_of_nothing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        store.topic("t", create=True).append([b"x"])
    head = path / "topics/t/0/head"
    head.write_bytes(b"\xff" * head.stat().st_size)
    for log in (path / "topics/t/0").glob("*.log"):
        log.write_bytes(b"\xff" * 4096)
    with pystream.open(path, "r") as store:
        part = store.stats()["t"][0]
        assert part.error is not None and part.used and part.disk_bytes > 0
        assert store.stats().errors == (f"t/0: {part.error}",)


# ---- other processes ------------------------------------------------------------------------------------


def append_slowly(channel: Any, path: str) -> None:
    with pystream.open(path) as store:
        partition = store["t"].partition(0)
        channel.send("ready")
        number = 0
        while not channel.poll(0):
            number = partition.append([b"%d" % number * 100] * 3) + 3
        channel.send(number)


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_beside_a_process_that_writes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        store.topic("t", create=True, segment_bytes="64KiB", compression="lz4")
    life = Life(append_slowly, str(path))
    assert life.receive() == "ready"
    with pystream.open(path, mode) as store:
        before = store.stats()["t"][0]
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            now = store.stats(exact=time.monotonic_ns() % 2 == 0)["t"][0]
            assert now.error is None
            for field in ("records", "high_watermark", "log_end", "durable_offset", "segments"):
                assert getattr(now, field) >= getattr(before, field), field
            assert now.records % 3 == 0 and now.log_end >= now.durable_offset
            assert now.process is None
            before = now
        assert before.segments > 1
        life.channel.send("enough")
        wanted = life.receive()
        assert life.end() == 0
        for exact in (False, True):
            stats = store.stats(exact=exact)["t"][0]
            assert stats.records == stats.high_watermark == wanted
    check = pystream.open(path, "r")
    assert sum(1 for _ in check["t"].records()) == wanted
    check.close()


def in_group(channel: Any, path: str) -> None:
    with pystream.open(path) as store, store.consumer("t", group="g") as consumer:
        for number, _ in enumerate(consumer):
            if number == 30:
                channel.send("thirty")
                channel.recv()
                break


def test_lags_of_groups(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, partitions=2)
        now = time.time_ns()
        for number in range(10):
            topic.append([b"x"] * 10, partition=0, timestamps=now - (10 - number) * 3600 * S)
        topic.append([b"y"] * 5, partition=1, timestamps=now - 60 * S)
        assert topic.stats().groups == ()
        life = Life(in_group, str(path))
        assert life.receive() == "thirty"
        lag = store.stats()["t"].groups[0]
        assert (lag.group, lag.members) == ("g", 2)
        one = {part.partition: part.groups[0] for part in store.stats()["t"].partitions}
        done = sum(each.committed or 0 for each in one.values())
        assert done in (29, 30, 31) and lag.lag_records == 105 - done
        for index, each in one.items():
            assert each.lag_records == (100, 5)[index] - (each.committed or 0)
        ages = [each.lag_ns for each in one.values()]
        assert 0 <= max(age for age in ages if age is not None) - (lag.lag_ns or 0) < 60 * S  # a moment later
        behind = one[0].committed or 0
        oldest = (10 - behind // 10) * 3600 * S  # to within a batch
        assert 0 <= (one[0].lag_ns or 0) - oldest < 60 * S
        life.channel.send("on")
        assert life.end() == 0
        store.group("g").reset("latest", topics="t")
        with pystream.open(path, "r") as reading:
            over = reading.stats()["t"].groups[0]
            assert (over.lag_records, over.lag_ns, over.members) == (0, 0, 0)
            topic.append([b"z"], partition=1, timestamps=now)
            assert reading.stats()["t"].groups[0].lag_records == 1
        store.group("g").delete()
        assert store.stats()["t"].groups == ()


def test_a_group_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        store.topic("t", create=True).append([b"x"] * 3)
        with store.consumer("t", group="g", timeout=0) as consumer:
            assert len(list(consumer)) == 3
    for file in (path / "groups/g").iterdir():
        file.write_bytes(b"nonsense" * 512)
    with pystream.open(path, "r") as store:
        stats = store.stats()
        assert stats.records == 3 and len(stats.errors) == 1 and stats.errors[0].startswith("group g: ")


def test_after_a_fork(store: pystream.Store, topic: pystream.Topic) -> None:
    topic.append([b"x"])
    assert store.stats().records == 1
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store.stats()
        except pystream.ForkedError:
            with pystream.open(store.path, "r") as mine:
                code = 0 if mine.stats().records == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.stats().records == 1
