"""The C tests: every tests/c/test_*.c with the kernels it stands on, under AddressSanitizer and UBSan."""

import os
import shlex
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KERNELS = sorted((ROOT / "csrc").glob("*.c"))
PROGRAMS = sorted((ROOT / "tests" / "c").glob("test_*.c"))
FLAGS = [
    *("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    *(f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'c'}", f'-DPS_SOURCE_DIR="{ROOT / "csrc"}"'),
]


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
    directory = tmp_path_factory.mktemp("kernels")
    cflags = [*FLAGS, *packages("--cflags", "liblz4", "libxxhash")]

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
    directory = tmp_path / "cwd"  # programs that need files make them here
    directory.mkdir()
    print(run([executable], cwd=directory, timeout=240))
