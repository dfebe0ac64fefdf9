"""What the proofs share: records as plain tuples, other processes, and stores put back as they were."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pystream

LONG = os.environ.get("PYSTREAM_TEST_LONG", "") not in ("", "0")
"""Set to run the proofs for much longer than a developer would wait."""

WAIT_S = 60
"""How long a process may take before a test says that it hangs."""

T0 = 1_700_000_000_000_000_000

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pystream"])  # else each life imports it anew


class Row(NamedTuple):
    """A record as a plain list keeps it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int | None


def row(record: pystream.Record) -> Row:
    return Row(record.offset, record.key, record.value, record.headers, record.timestamp)


def rows(records: Iterable[pystream.Record]) -> list[Row]:
    return [row(record) for record in records]


def batch_rows(batch: pystream.Batch) -> list[Row]:
    """The rows of a batch, read through its columns and not through its records."""
    keys, values = batch.keys.to_pylist(), batch.values.to_pylist()
    stamps = batch.timestamps
    return [
        Row(
            int(batch.offsets[i]),
            keys[i],
            values[i],
            tuple(batch.headers[i]),
            None if stamps[i] != stamps[i] else int(stamps[i].astype("i8")),
        )
        for i in range(len(batch))
    ]


# ---- other processes ------------------------------------------------------------------------------


class Life:
    """A process that runs `target(channel, *arguments)`, forked from a server that holds nothing of ours.

    The channel is one end of a pipe; the other is `life.channel`.
    """

    def __init__(self, target: Callable[..., object], *arguments: Any, fault: str | None = None) -> None:
        self.channel, theirs = _context.Pipe()
        self.process = _context.Process(target=_live, args=(target, theirs, fault, arguments), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def receive(self, timeout: float = WAIT_S) -> Any:
        assert self.channel.poll(timeout), "the other process says nothing"
        return self.channel.recv()

    def received(self) -> list[Any]:
        """All that it said until it ended."""
        said = []
        try:
            while True:
                said.append(self.receive())
        except EOFError:
            return said

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self, timeout: float = WAIT_S) -> int:
        """Its exit code, once it has one; negative: the signal that ended it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError("the other process does not end")
        self.channel.close()
        return self.process.exitcode


def _live(target: Callable[..., object], channel: Any, fault: str | None, arguments: tuple[Any, ...]) -> None:
    if fault is not None:
        os.environ["PYSTREAM_FAULT"] = fault
    target(channel, *arguments)


def die() -> None:
    """End this process as a crash would: no handlers, no flushing, no closing."""
    os.kill(os.getpid(), signal.SIGKILL)


def eventually(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Wait until the condition holds: no longer than `timeout` seconds."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "it does not come to that"
        time.sleep(0.005)


# ---- stores as files ------------------------------------------------------------------------------


@contextmanager
def quick_directory() -> Iterator[Path]:
    """A directory in memory, where there is one, for tests that open and close a store thousands of times."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(
        prefix="pystream-", dir=memory if os.access(memory, os.W_OK) else None
    ) as path:
        yield Path(path)


@contextmanager
def without(module: str) -> Iterator[None]:
    """As if a module were not installed."""
    missing = object()
    there = sys.modules.get(module, missing)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        if there is not missing:
            sys.modules[module] = there  # type: ignore[assignment]


class Snapshot:
    """The files of a closed store, to be put back byte by byte into the same inodes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = {file.relative_to(path): file.read_bytes() for file in files_of(path)}

    def restore(self) -> None:
        for file in files_of(self.path):
            if file.relative_to(self.path) not in self.files:
                file.unlink()
        for name, data in self.files.items():
            self.write(name, data)

    def write(self, name: str | Path, data: bytes) -> None:
        """Give a file other contents, without making it another file."""
        with open(self.path / name, "r+b" if (self.path / name).exists() else "wb") as file:
            file.truncate(len(data))
            file.write(data)

    def flip(self, name: str | Path, at: int, mask: int = 0xFF) -> None:
        with open(self.path / name, "r+b") as file:
            file.seek(at)
            file.write(bytes([self.files[Path(name)][at] ^ mask]))

    def one(self, pattern: str) -> Path:
        """The name of the only file that matches."""
        (name,) = [name for name in self.files if name.match(pattern)]
        return name


def files_of(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if file.is_file())


def contents(path: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of all files: what a refused call must leave alone."""
    return {
        str(file.relative_to(path)): (file.stat().st_size, file.stat().st_mtime_ns) for file in files_of(path)
    }


@contextmanager
def nothing_written(partition: pystream.Partition, path: Path) -> Iterator[None]:
    """Fails when the partition or any file's size is not the same afterwards."""
    before = partition.end_offset, partition.beginning_offset, _stored(partition), _sizes(path)
    yield
    assert (partition.end_offset, partition.beginning_offset, _stored(partition), _sizes(path)) == before


def _sizes(path: Path) -> dict[str, int]:
    return {str(file): file.stat().st_size for file in files_of(path) if file.suffix != ".tmp"}


def _stored(partition: pystream.Partition) -> tuple[int, int]:
    stats = partition._log().stats()
    return stats["log_end"], stats["stored_bytes"]
