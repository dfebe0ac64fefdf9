"""RocksDB through rocksdict."""

import itertools
import os
import struct
from collections.abc import Iterable
from typing import Any

from rivals.base import Contestant, Optional, Seen, Session, package_version
from shapes import Scene

rocksdict = Optional("rocksdict")

# https://github.com/facebook/rocksdb/wiki/Basic-Operations: records in a WriteBatch, one write; without sync
# the write-ahead log is in the page cache when `write` returns: the death of the process loses nothing.
# https://github.com/facebook/rocksdb/wiki/Setup-Options-and-Basic-Tuning: parallelism, write buffers, and
# level_compaction_dynamic_level_bytes; https://github.com/facebook/rocksdb/wiki/Pipelined-Write.
WRITE_BUFFER_BYTES = 64 << 20
KEY = struct.Struct(">IQ")


class RocksDb(Contestant):
    """Keys of partition and offset, big-endian, so that order is the log's."""

    key = "rocksdb"
    label = "RocksDB"

    _database: Any = None

    @classmethod
    def available(cls) -> str | None:
        return None if rocksdict else "the package rocksdict is not installed"

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"rocksdict": package_version("rocksdict")}

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        return "one process alone may write to it" if scene.processes > 1 else None

    @classmethod
    def durability(cls, scene: Scene) -> str:
        return f"write-ahead log on, sync={scene.durability == 'synced'}"

    @classmethod
    def done(cls, scene: Scene) -> str:
        return "the last `put` has returned" if scene.acked else "the last `write(WriteBatch)` has returned"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        return (
            f"a WriteBatch a block, write buffers of {WRITE_BUFFER_BYTES >> 20} MiB, pipelined writes, "
            f"parallelism of the cores, compression {scene.shape.codec}; both forms are the same code"
        )

    def prepare(self) -> None:
        options = rocksdict.Options(raw_mode=True)
        options.increase_parallelism(os.cpu_count() or 1)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_write_buffer_number(4)
        options.set_enable_pipelined_write(True)
        options.set_level_compaction_dynamic_level_bytes(True)
        codec = rocksdict.DBCompressionType
        options.set_compression_type(codec.lz4() if self.scene.shape.codec == "lz4" else codec.none())
        self._database = {
            form: rocksdict.Rdict(str(self.directory / form), options)
            for form in (("acked",) if self.scene.acked else ("batch", "record"))
        }
        # Blocks of one partition are numbered by whoever takes the next number.
        self._next = {form: itertools.count() for form in self._database}

    def session(self, form: str, op: str, index: int) -> Session:
        return RocksSession(self._database[form], self.scene, form, self._next[form])

    def close(self) -> None:
        if self._database:
            for database in self._database.values():
                database.close()
            self._database = None


class RocksSession(Session):
    def __init__(self, database: Any, scene: Scene, form: str, numbers: Any) -> None:
        self.database = database
        self.form = form
        self.scene = scene
        self.numbers = numbers
        self.options = rocksdict.WriteOptions()
        self.options.sync = scene.durability == "synced"

    def write(self, blocks: Iterable[Any]) -> None:
        pack, numbers, write, options = KEY.pack, self.numbers, self.database.write, self.options
        if self.scene.acked:
            put = self.database.put
            for (value,) in blocks:
                put(pack(0, next(numbers)), value, options)
            return
        partitions, size = self.scene.partitions, self.scene.block
        for block in blocks:
            number = next(numbers)
            partition, first = number % partitions, number // partitions * size
            batch = rocksdict.WriteBatch(raw_mode=True)
            put = batch.put
            for offset, value in enumerate(block, first):
                put(pack(partition, offset), value)
            write(batch, options)

    def read(self) -> Seen:
        values = iter(self.database.values())
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
