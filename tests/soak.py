"""A soak: writers at full speed through a topic of bounded size, and readers behind them.

    python -m tests.soak --seconds 300 --bound 64MiB --segment 8MiB

Disk use is looked at all the while. The records of a partition may take the bound and a segment; half a one
more, for each writer, where the machine is so busy, or the disk so slow, that the thread that removes them
falls behind, and writers are held back. On the disk are, beside that, what is reserved of the segment that is
written to, and of the next one, made ready. What is more than the bound may be gone, what is not must be
there: readers are given all records of every writer, in order, and those that do not keep up hear of what
they missed, and how much that was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

import pystream
from harness import Life
from pystream import options as opt
from pystream._native import maintenance as native
from pystream.maintenance.rules import stored_bytes

TOPIC: Final = "sized"
PARTITIONS: Final = 2
WRITERS: Final = 2
VALUE_BYTES: Final = 200
RECORDS: Final = 2000
"""Of one batch."""
LATE_BYTES: Final = 4 << 20
"""What is appended at least before writers are held back, as segments are removed too slowly."""
LOOK_S: Final = 0.01

VALUE: Final = np.dtype(
    [("writer", "<i4"), ("partition", "<i4"), ("number", "<i8"), ("fill", f"V{VALUE_BYTES - 16}")]
)


@dataclass
class Verdict:
    """What came of it."""

    seconds: float
    bound: int
    segment: int
    written_bytes: int = 0
    """Of values, by all writers."""
    records: int = 0
    used_bytes_max: int = 0
    """The most that the records of one partition took."""
    used_max_s: float = 0.0
    """When that was."""
    used_bound: int = 0
    """What they may take."""
    over_share: float = 0.0
    """Of the looks at a partition, how many saw more than the bound and a segment and a quarter."""
    disk_bytes_max: int = 0
    """The most that the topic took on the disk, what is only reserved included."""
    disk_bound: int = 0
    looks: int = 0
    records_removed: int = 0
    read: int = 0
    """Records that the reader that keeps up was given."""
    missed: int = 0
    """Records that the slow one was told it had missed."""
    falls: int = 0
    """How often it was."""
    anomalies: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.anomalies


# ---- processes ------------------------------------------------------------------------------------


def write(channel: Any, path: str, writer: int, seconds: float, maintained: bool) -> None:
    """Append batches to every partition in turn, as quickly as it goes."""
    with pystream.open(path, maintenance=None if maintained else False) as store:
        topic = store.topic(TOPIC)
        partitions = [topic.partition(index) for index in range(PARTITIONS)]
        values = np.zeros(RECORDS, VALUE)
        values["writer"] = writer
        numbers = [0] * PARTITIONS
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for index, partition in enumerate(partitions):
                values["partition"] = index
                values["number"] = np.arange(numbers[index], numbers[index] + RECORDS)
                partition.append(values)
                numbers[index] += RECORDS
        channel.send(numbers)


def read(channel: Any, path: str, pause: float) -> None:
    """Read everything from the beginning, resting for `pause` seconds after each batch; tell what was given,
    what was said to be missed, and what was neither."""
    anomalies: list[str] = []
    given = missed = falls = 0
    following: dict[tuple[int, int], int] = {}  # (partition, writer) -> the next number
    positions = dict.fromkeys(range(PARTITIONS), 0)
    with (
        pystream.open(path, "r") as store,
        store.consumer(TOPIC, out_of_range="raise", timeout=1) as consumer,
    ):
        channel.send("ready")
        while True:
            is_over = channel.poll(0)  # looked at first: what comes after is read to its end
            try:
                batch = consumer.poll(timeout=0.2)
            except pystream.OffsetOutOfRangeError as error:
                falls += 1
                index = error.partition
                assert index is not None
                start = consumer.beginning_offsets([(TOPIC, index)])[TOPIC, index]
                if start <= positions[index]:
                    anomalies.append(f"{index}: fell off at {positions[index]}, though it begins at {start}")
                continue
            if batch is None:
                if is_over:
                    break
                continue
            index = batch.partition
            if batch.base_offset != positions[index]:
                if batch.base_offset < positions[index] or not falls:
                    anomalies.append(f"{index}: given {batch.base_offset} after {positions[index]}")
                missed += batch.base_offset - positions[index]
                following = {key: number for key, number in following.items() if key[0] != index}
            positions[index] = batch.next_offset
            rows = batch.values.to_numpy()
            given += len(rows)
            if (rows["partition"] != index).any():
                anomalies.append(f"{index}: records of another partition")
            for writer in map(int, np.unique(rows["writer"])):
                numbers = rows["number"][rows["writer"] == writer]
                expected = following.get((index, writer), int(numbers[0]))
                if (np.diff(numbers) != 1).any() or expected != numbers[0]:
                    anomalies.append(f"{index}, writer {writer}: {numbers[0]} after {expected - 1}")
                following[index, writer] = int(numbers[-1]) + 1
            if pause and not is_over:
                time.sleep(pause)
    channel.send(
        {"given": given, "missed": missed, "falls": falls, "anomalies": anomalies[:20], "ends": positions}
    )


# ---- the disk -------------------------------------------------------------------------------------


class Disk:
    """Looks at what the topic takes."""

    def __init__(self, store: pystream.Store, verdict: Verdict) -> None:
        self._handle = store._handle
        self._directories = [f"{store.path}/topics/{TOPIC}/{index}" for index in range(PARTITIONS)]
        self._verdict = verdict
        self._begun = time.monotonic()
        self._over = 0

    def look(self) -> None:
        verdict, total = self._verdict, 0
        for directory in self._directories:
            for name in os.listdir(directory):
                with suppress(FileNotFoundError):
                    total += os.stat(f"{directory}/{name}").st_blocks * 512
            used = stored_bytes(native.look(self._handle, directory))
            self._over += used > verdict.bound + verdict.segment * 5 // 4
            if used > verdict.used_bytes_max:
                verdict.used_bytes_max, verdict.used_max_s = used, time.monotonic() - self._begun
        verdict.disk_bytes_max = max(verdict.disk_bytes_max, total)
        verdict.looks += 1
        verdict.over_share = self._over / (verdict.looks * len(self._directories))


def run(path: str, seconds: float, bound: int, segment: int, *, maintained: bool = True) -> Verdict:
    """Soak for so long in an empty directory. `maintained`: False shows that what is too much is noticed."""
    verdict = Verdict(seconds, bound, segment)
    # A batch of each writer may come on top before it hears of it, and files have a head and an end.
    batch = RECORDS * VALUE_BYTES + 4096
    verdict.used_bound = bound + segment + WRITERS * (max(segment // 2, LATE_BYTES) + batch) + 2 * batch
    # What is reserved: the rest of the segment that is written to, the next one, one that is about to get its
    # name, and indexes.
    verdict.disk_bound = PARTITIONS * (verdict.used_bound + 3 * segment + (1 << 20))
    with pystream.open(path, maintenance=False) as store:
        store.topic(
            TOPIC,
            create=True,
            partitions=PARTITIONS,
            segment_bytes=segment,
            retention_bytes=bound,
            dtype=VALUE,
        )
    quick, slow = Life(read, path, 0.0), Life(read, path, seconds / 20)
    assert quick.receive() == slow.receive() == "ready"
    writers = [Life(write, path, number, seconds, maintained) for number in range(WRITERS)]
    with pystream.open(path, "r") as store:
        disk = Disk(store, verdict)
        while any(writer.process.is_alive() for writer in writers):
            disk.look()
            if all(writer.channel.poll(0) for writer in writers):
                break
            time.sleep(LOOK_S)
    numbers = [writer.receive() for writer in writers]
    for writer in writers:
        if writer.end() != 0:
            verdict.anomalies.append("a writer did not end well")
    for reader in (quick, slow):
        reader.channel.send("over")
    told = [quick.receive(), slow.receive()]
    for reader in (quick, slow):
        reader.end()
    judge(verdict, path, numbers, told)
    return verdict


def judge(verdict: Verdict, path: str, numbers: list[list[int]], told: list[dict[str, Any]]) -> None:
    """Hold what was seen against what must be."""
    quick, slow = told
    ends = {index: sum(each[index] for each in numbers) for index in range(PARTITIONS)}
    verdict.records = sum(ends.values())
    verdict.written_bytes = verdict.records * VALUE_BYTES
    verdict.read, verdict.missed, verdict.falls = quick["given"], slow["missed"], slow["falls"]
    for name, reader in (("quick", quick), ("slow", slow)):
        verdict.anomalies += [f"{name} reader: {text}" for text in reader["anomalies"]]
        if reader["ends"] != ends:
            verdict.anomalies.append(f"{name} reader: ended at {reader['ends']}, not at {ends}")
        if reader["given"] + reader["missed"] != verdict.records:
            verdict.anomalies.append(
                f"{name} reader: {reader['given']} given and {reader['missed']} missed of {verdict.records}"
            )
    if verdict.used_bytes_max > verdict.used_bound:
        verdict.anomalies.append(
            f"the records of a partition took {verdict.used_bytes_max:,} bytes, not {verdict.used_bound:,}"
        )
    if verdict.disk_bytes_max > verdict.disk_bound:
        verdict.anomalies.append(
            f"{verdict.disk_bytes_max:,} bytes on the disk: more than {verdict.disk_bound:,}"
        )
    with pystream.open(path, maintenance=False) as store:
        for index in range(PARTITIONS):
            partition = store.topic(TOPIC).partition(index)
            kept = sum(len(batch) * VALUE_BYTES for batch in partition.scan())
            if partition.end_offset != ends[index]:
                verdict.anomalies.append(
                    f"partition {index} ends at {partition.end_offset}, not {ends[index]}"
                )
            if partition.beginning_offset and kept < verdict.bound * 0.9:
                verdict.anomalies.append(f"partition {index}: only {kept:,} bytes are left")
            verdict.records_removed += partition.beginning_offset
        if store.verify().damage:
            verdict.anomalies.append("verify found damage")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--seconds", type=lambda text: opt.parse_duration("seconds", text) / 1e9, default=60.0
    )
    parser.add_argument("--bound", type=_size, default=64 << 20, help="of each partition (default 64 MiB)")
    parser.add_argument("--segment", type=_size, default=8 << 20, help="bytes of a segment (default 8 MiB)")
    parser.add_argument("--directory", type=Path, help="where the store is made")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="pystream-soak-", dir=options.directory)
    verdict = run(f"{directory}/store", options.seconds, options.bound, options.segment)
    if options.json:
        print(json.dumps(asdict(verdict)))
    else:
        for name, value in asdict(verdict).items():
            print(f"{name:20} {value:,}" if isinstance(value, int) else f"{name:20} {value}")
    if verdict.is_sound:
        shutil.rmtree(directory)
    else:
        print(f"the store: {directory}", file=sys.stderr)
    return 0 if verdict.is_sound else 1


def _size(text: str) -> int:
    return opt.parse_size("size", text, minimum=1 << 16, maximum=1 << 40)


if __name__ == "__main__":
    sys.exit(main())
