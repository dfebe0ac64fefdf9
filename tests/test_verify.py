"""`verify`: whatever is not as it was written is found, and said to be what it is; nothing else is."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lives
import pystream
from harness import LONG, T0, Life, Snapshot, contents, quick_directory, rows
from pystream import inspection, metadata, verification
from pystream.checking import beside
from pystream.inspected import Frame
from pystream.verified import Finding, Report
from test_damage import fill, frame_at, used_bytes

SPACE = 64
"""So many bytes of the room behind the last batch are flipped."""


class Sound:
    """A store in order, of three segments, its files, and its batches."""

    def __init__(self, path: Path, compression: str) -> None:
        fill(path, compression)
        self.path = path
        with pystream.open(path) as store:
            self.rows = rows(store["t"].records())
        self.snapshot = Snapshot(path)
        self.partition = path / "topics/t/0"
        self.segments = [Path(file) for _, file in inspection.segment_files(self.partition)]
        self.frames = {
            file: [event for event in inspection.walk_segment(file) if isinstance(event, Frame)]
            for file in self.segments
        }

    def name(self, file: Path) -> Path:
        return file.relative_to(self.path)

    def data(self, file: Path) -> bytes:
        return self.snapshot.files[self.name(file)]

    def touched(self, file: Path, first: int, after: int) -> set[int]:
        """The offsets of the batches with a byte in that stretch."""
        return {
            offset
            for frame in self.frames[file]
            if frame.position < after and first < frame.position + frame.frame_bytes
            for offset in range(frame.base_offset, frame.next_offset)
        }


@pytest.fixture(params=["none", "lz4"])
def sound(request: pytest.FixtureRequest) -> Iterator[Sound]:
    with quick_directory() as directory:
        yield Sound(directory / "s", request.param)


def lost(report: Report) -> set[int]:
    return {offset for part in report.partitions for span in part.lost for offset in range(*span)}


def kinds(report: Report) -> set[str]:
    return {found.kind for found in report.findings}


def places(size: int, most: int, seed: int) -> list[int]:
    """Every place; some of them when there is no time."""
    return (
        list(range(size)) if LONG or size <= most else sorted(random.Random(seed).sample(range(size), most))
    )


# ---- a store in order -----------------------------------------------------------------------------------


def test_nothing_is_found_where_nothing_is(sound: Sound) -> None:
    before = contents(sound.path)
    progress: list[tuple[int, int]] = []
    report = pystream.verify(sound.path, progress=lambda done, total: progress.append((done, total)))
    assert report.sound and not report.findings and not report.in_use
    (part,) = report.partitions
    assert (part.topic, part.partition, part.segments) == ("t", 0, 3)
    assert part.records == report.records == len(sound.rows)
    assert part.batches == sum(len(frames) for frames in sound.frames.values())
    assert part.sound == ((0, len(sound.rows)),) and part.lost == ()
    assert (part.beginning_offset, part.end_offset) == (0, len(sound.rows))
    assert progress[-1] == (part.file_bytes, part.file_bytes)
    assert part.file_bytes == sum(file.stat().st_size for file in sound.segments)
    assert contents(sound.path) == before, "verify wrote something"


def test_through_what_is_open(sound: Sound) -> None:
    for mode in ("rw", "r"):
        with pystream.open(sound.path, mode) as store:
            topic = store.topic("t")
            if mode == "rw":
                topic.append([b"new"], timestamps=T0)
            end = topic.partition(0).end_offset
            for report in (store.verify(), store.verify("t"), topic.verify(), topic.partition(0).verify()):
                assert report.sound and report.records == end
                assert report.in_use == (mode == "rw")
        with pytest.raises(pystream.ClosedError):
            store.verify()
        with pytest.raises(pystream.ClosedError):
            topic.partition(0).verify()


def test_never_used(tmp_path: Path) -> None:
    """A topic with partitions that nobody has touched, and a store without topics."""
    with pystream.open(tmp_path / "s") as store:
        assert store.verify().sound
        store.topic("t", create=True, partitions=3)
        assert [part.records for part in store.verify().partitions] == [0, 0, 0]
    report = pystream.verify(tmp_path / "s")
    assert report.sound and not report.findings


def test_many_partitions_on_threads(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=20, segment_bytes=65536)
        for number in range(20):
            for _ in range(number):
                topic.append([bytes(30_000)], partition=number)
    for threads in (1, 3, 64):
        report = pystream.verify(tmp_path / "s", threads=threads)
        assert report.sound
        assert [part.records for part in report.partitions] == list(range(20))
    only = pystream.verify(tmp_path / "s", "t", 7)
    assert [(part.partition, part.records) for part in only.partitions] == [(7, 7)]


# ---- damage ---------------------------------------------------------------------------------------------


def test_any_flipped_byte_of_a_segment(sound: Sound) -> None:
    """Found, and what is lost is the batch it is in: the rest is sound, and can be read."""
    seeded = random.Random(3)
    for file in sound.segments:
        used = used_bytes(sound.data(file))
        last = file == sound.segments[-1]
        chosen = {*places(256, 40, 1), *places(used, 150, 2)}
        for frame in sound.frames[file]:
            chosen |= {frame.position + at for at in (0, 8, 30, 100, 191, 192)}
        if not last:
            chosen |= set(range(used, used + 64))  # the seal
        for at in sorted(chosen):
            sound.snapshot.flip(sound.name(file), at, 1 << seeded.randrange(8))
            report = pystream.verify(sound.path)
            assert report.damage and not report.torn, (file, at)
            assert lost(report) == sound.touched(file, at, at + 1), (file, at)
            assert {found.segment for found in report.damage} == {int(file.stem)}, (file, at)
            assert all(found.remedy == "repair" for found in report.damage)
            sound.snapshot.write(sound.name(file), sound.data(file))
        if last:  # room for what comes: a byte there is cut off by the next opener, which verify says
            for at in places(len(sound.data(file)) - used, SPACE, 4):
                sound.snapshot.flip(sound.name(file), used + at)
                report = pystream.verify(sound.path)
                assert report.sound and len(report.torn) == 1 and not lost(report)
                sound.snapshot.write(sound.name(file), sound.data(file))
    assert pystream.verify(sound.path).findings == ()


def test_any_truncation_of_a_segment(sound: Sound) -> None:
    """Whatever is cut off a segment that was synced is missed; a segment's empty room is not."""
    for file in sound.segments:
        data = sound.data(file)
        used = used_bytes(data) + (64 if file != sound.segments[-1] else 0)
        for size in [*places(used, 100, 5), used - 1, used - 64, used - 65]:
            sound.snapshot.write(sound.name(file), data[:size])
            report = pystream.verify(sound.path)
            assert report.damage, (file, size)
            assert lost(report) == sound.touched(file, size, len(data)), (file, size)
            sound.snapshot.write(sound.name(file), data)
        sound.snapshot.write(sound.name(file), data[:used])
        assert pystream.verify(sound.path).sound, file
        sound.snapshot.write(sound.name(file), data)


