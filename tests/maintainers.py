"""What the tests of maintenance share with their other processes. Imported there without pytest."""

from __future__ import annotations

import os
import random
import re
import time
from typing import Any

import pystream
from pystream._native import maintenance as native
from waits import switches

VALUE_BYTES = 40_000
"""Of two such records, none fits the rest of a segment of 64 KiB: each begins a new one."""


def fill(topic: pystream.Topic, count: int, *, partition: int = 0, timestamp: int | None = None) -> None:
    """Append records, a segment each."""
    for _ in range(count):
        topic.append([bytes(VALUE_BYTES)], partition=partition, timestamps=timestamp)


def segments(store: pystream.Store, topic: str, partition: int = 0) -> list[int]:
    """The base offsets of the segment files there are."""
    names = os.listdir(f"{store.path}/topics/{topic}/{partition}")
    return sorted(int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.log", name))


def claim(channel: Any, path: str) -> None:
    """Have the store's claim until told."""
    with pystream.open(path, maintenance=False) as store:
        assert native.claim(store._handle)
        channel.send("claimed")
        channel.recv()
        native.unclaim(store._handle)
        channel.recv()


def write_and_read(channel: Any, path: str, seed: int, count: int) -> None:
    """Append records while maintaining, and read what there is, from wherever it begins."""
    rng = random.Random(seed)
    with pystream.open(path, maintenance=0.01) as store:
        topic = store.topic("t")
        for _ in range(count):
            partition = rng.randrange(2)
            fill(topic, 1, partition=partition)
            if rng.random() < 0.3:
                while True:
                    try:
                        offsets = [record.offset for record in topic.partition(partition).records()]
                        break
                    except pystream.OffsetOutOfRangeError:
                        time.sleep(0.001)
                assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    channel.send("done")


def idle(channel: Any, path: str) -> None:
    """Have a partition open for writing, and do nothing; tell how often its threads slept in four seconds,
    and the processor's time that took."""
    with pystream.open(path) as store:
        store.topic("t", create=True).append([b"x"])
        time.sleep(1.5)  # the first pass is over by then
        before, began = switches(), time.process_time()
        time.sleep(4)
        channel.send((switches() - before, time.process_time() - began))
