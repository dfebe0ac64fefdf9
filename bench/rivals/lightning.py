"""LMDB through py-lmdb."""

import itertools
from collections.abc import Iterable
from typing import Any

from rivals.base import Contestant, Optional, Seen, Session, package_version
from shapes import Scene

lmdb = Optional("lmdb")

# https://lmdb.readthedocs.io/en/release/: sync=False leaves syncing to the system; writemap writes through
# the map; append=True for keys in order; putmulti for many; integerkey for keys that are native integers.
# readahead stays on, for the reading is in order.
MAP_BYTES = 32 << 30
"""Address space; the file is sparse and grows as it is written."""


class Lmdb(Contestant):
    """A database a partition, with native integer keys, appended to in transactions of a block."""

    key = "lmdb"
    label = "LMDB"

    _environment: Any = None

    @classmethod
    def available(cls) -> str | None:
        return None if lmdb else "the package lmdb is not installed"

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"LMDB": ".".join(map(str, lmdb.version())), "py-lmdb": package_version("lmdb")}

    @classmethod
    def durability(cls, scene: Scene) -> str:
        return "sync=True" if scene.durability == "synced" else "sync=False, writemap=True"

    @classmethod
    def done(cls, scene: Scene) -> str:
        return "the last transaction is committed; one a block, by putmulti or, in record form, put"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        return "integerkey, append=True, subdir; not compressed"

    def prepare(self) -> None:
        synced = self.scene.durability == "synced"
        path = self.directory / "lmdb"
        path.mkdir(exist_ok=True)
        self._environment = lmdb.open(
            str(path), map_size=MAP_BYTES, max_dbs=2 * self.scene.partitions, sync=synced, writemap=not synced
        )

    def session(self, form: str, op: str, index: int) -> Session:
        environment = self._environment
        databases = [
            environment.open_db(b"%s-%d" % (form.encode(), partition), integerkey=True)
            for partition in range(self.scene.partitions)
        ]
        return LmdbSession(environment, databases, form)

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None


class LmdbSession(Session):
    def __init__(self, environment: Any, databases: list[Any], form: str) -> None:
        self.environment = environment
        self.databases = databases
        self.form = form

    def write(self, blocks: Iterable[Any]) -> None:
        begin = self.environment.begin
        partitions = len(self.databases)
        for number, block in enumerate(blocks):
            with begin(write=True, db=self.databases[number % partitions]) as transaction:
                cursor = transaction.cursor()
                # Others may have written since: the end is looked up, as it is anew after each opening.
                end = int.from_bytes(cursor.key(), "little") + 1 if cursor.last() else 0
                keys = (n.to_bytes(8, "little") for n in itertools.count(end))
                if self.form == "batch":
                    cursor.putmulti(zip(keys, block, strict=False), append=True)
                else:
                    put = cursor.put
                    for key, value in zip(keys, block, strict=False):
                        put(key, value, append=True)

    def read(self) -> Seen:
        count = size = 0
        last = b""
        with self.environment.begin() as transaction:
            for database in self.databases:
                values = transaction.cursor(database).iternext(keys=False, values=True)
                if self.form == "batch":
                    while block := list(itertools.islice(values, 1000)):
                        count += len(block)
                        last = block[-1]
                else:
                    for last in values:
                        size += len(last)
        return Seen(count or size // max(len(last), 1), last)
