"""A worker: a process of a run. It is told what to do on standard input, and answers on standard output.

Lines in: the plan, as JSON; "go NANOSECONDS", when to begin; "expect RECORDS", how many there are to receive.
The end of the input means that the parent is dead: the worker stops and removes the scratch directory, which
nobody else will.
Lines out, as JSON: {"ready": true}, {"progress": [records, bytes]}, and {"done": ...} or {"error": ...}.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from pystream.benchmark import scratch
from pystream.benchmark.loops import Stretch, Worker
from pystream.benchmark.plan import Plan

PROGRESS_SECONDS: Final = 0.1
ORPHAN_WAIT_SECONDS: Final = 10


def main() -> NoReturn:
    """Do the part of a run that the first line of the input says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to hear
    lines = Lines(0)
    told = lines.next(None)
    if told is None:
        os._exit(1)
    plan = Plan(**json.loads(told))
    try:
        worker = Worker(plan)
        loops = worker.prepare()
        say({"ready": True})
        done = _run(worker, loops, lines)
    except BrokenPipeError:
        _orphaned(plan)
    except BaseException as error:
        try:
            say({"error": f"{type(error).__name__}: {error}"})
        except OSError:
            _orphaned(plan)
        os._exit(1)
    say({"done": done})
    os._exit(0)


def _run(worker: Worker, loops: list[Callable[[int], list[Stretch]]], lines: Lines) -> dict[str, Any]:
    """Run the loops in threads, and tell how they get on."""
    begin = _wait_for(lines, worker.plan)
    results: list[list[Stretch]] = [[] for _ in loops]
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            results[number] = loops[number](begin)
        except BaseException as error:
            failed.append(error)
            worker.stop.set()

    synced: list[int] = []

    def sync() -> None:
        try:
            synced.append(worker.sync())
        except BaseException as error:
            failed.append(error)

    _attend(worker, lines, [threading.Thread(target=run, args=(number,)) for number in range(len(loops))])
    if not failed and worker.plan.mode in ("produce", "durable", "fill"):
        _attend(worker, lines, [threading.Thread(target=sync)])
    for error in failed:
        raise error
    worker.close()
    stretches = [stretch.as_dict() for each in results for stretch in each]
    return {"stretches": stretches, "durable_ns": synced[0] if synced else None}


def _attend(worker: Worker, lines: Lines, threads: list[threading.Thread]) -> None:
    """Run threads to their end, tell how they get on, and hear what the parent says."""
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        line = lines.next(PROGRESS_SECONDS)
        if line is None:
            worker.stop.set()
            for thread in threads:
                thread.join(ORPHAN_WAIT_SECONDS)
            _orphaned(worker.plan)
        word, _, number = line.partition(" ")
        if word == "expect":
            worker.expected = int(number)
        say({"progress": [sum(t.records for t in worker.tallies), sum(t.size for t in worker.tallies)]})


def _wait_for(lines: Lines, plan: Plan) -> int:
    """When to begin, once that is said."""
    while True:
        line = lines.next(None)
        if line is None:
            _orphaned(plan)
        word, _, number = line.partition(" ")
        if word == "go":
            return int(number)


def _orphaned(plan: Plan) -> NoReturn:
    scratch.remove(Path(plan.scratch))
    os._exit(1)


def say(message: dict[str, Any]) -> None:
    """Tell the parent."""
    os.write(1, json.dumps(message).encode() + b"\n")


class Lines:
    """Lines of a pipe, with a time limit; `io` would hide what it has read ahead from `select`."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._read = b""

    def next(self, seconds: float | None) -> str | None:
        """The next line; "" when none came in time; None at the end."""
        while b"\n" not in self._read:
            if not select.select([self._number], [], [], seconds)[0]:
                return ""
            data = os.read(self._number, 65536)
            if not data:
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()
