"""Any flipped byte, and any truncation, is reported or mended: never wrong data, a crash or a silent skip.

faults/damage.py goes through all of them, mostly without Python; here it takes a sample, and a few more go
through all that the library does.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lives
import pystream
from faults import damage
from harness import LONG, T0, Life, Row, Snapshot, batch_rows, quick_directory, rows
from pystream import CorruptLogError, FormatVersionError, PystreamError, StorageError

HEAD_WORDS = 10 * 128
"""The part of the head that holds anything: ten groups of words."""

MASKS = (0x01, 0x80, 0xFF)
"""Which bits are turned over: the lowest, the highest, all."""


def fill(path: Path, compression: str, batches: int = 6) -> None:
    """A small store that was closed in order: three segments of 64 KiB, frames of all kinds."""
    with pystream.open(path) as store:
        topic = store.topic(
            "t", create=True, compression=compression, segment_bytes=65536, index_interval_bytes=1024
        )
        for i in range(batches):
            topic.append(
                [b"first" * 4, None, b"", b"last %d" % i],
                keys=[b"k", b"", None, b"key" * 3],
                headers=[[("a", b"1"), ("b", None)], None, [("", b"")], None],
                timestamps=[T0 + i, T0 + i - 5, T0 + i + 5, T0 + i],
            )
        noise = random.Random(1).randbytes
        for i in range(7):  # rolls twice
            topic.append([noise(20_000 + i)], timestamps=T0 + 100 + i)
            topic.append([b"small"], timestamps=T0 + 110 + i)


def read(store: pystream.Store) -> list[Row]:
    return rows(store.topic("t").records())


class Damaged:
    """A sound store, what it holds, and what may be found in it once it is damaged."""

    def __init__(self, path: Path, compression: str) -> None:
        fill(path, compression)
        self.path = path
        with pystream.open(path) as store:
            self.rows = read(store)
        self.snapshot = Snapshot(path)
        assert sum(name.suffix == ".log" for name in self.snapshot.files) == 3
        self.reported = self.mended = 0

    def examine(self, what: object) -> None:
        """Open, read in every way, append, open again. All must be as it was, or be reported as damage."""
        reported = False
        try:
            with pystream.open(self.path) as store:
                partition = store.topic("t").partition(0)
                reported = self.examine_partition(partition, what)
                first = partition.append([b"after"], timestamps=T0)
                assert first == len(self.rows), what
                assert partition[first].value == b"after", what
            with pystream.open(self.path) as store:
                partition = store.topic("t").partition(0)
                assert partition.end_offset == len(self.rows) + 1, what
                assert partition[first].value == b"after", what
                reported |= self.examine_partition(partition, what)
        except (CorruptLogError, FormatVersionError) as error:
            assert error.path, what
            reported = True
        if reported:
            self.reported += 1
        else:
            self.mended += 1

    def examine_partition(self, partition: pystream.Partition, what: object) -> bool:
        """True when damage was reported. What is read must be right all the same."""
        end = len(self.rows)
        got: list[Row] = []
        reported = False
        try:
            for record in partition.records(0, end):
                got += rows([record])
            assert got == self.rows, what
        except (CorruptLogError, FormatVersionError) as error:
            assert (error.topic, error.partition) == ("t", 0), what
            assert got == self.rows[: len(got)], what
            reported = True
        for start in (0, 3, end // 2, end - 2):
            try:
                read = [one for batch in partition.scan(start, end) for one in batch_rows(batch)]
                assert read == self.rows[start:], what
            except (CorruptLogError, FormatVersionError):
                reported = True
        for moment in (T0 - 5, T0 + 8, T0 + 101, T0 + 112):
            try:
                wanted = [one.offset for one in self.rows if (one.timestamp or 0) >= moment]
                assert partition.offset_for_time(moment) == wanted[0], what
            except (CorruptLogError, FormatVersionError):
                reported = True
        return reported


@pytest.fixture(params=["none", "lz4"])
def damaged(request: pytest.FixtureRequest) -> Iterator[Damaged]:
    with quick_directory() as path:
        yield Damaged(path / "s", request.param)


def segment_name(number: int, kind: str, snapshot: Snapshot) -> Path:
    return sorted(name for name in snapshot.files if name.suffix == f".{kind}")[number]


def flips(places: Iterable[int], most: int, seed: int) -> list[tuple[int, int]]:
    """At most so many of the places, each with one of the masks."""
    chosen = list(places)
    if len(chosen) > most:
        chosen = sorted(random.Random(seed).sample(chosen, most))
    return [(at, MASKS[at % 3]) for at in chosen]


def test_every_byte_and_every_length() -> None:
    """A sample of them, of every file there is; a campaign does them all."""
    assert damage.plan().all > 300_000
    outcome = damage.run(0, 12_000 if LONG else 6_000)
    assert outcome["failures"] == []
    assert (outcome["trials"], outcome["seeds"], outcome["total"]) == (
        *(2 * [12_000 if LONG else 6_000]),
        damage.plan().all,
    )


def test_the_cases_are_all_there_are() -> None:
    """Each one once, whatever the seed begins with; later rounds turn other bits over."""
    plan = damage.Plan(apart=7, all=1000)
    assert sorted(plan.case(seed)[0] for seed in range(300, 1300)) == list(range(1000))
    assert [plan.case(seed + 1000) for seed in range(9)] == [(plan.case(seed)[0], 1) for seed in range(9)]
    assert {plan.case(seed)[0] // 100 for seed in range(25)} == set(range(10)), "a few are spread over all"
    with quick_directory() as path:
        store = damage.Store(path / "s")
        harms = {store.case(number, 0)[:2] + store.case(number, 0)[3:] for number in range(store.cases)}
        assert len(harms) == store.cases
        bits = {store.case(3, turn).bit for turn in range(8)}
        assert bits == set(range(8))
        with pytest.raises(ValueError):
            store.case(store.cases, 0)


def test_what_is_wrong_is_said() -> None:
    """The check of the store's own files fails where it should: of what is not damaged, of what is lost."""
    with quick_directory() as path:
        store = damage.Store(path / "s")
        harm = store.case(0, 0)
        assert store.play(harm) is None
        unharmed = harm._replace(at=len(store.files[harm.name]), cuts=True)
        assert (store.play(unharmed) or "").startswith("verify found damage in nothing")
        store.values[3] = b"another"
        control = next(name for name in store.ours if name.name == "control")
        assert "the records are not what was written" in (store.play(damage.Harm(control, 0, 0, False)) or "")
        with pytest.raises(ValueError, match="how many trials"):
            damage.run(0, None)


