"""Each main path beside one busy Python thread: python bench/busy.py [--quick] [--only PART]

CPython runs one thread at a time, and a thread that wants to run waits until the running one lets go: of its
own accord, around a call that may take long, or when it is asked to, at the end of the switch interval (5 ms;
sys.getswitchinterval()). So a path that keeps the interpreter gets every other interval beside one busy
thread, which is half of its quiet rate. A path that lets go in each call gets it back only when the busy
thread has had its whole interval: 200 calls a second, whatever a call costs. Hence the rule that is shown
here: what `send`, `append` of one record and record loops reach beside a busy thread is at least 0.8 of half
their quiet rate.

A round lasts for many intervals, and ends with the busy thread's turn, so that both have had as many. The
share that a loop in pure Python gets in the same run stands in the first row: it is what this machine calls
half.

Prints a Markdown table and writes it, with every figure, to bench/results/busy.md and .json.
Environment: PYSTREAM_BENCH_DIR (build/).
"""

import argparse
import gc
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import machine
from paths import PATHS, Path_, Site, disk_root

RESULTS = Path(__file__).parent / "results"
SHARE_MIN = 0.8
# What has to hold the share; the others are shown.
HELD = (
    "`send`",
    "`send` with a key, 4 partitions",
    '`send` of str, `value="utf8"`',
    "`append` of one record",
    "`append` of one record, partition held",
    "records, `.offset` and `.value`",
    'records with `value="utf8"`',
    "a consumer's records",
)
SHOWN = (
    "a call that does nothing, from a loop",
    "`send_many` of a list",
    "`append` of an array of 64 numbers",
    "`append` of an array of 256 KiB",
    "batches of one record, `.values`",
    "`poll` of batches of one record",
    "`seek` and `poll`",
    "`partition[offset]`",
)
LEGEND = """\
Of half: the rate beside a busy Python thread, by half of the rate alone; medians of rounds in turn, and the
lowest of them. A path that keeps the interpreter reaches 1; one that lets go of it in each call waits for a
switch interval to have it back. Above 1 is what runs while it is let go, or in a helper thread.
"""


class Busy:
    """A thread that never lets go of the interpreter by itself, and counts what it does."""

    def __init__(self) -> None:
        self.count = 0
        self._over = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over:
            self.count += 1

    def __enter__(self) -> "Busy":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        self._thread.join()


def yielded() -> float:
    """The time after another thread, if one wants to, has run."""
    time.sleep(0)
    return time.perf_counter()


def units_per_second(path: Path_, root: Path, seconds: float) -> float:
    """The rate of a path, over at least so many seconds of work."""
    with Site(root) as site:
        units = path.count * path.rate
        work = path.work(site, units)
        work()
        gc.collect()
        done = 0
        began = yielded()
        while time.perf_counter() - began < seconds:
            work()
            done += units
        return done / (yielded() - began)


def measured(path: Path_, root: Path, rounds: int, seconds: float) -> dict[str, Any]:
    quiet, beside = [], []
    for _ in range(rounds):
        quiet.append(units_per_second(path, root, seconds))
        with Busy():
            beside.append(units_per_second(path, root, 2 * seconds))
    shares = sorted(b / (q / 2) for q, b in zip(quiet, beside, strict=True))
    share = statistics.median(shares)
    return {
        "path": path.name,
        "unit": path.unit,
        "quiet": quiet,
        "beside": beside,
        "share": share,
        "lowest": shares[0],
        "target": SHARE_MIN if path.name in HELD else None,
        "met": share >= SHARE_MIN if path.name in HELD else None,
    }


def rate_text(rate: float) -> str:
    if rate >= 1e6:
        return f"{rate / 1e6:,.1f} M/s"
    return f"{rate / 1e3:,.1f} k/s" if rate >= 1e3 else f"{rate:,.0f} /s"


def table(facts: dict[str, str], interval: float, rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    text = "".join(f"- {key}: {value}\n" for key, value in facts.items())
    text += f"- switch interval: {interval * 1000:g} ms\n\n"
    text += "| path | a | alone | beside a busy thread | of half | lowest | target | met |\n"
    text += "|---|---|--:|--:|--:|--:|---|---|\n"
    for row in rows:
        target = "" if row["target"] is None else f"≥ {row['target']:g}"
        met = {True: "yes", False: "no", None: ""}[row["met"]]
        text += (
            f"| {row['path']} | {row['unit']} | {rate_text(statistics.median(row['quiet']))} "
            f"| {rate_text(statistics.median(row['beside']))} | {row['share']:.2f} | {row['lowest']:.2f} "
            f"| {target} | {met} |\n"
        )
    return f"{text}\n{LEGEND}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--only", default="", metavar="PART", help="paths whose names hold this")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    rounds, seconds = (2, 0.05) if arguments.quick else (5, 0.3)
    names = [name for name in (*SHOWN[:1], *HELD, *SHOWN[1:]) if arguments.only in name]
    if not names:
        parser.error(f"no path holds {arguments.only!r}; there are: {', '.join((*HELD, *SHOWN))}")
    root, interval = disk_root(), sys.getswitchinterval()
    rows = [measured(PATHS[name], root, rounds, seconds) for name in names]
    text = table(machine.facts(str(root)), interval, rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine.facts(str(root)), "switch_interval_s": interval, "rounds": rounds}
    (arguments.out / "busy.json").write_text(
        json.dumps(facts | {"rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    (arguments.out / "busy.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
