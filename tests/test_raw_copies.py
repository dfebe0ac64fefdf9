"""Copies of files made while the store is in use: recovered to what is true, or refused; never believed."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import backups
import pystream
from backups import content, fill
from harness import LONG, Life, Snapshot, quick_directory

SECONDS = 8.0 if LONG else 1.6
ROUNDS = 20 if LONG else 3


@pytest.fixture
def here() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


# ---- ways to copy -----------------------------------------------------------------------------------------


def slowly(source: Path, target: Path, chance: random.Random) -> None:
    """File by file, in any order, in pieces."""
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in [source, *(path for path in source.rglob("*") if path.is_dir())]:
        (target / path.relative_to(source)).mkdir(exist_ok=True)
    chance.shuffle(files)
    for path in files:
        with (
            suppress(FileNotFoundError),
            open(path, "rb") as old,
            open(target / path.relative_to(source), "wb") as new,
        ):
            while data := old.read(1 << 14):
                new.write(data)
                if chance.random() < 0.02:
                    time.sleep(0.002)
        if chance.random() < 0.3:
            time.sleep(0.003)


def twice(source: Path, target: Path, chance: random.Random) -> None:
    """Once, and then what has changed, into the same files."""
    slowly(source, target, chance)
    for path in source.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_dir():
                (target / path.relative_to(source)).mkdir(exist_ok=True)
            else:
                shutil.copy2(path, target / path.relative_to(source))


def cp(source: Path, target: Path, chance: random.Random) -> None:
    subprocess.run(["cp", "-r", source, target], check=False, stderr=subprocess.DEVNULL)


WAYS: tuple[Callable[[Path, Path, random.Random], None], ...] = (slowly, slowly, twice, cp)


@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_copies_of_a_store_in_use(here: Path, durability: str) -> None:
    """Each opens with a prefix of what was written, and a group that goes on passes over nothing; or it is
    refused."""
    seen: Counter[str] = Counter()
    chance = random.Random(durability)
    for _ in range(ROUNDS):
        source = here / "s"
        shutil.rmtree(source, ignore_errors=True)
        with pystream.open(source) as store:
            store.topic("t", create=True, partitions=2, segment_bytes=65536, durability=durability)
        writers = [Life(backups.write, str(source), seed, SECONDS) for seed in range(2)]
        reader = Life(backups.consume, str(source), SECONDS)
        assert reader.receive() == "ready"
        copies = []
        end = time.monotonic() + SECONDS - 0.3
        while time.monotonic() < end:
            copies.append(here / f"c{len(copies)}")
            chance.choice(WAYS)(source, copies[-1], chance)
        for life in writers:
            life.received()
            life.end()
        reader.end()
        with pystream.open(source, "r") as store:
            truth = content(store)
        for copy in copies:
            seen[judge(copy, truth)] += 1
            shutil.rmtree(copy)
    assert seen["recovered"] > 3 and set(seen) <= {"recovered", "refused"}


def judge(copy: Path, truth: dict[tuple[str, int], list[backups.Row]]) -> str:
    """What became of a copy."""
    try:
        with pystream.open(copy, create=False) as store:
            topic = store.topic("t")
            found = content(store)
            assert backups.is_prefix(found, truth)
            assert all([row.offset for row in rows] == list(range(len(rows))) for rows in found.values())
            ends = [topic.partition(number).end_offset for number in range(2)]
            for number in range(2):
                topic.partition(number).append([b"new"] * 2000)
            if "g" in store.groups():
                with store.consumer("t", group="g", timeout=0, truncated="resume") as consumer:
                    first: dict[int, int] = {}
                    for record in consumer:
                        first.setdefault(record.partition, record.offset)
                assert all(first[number] <= ends[number] for number in range(2)), (first, ends)
    except pystream.CorruptLogError as error:
        words = "is this a copy of files that were in use? `pystream backup` copies such stores"
        assert words in str(error) or "no sound frame" in str(error)
        return "refused"
    except (pystream.StoreNotFoundError, pystream.TopicNotFoundError):
        return "refused"
    return "recovered"


def test_a_copy_of_a_closed_store_is_believed(here: Path) -> None:
    """With a leader epoch of its own: what it gives out is told apart from what the other gives out."""
    with pystream.open(here / "s") as store:
        fill(store)
        truth = content(store)
    cp(here / "s", here / "c", random.Random())
    with pystream.open(here / "c", "r") as copy:
        assert content(copy) == truth
    with pystream.open(here / "c") as copy:
        assert content(copy) == truth
        assert copy["plain"].partition(0)._log().leader_epoch == 1
    with pystream.open(here / "c") as copy:  # only once
        assert copy["plain"].partition(0)._log().leader_epoch == 1
        copy["plain"].append([b"x"], partition=0)
    assert pystream.verify(here / "c").sound


def test_positions_saved_later_than_the_log_was_copied(here: Path) -> None:
    """The offsets beyond are given out again in the copy: they are other records, and none is passed over."""
    with pystream.open(here / "s") as store:
        topic = store.topic("t", create=True, durability="sync")
        topic.append([b"old"] * 5)
        with store.consumer("t", group="g", timeout=0) as consumer:
            shutil.copytree(here / "s" / "topics", here / "c" / "topics")  # all synced, nothing torn
            topic.append([b"later"] * 5)
            for _ in consumer:
                pass
    for name in ("store.json", "live"):
        shutil.copy(here / "s" / name, here / "c" / name)
    shutil.copytree(here / "s/groups", here / "c/groups")
    with pystream.open(here / "c") as copy:
        copy["t"].append([b"another"] * 9)
        with copy.consumer("t", group="g", timeout=0) as consumer, pytest.raises(pystream.LogTruncatedError):
            next(iter(consumer))
        with copy.consumer("t", group="g", timeout=0, truncated="resume") as consumer:
            assert [(record.offset, record.value) for record in consumer] == [
                (offset, b"another") for offset in range(5, 14)
            ]


def test_restored_in_place(here: Path) -> None:
    """Old contents in the same files, as `rsync --inplace` leaves them: the store is as it was then."""
    path = here / "s"
    with pystream.open(path) as store:
        fill(store)
        old = content(store)
    before = Snapshot(path)
    with pystream.open(path) as store:
        for i in range(60):
            store["plain"].append([b"%d" % i + bytes(3000)], partition=0)
    before.restore()
    with pystream.open(path) as store:
        assert content(store) == old
        assert store["plain"].partition(0).append([b"on"]) == len(old["plain", 0])
    assert pystream.verify(path).sound


def test_restored_in_place_but_for_later_files(here: Path) -> None:
    """As without `--delete`: the segments that came later do not join, which is said; none is cut."""
    path = here / "s"
    with pystream.open(path) as store:
        store.topic("t", create=True, segment_bytes=65536).append([b"old" + bytes(1000)] * 3)
    before = Snapshot(path)
    with pystream.open(path) as store:
        for _ in range(100):
            store["t"].append([bytes(3000)])
        store["t"].partition(0).flush(durable=True)
        store["t"].append([bytes(3000)])
    for name, data in before.files.items():
        before.write(name, data)
    with pystream.open(path) as store, pytest.raises(pystream.CorruptLogError):
        content(store)
    assert not pystream.verify(path).sound
