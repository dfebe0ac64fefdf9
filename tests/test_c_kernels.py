"""The C tests: every tests/c/test_*.c with the kernels it stands on, under AddressSanitizer and UBSan; and
the shared-memory protocol under ThreadSanitizer."""

import os
import shlex
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import quick_directory

ROOT = Path(__file__).resolve().parent.parent
KERNELS = sorted((ROOT / "csrc").glob("*.c"))
PROGRAMS = sorted((ROOT / "tests" / "c").glob("test_*.c"))
PLAIN = [
    *("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread", "-fno-omit-frame-pointer"),
    *(f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'c'}", f'-DPS_SOURCE_DIR="{ROOT / "csrc"}"'),
]
# They sync thousands of times: on a disk that others keep busy, that is minutes.
SYNCING = {"test_compact", "test_compact_faults", "test_retain"}
FLAGS = [*PLAIN, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# It does not know fences, which only makes it more suspicious, and says so at each.
THREAD_FLAGS = [*PLAIN, "-fsanitize=thread", "-Wno-unknown-warning-option", "-Wno-tsan"]


def run(command: list[str], *, cwd: Path | None = None, timeout: float = 120) -> str:
    """Output of a command that must succeed. Children it leaves behind end with it."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
            ended = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            ended = f"took longer than {timeout:g} s"
    if process.returncode != 0:
        pytest.fail(f"{shlex.join(command)}\n{ended}\n{output}", pytrace=False)
    return output


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def packages(*arguments: str) -> list[str]:
    return shlex.split(run([os.environ.get("PKG_CONFIG", "pkg-config"), *arguments]))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All of csrc/, compiled once."""
    return compile_kernels(tmp_path_factory.mktemp("kernels"), FLAGS)


def compile_kernels(directory: Path, flags: list[str]) -> list[str]:
    cflags = [*flags, *packages("--cflags", "liblz4", "libxxhash")]

    def compile_one(source: Path) -> str:
        target = str(directory / f"{source.stem}.o")
        run([*compiler(), *cflags, "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, KERNELS))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_c(program: Path, kernels: list[str], tmp_path: Path) -> None:
    executable = str(tmp_path / program.stem)
    run([*compiler(), *FLAGS, str(program), *kernels, *packages("--libs", "liblz4"), "-o", executable])
    with ExitStack() as stack:  # programs that need files make them in the directory they are run in
        if program.stem in SYNCING:
            directory = stack.enter_context(quick_directory())
        else:
            directory = tmp_path / "cwd"
            directory.mkdir()
        print(run([executable], cwd=directory, timeout=240))


def run_watched(command: list[str], cwd: Path) -> str:
    """Run what was compiled with -fsanitize=thread. Old runtimes want memory where kernels that choose its
    place with many random bits do not put it: then once more without these."""
    try:
        return run(command, cwd=cwd, timeout=240)
    except pytest.fail.Exception as failed:
        if "unexpected memory mapping" not in str(failed):
            raise
    return run(["setarch", "-R", *command], cwd=cwd, timeout=240)


RACE = """
#include <pthread.h>
static int word;
static void *change(void *argument) { word++; return argument; }
int main(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, change, NULL);
  word++;
  return pthread_join(thread, NULL);
}
"""


def test_threads_race_nowhere(tmp_path: Path) -> None:
    """Threads append, read, wait, sync and roll at once. What ThreadSanitizer cannot see, because bodies are
    stored through one map and read through another, the program checks by reading."""
    (tmp_path / "race.c").write_text(RACE)
    run([*compiler(), *THREAD_FLAGS, str(tmp_path / "race.c"), "-o", str(tmp_path / "race")])
    with pytest.raises(pytest.fail.Exception, match="data race"):
        run_watched([str(tmp_path / "race")], tmp_path)
    objects = compile_kernels(tmp_path, THREAD_FLAGS)
    program = str(ROOT / "tests" / "c" / "test_threads.c")
    executable = str(tmp_path / "test_threads")
    run([*compiler(), *THREAD_FLAGS, program, *objects, *packages("--libs", "liblz4"), "-o", executable])
    print(run_watched([executable], tmp_path))
