"""python -m tests.fuzz: fuzz every decoder for as long as one likes."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from .build import TARGETS, BuildError
from .runner import CORPUS, WORK, Outcome, coverage, merge, play, run

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90, 90s, 10m or 8h")
    return float(found[1]) * UNITS[found[2]]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz every decoder of csrc/ with libFuzzer, ASan and UBSan."
    )
    made.add_argument("--seconds", type=seconds, default=60, metavar="TIME", help="60, 10m, 8h (default: 60)")
    made.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be given again")
    made.add_argument("--workers", type=int, default=2, help="processes at a time (default: 2)")
    made.add_argument(
        "--work", type=Path, default=WORK, help="where new inputs are kept (default: build/fuzz/work)"
    )
    made.add_argument(
        "--play", nargs="+", type=Path, metavar="PATH", help="run these inputs and nothing else"
    )
    made.add_argument(
        "--seeds", action="store_true", help="put inputs made of real stores into the corpus first"
    )
    made.add_argument("--merge", action="store_true", help="fold what was found into the corpus, and stop")
    made.add_argument(
        "--coverage", action="store_true", help="print the lines that the corpus reaches, and stop"
    )
    return made


def main() -> int:
    options = parser().parse_args()
    if options.workers < 1:
        parser().error("--workers must be at least 1")
    if options.seeds:
        from .seeds import write

        print(f"{write(CORPUS)} inputs were made of real stores")
    if options.play:
        failed = play(options.play)
        print(failed or "nothing happened")
        return 1 if failed else 0
    if options.merge:
        for target, (files, size) in merge(options.target or TARGETS, work=options.work).items():
            print(f"{target:10} {files:5} inputs {size:9,} bytes")
        return 0
    if options.coverage:
        print(coverage())
        return 0
    begun = time.monotonic()

    def tell(target: str, outcome: Outcome) -> None:
        passed = time.monotonic() - begun
        tried, edges = outcome["executions"][target], outcome["coverage"][target]
        print(f"{passed:8.0f} s  {target:10} {tried:12,} inputs {edges:6,} edges", flush=True)

    outcome = run(
        options.seconds, targets=options.target, workers=options.workers, work=options.work, progress=tell
    )
    print(f"{sum(outcome['executions'].values()):,} inputs in {outcome['seconds']:.0f} s")
    for failure in outcome["failures"]:
        print(f"FAILED {failure}")
    return 1 if outcome["failures"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BuildError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
