"""pystream beside the floors of the machine and beside rivals: python bench/compare.py, or `make bench`

Every scene (a shape of values, a durability, partitions, threads, processes) is run by every contestant,
round by round in turn, so that all meet the same machine. A run writes as much as takes about --seconds by
that contestant, and no more than --gb; figures are records a second. Where nothing can be compared, a
plain line says why. Prints a Markdown table, and writes it with every figure to bench/results/NAME.md and
NAME.json, and plots to build/bench/NAME/.

--quick is a short form, of under three minutes. --prove measures nothing: it kills writers and servers as
soon as they have acknowledged, and says what was there afterwards. --write-docs fills docs/performance.md and
docs/images/ from the results of the last full run.

Environment: PYSTREAM_BENCH_DIR (build/), where stores and servers have their directories; on a real disk.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import data
import machine
import report
import rivals
from crew import in_processes
from rivals.base import Contestant, Failed, Seen, settle
from shapes import SHAPES, Scene, scenes, value_at

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PLOTS = ROOT / "build" / "bench"
FULL_NAME = "compare"
QUICK_NAME = "last"  # kept by nobody
QUICK = {"rounds": 1, "seconds": 0.15, "gb": 0.05}
QUICK_SCENES = [
    Scene(SHAPES["100B"]),
    Scene(SHAPES["100B"], acked=True),
    Scene(SHAPES["100B"], "synced", acked=True),
]
PROOF_SCENES = [
    Scene(SHAPES["100B"], durability, acked=acked)
    for durability in ("cache", "synced")
    for acked in (False, True)
]
PROOF_BLOCKS = {False: 20, True: 200}
PROBE_BYTES = 200_000
PROBE_BLOCKS_ACKED = 20
ENOUGH = 0.5
"""Share of the wanted time from which a probe says how much to write."""

KINDS = {"floor": 0, "pystream": 1, "extra": 2, "rival": 3}


def forms_of(scene: Scene) -> tuple[str, ...]:
    return ("acked",) if scene.acked else ("batch", "record")


def rows_of(scene: Scene, cold: bool = True) -> list[tuple[str, str, str]]:
    """(op, form, temperature) of what is measured, in the order in which it is done."""
    rows = [("write", form, "") for form in forms_of(scene)]
    if scene.acked:
        return rows
    cold = cold and scene.workers == 1 and scene.durability == "cache"
    temperatures = ("warm", "cold") if cold else ("warm",)
    return rows + [("read", form, temperature) for temperature in temperatures for form in forms_of(scene)]


@contextmanager
def place(root: Path, kind: type[Contestant], scene: Scene) -> Iterator[Contestant]:
    """A contestant, prepared in a directory of its own; ended, whatever happens."""
    directory = Path(tempfile.mkdtemp(prefix=f"{kind.key}-", dir=root))
    contestant = kind(scene, directory)
    try:
        contestant.prepare()
        yield contestant
    finally:
        try:
            contestant.close()
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def possible(
    kind: type[Contestant], scene: Scene, cold: bool = True
) -> dict[tuple[str, str, str], str | None]:
    return {row: kind.cannot(scene, *row) for row in rows_of(scene, cold)}


def whole(scene: Scene, blocks: float) -> int:
    """As many blocks for each worker, and one at least."""
    return max(int(blocks) // scene.workers, 1) * scene.workers


def probe(root: Path, kind: type[Contestant], scene: Scene, seconds: float, gb: float) -> dict[str, int]:
    """How many blocks of each form take about so long; this is its warming up, too."""
    found = {}
    seconds = max(seconds, kind.seconds_min)
    most = whole(scene, gb * 1e9 / (scene.block * scene.shape.width))
    wanted = {form for (_, form, _), why_not in possible(kind, scene).items() if why_not is None}
    with place(root, kind, scene) as contestant:
        contestant.warm_up()
        for form in forms_of(scene):
            if form not in wanted:
                continue
            contestant.create(form)
            least = PROBE_BLOCKS_ACKED if scene.acked else PROBE_BYTES / (scene.block * scene.shape.width)
            blocks = min(whole(scene, least), most)
            contestant.write(form, blocks)  # the first is slow, and says nothing of those to come
            while True:
                spent = max(contestant.write(form, blocks), 1e-6)
                if spent >= seconds * ENOUGH or blocks == most:
                    break
                blocks = min(whole(scene, blocks * min(1.2 * seconds * ENOUGH / spent, 20) + 1), most)
            found[form] = min(whole(scene, blocks * seconds / spent), most)
    return found


def check(scene: Scene, form: str, blocks: int, seen: list[Seen]) -> None:
    """That every reader saw every record, and the last one last."""
    records = blocks * scene.block
    for each in seen:
        if each.records != records:
            raise Failed(f"{records:,} records of form {form} were written, and {each.records:,} read")
        ordered = scene.workers == 1 and scene.partitions == 1
        if ordered and each.last is not None and each.last != value_at(scene, records - 1):
            raise Failed(f"the last record of form {form} is not the one written last")


def passage(
    root: Path, kind: type[Contestant], scene: Scene, blocks: dict[str, int], cold: bool = True
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """One round of one contestant: records and seconds of every row that is possible."""
    told: dict[tuple[str, str, str], dict[str, Any]] = {}
    able = [row for row, why_not in possible(kind, scene, cold).items() if why_not is None]
    with place(root, kind, scene) as contestant:
        contestant.warm_up()
        chilled: float | None = None
        for form in {form for _, form, _ in able} - {form for op, form, _ in able if op == "write"}:
            contestant.create(form)  # only its reading is of interest
            contestant.write(form, blocks[form])
        for op, form, temperature in able:
            if op == "write":
                contestant.create(form)
                settle()
                seconds = contestant.write(form, blocks[form])
                records = blocks[form] * scene.block
            else:
                settle()
                if temperature == "cold":  # at once: memory that lies idle may be given back to a host
                    chilled = contestant.chill()
                seconds, seen = contestant.read(form)
                check(scene, form, blocks[form], seen)
                records = blocks[form] * scene.block * len(seen)
            cell: dict[str, Any] = {"records": records, "seconds": seconds}
            if temperature == "cold":
                cell["left_in_cache"] = chilled
            told[op, form, temperature] = cell
    return told


def run_scene(
    root: Path, scene: Scene, kinds: list[type[Contestant]], options: argparse.Namespace
) -> dict[str, Any]:
    """All rounds of all contestants."""
    rows: list[dict[str, Any]] = [
        {"op": op, "form": form, "temperature": temperature, "cells": {}}
        for op, form, temperature in rows_of(scene, options.cold)
    ]
    runs: dict[str, dict[str, int]] = {}
    failed: dict[str, str] = {}

    def note(kind: type[Contestant], error: Exception) -> None:
        failed[kind.key] = str(error) or repr(error)
        say(f"  {kind.label}: FAILED: {failed[kind.key]}")

    for kind in kinds:
        able = possible(kind, scene, options.cold)
        for row in rows:
            why_not = able[row["op"], row["form"], row["temperature"]]
            row["cells"][kind.key] = {"why_not": why_not} if why_not else {"records": 0, "seconds": []}
        if all(able.values()):
            continue
        try:
            runs[kind.key] = probe(root, kind, scene, options.seconds, options.gb)
        except Exception as error:  # a rival's own; the others go on
            note(kind, error)
    for number in range(options.rounds):
        turn = number % len(kinds)
        for kind in kinds[turn:] + kinds[:turn]:
            if kind.key in failed or kind.key not in runs:
                continue
            began = time.monotonic()
            try:
                told = passage(root, kind, scene, runs[kind.key], options.cold)
            except Exception as error:
                note(kind, error)
                continue
            for row in rows:
                found = told.get((row["op"], row["form"], row["temperature"]))
                if found:
                    cell = row["cells"][kind.key]
                    cell["records"] = found["records"]
                    cell["seconds"].append(found["seconds"])
                    if "left_in_cache" in found:
                        cell["left_in_cache"] = found["left_in_cache"]
            rates = ", ".join(
                f"{' '.join(filter(None, key))} {report.short(cell['records'] / cell['seconds'])}/s"
                for key, cell in told.items()
            )
            say(f"  round {number + 1}, {kind.label}, {time.monotonic() - began:.0f} s: {rates}")
    for row in rows:
        for key, text in failed.items():
            if not row["cells"][key].get("why_not"):
                row["cells"][key] = {"failed": text}
    promises = {
        kind.key: {
            "durability": kind.durability(scene),
            "done": kind.done(scene),
            "settings": kind.settings(scene),
        }
        for kind in kinds
    }
    return {
        "key": scene.key,
        "title": scene.title,
        "value_bytes": scene.shape.width,
        "block": scene.block,
        "durability": scene.durability,
        "promises": promises,
        "rows": [report.judged(row, {kind.key: kind for kind in kinds}) for row in rows],
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prove(root: Path, kinds: list[type[Contestant]]) -> int:
    """Kill whoever has acknowledged, and count what is there afterwards."""
    lost = 0
    for scene in PROOF_SCENES:
        print(scene.title)
        for kind in kinds:
            for form in forms_of(scene):
                why_not = (
                    "a floor keeps nothing" if kind.kind == "floor" else kind.cannot(scene, "write", form, "")
                )
                why_not = why_not or ("the same as pystream" if kind.kind == "extra" else None)
                if why_not:
                    continue
                blocks = PROOF_BLOCKS[scene.acked]
                records = blocks * scene.block
                directory = Path(tempfile.mkdtemp(prefix=f"{kind.key}-", dir=root))
                contestant = kind(scene, directory)
                try:
                    contestant.prepare()
                    contestant.create(form)
                    if kind.language != "Python":
                        contestant.write(form, blocks)
                    else:
                        if not kind.server:
                            contestant.close()
                        in_processes(contestant, form, "write", blocks, workers=1, die=True)
                    contestant.kill()
                    contestant.prepare()
                    _, seen = contestant.read(form)
                    kept = seen[0].records
                except Exception as error:
                    kept = -1
                    print(f"- {kind.label}, {form}: FAILED: {error}")
                finally:
                    contestant.close()
                    shutil.rmtree(directory, ignore_errors=True)
                lost += kept != records
                if kept >= 0:
                    print(f"- {kind.label}, {form}: {kept:,} of {records:,} acknowledged records are there")
    return 1 if lost else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, help="rounds of each scene (5)")
    parser.add_argument("--seconds", type=float, help="about how long one run takes (1)")
    parser.add_argument("--gb", type=float, help="the most that one run writes, in GB of values (1)")
    parser.add_argument("--only", metavar="A,B", help="of the rivals, these alone")
    parser.add_argument("--scenes", metavar="A,B", help="these scenes alone")
    parser.add_argument("--name", help=f"of the results ({FULL_NAME}; {QUICK_NAME} for a part of it)")
    parser.add_argument("--warm", action="store_false", dest="cold", help="leave out what is read cold")
    parser.add_argument("--quick", action="store_true", help="a short form, without what is read cold")
    parser.add_argument(
        "--prove", action="store_true", help="kill writers, and count what they had acknowledged"
    )
    parser.add_argument("--list", action="store_true", help="name the scenes and the contestants")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.add_argument("--write-docs", action="store_true", help="fill the documentation from the results")
    options = parser.parse_args(arguments)
    known = {kind.key for kind in rivals.ALL.values() if kind.kind == "rival"}
    options.only = chosen(parser, "--only", options.only, known)
    by_key = {scene.key: scene for scene in scenes()}
    picked = chosen(parser, "--scenes", options.scenes, set(by_key))
    part = options.only or picked or options.quick or not options.cold
    options.scenes = [by_key[key] for key in by_key if key in picked] or (
        QUICK_SCENES if options.quick else list(by_key.values())
    )
    options.cold = options.cold and not options.quick
    options.name = options.name or (QUICK_NAME if part else FULL_NAME)
    defaults = QUICK if options.quick else {"rounds": 5, "seconds": 1.0, "gb": 1.0}
    for name, value in defaults.items():
        given = getattr(options, name)
        if given is not None and not given > 0:
            parser.error(f"--{name} {given}: give a number above 0")
        setattr(options, name, value if given is None else given)
    return options


def chosen(parser: argparse.ArgumentParser, flag: str, text: str | None, known: set[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text is not None else []
    for name in names:
        if name not in known:
            parser.error(f"{flag}: there is no {name!r}; there are {', '.join(sorted(known))}")
    return names


def contestants(only: list[str]) -> tuple[list[type[Contestant]], dict[str, Any]]:
    """Those that can be measured here, and what the report says of all."""
    able, told = [], {}
    for kind in rivals.ALL.values():
        if kind.kind == "rival" and only and kind.key not in only:
            continue
        why_not = kind.available()
        told[kind.key] = {
            "label": kind.label,
            "kind": kind.kind,
            "language": kind.language,
            "versions": {} if why_not else kind.versions(),
            "why_not": why_not,
        }
        if why_not:
            say(f"without {kind.label}: {why_not} (tools/rivals.sh installs what can be had)")
        else:
            able.append(kind)
    return able, told


def run_all(
    root: Path, kinds: list[type[Contestant]], told: dict[str, Any], options: argparse.Namespace
) -> int:
    settings = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "gb": options.gb,
        "cold": options.cold,
        "seed": data.SEED,
    }
    partial = PLOTS / f"{options.name}.partial.json"
    partial.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    if options.resume and partial.exists():
        before = json.loads(partial.read_text(encoding="utf-8"))
        if before["options"] != settings or before["contestants"] != told:
            raise SystemExit(f"{partial} is of other options or contestants: run it without --resume")
        done = {scene["key"]: scene for scene in before["scenes"]}
    began = time.monotonic()
    results: dict[str, Any] = {"options": settings, "contestants": told, "scenes": []}
    for number, scene in enumerate(options.scenes, 1):
        if scene.key in done:
            results["scenes"].append(done[scene.key])
            continue
        say(f"[{number}/{len(options.scenes)}, {time.monotonic() - began:.0f} s] {scene.title}")
        results["scenes"].append(run_scene(root, scene, kinds, options))
        partial.write_text(json.dumps(results), encoding="utf-8")
    results["machine"] = machine.facts(str(root))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = report.tables(results)
    (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")
    print(text)
    for path in report.plots(results, PLOTS / options.name):
        say(f"plotted {path.relative_to(ROOT)}")
    partial.unlink(missing_ok=True)
    say(f"took {time.monotonic() - began:.0f} s")
    cells = (cell for scene in results["scenes"] for row in scene["rows"] for cell in row["cells"].values())
    return 1 if any("failed" in cell for cell in cells) else 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.write_docs:
        report.write_docs(RESULTS / f"{FULL_NAME}.json", ROOT / "docs")
        return 0
    if options.list:
        print("scenes:", *(f"  {scene.key}: {scene.title}" for scene in scenes()), sep="\n")
        print("contestants:", *(f"  {kind.key}: {kind.label}" for kind in rivals.ALL.values()), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are stopped
    scratch = Path(os.environ.get("PYSTREAM_BENCH_DIR") or ROOT / "build")
    scratch.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="compare-", dir=scratch))
    kinds, told = contestants(options.only)
    try:
        if options.prove:
            return prove(root, kinds)
        return run_all(root, kinds, told, options)
    except KeyboardInterrupt:
        say("interrupted; what was running is stopped, and scenes that were done are kept for --resume")
        return 130
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
