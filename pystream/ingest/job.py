"""An ingest job's memory: what was to be done, and how far it has come. The design: `pystream.ingest`."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pystream import metadata
from pystream._native.hashing import xxh3_hex
from pystream._native.limits import FORMAT_VERSION
from pystream._native.rows import appended, settle
from pystream.errors import CorruptLogError, OffsetOutOfRangeError
from pystream.ingest.errors import JobBusyError, JobExistsError, SourceError
from pystream.ingest.plan import Plan
from pystream.ingest.sources import Source, fingerprint, reading

if TYPE_CHECKING:
    from pystream.partition import Partition
    from pystream.topic import Topic

SEQUENCES: Final = 1 << 31
"""Sequence numbers of a batch count records modulo this."""
_EPOCHS: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class State:
    """How far a job has come: everything before `source` and `position` is in the log, or was refused."""

    written: tuple[int, ...]
    """Records of this job in each partition."""
    ends: tuple[int, ...]
    """Offsets in each partition beyond which more of its records may stand."""
    epochs: tuple[int, ...]
    """Leader epoch of each partition when that was so."""
    source: int = 0
    position: Mapping[str, Any] | None = None
    """Within that source; None: its beginning."""
    turn: int = 0
    """Whose turn it is among the partitions, for records without a key."""
    bad: int = 0
    bad_bytes: int = 0
    """Bytes of the file of bad rows."""

    @property
    def rows(self) -> int:
        """Records written so far."""
        return sum(self.written)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> State:
        lists = {name: tuple(document[name]) for name in ("written", "ends", "epochs")}
        return cls(**{**document, **lists})


def fresh_state(topic: Topic) -> State:
    """The state of a job that has done nothing."""
    logs = [topic.partition(index)._log() for index in range(topic.partitions)]
    return State(
        written=(0,) * len(logs),
        ends=tuple(log.high_watermark for log in logs),
        epochs=tuple(log.leader_epoch for log in logs),
    )


@dataclass(slots=True)
class Job:
    """A job and its file, held by this process alone until `close`."""

    path: str
    lock: int
    document: dict[str, Any]
    state: State
    skip: list[int] = field(default_factory=list)
    """Records of each partition that stand behind the state already, and are not to be written again."""

    @property
    def producer_id(self) -> int:
        return int(self.document["producer_id"])

    @property
    def epoch(self) -> int:
        return int(self.document["runs"]) % _EPOCHS

    def limit(self, index: int) -> int | None:
        """Bytes of a source that belong to the job, where more may be appended to it."""
        mark = self.document["sources"][index]["fingerprint"]
        return None if mark is None else int(mark["bytes"])

    def save(self, state: State, *, done: bool = False) -> None:
        """Write the state. All that it counts must be durable by now."""
        self.state = state
        self.document["done"] = done
        self.document["state"] = {**asdict(state), "position": state.position and dict(state.position)}
        self.write()

    def write(self) -> None:
        with metadata.storage_errors(self.path):
            temporary = self.path + ".tmp"
            with open(temporary, "wb") as file:
                file.write(metadata.encode(self.document))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self.path)
            metadata.sync_directory(os.path.dirname(self.path))

    def discard(self) -> None:
        """Forget a job that has written nothing, so that it stands in nobody's way."""
        with metadata.storage_errors(self.path), suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        """Let others have it."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def open_job(
    topic: Topic, plan: Plan, sources: Sequence[Source], *, resume: bool, restart: bool
) -> Job | None:
    """The job of these sources into this topic, begun anew or where it stopped.

    Returns:
        None when `resume` finds that it is complete and nothing was added since.

    Raises:
        JobExistsError: it was begun, or done, before, and neither `resume` nor `restart` was said.
        JobBusyError: another process is at it.
        SourceError: `resume`, but a source is not what it was.
    """
    directory = os.path.join(topic._store.path, metadata.JOBS_DIRECTORY)
    shape = {"topic": topic.uuid.hex, "sources": [source.path for source in sources], "plan": plan.shape()}
    name = xxh3_hex(json.dumps(shape, sort_keys=True).encode())
    path = os.path.join(directory, f"{name}.json")
    with metadata.storage_errors(directory):
        if not os.path.isdir(directory):
            with suppress(FileExistsError):
                os.mkdir(directory)
            metadata.sync_directory(topic._store.path)
        lock = os.open(os.path.join(directory, f"{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # dies with the process
        except BlockingIOError:
            raise JobBusyError(
                f"another process is taking the same sources into topic {topic.name!r}; let it finish"
            ) from None
        old = None if restart else _read(path)
        if old is None:
            return _begin(path, lock, topic, sources, shape)
        return _go_on(path, lock, topic, sources, shape, old, resume)
    except BaseException:
        os.close(lock)
        raise


def _read(path: str) -> dict[str, Any] | None:
    with metadata.storage_errors(path):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
    try:
        return metadata.decode(data, format=metadata.JOB_FORMAT, path=path)
    except CorruptLogError as error:
        raise CorruptLogError(f"{error}; restart=True begins the job anew", path=path) from error


def _marks(sources: Sequence[Source]) -> list[dict[str, Any]]:
    found = []
    for source in sources:
        with reading(source.name):
            mark = fingerprint(source.path, source.size)
        found.append({"path": source.path, "fingerprint": mark})
    return found


def _begin(path: str, lock: int, topic: Topic, sources: Sequence[Source], shape: Mapping[str, Any]) -> Job:
    state = fresh_state(topic)
    document = {
        "format": metadata.JOB_FORMAT,
        "version": FORMAT_VERSION,
        "incompatible": [],
        "compatible": [],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "topic_name": topic.name,
        "shape": shape,
        "sources": _marks(sources),
        "producer_id": int.from_bytes(os.urandom(8), "little") >> 1,
        "runs": 0,
    }
    job = Job(path, lock, document, state, [0] * len(state.written))
    job.save(state)  # before the first record bears its producer id
    return job


def _go_on(
    path: str,
    lock: int,
    topic: Topic,
    sources: Sequence[Source],
    shape: Mapping[str, Any],
    document: dict[str, Any],
    resume: bool,
) -> Job | None:
    state = State.from_document(document["state"])
    done = bool(document["done"])
    changed = _changes(document, sources)
    if not resume:
        if done and changed is not None:
            return _begin(path, lock, topic, sources, shape)  # other data under an old name
        raise JobExistsError(_exists_text(topic, document, state, done, changed, sources))
    if changed is not None:
        raise SourceError(
            f"{changed}; a job can only go on with the data it began with. restart=True takes in all of "
            "it as a new job, and writes rows once more that are in the topic already"
        )
    grown = _grow(document, sources, state) if done else False
    if done and not grown:
        os.close(lock)
        return None
    document["runs"] += 1
    state, skip = count_written(topic, int(document["producer_id"]), state)
    job = Job(path, lock, document, state, skip)
    job.save(state)
    return job


def _exists_text(
    topic: Topic,
    document: Mapping[str, Any],
    state: State,
    done: bool,
    changed: str | None,
    sources: Sequence[Source],
) -> str:
    what = "this source" if len(sources) == 1 else "these sources"
    begun = str(document["created"])[:19]
    if done:
        more = sum(
            max(0, source.size - mark["fingerprint"]["bytes"])
            for source, mark in zip(sources, document["sources"], strict=True)
        )
        hint = f"resume=True takes in the {more:,} bytes that were added since, " if more else ""
        return (
            f"{what} went into topic {topic.name!r} before ({state.rows:,} rows, begun {begun}); {hint}"
            "restart=True takes everything in once more"
        )
    return (
        f"a job that takes {what} into topic {topic.name!r} was begun {begun} and is not complete "
        f"({state.rows:,} rows are in it, or more); "
        + (f"{changed}; " if changed else "resume=True goes on with it, ")
        + "restart=True begins anew, and writes those rows once more"
    )


def _changes(document: Mapping[str, Any], sources: Sequence[Source]) -> str | None:
    """What is not as it was when the job began, or None."""
    for source, mark in zip(sources, document["sources"], strict=True):
        was = mark["fingerprint"]
        if source.size < was["bytes"]:
            return f"{source.name}: has {source.size:,} bytes, fewer than the {was['bytes']:,} it had"
        if source.size > was["bytes"] and not source.can_grow:
            return f"{source.name}: has {source.size:,} bytes, more than the {was['bytes']:,} it had"
        with reading(source.name):
            if fingerprint(source.path, was["bytes"]) != was:
                return f"{source.name}: its content is not what it was"
    return None


def _grow(document: dict[str, Any], sources: Sequence[Source], state: State) -> bool:
    """Take what was appended to the last source into a job that was complete.

    Raises:
        SourceError: a source before the last has grown, or a row has: neither can be put in order.
    """
    marks = document["sources"]
    grown = [
        index for index, source in enumerate(sources) if source.size > marks[index]["fingerprint"]["bytes"]
    ]
    if not grown:
        return False
    last = len(sources) - 1
    if grown != [last]:
        name = sources[grown[0]].name
        raise SourceError(
            f"{name}: has grown, but rows of {sources[last].name} came after it; take it in by itself"
        )
    source, was = sources[last], marks[last]["fingerprint"]["bytes"]
    with reading(source.name), open(source.path, "rb") as file:
        file.seek(max(0, was - 1))
        around = file.read(2)
    if was and not around.startswith(b"\n") and not around.endswith((b"\n", b"\r")):
        raise SourceError(
            f"{source.name}: its last row had no end when it was read, and has been continued since; "
            "restart=True takes everything in once more"
        )
    marks[last] = _marks([source])[0]
    return True


def count_written(topic: Topic, producer_id: int, state: State) -> tuple[State, list[int]]:
    """What a job wrote after its state was saved.

    Returns:
        The state to go on from (the one given, or the very beginning where the log lost what the state
        counts), and how many records of each partition stand behind it.

    Raises:
        CorruptLogError: records of the job are missing between others.
    """
    partitions = [topic.partition(index) for index in range(len(state.written))]  # some may have come since
    for partition in partitions:
        settle(partition._log())  # what a killed writer left half done may not come to light later
        partition.flush(durable=True)  # and what is counted may not be lost later
    lost = any(
        partition.high_watermark < end
        or (partition._log().leader_epoch != epoch and written and not _wrote(partition, end, producer_id))
        for partition, written, end, epoch in zip(
            partitions, state.written, state.ends, state.epochs, strict=True
        )
    )
    if lost:
        # A tail was cut. Offsets say nothing any more, so all of the log is looked through, and all of the
        # sources are read again.
        epochs = tuple(partition._log().leader_epoch for partition in partitions)
        zero = (0,) * len(partitions)
        state = State(written=zero, ends=zero, epochs=epochs)
    skip = [
        _count(partition, written, end, producer_id)
        for partition, written, end in zip(partitions, state.written, state.ends, strict=True)
    ]
    return state, skip


def _wrote(partition: Partition, end: int, producer_id: int) -> bool:
    """Whether the record before `end` is the job's, as far as that can be told: no cut reaches below the log
    start."""
    if end <= partition.beginning_offset:
        return True
    return all(batch.producer_id == producer_id for batch in partition.scan(end - 1, end))


def _count(partition: Partition, written: int, end: int, producer_id: int) -> int:
    """How many records of the job were put in a partition beyond the `written` that its state counts.

    Some of those that the state counts may stand behind `end`, too: they were passed over by a run that began
    with an older state. Others may be gone by now, but only where the log has been deleted, or compacted.
    """
    while True:
        try:
            return _count_on(partition, written, end, producer_id)
        except OffsetOutOfRangeError:  # the log came to start further on meanwhile
            pass


def _count_on(partition: Partition, written: int, end: int, producer_id: int) -> int:
    due: int | None = None
    gone = 0  # offsets since the job's last batch of which nobody knows whose they were
    for offset, count, sequence in appended(partition._log(), end, producer_id):
        if sequence < 0:
            gone += count
            continue
        first = (sequence - written + SEQUENCES // 2) % SEQUENCES - SEQUENCES // 2
        missing = max(first, 0) if due is None else first - due
        is_deleted = due is None and partition.beginning_offset > end
        if missing and not is_deleted and not 0 < missing <= gone:
            raise CorruptLogError(
                f"{partition.topic}/{partition.index}: at offset {offset} stands the job's record "
                f"{written + first}, where {written + (due or 0)} is due; records of the job are missing",
                topic=partition.topic,
                partition=partition.index,
                offset=offset,
            )
        due, gone = first + count, 0
    return max(due or 0, 0)