SAVED = "if (status == PS_OK && !whole) status = save_tail(log, w, epoch, err);"


def test_a_kernel_that_hides_damage_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where body checksums are not looked at, or a torn tail is not kept, damage.c says so."""
    for file, before, after in (
        ("ps_cursor.c", "bool sound = ps_frame_body_ok(p, meta);", "bool sound = true;"),
        (
            "ps_walk.c",
            "w->body = ps_frame_body_ok(w->buffer, m) ? PS_SOUND : PS_DAMAGED;",
            "w->body = PS_SOUND;",
        ),
        ("ps_recover.c", SAVED, SAVED.replace("!whole", "!log")),
        ("ps_recover.c", "if (!beyond.any || beyond.durable <= w->next) {", "if (true) {"),
    ):
        kernels = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(damage.KERNELS, kernels)
        text = (kernels / file).read_text()
        assert text.count(before) == 1, (file, before)
        (kernels / file).write_text(text.replace(before, after))
        monkeypatch.setattr(damage, "KERNELS", kernels)
        damage.program.cache_clear()
        try:
            said = damage.ask(0, 4000, 0, 0)
        finally:
            damage.program.cache_clear()
        assert len(said) > 1 and said[0].startswith("seed "), (file, said)


def test_bytes_of_a_segment(damaged: Damaged) -> None:
    """Of the segment header, of two whole frames with their padding, and of the seal."""
    snapshot = damaged.snapshot
    name = segment_name(0, "log", snapshot)
    data = snapshot.files[name]
    third = frame_at(data, frame_at(data, 256))
    places = flips(range(third), 60, 1)
    seal = flips(range(len(data) - 64, len(data)), 12, 2)  # the end of a finished segment
    for at, mask in [*places, *seal]:
        snapshot.restore()
        snapshot.flip(name, at, mask)
        damaged.examine((at, mask))
    # The header of the segment and every byte of a frame are under a checksum; a seal is only a hint.
    assert damaged.mended <= len(seal)
    assert damaged.reported >= len(places)


def frame_at(data: bytes, at: int) -> int:
    """Where the frame after the one at `at` begins."""
    return at + int.from_bytes(data[at + 24 : at + 28], "little")


def test_last_frame(damaged: Damaged) -> None:
    """The frame with nothing behind it: a store closed in order has no torn tail, so this is damage."""
    snapshot = damaged.snapshot
    name = segment_name(-1, "log", snapshot)
    data = snapshot.files[name]
    at = used_bytes(data)
    last = next(place for place in range(256, at, 64) if frame_at(data, place) == at)
    for place, mask in flips(range(last, at), 40, 6):
        snapshot.restore()
        snapshot.flip(name, place, mask)
        damaged.examine((place, mask))
    assert damaged.mended == 0
    # What lies behind the end is nothing: a byte there is overwritten, or cut as a torn tail.
    for place in (at, at + 4, at + 63, at + 64, len(data) - 1):
        snapshot.restore()
        snapshot.flip(name, place)
        damaged.examine(place)
    assert damaged.mended == 5


def test_bytes_of_an_index(damaged: Damaged) -> None:
    """An index is derived: whatever happens to it, nothing is even reported."""
    snapshot = damaged.snapshot
    for number in (0, -1):
        name = segment_name(number, "index", snapshot)
        size = min(len(snapshot.files[name]), 64 + 32 * 8)
        for at, mask in flips(range(size), 20, 3):
            snapshot.restore()
            snapshot.flip(name, at, mask)
            damaged.examine((str(name), at, mask))
        for data in (b"", snapshot.files[name][:40], snapshot.files[name][:100], b"\xff" * 5000):
            snapshot.restore()
            snapshot.write(name, data)
            damaged.examine((str(name), len(data)))
    assert damaged.reported == 0


def test_an_index_of_another_segment(damaged: Damaged) -> None:
    snapshot = damaged.snapshot
    first, last = segment_name(0, "index", snapshot), segment_name(-1, "index", snapshot)
    snapshot.write(last, snapshot.files[first])
    damaged.examine("exchanged")
    assert damaged.reported == 0


def test_bytes_of_the_head(damaged: Damaged) -> None:
    """The head can be made anew from the segments: all is mended, whatever byte it is."""
    snapshot = damaged.snapshot
    name = snapshot.one("*/head")
    for at, mask in flips(range(HEAD_WORDS), 60, 4):
        snapshot.restore()
        snapshot.flip(name, at, mask)
        damaged.examine((at, mask))
    snapshot.restore()
    (damaged.path / name).unlink()
    for data in (None, b"", b"\0" * 4096, b"\xff" * 4096, random.Random(2).randbytes(4096), b"PSHEAD01"):
        if data is not None:
            snapshot.restore()
            snapshot.write(name, data)
        damaged.examine(data and data[:8])
    assert damaged.reported == 0


def test_bytes_of_epochs_live_and_locks(damaged: Damaged) -> None:
    snapshot = damaged.snapshot
    for pattern in ("*/epochs", "live", "*/locks"):
        name = snapshot.one(pattern)
        for at, mask in flips(range(len(snapshot.files[name])), 12, 5):
            snapshot.restore()
            snapshot.flip(name, at, mask)
            damaged.examine((pattern, at))
        for data in (None, b"", b"\xff" * 100, snapshot.files[name][:-1]):
            snapshot.restore()
            if data is None:
                (damaged.path / name).unlink()
            else:
                snapshot.write(name, data)
            damaged.examine((pattern, data))
    assert damaged.reported == 0


def test_random_damage(damaged: Damaged) -> None:
    """Several bytes at once, anywhere but in the head."""
    seeded = random.Random(7)
    snapshot = damaged.snapshot
    names = [name for name in snapshot.files if name.suffix in (".log", ".index")]
    for round_ in range(1500 if LONG else 120):
        snapshot.restore()
        for _ in range(seeded.randint(1, 8)):
            name = seeded.choice(names)
            size = len(snapshot.files[name])
            snapshot.flip(name, seeded.randrange(min(size, 3000)), seeded.randint(1, 255))
        damaged.examine(round_)


def test_head_and_frame_at_once(damaged: Damaged) -> None:
    """With the head lost and a batch damaged, nothing says that the batch was durable: where no later batch
    does, it is cut as a torn tail would be. Not a byte of it is thrown away."""
    snapshot = damaged.snapshot
    first = segment_name(0, "log", snapshot)
    snapshot.flip(first, 300)
    snapshot.write(snapshot.one("*/head"), bytes(4096))
    with pystream.open(damaged.path) as store:
        got = read(store)
        assert got == damaged.rows[: len(got)]
        assert store.topic("t").append([b"after"]) == len(got)
    kept = b"".join(file.read_bytes() for file in damaged.path.rglob("*.cut"))
    for name, data in snapshot.files.items():
        if name.suffix == ".log" and len(got) < len(damaged.rows):
            assert data[frame_at(data, 256) :].rstrip(b"\0") in kept, name


# ---- files that are missing, cut short, or in the wrong place ---------------------------------------


def examine_apart(channel: Any, path: str, wanted: list[Row]) -> None:
    """Read a damaged store where a crash ends only this process; tell what came of it."""
    got: list[Row] = []
    try:
        with pystream.open(path) as store:
            for record in store.topic("t").records():
                got += rows([record])
            assert got == wanted, "records are missing, and nobody said so"
            partition = store.topic("t").partition(0)
            assert partition.append([b"after"], timestamps=T0) == len(wanted)
            assert partition.tail(1)[0].value == b"after"
        channel.send("whole")
    except (CorruptLogError, StorageError) as error:
        assert got == wanted[: len(got)]
        channel.send(f"{type(error).__name__}: {error}")


def test_truncated_segments(damaged: Damaged) -> None:
    """A file cut short by others, at any length: said, not met with SIGBUS."""
    snapshot = damaged.snapshot
    answers = []
    for number in (0, -1):
        name = segment_name(number, "log", snapshot)
        data = snapshot.files[name]
        second = frame_at(data, 256)
        lengths = [0, 100, 256, 300, second, second + 64, 4096]
        lengths += [len(data) - 64, len(data) - 1] if number == 0 else [20_000, 65_535]
        for length in lengths:
            snapshot.restore()
            snapshot.write(name, data[:length])
            life = Life(examine_apart, str(damaged.path), damaged.rows)
            answers.append((number, length, *life.received()))
            assert life.end() == 0, answers[-1]
    assert all(len(answer) == 3 for answer in answers), answers
    for number, length, answer in answers:
        name = segment_name(number, "log", snapshot)
        # Only what was never used may go, and the seal, which is derived.
        used = used_bytes(snapshot.files[name])
        if length >= used:
            assert answer == "whole", (number, length, answer)
        else:
            assert answer.startswith("CorruptLogError"), (number, length, answer)


def used_bytes(data: bytes) -> int:
    """Where the last frame of a segment ends."""
    at = 256
    while data[at : at + 4] == b"PSFB":
        at = frame_at(data, at)
    return at


def test_missing_segments(damaged: Damaged) -> None:
    snapshot = damaged.snapshot
    for number in (0, 1, -1):
        snapshot.restore()
        (damaged.path / segment_name(number, "log", snapshot)).unlink()
        with pytest.raises(CorruptLogError) as caught, pystream.open(damaged.path) as store:
            read(store)
        assert caught.value.topic == "t", number
    snapshot.restore()
    for name in snapshot.files:
        if name.suffix == ".log":
            (damaged.path / name).unlink()
    with pytest.raises(CorruptLogError), pystream.open(damaged.path) as store:
        read(store)


def test_a_segment_of_another_partition(tmp_path: Path) -> None:
    """Files exchanged between partitions hold the right offsets and sound checksums, and are still wrong."""
    with pystream.open(tmp_path / "s") as store:
        for name in ("t", "u"):
            topic = store.topic(name, create=True, partitions=2, segment_bytes=65536)
            for index in range(2):
                topic.append([b"%s %d" % (name.encode(), index)], partition=index, timestamps=T0)
    topics = tmp_path / "s" / "topics"
    file = "00000000000000000000.log"
    kept = (topics / "t/0" / file).read_bytes()
    for other in (topics / "t/1" / file, topics / "u/0" / file):
        (topics / "t/0" / file).write_bytes(other.read_bytes())
        with pytest.raises(CorruptLogError, match="another"), pystream.open(tmp_path / "s") as store:
            assert rows(store.topic("t").partition(0).records()) == []
    (topics / "t/0" / file).write_bytes(kept)
    with pystream.open(tmp_path / "s") as store:
        assert store.topic("t").partition(0)[0].value == b"t 0"


def test_a_copied_store(damaged: Damaged, tmp_path: Path) -> None:
    """Other inodes, the same bytes: all is checked once, and both go on apart."""
    shutil.copytree(damaged.path, tmp_path / "copy")
    for path in (damaged.path, tmp_path / "copy"):
        with pystream.open(path) as store:
            assert read(store) == damaged.rows
            assert store.topic("t").append([b"on"], timestamps=T0) == len(damaged.rows)


# ---- tails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_torn_tail_after_death(tmp_path: Path, io: str) -> None:
    """What a dead writer left unsynced and somebody tore is cut, kept aside, and its offsets given out again
    under a higher epoch."""
    with lives.open_store(str(tmp_path / "s"), io) as store:
        topic = store.topic("t", create=True, segment_bytes=65536, durability="none")
        topic.append([b"a" * 100], timestamps=T0)
        topic.partition(0).flush()
    life = Life(
        lives.append_and_die,
        str(tmp_path / "s"),
        io,
        "t",
        [{"values": [bytes([i]) * 200], "timestamps": T0} for i in range(3)],
        None,
    )
    assert life.received() == [1, 2, 3]
    life.end()
    (segment,) = (tmp_path / "s").glob("topics/t/0/*.log")
    data = bytearray(segment.read_bytes())
    third = frame_at(data, frame_at(data, frame_at(data, 256)))
    data[third + 250] ^= 1
    segment.write_bytes(data)
    with lives.open_store(str(tmp_path / "s"), io) as store:
        partition = store.topic("t").partition(0)
        assert [one.value[:1] for one in partition.records() if one.value] == [b"a", b"\0", b"\1"]
        assert partition.append([b"b"], timestamps=T0) == 3
        assert partition._log().leader_epoch == 1
    kept = [file.read_bytes() for file in (tmp_path / "s").glob("topics/t/0/*.cut")]
    assert len(kept) == 1
    assert kept[0].startswith(b"PSFB")
    assert b"\2" * 50 in kept[0]
    with lives.open_store(str(tmp_path / "s"), io) as store:
        assert [one.value[:1] for one in store.topic("t").records() if one.value] == [
            b"a",
            b"\0",
            b"\1",
            b"b",
        ]


def test_errors_are_natural_builtins() -> None:
    assert issubclass(CorruptLogError, (PystreamError, ValueError))
    assert issubclass(StorageError, OSError)
