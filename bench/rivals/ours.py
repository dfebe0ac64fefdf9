"""pystream itself, as its guide says to use it."""

from collections.abc import Iterable
from typing import Any

import pystream
from rivals.base import Contestant, Seen, Session, package_version
from shapes import TICK, Scene


class Pystream(Contestant):
    """`append` of blocks; a producer's `send` of single records; records and lists of bytes read back."""

    key = "pystream"
    label = "pystream"
    kind = "pystream"
    arrays = True

    _store: pystream.Store | None = None

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"pystream": package_version("pystream-log")}

    @classmethod
    def durability(cls, scene: Scene) -> str:
        if scene.durability == "synced":
            return 'durability="sync"'
        return 'durability="interval", the default: in the page cache, and synced each second beside that'

    @classmethod
    def done(cls, scene: Scene) -> str:
        if scene.acked:
            return "each `append([value])` has returned"
        return "every `append(block)` has returned; in record form `send(value)` each, then `flush()` has"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        codec = "" if scene.shape.codec == "none" else f', compression="{scene.shape.codec}"'
        dtype = ", dtype=" if scene.shape.key == "ticks" else ""
        return f"the defaults (batch_bytes 256 KiB, linger 5 ms){codec}{dtype}"

    def prepare(self) -> None:
        durability = {"cache": "interval", "synced": "sync"}[self.scene.durability]
        self._store = pystream.open(self.directory / "store.ps", durability=durability)

    def create(self, form: str) -> None:
        dtype = TICK if self.scene.shape.key == "ticks" else None
        assert self._store is not None
        topic = self._store.topic(
            form,
            create=True,
            partitions=self.scene.partitions,
            compression=self.scene.shape.codec,
            dtype=dtype,
        )
        for index in range(topic.partitions):
            topic.append([], partition=index)  # its files are made off the clock, as everybody's are

    def session(self, form: str, op: str, index: int) -> Session:
        assert self._store is not None
        return OurSession(self._store[form], form, op)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


class OurSession(Session):
    def __init__(self, topic: pystream.Topic, form: str, op: str) -> None:
        self.topic = topic
        self.partitions = [topic.partition(index) for index in range(topic.partitions)]
        self.form = form
        self.producer = topic.producer() if form == "record" and op == "write" else None
        for partition in self.partitions:
            if op == "write":
                partition.append([])  # opens its files, which else the first record would wait for
            else:
                partition.end_offset  # noqa: B018  likewise

    def write(self, blocks: Iterable[Any]) -> None:
        if self.producer is not None:
            self._send(blocks)
        elif len(self.partitions) == 1:
            append = self.partitions[0].append
            for block in blocks:
                append(block)
        else:
            count = len(self.partitions)
            for number, block in enumerate(blocks):
                self.partitions[number % count].append(block)

    def _send(self, blocks: Iterable[Any]) -> None:
        assert self.producer is not None
        send, count = self.producer.send, len(self.partitions)
        if count == 1:
            for block in blocks:
                for value in block:
                    send(value)
        else:
            for number, block in enumerate(blocks):
                partition = number % count
                for value in block:
                    send(value, partition=partition)
        self.producer.flush()

    def read(self) -> Seen:
        last = b""
        count = 0
        if self.form == "batch":
            values: list[bytes | None] = []
            for batch in self.topic.batches():
                values = batch.values.to_pylist()
                count += len(values)
            return Seen(count, values[-1] if values else None)
        size = 0
        for record in self.topic.records():
            last = record.value
            size += len(last)
        return Seen(size // max(len(last), 1), last)

    def close(self) -> None:
        if self.producer is not None:
            self.producer.close()


class PystreamColumns(Pystream):
    """What only pystream of those here gives: values lent from the map, not made into objects."""

    key = "pystream-columns"
    label = "pystream, columns"
    kind = "extra"

    @classmethod
    def done(cls, scene: Scene) -> str:
        return (
            "reading: each batch is checked, and its values lent as a column or an array; no object a value"
        )

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        if op == "write":
            return "pystream writes columns as it writes the rest"
        return None if form == "batch" else "columns come in batches"

    def session(self, form: str, op: str, index: int) -> Session:
        if op == "write":
            return super().session(form, op, index)
        assert self._store is not None
        return ColumnSession(self._store[form], form, op)


class ColumnSession(OurSession):
    def read(self) -> Seen:
        count = 0
        if self.topic.options.dtype is not None:
            for batch in self.topic.batches():
                count += len(batch.array)
        else:
            for batch in self.topic.batches():
                count += len(batch.values)
        return Seen(count, None)
