"""Backups and death, power failures, failing calls, writers: the last one or the new one, never a mixture."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import backups
import pystream
from backups import backup_of, content, fill, is_prefix, leftovers
from faults import environment
from harness import LONG, Life, quick_directory
from pystream.backups import place

POINTS = (
    "backup.begun",
    "backup.positions",
    "backup.planned",
    "backup.copied",
    "backup.partition",
    "backup.partitions",
    "backup.groups",
    "backup.synced",
    "backup.named",
    "backup.swapped",
    "backup.durable",
    "backup.removed",
)
"""Where a backup can be killed; there is one more where two names cannot be exchanged."""


@pytest.fixture
def here() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


def test_every_point_is_known() -> None:
    directory = Path(place.__file__).parent
    source = "".join(file.read_text() for file in directory.glob("*.py"))
    assert set(re.findall(r'point\("([^"]+)"\)', source)) == {*POINTS, "backup.aside"}


@pytest.mark.parametrize("durability", ["interval", "sync", "none"])
@pytest.mark.parametrize("exchange", [True, False])
def test_killed_at_a_point(here: Path, durability: str, exchange: bool) -> None:
    """The last backup, or the new one; the next sweeps up, or puts back what the dead had set aside."""
    with pystream.open(here / "s", durability=durability) as store:
        fill(store, durability)
        for point in POINTS if exchange else ("backup.aside", "backup.swapped"):
            for first in (True, False) if exchange else (False,):
                path = here / "b"
                if not first:
                    store.backup(path)
                old = content(store)
                store["plain"].append([b"new" + bytes(9000)], partition=0)
                life = Life(backups.back_up, str(here / "s"), str(path), exchange, fault=f"{point}:1:kill")
                assert life.end() == -signal.SIGKILL, point
                late = point in ("backup.swapped", "backup.durable", "backup.removed")
                if point == "backup.aside" or (first and not late):
                    assert not path.exists()
                else:
                    assert backup_of(path) == (content(store) if late else old), point
                swept = point == "backup.removed" or (first and late)
                assert len(leftovers(here)) == (0 if swept else 2 if point == "backup.aside" else 1), point
                assert store.backup(path).incremental == (late or not first)
                assert backup_of(path) == content(store) and leftovers(here) == []
                shutil.rmtree(path)


def test_what_was_set_aside_comes_back_to_an_empty_place(here: Path) -> None:
    """Somebody made the directory that was missing."""
    with pystream.open(here / "s") as store:
        fill(store)
        store.backup(here / "b")
        life = Life(backups.back_up, str(here / "s"), str(here / "b"), False, fault="backup.aside:1:kill")
        assert life.end() == -signal.SIGKILL
        (here / "b").mkdir()
        assert store.backup(here / "b").incremental
        assert leftovers(here) == []


def test_what_somebody_wrote_to_is_never_swept(here: Path) -> None:
    """A backup that was opened for writing while it was replaced, by a process that then died."""
    with pystream.open(here / "s") as store:
        fill(store)
        store.backup(here / "b")
        shutil.copytree(here / "b", here / ".b.backup-0123456789abcdef")
        with pystream.open(here / ".b.backup-0123456789abcdef") as copy:
            copy["plain"].append([b"only here"], partition=2)
        (here / ".b.backup-0123456789abcde").mkdir()  # not of that form: not ours
        store.backup(here / "b")
    assert sorted(leftovers(here)) == [".b.backup-0123456789abcde", ".b.backup-0123456789abcdef"]


# ---- on the interposed disk ------------------------------------------------------------------------------


def test_what_the_dead_have_left_goes_when_the_swap_is_durable(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who died between the swap and its sync has left what the disk may still call the last backup."""
    done: list[tuple[str, Path]] = []
    sync, remove = place.metadata.sync_directory, place.remove_tree

    def synced(path: str) -> None:
        sync(path)
        done.append(("sync", Path(path)))

    def removed(path: str) -> None:
        done.append(("remove", Path(path)))
        remove(path)

    with pystream.open(here / "s") as store:
        fill(store, "interval")
        store.backup(here / "b")
        dead = here / f".b.backup-{'0' * 16}"
        shutil.copytree(here / "b", dead)
        monkeypatch.setattr(place.metadata, "sync_directory", synced)
        monkeypatch.setattr(place, "remove_tree", removed)
        store.backup(here / "b")
    assert done.index(("sync", here)) < done.index(("remove", dead))
    assert not dead.exists()


