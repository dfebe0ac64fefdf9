"""The ledger: one line of JSON a run, of which the last may still grow.

    run       names the run; no two have the same
    test      what was run
    release, digest, commit   the version of the code: release, digest of its sources, and git's commit, where
              there is git ("+" behind it: with changes that are not in it)
    date, machine, command    when it began (UTC), where, and how
    seconds   how long it took until now
    first, last   the seeds that were tried, both included; last is first - 1 before any was
    trials    how many of the test's units were done: one for each seed, unless a seed does many
    failures  [seed, text] of the first ones;  failed: how many there were
    details   what else was counted

The file is replaced as a whole by one that has the new line, so a reader, or who comes after a death, finds
whole lines only. A run takes a lock on its test, since two at once would try the same seeds; the kernel frees
it when the process dies. Nothing is ever taken out.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

LEDGER: Final = Path(__file__).parent / "ledger.jsonl"
TEXT_MAX: Final = 300
"""Characters kept of a failure's text."""
FAILURES_MAX: Final = 20
"""Failures of a run that are kept in words; all are counted."""
WHOLE_BYTE: Final = 0
"""The byte of the lock file that is locked while the ledger is replaced. Bytes behind it: one a test."""
TEST_BYTES: Final = 1 << 20
DATE: Final = "%Y-%m-%dT%H:%M:%SZ"
MAXIMA: Final = ("deepest", "longest", "largest", "most", "coverage")
"""Details whose names begin so, and what is in them, are maxima; other numbers are sums."""


class LedgerError(Exception):
    """A line of the ledger that is none, or a run that cannot be entered."""


@dataclass
class Entry:
    """One run, as far as it got."""

    run: str
    test: str
    release: str
    digest: str
    commit: str
    date: str
    machine: str
    command: str
    first: int
    last: int
    seconds: float = 0.0
    trials: int = 0
    failed: int = 0
    failures: list[list[Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return f"{self.release}-{self.digest}"

    @property
    def seeds(self) -> int:
        return self.last - self.first + 1

    def grow(
        self,
        seeds: int,
        trials: int,
        seconds: float,
        failures: Sequence[tuple[int, str]],
        details: dict[str, Any],
    ) -> None:
        """Add what the next `seeds` seeds came to."""
        self.last += seeds
        self.trials += trials
        self.seconds = round(self.seconds + seconds, 1)
        self.failed += len(failures)
        room = max(0, FAILURES_MAX - len(self.failures))
        self.failures += [[seed, shortened(text)] for seed, text in failures[:room]]
        merge(self.details, details)

    def as_line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(", ", ": "))


def shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 3] + "..."


def merge(into: dict[str, Any], more: dict[str, Any], *, maxima: bool = False) -> None:
    """Add up numbers by name, in dictionaries within as well; other values are replaced."""
    for name, value in more.items():
        known = into.get(name)
        if isinstance(value, dict):
            if not isinstance(known, dict):
                known = into[name] = {}
            merge(known, value, maxima=maxima or name.startswith(MAXIMA))
        elif _is_number(value) and _is_number(known):
            largest = maxima or name.startswith(MAXIMA)
            total = max(known, value) if largest else known + value
            into[name] = round(total, 3) if isinstance(total, float) else total
        else:
            into[name] = value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- reading ------------------------------------------------------------------------------------------


