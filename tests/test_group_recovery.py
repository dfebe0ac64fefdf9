"""Groups after a power failure, a cut log, damaged and missing files, and full disks."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import group_lives
import pystream
from group_lives import Company, append, fill, places, until
from harness import Life, files_of, quick_directory
from pystream import CorruptLogError, FormatVersionError, LogTruncatedError, StorageError
from pystream._native.hashing import xxh3_hex
from pystream.group import shared
from pystream.group.documents import Committed, decode, encode

P = ("t", 0)


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def consume(path: Path, records: int, **options: Any) -> None:
    """Read so many records of a topic of one partition and ten records, and leave cleanly."""
    with pystream.open(path) as store:
        fill(store, partitions=1, records=0 if "t" in store else 10)
        with store.consumer("t", group="g", **options) as consumer:
            for _ in range(records):
                consumer.poll(timeout=5)


def position(path: Path, **options: Any) -> int:
    """Where the next member begins."""
    with pystream.open(path) as store, store.consumer("t", group="g", **options) as consumer:
        return consumer.position(P)


def group_file(path: Path, name: str) -> Path:
    (found,) = (path / "groups/g").glob(name)
    return found


def cut_power(path: Path, to: Path) -> None:
    """What a disk may hold after a power failure: other inodes, and of the log only what was synced."""
    shutil.copytree(path, to)


# ---- power failures -------------------------------------------------------------------------------


def test_after_a_power_failure(path):
    """It goes on from what was saved, whoever were members, and whatever the newest state said."""
    with pystream.open(path, sync_interval=1000) as store:
        fill(store, partitions=1, records=10)
        store["t"].partition(0).flush(durable=True)
        consumer = store.consumer("t", group="g", auto_commit=False)
        consumer.commit({P: 4}, durable=True)
        consumer.commit({P: 7})
        assert consumer.committed(P) == 7
        generation = consumer.generation
        cut_power(path, path.with_name("copy"))
        consumer.close()
    with pystream.open(path.with_name("copy")) as store:
        description = store.group("g").describe()
        assert description.state == "empty"
        with store.consumer("t", group="g") as consumer:
            assert consumer.position(P) == 4
            assert [member.pid for member in store.group("g").describe().members] == [os.getpid()]
            assert consumer.generation > generation - 2
    assert position(path) == 7


def test_nothing_is_saved_beyond_what_is_durable_in_the_log(path):
    """Records that a power failure takes are not passed over when their offsets are given out again."""
    with pystream.open(path, sync_interval=1000) as store:
        topic = fill(store, partitions=1, records=3)
        partition = topic.partition(0)
        partition.flush(durable=True)
        append(topic, 0, 7)
        consumer = store.consumer("t", group="g")
        for _ in range(9):
            consumer.poll()
        group = shared.SharedGroup(store._handle, store.path, "g", create=False)
        assert group.save()
        (offset,) = (entry.offset for entry in group.saved().values())
        assert offset == 3
        assert [where.durable for where in store.group("g").describe().partitions] == [False]
        partition.flush(durable=True)
        assert group.save()
        (offset,) = (entry.offset for entry in group.saved().values())
        assert offset == 8
        consumer.close()


@pytest.mark.parametrize("truncated", ["raise", "resume"])
def test_a_commit_beyond_a_cut(path, truncated):
    """Whoever begins there is told, once, and goes on at the cut; nothing after it is passed over."""
    consume(path, 8)
    with pystream.open(path) as store:
        entry = next(iter(store.group("g").committed().values()))
        assert (entry.offset, entry.leader_epoch) == (8, 0)
    tear_tail(path, 6)
    with pystream.open(path) as store:
        topic = store["t"]
        partition = topic.partition(0)
        assert partition.end_offset == 6
        for number in range(6, 12):
            assert partition.append([b"new"]) == number
        assert next(partition.scan(start=6)).leader_epoch > 0
        with store.consumer("t", group="g", truncated=truncated) as consumer:
            assert places(consumer) == [[P]]
            if truncated == "raise":
                with pytest.raises(
                    LogTruncatedError, match=r"committed up to 8, but .* cut the log at 6"
                ) as caught:
                    consumer.poll(timeout=0)
                assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, 8)
                assert issubclass(LogTruncatedError, LookupError)
            batch = consumer.poll(timeout=5)
            assert (batch.offsets.tolist(), bytes(batch.values[0])) == ([6], b"new")
        with store.consumer("t", group="g") as consumer:  # now it is committed behind the cut, and sound
            assert consumer.poll(timeout=5).offsets.tolist() == [7]


def test_a_commit_beyond_a_cut_when_nothing_came_after(path):
    consume(path, 8)
    tear_tail(path, 6)
    with pystream.open(path) as store, store.consumer("t", group="g") as consumer:
        with pytest.raises(LogTruncatedError):
            consumer.poll(timeout=0)
        assert consumer.poll(timeout=0) is None
        store["t"].append([b"new"])
        assert consumer.poll(timeout=5).offsets.tolist() == [6]


def tear_tail(path: Path, end: int) -> None:
    """Have the log lose everything from `end` on, as a power failure may."""
    (segment,) = (path / "topics/t/0").glob("*.log")
    data = segment.read_bytes()
    frame = data.rfind(b"PSFB", 0, data.index(b"0:%d" % end))
    assert frame > 0 and frame % 64 == 0
    with open(segment, "r+b") as file:
        file.seek(frame)
        file.write(bytes(len(data) - frame))
    (path / "topics/t/0/head").unlink()


# ---- files that are damaged or gone ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["control", "state+*", "committed", "member+*", "everything"])
def test_files_that_are_gone_while_nobody_is_there(path, name):
    """The committed offsets stand in two files; either is enough."""
    with pystream.open(path) as store:
        fill(store, partitions=1, records=10)
        with store.consumer("t", group="g") as consumer:
            for _ in range(5):
                consumer.poll()
    if name == "member+*":
        life = Life(group_lives.member, str(path), {})
        until(lambda: life.channel.poll() and life.receive() == (0, 9), "reading")
        life.kill()
        life.end()
    for file in (path / "groups/g").glob("*" if name == "everything" else name):
        file.unlink()
    wanted = {"everything": 0}.get(name, 5)
    assert position(path) == wanted
    consume(path, 2)
    assert position(path) == wanted + 2


@pytest.mark.parametrize("name", ["control", "state+*", "committed"])
def test_files_that_are_damaged_while_nobody_is_there(path, name):
    consume(path, 5)
    file = group_file(path, name)
    sound = file.read_bytes()
    for at in (0, 9, 20, 40):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 0x55]) + sound[at + 1 :])
        assert position(path) == 5, at
        file = group_file(path, name)
        sound = file.read_bytes()


def test_both_are_damaged(path):
    """That is told, by name, and nothing is written over it."""
    consume(path, 5)
    state, committed = group_file(path, "state+*"), group_file(path, "committed")
    kept = committed.read_bytes()
    state.write_bytes(b"nonsense")
    committed.write_bytes(kept[:-5])
    for _ in range(2):
        with (
            pystream.open(path) as store,
            pytest.raises(CorruptLogError, match="groups/g/committed: damaged") as caught,
        ):
            store.consumer("t", group="g")
        assert caught.value.path == str(committed)
    assert committed.read_bytes() == kept[:-5]
    committed.write_bytes(kept)
    assert position(path) == 5


def test_files_of_a_newer_version(path):
    consume(path, 5)
    committed, control = group_file(path, "committed"), group_file(path, "control")
    head, _, body = committed.read_bytes().partition(b"\n")
    magic, version, _ = head.split(b" ")
    newer = b"%d" % (int(version) + 1)
    group_file(path, "state+*").unlink()
    kept = committed.read_bytes()
    committed.write_bytes(b"%s %s %s\n%s" % (magic, newer, xxh3_hex(newer + b"\n" + body).encode(), body))
    with pystream.open(path) as store, pytest.raises(FormatVersionError, match="committed"):
        store.consumer("t", group="g")
    committed.write_bytes(kept)
    assert position(path) == 5
    assert control.stat().st_size == 4096


def test_the_state_is_taken_away_under_a_member(path):
    with pystream.open(path) as store:
        fill(store, partitions=1, records=10)
        consumer = store.consumer("t", group="g")
        assert consumer.poll(timeout=5) is not None
        group_file(path, "state+*").unlink()
        # A member that knows the state goes on; who comes anew is told.
        with pytest.raises(CorruptLogError, match=r"state\+.*: missing; close the store in every process"):
            shared.SharedGroup(store._handle, store.path, "g", create=False)
        assert consumer.poll(timeout=5) is not None
        consumer.close()
    assert position(path) == 2


def test_what_the_dead_leave_is_swept(path):
    with pystream.open(path) as store:
        fill(store, partitions=1, records=10)
        for fault in ("group.written:1:kill", "group.swapped:1:kill", "group.claimed:1:kill"):
            life = Life(group_lives.member, str(path), {}, fault=fault)
            assert life.end() < 0
        left = [file.name for file in files_of(path / "groups/g")]
        assert sum(name.startswith("member+") for name in left) >= 1
        with store.consumer("t", group="g") as consumer:
            Company(store, "g", consumer).settle()
            left = [file.name.split("+")[0] for file in files_of(path / "groups/g")]
            assert sorted(set(left)) in (
                ["control", "member", "state"],
                ["committed", "control", "member", "state"],
            )
            assert (left.count("member"), left.count("state")) == (1, 1)
    assert sorted(file.name.split("+")[0] for file in files_of(path / "groups/g")) == [
        "committed",
        "control",
        "state",
    ]


# ---- full disks -----------------------------------------------------------------------------------


class FullDisk:
    """In place of `open` where a group's documents are written: half of it, then there is no room."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.file = open(*arguments, **options)  # noqa: SIM115

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def read(self) -> bytes:
        return bytes(self.file.read())

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(path, monkeypatch):
    """It is an OSError of whoever joins or commits; nothing is lost, and next time there is room."""
    with pystream.open(path, sync_interval=1000) as store:
        fill(store, partitions=1, records=10)
        consumer = store.consumer("t", group="g", auto_commit=False)
        consumer.commit({P: 2})
        with monkeypatch.context() as full:
            full.setattr(shared, "open", FullDisk, raising=False)
            for use in (
                lambda: store.consumer("t", group="g"),
                lambda: store.consumer("t", group="other"),
                lambda: consumer.commit({P: pystream.OffsetAndMetadata(3, "x")}),
                lambda: consumer.commit({P: 2}, durable=True),
            ):
                with pytest.raises(StorageError) as caught:
                    use()
                assert caught.value.errno == errno.ENOSPC
                assert str(path) in str(caught.value.path or caught.value.filename)
                assert store.group("g").committed()[(*P, None)].offset == 2
            consumer.commit({P: 4})  # a mark takes no room
            assert consumer.committed(P) == 4
        assert consumer.poll(timeout=5) is not None
        with store.consumer("t", group="other") as other:
            assert places(other) == [[P]]
        with monkeypatch.context() as full:
            full.setattr(shared, "open", FullDisk, raising=False)
            with pytest.raises(StorageError):
                consumer.close()  # it cannot say that it leaves: it is as one that has died
        assert consumer.closed
        assert store.group("g").committed()[(*P, None)].offset == 4
        with store.consumer("t", group="g") as consumer:
            assert consumer.position(P) == 4
        assert sorted(file.name.split("+")[0] for file in files_of(path / "groups/g")) == [
            "committed",
            "control",
            "state",
        ]
    assert position(path) == 4


