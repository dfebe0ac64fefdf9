"""What the machine allows: the same bytes by the barest means, in the same run, by one thread.

Blocks are so large that calling from Python costs less than a hundredth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import numpy as np

from pystream._native.hashing import xxh3_hex
from pystream.benchmark.data import POOL_BYTES
from pystream.benchmark.histogram import Latencies

BLOCK_BYTES: Final = 256 << 10
POPULATE_STEP_BYTES: Final = 1 << 20
# madvise(2), since Linux 5.14.
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
FLOOR_BYTES_MAX: Final = 256 << 20
FLOOR_SECONDS_MAX: Final = 0.5


@dataclass
class Floor:
    """A floor: `amount` bytes (or events) in `nanoseconds`; the quickest of its rounds."""

    name: str
    unit: str  # "bytes" or "writes"
    amount: int
    nanoseconds: int
    latencies: Latencies | None = None

    @property
    def per_second(self) -> float:
        """Bytes, or events, a second."""
        return self.amount * 1e9 / self.nanoseconds

    def better(self, other: Floor) -> Floor:
        """The quicker round; latencies of both."""
        best = self if self.per_second >= other.per_second else other
        if self.latencies is not None and other.latencies is not None:
            self.latencies.merge(other.latencies)
            best.latencies = self.latencies
        return best


def write_floors(directory: Path, seed: int) -> list[Floor]:
    """xxh3 and a copy of random bytes into a reserved file: through a populated map, and by `pwrite`."""
    source = memoryview(np.random.default_rng(seed).bytes(POOL_BYTES))
    path = directory / "floor"
    found = []
    for name, store in (("xxh3, populate, copy", _through_map), ("xxh3, pwrite", _through_pwrite)):
        with open(path, "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, FLOOR_BYTES_MAX)
            found.append(_timed(name, store(file.fileno(), path, source)))
        path.unlink()
    return found


def _timed(name: str, blocks: Iterator[int]) -> Floor:
    """Time an iteration over blocks, up to `FLOOR_SECONDS_MAX`."""
    began = monotonic_ns()
    end = began + int(FLOOR_SECONDS_MAX * 1e9)
    amount, now = 0, began
    for size in blocks:
        amount += size
        now = monotonic_ns()
        if now > end:
            break
    return Floor(name, "bytes", amount, max(now - began, 1))


def _through_map(number: int, path: Path, source: memoryview) -> Iterator[int]:
    mapped = np.memmap(path, np.uint8, "r+")
    for at, block in _blocks(source):
        _advise(mapped, MADV_POPULATE_WRITE, at, len(block))
        xxh3_hex(block)
        mapped[at : at + len(block)] = block
        yield len(block)


def _through_pwrite(number: int, path: Path, source: memoryview) -> Iterator[int]:
    for at, block in _blocks(source):
        xxh3_hex(block)
        os.pwrite(number, block, at)
        yield len(block)


def _blocks(source: memoryview) -> Iterator[tuple[int, memoryview]]:
    for at in range(0, FLOOR_BYTES_MAX, BLOCK_BYTES):
        begin = at % len(source)
        yield at, source[begin : begin + BLOCK_BYTES]


def _advise(mapped: Any, advice: int, at: int, size: int) -> None:
    try:
        mapped.base.madvise(advice, at, size)
    except OSError:  # an older kernel: the copy itself takes the page faults
        return


def read_floor(files: list[Path]) -> Floor:
    """One pass of xxh3 over the mapped bytes of segments."""
    return _timed("xxh3 of the mapped files", _hashed(files))


def _hashed(files: list[Path]) -> Iterator[int]:
    left = FLOOR_BYTES_MAX
    for path in files:
        size = min(path.stat().st_size, left)
        if not size:
            continue
        mapped = np.memmap(path, np.uint8, "r")
        for at in range(0, size, BLOCK_BYTES):
            count = min(BLOCK_BYTES, size - at)
            if at % POPULATE_STEP_BYTES == 0:
                _advise(mapped, MADV_POPULATE_READ, at, min(POPULATE_STEP_BYTES, len(mapped) - at))
            xxh3_hex(mapped[at : at + count])
            yield count
        left -= size


def sync_floor(directory: Path, frame_bytes: int, seconds: float, seed: int) -> Floor:
    """A bare loop of `pwrite` and `fdatasync` into reserved space, as many bytes each as a batch takes."""
    frame = np.random.default_rng(seed).bytes(frame_bytes)
    size = max(frame_bytes, FLOOR_BYTES_MAX // frame_bytes * frame_bytes)
    latencies = Latencies()
    spent: list[int] = []
    path = directory / "floor"
    with open(path, "w+b") as file:
        number = file.fileno()
        os.posix_fallocate(number, 0, size)
        os.fdatasync(number)
        began = before = monotonic_ns()
        end = began + int(seconds * 1e9)
        while before < end:
            os.pwrite(number, frame, len(spent) * frame_bytes % size)
            os.fdatasync(number)
            now = monotonic_ns()
            spent.append(now - before)
            before = now
    path.unlink()
    latencies.add(np.array(spent, np.int64))
    return Floor("pwrite, fdatasync", "writes", len(spent), before - began, latencies)


def evict(files: list[Path]) -> None:
    """Put files on the disk and ask the kernel to forget their pages."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
