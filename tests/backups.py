"""What the tests of backups share: stores with something of everything, what is in them, other processes."""

from __future__ import annotations

import errno
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

import pystream
from harness import T0, Row, rows
from pystream._native.backup import Site
from pystream.backups import place

DTYPE = [("ts", "i8"), ("px", "f8")]


def fill(store: pystream.Store, durability: str = "interval") -> None:
    """Topics of every kind: several segments, keys, headers, nulls, both codecs, fixed widths, never used."""
    plain = store.topic("plain", create=True, partitions=3, segment_bytes=65536, durability=durability)
    for i in range(90):
        key = None if i % 3 else b"k%d" % i
        headers = [{"n": b"%d" % i}] * 2 if i % 4 == 0 else None
        plain.append([b"%d:" % i + bytes(1500), None], keys=[key] * 2, headers=headers, partition=i % 2)
    packed = store.topic("packed", create=True, compression="lz4", segment_bytes=65536, durability=durability)
    for i in range(60):
        packed.append([random.Random(i).randbytes(700) + bytes(1500)] * 3, timestamps=T0 + i)
    ticks = store.topic("ticks", create=True, dtype=DTYPE, durability=durability)
    ticks.append(np.array([(i, i / 2) for i in range(500)], dtype=DTYPE))
    store.topic("idle", create=True, partitions=2, durability=durability)


def content(store: pystream.Store) -> dict[tuple[str, int], list[Row]]:
    """Every record of a store."""
    found = {}
    for name in store.topics():
        topic = store.topic(name)
        for number in range(topic.partitions):
            directory = Path(store.path, "topics", name, str(number))
            found[name, number] = rows(topic.partition(number).records()) if any(directory.iterdir()) else []
    return found


def backup_of(path: Path) -> dict[tuple[str, int], list[Row]]:
    """What is in a backup, which is found to be sound, and left as it is."""
    report = pystream.verify(path, threads=1)
    assert report.sound and not report.findings, report.findings
    assert not (path / "live").exists()
    with pystream.open(path, "r") as store:
        found = content(store)
    assert not (path / "live").exists()
    return found


def leftovers(directory: Path) -> list[str]:
    """What backups have left beside their places."""
    return [name for name in os.listdir(directory) if name.startswith(".")]


def is_prefix(part: dict[tuple[str, int], list[Row]], whole: dict[tuple[str, int], list[Row]]) -> bool:
    """Whether every partition of the one is a prefix of that of the other."""
    return all(whole[key][: len(found)] == found for key, found in part.items())


# ---- other processes -------------------------------------------------------------------------------------


def back_up(channel: Any, store: str, path: str, exchange: bool) -> None:
    """Make a backup; not `exchange`: as on a file system that cannot exchange two names."""
    if not exchange:
        real = place.Place._exchange

        def old(self: place.Place) -> None:
            real_site, self._site = self._site, _Old()
            try:
                real(self)
            finally:
                self._site = real_site

        place.Place._exchange = old  # type: ignore[method-assign]
    with pystream.open(store, "r") as opened:
        opened.backup(path)


class _Old(Site):
    def exchange(self, one: str, other: str) -> None:
        raise OSError(errno.EINVAL, "as it is said where that cannot be done")


def back_up_again_and_again(channel: Any, store: str, path: str) -> None:
    """Make backups for ever."""
    with pystream.open(store, "r") as opened:
        while True:
            opened.backup(path)
            channel.send("made")


def write(channel: Any, path: str, seed: int, seconds: float) -> None:
    """Append to both partitions of a topic for a while; says up to where that was acknowledged."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    with pystream.open(path, sync_interval=0.02) as store:
        topic = store.topic("t")
        number = 0
        while time.monotonic() < end:
            count = chance.randrange(1, 8)
            values = [b"%d:%d:" % (seed, number + i) + bytes(chance.randrange(2000)) for i in range(count)]
            partition = chance.randrange(2)
            channel.send((partition, topic.append(values, partition=partition) + count))
            number += count
            time.sleep(0.003 * chance.random())


def append_until_dead(channel: Any, path: str) -> None:
    """Append, and roll, until something ends it."""
    with pystream.open(path) as store:
        while True:
            store["t"].append([bytes(9000)] * 2)


def consume(channel: Any, path: str, seconds: float) -> None:
    """Read in a group for a while, committing."""
    end = time.monotonic() + seconds
    with (
        pystream.open(path, sync_interval=0.02) as store,
        store.consumer("t", group="g", timeout=0.1) as consumer,
    ):
        channel.send("ready")
        while time.monotonic() < end:
            for _ in consumer:
                if time.monotonic() > end:
                    break
