"""Checking everything in a store, a topic or a partition: every file, every batch, every checksum.

Files are read by calls and never mapped, nothing is written and no lock is taken: so a disk that cannot be
read, or a file cut short meanwhile, is a line in the report. Others may append, roll and recover at the same
time. What was published when the check of a partition began is what is checked; what is found while somebody
has the store open counts only when a second look finds it again, and nobody recovered in between.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from typing import Final
from uuid import UUID

from pystream import metadata
from pystream import options as opt
from pystream._native.verify import SegmentCheck, look
from pystream.checking.beside import check_beside
from pystream.checking.judge import Judge
from pystream.checking.looks import Event, Look, Passed, Presence, SegmentResult
from pystream.checking.outside import Outside
from pystream.errors import (
    LockTimeoutError,
    OptionError,
    PystreamError,
    StoreNotFoundError,
    TopicNotFoundError,
)
from pystream.inspected import Head
from pystream.inspection import kept_files, read_head, salt_of_index, segment_files
from pystream.verified import DAMAGE, TORN, UNCHECKED, Finding, PartitionReport, Report

__all__ = ["Finding", "PartitionReport", "Report", "verify"]

Progress = Callable[[int, int], object]
"""Called now and then with the bytes that were checked, and all bytes there are."""

CHUNK_BYTES: Final = 16 << 20
LOOKS_MAX: Final = 8
LOOK_WAIT_S: Final = 10.0
POLL_S: Final = 0.1


def verify(
    path: str | os.PathLike[str],
    topic: str | None = None,
    partition: int | None = None,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Report:
    """Check a store, or one of its topics or partitions, from end to end.

    Reads every file of it and compares every checksum; compressed batches are decompressed. Nothing is
    written, and the store need not be one that `open` accepts. Others may go on writing to it.

    Args:
        path: the store's directory.
        topic: only this topic.
        partition: only this partition of it.
        progress: called now and then, in this thread, with the bytes checked and the bytes there are.
        threads: how many segments are checked at a time; as many as there are processors by default.

    Raises:
        StoreNotFoundError, TopicNotFoundError: there is none.
        OptionError: the topic has no such partition, or an option is refused.
        LockTimeoutError: somebody keeps the store to himself, to repair it.
        StorageError: a directory cannot be read.
    """
    return verify_alone(path, topic, partition, progress=progress, threads=threads, alone=False)


def verify_alone(
    path: str | os.PathLike[str],
    topic: str | None = None,
    partition: int | None = None,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
    alone: bool = True,
) -> Report:
    """`verify`; `alone`: for who keeps the store to himself, and so knows that nobody is there."""
    store = os.path.abspath(os.fspath(path))
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise OptionError(f"threads={threads!r}: must be an int of at least 1")
    if partition is not None and topic is None:
        raise OptionError(f"partition={partition!r}: of which topic? give topic= too")
    if topic is not None:
        opt.check_topic_name(topic)
    begun = time.monotonic()
    check_is_store(store)
    with _Verifier(store, progress, threads or len(os.sched_getaffinity(0)), alone) as verifier:
        outside = Outside(store, whole=topic is None)
        names = outside.topics() if topic is None else [topic]
        partitions = []
        for name in names:
            try:
                partitions += outside.partitions(name, partition)
            except TopicNotFoundError:
                if topic is not None:
                    raise
                # else it was deleted a moment ago
        presence = presence_of(store, alone)
        outside.live(presence.incarnation)
        reports = tuple(verifier.run(partitions))
    return Report(store, presence.writers, reports, tuple(outside.findings), time.monotonic() - begun)


def check_is_store(store: str) -> None:
    """Raise `StoreNotFoundError` unless a store is, or was, in that directory."""
    there = any(
        os.path.exists(os.path.join(store, name)) for name in (metadata.STORE_FILE, metadata.TOPICS_DIRECTORY)
    )
    if not there:
        raise StoreNotFoundError(f"{store}: no pystream store there", path=store)


def presence_of(store: str, alone: bool = False) -> Presence:
    """Who has the store open now; nobody, where that is known.

    Raises:
        LockTimeoutError: somebody has had it to himself for ten seconds.
    """
    file = os.path.join(store, "live")
    end = time.monotonic() + LOOK_WAIT_S
    with metadata.storage_errors(file):
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Presence(0, False)
        try:
            while True:
                incarnation, word = look(descriptor)
                if alone:
                    return Presence(incarnation, False)
                if word != "changing":
                    return Presence(incarnation, word == "writers")
                if time.monotonic() > end:
                    raise LockTimeoutError(
                        f"{store}: a process keeps the store to itself, to repair it perhaps", path=store
                    )
                time.sleep(0.001)
        finally:
            os.close(descriptor)


class _Verifier:
    """Runs looks at partitions on some threads."""

    def __init__(self, store: str, progress: Progress | None, threads: int, alone: bool) -> None:
        self._store = store
        self._alone = alone
        self._progress = progress
        self._pool = ThreadPoolExecutor(threads, "pystream-verify")
        self._lock = threading.Lock()
        self._stop = False
        self._done = 0

    def __enter__(self) -> _Verifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop = True
        self._pool.shutdown(cancel_futures=True)

    def run(self, partitions: list[tuple[str, int, UUID | None]]) -> Iterator[PartitionReport]:
        looks: list[Look | Finding] = []
        for name, number, uuid in partitions:
            looks.append(self._begin(name, number, uuid))
        self._walk([one for one in looks if isinstance(one, Look)])
        for one in looks:
            if isinstance(one, Finding):
                assert one.topic is not None and one.partition is not None
                if not self._is_there(one.topic):
                    continue
                yield PartitionReport(one.topic, one.partition, 0, 0, 0, 0, 0, 0, (), (one,))
            elif (report := self._settle(one)) is not None:
                yield report

    def _begin(self, name: str, number: int, uuid: UUID | None) -> Look | Finding:
        directory = os.path.join(metadata.topic_directory(self._store, name), str(number))
        try:
            presence = presence_of(
                self._store, self._alone
            )  # before the head: what it says of itself is of then
            head, state = _head_of(directory)
            start = head.log_start if head is not None and head.sound else None
            files = kept_files(segment_files(directory), start)
            return Look(name, number, directory, uuid, presence, head, state, files)
        except LockTimeoutError:
            raise
        except (PystreamError, OSError) as error:
            missing = isinstance(error, OSError) and error.errno == errno.ENOENT
            what = "the partition's directory is missing" if missing else f"cannot be read: {_reason(error)}"
            kind = DAMAGE if missing else UNCHECKED
            remedy = "backup" if missing else ""
            return Finding(kind, "partition", what, directory, name, number, remedy=remedy)

    def _walk(self, looks: list[Look]) -> None:
        """Check the segments of all these, as many at a time as there are threads."""
        total, tasks, before = 0, [], self._done
        for one in looks:
            for base, path in one.files:
                if one.bound is not None and base > one.bound:  # being made
                    continue
                size = _size_of(path)
                total += size
                tasks.append(self._pool.submit(self._segment, one, base, path, size))
        waiting = set(tasks)
        while waiting:
            done, waiting = wait(waiting, POLL_S)
            for task in done:
                task.result()
            if self._progress is not None:
                self._progress(min(self._done - before, total), total)

    def _segment(self, one: Look, base: int, path: str, size: int) -> None:
        result = SegmentResult(base, path)
        try:
            check = SegmentCheck(path, base, one.bound, salt_of_index(path))
        except FileNotFoundError:
            one.moved = True
            one.gone.add(base)
            return
        except OSError as error:
            result.error = error
            one.results[base] = result
            return
        counted = 0
        try:
            while not self._stop and _step(check, result):
                with self._lock:
                    self._done += check.position - counted
                    counted = check.position
        except OSError as error:
            result.error = error
            result.position = result.end = check.position
        finally:
            result.next_offset = check.next_offset
            check.close()
        with self._lock:
            self._done += max(size - counted, 0)
        one.results[base] = result

    def _settle(self, one: Look) -> PartitionReport | None:
        """What is the matter with a partition, looked at again as often as it takes. None: it was deleted."""
        confirmed: set[tuple[object, ...]] | None = None
        for turn in range(LOOKS_MAX):
            if one.moved:
                one.follow(_head_of(one.directory)[0])
            report = check_beside(one, Judge(one).report())
            serious = {_key(found) for found in report.findings if found.kind in (DAMAGE, TORN)}
            now = self._begin(one.topic, one.partition, self._identity(one))
            if isinstance(now, Finding):
                return report if self._is_there(one.topic) else None
            if not one.moved and now.state == one.state:
                if not serious or not now.presence.writers or confirmed == serious:
                    return report
                confirmed = serious
            if turn + 1 < LOOKS_MAX:
                time.sleep(0.005 * 2**turn)
                now = self._begin(one.topic, one.partition, self._identity(one))
                if isinstance(now, Finding):
                    continue
                one = now
                self._walk([one])
        what = f"it changed with each of {LOOKS_MAX} looks: check again when fewer processes come and go"
        busy = Finding(UNCHECKED, "partition", what, one.directory, one.topic, one.partition)
        return replace(report, lost=(), findings=(busy,))

    def _is_there(self, topic: str) -> bool:
        """Whether a topic was not deleted meanwhile."""
        return os.path.isdir(metadata.topic_directory(self._store, topic))

    def _identity(self, one: Look) -> UUID | None:
        with suppress(PystreamError):
            found = metadata.read_topic(self._store, one.topic)
            return one.uuid if found is None else found[0].uuid
        return one.uuid


def _step(check: SegmentCheck, result: SegmentResult) -> bool:
    """Go on in a segment. False: it has ended."""
    event = check.next(CHUNK_BYTES)
    batches, records, durable = check.counted()
    result.batches += batches
    result.records += records
    if durable >= 0:
        result.events.append(Passed(durable))
    if event is None:
        return False
    kind, *values = event
    position, end = check.span
    if kind == "header":
        result.header, result.file_bytes, *whose = values
        result.header_end = end
        if result.header == "sound":
            result.whose, result.epoch = (whose[0], whose[1], whose[2]), whose[3]
    elif kind == "end":
        result.rest, result.position, result.end = values[0], position, end
    elif kind != "more":
        result.events.append(Event(kind, position, end, tuple(values)))
    return True


def _key(found: Finding) -> tuple[object, ...]:
    """What stays the same of a finding while others append."""
    first = found.offsets[0] if found.offsets else None
    return found.kind, found.part, found.path, found.position, first


def _head_of(directory: str) -> tuple[Head | None, str]:
    try:
        head = read_head(os.path.join(directory, "head"))
    except PystreamError as error:
        missing = isinstance(error, OSError) and error.errno == errno.ENOENT
        return None, "missing" if missing else "unreadable"
    state = head.state
    if state == "sound" and not head.sound:
        state = "damaged"
    return head, state


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
