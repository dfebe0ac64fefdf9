"""Runs the targets, shares the time among them, and keeps what they find."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from .build import CACHE, HERE, TARGETS, BuildError, build, environment

CORPUS = HERE / "corpus"
CRASHES = HERE / "crashes"
WORK = CACHE / "work"
"""What was found and not yet folded into the corpus; later runs go on from there."""

MADE = re.compile(r"[0-9a-f]{16}|seed-.*")
"""Names of inputs that a better one may take the place of. What failed once has another name, and stays."""

SLICE_S_MAX = 600
"""A target has the processor for as long as this, then it is another's turn."""

INPUT_BYTES_MAX = 8192
INPUT_S_MAX = 20
MEMORY_MB_MAX = 2048


class Outcome(TypedDict):
    """What a run has done: seconds, inputs tried and edges reached a target, and what failed, in words."""

    seconds: float
    executions: dict[str, int]
    coverage: dict[str, int]
    failures: list[str]


def command(place: Path, target: str, seconds: float, crashes: Path, corpora: Iterable[Path]) -> list[str]:
    # The limit is of the peak, which a program inherits from whoever starts it: so this is a shell, and not a
    # process that has read gigabytes of maps.
    return [
        *("/bin/sh", "-c", '"$@"; exit "$?"', "sh"),
        str(place / f"fuzz-{target}"),
        f"-max_total_time={max(1, round(seconds))}",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-max_len={INPUT_BYTES_MAX}",
        "-use_value_profile=1",
        "-print_final_stats=1",
        f"-artifact_prefix={crashes}/",
        *map(str, corpora),
    ]


