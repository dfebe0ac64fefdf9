"""What the rows of the comparison are about: shapes of values, and scenes in which they are written and read.

Values of one shape are equally long, so that a count of bytes is a count of records. They are made from the
seed, distinct, in the order of their allocation, and cut into blocks off the clock; where a run needs more of
them than POOL_BYTES, the blocks are used again from the first.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from data import SEED

POOL_BYTES = 64 << 20
POOL_RECORDS_MAX = 400_000
TICK = np.dtype([("ts", "<i8"), ("px", "<f8"), ("qty", "<i4")])

_PAGES = (b"home", b"cart", b"search", b"item", b"checkout", b"help", b"account", b"orders")
_AGENT = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_EVENT_BYTES = 256


@dataclass(frozen=True)
class Shape:
    """What a value is.

    key:   its short name.
    title: its name in the table.
    width: bytes of each value.
    block: records that one call of a batch form takes, and that one transaction of a record form holds.
    codec: "lz4" where batches are compressed by all who can, else "none".
    """

    key: str
    title: str
    width: int
    block: int = 1000
    codec: str = "none"


SHAPES = {
    shape.key: shape
    for shape in (
        Shape("16B", "values of 16 B", 16),
        Shape("100B", "values of 100 B", 100),
        Shape("1KiB", "values of 1 KiB", 1024),
        Shape("64KiB", "values of 64 KiB", 65536, block=16),
        Shape("json", f"JSON events of {_EVENT_BYTES} B, which LZ4 makes about a quarter of", _EVENT_BYTES,
              codec="lz4"),
        Shape("ticks", "structured ticks (int64, float64, int32)", TICK.itemsize),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One setting, in which every contestant writes and reads.

    durability: "cache": acknowledged records survive `kill -9` of any process, the server's too, since the
                kernel has them; "synced": they are on the disk.
    acked:      one record at a time, each acknowledged before the next: nothing else is measured then.
    threads, processes: how many write at once to one log, then read all of it; at most one is above 1.
    """

    shape: Shape
    durability: str = "cache"
    partitions: int = 1
    threads: int = 1
    processes: int = 1
    acked: bool = False

    @property
    def key(self) -> str:
        parts = [self.shape.key]
        parts += ["one-by-one"] * self.acked
        parts += ["synced"] * (self.durability == "synced")
        for count, name in (
            (self.partitions, "partitions"),
            (self.threads, "threads"),
            (self.processes, "processes"),
        ):
            parts += [f"{count}-{name}"] * (count > 1)
        return "-".join(parts)

    @property
    def title(self) -> str:
        parts = [self.shape.title]
        parts += ["one record an append, each acknowledged before the next"] * self.acked
        parts += [f"{self.partitions} partitions in turn"] * (self.partitions > 1)
        parts += [f"{self.threads} threads"] * (self.threads > 1)
        parts += [f"{self.processes} processes"] * (self.processes > 1)
        parts.append({"cache": "acknowledged = in the page cache", "synced": "acknowledged = on the disk"}[
            self.durability
        ])  # fmt: skip
        text = "; ".join(parts)
        return text[0].upper() + text[1:]

    @property
    def workers(self) -> int:
        return self.threads * self.processes

    @property
    def block(self) -> int:
        """Records a block."""
        return 1 if self.acked else self.shape.block

    def partition_of(self, block: int) -> int:
        """Where the block of that number goes."""
        return block % self.partitions


def scenes() -> list[Scene]:
    """All of them, in the order of the table."""
    s = SHAPES
    found = [Scene(s[key]) for key in ("16B", "100B", "1KiB", "64KiB", "json", "ticks")]
    found += [Scene(s["100B"], partitions=100)]
    for key in ("100B", "json"):
        found += [Scene(s[key], threads=2), Scene(s[key], processes=2)]
    for durability in ("cache", "synced"):
        found += [
            Scene(s["100B"], durability, acked=True),
            Scene(s["100B"], durability, acked=True, threads=4),
            Scene(s["100B"], durability, acked=True, processes=2),
        ]
    found += [Scene(s["100B"], "synced"), Scene(s["1KiB"], "synced")]
    return found


@cache
def pool(shape: Shape, block: int) -> list[Any]:
    """The blocks of a shape: lists of bytes; every block is full."""
    count = max(min(POOL_BYTES // shape.width, POOL_RECORDS_MAX) // block, 1) * block
    blob = {"json": _events, "ticks": _ticks}.get(shape.key, _random)(shape, count)
    width = shape.width
    return [
        [blob[at : at + width] for at in range(start * width, (start + block) * width, width)]
        for start in range(0, count, block)
    ]


@cache
def pool_arrays(shape: Shape, block: int) -> list[npt.NDArray[Any]]:
    """The same blocks of ticks as arrays."""
    return [np.frombuffer(b"".join(values), TICK) for values in pool(shape, block)]


def blocks(scene: Scene, count: int, *, arrays: bool = False) -> Iterator[Any]:
    """`count` blocks, from the first."""
    made = (pool_arrays if arrays else pool)(scene.shape, scene.block)
    return itertools.islice(itertools.cycle(made), count)


def value_at(scene: Scene, record: int) -> bytes:
    """The value of that number, counted from 0, when one worker writes."""
    made = pool(scene.shape, scene.block)
    value: bytes = made[record // scene.block % len(made)][record % scene.block]
    return value


def _random(shape: Shape, count: int) -> bytes:
    return np.random.default_rng(SEED).bytes(count * shape.width)


def _events(shape: Shape, count: int) -> bytes:
    """Events of a shop's pages; the trace is of hexadecimal digits, half of whose bits are random."""
    rng = np.random.default_rng(SEED)
    users, spent = rng.integers(0, 10**6, count).tolist(), rng.integers(0, 5000, count).tolist()
    pages = rng.integers(0, len(_PAGES), count).tolist()
    traces = rng.bytes(count * 16).hex().encode()
    events = []
    for i in range(count):
        head = b'{"event":"page_view","user":%d,"page":"/shop/%s","ms":%d,"trace":"%s","agent":"' % (
            users[i],
            _PAGES[pages[i]],
            spent[i],
            traces[i * 32 : i * 32 + 32],
        )
        room = shape.width - len(head) - 2
        events.append(head + (_AGENT * 3)[:room] + b'"}')
    return b"".join(events)


def _ticks(shape: Shape, count: int) -> bytes:
    """Trades of one instrument: rising times, a price that wanders in steps of a cent."""
    rng = np.random.default_rng(SEED)
    rows = np.empty(count, TICK)
    rows["ts"] = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1_000, 2_000_000, count))
    rows["px"] = 100 + np.cumsum(rng.integers(-1, 2, count)) / 100
    rows["qty"] = rng.integers(1, 100, count) * 100
    return rows.tobytes()
