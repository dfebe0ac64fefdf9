"""A Deque of DiskCache, which is SQLite below."""

import itertools
from collections.abc import Iterable
from typing import Any

from rivals.base import Contestant, Optional, Seen, Session, package_version
from shapes import Scene

diskcache = Optional("diskcache")

# https://grantjenks.com/docs/diskcache/tutorial.html: a transaction around many operations; settings of
# SQLite's pragmas; values of disk_min_file_size and more lie in files of their own, which it never syncs.
# https://grantjenks.com/docs/diskcache/api.html: Deque, whose eviction policy is "none".
SYNCHRONOUS = {"cache": 0, "synced": 2}
FILE_BYTES_MIN = 1 << 20


class DiskCache(Contestant):
    """Deque.append, a transaction a block."""

    key = "diskcache"
    label = "DiskCache"

    @classmethod
    def available(cls) -> str | None:
        return None if diskcache else "the package diskcache is not installed"

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"diskcache": package_version("diskcache")}

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        return "a deque is one log" if scene.partitions > 1 else None

    @classmethod
    def durability(cls, scene: Scene) -> str:
        return f"SQLite's WAL, synchronous={SYNCHRONOUS[scene.durability]}"

    @classmethod
    def done(cls, scene: Scene) -> str:
        return "the last `append` has returned" if scene.acked else "the last `transact()` has been left"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        return f"a transaction a block, disk_min_file_size={FILE_BYTES_MIN >> 20} MiB; not compressed"

    def create(self, form: str) -> None:
        self._open(form).close()

    def session(self, form: str, op: str, index: int) -> Session:
        return DequeSession(self._open(form), form)

    def _open(self, form: str) -> Any:
        return diskcache.Cache(
            str(self.directory / f"{form}.deque"),
            eviction_policy="none",
            timeout=120,
            disk_min_file_size=FILE_BYTES_MIN,
            sqlite_synchronous=SYNCHRONOUS[self.scene.durability],
        )


class DequeSession(Session):
    def __init__(self, cache: Any, form: str) -> None:
        self.cache = cache
        self.deque = diskcache.Deque.fromcache(cache)
        self.form = form

    def write(self, blocks: Iterable[Any]) -> None:
        deque = self.deque
        if self.form == "acked":
            for (value,) in blocks:
                deque.append(value)
            return
        for block in blocks:
            with deque.transact():
                if self.form == "batch":
                    deque.extend(block)
                else:
                    for value in block:
                        deque.append(value)

    def read(self) -> Seen:
        values = iter(self.deque)
        count, last = 0, b""
        if self.form == "batch":
            while block := list(itertools.islice(values, 1000)):
                count += len(block)
                last = block[-1]
            return Seen(count, last)
        size = 0
        for last in values:
            size += len(last)
        return Seen(size // max(len(last), 1), last)

    def close(self) -> None:
        self.cache.close()
