"""Really full disks, and devices that really fail: small file systems are mounted, filled, freed, and filled
again, with stores on them in several processes.

Needs the right to mount; `can_mount` says whether there is.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import pystream

from . import processes
from .processes import Say, said_of
from .scenes import T0, number_of, value

MIB: Final = 1 << 20
KINDS: Final = {
    "tmpfs": ("mmap", 8),
    "ext4": ("mmap", 16),
    "xfs": ("mmap", 320),
    "btrfs": ("pwrite", 128),
    "overlay": ("pwrite", 8),
}
"""File systems, how records are to be stored there, and how many MiB they have: the least that will do."""
ROOM_MIB: Final = {"btrfs": 24}
"""Free at the beginning of a round, where it is not 5. (btrfs counts as free what it keeps for itself.)"""
FILLER_MIB: Final = {"btrfs": 10}
"""Freed in its midst, where it is not 2."""
MODES: Final = ("interval", "sync", "none")


# ---- file systems -----------------------------------------------------------------------------------


def command(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(errno.EPERM, f"{' '.join(map(str, words))}: {done.stderr.strip()}")


@contextmanager
def directory() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="pystream-disks-", dir=memory))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def mounted(path: Path, *words: str | Path) -> Iterator[Path]:
    """`mount WORDS PATH` for as long as it takes."""
    path.mkdir(exist_ok=True)
    command("mount", *words, path)
    try:
        yield path
    finally:
        for attempt in range(50):
            try:
                command("umount", path)
                break
            except OSError:
                if attempt == 49:
                    command("umount", "-l", path)
                    raise
                time.sleep(0.05)


def make_image(image: Path, kind: str, mib: int, *options: str) -> None:
    with open(image, "wb") as file:
        file.truncate(mib * MIB)
    quiet = {"ext4": ("-q", "-F", "-m", "0"), "xfs": ("-q", "-f"), "btrfs": ("-q", "-f")}[kind]
    command(f"mkfs.{kind}", *quiet, *options, image)


@contextmanager
def file_system(kind: str) -> Iterator[Path]:
    """A small file system of this kind, empty."""
    _, mib = KINDS[kind]
    with directory() as place:
        if kind == "tmpfs":
            with mounted(place / "m", "-t", "tmpfs", "-o", f"size={mib}m", "none") as path:
                yield path
        elif kind == "overlay":
            with mounted(place / "b", "-t", "tmpfs", "-o", f"size={mib}m", "none") as below:
                for name in ("lower", "upper", "work"):
                    (below / name).mkdir()
                layers = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
                with mounted(place / "m", "-t", "overlay", "-o", layers, "none") as path:
                    yield path
        else:
            make_image(place / "image", kind, mib)
            with mounted(place / "m", "-o", "loop", "-t", kind, place / "image") as path:
                yield path


@lru_cache
def mountable() -> tuple[str, ...]:
    """The kinds that can be mounted here."""
    found = []
    for kind in KINDS:
        with suppress(OSError), file_system(kind):
            found.append(kind)
    return tuple(found)


@lru_cache
def can_mount() -> bool:
    with suppress(OSError), file_system("tmpfs"):
        return True
    return False


def take(path: Path, size: int) -> None:
    """Make a file of this size, with its blocks; of what there is, where that is less."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return
    try:
        while size > 0:
            try:
                os.posix_fallocate(descriptor, 0, size)
                return
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size -= MIB // 4
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def give_back(path: Path) -> None:
    """Remove a file, and wait until its blocks can be had again."""
    root = path.parent
    path.unlink(missing_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
        os.sync()
    finally:
        os.close(descriptor)


# ---- full disks -------------------------------------------------------------------------------------


def is_full(error: BaseException, where: Path) -> None:
    """Raise unless an error says that the disk is full, where, and what to do."""
    if isinstance(error, pystream.DeliveryError):
        assert error.__cause__ is not None
        is_full(error.__cause__, where)
        return
    assert isinstance(error, pystream.StorageError), repr(error)
    assert not isinstance(error, pystream.PoisonedError), f"poisoned: {error}"
    assert error.errno == errno.ENOSPC, repr(error)
    text = str(error)
    assert error.filename and str(error.filename).startswith(str(where)), text
    assert text.count(str(error.filename)) == 1, text
    assert "free some space and try again" in text, text


class Round:
    """One round, as a process plays it."""

    def __init__(self, where: Path, kind: str, seed: int, say: Say) -> None:
        self.where = where
        self.path = str(where / "s")
        self.kind = kind
        self.random = random.Random(seed)
        self.durability = self.random.choice(MODES)
        self.compression = self.random.choice(("none", "lz4"))
        self.segment_bytes = self.random.choice((64, 256, 1024)) << 10
        self.say = say
        self.next = 0

    def open(self, mode: str = "rw") -> pystream.Store:
        store = pystream.open(self.path, mode, **({"sync_interval": 0.05} if mode == "rw" else {}))
        if mode == "rw":
            assert store.io == KINDS[self.kind][0], f"{store.io} on {store.filesystem}"
        return store

    def make(self, store: pystream.Store) -> pystream.Topic:
        return store.topic(
            "t",
            create=True,
            durability=self.durability,
            compression=self.compression,
            segment_bytes=self.segment_bytes,
            index_interval_bytes=4096,
        )

    def values(self) -> list[bytes]:
        size = self.random.choice((100, 3000, 20_000))
        count = self.random.randrange(1, 1 + 30_000 // size)
        return [value(self.next + i, size) for i in range(count)]

    def append(self, partition: pystream.Partition, values: list[bytes]) -> bool:
        """Append, and say so; False: the disk is full."""
        try:
            offset = partition.append(values, timestamps=T0)
        except Exception as error:
            is_full(error, self.where)
            return False
        self.say("acked", (offset, self.next, len(values)))
        self.next += len(values)
        return True

    def fill(self, partition: pystream.Partition) -> None:
        """Append until the disk is full, and some more."""
        refused = 0
        end = time.monotonic() + processes.HANG_S / 2
        while refused < 4:
            refused += not self.append(partition, self.values())
            assert time.monotonic() < end, "it does not become full"
        take(self.where / "crumbs", 4 * MIB)
        for _ in range(3):
            self.append(partition, self.values())

    def resume(self, partition: pystream.Partition) -> None:
        """Appends go on by themselves."""
        end = time.monotonic() + 5
        while not self.append(partition, self.values()):
            assert time.monotonic() < end, (
                f"there is room ({free_bytes(self.where)}), and appends do not go on"
            )
            time.sleep(0.05)
        for _ in range(5):
            self.append(partition, self.values())

    def read(self, store: pystream.Store) -> list[int]:
        records = list(store.topic("t").records())
        assert [record.offset for record in records] == list(range(len(records)))
        found = [number_of(record.value) for record in records]
        assert found == sorted(set(found)), "out of order, or twice"
        return found

    def beside(self, mode: str, *, killed: bool = False) -> None:
        """Another process opens the store on the full disk, reads all, and tries to append."""

        def act(say: Say) -> None:
            try:
                opened = self.open(mode)
            except Exception as error:
                # There, whatever is written, however short, and wherever before, wants a new place.
                if mode == "r" or self.kind != "btrfs":
                    raise
                is_full(error, self.where)
                if killed:
                    os.kill(os.getpid(), signal.SIGKILL)
                return
            with opened as store:
                found = self.read(store)
                assert len(found) >= self.next, (len(found), self.next)
                if mode == "r":
                    return
                self.say = say
                for _ in range(3):
                    self.append(store.topic("t").partition(0), self.values())
                if killed:
                    os.kill(os.getpid(), signal.SIGKILL)

        ended = processes.in_a_process(act)
        assert ended.failure is None, f"beside, mode {mode}: {ended.failure}"
        assert ended.killed == killed
        for offset, begin, count in said_of(ended.said, "acked"):
            self.say("acked", (offset, begin, count))
            self.next = begin + count

    def group(self, store: pystream.Store) -> None:
        """A member reads, and commits or hears why it cannot."""
        try:
            consumer = store.consumer("t", group="g", auto_commit=False)
        except Exception as error:
            is_full(error, self.where)
            return
        for attempt in (
            consumer.poll,
            consumer.commit,
            partial(consumer.commit, durable=True),
            consumer.close,
        ):
            try:
                attempt(0.05) if attempt == consumer.poll else attempt()
            except Exception as error:
                is_full(error, self.where)

    def produce(self, store: pystream.Store) -> None:
        """A producer takes records, says that they do not go out, and has them out when there is room."""
        values = [value(self.next + i, 9000) for i in range(20)]
        producer = store.topic("t").producer(linger=0.001, batch_bytes=30_000)
        taken = 0
        for one in values:
            try:
                producer.send(one, timestamp=T0)
            except Exception as error:
                is_full(error, self.where)
                break
            taken += 1
        refused = False
        try:
            producer.flush(timeout=0.3)
        except (pystream.DeliveryError, TimeoutError) as error:
            refused = True
            if isinstance(error, pystream.DeliveryError):
                is_full(error, self.where)
        self.say("refused", refused)
        give_back(self.where / "crumbs")
        give_back(self.where / "filler")
        end = time.monotonic() + 10
        while True:
            try:
                producer.close()
                break
            except pystream.DeliveryError as error:
                is_full(error, self.where)
                assert time.monotonic() < end, f"there is room, and they do not go out: {error}"
        self.say("flushed", (self.next, taken))
        self.next += taken

    def play(self) -> None:
        # What is freed later on is taken first, so that the rest is all there is.
        filler = FILLER_MIB.get(self.kind, 2) * MIB
        take(self.where / "filler", filler)
        if (rest := free_bytes(self.where) - ROOM_MIB.get(self.kind, 5) * MIB) > 0:
            take(self.where / "ballast", rest)
        with self.open() as store:
            partition = self.make(store).partition(0)
            assert self.append(partition, self.values()), "there was room"
            self.group(store)
            self.fill(partition)
            assert len(self.read(store)) >= self.next
            self.group(store)
            self.beside("r")
            self.beside("rw")
            if self.random.randrange(2):
                give_back(self.where / "crumbs")
                give_back(self.where / "filler")
                self.resume(partition)
            else:
                self.produce(store)
            self.group(store)
            take(self.where / "filler", filler)
            self.fill(partition)
            self.close(store)
        self.beside("r")
        self.beside("rw", killed=True)
        self.beside("r")
        self.beside("rw")
        give_back(self.where / "crumbs")
        give_back(self.where / "filler")
        with self.open() as store:
            partition = store.topic("t").partition(0)
            self.resume(partition)
            partition.flush()
            assert len(self.read(store)) >= self.next

    def close(self, store: pystream.Store) -> None:
        try:
            store.close()
        except Exception as error:
            is_full(error, self.where)


def check(where: Path, said: list[tuple[str, Any]]) -> None:
    """All that was acknowledged is there, and nothing is damaged."""
    report = pystream.verify(where / "s")
    assert report.sound, report.findings
    with pystream.open(where / "s") as store:
        records = list(store.topic("t").records())
        found = [number_of(record.value) for record in records]
        assert [record.offset for record in records] == list(range(len(found)))
        assert found == sorted(set(found)), "out of order, or twice"
        for offset, begin, count in said_of(said, "acked"):
            assert found[offset : offset + count] == list(range(begin, begin + count)), (offset, begin)
        for begin, count in said_of(said, "flushed"):
            assert set(range(begin, begin + count)) <= set(found), "what was flushed is missing"


def play(kind: str, seed: int) -> str | None:
    """One round; what went wrong."""
    with file_system(kind) as where:
        ended = processes.in_a_process(lambda say: Round(where, kind, seed, say).play(), seconds=90)
        text = ended.failure
        if text is None and ended.killed:
            text = "it was killed"
        if text is None:
            text = processes.in_a_process(lambda say: check(where, ended.said)).failure
    return text


def play_all(trials: list[tuple[str, int]]) -> list[tuple[str, int, str | None]]:
    return [(kind, seed, play(kind, seed)) for kind, seed in trials]


def run(first_seed: int, trials: int, *, seconds: float | None = None, workers: int = 2) -> dict[str, Any]:
    """Play rounds from `first_seed` on, each on the next kind of file system that can be mounted here.

    Returns:
        trials (rounds), failures (texts), file_systems (rounds by kind).

    Raises:
        RuntimeError: None can be mounted.
    """
    kinds = mountable()
    if not kinds:
        raise RuntimeError("file systems cannot be mounted here: that takes root")
    end = None if seconds is None else time.monotonic() + seconds
    done = 0
    failures: list[str] = []
    by_kind: dict[str, int] = {}
    with processes.pool(workers) as pool:
        while done < trials and (end is None or time.monotonic() < end):
            seeds = range(first_seed + done, first_seed + done + min(workers, trials - done))
            for answers in pool(play_all, [[(kinds[seed % len(kinds)], seed)] for seed in seeds]):
                for kind, seed, text in answers:
                    by_kind[kind] = by_kind.get(kind, 0) + 1
                    if text is not None:
                        failures.append(f"seed {seed}, {kind}: {text}")
            done += len(seeds)
    return {"trials": done, "failures": failures, "file_systems": by_kind}


# ---- failing devices --------------------------------------------------------------------------------


@contextmanager
def failing_device() -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """An ext4 whose device fails with EIO where it was never written to, from a call of the first function to
    one of the second: its image is a file with holes, on a tmpfs that is full.

    Without a journal, whose failure would make all of it read-only.
    """
    with directory() as place, mounted(place / "b", "-t", "tmpfs", "-o", "size=24m", "none") as below:
        image = below / "image"
        make_image(image, "ext4", 64, "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard")
        with mounted(place / "m", "-o", "loop", "-t", "ext4", image) as path:

            def fail() -> None:
                os.sync()
                take(below / "filler", free_bytes(below))
                with suppress(OSError), open(below / "crumbs", "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

            def heal() -> None:
                (below / "filler").unlink(missing_ok=True)
                (below / "crumbs").unlink(missing_ok=True)

            try:
                yield path, fail, heal
            finally:
                heal()
