"""Faults, played: a disk on which calls fail, processes die and power goes (disk.h says how), and the trials
built on it."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
DISK: Final = (HERE / "disk.c", HERE / "image.c", HERE / "inodes.c", HERE / "photo.c")
HEADERS: Final = tuple(HERE / f"{name}.h" for name in ("disk", "image", "inodes", "photo"))
SHARED: Final = ("-O2", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-Bsymbolic")
WARNINGS: Final = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread")


def compiler() -> list[str]:
    """The C compiler, as the environment names it."""
    return shlex.split(os.environ.get("CC", "cc"))


def run_compiler(*arguments: str | Path) -> None:
    """Run the compiler.

    Raises:
        RuntimeError: It refused; what it said is in the message.
    """
    command = [*compiler(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\nended with {done.returncode}\n{done.stderr}")


@lru_cache
def cache_directory() -> Path:
    """Where what was compiled is kept, for a day: by user, and by what it was compiled from."""
    directory = Path(tempfile.gettempdir()) / f"pystream-faults-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    for old in directory.iterdir():
        with suppress(OSError):  # another process was first
            if time.time() - old.stat().st_mtime > 86400:
                old.unlink()
    return directory


def digest(*parts: str | Path) -> str:
    """A name for what is compiled from these files and options."""
    found = hashlib.sha256("\0".join([*compiler(), *WARNINGS]).encode())
    for part in parts:
        found.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        found.update(b"\0")
    return found.hexdigest()[:16]


@lru_cache
def disk_library() -> Path:
    """The interposed disk as a shared library for LD_PRELOAD, compiled when it is not there yet."""
    target = cache_directory() / f"disk-{digest(*DISK, *HEADERS, *SHARED)}.so"
    if not target.exists():
        made = target.with_suffix(f".{os.getpid()}.so")
        run_compiler(*WARNINGS, *SHARED, *DISK, "-o", made)
        made.replace(target)
    return target


def environment(root: Path | str | None = None, plan: str = "count") -> dict[str, str]:
    """The environment of a process on the interposed disk.

    Args:
        root: The directory below which calls count; None: the process arms itself, by ps_disk_arm.
        plan: What is to happen: see disk.h.
    """
    found = dict(os.environ)
    before = found.get("LD_PRELOAD", "")
    found["LD_PRELOAD"] = f"{disk_library()}:{before}" if before else str(disk_library())
    found.pop("PYSTREAM_DISK", None)
    if root is not None:
        found["PYSTREAM_DISK"] = f"{os.path.abspath(root)}|{plan}"
    return found
