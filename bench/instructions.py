"""A guard against slowing down that noise cannot fool: instructions a record of the main paths.

    python bench/instructions.py             count, and show the counts beside those recorded
    python bench/instructions.py --check     and fail if a path takes over 5 % more than recorded
    python bench/instructions.py --write     and record them

What is counted are instructions in user space, by the processor's own counters where the system lends them
(in a virtual machine it seldom does), else under callgrind, whose simulated processor is the same everywhere.
The machine's load, its clock and its caches have no part in it. Nor has the kernel: what a path spends there,
a figure in seconds has to tell.

Each path runs in a process of its own that has run it before, once with so much work and once with three
times as much; the difference is what is counted, so that neither starting nor opening is.

Counts depend on the compiler, on Python and on a few libraries, so bench/instructions.json keeps a recording
for each environment it was told of. In one that it knows, 5 % is the limit. In one that it does not, the most
alike recording is taken, and a path has grown when it takes 50 % more, and still 50 % more after both sides
were divided by what a call that does nothing takes; by that measure another interpreter passes, and work done
twice does not.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gauge

HERE = Path(__file__).parent
RECORD = HERE / "instructions.json"
REFERENCE = "a call that does nothing, from a loop"
TOLERANCE = 0.05
TOLERANCE_ELSEWHERE = 0.5
SHORT = (
    REFERENCE,
    "`send`",
    "`append` of one record",
    "records, `.offset` and `.value`",
    "batches of one record, `.values`",
)
CHILD_SECONDS_MAX = 900


class CannotCount(Exception):
    """Why nothing can be counted here, and what to do."""


# ---- counting -------------------------------------------------------------------------------------------


def instrument(wanted: str) -> str:
    """ "perf" or "callgrind": what counts here. Compiles the gauge.

    Args:
        wanted: One of them, or "auto".

    Raises:
        CannotCount: That one does not work here, or none does.
    """
    try:
        gauge.build()
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotCount(f"gauge.c could not be compiled: {error}") from error
    refused: OSError | None = None
    if wanted != "callgrind":
        try:
            gauge.Counter(gauge.load()).close()
            return "perf"
        except OSError as error:
            refused = error
            if wanted == "perf":
                raise CannotCount(f"the processor's counters cannot be had: {error}") from error
    if not shutil.which("valgrind"):
        raise CannotCount(
            (f"the processor's counters cannot be had ({refused}), and " if refused else "")
            + "there is no valgrind: apt-get install valgrind"
        )
    return "callgrind"


def measure(how: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """The environment, and the counts of the paths of these names, or of all, in a process of their own."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as directory:
        command = [sys.executable, str(HERE / "counting.py")]
        if how == "callgrind":
            options = ["--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]
            out = f"--callgrind-out-file={directory}/{gauge.PARTS}"
            command = ["valgrind", "--quiet", *options, out, *command, "--out", directory]
        done = subprocess.run(
            [*command, "--", *names],
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_SECONDS_MAX,
            # Sets and dicts of str have the same order each time.
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
    if done.returncode:
        raise CannotCount(f"counting failed:\n{done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def recording(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of several runs: of each path the median, and how far apart the runs were."""
    counts = {}
    for name in runs[0]["counts"]:
        values = [run["counts"][name] for run in runs]
        middle = statistics.median(values)
        counts[name] = {
            "instructions": round(middle, 3),
            "spread": round((max(values) - min(values)) / middle, 5),
        }
    return {"environment": runs[0]["environment"], "repeats": len(runs), "counts": counts}


# ---- comparing ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """What became of a path. growth: by which part it takes more, None where one side does not know it."""

    name: str
    before: float | None
    now: float | None
    spread: float
    growth: float | None
    limit: float

    @property
    def grown(self) -> bool:
        return self.growth is not None and self.growth > self.limit


@dataclass(frozen=True)
class Verdict:
    """differs: in what the environment of the recording is another one; None: there is no recording."""

    lines: tuple[Line, ...]
    differs: tuple[str, ...] | None

    @property
    def grown(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.grown)


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key)))


