"""Copying a topic, or a part of it, batch by batch.

A copy is made in a directory that no topic's name can have, and gets its name when it is whole and on the
disk: so a copy is there in full or not at all, whatever ends in between. What somebody who died has left is
removed by whoever next opens the store. Records keep their keys, headers, timestamps and order; offsets begin
at 0, without gaps. The batches are those of the original.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, SupportsIndex
from uuid import UUID

from pystream import metadata
from pystream._native.copying import BatchWriter
from pystream._native.deletion import point
from pystream._native.limits import CODECS, DURABILITIES, IO_VERBS
from pystream._native.schema import Schema
from pystream.errors import OptionError, TopicExistsError
from pystream.topicoptions import OPTIONS, STORED, TopicOptions

if TYPE_CHECKING:
    from pystream._native.log import LogHandle
    from pystream._native.reader import PartitionReader
    from pystream.store import Store
    from pystream.topic import Positions, Topic

PROGRESS_NS: Final = 100_000_000
"""How often progress is told, at most."""

SYNC_BYTES: Final = 256 << 20
"""How much is copied between two syncs."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What `Store.copy_topic` has copied."""

    store: str
    """The directory of the store it is in."""
    topic: str
    """What the copy is called."""
    partitions: Mapping[int, int]
    """How many records went into each partition."""
    bytes: int
    """What they take, as stored."""

    @property
    def records(self) -> int:
        """How many records were copied."""
        return sum(self.partitions.values())


@dataclass(slots=True)
class Work:
    """What is to be copied: a reader for each partition, of the records that are there now."""

    readers: dict[int, PartitionReader]
    progress: Callable[[int, int], object] | None
    records: int = 0
    total: int = 0
    bytes: int = 0
    told_ns: int = 0

    def run(self, open_log: Callable[[int], LogHandle], codec: int, keyed: bool) -> dict[int, int]:
        """Copy partition by partition, and sync each; how many records went where."""
        ends = {index: reader.stop_offset or 0 for index, reader in self.readers.items()}
        self.total = sum(ends[index] - reader.position for index, reader in self.readers.items())
        passed, synced, done = 0, 0, {}
        for index, reader in self.readers.items():
            log = open_log(index)
            writer = BatchWriter(log, codec, keyed)
            before, begun = self.records, reader.position
            while (batch := reader.next_batch()) is not None:
                self.bytes += writer.append(batch)
                self.records += len(batch)
                if self.bytes - synced >= SYNC_BYTES:  # rather than all at the end
                    log.sync()
                    synced = self.bytes
                self._tell(passed + reader.position - begun)
            passed += ends[index] - begun
            log.sync()
            done[index] = self.records - before
        self._tell(self.total, last=True)
        return done

    def _tell(self, passed: int, *, last: bool = False) -> None:
        """Offsets passed over count, whether there are records or, after compaction, none."""
        now = time.monotonic_ns()
        if self.progress is not None and (last or now - self.told_ns >= PROGRESS_NS):
            self.told_ns = now
            self.progress(passed, self.total)


def begin(
    topic: Topic,
    start: Positions,
    stop: Positions | None,
    partitions: Iterable[int] | None,
    progress: Callable[[int, int], object] | None,
) -> Work:
    """Find out what is to be copied.

    Raises:
        OptionError, OffsetOutOfRangeError: no such partition or place.
    """
    if partitions is None:
        chosen = list(range(topic.partitions))
    elif isinstance(partitions, Iterable):
        chosen = sorted({topic.partition(index).index for index in partitions})
    else:
        raise TypeError(f"partitions= must be a list of partitions, not {type(partitions).__name__}")
    if len(chosen) == 1:  # an offset is that one's
        start = {chosen[0]: start} if isinstance(start, SupportsIndex) else start
        stop = {chosen[0]: stop} if isinstance(stop, SupportsIndex) else stop
    readers = dict(enumerate(topic._readers(start, stop)))
    return Work({index: readers[index] for index in chosen}, progress)