def test_any_flipped_byte_beside_segments(sound: Sound) -> None:
    """Indexes, epochs, documents and the liveness file: found, and no record is lost by it."""
    seeded = random.Random(4)
    names = [name for name in sound.snapshot.files if name.suffix != ".log" and name.name != "head"]
    assert {name.name for name in names} >= {"store.json", "topic.json", "live", "epochs"}
    for name in names:
        data = sound.snapshot.files[name]
        for at in places(len(data), 60 if name.suffix != ".json" else 25, 6):
            sound.snapshot.flip(name, at, 1 << seeded.randrange(8))
            report = pystream.verify(sound.path)
            assert report.damage, (name, at)
            assert not lost(report) and report.records == len(sound.rows), (name, at)
            assert {Path(found.path).name for found in report.damage} == {name.name}
            assert {found.remedy for found in report.damage} <= {"repair", "opening"}, (name, at)
            sound.snapshot.write(name, data)


def test_the_control_page(sound: Sound) -> None:
    """What it says of itself, and where the log starts, is checked. Its other words are made anew by whoever
    opens the store next, from the segments, and need not be believed."""
    name = sound.name(sound.partition / "head")
    data = sound.snapshot.files[name]
    for at in range(len(data)) if LONG else [*range(300), *places(len(data), 100, 7)]:
        sound.snapshot.flip(name, at, 0x10)
        report = pystream.verify(sound.path)
        assert not lost(report) and report.records == len(sound.rows), at
        if at < 56:
            assert [found.remedy for found in report.damage] == ["opening"], at
        else:
            assert report.sound, at
        sound.snapshot.write(name, data)
    for at in (280, 287, 288, 295):  # where the log starts stands there twice
        sound.snapshot.flip(name, at, 0x10)
        sound.snapshot.flip(name, at + 72, 0x10)
        report = pystream.verify(sound.path)
        assert not lost(report) and report.records == len(sound.rows), at
        assert [found.remedy for found in report.damage] == ["opening"], at
        sound.snapshot.write(name, data)
    for size in (0, 100, 4095):
        sound.snapshot.write(name, data[:size])
        report = pystream.verify(sound.path)
        assert [found.part for found in report.damage] == ["head"], size
    (sound.path / name).unlink()
    assert [found.what for found in pystream.verify(sound.path).damage] == [
        "the control page is missing; it is made from the segments"
    ]


