"""The partitions of a backup: up to where each is copied, and the copying."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pystream import metadata
from pystream._native.backup import SegmentCopy, Site, head_page, segment_header
from pystream._native.repair import epochs as encode_epochs
from pystream.backups.place import Place
from pystream.backups.trees import (
    copy_bytes,
    make_directory,
    make_like,
    new_file,
    read_bytes,
    remove_tree,
    sync_directory,
    sync_file,
    write_all,
)
from pystream.errors import (
    CorruptLogError,
    LockTimeoutError,
    PystreamError,
    TopicDeletedError,
    TopicNotFoundError,
)
from pystream.inspection import read_epochs, read_head, segment_files
from pystream.metadata import LOCKS_FILE, TOPIC_FILE, TOPICS_DIRECTORY, TopicOptions, topic_directory
from pystream.verification import presence_of

if TYPE_CHECKING:
    from pystream.store import Store

THREADS: Final = 4
"""Partitions at a time. More than there may be processors: most of the time goes into waiting for syncs."""
CHUNK_BYTES: Final = 16 << 20
POLL_S: Final = 0.1
TRIES_MAX: Final = 8
KEEP_WAIT_NS: Final = 60 * 10**9
"""How long maintenance of others may keep a partition; it works in short steps."""
EMPTY_SEGMENT_BYTES: Final = 4096

Ends = dict[tuple[str, int], tuple[int, int, int]]
"""By topic's uuid and partition: where the copied records end, the leader epoch of the log, and that of the
copy."""


@dataclass(slots=True, eq=False)
class Part:
    """A partition that is copied."""

    topic: str
    uuid: UUID
    options: TopicOptions
    number: int
    source: str
    """Its directory."""
    start: int = 0
    end: int = 0
    """Up to there, from `start`, it is copied."""
    epoch: int = 0
    """Leader epoch of the log."""
    used: bool = False
    """Anybody has ever opened it."""
    log: Any = None
    """Its native handle, where it is used."""
    bytes: int = 0
    """About as many are to be copied or linked."""
    new_epoch: int = 0
    segments: list[tuple[int, int]] = field(default_factory=list)
    """Base offset, and records, of each segment that holds any."""
    epochs: list[tuple[int, int, int]] = field(default_factory=list)
    """Leader epoch, base offset, and when it was made, of each."""

    @property
    def records(self) -> int:
        return sum(records for _, records in self.segments)


@dataclass(slots=True, eq=False)
class Plan:
    """A topic that is copied."""

    name: str
    uuid: UUID
    options: TopicOptions
    parts: list[Part] = field(default_factory=list)


def plan(store: Store, place: Place) -> list[Plan]:
    """Every topic of a store, and where the records of its partitions end now."""
    found = []
    for name in metadata.list_topics(store.path):
        place.check_topic(name)
        with suppress(TopicNotFoundError, TopicDeletedError):  # it went a moment ago
            topic = store.topic(name)
            one = Plan(name, topic.uuid, topic.options)
            for number in range(topic.partitions):
                directory = os.path.join(topic_directory(store.path, name), str(number))
                part = Part(name, topic.uuid, topic.options, number, directory)
                if _is_used(store, part):
                    _measure(store, part, topic.partition(number)._log())
                one.parts.append(part)
            found.append(one)
    _check_complete(store)
    return found


def _check_complete(store: Store) -> None:
    """Raise `CorruptLogError` where a topic has lost its topic.json: no list of topics has it any more."""
    topics = os.path.join(store.path, TOPICS_DIRECTORY)
    with metadata.storage_errors(topics), suppress(FileNotFoundError):
        for name in os.listdir(topics):
            directory = topic_directory(store.path, name)
            if "+" in name or not os.path.isdir(directory):  # being made or deleted, or a stranger's
                continue
            with suppress(FileNotFoundError):
                before = os.stat(directory).st_ino
                with suppress(FileNotFoundError):
                    os.stat(os.path.join(directory, TOPIC_FILE))
                    continue
                # A topic comes to its name whole, and goes from it whole: this one is not on its way.
                if os.stat(directory).st_ino == before:
                    raise CorruptLogError(
                        f"{directory}: a directory of a topic without {TOPIC_FILE}: bring that back from a "
                        "copy; `pystream verify` says what else is damaged",
                        topic=name,
                        path=directory,
                    )


def _is_used(store: Store, part: Part) -> bool:
    """Whether there can be anything in a partition. To open one that nobody has used would make files."""
    try:
        with metadata.storage_errors(part.source):
            names = os.listdir(part.source)
    except OSError as error:
        if not isinstance(error, PystreamError) or error.errno_ is None or os.path.isdir(part.source):
            raise
        _check_there(store, part)
        raise CorruptLogError(
            f"{part.source}: the partition's directory is missing; `pystream verify` says what else is",
            topic=part.topic,
            partition=part.number,
            path=part.source,
        ) from error
    return any(name == "head" or name.endswith(".log") for name in names)


def _measure(store: Store, part: Part, log: Any) -> None:
    part.used, part.log = True, log
    part.epoch = log.leader_epoch
    _measure_range(store, part)
    for base, path in segment_files(part.source):
        with suppress(OSError):
            if base < part.end:
                part.bytes += os.stat(path).st_size


def _measure_range(store: Store, part: Part) -> None:
    part.start, part.end = part.log.start_offset, max(part.end, part.log.high_watermark)
    if store.mode == "r":
        # The view follows writers, but another thread may just be bringing it up to date.
        with suppress(PystreamError):
            presence, head = presence_of(store.path), read_head(os.path.join(part.source, "head"))
            if presence.writers and head.sound and head.incarnation == presence.incarnation:
                part.end = max(part.end, head.high_watermark)


def _check_there(store: Store, part: Part) -> None:
    """Raise `TopicDeletedError` where the topic was deleted."""
    found = metadata.read_topic(store.path, part.topic)
    if found is None or found[0].uuid != part.uuid:
        raise TopicDeletedError(f"topic {part.topic!r} was deleted", topic=part.topic)


class Copies:
    """Copies all partitions, several at a time.

    Attributes: kept, the topics that were copied; ends; and counts.
    """

    def __init__(
        self,
        site: Site,
        store: Store,
        place: Place,
        topics: list[Plan],
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._site = site
        self._store = store
        self._place = place
        self._topics = os.path.join(place.tree, TOPICS_DIRECTORY)
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = False
        self._done = 0
        self._total = sum(part.bytes for topic in topics for part in topic.parts)
        self._deleted: set[UUID] = set()
        self.kept = topics
        self.bytes_copied = self.bytes_linked = 0
        self.segments_copied = self.segments_linked = 0

    @property
    def ends(self) -> Ends:
        """What was copied."""
        return {
            (part.uuid.hex, part.number): (part.end, part.epoch, part.new_epoch)
            for topic in self.kept
            for part in topic.parts
        }

    def document(self) -> dict[str, Any]:
        """What was copied, as backup.json has it."""
        return {
            topic.name: {
                "uuid": topic.uuid.hex,
                "partitions": {
                    str(part.number): {"start": part.start, "end": part.end, "segments": part.segments}
                    for part in topic.parts
                },
            }
            for topic in self.kept
        }

    def run(self) -> None:
        """Copy them."""
        with metadata.storage_errors(self._place.path):
            os.mkdir(self._topics, 0o700)
            source = os.path.join(self._store.path, TOPICS_DIRECTORY)
            make_like(self._topics, source if os.path.isdir(source) else self._store.path)
        for topic in self.kept:
            self._begin(topic)
        self._copy_all([part for topic in self.kept for part in topic.parts])
        with metadata.storage_errors(self._topics):
            self._finish()

    def _begin(self, topic: Plan) -> None:
        """The topic's directory, and all in it but partitions."""
        source = topic_directory(self._store.path, topic.name)
        target = os.path.join(self._topics, topic.name)
        with metadata.storage_errors(target):
            try:
                document = read_bytes(os.path.join(source, TOPIC_FILE))
                self._check_there(topic)
                make_directory(target, source)
                like = os.path.join(source, TOPIC_FILE)
                copy_bytes(os.path.join(target, TOPIC_FILE), document, like=like)
                copy_bytes(os.path.join(target, LOCKS_FILE), b"", like=like)
            except (FileNotFoundError, NotADirectoryError, TopicDeletedError):
                if self._is_there(topic):
                    raise
                self._deleted.add(topic.uuid)

    def _copy_all(self, parts: list[Part]) -> None:
        pool = ThreadPoolExecutor(THREADS, "pystream-backup")
        try:
            waiting = {pool.submit(self._copy_part, part) for part in parts}
            while waiting:
                done, waiting = wait(waiting, POLL_S, FIRST_EXCEPTION)
                for task in done:
                    task.result()
                if self._progress is not None:
                    self._progress(min(self._done, self._total), self._total)
            if self._progress is not None:
                self._progress(self._total, self._total)
        finally:
            self._stop = True
            pool.shutdown(cancel_futures=True)

    def _finish(self) -> None:
        """Leave out what was deleted meanwhile."""
        for topic in self.kept:
            if topic.uuid in self._deleted or not self._is_there(topic):
                self._deleted.add(topic.uuid)
                remove_tree(os.path.join(self._topics, topic.name))
            else:
                sync_directory(os.path.join(self._topics, topic.name))
        self.kept = [topic for topic in self.kept if topic.uuid not in self._deleted]
        sync_directory(self._topics)

    def _is_there(self, topic: Plan | Part) -> bool:
        name = topic.name if isinstance(topic, Plan) else topic.topic
        found = metadata.read_topic(self._store.path, name)
        return found is not None and found[0].uuid == topic.uuid

    def _check_there(self, topic: Plan) -> None:
        if not self._is_there(topic):
            raise TopicDeletedError(f"topic {topic.name!r} was deleted", topic=topic.name)

    # ---- one partition ----------------------------------------------------------------------------------

    def _copy_part(self, part: Part) -> None:
        """Copy a partition, or find that its topic was deleted."""
        for turn in range(TRIES_MAX):
            if self._stop or part.uuid in self._deleted:
                return
            before = self._state(part)
            part.start = min(max(part.start, before[1]), part.end)
            target = os.path.join(self._topics, part.topic, str(part.number))
            try:
                with metadata.storage_errors(target):
                    make_directory(target, part.source)
                    self._copy_into(target, part)
                    sync_directory(target)
                self._site.point("backup.partition")
                return
            except (CorruptLogError, TopicDeletedError, OSError) as error:
                if not self._is_there(part):
                    self._deleted.add(part.uuid)
                    return
                # Retention and compaction remove files; and who only reads keeps nobody from recovering the
                # log, which moves some.
                moved = not isinstance(error, OSError) or error.errno == errno.ENOENT
                if not moved or self._state(part) == before or turn + 1 == TRIES_MAX:
                    raise
                remove_tree(target)
                time.sleep(0.005 * 2**turn)

    def _state(self, part: Part) -> tuple[object, int, list[int]]:
        """What changes when files go: the incarnation, the log start, and the segments to be copied."""
        start = part.start
        with suppress(PystreamError):
            head = read_head(os.path.join(part.source, "head"))
            start = (head.log_start or start) if head.sound else start
        with suppress(PystreamError):
            return self._incarnation(part), start, [b for b, _ in segment_files(part.source) if b < part.end]
        return self._incarnation(part), start, []

    def _incarnation(self, part: Part) -> object:
        """What changes when somebody recovers the partition; nobody does while we have it open to write."""
        if self._store.mode != "r":
            return None
        try:
            head = read_head(os.path.join(part.source, "head"))
            return presence_of(self._store.path).incarnation, head.incarnation, head.state
        except PystreamError:
            return None

    def _copy_into(self, target: str, part: Part) -> None:
        part.segments, part.epochs = [], []
        if not part.used:
            return
        with self._files_kept(part):
            if self._is_compacted(part):
                # Since it was measured, what was the last of its key may have been superseded behind the end,
                # and left out.
                _measure_range(self._store, part)
            self._copy_files(target, part)

    def _is_compacted(self, part: Part) -> bool:
        found = metadata.read_topic(self._store.path, part.topic)
        return part.options.compacts or (found is not None and found[1].compacts)

    @contextmanager
    def _files_kept(self, part: Part) -> Iterator[None]:
        """Nobody compacts the partition or removes segments of it: else one that is copied now and another
        that is copied later would be of different moments, and a key that was deleted could come back to
        life."""
        try:
            locks = os.open(
                os.path.join(os.path.dirname(part.source), LOCKS_FILE), os.O_RDONLY | os.O_CLOEXEC
            )
        except FileNotFoundError:  # nobody has ever written there
            yield
            return
        try:
            if not self._site.keep_files(locks, part.number, KEEP_WAIT_NS):
                raise LockTimeoutError(
                    f"{part.source}: segments were removed or replaced all the time; try again later",
                    topic=part.topic,
                    partition=part.number,
                    path=part.source,
                )
            yield
        finally:
            os.close(locks)

    def _copy_files(self, target: str, part: Part) -> None:
        files = segment_files(part.source)
        first = max((i for i, (base, _) in enumerate(files) if base <= part.start), default=0)
        files = [(base, path) for base, path in files[first:] if base < part.end]
        if part.start < part.end and (not files or files[0][0] > part.start):
            raise CorruptLogError(
                f"{part.source}: the segment that holds offset {part.start} is missing; `pystream verify` "
                "says what is damaged, `pystream repair` mends it",
                topic=part.topic,
                partition=part.number,
                offset=part.start,
                path=part.source,
            )
        for i, (base, path) in enumerate(files):
            end = files[i + 1][0] if i + 1 < len(files) else part.end
            part.segments.append((base, self._segment(target, part, base, path, end)))
            if self._stop:
                return
        self._end(target, part)

    def _segment(self, directory: str, part: Part, base: int, path: str, end: int) -> int:
        """Have a segment up to `end` in the copy; how many records it has."""
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(source)
            target = os.path.join(directory, os.path.basename(path))
            records = self._link(part, base, source, status, target, end)
            if records is None:
                records = self._copy(part, base, source, path, status, target, end)
            if (header := self._site.header(source)) is not None:
                part.epochs.append((header[0], base, header[1]))
            return records
        finally:
            os.close(source)

    def _link(
        self, part: Part, base: int, source: int, status: os.stat_result, target: str, end: int
    ) -> int | None:
        """Take a segment from the last backup, where it is there; how many records it has.

        It was checked when it was copied, and is never written to. That it is this one is seen from the salt,
        the seal, and the time at which the store's was last written to: a power failure may take unsynced
        records from the end of a segment, and others may then be written there, under the same salt.
        """
        previous = self._place.previous
        found = None if previous is None else previous.segment(part.uuid.hex, part.number, base)
        if found is None:
            return None
        path, records = found
        try:
            copy = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            theirs = os.fstat(copy)
            if theirs.st_mtime_ns != status.st_mtime_ns or not self._site.is_copy(copy, source, end):
                return None
        finally:
            os.close(copy)
        index = _index_of(path)
        size = theirs.st_size
        try:
            size += os.stat(index).st_size
            os.link(path, target)
            os.link(index, _index_of(target))
        except OSError:  # too many links, or no such thing there
            for made in (target, _index_of(target)):
                with suppress(FileNotFoundError):
                    os.unlink(made)
            return None
        with self._lock:
            self.bytes_linked += size
            self.segments_linked += 1
            self._done += status.st_size
        return records

    def _copy(
        self, part: Part, base: int, source: int, path: str, status: os.stat_result, target: str, end: int
    ) -> int:
        interval = part.options.index_interval_bytes
        with new_file(target, status) as descriptor:
            copy = SegmentCopy(
                self._site,
                source,
                path,
                descriptor,
                target,
                part.topic,
                part.uuid.bytes,
                part.number,
                base,
                end,
                interval,
            )
            with closing(copy):
                finished, counted = False, 0
                while not finished and not self._stop:
                    finished = copy.step(CHUNK_BYTES)
                    with self._lock:
                        self._done += copy.position - counted
                        self.bytes_copied += copy.position - counted
                        counted = copy.position
                self._site.point("backup.copied")
                records = copy.records
            os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(descriptor)
        index = _index_of(target)
        make_like(index, status)
        sync_file(index)
        with self._lock:
            self.segments_copied += 1
            self.bytes_copied += os.stat(target).st_size - counted + os.stat(index).st_size
            self._done += max(status.st_size - counted, 0)
        return records

    def _end(self, directory: str, part: Part) -> None:
        """What comes after the records: an empty segment, with the epoch of those who go on from here."""
        file = os.path.join(part.source, "epochs")
        known: dict[int, tuple[int, int, int]] = {}
        last = part.epoch
        if os.path.exists(file):
            for entry in read_epochs(file):
                if entry.sound and entry.epoch is not None:
                    last = max(last, entry.epoch)
                    if (first := entry.first_offset or 0) <= part.end:
                        known[entry.epoch] = (entry.epoch, first, entry.created or 0)
        for epoch, first, created in part.epochs:
            last = max(last, epoch)
            known.setdefault(epoch, (epoch, first, created))
        part.new_epoch = last + 1
        known[part.new_epoch] = (part.new_epoch, part.end, time.time_ns())
        like = os.stat(os.path.join(os.path.dirname(part.source), TOPIC_FILE))
        copy_bytes(
            os.path.join(directory, "epochs"),
            encode_epochs(known[epoch] for epoch in sorted(known)),
            like=like,
        )
        header_bytes = segment_header(
            part.uuid.bytes, part.number, part.end, part.new_epoch, part.options.segment_bytes
        )
        copy_bytes(
            os.path.join(directory, f"{part.end:020}.log"),
            header_bytes.ljust(EMPTY_SEGMENT_BYTES, b"\0"),
            like=like,
        )
        with new_file(os.path.join(directory, "head"), like) as head:
            mine = os.fstat(head)
            page = head_page(
                part.uuid.bytes, part.number, mine.st_dev, mine.st_ino, part.start, part.end, part.new_epoch
            )
            write_all(head, page)
            os.fsync(head)


def _index_of(segment: str) -> str:
    return segment.removesuffix(".log") + ".index"
