"""Finding out what is in a store, for `pystream.stats`: from files, and from what the last look has left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

from pystream import metadata
from pystream._native.stats import PartitionFiles
from pystream._native.writer import lag_ns_max
from pystream.errors import GroupNotFoundError, PystreamError, TopicDeletedError, TopicNotFoundError
from pystream.stats import ConsumerStats, GroupLag, PartitionStats, ProcessStats, StoreStats, TopicStats

if TYPE_CHECKING:
    from pystream._native.log import LogHandle, StoreHandle
    from pystream.consumer import Consumer
    from pystream.group.documents import Key
    from pystream.metadata import Identity, TopicOptions
    from pystream.store import Store


MAKING_LOOKS: Final = 5
MAKING_S: Final = 0.002
"""A head that tells nothing is looked at so often, so long apart: it may be in the making."""


class _Gone(Exception):
    """The topic is no longer there."""


_surveyors: WeakKeyDictionary[StoreHandle, _Surveyor] = WeakKeyDictionary()
_guard = threading.Lock()


def _after_fork() -> None:
    global _guard  # another thread of the parent may have held it
    _guard = threading.Lock()
    _surveyors.clear()


os.register_at_fork(after_in_child=_after_fork)


def of_store(store: Store, names: Iterable[str] | None, exact: bool) -> StoreStats:
    """See `Store.stats`."""
    surveyor = _surveyor_of(store)
    with surveyor.lock:
        return surveyor.store(store, names, exact)


def of_topic(store: Store, name: str, uuid: UUID, exact: bool) -> TopicStats:
    """See `Topic.stats`."""
    surveyor = _surveyor_of(store)
    with surveyor.lock:
        groups, _ = _positions(store)
        return surveyor.one(store, name, uuid, groups, exact)


def of_partition(store: Store, name: str, uuid: UUID, index: int, exact: bool) -> PartitionStats:
    """See `Partition.stats`."""
    surveyor = _surveyor_of(store)
    with surveyor.lock:
        groups, _ = _positions(store)
        return surveyor.one(store, name, uuid, groups, exact, only=index).partitions[0]


def of_consumer(consumer: Consumer) -> ConsumerStats:
    """See `Consumer.stats`."""
    counters = consumer._fetcher.counters()
    last = counters.pop("last_ns")
    lag = 0
    readers = () if consumer.closed else consumer._fetcher.readers
    for reader in readers:
        with suppress(PystreamError):  # the topic was deleted
            lag += max(reader.handle.high_watermark - reader.position, 0)
    return ConsumerStats(
        **counters,
        skipped_records=consumer.skipped,
        last_batch_ns=last or None,
        partitions=len(readers),
        lag_records=lag,
    )


def _surveyor_of(store: Store) -> _Surveyor:
    store._check()
    with _guard:
        found = _surveyors.get(store._handle)
        if found is None:
            found = _surveyors[store._handle] = _Surveyor()
    return found


class _Surveyor:
    """What is kept between two looks at a store, so that the second one is short."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._files: dict[tuple[bytes, int], PartitionFiles] = {}
        self._topics: dict[str, tuple[tuple[int, int, int], tuple[Identity, TopicOptions]]] = {}

    def store(self, store: Store, names: Iterable[str] | None, exact: bool) -> StoreStats:
        everything = names is None
        groups, problems = _positions(store)
        found: dict[str, TopicStats] = {}
        for name in store.topics() if names is None else dict.fromkeys(names):
            try:
                identity, options = self._read(store.path, name)
                found[name] = self._topic(store, name, identity, options, groups, exact)
            except _Gone:
                if not everything:
                    raise TopicNotFoundError(store._not_found(name, create=False), topic=name) from None
            except PystreamError as error:
                problems.append(f"{name}: {error}")
        if everything:
            there = {topic.uuid.bytes for topic in found.values()}
            self._files = {key: files for key, files in self._files.items() if key[0] in there}
            self._topics = {name: known for name, known in self._topics.items() if name in found}
        with metadata.storage_errors(store.path):
            disk = os.statvfs(store.path)
        return StoreStats(
            path=store.path,
            uuid=store.uuid,
            taken_ns=time.time_ns(),
            topics=found,
            free_bytes=disk.f_bavail * disk.f_frsize,
            size_bytes=disk.f_blocks * disk.f_frsize,
            min_free_bytes=store.min_free_bytes,
            low_on_space=store._handle.low_on_space,
            problems=tuple(problems),
        )

    def one(
        self,
        store: Store,
        name: str,
        uuid: UUID,
        groups: _Positions,
        exact: bool,
        only: int | None = None,
    ) -> TopicStats:
        """A topic that somebody has in hand."""
        try:
            identity, options = self._read(store.path, name)
            if identity.uuid == uuid:
                return self._topic(store, name, identity, options, groups, exact, only)
        except _Gone:
            pass
        raise TopicDeletedError(f"the topic was deleted (topic {name!r})", topic=name)

    def _read(self, path: str, name: str) -> tuple[Identity, TopicOptions]:
        file = os.path.join(metadata.topic_directory(path, name), metadata.TOPIC_FILE)
        with metadata.storage_errors(file):
            try:
                there = os.stat(file)
            except (FileNotFoundError, NotADirectoryError):
                raise _Gone from None
        stamp = there.st_mtime_ns, there.st_ino, there.st_dev
        known = self._topics.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        found = metadata.read_topic(path, name)
        if found is None:
            raise _Gone
        self._topics[name] = stamp, found
        return found

    def _topic(
        self,
        store: Store,
        name: str,
        identity: Identity,
        options: TopicOptions,
        groups: _Positions,
        exact: bool,
        only: int | None = None,
    ) -> TopicStats:
        wanted: dict[str, Any] = {"exact": exact, "compacted": options.compacts}
        if options.deletes:
            wanted["bytes_max"] = options.retention_bytes
            if options.retention_ns is not None:
                wanted["min_timestamp"] = time.time_ns() - options.retention_ns
        look = _Look(self, store, name, identity.uuid, wanted, groups)
        numbers = range(options.partitions) if only is None else (only,)
        partitions = tuple(look.partition(index) for index in numbers)
        if look.missing:
            self._topics.pop(name, None)
            if self._read(store.path, name)[0].uuid != identity.uuid:
                raise _Gone
        excess = 0
        if options.deletes and options.retention_topic_bytes is not None and only is None:
            excess = self._excess(identity.uuid, partitions, options.retention_topic_bytes)
        return TopicStats(name, identity.uuid, partitions, excess)

    def files(self, uuid: UUID, index: int, directory: str) -> PartitionFiles:
        key = uuid.bytes, index
        files = self._files.get(key)
        if files is None or files.directory != directory:  # it was renamed
            files = self._files[key] = PartitionFiles(directory)
        return files

    def _excess(self, uuid: UUID, partitions: tuple[PartitionStats, ...], most: int) -> int:
        """Disk bytes of the oldest finished segments that make the topic larger than `most`."""
        kept = []
        for partition in partitions:
            spare = partition.reclaimable_bytes
            for _, used, disk, newest in self._files[uuid.bytes, partition.partition].segments()[:-1]:
                if spare >= disk > 0:  # goes already
                    spare -= disk
                else:
                    kept.append((newest if newest is not None else -1, used, disk))
        size = sum(partition.stored_bytes for partition in partitions)
        size -= sum(partition.reclaimable_bytes for partition in partitions)
        excess = 0
        for _, used, disk in sorted(kept):
            if size - used < most:
                break
            size -= used
            excess += disk
        return excess


