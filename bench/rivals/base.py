"""The one interface behind which pystream, the floors and the rivals stand.

A `Contestant` lives for one scene and one round, in a directory of its own: `prepare` (off the clock), then
for each form `create`, `write`, `read`, perhaps `chill` and `read` again, then `close`, always. Writing and
reading are timed from the first call to the return of the last, in one or several threads or processes, each
with a `Session` of its own that was opened off the clock.
"""

import gc
import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import crew
from shapes import Scene

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "rivals"
READ_BYTES = 1 << 20
"""Where tools/rivals.sh puts jars and servers."""


class Failed(Exception):
    """A run gave no figure; the text says why."""


@dataclass(frozen=True)
class Seen:
    """What one pass of a reader saw: how many records, and the last value (None: not looked at)."""

    records: int
    last: bytes | None


class Optional:
    """A module that need not be there, imported at the first use; false when it is absent."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __bool__(self) -> bool:
        try:
            importlib.import_module(self._name)
        except ImportError:
            return False
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


class Session:
    """One writer or reader of one log."""

    def write(self, blocks: Iterable[Any]) -> None:
        """Write every block; return when all of them are done, as `Contestant.done` says."""
        raise NotImplementedError

    def read(self) -> Seen:
        """Read the whole log, from its first record to its last."""
        raise NotImplementedError

    def close(self) -> None:
        """Off the clock."""


class Contestant:
    """See the module. Forms: "batch", "record", and "acked" in a scene that is `acked`."""

    key: ClassVar[str]
    label: ClassVar[str]
    kind: ClassVar[str] = "rival"  # "floor", "pystream", "extra" (pystream's, in no ratio) or "rival"
    language: ClassVar[str] = "Python"
    server: ClassVar[bool] = False  # records live in another process, which has a directory of its own
    arrays: ClassVar[bool] = False  # ticks are handed over as arrays
    seconds_min: ClassVar[float] = 0.0  # a run of less says little

    def __init__(self, scene: Scene, directory: Path, state: dict[str, Any] | None = None) -> None:
        """state: where to find what another process has prepared."""
        self.scene = scene
        self.directory = directory
        self.state = state or {}

    # ---- what the table says

    @classmethod
    def available(cls) -> str | None:
        """None, or in one line why it cannot be measured here."""
        return None

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {}

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        """None, or in a few words why there is no such figure. op: "write" or "read"; temperature: "warm" or
        "cold" for reading, "" for writing."""
        return None

    @classmethod
    def durability(cls, scene: Scene) -> str:
        """The setting that keeps the scene's promise."""
        raise NotImplementedError

    @classmethod
    def done(cls, scene: Scene) -> str:
        """What has happened when `write` returns."""
        raise NotImplementedError

    @classmethod
    def settings(cls, scene: Scene) -> str:
        """The options that its users are told to set for throughput, as they are set."""
        raise NotImplementedError

    # ---- what a round does

    def prepare(self) -> None:
        """Start or open what must run; set `state` for other processes."""

    def warm_up(self) -> None:
        """Have what compiles as it runs run, before anything is timed."""

    def attach(self) -> None:
        """In another process: open what `prepare` has prepared there."""
        if not self.server:
            self.prepare()

    def create(self, form: str) -> None:
        """Make an empty log for this form."""

    def session(self, form: str, op: str, index: int) -> Session:
        raise NotImplementedError

    def write(self, form: str, blocks: int) -> float:
        """Seconds until `blocks` blocks, divided among the scene's workers, are done."""
        return crew.run(self, form, "write", blocks)[0]

    def read(self, form: str) -> tuple[float, list[Seen]]:
        """Seconds until each worker has read the whole log, and what each saw."""
        return crew.run(self, form, "read", 0)

    def chill(self) -> float | None:
        """Close all, write what is dirty to the disk, have the kernel drop its pages, open again. Gives the
        share of the pages that stayed, or None where the kernel does not tell."""
        self.close()
        left = drop(self.directory)
        self.prepare()
        return left

    def kill(self) -> None:
        """For servers: end it as `kill -9` does."""

    def close(self) -> None:
        """Stop and close everything; what is on the disk stays. May be called twice."""


def drop(directory: Path) -> float | None:
    """Sync every file below `directory` and drop its pages by POSIX_FADV_DONTNEED; see `Contestant.chill`.

    Twice, and all is read through in between: where the machine is a virtual one, its host has to back the
    memory that the first reader gets, which takes longer than the reading, and more so for who wrote more.
    """
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    left = total = 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for path in files:
        read_through(path)
    for path in files:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(file.fileno()).st_size
            pages = crew.cached_pages(file.fileno(), size)
            if pages is None:
                return None
            left += pages
            total += -(-size // os.sysconf("SC_PAGE_SIZE"))
    return left / total if total else 0.0


def read_through(path: Path) -> None:
    """Read all of a file but its holes."""
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: there is none from here on
                return
            until = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < until:
                got = os.pread(file.fileno(), min(READ_BYTES, until - at), at)
                at += len(got) or until - at


def settle() -> None:
    """Before each run: what earlier ones left to write or to collect is not this one's."""
    os.sync()
    gc.collect()
