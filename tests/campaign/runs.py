"""Runs of campaigns: a minute or so at a time, each entered in the ledger when it is over."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from . import ledger
from .kinds import MANY, TOTAL, Kind, KindError, failures_of, seeds_of
from .ledger import Entry, LedgerError
from .version import Version, digest, machine

FAILURES_ENOUGH: Final = 20
"""A run that has so many ends: there is enough to look into."""
SHARE_S_MIN: Final = 2.0
AGAIN: Final = "play it again:"
TOLD: Final = {"trials", "seeds", "failures", "details", "first", "seconds", "errors", TOTAL}
"""What has a place of its own in an entry, or none."""


class RunError(Exception):
    """A run that cannot go on, through no fault of the library."""


@dataclass
class Limits:
    """When a run ends: all may be None, then at its target."""

    seconds: float | None = None
    trials: int | None = None
    seed: int | None = None
    at_target: bool = False
    """Also when the target is reached."""


class Runner:
    """Runs tests with one version of the code."""

    def __init__(
        self,
        writer: ledger.Writer,
        version: Version,
        command: str,
        *,
        workers: int = 2,
        this_version: bool = False,
        say: Callable[[str], None] = print,
        digest_now: Callable[[], str] = digest,
    ) -> None:
        self.writer = writer
        self.version = version
        self.command = command
        self.workers = workers
        self.counted = version.digest if this_version else None
        """The version of which the target is wanted; None: any."""
        self.say = say
        self.digest_now = digest_now
        self.failed = 0
        self.ran = 0
        """Chunks that were run."""

    def missing(self, kind: Kind) -> int:
        return kind.missing(ledger.load(self.writer.path), self.counted)

    def share(self, kinds: Sequence[Kind], seconds: float | None) -> None:
        """Run those below their target, each for its share of the time; what one leaves goes to the rest."""
        until = None if seconds is None else time.monotonic() + seconds
        broken: dict[str, str] = {}
        while True:
            below = [kind for kind in kinds if kind.name not in broken and self.missing(kind)]
            if not below or (until is not None and until - time.monotonic() < SHARE_S_MIN):
                break
            for i, kind in enumerate(below):
                part = None if until is None else (until - time.monotonic()) / (len(below) - i)
                if part is not None and part < SHARE_S_MIN:
                    continue
                failed = self.failed
                try:
                    self.run(kind, Limits(seconds=part, at_target=True))
                except (LedgerError, RunError) as error:
                    self.say(f"{kind.name}: {error}")
                    broken[kind.name] = str(error)
                if self.failed > failed:
                    broken.setdefault(kind.name, "it has failed")
            self._check_sources()
        if any(reason != "it has failed" for reason in broken.values()):
            raise RunError(f"could not run {', '.join(broken)}")

    def run(self, kind: Kind, limits: Limits) -> Entry:
        """Run one test; what came of it is in the ledger.

        Raises:
            LedgerError: it is under way in another process, or the ledger is malformed.
            RunError: the test itself is broken, or sources were edited meanwhile.
        """
        with ExitStack() as stack:
            entries = ledger.load(self.writer.path)
            first = limits.seed if limits.seed is not None else ledger.next_seed(entries, kind.name)
            kept = not ledger.is_known(entries, kind.name, self.version.digest, first)
            if kept:
                stack.enter_context(self.writer.running(kind.name))
                if limits.seed is None:  # another run may have ended just before
                    entries = ledger.load(self.writer.path)
                    first = ledger.next_seed(entries, kind.name)
            else:
                self.say(f"{kind.name}: the ledger has seed {first} already: nothing is added to it")
            entry = self._entry(kind, first)
            self._go_on(kind, entry, limits, kept)
        return entry

    def _entry(self, kind: Kind, first: int) -> Entry:
        now = datetime.now(UTC)
        return Entry(
            run=f"{now:%Y%m%d-%H%M%S}-{kind.name}-{secrets.token_hex(4)}",
            test=kind.name,
            release=self.version.release,
            digest=self.version.digest,
            commit=self.version.commit,
            date=now.strftime(ledger.DATE),
            machine=machine(kind.place),
            command=self.command,
            first=first,
            last=first - 1,
        )

    def _go_on(self, kind: Kind, entry: Entry, limits: Limits, kept: bool) -> None:
        start = time.monotonic()
        while (trials := self._trials_left(kind, entry, limits)) > 0:
            left = None if limits.seconds is None else limits.seconds - (time.monotonic() - start)
            if left is not None and left <= 0:
                break
            began = time.monotonic()
            seeds, answer = self._chunk(kind, entry.last + 1, trials, min(kind.chunk_s, left or kind.chunk_s))
            failures = failures_of(answer, entry.last + 1)
            changed = self.digest_now() != self.version.digest
            if changed:  # nobody knows which of them were of this version
                seeds = answer["trials"] = 0
            details = {**answer.get("details", {}), **answer}
            details = {name: value for name, value in details.items() if name not in TOLD}
            if answer.get(TOTAL) is not None:
                entry.details.pop(TOTAL, None)
                details[TOTAL] = answer[TOTAL]
            entry.grow(seeds, answer["trials"], time.monotonic() - began, failures, details)
            self.failed += len(failures)
            if kept and (entry.seeds or entry.failed):
                self.writer.enter(entry)
            self._tell(kind, entry, failures)
            if changed:
                self._check_sources()
            if entry.failed >= FAILURES_ENOUGH:
                self.say(f"{kind.name}: {entry.failed} failures are enough to look into")
                break

    def _trials_left(self, kind: Kind, entry: Entry, limits: Limits) -> int:
        if limits.trials is not None:
            return limits.trials - entry.trials
        if limits.at_target or limits.seconds is None:
            entries = ledger.load(self.writer.path)
            if kind.wanted(kind.total(entries)) is not None:
                return kind.missing(entries, self.counted)
        return MANY

    def _chunk(self, kind: Kind, first: int, trials: int, seconds: float) -> tuple[int, dict[str, Any]]:
        try:
            answer = dict(kind.run(first, trials, seconds=seconds, workers=self.workers))
            self.ran += 1
            seeds = seeds_of(answer)
            if kind.enumerates and not answer.get(TOTAL):
                raise KindError("it does not say how many seeds make all")
            if seeds == 0 and not answer["failures"]:
                raise KindError(f"no seed was tried in {seconds:.0f} s")
        except KeyboardInterrupt:
            raise
        except Exception as error:
            raise RunError(
                f"the test itself is broken at seed {first}: {type(error).__name__}: {error}"
            ) from error
        return seeds, answer

    def _tell(self, kind: Kind, entry: Entry, failures: Sequence[tuple[int, str]]) -> None:
        for i, (seed, text) in enumerate(failures):
            self.say(f"{kind.name}: FAILED: {text if i == 0 else ledger.shortened(text)}")
            if AGAIN not in text:
                self.say(f"  {AGAIN} python -m tests.campaign {kind.name} --seed {seed} --trials 1")
        entries = ledger.load(self.writer.path)
        self.say(
            f"{kind.name}: seeds {entry.first} to {entry.last}: {kind.amount(entry.trials)} in "
            f"{entry.seconds:.0f} s, {entry.failed} failed; in all {kind.progress(entries)}, wanted "
            f"{kind.goal(kind.total(entries))}"
        )

    def _check_sources(self) -> None:
        if self.digest_now() != self.version.digest:
            raise RunError("sources of the library were edited meanwhile; build it, and begin a new run")