class _Look:
    """One look at the partitions of a topic."""

    def __init__(
        self,
        surveyor: _Surveyor,
        store: Store,
        name: str,
        uuid: UUID,
        wanted: Mapping[str, Any],
        groups: _Positions,
    ) -> None:
        self._surveyor = surveyor
        self._store = store
        self._name = name
        self._uuid, self._bytes, self._hex = uuid, uuid.bytes, uuid.hex
        self._wanted = wanted
        self._groups = groups
        self._directory = metadata.topic_directory(store.path, name)
        self.missing = False  # a partition's directory is not there, or another topic's is

    def partition(self, index: int) -> PartitionStats:
        files = self._surveyor.files(self._uuid, index, f"{self._directory}/{index}")
        try:
            state = files.measure(**self._wanted)
            for _ in range(MAKING_LOOKS):
                if state != "unknown":
                    break
                time.sleep(MAKING_S)
                state = files.measure(**self._wanted)
            if state == "unknown":
                return self._opened(index, files)
            if state == "known" and (files.topic_uuid != self._bytes or files.deleted):
                raise TopicDeletedError("its head is of a topic that was deleted")
        except PystreamError as error:
            # If the topic is gone indeed, that comes to light when all are looked at.
            self.missing = self.missing or isinstance(error, TopicDeletedError)
            disk = files.disk_bytes
            return PartitionStats(self._name, index, used=True, disk_bytes=disk, error=str(error))
        if state != "known":
            self.missing = self.missing or state == "gone"
            groups = self._lags(index, None, 0, 0)
            return PartitionStats(self._name, index, used=False, exact=self._wanted["exact"], groups=groups)
        return self._known(index, files)

    def _known(self, index: int, files: PartitionFiles) -> PartitionStats:
        found = files.found()
        if damaged := files.damaged:
            found["error"] = f"{damaged} segment{'s' * (damaged > 1)} cannot be read; see pystream verify"
        return PartitionStats(
            topic=self._name,
            partition=index,
            used=True,
            groups=self._lags(index, files, found["log_start"], found["high_watermark"]),
            process=self._process(self._store._handle.find_log(self._bytes, index)),
            **found,
        )

    def _opened(self, index: int, files: PartitionFiles) -> PartitionStats:
        """Its head is lost, or of another place: whoever opens it finds out what is there."""
        topic = self._store.topic(self._name)
        if topic.uuid != self._uuid:
            raise TopicDeletedError(f"the topic was deleted (topic {self._name!r})", topic=self._name)
        partition = topic.partition(index)
        log = partition._log()
        if files.measure(**self._wanted) == "known":
            return self._known(index, files)
        # A store that is only read, where nothing is mended.
        start, end = log.start_offset, log.high_watermark
        first = next(partition.scan(start, end), None)
        last = next(partition.scan(end - 1, end), None) if end > start else None
        stored = log.stats()
        return PartitionStats(
            topic=self._name,
            partition=index,
            used=True,
            records=end - start,
            raw_bytes=stored["stored_bytes"],
            stored_bytes=stored["stored_bytes"],
            disk_bytes=files.disk_bytes,
            segments=stored["segments"],
            oldest_timestamp_ns=_moment(first, 0),
            newest_timestamp_ns=_moment(last, -1),
            log_start=start,
            high_watermark=end,
            log_end=log.end_offset,
            durable_offset=log.durable_offset,
            leader_epoch=log.leader_epoch,
            groups=self._lags(index, None, start, end),
            process=self._process(log),
        )

    def _process(self, log: LogHandle | None) -> ProcessStats | None:
        if log is None:
            return None
        counters = log.stats(False)
        return ProcessStats(sync_lag_max_ns=lag_ns_max(log), **{name: counters[name] for name in _COUNTERS})

    def _lags(self, index: int, files: PartitionFiles | None, start: int, end: int) -> tuple[GroupLag, ...]:
        found = []
        for group, committed, is_read in self._groups.get((self._hex, index), ()):
            place = start if committed is None else max(committed, start)
            lag = max(end - place, 0)
            age: int | None = 0
            if lag:
                stamp = files.timestamp_at(place) if files is not None else None
                age = None if stamp is None else max(time.time_ns() - stamp, 0)
            found.append(GroupLag(group, lag, age, committed, int(is_read)))
        return tuple(found)


_COUNTERS: Final = (
    "appends",
    "appended_records",
    "appended_bytes",
    "syncs",
    "rolls",
    "mends",
    "cuts",
    "wakes",
    "lent_segments",
    "lent_bytes",
    "pinned_bytes",
)


def _moment(batch: Any, at: int) -> int | None:
    return None if batch is None else batch[at].timestamp


_Positions = dict["Key", list[tuple[str, int | None, bool]]]


def _positions(store: Store) -> tuple[_Positions, list[str]]:
    """For each partition (group, committed offset, whether a member reads it), and what could not be read."""
    from pystream.group.shared import Gone, SharedGroup

    found: _Positions = {}
    problems: list[str] = []
    for name in store.groups():
        try:
            group = SharedGroup(store._handle, store.path, name, create=False)
            state, committed = group.load(), group.committed()
        except (Gone, GroupNotFoundError):
            continue
        except PystreamError as error:
            problems.append(f"group {name}: {error}")
            continue
        for key in {*committed, *state.targets, *state.claims}:
            claim = state.claims.get(key)
            offset = committed[key].offset if key in committed else None
            is_read = claim is not None and claim.member in state.members
            found.setdefault(key, []).append((name, offset, is_read))
    return found, problems
