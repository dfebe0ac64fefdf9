"""What stands beside the segments of a partition: head, epochs, indexes, and what is none of ours."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pystream._native.verify import EPOCH_ENTRY_BYTES, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES
from pystream.checking.looks import Look
from pystream.errors import PystreamError
from pystream.inspection import read_epochs, read_index
from pystream.verified import DAMAGE, NOTE, UNCHECKED, Finding, PartitionReport

KEPT: Final = re.compile(r"\d{20}\.log\.\d{10}\.cut|(\d{20}\.(log|index)|epochs)\.\d+\.damaged")
_SEGMENT: Final = re.compile(r"(\d{20})\.log")
_OURS: Final = re.compile(r"head|epochs|\d{20}\.(log|index)|.*\.tmp")


def check_beside(look: Look, report: PartitionReport) -> PartitionReport:
    """The report, with what is found in the other files of the partition."""
    found = [*_head(look), *_epochs(look), *_indexes(look, report), *_strangers(look)]
    return replace(report, findings=(*report.findings, *found)) if found else report


def _finding(look: Look, kind: str, part: str, what: str, name: str, **more: int | str | None) -> Finding:
    path = os.path.join(look.directory, name)
    return Finding(kind, part, what, path, look.topic, look.partition, **more)  # type: ignore[arg-type]


def _head(look: Look) -> Iterator[Finding]:
    state, used = look.head_state, bool(look.files)
    if state == "newer":
        what = "a later version of pystream wrote the control page"
        yield _finding(look, UNCHECKED, "head", what, "head")
    elif state == "unreadable":
        yield _finding(look, UNCHECKED, "head", "the control page cannot be read", "head")
    elif state == "damaged" or (state in ("missing", "blank") and used):
        words = {"damaged": "is damaged", "missing": "is missing", "blank": "is blank"}
        what = f"the control page {words[state]}; it is made from the segments"
        yield _finding(look, DAMAGE, "head", what, "head", remedy="opening")
    elif look.head is not None and look.head.poison is not None:
        what = f"a write or sync failed: {os.strerror(look.head.poison)}; close the store everywhere"
        yield _finding(look, NOTE, "head", what, "head", remedy="opening")


def _epochs(look: Look) -> Iterator[Finding]:
    path = os.path.join(look.directory, "epochs")
    needed = {result.epoch for result in look.results.values() if result.epoch is not None and result.whose}
    try:
        entries = read_epochs(path)
        size = os.stat(path).st_size
    except (PystreamError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOENT:
            if needed:
                what = "the list of leader epochs is missing"
                yield _finding(look, DAMAGE, "epochs", what, "epochs", remedy="repair")
            return
        yield _finding(look, UNCHECKED, "epochs", f"cannot be read: {_reason(error)}", "epochs")
        return
    for number, entry in enumerate(entries):
        at = number * EPOCH_ENTRY_BYTES
        if at + EPOCH_ENTRY_BYTES > size:
            what = "the last entry was never finished; the next one takes its place"
            yield _finding(look, NOTE, "epochs", what, "epochs", position=at, end=size)
        elif not entry.sound:
            what = "an entry is damaged"
            end = at + EPOCH_ENTRY_BYTES
            yield _finding(look, DAMAGE, "epochs", what, "epochs", position=at, end=end, remedy="repair")
    there = {entry.epoch for entry in entries if entry.sound}
    if all(entry.sound for entry in entries[: size // EPOCH_ENTRY_BYTES]):
        for epoch in sorted(needed - there):
            what = f"epoch {epoch} is missing"
            yield _finding(look, DAMAGE, "epochs", what, "epochs", remedy="repair")


def _indexes(look: Look, report: PartitionReport) -> Iterator[Finding]:
    suspect = {one.segment for one in report.findings}  # an index names frames that are not there, then
    for base, path in look.files:
        name = os.path.basename(path).removesuffix(".log") + ".index"
        index_path = os.path.join(look.directory, name)
        if base not in look.results:
            continue
        try:
            index = read_index(index_path, end_offset=look.bound)
            size = os.stat(index_path).st_size
        except (PystreamError, OSError) as error:
            if getattr(error, "errno", None) == errno.ENOENT:
                continue  # a segment needs none; or retention has taken both since the segment was looked at
            yield _finding(look, UNCHECKED, "index", f"cannot be read: {_reason(error)}", name, segment=base)
            continue
        if index.state == "newer":
            what = "a later version of pystream wrote this index"
            yield _finding(look, UNCHECKED, "index", what, name, segment=base)
        elif index.state == "damaged":
            what = "its header is damaged; an index is made from the segment"
            yield _finding(look, DAMAGE, "index", what, name, segment=base, remedy="repair")
        elif index.state == "stale" and base not in suspect:
            what = "it is of a segment that was there before; it is not believed"
            yield _finding(look, NOTE, "index", what, name, segment=base)
        elif index.state == "sound":
            wrong = [
                entry
                for entry in index.entries
                if entry.state != "sound"
                or (entry.agrees is False and base not in suspect and entry.offset < report.end_offset)
            ]
            whole = index.capacity is None or size >= _entry_at(index.capacity)
            if wrong or not whole:
                what = (
                    f"{len(wrong):,} of its entries {'is' if len(wrong) == 1 else 'are'} wrong; it is made"
                    if whole
                    else "it was cut short; an index is made"
                )
                what += " from the segment"
                position = _entry_at(wrong[0].number) if whole else size
                yield _finding(
                    look,
                    DAMAGE,
                    "index",
                    what,
                    name,
                    segment=base,
                    position=position,
                    remedy="repair",
                )


def _strangers(look: Look) -> Iterator[Finding]:
    try:
        names = sorted(os.listdir(look.directory))
    except OSError:
        return
    there = {base for base, _ in look.files}
    last = max(there, default=0)
    for name in names:
        if KEPT.fullmatch(name):
            word = "a recovery cut away" if name.endswith(".cut") else "a repair took out"
            yield _finding(look, NOTE, "file", f"what {word}; it may be deleted", name)
        elif (found := _SEGMENT.fullmatch(name)) and int(found[1]) < last and int(found[1]) not in there:
            what = "an interrupted compaction left it; another segment has all of it, and the next removes it"
            yield _finding(look, NOTE, "file", what, name)
        elif not _OURS.fullmatch(name):
            yield _finding(look, NOTE, "file", "a file that is none of pystream's", name)


def _entry_at(number: int) -> int:
    return INDEX_HEADER_BYTES + INDEX_ENTRY_BYTES * number


def _reason(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
