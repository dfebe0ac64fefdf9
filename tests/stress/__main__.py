"""Rounds of the stress, each with a store of its own, which is removed when all was well."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads would not survive the forks

from .conductor import CASTS, ROLES, Verdict, run

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90, 90s, 10m or 2h")
    return float(found[1]) * UNITS[found[2]]


def cast(text: str) -> dict[str, int]:
    """ "log,race" or "appender=2,tail=1" or both: who takes part."""
    chosen: dict[str, int] = {}
    for word in text.split(","):
        name, _, count = word.partition("=")
        if name in CASTS and not count:
            chosen |= CASTS[name]
        elif name in ROLES and (count or "1").isdecimal():
            chosen[name] = int(count or 1)
        else:
            known = ", ".join([*CASTS, *(f"{role}=N" for role in ROLES)])
            raise argparse.ArgumentTypeError(f"{word!r} is nobody; there are {known}")
    return chosen


def in_child(directory: Path, length: float, seed: int, parts: dict[str, int]) -> Verdict:
    """A round in a process of its own, which may open the store at its end."""
    result = directory / "verdict.json"
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            result.write_text(json.dumps(run(directory, length, seed, parts).as_json()))
            code = 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    try:
        _, status = os.waitpid(pid, 0)
    except KeyboardInterrupt:
        os.waitpid(pid, 0)  # it has been interrupted, too, and clears up
        raise SystemExit(f"interrupted; the files of the round are in {directory}") from None
    if status:
        raise SystemExit(f"the round of seed {seed} failed; its files are in {directory}")
    return Verdict(**json.loads(result.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument(
        "--seconds", type=seconds, default=60.0, metavar="TIME", help="in all, as 90, 10m or 2h"
    )
    parser.add_argument(
        "--round", type=seconds, default=30.0, metavar="TIME", help="of each round (default 30 s)"
    )
    parser.add_argument(
        "--seed", type=int, help="of the first round; the next has the next (default: by chance)"
    )
    parser.add_argument(
        "--cast", type=cast, default=cast("log,race,groups,upkeep"), help="as log,race or tail=2,appender"
    )
    parser.add_argument(
        "--directory", type=Path, help="where stores are made (default: the temporary directory)"
    )
    parser.add_argument(
        "--kills", type=int, default=0, metavar="N", help="more rounds, until so many were killed"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON a round")
    parser.add_argument("--first", action="store_true", help="end with the first round that has an anomaly")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    until, bad, kills = time.monotonic() + options.seconds, 0, 0
    while True:
        left = until - time.monotonic()
        length = options.round if kills and left < 2 else max(2.0, min(options.round, left))
        directory = Path(tempfile.mkdtemp(prefix="pystream-stress-", dir=options.directory))
        verdict = in_child(directory, length, seed, options.cast)
        bad += bool(verdict.counts)
        kills += verdict.done.get("kill", 0)
        if options.json:
            print(json.dumps(verdict.as_json()), flush=True)
        else:
            report(verdict)
        if not verdict.counts:
            shutil.rmtree(directory)
        elif not options.json:
            print(f"  its store and histories: {directory}", flush=True)
        seed += 1
        is_over = time.monotonic() + 2 >= until and kills >= options.kills
        if is_over or (bad and options.first):
            return 1 if bad else 0


def report(verdict: Verdict) -> None:
    done = ", ".join(f"{count:,} {name}" for name, count in verdict.done.items())
    print(f"seed {verdict.seed}, {verdict.seconds:.0f} s: {done}")
    for kind, text in verdict.anomalies:
        print(f"  {kind}: {text}")
    found = ", ".join(f"{count} {kind}" for kind, count in verdict.counts.items())
    print(f"  {'anomalies: ' + found if found else 'no anomaly'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