def test_interrupted_in_the_swap(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the two is removed before the disk has the swap."""

    class Interrupted(place.Site):
        def exchange(self, one: str, other: str) -> None:
            super().exchange(one, other)
            raise KeyboardInterrupt

    with pystream.open(here / "s") as store:
        fill(store, "interval")
        store.backup(here / "b")
        store["plain"].append([b"new"], partition=0)
        with monkeypatch.context() as patched:
            patched.setattr("pystream.backups.Site", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.backup(here / "b")
        assert len(list(here.glob(".b.backup-*"))) == 1
        store.backup(here / "b")
    assert not list(here.glob(".b.*"))


def trials(here: Path, *arguments: object) -> list[str]:
    """What backup_trials.py says."""
    found = environment()
    found["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, Path(__file__).with_name("backup_trials.py"), here, *arguments]
    done = subprocess.run(
        list(map(str, command)), env=found, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("side", ["target", "source"])
def test_the_nth_call_fails(here: Path, side: str) -> None:
    """Each call in turn, with each errno. At the target: the last backup or the new one."""
    said = trials(here, "fail", side, 1 if LONG else 5)
    assert sum(line.startswith("failed") for line in said) > 40
    assert any(line.startswith("passed") for line in said)


def test_power_fails(here: Path) -> None:
    """Before each call in turn: what may be left of the target is the last backup or the new one."""
    said = trials(here, "photo", 1 if LONG else 3)
    assert {line.split()[0] for line in said} == {"old", "new"}


def test_calls_fail_in_a_row(here: Path) -> None:
    """Several calls in a row fail, so that tidying up fails too: the next backup does that."""
    said = trials(here, "full", 1 if LONG else 5)
    assert len(said) > 5


# ---- among writers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_among_writers_that_are_killed(here: Path, durability: str) -> None:
    """Four write and one consumes, one is killed, and so are others that make backups. Each backup that is
    there has all that was acknowledged before it began, is a prefix, and commits nothing beyond."""
    seconds = 20.0 if LONG else 4.0
    with pystream.open(here / "s", durability=durability) as store:
        store.topic("t", create=True, partitions=2, segment_bytes=65536)
    writers = [Life(backups.write, str(here / "s"), seed, seconds) for seed in range(4)]
    reader = Life(backups.consume, str(here / "s"), seconds)
    assert reader.receive() == "ready"
    dying = Life(backups.back_up_again_and_again, str(here / "s"), str(here / "dying"))
    kept = []
    end = time.monotonic() + seconds - 0.5
    acknowledged = {0: 0, 1: 0}
    with pystream.open(here / "s", "r") as store:
        while time.monotonic() < end:
            for life in writers:
                while life.channel.poll(0):
                    try:
                        partition, after = life.channel.recv()
                    except EOFError:
                        break
                    acknowledged[partition] = max(acknowledged[partition], after)
            before = dict(acknowledged)
            path = here / f"b{len(kept) % 3}"
            made = store.backup(path)
            assert made.incremental == (len(kept) >= 3)
            with pystream.open(path, "r") as copy:
                ends = {number: copy["t"].partition(number).end_offset for number in (0, 1)}
                assert all(ends[number] >= before[number] for number in ends), (before, ends)
                if "g" in copy.groups():
                    for part in copy.group("g").describe().partitions:
                        assert (part.committed or 0) <= ends[part.partition]
            if len(kept) % 3 == 2:
                dying.kill()
                dying.end()
                dying = Life(backups.back_up_again_and_again, str(here / "s"), str(here / "dying"))
            if len(kept) == 2:
                writers[0].kill()
            kept.append(backup_of(path))
    dying.kill()
    dying.end()
    for life in writers:
        life.received()
        life.end()
    reader.end()
    with pystream.open(here / "s", "r") as store:
        whole = content(store)
    assert len(kept) >= 3
    assert all(is_prefix(found, whole) for found in kept)
    if (here / "dying").exists():
        assert is_prefix(backup_of(here / "dying"), whole)
    with pystream.open(here / "s") as store:
        store.backup(here / "dying")
        assert backup_of(here / "dying") == whole == content(store)
    assert leftovers(here) == []


def test_a_thousand_partitions(here: Path) -> None:
    with pystream.open(here / "s") as store:
        topic = store.topic("t", create=True, partitions=1000, segment_bytes=65536)
        for number in range(0, 1000, 2):
            topic.append([b"%d" % number], partition=number)
        first = store.backup(here / "b")
        assert (first.partitions, first.records, first.segments_copied) == (1000, 500, 500)
        topic.append([b"more"], partition=4)
        again = store.backup(here / "b")
        assert (again.segments_copied, again.segments_linked) == (1, 499)
        assert again.bytes_copied < 2048
    used = sum(file.stat().st_blocks * 512 for file in (here / "b").rglob("*"))
    assert used < 500 * 32_000
    with pystream.open(here / "b", "r") as copy:
        assert [record.value for record in copy["t"].partition(4).records()] == [b"4", b"more"]
        assert sum(1 for _ in copy["t"].records()) == 501
