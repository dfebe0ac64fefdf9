"""Measures a figure and its floors in turn, round by round, so that both meet the same machine."""

import gc
import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import pystream

Work = Callable[[], Any]
Runner = Callable[[], Work]
"""Prepares one round, off the clock, and returns what the clock is to see."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    work:   what is measured.
    kind:   of target: "ratio" (at least `target` of the floor's speed), "times" (at most `target` times the
            floor's time), "below" or "above" (`target` in `unit`), "none" (told, without one).
    unit:   of the figure: "ns", "us" or "ms" each; "M/s"; "GB/s".
    amount: what one round handles: items, or bytes for GB/s.
    stat:   what is compared, of all rounds or events: "median" or "p99".
    note:   what the table says below itself.
    """

    work: str
    kind: str
    target: float
    unit: str
    amount: float = 1
    stat: str = "median"
    note: str = ""


class Track:
    """Where one benchmark runs: its directory, what it opened there, and the clock."""

    def __init__(self, benchmark: Any, floors: ModuleType, root: str) -> None:
        self.benchmark = benchmark
        self.floors = floors
        self.root = root
        self._numbers = itertools.count()
        self._opened: list[Any] = []
        self._kept: list[Any] = []

    def path(self) -> str:
        """A name that nothing has yet."""
        return os.path.join(self.root, str(next(self._numbers)))

    # ---- what a round needs; closed and deleted after it

    def topic(self, warm: Any = None, **options: Any) -> Any:
        """A topic in a store of its own. warm: appended first, so that its files are there."""
        store = pystream.open(self.path())
        self._opened.append(store)
        topic = store.topic("bench", create=True, **options)
        if warm is not None:
            topic.append(warm, partition=0)
        return topic

    def producer(self, topic: Any, **options: Any) -> Any:
        """A producer, flushed off the clock."""
        producer = topic.producer(**options)
        self._opened.append(producer)
        return producer

    def file(self, size: int) -> Any:
        """A floor's file with `size` bytes reserved."""
        file = self.floors.File.make(self.path(), size)
        self._opened.append(file)
        return file

    def opened(self, thing: Any) -> Any:
        """Close `thing` after the round."""
        self._opened.append(thing)
        return thing

    def keep(self, thing: Any) -> Any:
        """Close `thing` when the benchmark ends."""
        self._kept.append(thing)
        return thing

    def clear(self) -> None:
        """End a round."""
        while self._opened:
            thing = self._opened.pop()
            thing.close()
            if isinstance(thing, pystream.Store) and thing.path.startswith(self.root + os.sep):
                shutil.rmtree(thing.path)

    def end(self) -> None:
        """Close everything."""
        self.clear()
        while self._kept:
            self._kept.pop().close()

    # ---- the clock

    def _time(self, runner: Runner) -> float:
        work = runner()
        gc.collect()
        began = time.perf_counter()
        work()
        spent = time.perf_counter() - began
        self.clear()
        return spent

    def race(
        self, row: Row, figure: Runner, floors: Mapping[str, Runner] | None = None, rounds: int = 5
    ) -> None:
        """Time `figure` with pytest-benchmark, each round after one of every floor, the first left out."""
        floors = floors or {}
        spent: dict[str, list[float]] = {name: [] for name in floors}

        def prepare() -> tuple[tuple[Work], dict[str, Any]]:
            self.clear()
            for name, runner in floors.items():
                spent[name].append(self._time(runner))
            work = figure()
            gc.collect()
            return (work,), {}

        self.benchmark.group = row.work
        self.benchmark.pedantic(lambda work: work(), setup=prepare, rounds=rounds, warmup_rounds=1)
        self.clear()
        told = {name: summary(seconds[1:] or seconds) for name, seconds in spent.items()}
        self.benchmark.extra_info.update(row=asdict(row), floors=told)

    def record(
        self, row: Row, figure: Iterable[float], floors: Mapping[str, Iterable[float]] | None = None
    ) -> None:
        """For times in seconds that were taken elsewhere: event by event, or in another process."""
        self.benchmark.group = row.work
        self.benchmark.pedantic(lambda: None, rounds=1)
        told = {name: summary(seconds) for name, seconds in (floors or {}).items()}
        self.benchmark.extra_info.update(row=asdict(row), floors=told, figure=summary(figure))


def summary(seconds: Iterable[float]) -> dict[str, float]:
    """Order statistics of times in seconds."""
    ordered = sorted(seconds)
    return {
        "median": statistics.median(ordered),
        "min": ordered[0],
        "p99": ordered[int((len(ordered) - 1) * 0.99)],
    }