def check_options(options: TopicOptions, given: Mapping[str, object]) -> TopicOptions:
    """The options of the copy: the original's, but for those given.

    Raises:
        OptionError, TypeError: one that the records do not fit, or none there is, or a value that is refused.
    """
    for name in given:
        if name not in OPTIONS:
            raise TypeError(f"copy_topic() got an unexpected keyword argument {name!r}")
        if name in ("dtype", "value_bytes", "key_bytes", "partitions"):
            raise OptionError(
                f"{name}=: the copy has the original's, as records stay what and where they are"
            )
    return replace(options, **TopicOptions.parse(given))


def copy_new(work: Work, store: Store, name: str, options: TopicOptions) -> Copied:
    """Copy into a topic that is made for it.

    Raises:
        TopicExistsError: there is one of that name by now; nothing is left behind.
        StorageError: a system call failed; nothing is left behind, unless it was the last sync.
    """
    handle, path, done = store._handle, store._path, {}
    # While it is filled, nothing is stamped anew, and no limit stands in the way of what was within another.
    filling = replace(options, timestamp_type="create", durability="none", max_message_bytes=None)

    def fill(directory: str, descriptor: int) -> None:
        hidden = os.path.basename(directory)
        found = metadata.read_topic(path, hidden)
        assert found is not None
        with ExitStack() as opened:

            def open_log(index: int) -> LogHandle:
                log = _open_hidden(store, directory, found[0].uuid, filling, index)
                opened.callback(handle.give_back, log)
                return log

            done.update(work.run(open_log, CODECS[options.compression], keyed=False))
        point(handle, "copy.filled")
        metadata.rewrite_topic(path, hidden, descriptor, lambda _: options, handle)

    if not metadata.create_topic(path, name, filling, handle, fill):
        raise TopicExistsError(f"there is a topic {name!r} already", topic=name)
    return Copied(path, name, done, work.bytes)


def _open_hidden(store: Store, directory: str, uuid: UUID, options: TopicOptions, index: int) -> LogHandle:
    settings = store._settings
    schema = Schema(
        os.path.basename(directory), options.value_width, options.key_width, options.dtype, 0, False
    )
    return store._handle.open_log(
        f"{directory}/{index}",
        os.path.basename(directory),
        index,
        uuid.bytes,
        schema,
        segment_bytes=options.segment_bytes,
        index_interval_bytes=options.index_interval_bytes,
        durability=DURABILITIES[options.durability],
        io=IO_VERBS[settings.io],
        sync_interval_ns=settings.sync_interval_ns,
        create=True,
        owner=partial(_same, uuid.bytes),
        message_bytes_max=options.max_message_bytes or 0,
        passing=True,
    )


def _same(uuid: bytes) -> bytes:
    """Nobody but its maker knows the directory."""
    return uuid


def append_to(work: Work, source: TopicOptions, topic: Topic) -> Copied:
    """Copy behind what is in an existing topic, whose options are for what comes.

    Raises:
        OptionError: the records are none that it can hold, or it has too few partitions. Nothing is written.
    """
    options = topic.options
    for name in ("dtype", "value_bytes", "key_bytes"):
        theirs, ours = getattr(source, name), getattr(options, name)
        if (theirs is None) != (ours is None) or theirs != ours:
            option = STORED[name]
            raise OptionError(
                f"topic {topic.name!r} has {name}={option.said(ours)}, the original {option.said(theirs)}: "
                "its records cannot go there",
                topic=topic.name,
            )
    last = max(work.readers, default=0)
    if last >= options.partitions:
        raise OptionError(
            f"topic {topic.name!r} has {options.partitions} partitions, and there are records of partition "
            f"{last} to copy; add_partitions(to={last + 1}) makes room",
            topic=topic.name,
        )
    codec = CODECS[options.compression]
    done = work.run(lambda index: topic.partition(index)._log(), codec, options.compacts)
    return Copied(topic._store.path, topic.name, done, work.bytes)
