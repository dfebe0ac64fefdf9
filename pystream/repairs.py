"""Mending a store that `verify` has found damaged, without losing anything that is sound.

A damaged segment is written anew beside the old one: every sound batch at its offset, byte for byte, and
empty batches in the place of what cannot be read, so that readers pass over it and positions stay right. The
new file is synced, the old one gets a second name that ends in `.damaged`, and only then does the new one
take its place. Nothing is deleted. Death at any step leaves a store that is as damaged as before, or less;
repairing it again ends the work. What was done is written to a file in STORE/repairs.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from pystream import metadata
from pystream import options as opt
from pystream._native import repair as native
from pystream.checking.mending import mended
from pystream.errors import CorruptLogError, FormatVersionError, PystreamError, StorageError
from pystream.inspected import Frame, SegmentHeader
from pystream.inspection import read_epochs, read_head, salt_of_index, segment_files, walk_segment
from pystream.metadata import TopicOptions
from pystream.verification import Progress, check_is_store, verify_alone
from pystream.verified import DAMAGE, TORN, Finding, Report

__all__ = ["Action", "Outcome", "repair"]

REPAIRS_DIRECTORY: Final = "repairs"
TEMPORARY: Final = "repair.tmp"
"""Beside a segment; who opens the partition next removes what is left of it."""

_IN_SEGMENTS: Final = ("segment", "batch", "seal", "records")


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a repair."""

    kind: str
    """"document": store.json or topic.json with its one wrong byte put right. "segment": written anew.
    "epochs": made from the segments. "index": likewise. "opening": a partition is opened, which makes
    its control page from the segments and cuts off a torn tail. "none": it cannot be mended."""
    what: str
    """In words."""
    path: str
    topic: str | None = None
    partition: int | None = None
    segment: int | None = None
    """Base offset."""
    through: int = 0
    finished: bool = False
    usable: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `repair` would do, or has done."""

    path: str
    """The store's directory."""
    executed: bool
    before: Report
    after: Report | None
    """As it is now; None: nothing was done."""
    actions: tuple[Action, ...]
    kept: tuple[str, ...]
    """The files that hold what was there before."""
    record: str | None
    """The file in which all of this is written down."""

    @property
    def refused(self) -> tuple[Action, ...]:
        """What cannot be mended."""
        return tuple(one for one in self.actions if one.kind == "none")

    @property
    def needed(self) -> bool:
        """True when there is, or was, anything to do."""
        return bool(self.actions)


