"""The tests that campaigns are made of.

Each has a function `run(first_seed, trials, *, seconds, workers) -> dict`, which tries the seeds from the
first one on until so many trials are done or so many seconds are over, and answers

    trials     how many units were done
    seeds      how many seeds were tried, where that is another number
    failures   texts that say which seed, or pairs of a seed and a text
    total      of a test that enumerates: how many seeds make all; the seeds behind them begin again

and whatever else it counts. The functions are imported when they are used: some need a compiler.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .ledger import Entry, merge, reached

TESTS: Final = Path(__file__).resolve().parent.parent
MEMORY: Final = "/dev/shm"
TOTAL: Final = "total"
BLOCK_S: Final = 5.0
MANY: Final = 1 << 31
"""Trials, where only time is the limit."""

Run = Callable[..., dict[str, Any]]


class KindError(Exception):
    """What a test has answered is no answer."""


@dataclass(frozen=True)
class Kind:
    """A test of a campaign."""

    name: str
    what: str
    """What is done."""
    unit: str
    """What is counted, in the plural."""
    ci: str
    """How many each run of the tests does."""
    target: int
    """How many the campaign wants, of units; or how many times all, of a test that enumerates."""
    run: Run
    enumerates: bool = False
    by_seeds: bool = False
    """It enumerates, and not every seed makes a unit: what is wanted are the seeds, not the units."""
    chunk_s: float = 60.0
    """How long it runs before it is entered in the ledger: longer, where it has much to do before."""
    place: str = MEMORY
    """Where its stores lie."""

    def wanted(self, total: int | None) -> int | None:
        """How many units, or seeds, make the target; None as long as nobody knows how many all are."""
        if not self.enumerates:
            return self.target
        return None if total is None else self.target * total

    def amount(self, count: int) -> str:
        """A count of its units for people; of seconds, in hours when there are many."""
        if self.unit != "time":
            return f"{count:,}"
        return f"{count:,} s" if count < 600 else f"{count / 3600:.1f} h"

    def goal(self, total: int | None) -> str:
        """The target for people."""
        wanted = self.wanted(total)
        if self.unit == "time":
            return self.amount(self.target)
        if not self.enumerates:
            return f"{self.target:,} {self.unit}"
        words = "all" if self.target == 1 else f"all, {self.target} times"
        return words if wanted is None or self.by_seeds else f"{words}: {wanted:,} {self.unit}"

    def progress(self, entries: Sequence[Entry], digest: str | None = None) -> str:
        """What was reached, for people: of all versions, or of one."""
        count = self.amount(reached(entries, self.name, digest))
        total = self.total(entries)
        if not self.by_seeds or total is None:
            return count
        seeds = reached(entries, self.name, digest, seeds=True)
        return f"{count} (all)" if seeds >= total else f"{count} ({100 * seeds // total} %)"

    def total(self, entries: Sequence[Entry]) -> int | None:
        """How many seeds make all, as the last run that knew has said."""
        totals = [each.details[TOTAL] for each in entries if each.test == self.name and TOTAL in each.details]
        return totals[-1] if totals else None

    def missing(self, entries: Sequence[Entry], digest: str | None = None) -> int:
        """How much the target still wants; of a test that enumerates and was never run: one at least."""
        wanted = self.wanted(self.total(entries))
        return (
            1 if wanted is None else max(0, wanted - reached(entries, self.name, digest, seeds=self.by_seeds))
        )


@dataclass(frozen=True)
class Elsewhere:
    """A function of another part of the tests, imported when it is called."""

    module: str
    function: str = "run"

    def find(self) -> Run:
        if str(TESTS) not in sys.path:
            sys.path.insert(0, str(TESTS))
        found: Run = getattr(importlib.import_module(self.module), self.function)
        return found

    def __call__(
        self, first_seed: int, trials: int, *, seconds: float | None, workers: int
    ) -> dict[str, Any]:
        return self.find()(first_seed, trials, seconds=seconds, workers=workers)


class Blocks(Elsewhere):
    """One of which workers share the seeds out beforehand: where time ends a call, some would be passed over.
    So it is called for blocks of seeds, each to its end."""

    def __call__(
        self, first_seed: int, trials: int, *, seconds: float | None, workers: int
    ) -> dict[str, Any]:
        run, until = self.find(), math.inf if seconds is None else time.monotonic() + seconds
        total: dict[str, Any] = {"trials": 0, "failures": []}
        size = 8 * workers
        while total["trials"] < trials and (total["trials"] == 0 or time.monotonic() < until):
            began = time.monotonic()
            block = min(size, trials - total["trials"])
            answer = run(first_seed + total["trials"], block, seconds=None, workers=workers)
            total["failures"] += answer.pop("failures")
            merge(total, answer)
            now = time.monotonic()
            rate = block / max(now - began, 1e-3)
            size = max(workers, min(4 * size, int(rate * min(BLOCK_S, max(0.0, until - now)))))
        return total


class Fuzzing(Elsewhere):
    """It has no seeds of its own: a second is a trial."""

    def __call__(
        self, first_seed: int, trials: int, *, seconds: float | None, workers: int
    ) -> dict[str, Any]:
        answer = self.find()(min(trials, trials if seconds is None else seconds), workers=workers)
        return {**answer, "trials": round(answer.pop("seconds"))}


KINDS: Final = (
    Kind(
        "kill",
        "`kill -9` of a random process among some thirty that write, read, maintain and belong to a group",
        "kills",
        "200",
        10_000,
        Elsewhere("stress.kills"),
        place=tempfile.gettempdir(),
    ),
    Kind(
        "points",
        "death at every fault point, in each durability mode, alone and beside others",
        "deaths",
        "all, once",
        100,
        Elsewhere("faults.points"),
        enumerates=True,
    ),
    Kind(
        "power",
        "one to three power failures under a log with work between; half the recoveries are struck again",
        "trials",
        "2,000",
        1_000_000,
        Blocks("faults.power"),
    ),
    Kind(
        "power-stores",
        "a power failure under whole Python processes: stores, topics, groups, deletion, repair",
        "trials",
        "300",
        10_000,
        Elsewhere("faults.power", "run_stores"),
    ),
    Kind(
        "damage",
        "every byte flipped, every length cut, of a store of three segments with both codecs",
        "damages",
        "a sample",
        1,
        Elsewhere("faults.damage"),
        enumerates=True,
        by_seeds=True,
    ),
    Kind(
        "calls",
        "the n-th system call fails, n = 1, 2, ... until none does, with each errno",
        "failed calls",
        "each call once, errnos in turn",
        1,
        Elsewhere("faults.calls"),
        chunk_s=180.0,
        enumerates=True,
        by_seeds=True,
    ),
    Kind(
        "full-disk",
        "a full disk, tmpfs and images of ext4, xfs, btrfs: filled, freed, filled again",
        "rounds",
        "20",
        500,
        Elsewhere("faults.disks"),
    ),
    Kind(
        "fuzz",
        "fuzzing of each decoder, with AddressSanitizer and UndefinedBehaviorSanitizer",
        "time",
        "60 s",
        8 * 3600,
        Fuzzing("fuzz"),
        chunk_s=600.0,
    ),
)

SEED: Final = re.compile(r"\bseed\W{1,3}(\d+)")


def failures_of(answer: dict[str, Any], first_seed: int) -> list[tuple[int, str]]:
    """Seed and text of each failure, in whatever of the forms the test gives them."""
    found = []
    for failure in answer["failures"]:
        if isinstance(failure, str):
            named_seed = SEED.search(failure)
            found.append((int(named_seed[1]) if named_seed else first_seed, failure))
        elif isinstance(failure, Sequence) and len(failure) == 2:
            found.append((int(failure[0]), str(failure[1])))
        else:
            raise KindError(f"a failure is {failure!r}, not a text or a seed and a text")
    return found


def seeds_of(answer: dict[str, Any]) -> int:
    """How many seeds were tried."""
    seeds, trials = answer.get("seeds", answer.get("trials")), answer.get("trials")
    if not isinstance(seeds, int) or not isinstance(trials, int) or seeds < 0 or trials < 0:
        raise KindError(f"{trials!r} trials with {seeds!r} seeds were done")
    return seeds
