"""Compiles the fuzz targets with all of csrc/ into one program; each target is a name of it."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "fuzz"
"""Objects and programs, by a digest of all that they are made of."""

TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c"))

COMMON = ["-std=gnu11", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-pthread"]
STRICT = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = {
    # Makes inputs.
    "libfuzzer": (
        [*COMMON, "-gline-tables-only", "-fsanitize=fuzzer-no-link", *STRICT],
        ["-fsanitize=fuzzer", *STRICT],
    ),
    # Plays them, whatever the compiler.
    "plain": ([*COMMON, "-g", *STRICT], STRICT),
    # Counts the lines they reach.
    "coverage": ([*COMMON, "-fprofile-instr-generate", "-fcoverage-mapping"], ["-fprofile-instr-generate"]),
}
# A run with a leak ends with it; memory that was let go is not kept for long, so that runs stay small.
ENVIRONMENT = {
    "ASAN_OPTIONS": "quarantine_size_mb=32:detect_leaks=1:allocator_may_return_null=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}

PROBE = """
#include <stddef.h>
#include <stdint.h>
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return size > 3 && data[0] == 3 ? 0 : 0; }
"""


class BuildError(Exception):
    """The compiler's words."""


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Variables to run a target with: how the sanitizers are to be, and where its files go while it runs."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pystream-fuzzing-", dir=memory) as directory:
        yield {**os.environ, **ENVIRONMENT, "FUZZ_DIRECTORY": directory}


@cache
def clang() -> str | None:
    """A clang here whose libFuzzer and sanitizers work; None where there is none. $FUZZ_CC goes first."""
    names = ["clang", *(f"clang-{version}" for version in range(30, 13, -1))]
    for name in [os.environ["FUZZ_CC"]] if os.environ.get("FUZZ_CC") else names:
        if shutil.which(name) and works(name):
            return name
    return None


def works(compiler: str) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        source, program = Path(directory, "probe.c"), Path(directory, "probe")
        source.write_text(PROBE)
        command = [compiler, "-fsanitize=fuzzer,address,undefined", str(source), "-o", str(program)]
        if subprocess.run(command, capture_output=True).returncode != 0:
            return False
        with environment() as variables:
            ran = subprocess.run([program, "-runs=100"], cwd=directory, capture_output=True, env=variables)
        return ran.returncode == 0


def call(command: list[str]) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{result.stdout}")
    return result.stdout


def digest(*parts: str | bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()[:16]


def build(engine: str, *, csrc: Path = CSRC) -> Path:
    """The directory of the programs fuzz-TARGET, made with one of FLAGS from the kernels in `csrc`.

    Raises:
        BuildError: the compiler refused something, or there is no compiler that can do it.
    """
    compiler = shlex.split(os.environ.get("CC", "cc")) if engine == "plain" else [clang() or ""]
    if not compiler[0]:
        raise BuildError(
            "no clang with libFuzzer and AddressSanitizer was found (Debian: clang and libclang-rt-dev; "
            "another one can be named by FUZZ_CC)"
        )
    compile_flags, link_flags = FLAGS[engine]
    pkg_config = os.environ.get("PKG_CONFIG", "pkg-config")
    libraries = shlex.split(call([pkg_config, "--libs", "liblz4"]))
    flags = [*compile_flags, *shlex.split(call([pkg_config, "--cflags", "liblz4", "libxxhash"]))]
    sources = sorted([*csrc.glob("*.c"), *HERE.glob("*.c")])
    if engine == "libfuzzer":
        sources.remove(HERE / "main.c")
    shared = digest(
        shlex.join([*compiler, *flags]),
        *(
            path.read_bytes()
            for path in sorted([*csrc.glob("*.h"), *HERE.glob("*.h")], key=lambda path: path.name)
        ),
    )
    flags += [f"-I{csrc}", f"-I{HERE}"]  # wherever: a copy of the kernels shares what is the same in it
    objects = CACHE / "objects"
    objects.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> str:
        target = objects / f"{source.stem}-{digest(shared, source.read_bytes())}.o"
        if not target.exists():
            made = objects / f"{target.name}.{os.getpid()}"
            call([*compiler, *flags, "-c", str(source), "-o", str(made)])
            made.replace(target)
        return str(target)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        files = list(pool.map(compile_one, sources))
    place = CACHE / f"{engine}-{digest(shared, *files)}"
    if not (place / "fuzz").exists():
        made = CACHE / f"{place.name}.{os.getpid()}"
        made.mkdir(exist_ok=True)
        call([*compiler, *link_flags, *files, *libraries, "-pthread", "-o", str(made / "fuzz")])
        for target in TARGETS:
            (made / f"fuzz-{target}").symlink_to("fuzz")
        try:
            made.rename(place)
        except OSError:  # another process was first
            shutil.rmtree(made)
    return place