def repair(
    path: str | os.PathLike[str],
    topic: str | None = None,
    partition: int | None = None,
    *,
    execute: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Say what would be done to mend a store, a topic or a partition; or do it.

    Damaged batches become gaps: readers pass over them, and every other record keeps its offset. What was
    there is kept in files that end in ".damaged", which may be deleted when nobody wants to look at them.
    The store is opened at the end, so that what a crash has left torn is cut off, too.

    Args:
        path: the store's directory. Nobody may have it open.
        topic: only this topic.
        partition: only this partition of it.
        execute: do it. Otherwise nothing is written.
        progress: called now and then, in this thread, with the bytes checked and the bytes there are.

    Raises:
        StorageError: somebody has the store open (errno EBUSY), or a system call failed (a full disk,
            perhaps). What was done until then stays; repairing again ends the work.
        StoreNotFoundError, TopicNotFoundError: there is none.
        OptionError: the topic has no such partition.
    """
    execute = opt.parse_flag("execute", execute)
    store = os.path.abspath(os.fspath(path))
    check_is_store(store)
    if not execute:
        before = verify_alone(store, topic, partition, progress=progress, alone=False)
        actions = tuple(_Plan(store, before).actions())
        return Outcome(store, False, before, None, actions, (), None)
    with _alone(store) as workshop:
        before = verify_alone(store, topic, partition, progress=progress)
        record = _Record(store, topic, partition)
        actions = (*_Plan(store, before).actions(), *record.left_over())
        if not actions and not record.interrupted:
            return Outcome(store, True, before, before, (), (), None)
        done = _Doer(store, workshop)
        record.begin(before, actions)
        workshop.point("repair.begun")
        for one in actions:
            if one.kind == "document":
                with metadata.storage_errors(one.path):
                    done.document(one)
        if any(one.kind == "document" for one in actions):  # now more is known than before
            report = verify_alone(store, topic, partition, progress=progress)
            more = (*_Plan(store, report).actions(), *record.left_over())
            actions = (*(one for one in actions if one.kind == "document"), *more)
        for one in actions:
            with metadata.storage_errors(one.path):
                done.run(one)
        record.end(actions, done.kept)
        workshop.point("repair.recorded")
    _open(store, actions)
    after = verify_alone(store, topic, partition, progress=progress, alone=False)
    return Outcome(store, True, before, after, actions, tuple(done.kept), record.path)


@contextmanager
def _alone(store: str) -> Iterator[native.Workshop]:
    try:
        workshop = native.Workshop(store)
    except BlockingIOError:
        raise StorageError(
            errno.EBUSY,
            f"the store is open{_users(store)}; close it everywhere, then repair it",
            store,
            path=store,
            errno_=errno.EBUSY,
        ) from None
    except OSError as error:
        raise StorageError(error.errno, error.strerror, store, path=store, errno_=error.errno) from error
    with closing(workshop):
        yield workshop


def _users(store: str) -> str:
    """Which processes have the store open, as far as may be known."""
    live, found = os.path.realpath(os.path.join(store, "live")), []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if not entry.isdecimal():
            continue
        with suppress(OSError):
            for name in os.listdir(f"/proc/{entry}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{entry}/fd/{name}") == live and int(entry) not in found:
                        found.append(int(entry))
    if not found:
        return " in another process"
    words = ", ".join(map(str, found[:8])) + ", ..." * (len(found) > 8)
    return f" in process {words}" if len(found) == 1 else f" in processes {words}"


def _open(store: str, actions: tuple[Action, ...]) -> None:
    """Have recovery make what is made from segments, in every partition that something was done to."""
    from pystream.opening import open as open_store

    touched = {(one.topic, one.partition) for one in actions if one.kind != "none"}
    if not touched:
        return
    with suppress(PystreamError), open_store(store, create=False) as opened:
        for topic, partition in sorted(touched, key=str):
            if topic is not None and partition is not None:
                with suppress(PystreamError):  # what could not be mended is found by the check that follows
                    opened.topic(topic).partition(partition)._log()


# ---- what to do -----------------------------------------------------------------------------------------


class _Plan:
    """The steps that a report asks for, in order."""

    def __init__(self, store: str, report: Report) -> None:
        self._store = store
        self._report = report

    def actions(self) -> Iterator[Action]:
        lost_topics = set()
        for found in self._report.others:
            if found.kind != DAMAGE:
                continue
            if found.remedy == "repair":
                what = "put right the one byte, or the end, that its checksum shows to be wrong"
                yield Action("document", what, found.path, found.topic)
            elif found.remedy == "opening":
                yield Action("opening", found.what, found.path)
            else:
                yield _refuse(found)
            if found.part == "topic" and found.remedy != "repair":
                lost_topics.add(found.topic)
        for part in self._report.partitions:
            if part.topic in lost_topics and any(one.remedy for one in part.findings):
                what = "its records are left as they are until topic.json is there again"
                yield Action("none", what, self._directory(part.topic, part.partition), part.topic)
            else:
                yield from self._partition(part.topic, part.partition, part.findings)

    def _directory(self, topic: str, partition: int) -> str:
        return os.path.join(metadata.topic_directory(self._store, topic), str(partition))

    def _partition(self, topic: str, partition: int, findings: tuple[Finding, ...]) -> Iterator[Action]:
        directory = self._directory(topic, partition)
        serious = [one for one in findings if one.kind in (DAMAGE, TORN)]
        if any(one.kind == "unchecked" for one in findings) and serious:
            what = "left as it is: not everything in it could be read, or a later version wrote some of it"
            yield Action("none", what, directory, topic, partition)
            return
        hopeless = [one for one in serious if one.remedy in ("", "backup")]
        for one in hopeless:
            yield _refuse(one)
        if hopeless:
            return
        wrong = [one for one in serious if one.remedy == "repair"]
        segments: dict[int, list[Finding]] = {}
        for one in wrong:
            if one.part in _IN_SEGMENTS and one.segment is not None:
                segments.setdefault(one.segment, []).append(one)
        if segments:
            yield from self._segments(directory, topic, partition, segments)
        if any(one.part == "epochs" for one in wrong):
            what = "make the list of leader epochs from the segments"
            yield Action("epochs", what, os.path.join(directory, "epochs"), topic, partition)
        for one in wrong:
            if one.part == "index" and one.segment not in segments:
                what = "make the index from the segment"
                yield Action("index", what, one.path, topic, partition, one.segment)
        for one in serious:
            if one.remedy == "opening":
                yield Action("opening", one.what, one.path, topic, partition, one.segment)

    def _segments(
        self, directory: str, topic: str, partition: int, segments: dict[int, list[Finding]]
    ) -> Iterator[Action]:
        there = {base for base, _ in segment_files(directory)}
        order = sorted(there | segments.keys())
        for base, found in sorted(segments.items()):
            at = order.index(base) + 1
            following = order[at] if at < len(order) else None
            path = os.path.join(directory, f"{base:020}.log")
            spans = [one.offsets for one in found if one.offsets is not None]
            through = following if following is not None else max([base, _durable(directory)])
            if following is None and base not in there:
                through = max(through, *(after for _, after in spans))
            foreign = any(one.what.startswith("this segment is of topic") for one in found)
            usable = base in there and not foreign
            lost = sum(after - first for first, after in spans)
            what = "write it anew from its sound batches" if usable else "make an empty one in its place"
            what += f"; {lost:,} offset{'s' * (lost != 1)} become{'s' * (lost == 1)} a gap" if lost else ""
            yield Action(
                "segment", what, path, topic, partition, base, through, following is not None, usable
            )


def _refuse(found: Finding) -> Action:
    return Action("none", found.text, found.path, found.topic, found.partition, found.segment)


def _durable(directory: str) -> int:
    """Below this offset everything was synced, says the control page; 0: nobody knows."""
    with suppress(PystreamError):
        head = read_head(os.path.join(directory, "head"))
        if head.state == "sound" and head.slot is not None:
            return max(0, min(head.durable_offset, head.slot.log_end))
    return 0


# ---- doing it -------------------------------------------------------------------------------------------


class _Doer:
    """Does one step after another, each whole or not at all."""

    def __init__(self, store: str, workshop: native.Workshop) -> None:
        self._store = store
        self._workshop = workshop
        self.kept: list[str] = []

    def run(self, action: Action) -> None:
        if action.kind not in ("segment", "epochs", "index"):
            return
        assert action.topic is not None
        found = metadata.read_topic(self._store, action.topic)
        assert found is not None, "a topic that cannot be read is refused"
        identity, options = found
        with metadata.storage_errors(action.path):
            if action.kind == "segment":
                self._segment(action, identity.uuid, options)
            elif action.kind == "epochs":
                self._epochs(action)
            else:
                self._index(action, options)

    def document(self, action: Action) -> None:
        """store.json or topic.json."""
        part = "store" if action.topic is None else "topic"
        with metadata.storage_errors(action.path):
            data = mended(_read(action.path), f"pystream {part}")
            assert data is not None, "asked of the same bytes a moment ago"
            self._swap(action.path, lambda target: _write(target, data))

    def _segment(self, action: Action, uuid: UUID, options: TopicOptions) -> None:
        assert action.segment is not None and action.partition is not None
        source = os.open(action.path, os.O_RDONLY | os.O_CLOEXEC) if action.usable else None
        epoch, capacity = self._nature(action, options)
        partition, base = action.partition, action.segment
        salt = salt_of_index(action.path) if action.usable else None

        def write(target: int) -> None:
            self._workshop.write_segment(
                source,
                target,
                base,
                uuid.bytes,
                partition,
                epoch,
                capacity,
                salt,
                action.through,
                action.finished,
            )

        try:
            # Where the last segment changes, what the head says of the log's end is not so any more.
            self._workshop.unsettle(os.path.join(os.path.dirname(action.path), "head"))
            self._workshop.point("repair.unsettled")
            self._swap(action.path, write)
        finally:
            if source is not None:
                os.close(source)
        self._index(action, options)

    @staticmethod
    def _nature(action: Action, options: TopicOptions) -> tuple[int, int]:
        """The leader epoch of a segment, and the bytes that it may grow to."""
        assert action.segment is not None
        epoch = 0
        directory = os.path.dirname(action.path)
        for base, path in segment_files(directory):
            if base > action.segment or (base == action.segment and not action.usable):
                break
            for event in walk_segment(path, bodies=False):
                if isinstance(event, SegmentHeader) and event.sound:
                    epoch = event.leader_epoch or 0
                    if base == action.segment and event.capacity is not None:
                        return epoch, event.capacity
                    break
                if isinstance(event, Frame):
                    epoch = event.leader_epoch
                    break
        return epoch, options.segment_bytes

    def _index(self, action: Action, options: TopicOptions) -> None:
        assert action.segment is not None
        directory = os.path.dirname(action.path)
        self._workshop.make_index(directory, action.segment, options.index_interval_bytes)
        self._workshop.point("repair.indexed")

    def _epochs(self, action: Action) -> None:
        directory = os.path.dirname(action.path)
        entries: dict[int, tuple[int, int, int]] = {}
        if os.path.lexists(action.path):
            for entry in read_epochs(action.path):
                if entry.sound and entry.epoch is not None:
                    entries[entry.epoch] = (entry.epoch, entry.first_offset or 0, entry.created or 0)
        for base, path in segment_files(directory):
            header = next(walk_segment(path, bodies=False, end_offset=-1))
            if isinstance(header, SegmentHeader) and header.sound and header.leader_epoch is not None:
                entries.setdefault(
                    header.leader_epoch, (header.leader_epoch, base, header.created or time.time_ns())
                )
        data = native.epochs(entries[epoch] for epoch in sorted(entries))
        self._swap(action.path, lambda target: _write(target, data))

    def _swap(self, path: str, write: Callable[[int], None]) -> None:
        """Put what `write` writes in the place of a file, which is kept beside it."""
        directory = os.path.dirname(path)
        temporary = os.path.join(directory, TEMPORARY)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        target = os.open(temporary, flags, 0o666)
        try:
            with suppress(FileNotFoundError):
                os.fchmod(target, os.stat(path).st_mode & 0o7777)
            write(target)
            os.fsync(target)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(target)
        self._workshop.point("repair.written")
        self._keep(path)
        metadata.sync_directory(directory)
        self._workshop.point("repair.kept")
        os.rename(temporary, path)
        self._workshop.point("repair.swapped")
        metadata.sync_directory(directory)

    def _keep(self, path: str) -> None:
        """Give a file a second name, unless a repair that was interrupted has."""
        if not os.path.exists(path):
            return
        number = 1
        while os.path.lexists(name := f"{path}.{number}.damaged"):
            if os.path.samefile(name, path):
                break
            number += 1
        else:
            os.link(path, name)
        self.kept.append(name)


class _Record:
    """STORE/repairs/MOMENT.json: what was found, what was to be done, and whether it was."""

    def __init__(self, store: str, topic: str | None, partition: int | None) -> None:
        self._store = store
        self._directory = os.path.join(store, REPAIRS_DIRECTORY)
        self.path: str | None = None
        self.interrupted: list[str] = []
        with metadata.storage_errors(self._directory), suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._directory)):
                if not name.endswith(".json"):  # one that did not come to its name
                    continue
                file = os.path.join(self._directory, name)
                with suppress(CorruptLogError, FormatVersionError):
                    if metadata.decode(_read(file), format="pystream repair", path=file)["state"] == "begun":
                        self.interrupted.append(file)
        self._document: dict[str, Any] = {
            **metadata.new_document("pystream repair"),
            "state": "begun",
            "of": {"topic": topic, "partition": partition},
        }

    def left_over(self) -> Iterator[Action]:
        """What an interrupted repair may not have come to, and no check would find: indexes."""
        for file in self.interrupted:
            for action in metadata.decode(_read(file), format="pystream repair", path=file)["actions"]:
                if action["kind"] in ("segment", "index"):
                    path = os.path.join(self._store, action["path"])
                    what = "make the index from the segment, for a repair that was interrupted"
                    yield Action("index", what, path, action["topic"], action["partition"], action["segment"])

    def begin(self, before: Report, actions: tuple[Action, ...]) -> None:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path = os.path.join(self._directory, f"{moment}.json")
        self._document["found"] = [self._relative(asdict(one)) for one in before.findings]
        self._document["continues"] = [os.path.basename(file) for file in self.interrupted]
        self._write(actions, [])

    def end(self, actions: tuple[Action, ...], kept: list[str]) -> None:
        self._document["state"] = "done"
        self._document["finished"] = datetime.now(UTC).isoformat(timespec="microseconds")
        self._write(actions, kept)
        for file in self.interrupted:
            with metadata.storage_errors(file):
                document = metadata.decode(_read(file), format="pystream repair", path=file)
                self._replace(file, {**document, "state": "interrupted"})

    def _write(self, actions: tuple[Action, ...], kept: list[str]) -> None:
        assert self.path is not None
        self._document["actions"] = [self._relative(asdict(one)) for one in actions]
        self._document["kept"] = [os.path.relpath(name, self._store) for name in kept]
        with metadata.storage_errors(self.path):
            if not os.path.isdir(self._directory):
                os.mkdir(self._directory)
                metadata.sync_directory(self._store)
            self._replace(self.path, self._document)

    def _replace(self, path: str, document: dict[str, Any]) -> None:
        temporary = os.path.join(self._directory, TEMPORARY)
        with open(temporary, "wb") as file:
            file.write(metadata.encode(document))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        metadata.sync_directory(self._directory)

    def _relative(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "path": os.path.relpath(fields["path"], self._store)}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(target: int, data: bytes) -> None:
    with open(target, "wb", closefd=False) as file:
        file.write(data)
