"""The command of the campaigns."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads would not survive forks

from . import ledger, table
from .kinds import KINDS, Kind
from .ledger import LedgerError
from .runs import Limits, RunError, Runner
from .version import digest, unbuilt, version

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    number = text.rstrip("smindh")
    try:
        value = float(number) * UNITS[text[len(number) :]]
    except (KeyError, ValueError):
        value = 0
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90, 90s, 10m or 2h")
    return value


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def parser(kinds: Sequence[Kind]) -> argparse.ArgumentParser:
    names = ", ".join(kind.name for kind in kinds)
    made = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description="Run tests of durability for as long as you like, and keep count in a ledger.",
    )
    made.add_argument("test", nargs="*", metavar="TEST", help=f"{names}; all: those below their target")
    made.add_argument(
        "--time", type=duration, metavar="TIME", help="as 90, 10m or 8h; shared among the tests"
    )
    made.add_argument("--trials", type=positive, metavar="N", help="end after so many")
    made.add_argument("--seed", type=positive, metavar="S", help="begin here, not behind the highest so far")
    made.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="processes at once (default 2)"
    )
    made.add_argument("--list", action="store_true", help="what there is, and how far it is")
    made.add_argument("--table", action="store_true", help="the table of the ledger, as Markdown")
    made.add_argument("--write", action="store_true", help="put the table into docs/durability.md")
    made.add_argument(
        "--this-version", action="store_true", help="the target is wanted of the sources as they are now"
    )
    made.add_argument("--ledger", type=Path, default=ledger.LEDGER, metavar="FILE", help=argparse.SUPPRESS)
    made.add_argument("--page", type=Path, default=table.PAGE, metavar="FILE", help=argparse.SUPPRESS)
    return made


def chosen(options: argparse.Namespace, made: argparse.ArgumentParser, kinds: Sequence[Kind]) -> list[Kind]:
    """The tests that are asked for; ends with a message when that makes no sense."""
    by_name = {kind.name: kind for kind in kinds}
    for name in options.test:
        if name != "all" and name not in by_name:
            made.error(f"there is no test {name!r}; there are {', '.join(by_name)} and all")
    found = kinds if "all" in options.test else [by_name[name] for name in dict.fromkeys(options.test)]
    if options.write and not options.table:
        made.error("--write goes with --table")
    if options.list or options.table:
        if found:
            made.error("--list and --table run nothing: leave out the names of tests")
        return []
    if not found:
        made.error("say which test, or all, or --list, or --table")
    if (options.seed is not None or options.trials is not None) and (len(found) > 1 or "all" in options.test):
        made.error("--seed and --trials are for one test; use --time for several")
    return list(found)


def main(words: Sequence[str], kinds: Sequence[Kind] = KINDS) -> int:
    made = parser(kinds)
    options = made.parse_args(words)
    found = chosen(options, made, kinds)
    try:
        entries = ledger.load(options.ledger)
        if options.list:
            print(table.summary(kinds, entries, digest()))
        if options.table:
            show_table(options, kinds, entries)
        if found:
            return run(options, found)
    except (LedgerError, RunError, table.PageError) as error:
        print(f"campaign: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was done until the last minute is in the ledger", file=sys.stderr)
        return 130
    return 0


def show_table(options: argparse.Namespace, kinds: Sequence[Kind], entries: list[ledger.Entry]) -> None:
    made = table.markdown(kinds, entries)
    if not options.write:
        print(made, end="")
    elif table.write(options.page, made):
        print(f"{options.page}: written")
    else:
        print(f"{options.page}: it is up to date")


def run(options: argparse.Namespace, kinds: list[Kind]) -> int:
    stale = unbuilt()
    if stale:
        raise RunError(
            f"pystream is not built of these sources: {stale} is newer; "
            "make test builds it, as does python setup.py build_ext --inplace"
        )
    words = [word for word in sys.argv[1:] if word] if sys.argv[0].endswith("__main__.py") else []
    writer = ledger.Writer(options.ledger)
    try:
        runner = Runner(
            writer,
            version(),
            shlex.join(["python", "-m", "tests.campaign", *(words or [kind.name for kind in kinds])]),
            workers=options.workers,
            this_version=options.this_version,
            say=lambda text: print(text, flush=True),
        )
        if len(kinds) > 1 or "all" in options.test:
            runner.share(kinds, options.time)
        else:
            trials = options.trials
            if options.seed is not None and options.time is None and trials is None:
                trials = 1
            runner.run(kinds[0], Limits(seconds=options.time, trials=trials, seed=options.seed))
        if not runner.ran:
            print("each has reached its target; name one, with --time or --trials, to go on")
    finally:
        writer.close()
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
