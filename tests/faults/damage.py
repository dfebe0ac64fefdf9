"""Every byte of a store flipped, and every length of its files cut: what is shown is what was written, and
damage is said to be damage.

The files of a partition are played by damage.c, a thousand a second; the store's own (store.json, topic.json,
live, and those of a group) by the library as a whole. Seeds enumerate: N seeds in a row are all cases
there are, spread evenly, so that any run of seeds is a sample; later rounds turn other bits over.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pystream

from . import HERE, cache_directory, digest, run_compiler
from .power import FAST, KERNELS, compile_one, libraries

CHUNK: Final = 1000
"""Seeds that one process plays at a time."""

RECORDS: Final = 15
COMMITTED: Final = 8
"""Where the group goes on."""
DERIVED: Final = ("live", "control", "state")
"""Files made anew, or of a moment that is over: whatever becomes of them, nothing is refused."""


@lru_cache
def program() -> Path:
    """damage.c with the kernels, compiled once for each state of the sources."""
    objects = [compile_one(source, *FAST) for source in [HERE / "damage.c", *sorted(KERNELS.glob("*.c"))]]
    target = cache_directory() / f"damage-{digest(*map(str, objects))}"
    if not target.exists():
        made = target.with_suffix(f".{os.getpid()}")
        run_compiler("-pthread", *objects, *libraries("--libs"), "-o", made)
        made.replace(target)
    return target


@contextmanager
def quick_directory() -> Iterator[Path]:
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(
        prefix="pystream-damage-", dir=memory if os.access(memory, os.W_OK) else None
    ) as directory:
        yield Path(directory)


def ask(*words: object) -> list[str]:
    """The lines that damage.c says, in a directory of its own.

    Raises:
        RuntimeError: It did not come to its end.
    """
    with quick_directory() as directory:
        done = subprocess.run(
            [program(), *map(str, words)], cwd=directory, capture_output=True, text=True, errors="replace"
        )
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(
            f"damage.c ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout.splitlines()


# ---- the store's own files --------------------------------------------------------------------------


class Harm(NamedTuple):
    """A bit of a file turned over, or the file cut to a length."""

    name: Path
    at: int
    bit: int
    cuts: bool

    def __str__(self) -> str:
        return f"{self.name} {'cut to' if self.cuts else 'flipped at'} {self.at}, bit {self.bit}"

    def done_to(self, data: bytes) -> bytes:
        if self.cuts:
            return data[: self.at]
        return data[: self.at] + bytes([data[self.at] ^ 1 << self.bit]) + data[self.at + 1 :]


def is_ours(name: Path) -> bool:
    """Is it one of the store's own files, which damage.c does not know?"""
    return name.name in ("store.json", "topic.json", "live") or name.parts[0] == "groups"