def parse(line: str) -> Entry:
    """One line.

    Raises:
        LedgerError: it is malformed; says what is wrong with it.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise LedgerError(f"no JSON: {error}") from None
    if not isinstance(data, dict):
        raise LedgerError("no JSON object")
    wanted = {f.name: f.type for f in fields(Entry)}
    if data.keys() != wanted.keys():
        odd = sorted(data.keys() ^ wanted.keys())
        raise LedgerError(f"fields are missing or unknown: {', '.join(odd)}")
    types = {"str": str, "int": int, "float": (int, float)}
    for name, kind in wanted.items():
        expected: Any = types.get(str(kind), list if str(kind).startswith("list") else dict)
        if not isinstance(data[name], expected) or isinstance(data[name], bool):
            raise LedgerError(f"{name} is {data[name]!r}, of the wrong type")
    entry = Entry(**data)
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    if not re.fullmatch(r"[0-9a-f]{12}", entry.digest):
        raise LedgerError(f"digest is {entry.digest!r}, not 12 hexadecimal digits")
    try:
        datetime.strptime(entry.date, DATE)
    except ValueError:
        raise LedgerError(f"date is {entry.date!r}, not as 2026-01-31T23:59:59Z") from None
    for name in ("run", "test", "release", "machine", "command"):
        if not getattr(entry, name):
            raise LedgerError(f"{name} is empty")
    if entry.first < 0 or entry.last < entry.first - 1:
        raise LedgerError(f"seeds {entry.first} to {entry.last} are no seeds")
    if entry.trials < 0 or entry.seconds < 0 or (entry.seeds == 0 and entry.trials > 0):
        raise LedgerError(f"{entry.trials} trials in {entry.seconds} s with {entry.seeds} seeds")
    if len(entry.failures) != min(entry.failed, FAILURES_MAX):
        raise LedgerError(f"{len(entry.failures)} failures are listed of {entry.failed}")
    for failure in entry.failures:
        shape = isinstance(failure, list) and len(failure) == 2
        if not shape or not isinstance(failure[0], int) or not isinstance(failure[1], str):
            raise LedgerError(f"{failure!r} is not a seed and a text")


def load(path: Path = LEDGER) -> list[Entry]:
    """All runs in the order in which they were begun; none when there is no file.

    Raises:
        LedgerError: a line is malformed, or a run is there twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    if text and not text.endswith("\n"):
        raise LedgerError(f"{path}: the last line is cut short")
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = parse(line)
            if any(entry.run == other.run for other in entries):
                raise LedgerError(f"run {entry.run} is there twice")
        except LedgerError as error:
            raise LedgerError(f"{path}:{number}: {error}") from None
        entries.append(entry)
    return entries


# ---- arithmetic ---------------------------------------------------------------------------------------


def next_seed(entries: Iterable[Entry], test: str) -> int:
    """The seed behind the highest that was tried; 1 at the beginning."""
    return max((entry.last for entry in entries if entry.test == test), default=0) + 1


def is_known(entries: Iterable[Entry], test: str, digest: str, seed: int) -> bool:
    """Whether this version of the code has tried this seed."""
    return any(
        entry.test == test and entry.digest == digest and entry.first <= seed <= entry.last
        for entry in entries
    )


def reached(entries: Iterable[Entry], test: str, digest: str | None = None, *, seeds: bool = False) -> int:
    """How many units were done, or seeds tried, by any version of the code or by one.

    A seed counts once for a version, however often it was played: of a run that repeats seeds of earlier
    ones, only the share of the others counts.
    """
    total = 0.0
    tried: dict[str, list[tuple[int, int]]] = {}
    for entry in entries:
        if entry.test != test or (digest is not None and entry.digest != digest) or entry.seeds == 0:
            continue
        spans = tried.setdefault(entry.digest, [])
        fresh = entry.seeds - overlap(spans, entry.first, entry.last)
        total += fresh if seeds else entry.trials * fresh / entry.seeds
        spans.append((entry.first, entry.last))
    return int(total)


def overlap(spans: Iterable[tuple[int, int]], first: int, last: int) -> int:
    """How many of first..last lie in any of the spans, both ends included."""
    covered, at = 0, first
    for begin, end in sorted(spans):
        begin, end = max(begin, at), min(end, last)
        if begin <= end:
            covered += end - begin + 1
            at = end + 1
    return covered


# ---- writing ------------------------------------------------------------------------------------------


class Writer:
    """Enters runs. One a process and ledger: closing any descriptor of the lock file would free its locks."""

    def __init__(self, path: Path = LEDGER) -> None:
        self.path = path
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def close(self) -> None:
        os.close(self._lock)

    @contextmanager
    def running(self, test: str) -> Iterator[None]:
        """Alone with this test.

        Raises:
            LedgerError: another process runs it.
        """
        byte = 1 + int.from_bytes(test.encode(), "little") % TEST_BYTES
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except BlockingIOError:
            raise LedgerError(
                f"another process runs {test}, and would try the same seeds; wait for it, or run another test"
            ) from None
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, byte)

    def enter(self, entry: Entry) -> None:
        """Put a run in, or what it has grown to."""
        line = entry.as_line()
        parse(line)
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, WHOLE_BYTE)
        try:
            entries = load(self.path)
            lines = [other.as_line() for other in entries]
            place = next((i for i, other in enumerate(entries) if other.run == entry.run), len(lines))
            lines[place : place + 1] = [line]
            self._replace("".join(f"{each}\n" for each in lines))
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, WHOLE_BYTE)

    def _replace(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.path)
