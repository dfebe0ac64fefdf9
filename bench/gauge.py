"""Counts instructions between two points of this process, by gauge.c, which it compiles into build/."""

import ctypes
import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parent.parent
SOURCE = Path(__file__).with_suffix(".c")
# What was run between the two points; "totals" has what was begun before the first of them, too.
TOTAL = re.compile(rb"^summary: (\d+)", re.MULTILINE)
PARTS = "callgrind.out"


class Gauge(Protocol):
    """A span is what lies between begin() and end(); there is one at a time."""

    name: str

    def begin(self) -> None: ...

    def end(self) -> int: ...


def library_path() -> Path:
    return ROOT / "build" / "gauge.so"


def build() -> Path:
    """Compile the library, and give its path."""
    made = library_path()
    made.parent.mkdir(parents=True, exist_ok=True)
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    part = made.with_suffix(f".{os.getpid()}.tmp")
    subprocess.run([*compiler, "-O2", "-Wall", "-shared", "-fPIC", str(SOURCE), "-o", str(part)], check=True)
    part.rename(made)
    return made


class Counter:
    """The processor's counter of instructions, as this thread sees it.

    Args:
        faults: Count page faults in place of instructions; that works everywhere.

    Raises:
        OSError: The system has none, or does not lend it.
    """

    name = "perf"

    def __init__(self, library: ctypes.CDLL, *, faults: bool = False) -> None:
        self._library = library
        self._descriptor = library.gauge_open(faults)
        if self._descriptor < 0:
            raise OSError(-self._descriptor, os.strerror(-self._descriptor), "perf_event_open")
        self._before = 0

    def _read(self) -> int:
        count: int = self._library.gauge_read(self._descriptor)
        if count < 0:
            raise OSError("the counter of instructions could not be read")
        return count

    def begin(self) -> None:
        self._before = self._read()

    def end(self) -> int:
        return self._read() - self._before

    def close(self) -> None:
        self._library.gauge_close(self._descriptor)


class Callgrind:
    """The simulated processor of callgrind, which runs this process with --instr-atstart=no
    --separate-threads=yes --callgrind-out-file=DIRECTORY/callgrind.out."""

    name = "callgrind"

    def __init__(self, library: ctypes.CDLL, directory: Path) -> None:
        self._library = library
        self._directory = directory
        library.gauge_callgrind_start()

    def begin(self) -> None:
        self._library.gauge_callgrind_begin()

    def end(self) -> int:
        self._library.gauge_callgrind_end(b"span")
        (part,) = self._directory.glob(f"{PARTS}.*-01")  # the thread that asks
        found = TOTAL.search(part.read_bytes())
        part.unlink()
        if found is None:
            raise OSError(f"callgrind wrote no count to {part}")
        return int(found[1])


def load() -> ctypes.CDLL:
    """The library, compiled if need be."""
    library = ctypes.CDLL(str(library_path() if library_path().exists() else build()))
    library.gauge_read.restype = ctypes.c_int64
    library.gauge_callgrind_end.restype = None
    library.gauge_callgrind_end.argtypes = [ctypes.c_char_p]
    return library


def gauge(directory: Path | None) -> Gauge:
    """What counts in this process. directory: where callgrind writes to, if that runs it."""
    library = load()
    if directory is None:
        return Counter(library)
    if not library.gauge_on_valgrind():
        raise OSError(
            f"{library_path()} was compiled without valgrind/callgrind.h, or valgrind does not run this"
        )
    return Callgrind(library, directory)