def most_alike(found: Mapping[str, Any], recordings: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The recording to compare with: made by the same instrument, and alike in as much as can be."""
    mine = found["environment"]
    same = [r for r in recordings if r["environment"]["instrument"] == mine["instrument"]]
    return min(same, key=lambda r: len(differences(r["environment"], mine)), default=None)


def compare(found: Mapping[str, Any], recordings: Iterable[Mapping[str, Any]]) -> Verdict:
    """Set what was counted against the recording that fits best."""
    counts = found["counts"]
    against = most_alike(found, recordings)
    if against is None:
        lines = (Line(n, None, c["instructions"], c["spread"], None, TOLERANCE) for n, c in counts.items())
        return Verdict(tuple(lines), None)
    differs = differences(against["environment"], found["environment"])
    limit = TOLERANCE_ELSEWHERE if differs else TOLERANCE
    before = {name: count["instructions"] for name, count in against["counts"].items()}
    scale = 1.0
    if differs and REFERENCE in before and REFERENCE in counts:
        scale = counts[REFERENCE]["instructions"] / before[REFERENCE]
    lines = []
    for name, count in counts.items():
        now, then = count["instructions"], before.get(name)
        growth = now / (then * max(scale, 1.0)) - 1 if then else None
        lines.append(Line(name, then, now, count["spread"], growth, limit))
    return Verdict(tuple(lines), differs)


# ---- telling --------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(lines: Iterable[Line], units: Mapping[str, str]) -> str:
    """Markdown."""
    text = "| path | a | recorded | now | change | spread | limit |\n|---|---|--:|--:|--:|--:|--:|\n"
    for line in lines:
        change = "" if line.growth is None else f"{line.growth:+.1%}"
        mark = f"**{change}**" if line.grown else change
        text += (
            f"| {line.name} | {units.get(line.name, '')} | {number(line.before)} | {number(line.now)} "
            f"| {mark} | {line.spread:.2%} | {line.limit:.0%} |\n"
        )
    return text


def told(verdict: Verdict, found: Mapping[str, Any], units: Mapping[str, str]) -> str:
    """The whole answer."""
    environment = found["environment"]
    facts = "".join(f"- {key}: {value}\n" for key, value in environment.items())
    text = f"{facts}- repeats: {found['repeats']}\n\n{table(verdict.lines, units)}\n"
    if verdict.differs is None:
        return text + f"Nothing was recorded with {environment['instrument']} before: --write records this.\n"
    if verdict.differs:
        text += (
            f"No recording is of this environment: the most alike differs in {', '.join(verdict.differs)}. "
            f"So the limit is {TOLERANCE_ELSEWHERE:.0%}; --write adds a recording.\n"
        )
    unknown = [line.name for line in verdict.lines if line.before is None]
    if unknown:
        text += f"Not recorded yet: {', '.join(unknown)}.\n"
    less = [line for line in verdict.lines if line.growth is not None and line.growth < -line.limit]
    if less and not verdict.grown:
        text += f"{len(less)} take less than recorded: --write holds them there.\n"
    return text


def read(path: Path) -> list[dict[str, Any]]:
    """The recordings of a file; none if it is not there.

    Raises:
        ValueError: It is not such a file.
    """
    if not path.exists():
        return []
    try:
        recordings = json.loads(path.read_text(encoding="utf-8"))["recordings"]
        for one in recordings:
            if not one["environment"]["instrument"]:
                raise ValueError("an environment has no instrument")
            for count in one["counts"].values():
                float(count["instructions"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no recordings ({error!r}): take it from the repository again"
        ) from error
    return list(recordings)


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Put `found` in the place of its environment's recording, or beside the others. Paths that were not
    counted this time are kept."""
    recordings = read(path)
    kept: dict[str, Any] = {}
    for at, one in enumerate(recordings):
        if one["environment"] == found["environment"]:
            kept = recordings.pop(at)["counts"]
            break
    known = paths().keys()
    counts = {name: count for name, count in (kept | found["counts"]).items() if name in known}
    recordings.append({**found, "counts": counts})
    recordings.sort(key=lambda one: sorted(one["environment"].items()))
    text = json.dumps({"recordings": recordings}, indent=1) + "\n"
    part = path.with_suffix(".tmp")
    part.write_text(text, encoding="utf-8")
    part.rename(path)


def paths() -> dict[str, Any]:
    """The paths there are. To read them takes pystream; to compare what was counted does not."""
    from paths import PATHS

    return PATHS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail if a path has grown")
    parser.add_argument("--write", action="store_true", help="record what was counted")
    parser.add_argument("--short", action="store_true", help="only a few paths")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="processes to count in (3)")
    parser.add_argument("--instrument", choices=("auto", "perf", "callgrind"), default="auto")
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE", help=f"({RECORD.name})")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="part of the names of paths to count (all)")
    arguments = parser.parse_args()
    known = paths()
    names = [name for name in known if any(part in name for part in arguments.paths)]
    if arguments.paths and not names:
        parser.error(f"no path is called {' or '.join(arguments.paths)}; there are: {', '.join(known)}")
    if arguments.short:
        names = [name for name in SHORT if not names or name in names]
    if names and REFERENCE not in names:
        names = [REFERENCE, *names]
    if arguments.repeats < 1:
        parser.error("--repeats takes a number from 1 on")
    try:
        how = instrument(arguments.instrument)
        recordings = read(arguments.record)
        with ThreadPoolExecutor(os.cpu_count()) as crew:  # they do not disturb each other's counts
            found = recording(list(crew.map(lambda _: measure(how, names), range(arguments.repeats))))
    except (CannotCount, ValueError) as error:
        raise SystemExit(f"instructions: {error}") from error
    verdict = compare(found, recordings)
    print(told(verdict, found, {name: one.unit for name, one in known.items()}))
    if arguments.write:
        write(arguments.record, found)
        print(f"recorded in {arguments.record}")
    if arguments.check:
        if verdict.differs is None:
            raise SystemExit("instructions: there is nothing to compare with")
        if verdict.grown:
            raise SystemExit(f"instructions: {len(verdict.grown)} of {len(verdict.lines)} paths have grown")


if __name__ == "__main__":
    main()
