"""Histories: what each process did, written down as it does it.

One entry a line: monotonic nanoseconds (one clock for all processes), a word, fields. An entry is one
`os.write` that begins with a newline and ends with " ;". A process that is killed within that write leaves an
entry without the end, which the next one does not touch; it does not count, as if death had come just before.

    start NAME PID / end NAME CODE / kill NAME / stop NAME / resume NAME / late SINCE   by the conductor
    send STREAM PARTITION NUMBER COUNT             about to write records of these numbers
    ack STREAM NUMBER COUNT OFFSET BEGAN ENDED     they are acknowledged; OFFSET of the first, or -1
    fail STREAM NUMBER COUNT WHY                   refused: they may not be in the log
    hold PARTITION / release PARTITION             held for exclusive writing since, until
    alone STREAM FROM TO                           offsets written while the partition was held
    open READER PARTITION OFFSET                   a reader begins here
    seen READER (PARTITION OFFSET STREAM NUMBER COUNT)...   it was given these records
    waited READER PARTITION OFFSET BEGAN ENDED     a long wait for that offset, which came
    done READER PARTITION                          it has seen the last record
    torn WHERE TEXT / error TEXT                   a record that is none; an exception that should not be
    forked N                                       children made

Of topics that look after themselves, of which records go by rule (`keepers`):

    put STREAM PARTITION NUMBER COUNT ROOM         about to write records, which take ROOM bytes at most
    kept STREAM NUMBER COUNT OFFSET BEGAN          they are acknowledged
    from READER PARTITION OFFSET                   a reader begins here
    got READER (PARTITION OFFSET STREAM NUMBER COUNT)...   it was given these records
    begins PARTITION OFFSET SINCE                  the log was seen to start there
    delete PARTITION OFFSET                        about to cut it there
    table TOPIC (KEY OFFSET STREAM NUMBER)...      the last value of each key
    tidied SEGMENTS RECORDS                        this much was removed
    pinned FILE                                    a removed file that a process does not let go of
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RUNS_MAX = 32
SUFFIX = ".history"


class Entry(NamedTuple):
    """One line of one process."""

    actor: str
    time: int
    kind: str
    fields: list[str]

    def ints(self, start: int = 0, stop: int | None = None) -> list[int]:
        return [int(field) for field in self.fields[start:stop]]

    def text(self, start: int = 0) -> str:
        return " ".join(self.fields[start:])


class History:
    """The file that one process, with its threads and forked children, writes."""

    def __init__(self, directory: str | Path, name: str) -> None:
        path = os.path.join(directory, name + SUFFIX)
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def note(self, kind: str, *fields: object) -> None:
        words = " ".join(str(field) for field in fields).replace("\n", " | ")
        os.write(self.fd, f"\n{time.monotonic_ns()} {kind} {words} ;".encode(errors="replace"))


class Runs:
    """Records that a reader was given, as runs in which offset and number both go up by one."""

    def __init__(self, history: History, reader: str, kind: str = "seen") -> None:
        self.history = history
        self.reader = reader
        self.kind = kind
        self.runs: list[list[object]] = []

    def add(self, partition: str, offset: int, stream: int, number: int) -> None:
        if self.runs:
            last = self.runs[-1]
            count = last[4]
            if last[:4] == [partition, offset - count, stream, number - count]:  # type: ignore[operator]
                last[4] = count + 1  # type: ignore[operator]
                return
            if len(self.runs) == RUNS_MAX:
                self.flush()
        self.runs.append([partition, offset, stream, number, 1])

    def flush(self) -> None:
        """Write them down. Before more is asked for, where asking says that these have been dealt with."""
        if self.runs:
            self.history.note(self.kind, self.reader, *(word for run in self.runs for word in run))
            self.runs = []


def parse(actor: str, text: str) -> Iterator[Entry]:
    """The whole entries of one process, in order."""
    for line in text.split("\n"):
        if line.endswith(" ;"):
            time_, kind, *fields = line[:-2].split()
            yield Entry(actor, int(time_), kind, fields)


def load(directory: str | Path) -> list[Entry]:
    """All histories in a directory, process by process."""
    return [
        entry
        for path in sorted(Path(directory).glob("*" + SUFFIX))
        for entry in parse(path.name.removesuffix(SUFFIX), path.read_text(encoding="utf-8", errors="replace"))
    ]
