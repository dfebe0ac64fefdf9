"""Power failures: of a partition (power.c, compiled with the kernels or with mutants of them), and of whole
Python processes (stores.py)."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from . import (
    DISK,
    HEADERS,
    HERE,
    ROOT,
    WARNINGS,
    cache_directory,
    digest,
    environment,
    processes,
    run_compiler,
    stores,
)
from .mutants import Mutant

KERNELS: Final = ROOT / "csrc"
C_TESTS: Final = ROOT / "tests" / "c"
PROGRAM: Final = (HERE / "power.c", *DISK)
FAST: Final = ("-O2", "-g")
CHECKED: Final = (
    *("-O1", "-g", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
FAILED: Final = re.compile(r"FAILED seed (\d+): (.*)")
FAST_DISK: Final = Path("/dev/shm")


def libraries(*arguments: str) -> list[str]:
    """What pkg-config says of LZ4 and xxHash."""
    found = subprocess.run(
        ["pkg-config", *arguments, "liblz4", "libxxhash"], capture_output=True, text=True, check=True
    )
    return found.stdout.split()


def compile_one(source: Path, *options: str) -> Path:
    """The object of a source, from the cache where it is there already."""
    ours = [*HEADERS, HERE / "oracle.h", HERE / "trial.h"]
    headers = sorted([*KERNELS.glob("*.h"), *C_TESTS.glob("*.h"), *ours])
    target = cache_directory() / f"{source.stem}-{digest(source, *headers, *options)}.o"
    if not target.exists():
        made = Path(tempfile.mktemp(suffix=".o", dir=target.parent))
        includes = [f"-I{directory}" for directory in (KERNELS, C_TESTS, HERE)]
        run_compiler(*WARNINGS, *options, *includes, *libraries("--cflags"), "-c", source, "-o", made)
        made.replace(target)
    return target


def program(mutant: Mutant | None = None, options: tuple[str, ...] = FAST) -> Path:
    """The program, compiled when it is not there yet. Only what a mutant changes is compiled for it.

    Raises:
        ValueError: What the mutant changes does not stand in its source, or not once.
        RuntimeError: The compiler refused.
    """
    sources = [*PROGRAM, *sorted(KERNELS.glob("*.c"))]
    if mutant:
        text = (KERNELS / mutant.file).read_text()
        if text.count(mutant.old) != 1:
            times = text.count(mutant.old)
            raise ValueError(f"{mutant.name}: {mutant.file} has {times} times {mutant.old!r}")
        changed = cache_directory() / f"{mutant.name}-{digest(text, mutant.new)}.c"
        changed.write_text(text.replace(mutant.old, mutant.new))
        sources[sources.index(KERNELS / mutant.file)] = changed
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda source: compile_one(source, *options), sources))
    target = cache_directory() / f"power-{digest(*(str(file) for file in objects), *options)}"
    if not target.exists():
        made = target.with_suffix(f".{tempfile.gettempprefix()}{id(objects)}")
        run_compiler(*WARNINGS, *options, *objects, *libraries("--libs"), "-o", made)
        made.replace(target)
    return target


def command(first_seed: int, trials: int, seconds: float | None = None) -> list[str]:
    """The arguments of a run."""
    limit = [] if seconds is None else ["--seconds", f"{seconds:g}"]
    return ["--first", str(first_seed), "--trials", str(trials), *limit]


def run_program(
    executable: Path, first_seed: int, trials: int, seconds: float | None = None, *options: str
) -> dict[str, Any]:
    """One process: its closing line, and "failed": [(seed, what)].

    Raises:
        RuntimeError: It said nothing that can be understood.
    """
    where = FAST_DISK if FAST_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="pystream-power-", dir=where) as directory:
        done = subprocess.run(
            [executable, *command(first_seed, trials, seconds), *options],
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    lines = done.stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"{executable} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    counts: dict[str, Any] = json.loads(lines[-1])
    counts["failed"] = [(int(found[1]), found[2]) for line in lines if (found := FAILED.match(line))]
    if counts["failed"]:
        counts["errors"] = done.stderr[-2000:]
    return counts


def add(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of several runs as of one."""
    total: dict[str, Any] = {}
    for one in counts:
        for key, value in one.items():
            if isinstance(value, dict):
                total[key] = add([total.get(key, {}), value])
            elif key == "deepest":
                total[key] = max(total.get(key, 0), value)
            elif key == "first_seed":
                total[key] = min(total.get(key, value), value)
            elif isinstance(value, (int, float, list)):
                total[key] = total.get(key, type(value)()) + value
    return total


def run(first_seed: int, trials: int, *, seconds: float | None = None, workers: int = 2) -> dict[str, Any]:
    """Power failures of a partition, as power.c plays them.

    Args:
        first_seed: One trial is one seed; the others follow it.
        trials: How many.
        seconds: End earlier: after so many seconds no trial begins.
        workers: Processes. Each takes its share of the seeds.

    Returns:
        dict: "trials", "failures" (what failed, with the command that plays it again), and "details".
    """
    executable = program()
    each = [trials // workers + (i < trials % workers) for i in range(workers)]
    firsts = [first_seed + sum(each[:i]) for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(run_program, executable, firsts[i], each[i], seconds) for i in range(workers)]
        counts = [one.result() for one in runs]
    details = add(counts)
    failed = details.pop("failed")
    del details["failures"], details["first_seed"]
    details["seconds"] = max(one["seconds"] for one in counts)
    return {
        "trials": details.pop("trials"),
        "failures": [
            f"seed {seed}: {what} ({executable.name} --verbose {' '.join(command(seed, 1))})"
            for seed, what in failed
        ],
        "details": details,
    }


def run_stores(
    first_seed: int,
    trials: int,
    *,
    seconds: float | None = None,
    workers: int = 2,
    broken: str | None = None,
) -> dict[str, Any]:
    """Power failures of whole Python processes, as stores.py plays them.

    Args, Returns: as `run`. With `broken`, a name of `stores.BROKEN`, it ends at the first failure.
    """
    begun = time.monotonic()
    failures: list[str] = []
    details: dict[str, Any] = {}
    done = 0
    with processes.pool(workers, environment()) as play:
        while done < trials and (seconds is None or time.monotonic() - begun < seconds):
            if failures and broken:
                break
            count = min(workers, trials - done)
            seeds = list(range(first_seed + done, first_seed + done + count))
            for failure, counts in play(partial(stores.trial, broken=broken), seeds):
                details = add([details, counts])
                if failure:
                    failures.append(failure)
            done += count
    details["seconds"] = time.monotonic() - begun
    return {"trials": done, "failures": failures, "details": details}
