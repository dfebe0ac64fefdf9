"""Backups on the interposed disk, in a process that has it loaded: run by test_backup_faults.py.

HERE fail target|source STEP    each call fails in turn, with each errno
HERE full STEP                  every call that writes fails from the n-th call on, as on a full disk
HERE photo STEP                 power fails before each call
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pystream
from backups import backup_of, leftovers

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.EDQUOT)
libc: Any = ctypes.CDLL(None)
libc.ps_disk_calls.restype = ctypes.c_int64
libc.ps_disk_failed.restype = ctypes.c_char_p
libc.ps_disk_failed_path.restype = ctypes.c_char_p


class Scene:
    """A store, a backup of an earlier moment of it, and both contents."""

    def __init__(self, here: Path) -> None:
        self.here, self.store, self.target = here, here / "s", here / "d/b"
        (here / "d").mkdir()
        with pystream.open(self.store) as store:
            topic = store.topic("t", create=True, segment_bytes=65536, partitions=2)
            for i in range(30):
                topic.append([b"%d" % i + bytes(4000)], partition=0)
            with store.consumer("t", group="g", timeout=0) as consumer:
                next(iter(consumer))
            store.backup(here / "kept")
            self.old = backup_of(here / "kept")
            topic.append([b"new"], partition=1)
            store.backup(here / "new")
            self.new = backup_of(here / "new")
        self.put_back()

    def put_back(self) -> None:
        """Have the old backup at the target."""
        shutil.rmtree(self.here / "d")
        (self.here / "d").mkdir()
        shutil.copytree(self.here / "kept", self.target)

    def backup(self, plan: str, root: Path | None = None) -> BaseException | None:
        """Make one, and meanwhile let that happen to calls below `root`, the target; what was raised."""
        with pystream.open(self.store, "r") as store:
            assert libc.ps_disk_arm(os.fsencode(root or self.here / "d"), plan.encode()) == 0, plan
            try:
                store.backup(self.target)
                return None
            except Exception as error:
                return error
            finally:
                self.counted = int(libc.ps_disk_calls())
                self.failed = libc.ps_disk_failed().decode()
                libc.ps_disk_disarm()

    def calls(self, root: Path | None = None) -> int:
        """How many calls a backup takes."""
        assert self.backup("count", root) is None
        self.put_back()
        return self.counted

    def look(self, error: BaseException | None, n: int) -> None:
        """Old or new, and the next backup ends it all."""
        found = backup_of(self.target)
        assert found == self.new or (found == self.old and error is not None), (n, error)
        assert error is None or self.is_good(error), (n, repr(error))
        with pystream.open(self.store, "r") as store:
            store.backup(self.target)
        assert backup_of(self.target) == self.new
        assert leftovers(self.here / "d") == [], n

    def is_good(self, error: BaseException) -> bool:
        """One of ours, that says where."""
        if isinstance(error, MemoryError):
            return True
        return isinstance(error, pystream.PystreamError) and bool(getattr(error, "path", None))


def fail(scene: Scene, side: str, step: int) -> None:
    root = scene.target.parent if side == "target" else scene.store
    calls = scene.calls(root)
    for number, code in enumerate(ERRNOS):
        for n in range(1 + number % step, calls + step, step):
            error = scene.backup(f"fail:{n}:{code}", root)
            call = scene.failed
            scene.look(error, n)
            print("failed" if error else "passed", n, code, call, repr(error), flush=True)
            scene.put_back()


def full(scene: Scene, step: int) -> None:
    for n in range(1, scene.calls() + 1, step):
        error = scene.backup(f"fail:{n}:{errno.ENOSPC}:3")
        scene.look(error, n)
        print("full", n, repr(error), flush=True)
        scene.put_back()


def photo(scene: Scene, step: int) -> None:
    for n in range(1, scene.calls() + 1, step):
        left = scene.here / "left"
        child = os.fork()
        if child == 0:
            scene.backup(f"photo:{n}:{n * 7919}:{left}")
            os._exit(0)
        os.waitpid(child, 0)
        if left.exists():
            found = backup_of(left / "b")
            assert found in (scene.old, scene.new), n
            print("new" if found == scene.new else "old", n, flush=True)
            with pystream.open(scene.store, "r") as store:
                store.backup(left / "b")
            assert backup_of(left / "b") == scene.new and leftovers(left) == []
            shutil.rmtree(left)
        scene.put_back()


if __name__ == "__main__":
    scene = Scene(Path(sys.argv[1]))
    if sys.argv[2] == "fail":
        fail(scene, sys.argv[3], int(sys.argv[4]))
    elif sys.argv[2] == "full":
        full(scene, int(sys.argv[3]))
    else:
        photo(scene, int(sys.argv[3]))
