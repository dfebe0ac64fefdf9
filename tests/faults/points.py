"""Death at every named point of the sources, in each durability mode, with both ways of storing, alone and
with others in the store.

Points of the kernels are played by points.c, thousands a minute; those of the library above by the scenes of
scenes.py. Seeds enumerate: seed N is combination N modulo their number; the rounds after the first choose by
their seed what is done before, and which time the point is passed.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from . import HERE, ROOT, WARNINGS, acting, cache_directory, digest, processes, run_compiler, scenes

MODES: Final = ("interval", "sync", "none")
IOS: Final = ("mmap", "pwrite")

MAPPED: Final = ("append.body", "append.zeroed", "append.header")
"""Points between two stores to a map, where the other way makes one call."""
SHOWN_LATER: Final = ("append.published",)
"""Points that an append does not come to where nothing is shown before it is durable."""
ALONE: Final = ("recover.",)
"""Points of what is done by one process while nobody else is there."""
BESIDE: Final = ("view.",)
"""Points that are passed only with a writer there."""

PLACES: Final = {
    "create.store_written": "create",
    "create.store_renamed": "create",
    "create.begun": "create",
    "create.written": "create",
    "create.renamed": "create",
    "create.synced": "create",
    **dict.fromkeys(
        (
            f"delete.{step}"
            for step in "locked renamed synced marked unlocked removing emptied removed".split()
        ),
        "delete",
    ),
    **dict.fromkeys((f"alter.{step}" for step in "begun grown written renamed synced".split()), "alter"),
    **dict.fromkeys((f"rename.{step}" for step in "locked renamed synced marked unlocked".split()), "rename"),
    "copy.filled": "copy",
    **dict.fromkeys(
        (f"group.{step}" for step in "written swapped fenced revoked claimed saving".split()), "group"
    ),
    **dict.fromkeys(
        (f"repair.{step}" for step in "begun recorded unsettled indexed written kept swapped".split()),
        "repair",
    ),
}
"""The scene in which each point above the kernels is passed."""

ELSEWHERE: Final = ("backup.",)
"""Points with tests of their own."""


class Combination(NamedTuple):
    """A point, and how it is come to."""

    point: str
    mode: str
    io: str
    company: str


def kernel_points() -> list[str]:
    """The points that the sources of the kernels name."""
    sources = "".join(file.read_text() for file in (ROOT / "csrc").glob("*.c"))
    return sorted(set(re.findall(r'PS_POINT\([^"]*"([^"]+)"\)', sources)))


def library_points() -> list[str]:
    """Those that the Python sources name."""
    sources = "".join(file.read_text() for file in (ROOT / "pystream").rglob("*.py"))
    found = re.findall(r'\b(?:point|tell_holders)\((?:[^"()]+, )?"([a-z_]+\.[a-z_.]+)"\)', sources)
    return sorted({name for name in found if not name.startswith(ELSEWHERE)})


@lru_cache
def combinations() -> tuple[Combination, ...]:
    """All that there are, in an order that stays while the sources do."""
    found = []
    for point in kernel_points():
        companies = ["alone"] if point.startswith(ALONE) else ["beside"] if point.startswith(BESIDE) else None
        for mode in MODES:
            for io in IOS:
                if (io == "pwrite" and point in MAPPED) or (mode == "sync" and point in SHOWN_LATER):
                    continue
                found += [Combination(point, mode, io, one) for one in companies or ("alone", "beside")]
    for point in sorted(PLACES):
        found += [Combination(point, mode, io, "alone") for mode in MODES for io in IOS]
    return tuple(found)


# ---- the kernels ------------------------------------------------------------------------------------


@lru_cache
def kernel_program() -> str:
    """points.c with the kernels, compiled once for each state of the sources."""
    sources = sorted((ROOT / "csrc").glob("*.c"))
    headers = [*sorted((ROOT / "csrc").glob("*.h")), *sorted((ROOT / "tests" / "c").glob("*.h"))]
    target = cache_directory() / f"points-{digest(HERE / 'points.c', *sources, *headers)}"
    if not target.exists():
        flags = [*WARNINGS, "-O1", "-g", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'c'}"]
        flags += packages("--cflags", "liblz4", "libxxhash")
        with tempfile.TemporaryDirectory() as directory:
            objects = [Path(directory, f"{source.stem}.o") for source in sources]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                compile_one = partial(_compile, flags)
                list(pool.map(compile_one, sources, objects))
            made = target.with_suffix(f".{os.getpid()}")
            run_compiler(*flags, HERE / "points.c", *objects, *packages("--libs", "liblz4"), "-o", made)
        made.replace(target)
    return str(target)


def packages(*words: str) -> list[str]:
    """What pkg-config says."""
    command = shlex.split(os.environ.get("PKG_CONFIG", "pkg-config"))
    return shlex.split(subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout)


def _compile(flags: Sequence[str], source: Path, target: Path) -> None:
    run_compiler(*flags, "-c", source, "-o", target)


def _nth(seed: int, *, first: bool) -> int:
    return 1 if first else random.Random(seed).choice((1, 1, 2, 3, 4, 6, 9, 14))


def _play_kernels(seeds: Sequence[int]) -> dict[int, str]:
    """How each trial ended: "died", "lived", or "failed" and why."""
    if not seeds:
        return {}
    known = combinations()
    lines = []
    for seed in seeds:
        one = known[seed % len(known)]
        io = "map" if one.io == "mmap" else one.io
        nth = _nth(seed, first=seed < len(known))
        lines.append(f"{seed} {one.point} {one.mode} {io} {one.company} {nth} {seed + 1}\n")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pystream-points-", dir=memory) as directory:
        done = subprocess.run(
            [kernel_program()],
            input="".join(lines),
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
    answers = {}
    for line in done.stdout.splitlines():
        seed, answer = line.split(" ", 1)
        answers[int(seed)] = answer
    for seed in seeds:
        answers.setdefault(seed, f"failed: the program ended with {done.returncode}: {done.stderr[-500:]}")
    return answers


# ---- the library ------------------------------------------------------------------------------------


def play_library(seed: int) -> str:
    """One trial with whole processes, forked from this one, which has no store open."""
    known = combinations()
    one = known[seed % len(known)]
    scene = scenes.SCENES[PLACES[one.point]]
    nth = _nth(seed, first=seed < len(known))
    with acting.ground(one.io, one.mode) as ground:

        def act(say: processes.Say) -> None:
            os.environ["PYSTREAM_FAULT"] = f"{one.point}:{nth}:kill"
            scene.act(ground, scenes.plainly, say)

        prepared = processes.in_a_process(lambda say: scene.prepare(ground))
        acted = processes.in_a_process(act)
        checked = processes.in_a_process(lambda say: scene.check(ground, acted.said))
    for ended in (prepared, acted, checked):
        if ended.failure is not None:
            return f"failed: {ended.failure}"
    return "died" if acted.killed else "lived"


# ---- all of it --------------------------------------------------------------------------------------


def play(seeds: Sequence[int]) -> dict[int, str]:
    """Play these seeds in this process: how each ended."""
    known = combinations()
    kernels = [seed for seed in seeds if known[seed % len(known)].point not in PLACES]
    answers = _play_kernels(kernels)
    for seed in seeds:
        if seed not in answers:
            answers[seed] = play_library(seed)
    return answers


def run(first_seed: int, trials: int, *, seconds: float | None = None, workers: int = 2) -> dict[str, Any]:
    """Play the seeds from `first_seed` on, until there were so many deaths, or for so long.

    Returns:
        trials (deaths), seeds (tried), failures (texts), lived (points not come to that often), total (how
        many seeds make all combinations).
    """
    known = combinations()
    kernel_program()
    end = None if seconds is None else time.monotonic() + seconds
    deaths = lived = 0
    failures: list[str] = []
    at = first_seed
    chunk = 32
    with processes.pool(workers) as pool:
        while deaths < trials and (end is None or time.monotonic() < end):
            # No more than are wanted still, should all of them die.
            wanted = range(at, at + min(chunk * workers, trials - deaths))
            for answers in pool(play, [list(wanted[n::workers]) for n in range(workers)]):
                for seed, answer in sorted(answers.items()):
                    deaths += answer != "lived"
                    lived += answer == "lived"
                    if seed < len(known) and answer == "lived":
                        answer = "failed: the point was not come to"
                    if answer.startswith("failed"):
                        failures.append(f"seed {seed}: {' '.join(known[seed % len(known)])}: {answer}")
            at = wanted.stop
    return {
        "trials": deaths,
        "seeds": at - first_seed,
        "failures": failures,
        "lived": lived,
        "total": len(known),
    }
