"""Rounds of the stress counted by the processes that were killed in them: the campaign of `kill -9`.

A round has some thirty processes, of which at least six write and six read all the while; who is killed,
and when, is the conductor's chance. Deaths that a process brings on itself, between two of its stores, do
not count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
ROUND_S: Final = 20.0
ROUND_S_MIN: Final = 4.0
COUNTED: Final = "stop forked hold commit processes records acknowledged read segments".split()


def run(
    first_seed: int, trials: int, *, seconds: float | None = None, workers: int = 2, round_s: float = ROUND_S
) -> dict[str, Any]:
    """Rounds until so many were killed, or the time is over; the last round is never cut short for the count.

    Args:
        first_seed: of the first round; the next has the next.
        trials: kills.
        workers: not used: one round keeps a machine of two cores busy, and two would only delay one another.
    """
    until = None if seconds is None else time.monotonic() + seconds
    kills, rounds, done = 0, 0, Counter[str]()
    failures: list[tuple[int, str]] = []
    while kills < trials:
        left = round_s if until is None else until - time.monotonic()
        if rounds and left < ROUND_S_MIN:
            break
        seed = first_seed + rounds
        rounds += 1
        directory = Path(tempfile.mkdtemp(prefix=f"pystream-kill-{seed}-"))
        verdict = play(seed, max(ROUND_S_MIN, min(round_s, left)), directory)
        if verdict["counts"]:
            first = verdict["anomalies"][0] if verdict["anomalies"] else ("", "")
            found = ", ".join(f"{count} {kind}" for kind, count in verdict["counts"].items())
            failures.append((seed, f"seed {seed}: {found}; {first[0]}: {first[1]} (files in {directory})"))
        else:
            shutil.rmtree(directory)
        kills += verdict["done"].get("kill", 0)
        done.update({word: verdict["done"].get(word, 0) for word in COUNTED})
    return {"trials": kills, "seeds": rounds, "failures": failures, **done}


def play(seed: int, seconds: float, directory: Path) -> dict[str, Any]:
    """The verdict of one round, played in a process that has no thread and no store of ours: it forks.

    Raises:
        RuntimeError: the round has no verdict.
    """
    words = f"--seconds {seconds:.1f} --round {seconds:.1f} --seed {seed} --json --directory {directory}"
    result = subprocess.run(
        [sys.executable, "-m", "tests.stress", *words.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if result.returncode not in (0, 1) or not result.stdout.strip():
        raise RuntimeError(
            f"the round of seed {seed} ended with {result.returncode}: {result.stderr[-2000:]}"
        )
    verdict: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return verdict
