"""Walking files as they are: any damage is found where it is, and nothing else is lost by it."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

import lives
import pystream
from harness import LONG, T0, Life, Snapshot, contents, quick_directory
from pystream import inspection
from pystream.inspected import Damage, End, Event, Frame, Seal, SegmentHeader

GOLDEN = Path(__file__).parent / "golden" / "v1.zip"


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    """A store with two finished segments and one that is not, of batches of every kind."""
    seeded = random.Random(3)
    with quick_directory() as directory:
        path = directory / "s"
        with pystream.open(path) as store:
            topic = store.topic("t", create=True, segment_bytes=65536, index_interval_bytes=1024)
            packed = store.topic("packed", create=True, compression="lz4")
            for number in range(24):
                count = seeded.randrange(1, 9)
                values: list[Any] = [seeded.randbytes(seeded.randrange(2000)) for _ in range(count)]
                values[0] = None if number % 3 == 0 else values[0]
                keys = None if number % 2 else [b"key"] * count
                headers = [{"h": b"x"}] * count if number % 5 == 0 else None
                topic.append(values, keys=keys, headers=headers, timestamps=T0 + number)
                packed.append([b"again and again " * 50] * count, timestamps=T0 + np.arange(count))
            while len(inspection.segment_files(path / "topics/t/0")) < 3:
                topic.append([bytes(9000)] * 2)
        yield path


def walk(path: Path, topic: str = "t", **options: Any) -> list[Event]:
    return list(inspection.walk_partition(path / "topics" / topic / "0", **options))


def frames(events: list[Event]) -> list[Frame]:
    return [event for event in events if isinstance(event, Frame)]


def lost(events: list[Event]) -> set[int]:
    """The offsets that the walk says cannot be read."""
    offsets: set[int] = set()
    for event in events:
        if isinstance(event, Damage) and event.missing:
            offsets.update(range(*event.missing))
        if isinstance(event, Frame) and not event.sound:
            offsets.update(range(event.base_offset, event.next_offset))
    return offsets


def test_everything_is_there(path: Path) -> None:
    events = walk(path, records=True)
    assert all(event.sound for event in events)
    headers = [event for event in events if isinstance(event, SegmentHeader)]
    seals = [event for event in events if isinstance(event, Seal)]
    ends = [event for event in events if isinstance(event, End)]
    with pystream.open(path) as store:
        topic = store["t"]
        records = list(topic.records())
        batches = list(topic.batches())
        assert {header.topic_uuid for header in headers} == {topic.uuid}
    found = frames(events)
    assert headers[0].base_offset == 0
    assert len(headers) == len(ends) == len(seals) + 1 >= 3
    assert [seal.end_offset for seal in seals] == [header.base_offset for header in headers[1:]]
    assert [end.rest for end in ends] == ["nothing"] * len(seals) + ["zeros"]
    assert [frame.records for frame in found] == [len(batch) for batch in batches]
    assert [frame.base_offset for frame in found[1:]] == [frame.next_offset for frame in found[:-1]]
    listed = [size for frame in found for size in frame.sizes or ()]
    assert [
        (size.offset, size.timestamp, size.key_bytes, size.value_bytes, size.headers) for size in listed
    ] == [
        (
            record.offset,
            record.timestamp,
            None if record.key is None else len(record.key),
            None if record.value is None else len(record.value),
            len(record.headers),
        )
        for record in records
    ]


def test_compressed(path: Path) -> None:
    events = walk(path, "packed", records=True)
    assert all(event.sound for event in events)
    assert {frame.codec for frame in frames(events)} == {"lz4"}
    assert all(frame.raw_bytes > frame.stored_bytes for frame in frames(events))
    with pystream.open(path) as store:
        assert [size.value_bytes for frame in frames(events) for size in frame.sizes or ()] == [
            len(record.value or b"") for record in store["packed"].records()
        ]


def test_large_batches(tmp_path: Path) -> None:
    """Larger than what is read at a time, stored as they are and compressed."""
    with pystream.open(tmp_path / "s") as store:
        for codec in ("none", "lz4"):
            topic = store.topic(codec, create=True, compression=codec)
            for _ in range(3):
                topic.append([random.Random(1).randbytes(1000) * 5] * 600)
    for codec in ("none", "lz4"):
        events = walk(tmp_path / "s", codec)
        assert [(frame.records, frame.body, frame.columns) for frame in frames(events)] == [
            (600, "sound", "sound")
        ] * 3


@pytest.mark.parametrize("topic", ["t", "packed"])
def test_any_flipped_byte(path: Path, topic: str) -> None:
    """What it touches is reported, to the offset; every other batch is listed as before."""
    seeded = random.Random(7)
    snapshot = Snapshot(path)
    files = [Path(file) for _, file in inspection.segment_files(path / "topics" / topic / "0")]
    whole = {str(file): list(inspection.walk_segment(file)) for file in files}
    everything = frames(walk(path, topic))
    for file in files:
        name = file.relative_to(path)
        events = whole[str(file)]
        places = set(range(256)) | {seeded.randrange(file.stat().st_size) for _ in range(300 if LONG else 60)}
        for event in events:
            if isinstance(event, Frame):
                places |= {event.position + at for at in range(0, 192, 1 if LONG else 7)}
                places.add(event.position + event.frame_bytes - 1)
            elif isinstance(event, Seal):
                places |= set(range(event.position, event.position + 64))
        for place in sorted(places):
            snapshot.flip(name, place, 1 << seeded.randrange(8))
            found = walk(path, topic)
            hit = [frame for frame in frames(events) if 0 <= place - frame.position < frame.frame_bytes]
            touched = {offset for frame in hit for offset in range(frame.base_offset, frame.next_offset)}
            assert lost(found) == touched, (name, place)
            assert [frame for frame in frames(found) if frame.sound] == [
                frame for frame in everything if frame not in hit
            ]
            end = next(event for event in events if isinstance(event, End))
            reserved = place >= end.position and not any(isinstance(event, Seal) for event in events)
            assert reserved or not all(event.sound for event in found), (name, place)
            snapshot.write(name, snapshot.files[name])
    assert frames(walk(path, topic)) == everything


def test_truncated_anywhere(path: Path) -> None:
    seeded = random.Random(8)
    snapshot = Snapshot(path)
    for _, file in inspection.segment_files(path / "topics/t/0"):
        name = Path(file).relative_to(path)
        events = list(inspection.walk_segment(file))
        edges = {frame.position + d for frame in frames(events) for d in (-1, 0, 1, 64, 191, 192)}
        sizes = edges | {0, 1, 255, 256, 257} | {seeded.randrange(os.stat(file).st_size) for _ in range(20)}
        for size in sorted(sizes):
            snapshot.write(name, snapshot.files[name][:size])
            found = walk(path)
            gone = [frame for frame in frames(events) if frame.position + frame.frame_bytes > size]
            missing = {offset for frame in gone for offset in range(frame.base_offset, frame.next_offset)}
            assert lost(found) == missing, (name, size)
            assert not all(event.sound for event in found) or not gone
            snapshot.write(name, snapshot.files[name])


def test_zeroed_stretches(path: Path) -> None:
    """Several batches at once, and those before and after them are still listed."""
    snapshot = Snapshot(path)
    _, file = inspection.segment_files(path / "topics/t/0")[0]
    name = Path(file).relative_to(path)
    there = frames(list(inspection.walk_segment(file)))
    first, last = there[2], there[5]
    data = bytearray(snapshot.files[name])
    data[first.position : last.position + last.frame_bytes] = bytes(
        last.position + last.frame_bytes - first.position
    )
    snapshot.write(name, bytes(data))
    events = walk(path)
    damage = [event for event in events if isinstance(event, Damage)]
    assert damage == [
        Damage(
            "no sound batch stands here",
            first.position,
            last.position + last.frame_bytes,
            (first.base_offset, last.next_offset),
        )
    ]
    assert frames(events)[:2] == there[:2]
    snapshot.write(name, snapshot.files[name])


def test_missing_files(path: Path) -> None:
    directory = path / "topics/t/0"
    bases = [base for base, _ in inspection.segment_files(directory)]
    everything = frames(walk(path))
    for number, (base, file) in enumerate(inspection.segment_files(directory)):
        os.rename(file, file + ".away")
        events = walk(path)
        after = bases[number + 1] if number + 1 < len(bases) else everything[-1].next_offset
        assert lost(events) == set(range(base, after))
        assert frames(events) == [frame for frame in everything if not base <= frame.base_offset < after]
        os.rename(file + ".away", file)
    for name in ("head", "epochs", f"{0:020}.index"):
        os.rename(directory / name, directory / "away")
        assert frames(walk(path)) == everything
        assert not lost(walk(path))
        os.rename(directory / "away", directory / name)


def test_a_segment_of_another_place(path: Path) -> None:
    directory = path / "topics/t/0"
    (_, first), (_, second), *_ = inspection.segment_files(directory)
    snapshot = Snapshot(path)
    shutil.copyfile(first, second)
    headers = [event for event in walk(path) if isinstance(event, SegmentHeader)]
    assert [header.state for header in headers][:2] == ["sound", "foreign"]
    snapshot.restore()
    (_, other), *_ = inspection.segment_files(path / "topics/packed/0")
    shutil.copyfile(other, first)
    header = next(event for event in walk(path) if isinstance(event, SegmentHeader))
    assert header.state == "foreign"
    snapshot.restore()


def test_parts(path: Path) -> None:
    everything = frames(walk(path))
    some = everything[len(everything) // 2]
    for start, stop in (
        (some.base_offset, some.next_offset),
        (some.base_offset + 1, None),
        (None, 5),
        (10**9, None),
    ):
        wanted = [
            frame
            for frame in everything
            if frame.next_offset > (start or 0) and (stop is None or frame.base_offset < stop)
        ]
        events = walk(path, start=start, stop=stop)
        assert frames(events) == wanted
        assert not lost(events)
    second = inspection.segment_files(path / "topics/t/0")[1][0]
    found = walk(path, segment=second)
    assert [event.base_offset for event in found if isinstance(event, SegmentHeader)] == [second]
    assert all(event.sound for event in found)
    without = frames(walk(path, bodies=False))
    assert {(frame.header, frame.body, frame.columns) for frame in without} == {
        ("sound", "unchecked", "unchecked")
    }


def test_nothing_is_touched(path: Path) -> None:
    before = contents(path)
    walk(path, records=True)
    inspection.read_head(path / "topics/t/0/head")
    inspection.in_use(path)
    assert contents(path) == before


def test_golden_stores(tmp_path: Path) -> None:
    zipfile.ZipFile(GOLDEN).extractall(tmp_path)
    for topic in sorted(os.listdir(tmp_path / "topics")):
        partitions = sorted((tmp_path / "topics" / topic).glob("[0-9]*"))
        events = [event for partition in partitions for event in inspection.walk_partition(partition)]
        assert all(event.sound for event in events), topic
        head = tmp_path / "topics" / topic / "0/head"
        assert not head.exists() or inspection.read_head(head).moved  # these files have other inodes
        with pystream.open(tmp_path) as store:
            found = frames(events)
            assert sum(frame.records for frame in found) == sum(1 for _ in store[topic].records())
    assert [cut.file_bytes > 0 for cut in inspection.cut_files(tmp_path / "topics/cut/0")] == [True]


def test_indexes(path: Path) -> None:
    directory = path / "topics/t/0"
    snapshot = Snapshot(path)
    entries = 0
    for base, file in inspection.segment_files(directory):
        index = Path(file.removesuffix(".log") + ".index")
        name = index.relative_to(path)
        found = inspection.read_index(index)
        assert found.sound
        assert (found.state, found.base_offset, found.interval_bytes) == ("sound", base, 1024)
        places = {frame.position: frame.base_offset for frame in frames(list(inspection.walk_segment(file)))}
        entries += len(found.entries)
        for entry in found.entries:
            assert entry.agrees
            assert places[entry.position] == entry.offset
        for size in (0, 64, len(snapshot.files[name])):  # as it is while it is being made
            snapshot.write(name, bytes(size))
            blank = inspection.read_index(index)
            assert (blank.state, blank.entries, blank.sound) == ("blank", (), True)
        for at in range(64 + 32 * len(found.entries)):
            snapshot.flip(name, at)
            damaged = inspection.read_index(index)
            snapshot.write(name, snapshot.files[name])
            assert not damaged.sound
            if at >= 64:
                assert [entry.number for entry in damaged.entries if not entry.sound] == [(at - 64) // 32]
            else:
                assert damaged.state == "damaged"
    assert entries > 10
    (_, first), (_, second), *_ = inspection.segment_files(directory)
    shutil.copyfile(first.removesuffix(".log") + ".index", second.removesuffix(".log") + ".index")
    stale = inspection.read_index(second.removesuffix(".log") + ".index")
    assert stale.state == "stale"
    assert not stale.sound
    snapshot.restore()


def test_heads_and_epochs(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=2)
        topic.append([b"a", b"b"], partition=0)
        file = tmp_path / "s/topics/t/0/head"
        head = inspection.read_head(file)
        assert head.sound
        assert (head.topic_uuid, head.partition, head.moved, head.deleted) == (topic.uuid, 0, False, False)
        assert (head.log_start, head.high_watermark, head.log_end, head.holder) == (0, 2, 2, os.getpid())
        assert head.slot is not None
        assert head.slot.log_end == 2
        assert not head.held
        with topic.partition(0).exclusive():
            assert inspection.read_head(file).held
        topic.partition(0)._log().poison(5)
        assert inspection.read_head(file).poison == 5
        store.delete_topic("t")
    with pystream.open(tmp_path / "s") as store:
        store.topic("t", create=True).append([b"a"])
    sound = file.read_bytes()
    for at in (0, 8, 12, 20, 40, 50, 390, 520):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        head = inspection.read_head(file)
        assert not head.sound or None in head.slots
    both = bytearray(sound)  # where the log starts stands there twice
    for at in (290, 290 + 72):
        assert inspection.read_head(file).sound or at == 290
        both[at] ^= 1
        file.write_bytes(both)
    assert inspection.read_head(file).log_start is None
    for size in (0, 100, 1000):
        file.write_bytes(sound[:size])
        assert not inspection.read_head(file).sound
    assert inspection.read_head(file).state == "damaged"
    file.write_bytes(b"")
    assert inspection.read_head(file).state == "blank"
    epochs = tmp_path / "s/topics/t/0/epochs"
    (entry,) = inspection.read_epochs(epochs)
    assert (entry.sound, entry.epoch, entry.first_offset) == (True, 0, 0)
    epochs.write_bytes(epochs.read_bytes() + b"torn")
    assert [entry.sound for entry in inspection.read_epochs(epochs)] == [True, False]


def test_in_use(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s"):
        assert inspection.in_use(tmp_path / "s")
        life = Life(lives.call, inspection.in_use, str(tmp_path / "s"))
        assert life.receive() is True
        life.end()
    assert not inspection.in_use(tmp_path / "s")
    assert not inspection.in_use(tmp_path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for read in (
        inspection.read_head,
        inspection.read_index,
        inspection.read_epochs,
        inspection.cut_files,
        inspection.segment_files,
        lambda path: list(inspection.walk_segment(path)),
        lambda path: list(inspection.walk_partition(path)),
    ):
        with pytest.raises(pystream.StorageError) as caught:
            read(tmp_path / "none")
        assert caught.value.errno == 2
        assert "none" in str(caught.value)


def test_any_bytes(tmp_path: Path) -> None:
    """Files of garbage, and of nothing."""
    seeded = random.Random(1)
    for size in (0, 1, 63, 64, 255, 256, 257, 448, 5000, 200_000):
        for data in (bytes(size), seeded.randbytes(size), b"\xff" * size):
            (tmp_path / "file").write_bytes(data)
            header, *rest = inspection.walk_segment(tmp_path / "file")
            assert isinstance(header, SegmentHeader)
            assert header.state == "damaged"
            assert header.file_bytes == size
            (end,) = rest
            assert isinstance(end, End)


@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_beside_a_writer(any_io: str, durability: str) -> None:
    """What is being written is never taken for damage; what was published before is all there."""
    with quick_directory() as directory:
        path = directory / "s"
        with lives.open_store(str(path), any_io) as store:
            topic = store.topic(
                "t", create=True, segment_bytes=65536, index_interval_bytes=1024, durability=durability
            )
            life = Life(lives.append_for_ever, str(path), any_io, 0, 0, 700, 3, 10**6)
            assert life.receive() == "ready"
            rounds = 0
            while rounds < (400 if LONG else 40) or topic.partition(0).end_offset < 600:
                published = topic.partition(0).end_offset
                events = walk(path)
                assert all(event.sound for event in events), [event for event in events if not event.sound]
                found = frames(events)
                assert [frame.base_offset for frame in found[1:]] == [
                    frame.next_offset for frame in found[:-1]
                ]
                assert (found[-1].next_offset if found else 0) >= published
                head = inspection.read_head(path / "topics/t/0/head")
                assert None not in head.slots
                for _, file in inspection.segment_files(path / "topics/t/0"):
                    index = Path(file.removesuffix(".log") + ".index")
                    if index.exists():
                        assert inspection.read_index(index, end_offset=published).sound
                rounds += 1
            life.kill()
            life.received()
            life.end()


def test_after_a_death(tmp_path: Path) -> None:
    """A torn append is what stands behind the end, not damage; what was acknowledged is all there."""
    path = tmp_path / "s"
    with pystream.open(path) as store:
        store.topic("t", create=True, segment_bytes=65536)
    life = Life(lives.append_for_ever, str(path), "mmap", 0, 0, 700, 3, 10, fault="append.body:4:kill")
    said = [word for word in life.received() if word != "ready"]
    life.end()
    events = walk(path)
    assert all(event.sound for event in events)
    assert frames(events)[-1].next_offset == 3 * len(said) == 9
    end = events[-1]
    assert isinstance(end, End)
    assert inspection.read_head(path / "topics/t/0/head").writing


def test_producers_are_named(tmp_path: Path) -> None:
    from pystream._native.writer import append_batch

    with pystream.open(tmp_path / "s") as store:
        log = store.topic("t", create=True).partition(0)._log()
        append_batch(log, [b"a", b"b"], origin=(7, 3, 11))
        append_batch(log, [b"c"])
    first, second = frames(walk(tmp_path / "s"))
    assert (first.producer_id, first.producer_epoch, first.base_sequence) == (7, 3, 11)
    assert (second.producer_id, second.producer_epoch, second.base_sequence) == (None, None, None)
    assert first.batch_uuid is None or isinstance(first.batch_uuid, UUID)