class Store:
    """A small store, closed in order, of which a group has consumed a part; and its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = [b"record %d" % number for number in range(RECORDS)]
        with pystream.open(path) as store:
            topic = store.topic("t", create=True, segment_bytes=65536)
            for first in range(0, RECORDS, 5):
                topic.append(self.values[first : first + 5])
            with store.consumer("t", group="g", timeout=0.05) as consumer:
                for record in consumer:
                    if record.offset + 1 == COMMITTED:
                        break
                consumer.commit(durable=True)
        self.files = {
            file.relative_to(path): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
        }
        # By their kind: those of a group have a random number in their name.
        self.ours = sorted(filter(is_ours, self.files), key=lambda name: name.as_posix().partition("+")[0])

    @property
    def cases(self) -> int:
        return sum(2 * len(self.files[name]) for name in self.ours)

    def case(self, number: int, turn: int) -> Harm:
        """Case `number` of `cases`; `turn` says which bit."""
        for name in self.ours:
            size = len(self.files[name])
            if number < 2 * size:
                return Harm(name, number % size, (number * 5 + turn) % 8, number >= size)
            number -= 2 * size
        raise ValueError("there is no such case")

    def restore(self) -> None:
        for file in [file for file in self.path.rglob("*") if file.is_file()]:
            if file.relative_to(self.path) not in self.files:
                file.unlink()
        for name, data in self.files.items():
            self.write(name, data)

    def write(self, name: Path, data: bytes) -> None:
        """In place: some files know which one they are."""
        file = self.path / name
        with open(file, "r+b" if file.exists() else "wb") as opened:
            opened.truncate(len(data))
            opened.write(data)

    def play(self, harm: Harm) -> str | None:
        """What went wrong, if something did."""
        self.restore()
        damaged = harm.done_to(self.files[harm.name])
        self.write(harm.name, damaged)
        kind = harm.name.name.partition("+")[0]
        # A document is text in which some bytes say nothing: what it holds is what counts.
        report = pystream.verify(self.path)
        if kind == "live" and not damaged.strip(b"\0"):
            kind = "control"  # as where nobody has written it yet, so there is nothing to find
        found = {Path(one.path).name for one in report.damage}
        if kind in ("store.json", "topic.json", "live", "committed") and found != {harm.name.name}:
            return f"verify found damage in {sorted(found) or 'nothing'}"
        for mode in ("r", "rw"):
            refused = self.refusal(mode)
            if isinstance(refused, str):
                return f"mode={mode}: {refused}"
            if refused is None:
                continue
            if kind in DERIVED:
                return f"mode={mode}: it was refused: {refused!r}"
            if harm.name.name not in str(refused):
                return f"mode={mode}: the error does not name the file: {refused!r}"
            if (self.path / harm.name).read_bytes() != damaged:
                return f"mode={mode}: a file that was refused was changed"
        return None

    def refusal(self, mode: str) -> pystream.PystreamError | str | None:
        """Open and read: how it was refused, or what was wrong; None: all was as it should be."""
        try:
            with pystream.open(self.path, mode) as store:
                topic = store["t"]
                if [record.value for record in topic.records()] != self.values:
                    return "the records are not what was written"
                if mode == "r":
                    return None
                with store.consumer("t", group="g", timeout=0) as consumer:
                    offsets = [record.offset for record in consumer]
                    consumer.commit()
                if offsets != list(range(offsets[0] if offsets else RECORDS, RECORDS)):
                    return f"the group was given {offsets}"
                if not offsets or offsets[0] > COMMITTED:
                    return f"the group has skipped records: it goes on at {offsets[:1]}"
                if topic.append([b"after"]) != RECORDS:
                    return "an append was given a wrong offset"
        except pystream.PystreamError as error:
            return error
        return None


# ---- seeds ------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How seeds become cases, the same here and in damage.c: seed times stride, modulo all; those below
    `apart` are the store's own files."""

    apart: int
    all: int

    @property
    def stride(self) -> int:
        stride = int(self.all * 0.6180339887498949)
        while math.gcd(stride, self.all) != 1:
            stride += 1
        return stride

    def case(self, seed: int) -> tuple[int, int]:
        return seed % self.all * self.stride % self.all, seed // self.all


@lru_cache
def plan() -> Plan:
    """How many cases there are."""
    with quick_directory() as directory:
        apart = Store(directory / "s").cases
    return Plan(apart, apart + int(ask("--count")[0]))


def play(first: int, count: int, plan: Plan) -> list[str]:
    """Seeds first .. first + count - 1, to their end: what failed."""
    *failures, last = ask(first, count, plan.apart, 0)
    if json.loads(last)["done"] != count and not failures:
        raise RuntimeError(f"damage.c has not done what it was to do: {last}")
    with quick_directory() as directory:
        store = Store(directory / "s")
        if store.cases != plan.apart:
            raise RuntimeError(f"the store has {store.cases} cases, not {plan.apart}, as it had before")
        for seed in range(first, first + count):
            number, turn = plan.case(seed)
            if number >= plan.apart:
                continue
            harm = store.case(number, turn)
            try:
                wrong = store.play(harm)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                failures.append(f"seed {seed}: {harm}: {wrong}")
    return failures


def run(first: int, trials: int | None, *, seconds: float | None = None, workers: int = 2) -> dict[str, Any]:
    """Damage of every kind, one bit or one length at a time.

    Args:
        first: The first seed; the others follow it.
        trials: How many; None: until the time is over.
        seconds: End earlier: after so long no further ones begin.
        workers: Processes.

    Returns:
        dict: "trials" done, "seeds" tried (the same), "total" (how many make all), "failures" (texts).
    """
    if trials is None and seconds is None:
        raise ValueError("say how many trials, or for how many seconds")
    cases = plan()
    end = math.inf if trials is None else first + trials
    until = math.inf if seconds is None else time.monotonic() + seconds
    failures: list[str] = []
    at = first
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: set[Future[list[str]]] = set()
        while running or (at < end and time.monotonic() < until):
            while len(running) < workers and at < end and time.monotonic() < until:
                count = int(min(CHUNK, end - at))
                running.add(pool.submit(play, at, count, cases))
                at += count
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                failures += one.result()
    failures.sort(key=lambda text: int(re.findall(r"\d+", text)[0]))
    return {"trials": at - first, "seeds": at - first, "total": cases.all, "failures": failures}