def call(
    words: list[str], *, timeout: float | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a target; what it says, on both streams, is its output."""
    with environment() as usual:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**usual, **variables},
            timeout=timeout,
        )


def words_of(output: str) -> str:
    """The line that says what went wrong."""
    lines = output.splitlines()
    for pattern in (r"not so:", r"runtime error:", r"invariant broken", r"ERROR: .*Sanitizer", r"ERROR:"):
        for line in lines:
            if re.search(pattern, line):
                return line.strip()
    return lines[-1].strip() if lines else "it said nothing"


def run_slice(
    place: Path, target: str, seconds: float, work: Path, outcome: Outcome, lock: threading.Lock
) -> bool:
    """Fuzz one target; False when it failed."""
    crashes, found = CRASHES / target, work / target
    for directory in (crashes, found):
        directory.mkdir(parents=True, exist_ok=True)
    corpora = [found] + [path for path in [CORPUS / target] if path.is_dir()]
    result = call(command(place, target, seconds, crashes, corpora))
    tried = re.search(r"stat::number_of_executed_units: *(\d+)", result.stdout)
    edges = re.findall(r"\bcov: (\d+)", result.stdout)
    with lock:
        outcome["executions"][target] += int(tried[1]) if tried else 0
        outcome["coverage"][target] = max([outcome["coverage"][target], *map(int, edges)])
        if result.returncode == 0:
            return True
        kept = re.search(r"Test unit written to (\S+)", result.stdout)
        again = f"; play it again: python -m tests.fuzz --play {kept[1]}" if kept else ""
        outcome["failures"].append(f"{target}: {words_of(result.stdout)}{again}")
    return False


def run(
    seconds: float,
    *,
    targets: Iterable[str] | None = None,
    workers: int = 2,
    work: Path = WORK,
    csrc: Path | None = None,
    progress: Callable[[str, Outcome], object] = lambda target, outcome: None,
) -> Outcome:
    """Fuzz for `seconds` in all, with `workers` processes at a time, each target for its share of it.

    A target that fails is not run again; its input is kept below `crashes/`. New inputs that reach something
    new are kept in `work`.

    Raises:
        BuildError: there is no clang with libFuzzer here, or the targets do not compile.
        ValueError: there is no such target.
    """
    chosen = list(targets) if targets is not None else TARGETS
    if unknown := sorted(set(chosen) - set(TARGETS)):
        raise ValueError(f"there is no fuzz target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    place = build("libfuzzer", csrc=csrc) if csrc else build("libfuzzer")
    none = dict.fromkeys(chosen, 0)
    outcome: Outcome = {"seconds": 0.0, "executions": dict(none), "coverage": dict(none), "failures": []}
    rounds = max(1, math.ceil(seconds * workers / len(chosen) / SLICE_S_MAX))
    turns = deque(chosen * rounds)
    lock, failed = threading.Lock(), set[str]()
    begun = time.monotonic()

    def stop() -> None:
        with lock:
            turns.clear()

    def worker() -> None:
        while True:
            with lock:
                if not turns:
                    return
                left = seconds - (time.monotonic() - begun)
                share = left * workers / (len(turns) + workers - 1)  # others are at their turns still
                target = turns.popleft()
            if target in failed:
                continue
            try:
                if not run_slice(place, target, share, work, outcome, lock):
                    failed.add(target)
            except BaseException:
                stop()
                raise
            progress(target, outcome)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for running in [pool.submit(worker) for _ in range(workers)]:
                running.result()
        except BaseException:  # Ctrl-C ends the targets that run; no other begins
            stop()
            raise
    outcome["seconds"] = round(time.monotonic() - begun, 1)
    return outcome


def play(paths: Iterable[Path], *, engine: str = "plain") -> str | None:
    """Give inputs to the target that their directory is named after; what failed, if something did."""
    place = build(engine)
    for path in paths:
        target = path.resolve().name if path.is_dir() else path.resolve().parent.name
        if target not in TARGETS:
            return f"{path}: it must stand in a directory of a target's name, one of {', '.join(TARGETS)}"
        result = call([str(place / f"fuzz-{target}"), str(path)], timeout=INPUT_S_MAX * 30)
        if result.returncode != 0:
            return f"{target} ended with {result.returncode}\n{result.stdout[-6000:]}"
    return None


def merge(targets: Iterable[str] = TARGETS, *, work: Path = WORK) -> dict[str, tuple[int, int]]:
    """Fold what was found into the corpus, and leave out what reaches nothing that the rest does not: how
    many files a target has then, and their bytes. Smaller inputs are preferred; how often an edge is run does
    not count, so that the corpus stays small."""
    place = build("libfuzzer")
    sizes = {}
    for target in targets:
        corpora = [path for path in (CORPUS / target, work / target) if path.is_dir()]
        with tempfile.TemporaryDirectory() as directory:
            words = [
                str(place / f"fuzz-{target}"),
                "-merge=1",
                "-use_counters=0",
                f"-max_len={INPUT_BYTES_MAX}",
                directory,
            ]
            result = call([*words, *map(str, corpora)])
            files = sorted(Path(directory).iterdir())
            if result.returncode != 0 or not files:
                raise BuildError(f"merging the corpus of {target} failed\n{result.stdout[-3000:]}")
            (CORPUS / target).mkdir(parents=True, exist_ok=True)
            for file in (CORPUS / target).iterdir():
                if MADE.fullmatch(file.name):
                    file.unlink()
            for file in files:
                shutil.copyfile(file, CORPUS / target / file.name[:16])
            sizes[target] = len(files), sum(file.stat().st_size for file in files)
    return sizes


def coverage() -> str:
    """The lines of csrc/ that the corpus reaches, a file; by llvm-cov."""
    place = build("coverage")
    tools = {name: tool(name) for name in ("llvm-profdata", "llvm-cov")}
    with tempfile.TemporaryDirectory() as directory:
        profiles = []
        for target in TARGETS:
            profiles.append(str(Path(directory, f"{target}.profraw")))
            call([str(place / f"fuzz-{target}"), str(CORPUS / target)], LLVM_PROFILE_FILE=profiles[-1])
        all_of_them = str(Path(directory, "all.profdata"))
        subprocess.run([tools["llvm-profdata"], "merge", "-o", all_of_them, *profiles], check=True)
        report = [tools["llvm-cov"], "report", place / "fuzz", f"-instr-profile={all_of_them}"]
        ignored = "-ignore-filename-regex=.*/tests/fuzz/.*"
        return subprocess.run([*report, ignored], check=True, capture_output=True, text=True).stdout


def tool(name: str) -> str:
    for version in ["", *(f"-{number}" for number in range(30, 13, -1))]:
        if found := shutil.which(name + version):
            return found
    raise BuildError(f"there is no {name} here (Debian: llvm)")
