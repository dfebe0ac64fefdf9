"""`repair`: what is damaged becomes a gap, every sound record stays what and where it was, at any moment."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import lives
import pystream
from harness import LONG, T0, Life, quick_directory, rows
from pystream import inspection, metadata, repairs
from test_damage import frame_at, used_bytes
from test_verify import Sound, lost, places

POINTS = sorted(set(re.findall(r'\.point\("([\w.]+)"\)', Path(repairs.__file__).read_text())))


@pytest.fixture(params=["none", "lz4"])
def sound(request: pytest.FixtureRequest) -> Iterator[Sound]:
    with quick_directory() as directory:
        yield Sound(directory / "s", request.param)


def mended(sound: Sound, gone: set[int], what: object = None) -> repairs.Outcome:
    """Repair it, and see that nothing but `gone` is gone; that it stays so, and goes on where it was."""
    before = {file: file.read_bytes() for file in sound.partition.glob("*.log")}
    outcome = pystream.repair(sound.path, execute=True)
    assert outcome.after is not None and outcome.after.sound, (what, outcome.after.findings)
    assert not outcome.refused
    is_as_it_should_be(sound, gone, what)
    kept = [(sound.path / name).read_bytes() for name in outcome.kept]
    for file, data in before.items():
        assert data in kept or file.read_bytes().startswith(data.rstrip(b"\0")), (what, file)
    again = pystream.repair(sound.path, execute=True)
    assert not again.needed and again.record is None, (what, again.actions)
    return outcome


def is_as_it_should_be(sound: Sound, gone: set[int], what: object = None) -> None:
    wanted = [row for row in sound.rows if row.offset not in gone]
    end = len(sound.rows)
    with pystream.open(sound.path) as store:
        partition = store["t"].partition(0)
        assert rows(partition.records()) == wanted, what
        for start in (0, 5, end // 2, end - 1):
            assert rows(partition.records(start)) == [row for row in wanted if row.offset >= start], what
        for moment in (T0, T0 + 8, T0 + 101, T0 + 112):
            later = [row.offset for row in wanted if (row.timestamp or 0) >= moment]
            assert partition.offset_for_time(moment) == (later[0] if later else None), what
        assert partition.end_offset == end, what
        with store.consumer("t", timeout=0) as consumer:
            consumer.seek(("t", 0), 2)
            assert [record.offset for record in consumer] == [row.offset for row in wanted if row.offset >= 2]
            assert consumer.position(("t", 0)) == end
        first = partition.append([b"after"], timestamps=T0)
        assert first == end, what
    with pystream.open(sound.path) as store:
        partition = store["t"].partition(0)
        assert rows(partition.records(0, end)) == wanted
        assert partition[end].value == b"after"


def restore(sound: Sound) -> None:
    shutil.rmtree(sound.path / "repairs", ignore_errors=True)
    sound.snapshot.restore()


def test_a_dry_run_does_nothing(sound: Sound) -> None:
    sound.snapshot.flip(sound.name(sound.segments[0]), 600)
    before = {file: file.read_bytes() for file in sound.path.rglob("*") if file.is_file()}
    outcome = pystream.repair(sound.path)
    assert outcome.needed and not outcome.executed and outcome.after is None and outcome.record is None
    assert [(one.kind, one.segment) for one in outcome.actions] == [("segment", 0)]
    assert {file: file.read_bytes() for file in sound.path.rglob("*") if file.is_file()} == before


def test_nothing_to_do(sound: Sound) -> None:
    before = {file: file.read_bytes() for file in sound.path.rglob("*") if file.is_file()}
    for execute in (False, True):
        outcome = pystream.repair(sound.path, execute=execute)
        assert not outcome.needed and outcome.before.sound and not outcome.kept
    assert {file: file.read_bytes() for file in sound.path.rglob("*") if file.is_file()} == before


def test_any_flipped_byte(sound: Sound) -> None:
    """The batch it is in becomes a gap; where it is in no batch, nothing does."""
    seeded = random.Random(8)
    for file in sound.segments:
        data = sound.data(file)
        used = used_bytes(data) + (64 if file != sound.segments[-1] else 0)
        chosen = {*places(256, 6, 1), *places(used, 25, 2), used - 1, used - 64}
        for at in sorted(chosen):
            restore(sound)
            sound.snapshot.flip(sound.name(file), at, 1 << seeded.randrange(8))
            mended(sound, sound.touched(file, at, at + 1), (file.name, at))


def test_any_truncation(sound: Sound) -> None:
    for file in sound.segments:
        data = sound.data(file)
        for size in places(used_bytes(data), 10, 3):
            restore(sound)
            sound.snapshot.write(sound.name(file), data[:size])
            mended(sound, sound.touched(file, size, len(data)), (file.name, size))


def test_any_two_stretches(sound: Sound) -> None:
    """Runs of bytes overwritten by noise, zeros, or bytes of other places; whatever of it is sound stays."""
    seeded = random.Random(9)
    for turn in range(300 if LONG else 30):
        restore(sound)
        gone: set[int] = set()
        for file in seeded.choices(sound.segments, k=2):
            data = bytearray(file.read_bytes())
            used = used_bytes(sound.data(file))
            at, size = seeded.randrange(used), seeded.choice([1, 70, 700, 30_000])
            after = min(at + size, used)
            other = seeded.randrange(used)
            noise = [bytes(after - at), seeded.randbytes(after - at), data[other : other + after - at]]
            what = seeded.choice(noise)
            data[at : at + len(what)] = what
            file.write_bytes(data)
            gone |= sound.touched(file, at, after)
        report = pystream.verify(sound.path)
        assert lost(report) <= gone, turn
        mended(sound, lost(report), turn)


def test_missing_segments(sound: Sound) -> None:
    for missing in (sound.segments[:1], sound.segments[1:2], sound.segments[2:], sound.segments):
        restore(sound)
        gone: set[int] = set()
        for file in missing:
            gone |= sound.touched(file, 0, 1 << 40)
            file.unlink()
        mended(sound, gone, missing)


def test_a_segment_of_another_place(sound: Sound) -> None:
    with pystream.open(sound.path) as store:
        store.topic("other", create=True, segment_bytes=65536).append([b"not yours"])
    shutil.copy(sound.path / "topics/other/0/00000000000000000000.log", sound.segments[0])
    outcome = mended(sound, sound.touched(sound.segments[0], 0, 1 << 40))
    assert [Path(name).name for name in outcome.kept] == ["00000000000000000000.log.1.damaged"]


def test_what_is_made_from_segments(sound: Sound) -> None:
    """Head, indexes and epochs, damaged in any way, are there again, and no record goes with them."""
    for pattern in ("*/head", "*/00000000000000000030.index", "*/epochs", "live"):
        name = sound.snapshot.one(pattern)
        size = len(sound.snapshot.files[name])
        for data in (os.urandom(size), sound.snapshot.files[name][: size // 2 + 1], b"\xff" * size):
            restore(sound)
            sound.snapshot.write(name, data)
            if pystream.verify(sound.path).sound:
                assert pattern == "*/epochs"  # an entry that was never finished
                continue
            mended(sound, set(), (pattern, len(data)))
        if pattern != "live":  # which nobody misses
            restore(sound)
            (sound.path / name).unlink()
            mended(sound, set(), (pattern, "missing"))


def test_any_byte_of_an_index(sound: Sound) -> None:
    name = sound.snapshot.one("*/00000000000000000030.index")
    for at in places(len(sound.snapshot.files[name]), 40, 4):
        restore(sound)
        sound.snapshot.flip(name, at)
        outcome = pystream.repair(sound.path, execute=True)
        assert outcome.after is not None and outcome.after.sound, at
        assert (sound.path / name).read_bytes() == sound.snapshot.files[name]


def test_documents(sound: Sound) -> None:
    """One wrong byte, or a lost end, is put right exactly; more is refused, and says so."""
    seeded = random.Random(2)
    for pattern in ("store.json", "topics/*/topic.json"):
        name = sound.snapshot.one(pattern)
        data = sound.snapshot.files[name]
        for at in places(len(data), 12, 1):
            restore(sound)
            sound.snapshot.flip(name, at, 1 << seeded.randrange(8))
            outcome = mended(sound, set(), (pattern, at))
            assert (sound.path / name).read_bytes() == data
            assert [Path(kept).name for kept in outcome.kept] == [f"{name.name}.1.damaged"]
        for cut in (1, 3, 10):
            restore(sound)
            sound.snapshot.write(name, data[:-cut])
            mended(sound, set(), (pattern, cut))
            assert (sound.path / name).read_bytes() == data
        restore(sound)
        sound.snapshot.write(name, data.replace(b"uuid", b"UUID"))
        sound.snapshot.flip(sound.name(sound.segments[0]), 600)
        outcome = pystream.repair(sound.path, execute=True)
        assert outcome.refused and outcome.after is not None and not outcome.after.sound
        assert (sound.path / name).read_bytes() == data.replace(b"uuid", b"UUID")


def test_damage_and_a_wrong_document_at_once(sound: Sound) -> None:
    sound.snapshot.flip(sound.snapshot.one("topics/*/topic.json"), 40)
    file = sound.segments[1]
    sound.snapshot.flip(sound.name(file), 300)
    mended(sound, sound.touched(file, 300, 301))


def test_only_one_partition(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, partitions=2)
        for number in (0, 1):
            topic.append([b"a" * 100], partition=number)
            topic.append([b"b" * 100], partition=number)
    for number in (0, 1):
        file = path / f"topics/t/{number}/00000000000000000000.log"
        data = bytearray(file.read_bytes())
        data[500] ^= 1
        file.write_bytes(data)
    pystream.repair(path, "t", 1, execute=True)
    assert [part.lost for part in pystream.verify(path).partitions] == [((0, 1),), ()]


def test_the_record_of_what_was_done(sound: Sound) -> None:
    file = sound.segments[0]
    sound.snapshot.flip(sound.name(file), 600)
    outcome = mended(sound, sound.touched(file, 600, 601))
    assert outcome.record is not None
    data = Path(outcome.record).read_bytes()
    document = metadata.decode(data, format="pystream repair", path=outcome.record)
    assert document["state"] == "done" and document["of"] == {"topic": None, "partition": None}
    assert [one["kind"] for one in document["actions"]] == ["segment"]
    assert [one["part"] for one in document["found"]] == ["batch"]
    assert document["kept"] == [f"topics/t/0/{file.name}.1.damaged"]
    assert (sound.path / document["kept"][0]).read_bytes()[:600] == sound.data(file)[:600]


def test_gaps_of_gaps(sound: Sound) -> None:
    """A store that was mended is damaged again, and mended again; each time what was there is kept."""
    file = sound.segments[0]
    gone: set[int] = set()
    for turn, number in enumerate((1, 0), 1):
        frames = [event for event in inspection.walk_segment(file) if isinstance(event, inspection.Frame)]
        frame = frames[number]
        data = bytearray(file.read_bytes())
        data[frame.position + 195] ^= 1
        file.write_bytes(data)
        gone |= set(range(frame.base_offset, frame.next_offset))
        outcome = pystream.repair(sound.path, execute=True)
        assert outcome.after is not None and outcome.after.sound
        assert outcome.kept == (f"{file}.{turn}.damaged",)
    is_as_it_should_be(sound, gone)


# ---- who is there ---------------------------------------------------------------------------------------


def test_not_while_somebody_has_it_open(sound: Sound) -> None:
    sound.snapshot.flip(sound.name(sound.segments[0]), 600)
    with pystream.open(sound.path):
        assert pystream.repair(sound.path).needed  # looking is welcome
        with pytest.raises(
            pystream.StorageError, match=rf"open in process {os.getpid()}; close it"
        ) as caught:
            pystream.repair(sound.path, execute=True)
        assert caught.value.errno == errno.EBUSY
    life = Life(lives.append_for_ever, str(sound.path), "mmap", 0, 0, 10, 1, 10**9)
    assert life.receive() == "ready"
    with pytest.raises(pystream.StorageError, match=str(life.pid)):
        pystream.repair(sound.path, execute=True)
    life.kill()
    life.received()
    life.end()
    assert not (sound.path / "repairs").exists()


def test_nobody_comes_in_meanwhile(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    sound.snapshot.flip(sound.name(sound.segments[0]), 600)
    said: list[Any] = []

    def write(*arguments: Any) -> None:
        life = Life(lives.call, lives.append_one, str(sound.path))
        said.append(life.receive())
        life.end()

    monkeypatch.setattr(repairs._Record, "begin", write)
    monkeypatch.setattr(repairs._Record, "end", lambda *arguments: None)
    pystream.repair(sound.path, execute=True)
    assert said and said[0].startswith("StorageError")


def test_refused(tmp_path: Path, sound: Sound) -> None:
    for execute in (False, True):
        with pytest.raises(pystream.StoreNotFoundError):
            pystream.repair(tmp_path, execute=execute)
        with pytest.raises(pystream.TopicNotFoundError):
            pystream.repair(sound.path, "u", execute=execute)
        with pytest.raises(pystream.OptionError):
            pystream.repair(sound.path, "t", 1, execute=execute)
    with pytest.raises(TypeError, match="execute= must be True or False"):
        pystream.repair(sound.path, execute="no")
    assert list(tmp_path.iterdir()) == []


# ---- death ----------------------------------------------------------------------------------------------


def damage(sound: Sound) -> set[int]:
    """Batches of the first and the last segment, an index and the epochs."""
    restore(sound)
    first, last = sound.segments[0], sound.segments[-1]
    at = frame_at(sound.data(last), 256) - 1
    sound.snapshot.flip(sound.name(first), 700)
    sound.snapshot.flip(sound.name(last), at)
    sound.snapshot.flip(sound.snapshot.one("*/00000000000000000030.index"), 70)
    sound.snapshot.flip(sound.snapshot.one("*/epochs"), 5)
    sound.snapshot.flip(sound.snapshot.one("topics/*/topic.json"), 50)
    return sound.touched(first, 700, 701) | sound.touched(last, at, at + 1)


def repair_in_a_life(channel: Any, path: str) -> None:
    pystream.repair(path, execute=True)
    channel.send("done")


@pytest.mark.parametrize("point", [*POINTS, "*"])
def test_killed(sound: Sound, point: str) -> None:
    """Killed at every step, and before every call of the kernels; whoever comes then opens, or repairs."""
    assert len(POINTS) >= 7
    nth = killed = 0
    step = 1 if LONG or point != "*" else 4
    while True:
        nth += step
        gone = damage(sound)
        life = Life(repair_in_a_life, str(sound.path), fault=f"{point}:{nth}:kill")
        life.received()
        code = life.end()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        if nth % 2:  # somebody opens it in between: nothing may be cut for that
            with suppress(pystream.PystreamError), pystream.open(sound.path) as store:
                store["t"].partition(0)._log()
        outcome = pystream.repair(sound.path, execute=True)
        assert outcome.after is not None and outcome.after.sound, (nth, outcome.after.findings)
        states = {json.loads(file.read_bytes())["state"] for file in (sound.path / "repairs").iterdir()}
        assert "begun" not in states, nth
        is_as_it_should_be(sound, gone, (point, nth))
        for _, file in inspection.segment_files(sound.partition):
            assert inspection.read_index(file.removesuffix(".log") + ".index").state == "sound", (nth, file)
    assert killed


@pytest.mark.parametrize("verb", ["pwrite", "pread", "openat", "sync"])
def test_failing_calls(sound: Sound, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call fails: an error says so, nothing is worse than before, and the next repair ends the work."""
    failed = 0
    for nth in range(1, 60, 1 if LONG else 3):
        gone = damage(sound)
        monkeypatch.setenv("PYSTREAM_FAULT", f"{verb}:{nth}:errno=28")
        try:
            pystream.repair(sound.path, execute=True)
        except pystream.PystreamError as error:
            assert isinstance(error, OSError) and error.errno == errno.ENOSPC
            failed += 1
        monkeypatch.delenv("PYSTREAM_FAULT")
        assert not list(sound.partition.glob("repair.tmp")), nth
        outcome = pystream.repair(sound.path, execute=True)
        assert outcome.after is not None and outcome.after.sound, (nth, outcome.after.findings)
        is_as_it_should_be(sound, gone, (verb, nth))
    assert failed
