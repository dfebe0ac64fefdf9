"""Backups: whole and consistent, replaced in one step, incremental, and never at the cost of the last one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

import pystream
from backups import backup_of, content, fill, leftovers
from harness import contents, quick_directory, rows
from pystream.backups import Backup, partitions, place


@pytest.fixture
def here() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory


@pytest.fixture
def store(here: Path) -> Iterator[pystream.Store]:
    with pystream.open(here / "s", maintenance=False) as opened:  # nothing is written but by the test
        fill(opened)
        yield opened


# ---- what is in it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_backup_is_a_store(here: Path, store: pystream.Store, mode: str) -> None:
    truth = content(store)
    before = contents(here / "s")
    with pystream.open(here / "s", mode) as opened:
        made = opened.backup(here / "b")
    assert contents(here / "s") == before
    assert backup_of(here / "b") == truth
    assert isinstance(made, Backup) and not made.incremental
    assert (made.path, made.source) == (str(here / "b"), str(here / "s"))
    assert (made.topics, made.partitions, made.groups, made.jobs) == (4, 7, 0, 0)
    assert made.records == sum(map(len, truth.values()))
    assert made.bytes_linked == made.segments_linked == 0 < made.bytes_copied
    assert made.left_out == () and made.to_json()["left_out"] == []
    assert leftovers(here) == []
    with pystream.open(here / "b") as copy:
        assert (copy.uuid, copy.created) == (store.uuid, store.created)
        for name in store.topics():
            assert copy[name].uuid == store[name].uuid and copy[name].options == store[name].options
        assert content(copy) == truth
        assert next(iter(copy["ticks"].partition(0).arrays()))["px"][3] == 1.5
        plain = copy["plain"].partition(0)
        end = plain.append([b"after"])
        assert end == len(truth["plain", 0])
        assert plain._log().leader_epoch == store["plain"].partition(0)._log().leader_epoch + 1
        assert plain[end].value == b"after" and plain[end - 1] is not None
    assert pystream.verify(here / "b").sound
    assert rows(store["plain"].partition(0).records()) == truth["plain", 0]


def test_it_opens_as_clean_as_it_can_be(here: Path, store: pystream.Store) -> None:
    """Nothing is cut, not even of a copy of it, and nothing has to be written to read it."""
    store.backup(here / "b")
    before = contents(here / "b")
    with pystream.open(here / "b", "r") as copy:
        content(copy)
    assert contents(here / "b") == before
    shutil.copytree(here / "b", here / "c")
    for path in (here / "b", here / "c"):
        with pystream.open(path) as copy:
            partition = copy["plain"].partition(0)
            assert partition.end_offset == store["plain"].partition(0).end_offset == partition.durable_offset
            assert partition._log().leader_epoch == 1
        names = os.listdir(path / "topics/plain/0")
        assert not [name for name in names if name.endswith(".cut")]


def test_a_gap_stays_a_gap(here: Path) -> None:
    with pystream.open(here / "s") as store:
        topic = store.topic("t", create=True)
        for word in (b"one", b"two", b"three"):
            topic.append([word * 50])
    (log,) = (here / "s/topics/t/0").glob("*.log")
    data = bytearray(log.read_bytes())
    data[data.index(b"twotwo")] ^= 1
    log.write_bytes(data)
    with pystream.open(here / "s", "r") as store, pytest.raises(pystream.CorruptLogError):
        store.backup(here / "b")
    assert os.listdir(here) == ["s"]
    pystream.repair(here / "s", execute=True)
    with pystream.open(here / "s") as store:
        made = store.backup(here / "b")
        assert made.records == 2
        assert backup_of(here / "b") == content(store)
        assert store.backup(here / "b").records == 2
        assert [row.offset for row in backup_of(here / "b")["t", 0]] == [0, 2]


def test_batches_of_every_size(here: Path) -> None:
    """Smaller than what is read at a time, larger, and across its edges."""
    with pystream.open(here / "s") as store:
        topic = store.topic("t", create=True, segment_bytes="16MiB")
        for size in (10, 1 << 20, 300_000, 5_000_000, (1 << 20) - 448, 700_001, 3, 1 << 20, 9_000_000, 1):
            topic.append([os.urandom(size)])
        seen: list[int] = []
        made = store.backup(here / "b", progress=lambda done, total: seen.append(total))
        assert made.segments_copied == 2 and made.records == 10
        assert backup_of(here / "b") == content(store)
        assert 18_000_000 < made.bytes_copied <= seen[-1] + 200_000
        log = sorted((here / "s/topics/t/0").glob("*.log"))[0]
        assert (here / "b" / log.relative_to(here / "s")).read_bytes() == log.read_bytes()


def test_incremental(here: Path, store: pystream.Store) -> None:
    first = store.backup(here / "b")
    again = store.backup(here / "b")
    assert again.incremental and again.bytes_copied == again.segments_copied == 0
    assert (again.bytes_linked, again.segments_linked) == (first.bytes_copied, first.segments_copied)
    assert again.records == first.records
    store["plain"].append([b"more"], partition=0)
    more = store.backup(here / "b")
    assert (more.segments_copied, more.segments_linked) == (1, first.segments_copied - 1)
    assert more.records == first.records + 1
    assert backup_of(here / "b") == content(store)
    for _ in range(90):  # rolls twice
        store["plain"].append([bytes(2000)], partition=0)
    rolled = store.backup(here / "b")
    assert rolled.segments_linked == first.segments_copied - 1 and 3 <= rolled.segments_copied <= 4
    assert backup_of(here / "b") == content(store)
    store.delete_topic("packed")
    store.topic("new", create=True).append([b"new"])
    last = store.backup(here / "b")
    assert last.segments_copied == 1 and (last.topics, last.left_out) == (4, ())
    assert backup_of(here / "b") == content(store)
    assert leftovers(here) == []


def test_nothing_of_the_store_is_linked(here: Path, store: pystream.Store) -> None:
    store.backup(here / "b")
    store.backup(here / "b")
    ours = {file.stat().st_ino for file in (here / "s").rglob("*") if file.is_file()}
    assert not ours & {file.stat().st_ino for file in (here / "b").rglob("*") if file.is_file()}
    assert {file.stat().st_nlink for file in (here / "b").rglob("*") if file.is_file()} == {1}


def test_what_looks_alike_is_copied_anew(here: Path, store: pystream.Store) -> None:
    """Another salt, another seal, another time of writing, a copy that is not whole: nothing is believed."""
    count = store.backup(here / "b").segments_copied
    log = here / "s/topics/plain/0/00000000000000000000.log"
    copy = here / "b/topics/plain/0/00000000000000000000.log"
    status = log.stat()
    assert copy.read_bytes() == log.read_bytes() and copy.stat().st_mtime_ns == status.st_mtime_ns

    def spoil(change: Callable[[], object]) -> None:
        times = copy.stat()
        change()
        if copy.exists():
            os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
        made = store.backup(here / "b")
        assert (made.segments_copied, made.segments_linked) == (1, count - 1)
        assert copy.read_bytes() == log.read_bytes()

    def write(at: int) -> None:
        with open(copy, "r+b") as file:
            file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
            file.write(b"!")

    for at in (8, 60, 250, -60, -40):
        spoil(lambda at=at: write(at))  # type: ignore[misc]
    spoil(lambda: os.truncate(copy, 1024))
    spoil(lambda: os.truncate(copy, 64))
    spoil(copy.unlink)
    spoil(copy.with_suffix(".index").unlink)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert store.backup(here / "b").segments_copied == 1


def test_modes_are_kept(here: Path, store: pystream.Store) -> None:
    os.chmod(here / "s", 0o750)
    os.chmod(here / "s/topics/plain", 0o711)
    log = "topics/plain/0/00000000000000000000.log"
    os.chmod(here / "s" / log, 0o640)
    store.backup(here / "b")
    for name in (".", "topics/plain", log):
        assert (here / "b" / name).stat().st_mode == (here / "s" / name).stat().st_mode


# ---- groups and jobs -------------------------------------------------------------------------------------


def test_groups(here: Path, store: pystream.Store) -> None:
    with store.consumer("plain", group="read", timeout=0) as consumer:
        offsets = [(record.partition, record.offset) for record, _ in zip(consumer, range(50), strict=False)]
        live = store.backup(here / "b")  # a member is there, and its last record in its hand
    assert live.groups == 1
    for mode in ("r", "rw"):
        with pystream.open(here / "b", mode) as copy:
            assert copy.groups() == ["read"]
            parts = copy.group("read").describe().partitions
            assert sum(part.committed or 0 for part in parts) in (49, 50)
    with pystream.open(here / "b") as copy, copy.consumer("plain", group="read", timeout=0) as consumer:
        rest = [(record.partition, record.offset) for record in consumer]
    whole = {
        (key[1], row.offset) for key, found in content(store).items() if key[0] == "plain" for row in found
    }
    assert {*offsets[:49], *rest} | {offsets[49]} == whole and len(rest) <= len(whole) - 49


def test_committed_offsets_of_topics_that_are_gone_are_left_out(here: Path, store: pystream.Store) -> None:
    with store.consumer("plain", "packed", group="g", timeout=0) as consumer:
        for _ in consumer:
            pass
    store.delete_topic("packed")
    store.backup(here / "b")
    with pystream.open(here / "b", "r") as copy:
        assert {part.topic for part in copy.group("g").describe().partitions} == {"plain"}


def test_jobs(here: Path, store: pystream.Store) -> None:
    """A job that was complete is complete in the copy, and goes on there where its source has grown."""
    from pystream.ingest import ingest

    source = here / "rows.csv"
    source.write_text("a,b\n" + "1,x\n" * 1000)
    topic = store.topic("rows", create=True, partitions=2)
    ingest(topic, source)
    topic.append([b"of others"], partition=0)
    made = store.backup(here / "b")
    assert made.jobs == 1
    with open(source, "a") as file:
        file.write("2,y\n" * 10)
    with pystream.open(here / "b") as copy:
        assert ingest(copy["rows"], source, resume=True).rows == 10
        assert sum(1 for _ in copy["rows"].records()) == 1011
    store.delete_topic("rows")
    store.backup(here / "c")
    assert not (here / "c/ingest").exists()


# ---- places ----------------------------------------------------------------------------------------------


def refusals(here: Path) -> dict[str, tuple[str, type[Exception], str]]:
    """By name: a place, and what is said of it."""
    (here / "file").write_text("x")
    (here / "things").mkdir()
    (here / "things/file").write_text("x")
    with pystream.open(here / "other") as other:
        other.topic("t", create=True)
        other.backup(here / "others")
    return {
        "itself": ("s", pystream.OptionError, "is the store itself"),
        "inside": ("s/b", pystream.OptionError, "is inside the store"),
        "around": (".", pystream.OptionError, "is inside it"),
        "no parent": ("no/b", pystream.StoreNotFoundError, "parent directory .* does not exist"),
        "a file": ("file", pystream.StoreNotFoundError, "not a directory"),
        "below a file": ("file/b", pystream.StoreNotFoundError, "does not exist"),
        "things": ("things", pystream.StoreNotFoundError, "holds 'file'; a backup goes into"),
        "a store": ("other", pystream.StoreNotFoundError, "is a store, and no backup"),
        "another's": ("others", pystream.StoreNotFoundError, "backup of another store, which was at"),
        "a mount": ("/proc", pystream.OptionError, "file system is mounted there"),
        "too long": ("n" * 229, pystream.OptionError, "may have 228 bytes"),
        "much too long": ("n" * 100 + "/" + "n" * 300, pystream.OptionError, "may have 400 bytes"),
        "NUL": ("\0", pystream.OptionError, "NUL"),
        "nothing": ("", pystream.OptionError, "is empty"),
    }


def test_refused_places(here: Path, store: pystream.Store) -> None:
    for name, (where, kind, words) in refusals(here).items():
        path = str(here / where) if where not in ("", "\0", "/proc") else where
        before = contents(here)
        with pytest.raises(kind, match=words):
            store.backup(path)
        assert contents(here) == before and leftovers(here) == [], name
    for wrong in (b"bytes", 7, None):
        with pytest.raises(TypeError, match="path must be"):
            store.backup(wrong)  # type: ignore[arg-type]
    store.backup(here / ("n" * 228))
    link = here / "link"
    link.symlink_to("s", target_is_directory=True)
    with pytest.raises(pystream.OptionError, match="the store itself"):
        store.backup(link)


def test_a_link_to_a_backup_stays_a_link(here: Path, store: pystream.Store) -> None:
    (here / "real").mkdir()
    (here / "link").symlink_to("real/b")
    assert store.backup(here / "link").path == str(here / "real/b")
    assert store.backup(here / "link").incremental
    assert (here / "link").is_symlink() and os.listdir(here / "real") == ["b"]


def test_long_names_of_topics(here: Path) -> None:
    """What could not be opened there is not copied there."""
    with pystream.open(here / "s") as store:
        store.topic("n" * 249, create=True).append([b"x"])
        room = 447 - len(f"{here}/{''}/topics/{'n' * 249}/65535")
        store.backup(here / ("b" * room))
        backup_of(here / ("b" * room))
        with pytest.raises(pystream.OptionError, match="too long for topic"):
            store.backup(here / ("b" * (room + 1)))


def test_an_empty_directory_is_a_place(here: Path, store: pystream.Store) -> None:
    (here / "b").mkdir()
    assert not store.backup(here / "b").incremental
    assert backup_of(here / "b") == content(store)


def test_who_writes_to_a_backup_keeps_it(here: Path, store: pystream.Store) -> None:
    store.backup(here / "b")
    with pystream.open(here / "b") as copy:
        copy["plain"].append([b"only here"], partition=2)
    before = contents(here / "b")
    with pytest.raises(pystream.StoreNotFoundError, match="opened for writing since"):
        store.backup(here / "b")
    assert contents(here / "b") == before and leftovers(here) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_opened_for_writing_at_the_last_moment(
    here: Path, store: pystream.Store, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Whoever opens the last backup just as it is replaced has it at its place, with all he wrote."""
    store.backup(here / "b")
    looks = [0]
    real = place.Place._check_untouched

    def look(self: place.Place, path: str) -> None:
        real(self, path)
        looks[0] += 1
        if looks[0] == 2:
            with pystream.open(path) as copy:
                copy["plain"].append([b"only here"], partition=2)

    monkeypatch.setattr(place.Place, "_check_untouched", look)
    if not exchange:
        monkeypatch.setenv("PYSTREAM_FAULT", "exchange:1:errno=22")
    with pytest.raises(pystream.StoreNotFoundError, match="opened for writing since"):
        store.backup(here / "b")
    assert looks[0] >= 2 and leftovers(here) == []
    with pystream.open(here / "b", "r") as copy:
        assert copy["plain"].partition(2)[0].value == b"only here"


