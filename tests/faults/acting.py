"""What the scenes have in common: the ground they are acted on, and the records they leave there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pystream

from .processes import Say

T0: Final = 1_700_000_000_000_000_000
SIZE: Final = 4000
"""Bytes in a value of the log's scenes: a segment of 64 KiB has room for five batches."""
COUNT: Final = 3
"""Records in a batch."""

Do = Callable[..., Any]
"""do(what, function) -> what it returns; None where it could not be done, and need not be."""


@dataclass(frozen=True)
class Ground:
    """Where a scene is acted, and how its store stores."""

    directory: Path
    io: str
    durability: str

    @property
    def path(self) -> str:
        return str(self.directory / "s")

    def open(self, mode: str = "rw") -> pystream.Store:
        if mode == "r":
            return pystream.open(self.path, "r")
        return pystream.open(self.path, io=self.io, durability=self.durability, sync_interval=60, force=True)

    def make(self, store: pystream.Store, name: str = "t", partitions: int = 1) -> pystream.Topic:
        return store.topic(
            name,
            create=True,
            partitions=partitions,
            durability=self.durability,
            segment_bytes=65536,
            index_interval_bytes=1024,
        )


@dataclass(frozen=True)
class Scene:
    """One thing that people do."""

    name: str
    prepare: Callable[[Ground], None]
    act: Callable[[Ground, Do, Say], None]
    check: Callable[[Ground, list[tuple[str, Any]]], None]


# ---- records ----------------------------------------------------------------------------------------


_PATTERN: Final = bytes(range(256)) * 128


def value(number: int, size: int = SIZE) -> bytes:
    """A value that says which it is, and can be told from a torn one."""
    begin = number * 7 & 0xFF
    return b"%d:%b" % (number, _PATTERN[begin : begin + size])


def number_of(data: bytes | None) -> int:
    assert data is not None
    number = int(data.split(b":", 1)[0])
    assert data == value(number, len(data) - len(b"%d:" % number)), "torn, or another's"
    return number


def batch(begin: int) -> list[bytes]:
    return [value(number) for number in range(begin, begin + COUNT)]


def fill(ground: Ground, batches: int, *, name: str = "t", partitions: int = 1) -> None:
    with ground.open() as store:
        topic = ground.make(store, name, partitions)
        for partition in range(partitions):
            for begin in range(0, batches * COUNT, COUNT):
                topic.append(batch(begin), partition=partition, timestamps=T0)


def numbers(partition: pystream.Partition) -> list[int]:
    """The numbers of all records, which are dense from the beginning."""
    records = list(partition.records())
    assert [record.offset for record in records] == list(range(len(records))), "offsets are not dense"
    assert partition.end_offset == len(records)
    return [number_of(record.value) for record in records]


def goes_on(ground: Ground, name: str = "t") -> None:
    """A topic takes records again, and has them when it is opened once more."""
    with ground.open() as store:
        partition = store.topic(name).partition(0)
        before = [record.value for record in partition.records()]
        first = partition.append([value(10**6)], timestamps=T0)
        partition.flush()
    with ground.open() as store:
        after = [record.value for record in store.topic(name).partition(0).records()]
        assert after == [*before, value(10**6)]
        assert first == store.topic(name).partition(0).end_offset - 1


def leftovers(ground: Ground) -> list[str]:
    """What creators and deleters have left under names of their own."""
    topics = Path(ground.path, "topics")
    found = [*Path(ground.path).glob(".*+*"), *(topics.glob(".*+*") if topics.exists() else ())]
    return [str(one) for one in found]


@contextmanager
def ground(io: str, durability: str) -> Iterator[Ground]:
    """A directory in memory, where there is one, that is gone afterwards."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="pystream-faults-", dir=memory))
    try:
        yield Ground(directory, io, durability)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
