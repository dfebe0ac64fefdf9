"""Stores on disks that are really full, and on devices that really fail. Collected where file systems can be
mounted."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pystream
from faults import disks, processes
from faults.processes import Say
from harness import LONG

__test__ = disks.can_mount()
"""Whether any of this is collected."""
if not __test__:
    print("file systems cannot be mounted here: the tests of full disks and failing devices are left out")

ROUNDS = 60 if LONG else 20


def in_a_process(function: Callable[[], None]) -> None:
    """Where a signal would be the end of it."""
    ended = processes.in_a_process(lambda say: function())
    assert ended.status == 0, ended.failure


def said_by(function: Callable[[], Any]) -> pystream.StorageError:
    with pytest.raises(pystream.StorageError) as caught:
        function()
    return caught.value


def test_filled_freed_filled_again() -> None:
    """Never a signal, never a record lost, and appends go on by themselves."""
    found = disks.run(0, ROUNDS)
    assert not found["failures"], "\n".join(found["failures"])
    assert found["trials"] == ROUNDS
    assert set(found["file_systems"]) == set(disks.mountable())


@pytest.mark.parametrize("kind", disks.mountable() if __test__ else [])
def test_how_records_are_stored(kind: str) -> None:
    """Through a map only where reserved space is never a signal."""

    def look() -> None:
        with pystream.open(where / "s") as store:
            assert (store.io, store.filesystem) == (disks.KINDS[kind][0], kind)
            topic = store.topic("t", create=True, segment_bytes="64KiB")
            topic.append([b"x" * 100] * 100)
            assert len(list(topic.records())) == 100
        if disks.KINDS[kind][0] == "pwrite":
            with pytest.raises(pystream.UnsafeFileSystemError, match="io='mmap' is not safe"):
                pystream.open(where / "s", io="mmap")

    with disks.file_system(kind) as where:
        in_a_process(look)


def test_shared_extents() -> None:
    """A copy that shares its blocks (`cp --reflink`): a store to a map might need more, so none is made."""
    if "xfs" not in disks.mountable():
        return

    def write(path: Path) -> None:
        with pystream.open(path) as store:
            topic = store.topic("t", create=True, segment_bytes="4MiB")
            for _ in range(30):
                topic.append([b"x" * 1000] * 20)

    def fill(path: Path) -> None:
        acked, refused = 0, 0
        with pystream.open(path) as store:
            partition = store.topic("t").partition(0)
            assert store.io == "mmap"
            for _ in range(3000):
                try:
                    partition.append([b"y" * 1000])
                    acked += 1
                except pystream.StorageError as error:
                    disks.is_full(error, path)
                    refused += 1
                    if refused > 3:
                        break
            assert refused, "it did not become full"
            assert len(list(partition.records())) == 600 + acked

    with disks.file_system("xfs") as where:
        in_a_process(partial(write, where / "s"))
        subprocess.run(["cp", "-r", "--reflink=always", where / "s", where / "copy"], check=True)
        disks.take(where / "filler", disks.free_bytes(where) - 600_000)
        in_a_process(partial(fill, where / "copy"))
        in_a_process(partial(fill, where / "s"))


def test_a_device_that_fails() -> None:
    """A failed sync is heard of in every process, whenever it opened the store; reading goes on; opened again
    when the device is sound, everything is there."""

    def refuses(store: pystream.Store, producer: pystream.Producer | None) -> None:
        partition = store["t"].partition(0)
        for attempt in (lambda: partition.append([b"x"]), partition.flush):
            error = said_by(attempt)
            assert isinstance(error, pystream.PoisonedError)
            assert error.errno in (errno.EIO, errno.ENOSPC)
            assert "close the store in every process and open it again" in str(error)
        with pytest.raises((pystream.DeliveryError, pystream.PoisonedError)):
            producer = producer or store["t"].producer(linger=3600)
            producer.send(b"x")
            producer.flush()
        assert len(list(partition.records())) == 1010

    def another(before: bool, go: int, ready: int) -> None:
        with pystream.open(where / "s", sync_interval=3600) as store:
            partition = store.topic("t").partition(0)
            if before:
                partition.append([b"b" * 1000] * 5)
            producer = store.topic("t").producer(linger=3600) if before else None
            os.write(ready, b"r")
            os.read(go, 1)
            refuses(store, producer)

    def live(say: Say) -> None:
        (go_read, go), (ready, ready_write) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            ended = processes.in_a_process(lambda say: another(True, go_read, ready_write))
            print(ended.failure)
            os._exit(ended.status != 0)
        assert os.read(ready, 1) == b"r"
        store = pystream.open(where / "s", sync_interval=3600)
        partition = store.topic("t").partition(0)
        producer = store.topic("t").producer(linger=3600)
        partition.append([b"a" * 1000] * 5)
        partition.flush()
        assert partition.durable_offset == 10
        fail()
        for _ in range(100):
            partition.append([b"c" * 10_000] * 10)
        error = said_by(partition.flush)
        assert isinstance(error, pystream.PoisonedError) and error.filename.startswith(str(where))
        refuses(store, producer)
        os.write(go, b"g")
        assert os.waitpid(child, 0)[1] == 0, "one that had the store open before"
        os.write(go, b"g")
        later = processes.in_a_process(lambda say: another(False, go_read, ready_write))
        assert later.failure is None, later.failure
        store.close()  # the producer has said already that its record did not go out

    def open_again(*, sound: bool) -> None:
        if not sound:
            error = said_by(lambda: list(pystream.open(where / "s")["t"].records()))
            assert error.errno in (errno.EIO, errno.ENOSPC)
            return
        with pystream.open(where / "s", sync_interval=3600) as store:
            partition = store.topic("t").partition(0)
            sizes = [len(record.value or b"") for record in partition.records()]
            assert sizes == [1000] * 10 + [10_000] * 1000
            assert partition.durable_offset == 1010
            assert partition.append([b"d"]) == 1010
            partition.flush()
            assert partition.durable_offset == 1011
        assert pystream.verify(where / "s").sound

    with disks.failing_device() as (where, fail, heal):
        with pystream.open(where / "s") as store:
            store.topic("t", create=True, segment_bytes="1MiB")
        ended = processes.in_a_process(live)
        assert ended.failure is None, ended.failure
        in_a_process(partial(open_again, sound=False))
        heal()
        in_a_process(partial(open_again, sound=True))


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize("is_dirty", [False, True])
def test_a_file_system_that_turns_read_only(io: str, is_dirty: bool) -> None:
    """As ext4 does when it finds an error. What was durable is there afterwards; all can be read."""

    def live() -> None:
        store = pystream.open(where / "s", io=io, sync_interval=3600)
        partition = store.topic("t", create=True, segment_bytes="1MiB").partition(0)
        partition.append([b"a" * 1000] * 10)
        partition.flush()
        count = 10
        if is_dirty:
            count = partition.append([b"b"] * 10) + 10
        turn_read_only(where)
        error = None
        while error is None:
            try:
                count = partition.append([b"c" * 1000] * 10) + 10
            except pystream.StorageError as said:
                error = said
        assert error.errno == errno.EROFS
        assert error.filename in str(error) and "mounted read-only" in str(error)
        assert said_by(lambda: store.topic("u", create=True)).errno == errno.EROFS
        assert said_by(lambda: store.delete_topic("t")).errno == errno.EROFS
        assert len(list(partition.records())) == count
        if is_dirty:
            assert said_by(partition.flush).errno == errno.EROFS
            assert isinstance(said_by(partition.flush), pystream.PoisonedError)
        store.close()
        with pystream.open(where / "s", "r") as reader:
            assert len(list(reader["t"].records())) == count
        assert said_by(lambda: pystream.open(where / "s")).errno == errno.EROFS

    def afterwards() -> None:
        with pystream.open(where / "s") as store:
            partition = store["t"].partition(0)
            end = partition.end_offset
            assert end >= 10
            assert [record.value for record in partition.records(0, 10)] == [b"a" * 1000] * 10
            assert partition.append([b"d"]) == end

    with disks.directory() as place:
        disks.make_image(place / "image", "ext4", 32)
        with disks.mounted(
            place / "m", "-o", "loop,errors=remount-ro", "-t", "ext4", place / "image"
        ) as where:
            in_a_process(live)
        with disks.mounted(place / "m", "-o", "loop", "-t", "ext4", place / "image") as where:
            in_a_process(afterwards)


def turn_read_only(where: Path) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    (device,) = [words[0] for words in mounts if words[1] == str(where)]
    Path("/sys/fs/ext4", os.path.basename(device), "trigger_fs_error").write_text("x")