def test_no_room_for_a_member(path):
    """Its page is allocated beforehand: there is an error, and no signal later."""
    with pystream.open(path) as store:
        fill(store, partitions=1, records=10)
        store._handle.arm("allocate:1:errno=28:100")
        with pytest.raises(StorageError) as caught:
            store.consumer("t", group="g")
        assert caught.value.errno == errno.ENOSPC
        store._handle.arm(None)
        with store.consumer("t", group="g") as consumer:
            assert consumer.poll(timeout=5) is not None
        assert not list((path / "groups/g").glob("member+*"))


# ---- only to read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["as it was", "copied", "beside a member"])
def test_a_store_opened_to_read(path, place):
    consume(path, 5)
    if place == "copied":
        cut_power(path, path.with_name("copy"))
        path = path.with_name("copy")
    life = None
    if place == "beside a member":
        life = Life(group_lives.member, str(path), {})
        until(lambda: life.channel.poll() and life.receive() == (0, 9), "reading")
        until(lambda: settled(path), "the last commit")
    before = {file: file.read_bytes() for file in files_of(path) if life is None}
    with pystream.open(path, mode="r") as store:
        assert store.groups() == ["g"]
        group = store.group("g")
        description = group.describe()
        (where,) = description.partitions
        wanted = 5 if life is None else 10
        assert (where.committed, where.end_offset, where.lag) == (wanted, 10, 10 - wanted)
        assert {place[:2]: entry.offset for place, entry in group.committed().items()} == {P: wanted}
        assert [member.alive for member in description.members] == [True] * (life is not None)
        assert description.state == ("empty" if life is None else "stable")
        for use in (lambda: group.reset("earliest"), group.delete, lambda: store.consumer("t", group="g")):
            with pytest.raises(pystream.ReadOnlyError):
                use()
        if life is None:
            assert group.reset("earliest", dry_run=True) == {(*P, None): (5, 0)}
        with pytest.raises(pystream.GroupNotFoundError):
            store.group("no")
    assert {file: file.read_bytes() for file in files_of(path) if life is None} == before
    if life is not None:
        life.kill()
        life.end()


def settled(path: Path) -> bool:
    with pystream.open(path, mode="r") as store:
        return [entry.offset for entry in store.group("g").committed().values()] == [10]


def test_without_permission_to_write(path):
    consume(path, 5)
    for file in [path, *path.rglob("*")]:
        file.chmod(0o555 if file.is_dir() else 0o444)
    path.parent.chmod(0o755)
    try:
        life = Life(group_lives.look_as_nobody, str(path))
        assert life.receive() == (["g"], "empty", [5], {P: 5})
        assert life.end() == 0
    finally:
        for file in [path, *path.rglob("*")]:
            file.chmod(0o755 if file.is_dir() else 0o644)


def test_the_document_that_is_saved(path):
    """Only what outlives a power failure: no members, no claims."""
    consume(path, 5)
    state = decode(group_file(path, "committed").read_bytes(), "committed")
    assert (state.members, state.claims, state.targets, state.topics) == ({}, {}, {}, {})
    ((key, entry),) = state.committed.items()
    assert isinstance(entry, Committed)
    assert (entry.offset, entry.epoch, state.names[key[0]]) == (5, 0, "t")
    assert encode(state) == group_file(path, "committed").read_bytes()
