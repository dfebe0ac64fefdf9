"""Fixtures shared by the tests."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import loops
import pystream

# Who runs in the background of a shell, or under nohup, is made to ignore them, and so would be all that is
# started here.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pystream.Store]:
    """An empty store, closed at the end."""
    with pystream.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def topic(store: pystream.Store) -> pystream.Topic:
    """A topic of one partition with small segments, empty."""
    return store.topic("t", create=True, segment_bytes="64KiB")


@pytest.fixture(params=["mmap", "pwrite"])
def any_io(request: pytest.FixtureRequest) -> str:
    """Both ways of storing."""
    return str(request.param)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """A store with two topics: clicks, of two partitions and 30 records, and ticks, never used."""
    path = tmp_path / "events.ps"
    with pystream.open(path) as store:
        clicks = store.topic("clicks", create=True, partitions=2, compression="lz4")
        clicks.append([b"/home"] * 30, partition=1, timestamps=1_700_000_000_000_000_000)
        store.topic("ticks", create=True, dtype=[("ts", "i8"), ("px", "f8")])
    return path


@pytest.fixture(params=loops.LOOPS)
def run(request: pytest.FixtureRequest) -> loops.Run:
    """Runs a coroutine in an event loop, of each kind there is."""
    return loops.runner(request.param)