def test_whole_files_missing(sound: Sound) -> None:
    for number, file in enumerate(sound.segments):
        sound.snapshot.restore()
        file.unlink()
        report = pystream.verify(sound.path)
        assert lost(report) == sound.touched(file, 0, 1 << 40), number
        assert {found.remedy for found in report.damage} == {"repair"}
    for file in sound.segments:
        file.unlink(missing_ok=True)
    assert lost(pystream.verify(sound.path)) == set(range(len(sound.rows)))
    sound.snapshot.restore()
    (sound.partition / "epochs").unlink()
    assert [found.what for found in pystream.verify(sound.path).damage] == [
        "the list of leader epochs is missing"
    ]
    sound.snapshot.restore()
    for file in sound.partition.glob("*.index"):
        file.unlink()
    assert not pystream.verify(sound.path).findings, "an index need not be there"
    shutil.rmtree(sound.partition)
    report = pystream.verify(sound.path)
    assert [(found.part, found.remedy) for found in report.damage] == [("partition", "backup")]


def test_missing_documents(sound: Sound) -> None:
    (sound.path / "store.json").unlink()
    (sound.path / "topics/t/topic.json").unlink()
    report = pystream.verify(sound.path)
    assert [(found.part, found.remedy) for found in report.damage] == [
        ("store", "backup"),
        ("topic", "backup"),
    ]
    assert report.records == len(sound.rows)  # the records are looked at all the same


def test_documents_beyond_mending(sound: Sound) -> None:
    name = sound.snapshot.one("topics/*/topic.json")
    data = bytearray(sound.snapshot.files[name])
    data[30] ^= 1
    data[60] ^= 1
    sound.snapshot.write(name, bytes(data))
    (found,) = pystream.verify(sound.path).damage
    assert (found.part, found.remedy) == ("topic", "backup")


def test_a_segment_of_another_place(sound: Sound) -> None:
    with pystream.open(sound.path) as store:
        other = store.topic("other", create=True, segment_bytes=65536)
        other.append([b"not yours"])
    shutil.copy(sound.path / "topics/other/0/00000000000000000000.log", sound.segments[0])
    report = pystream.verify(sound.path, "t")
    assert lost(report) == sound.touched(sound.segments[0], 0, 1 << 40)
    assert [found.what.partition(" of topic ")[0] for found in report.damage] == ["this segment is"]


def test_a_later_version(sound: Sound) -> None:
    """What is sound but newer cannot be checked; that is not damage, and not soundness either."""
    file = sound.path / "store.json"
    fields = metadata.decode(file.read_bytes(), format="pystream store", path="")
    file.write_bytes(metadata.encode({**fields, "version": 2}))
    report = pystream.verify(sound.path)
    assert not report.damage and not report.sound
    assert [found.part for found in report.unchecked] == ["store"]


def test_what_is_none_of_ours(sound: Sound) -> None:
    for name in ("README", "topics/notes.txt", "topics/t/9", "topics/t/0/holiday.jpg"):
        (sound.path / name).write_bytes(b"?")
    (sound.partition / "00000000000000000005.log.0000000001.cut").write_bytes(b"?")
    report = pystream.verify(sound.path)
    assert report.sound and kinds(report) == {"note"}
    assert len(report.notes) == 5


def test_saved_offsets_of_a_group(sound: Sound) -> None:
    with pystream.open(sound.path) as store, store.consumer("t", group="g", timeout=0.1) as consumer:
        list(consumer)
        consumer.commit(durable=True)
    assert pystream.verify(sound.path).sound
    file = sound.path / "groups/g/committed"
    file.write_bytes(file.read_bytes().replace(b"38", b"37"))
    (found,) = pystream.verify(sound.path).damage
    assert found.part == "group" and "'g'" in found.what


# ---- what the disk and the system say -------------------------------------------------------------------


class Failing(verification.SegmentCheck):
    """Reads that fail from the second call on."""

    error = errno.EIO

    def next(self, bytes_max: int) -> Any:
        if self.position:
            raise OSError(self.error, os.strerror(self.error))
        return super().next(bytes_max)