def test_damaged_backup_json(here: Path, store: pystream.Store) -> None:
    store.backup(here / "b")
    file = here / "b/backup.json"
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"end"', b'"enD"', 1))
    with pytest.raises(pystream.CorruptLogError, match=r"backup\.json: damaged.*name another directory"):
        store.backup(here / "b")
    (found,) = pystream.verify(here / "b").findings
    assert (found.kind, found.part) == ("damage", "backup")
    with pystream.open(here / "b", "r") as copy:
        assert content(copy) == content(store)
    file.write_bytes(data)
    assert store.backup(here / "b").incremental


def test_two_at_once(here: Path, store: pystream.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one place, the second is refused; to another beside it, it is not."""
    store.backup(here / "b")
    done: list[object] = []
    real = partitions.Copies.run

    def run(self: partitions.Copies) -> None:
        monkeypatch.setattr(partitions.Copies, "run", real)
        try:
            store.backup(here / "b")
        except pystream.StorageError as error:
            done.append(error.errno)
        done.append(store.backup(here / "c"))
        real(self)

    monkeypatch.setattr(partitions.Copies, "run", run)
    store.backup(here / "b")
    assert done[0] == 16 and isinstance(done[1], Backup)
    assert backup_of(here / "b") == backup_of(here / "c")
    assert leftovers(here) == []


def test_closed_and_progress(here: Path, store: pystream.Store) -> None:
    seen: list[tuple[int, int]] = []
    store.backup(here / "b", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert all(before[0] <= after[0] for before, after in pairwise(seen))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = contents(here / "b")
    with pytest.raises(KeyboardInterrupt):
        store.backup(here / "b", progress=stop)
    assert contents(here / "b") == before and leftovers(here) == []
    store.close()
    with pytest.raises(pystream.ClosedError):
        store.backup(here / "c")


# ---- damage ----------------------------------------------------------------------------------------------


def flip(file: Path, at: int) -> None:
    with open(file, "r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


SEGMENT = "topics/plain/0/00000000000000000000.log"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "header": (lambda s: flip(s / SEGMENT, 60), "segment header is damaged"),
    "frame header": (lambda s: flip(s / SEGMENT, 256 + 40), "no sound batch stands here"),
    "body": (lambda s: flip(s / SEGMENT, 256 + 192 + 300), "a batch is damaged"),
    "cut short": (lambda s: os.truncate(s / SEGMENT, 3000), "ends inside a batch"),
    "cut shorter": (lambda s: os.truncate(s / SEGMENT, 256), "ends too early"),
    "cut in the header": (lambda s: os.truncate(s / SEGMENT, 100), "segment header is damaged"),
    "first missing": (lambda s: (s / SEGMENT).unlink(), "segment that holds offset 0 is missing"),
    "second missing": (
        lambda s: sorted((s / "topics/plain/0").glob("*.log"))[1].unlink(),
        "segment that goes on from here is missing",
    ),
    "exchanged": (
        lambda s: shutil.copy(s / SEGMENT.replace("plain/0", "plain/1"), s / SEGMENT),
        "of another topic or partition",
    ),
    "no directory": (lambda s: shutil.rmtree(s / "topics/idle/1"), "partition's directory is missing"),
    "topic.json": (lambda s: flip(s / "topics/plain/topic.json", 30), "checksum differs"),
    "no topic.json": (lambda s: (s / "topics/plain/topic.json").unlink(), "of a topic without topic.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused(here: Path, damage: str) -> None:
    """With the place, and what to do; the last backup stays."""
    with pystream.open(here / "s") as store:
        store.backup(here / "b")  # of nothing
        fill(store)
        before = contents(here / "b")
        spoil, words = DAMAGES[damage]
        content(store)
        spoil(here / "s")
        with pytest.raises(pystream.CorruptLogError, match=words) as caught:
            store.backup(here / "b")
        if damage not in ("topic.json",):
            assert "pystream verify" in str(caught.value)
            assert (caught.value.topic, caught.value.partition or 0) in {("plain", 0), ("idle", 1)}
    assert contents(here / "b") == before and leftovers(here) == []


def test_what_is_derived_is_made_anew(here: Path, store: pystream.Store) -> None:
    """Damaged indexes, seals and epochs lose nothing, and are sound in the copy."""
    truth = content(store)
    first, *_ = sorted((here / "s/topics/plain/0").glob("*.log"))
    flip(first, first.stat().st_size - 40)
    flip(first.with_suffix(".index"), 80)
    flip(here / "s/topics/plain/0/epochs", 5)
    store.backup(here / "b")
    assert backup_of(here / "b") == truth


def test_a_backup_of_a_backup(here: Path, store: pystream.Store) -> None:
    store.backup(here / "b")
    with pystream.open(here / "b", "r") as copy:
        copy.backup(here / "c")
        copy.backup(here / "c")
    assert backup_of(here / "c") == content(store)


# ---- topics that come and go -----------------------------------------------------------------------------


def test_topics_deleted_while_copied_are_left_out(
    here: Path, store: pystream.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = content(store)
    real = partitions.Copies._copy_part

    def copy(self: partitions.Copies, part: partitions.Part) -> None:
        with suppress(pystream.TopicNotFoundError):
            if part.topic == "packed":  # before it
                store.delete_topic("packed")
                store.topic("packed", create=True).append([b"another"])
        real(self, part)
        with suppress(pystream.TopicNotFoundError):
            if part.topic == "plain" and part.number == 2:  # after it
                store.delete_topic("plain")

    monkeypatch.setattr(partitions.Copies, "_copy_part", copy)
    monkeypatch.setattr(partitions, "THREADS", 1)
    made = store.backup(here / "b")
    assert made.left_out == ("packed", "plain") and made.topics == 2
    assert backup_of(here / "b") == {
        key: found for key, found in truth.items() if key[0] in ("idle", "ticks")
    }


def test_recovered_while_it_is_copied(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only reads keeps nobody from recovering a log that a crash has torn."""
    with pystream.open(here / "s") as store:
        topic = store.topic("t", create=True, segment_bytes=65536)
        for i in range(40):
            topic.append([b"%d" % i + bytes(3000)])
        truth = content(store)
    log = sorted((here / "s/topics/t/0").glob("*.log"))[-1]
    with open(log, "r+b") as file:  # what a power failure may leave behind the last batch
        file.seek(log.stat().st_size - 4096)
        file.write(b"torn")
    real = partitions.Copies._copy_into
    turns = []

    def copy(self: partitions.Copies, target: str, part: partitions.Part) -> None:
        turns.append(target)
        if len(turns) == 1:
            with pystream.open(here / "s") as writer:
                writer["t"].append([b"new"])
            raise FileNotFoundError(2, "as a segment that was set aside is")
        real(self, target, part)

    monkeypatch.setattr(partitions.Copies, "_copy_into", copy)
    with pystream.open(here / "s", "r") as store:
        store.backup(here / "b")
    assert len(turns) == 2
    assert backup_of(here / "b") == truth
