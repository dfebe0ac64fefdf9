"""The scratch directory of a run: made, given room, removed, and swept up after a run that was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pystream.benchmark import BenchmarkError

PREFIX: Final = "pystream-bench-"
LOCK_FILE: Final = "running"
STORE_NAME: Final = "store"
RESERVE_BYTES: Final = 512 << 20
"""What a run leaves free on the disk."""
RESERVE_SHARE: Final = 0.05
"""And this share of the whole disk, where that is less than `RESERVE_SHARE_BYTES_MAX`."""
RESERVE_SHARE_BYTES_MAX: Final = 8 << 30
SPACE_BYTES_MAX: Final = 64 << 30
"""The most that a run for a time writes: it ends early then, and says so."""
SPACE_BYTES_LEAST: Final = 128 << 20
"""Less room than this is no use."""


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new directory in `parent`, removed whatever happens; what killed runs left there goes first.

    Raises:
        BenchmarkError: `parent` is no directory, or nothing can be made there.
    """
    if not parent.is_dir():
        raise BenchmarkError(f"{parent}: {'not a directory' if parent.exists() else 'does not exist'}")
    sweep(parent)
    try:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent.resolve()))
    except OSError as error:
        raise BenchmarkError(f"{parent}: nothing can be made there: {error.strerror}") from None
    try:
        with open(path / f"{LOCK_FILE}.new", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, path / LOCK_FILE)  # locked before another run can sweep it up
            yield path
    finally:
        remove(path)


def remove(path: Path) -> None:
    """Remove a scratch directory."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # somebody made a file meanwhile
        shutil.rmtree(path, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the scratch directories of runs that were killed: theirs by name, and no longer locked."""
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(OSError), open(path / LOCK_FILE) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)


def space_for(path: Path, needed: int, fixed: int) -> int:
    """How many bytes of records a run may write at `path`.

    Args:
        needed: what it is to write; 0 where it goes on for a time.
        fixed: what it takes besides.

    Raises:
        BenchmarkError: the disk has no room for that.
    """
    disk = os.statvfs(path)
    reserve = RESERVE_BYTES + min(int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE), RESERVE_SHARE_BYTES_MAX)
    free = disk.f_bavail * disk.f_frsize
    room = free - reserve
    wanted = max(needed, SPACE_BYTES_LEAST) + fixed
    if room < wanted:
        raise BenchmarkError(
            f"{path.parent}: {free:,} bytes are free there; the run needs {wanted:,} and leaves {reserve:,}: "
            "give a smaller --bytes, fewer partitions, or a directory on another disk"
        )
    return needed or min(room - fixed, SPACE_BYTES_MAX)