def test_a_disk_that_gives_nothing_back(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "SegmentCheck", Failing)
    report = pystream.verify(sound.path)
    assert lost(report) == set(range(len(sound.rows)))
    assert {found.remedy for found in report.damage} == {"backup"}
    assert all("Input/output error" in found.what for found in report.damage)


def test_what_retention_takes_meanwhile(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that was checked, and is gone with its index before that is looked at."""

    def taken(path: str, **options: Any) -> Any:
        if path.endswith(sound.segments[0].with_suffix(".index").name):
            Path(path).unlink()
            sound.segments[0].unlink()
        return inspection.read_index(path, **options)

    monkeypatch.setattr(beside, "read_index", taken)
    assert not pystream.verify(sound.path).findings
    assert not sound.segments[0].exists()


def test_what_may_not_be_read(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission says nothing of the data."""
    monkeypatch.setattr(Failing, "error", errno.EACCES)
    monkeypatch.setattr(verification, "SegmentCheck", Failing)
    report = pystream.verify(sound.path)
    assert not report.damage and not report.sound
    assert [found.part for found in report.unchecked] == ["segment"] * 3


def test_refused(sound: Sound, tmp_path: Path) -> None:
    with pytest.raises(pystream.StoreNotFoundError):
        pystream.verify(tmp_path)
    with pytest.raises(pystream.StoreNotFoundError):
        pystream.verify(tmp_path / "none")
    with pytest.raises(pystream.TopicNotFoundError, match="it has: t"):
        pystream.verify(sound.path, "u")
    with pytest.raises(pystream.OptionError, match="has only partition 0"):
        pystream.verify(sound.path, "t", 1)
    with pytest.raises(pystream.OptionError, match="of which topic"):
        pystream.verify(sound.path, partition=0)
    with pytest.raises(pystream.OptionError, match="threads=0"):
        pystream.verify(sound.path, threads=0)
    with pytest.raises(pystream.OptionError):
        pystream.verify(sound.path, "../t")


def test_the_report_as_json(sound: Sound) -> None:
    sound.snapshot.flip(sound.name(sound.segments[0]), frame_at(sound.data(sound.segments[0]), 256) + 200)
    report = pystream.verify(sound.path)
    document = json.loads(json.dumps(report.to_json()))
    assert document["sound"] is False and document["counts"]["damage"] == 1
    (found,) = document["findings"]
    assert found["part"] == "batch" and found["offsets"] == [4, 8] and found["position"] > 256
    (part,) = document["partitions"]
    assert part["lost"] == [[4, 8]] and part["sound"] == [[0, 4], [8, len(sound.rows)]]


# ---- what recovery makes of it --------------------------------------------------------------------------


def crash(path: Path, io: str, batches: int) -> None:
    """Leave a store as a writer leaves it that was killed in an append."""
    life = Life(
        lives.append_for_ever, str(path), io, 0, 0, 700, 3, batches, fault=f"append.log_end:{batches}:kill"
    )
    life.received()
    assert life.end() == -signal.SIGKILL


def spoil(path: Path, seeded: random.Random) -> str:
    """Do something to a file of the partition that a power failure or a bad disk may do."""
    directory = path / "topics/t/0"
    files = sorted(directory.glob("*.log"))
    file = seeded.choice(files[-2:] if seeded.random() < 0.6 else files)
    data = bytearray(file.read_bytes())
    end = max(len(data.rstrip(b"\0")), 320)
    at = seeded.randrange(256 if seeded.random() < 0.9 else 0, end)
    what = seeded.choice(["flip", "zero", "cut", "page", "head"])
    if what == "flip":
        data[at] ^= 1 << seeded.randrange(8)
    elif what == "zero":
        data[at:end] = bytes(end - at)
    elif what == "cut":
        del data[at:]
    elif what == "page":
        data[at & ~4095 : (at & ~4095) + 4096] = bytes(min(4096, len(data) - (at & ~4095)))
    else:
        (directory / "head").write_bytes(bytes(4096))
    file.write_bytes(data)
    return f"{what} {file.name} at {at} of {end}"


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_it_says_what_recovery_will_do(io: str) -> None:
    """Of stores that a crash or a bad disk has left: where no damage is seen, opening succeeds, and all that
    was called sound can be read; where a batch is called damaged, reading says so."""
    seeded = random.Random(17)
    seen = {"damage": 0, "torn": 0, "sound": 0}
    with quick_directory() as directory:
        path = directory / "s"
        with lives.open_store(str(path), io) as store:
            store.topic("t", create=True, segment_bytes=65536, index_interval_bytes=1024)
        crash(path, io, 80)
        with lives.open_store(str(path), io) as store:  # durable from here on
            assert store["t"].partition(0).end_offset >= 237
        crash(path, io, 30)
        snapshot = Snapshot(path)
        for _ in range(400 if LONG else 70):
            snapshot.restore()
            what = [spoil(path, seeded) for _ in range(seeded.randrange(1, 3))]
            report = pystream.verify(path)
            (part,) = report.partitions
            damaged = [found for found in report.damage if found.part in ("batch", "segment", "records")]
            seen["damage" if damaged else "torn" if report.torn else "sound"] += 1
            try:
                with lives.open_store(str(path), io) as store:
                    partition = store["t"].partition(0)
                    got = [record.offset for record in partition.records(0, part.end_offset)]
                    reported = got != list(range(part.end_offset))
            except pystream.CorruptLogError:
                reported = True
            assert reported == bool(damaged), (what, report.findings)
            if not damaged:
                after = pystream.verify(path)
                rest = {found.part for found in after.damage}  # recovery needs no seal, and mends none
                assert rest <= {"seal"} and not after.torn, (what, after.findings)
                assert after.partitions[0].sound == ((0, part.end_offset),)
    assert min(seen.values()) > 0, seen


# ---- while others write ---------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_no_false_alarm_while_others_write(io: str) -> None:
    """Writers append, roll, are killed and come back; others open, recover and close it all the while."""
    seeded = random.Random(5)
    with quick_directory() as directory:
        path = directory / "s"
        with lives.open_store(str(path), io) as store:
            store.topic("t", create=True, segment_bytes=65536, index_interval_bytes=1024)
        checks = 0
        for turn in range(12 if LONG else 5):
            count = 1 + turn % 2
            writers = [
                Life(lives.append_for_ever, str(path), io, 10 * turn + n, 0, 900, 3, 10**6)
                for n in range(count)
            ]
            for life in writers:
                assert life.receive() == "ready"
            for _ in range(12):
                report = pystream.verify(path)
                assert report.sound, report.findings
                checks += report.in_use
            for life in writers:
                life.kill()
            # Somebody opens it meanwhile, and so recovers it.
            opener = Life(lives.open_append_close, str(path), 100 + turn, 5)
            for _ in range(6):
                report = pystream.verify(path)
                assert report.sound, report.findings
            for life in writers:
                life.received()
                life.end()
            assert opener.received() == ["done"]
            assert opener.end() == 0
            if seeded.random() < 0.5:
                report = pystream.verify(path)
                assert report.sound and not report.torn, report.findings
        assert checks > 10


def test_no_false_alarm_while_topics_come_and_go(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        store.topic("stays", create=True).append([b"here"])
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                for number in range(5):
                    store.topic(f"t{number}", create=True, partitions=3).append([b"x"], partition=1)
                for number in range(5):
                    store.delete_topic(f"t{number}")

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(300 if LONG else 60):
                report = store.verify()
                assert report.sound, report.findings
                assert "stays" in {part.topic for part in report.partitions}
        finally:
            stop.set()
            thread.join()


def test_damage_is_found_while_others_write() -> None:
    with quick_directory() as directory:
        path = directory / "s"
        with lives.open_store(str(path), "mmap") as store:
            partition = store.topic("t", create=True, segment_bytes=65536).partition(0)
            for number in range(80):
                partition.append([b"%d" % number * 1000])
        life = Life(lives.append_for_ever, str(path), "mmap", 1, 0, 500, 3, 10**6)
        assert life.receive() == "ready"
        file = path / "topics/t/0/00000000000000000000.log"
        with open(file, "r+b") as opened:
            opened.seek(frame_at(file.read_bytes(), 256) + 300)
            opened.write(b"?")
        for _ in range(5):
            report = pystream.verify(path)
            assert [found.offsets for found in report.damage] == [(1, 2)]
        life.kill()
        life.received()
        life.end()


def test_findings_read_well() -> None:
    found = Finding("damage", "batch", "bad", "p", "t", 3, 0, 256, 512, (7, 8), "repair")
    assert found.place == "t/3, p, 256 to 512"
    assert found.text == "bad; offset 7 cannot be read; pystream repair mends it"
