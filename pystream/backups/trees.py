"""Files and directories of a tree that is being made: like those they are copied from, and on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pystream.metadata import read_bytes, remove_tree, sync_directory

__all__ = [
    "copy_bytes",
    "make_directory",
    "make_like",
    "new_file",
    "read_bytes",
    "remove_tree",
    "sync_directory",
    "sync_file",
    "write_all",
]


@contextmanager
def new_file(path: str, like: str | os.stat_result) -> Iterator[int]:
    """A new file, to be read and written by its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        make_like(descriptor, like)
        yield descriptor
    finally:
        os.close(descriptor)


def copy_bytes(path: str, data: bytes, *, like: str | os.stat_result) -> None:
    """A new file that holds `data`, synced."""
    with new_file(path, like) as descriptor:
        write_all(descriptor, data)
        os.fsync(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write `data` where the descriptor stands."""
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)


def make_directory(path: str, like: str) -> None:
    """A new directory with the mode and the owner of another."""
    os.mkdir(path, 0o700)
    make_like(path, like)


def make_like(what: str | int, like: str | os.stat_result) -> None:
    """Give a file or directory the mode and, where that is allowed, the owner of another."""
    status = os.stat(like) if isinstance(like, str) else like
    if os.geteuid() == 0 and (status.st_uid != 0 or status.st_gid != 0):
        with suppress(OSError):  # file systems without owners
            os.chown(what, status.st_uid, status.st_gid)
    os.chmod(what, status.st_mode & 0o7777)


def sync_file(path: str) -> None:
    """Have the bytes of a file on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
