"""SQLite in WAL mode, from Python's standard library."""

import itertools
import sqlite3
from collections.abc import Iterable
from typing import Any

from rivals.base import Contestant, Seen, Session
from shapes import Scene

# https://www.sqlite.org/wal.html: one writer beside readers, a sync a transaction only when synchronous=FULL.
# https://www.sqlite.org/pragma.html#pragma_synchronous: with OFF, and with NORMAL in WAL mode, what is
# committed survives the death of the process; OFF leaves out the sync of the checkpoint too.
# https://www.sqlite.org/faq.html#q19: many rows to a transaction; https://www.sqlite.org/mmap.html: reading.
SYNCHRONOUS = {"cache": "OFF", "synced": "FULL"}
CACHE_KIB = 64 << 10
MMAP_BYTES = 1 << 30
CHECKPOINT_PAGES = 10_000


class Sqlite(Contestant):
    """A table with an integer key, written in transactions of a block."""

    key = "sqlite"
    label = "SQLite WAL"

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"SQLite": sqlite3.sqlite_version}

    @classmethod
    def durability(cls, scene: Scene) -> str:
        return f"journal_mode=WAL, synchronous={SYNCHRONOUS[scene.durability]}"

    @classmethod
    def done(cls, scene: Scene) -> str:
        if scene.acked:
            return "each INSERT, a transaction by itself, has returned"
        return "the last COMMIT has returned; one a block, by executemany or, in record form, execute"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        return (
            f"cache_size={CACHE_KIB >> 10} MiB, mmap_size={MMAP_BYTES >> 30} GiB, "
            f"wal_autocheckpoint={CHECKPOINT_PAGES}, INTEGER PRIMARY KEY; not compressed"
        )

    def create(self, form: str) -> None:
        database = self._connect(form)
        if self.scene.partitions == 1:
            database.execute("CREATE TABLE log (offset INTEGER PRIMARY KEY, value BLOB NOT NULL)")
        else:
            database.execute(
                "CREATE TABLE log (part INTEGER, offset INTEGER, value BLOB NOT NULL, "
                "PRIMARY KEY (part, offset)) WITHOUT ROWID"
            )
        database.close()

    def session(self, form: str, op: str, index: int) -> Session:
        return SqliteSession(self._connect(form), form, self.scene.partitions)

    def _connect(self, form: str) -> sqlite3.Connection:
        database = sqlite3.connect(
            self.directory / f"{form}.sqlite", timeout=120, isolation_level=None, check_same_thread=False
        )
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={SYNCHRONOUS[self.scene.durability]}")
        database.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        database.execute(f"PRAGMA mmap_size={MMAP_BYTES}")
        database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        return database


class SqliteSession(Session):
    def __init__(self, database: sqlite3.Connection, form: str, partitions: int) -> None:
        self.database = database
        self.form = form
        self.partitions = partitions

    def write(self, blocks: Iterable[Any]) -> None:
        execute, executemany = self.database.execute, self.database.executemany
        insert = "INSERT INTO log (value) VALUES (?)"
        into = "INSERT INTO log (part, offset, value) VALUES (?, ?, ?)"
        if self.form == "acked":  # a transaction by itself
            for block in blocks:
                execute(insert, block)
            return
        ends = [0] * self.partitions
        if self.partitions > 1:
            found = execute("SELECT part, max(offset) + 1 FROM log GROUP BY part")
            for part, end in found.fetchall():
                ends[part] = end
        for number, block in enumerate(blocks):
            execute("BEGIN IMMEDIATE")
            rows: Iterable[tuple[Any, ...]]
            if self.partitions == 1:
                rows, statement = zip(block, strict=True), insert
            else:
                part = number % self.partitions
                rows, statement = zip(itertools.repeat(part), itertools.count(ends[part]), block), into
                ends[part] += len(block)
            if self.form == "batch":
                executemany(statement, rows)
            else:
                for row in rows:
                    execute(statement, row)
            execute("COMMIT")

    def read(self) -> Seen:
        order = "offset" if self.partitions == 1 else "part, offset"
        rows = self.database.execute(f"SELECT value FROM log ORDER BY {order}")
        if self.form == "batch":
            count, last = 0, None
            while block := rows.fetchmany(1000):
                count += len(block)
                last = block[-1][0]
            return Seen(count, last)
        size, value = 0, b""
        for (value,) in rows:
            size += len(value)
        return Seen(size // max(len(value), 1), value)

    def close(self) -> None:
        self.database.close()
