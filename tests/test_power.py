"""Power failures, played: the disk that forgets what was not synced is what it says to be; a partition keeps
its promises on it; and the trials tell a library that does not keep them."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import disk_library, environment, power, stores
from faults.mutants import MUTANTS, Mutant
from harness import LONG

PAGE = 4096
MOODS = [
    *("everything", "nothing", "one-lost", "one-kept", "one-torn", "even"),
    *("mostly-kept", "mostly-lost", "first", "last", "files", "last-torn"),
]


class Disk:
    """The played disk in this process: only calls made through it are counted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.verbs = ctypes.CDLL(str(disk_library()), use_errno=True)
        self.verbs.ps_disk_calls.restype = ctypes.c_int64
        self.verbs.pwrite.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64]
        for word in ("failed", "failed_path", "mood"):
            getattr(self.verbs, f"ps_disk_{word}").restype = ctypes.c_char_p
        self.verbs.ps_disk_photo.argtypes = [ctypes.c_char_p, ctypes.c_uint64]
        self.verbs.ps_disk_write_back.argtypes = [ctypes.c_uint64]
        self.verbs.ftruncate.argtypes = [ctypes.c_int, ctypes.c_int64]

    def arm(self, plan: str = "photo:0:0:/") -> int:
        return int(self.verbs.ps_disk_arm(os.fsencode(self.root), plan.encode()))

    def call(self, name: str, *arguments: Any) -> int:
        given = [os.fsencode(one) if isinstance(one, Path) else one for one in arguments]
        answer = int(getattr(self.verbs, name)(*given))
        if answer < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)
        return answer

    def open(self, name: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        return self.call("open", self.root / name, flags, 0o666)

    def write(self, name: str, data: bytes, at: int = 0) -> None:
        descriptor = self.open(name)
        assert self.call("pwrite", descriptor, data, len(data), at) == len(data)
        self.call("close", descriptor)

    def sync(self, name: str = ".") -> None:
        descriptor = self.open(name, os.O_RDONLY)
        self.call("fsync" if name == "." else "fdatasync", descriptor)
        self.call("close", descriptor)

    def photo(self, seed: int, dest: Path) -> Path:
        assert self.verbs.ps_disk_photo(os.fsencode(dest), seed) == 0
        return dest


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "root"
    root.mkdir()
    played = Disk(root)
    yield played
    played.verbs.ps_disk_only_mood(None)
    played.verbs.ps_disk_disarm()


def photos(disk: Disk, count: int = 60) -> Iterator[tuple[str, Path]]:
    """Photos in every mood, and which one it was."""
    for mood in MOODS:
        assert disk.verbs.ps_disk_only_mood(mood.encode()) == 0
        for seed in range(count):
            yield mood, disk.photo(seed, disk.root.parent / f"{mood}-{seed}")
    assert disk.verbs.ps_disk_only_mood(b"no-such-mood") == errno.EINVAL


def page(byte: bytes, count: int = 1) -> bytes:
    return byte * (PAGE * count)


# ---- the model ---------------------------------------------------------------------------------------------


def test_what_was_synced_is_there(disk: Disk) -> None:
    assert disk.arm() == 0
    disk.write("file", page(b"a", 3) + b"tail")
    disk.sync("file")
    disk.sync()
    disk.write("file", b"new", at=PAGE + 100)
    disk.write("other", page(b"b"))
    for _, found in photos(disk):
        data = (found / "file").read_bytes()
        assert data[: PAGE + 100] == page(b"a") + b"a" * 100, "bytes that nobody changed"
        assert data[PAGE + 103 :] == page(b"a", 2)[103:] + b"tail"


@pytest.mark.parametrize("mood", MOODS)
def test_each_mood_loses_what_it_should(disk: Disk, mood: str) -> None:
    disk.write("file", page(b"a", 8))
    assert disk.arm() == 0
    for at in range(8):
        disk.write("file", page(b"b"), at=at * PAGE)
    assert disk.verbs.ps_disk_only_mood(mood.encode()) == 0
    seen: dict[str, int] = {}
    for seed in range(200):
        data = (disk.photo(seed, disk.root.parent / str(seed)) / "file").read_bytes()
        pages = [data[at : at + PAGE] for at in range(0, 8 * PAGE, PAGE)]
        fates = "".join("k" if one == page(b"b") else "l" if one == page(b"a") else "t" for one in pages)
        seen[fates] = seen.get(fates, 0) + 1
    right: dict[str, Callable[[str], bool]] = {
        "everything": lambda fates: fates == "kkkkkkkk",
        "nothing": lambda fates: fates == "llllllll",
        "one-lost": lambda fates: sorted(fates) == list("kkkkkkkl"),
        "one-kept": lambda fates: sorted(fates) == list("klllllll"),
        "one-torn": lambda fates: fates.count("k") >= 7,  # what is torn may come out whole
        "even": lambda fates: True,
        "mostly-kept": lambda fates: True,
        "mostly-lost": lambda fates: True,
        "first": lambda fates: "lk" not in fates and "t" not in fates,
        "last": lambda fates: "kl" not in fates and "t" not in fates,
        "files": lambda fates: fates in ("kkkkkkkk", "llllllll"),
        "last-torn": lambda fates: fates.startswith("kkkkkkk"),
    }
    assert [fates for fates in seen if not right[mood](fates)] == []
    different = {"everything": 1, "nothing": 1, "files": 2, "last-torn": 2, "first": 9, "last": 9}
    assert len(seen) >= different.get(mood, 8)
    total = {fate: sum(fates.count(fate) * times for fates, times in seen.items()) for fate in "klt"}
    if mood == "even":
        assert all(count > 300 for count in total.values()), total
    if mood == "mostly-kept":
        assert total["k"] > 4 * (total["l"] + total["t"]) > 0
    if mood == "mostly-lost":
        assert total["l"] > 4 * (total["k"] + total["t"]) > 0


def test_torn_pages(disk: Disk) -> None:
    """Bytes that are equal stay; those that differ are zeros, anything, or sectors of old and new."""
    old, new = page(b"a"), b"".join(b"a" * 500 + b"b" * 12 for _ in range(8))
    disk.write("file", old)
    assert disk.arm() == 0
    disk.write("file", new)
    disk.verbs.ps_disk_only_mood(b"last-torn")
    kinds = set()
    for seed in range(100):
        data = (disk.photo(seed, disk.root.parent / str(seed)) / "file").read_bytes()
        differing = bytes(byte for byte, before, now in zip(data, old, new, strict=True) if before != now)
        assert all(byte == before for byte, before, now in zip(data, old, new, strict=True) if before == now)
        sectors = [differing[at : at + 12] for at in range(0, 96, 12)]
        if set(differing) <= {ord("a"), ord("b")}:
            assert all(sector in (b"a" * 12, b"b" * 12) for sector in sectors)
            kinds.add("sectors" if len(set(sectors)) == 2 else "whole")
        else:
            kinds.add("zeros" if set(differing) == {0} else "anything")
    assert kinds >= {"sectors", "zeros", "anything"}


CHANGED = "made renamed gone directory directory/inside linked".split()


def test_names_come_and_go_in_chains(disk: Disk) -> None:
    disk.write("kept", b"0")
    disk.write("gone", b"0")
    assert disk.arm() == 0
    disk.write("made", b"1")
    disk.sync("made")
    disk.call("rename", disk.root / "made", disk.root / "renamed")
    disk.call("unlink", disk.root / "gone")
    disk.call("mkdir", disk.root / "directory", 0o777)
    disk.write("directory/inside", b"2")
    disk.call("link", disk.root / "kept", disk.root / "linked")
    outcomes = set()
    for _, found in photos(disk):
        names = {str(path.relative_to(found)) for path in found.rglob("*")}
        assert "kept" in names
        assert not {"made", "renamed"} <= names, "one file, one name"
        if "renamed" in names:
            assert (found / "renamed").read_bytes() == b"1", "its content was synced"
        if "linked" in names:
            assert (found / "linked").samefile(found / "kept")
        outcomes |= {(word, word in names) for word in CHANGED}
    assert len(outcomes) == 12, "each of them is there in some, and not in others"

    disk.sync()
    disk.write("directory/later", b"3")
    for _, found in photos_in(disk, "again"):
        names = {path.name for path in found.iterdir()}
        assert names == {"kept", "renamed", "directory", "linked"}, "the directory was synced"
        assert (found / "renamed").read_bytes() == b"1"


def photos_in(disk: Disk, word: str) -> Iterator[tuple[str, Path]]:
    for mood in MOODS:
        disk.verbs.ps_disk_only_mood(mood.encode())
        for seed in range(10):
            yield mood, disk.photo(seed, disk.root.parent / f"{word}-{mood}-{seed}")


def test_a_rename_over_a_file_is_one_step(disk: Disk) -> None:
    disk.write("file", b"old")
    assert disk.arm() == 0
    disk.write("new", b"new")
    disk.sync("new")
    disk.call("rename", disk.root / "new", disk.root / "file")
    found = {(photo / "file").read_bytes() for _, photo in photos(disk)}
    assert found == {b"old", b"new"}


def test_sizes(disk: Disk) -> None:
    disk.write("grown", page(b"a"))
    disk.write("cut", page(b"a", 4))
    assert disk.arm() == 0
    disk.write("grown", page(b"b", 4), at=PAGE)
    descriptor = disk.open("cut")
    disk.call("ftruncate", descriptor, PAGE)
    disk.call("close", descriptor)
    grown, cut = set(), set()
    for _, photo in photos(disk):
        data = (photo / "grown").read_bytes()
        assert PAGE <= len(data) <= 5 * PAGE
        assert data[:PAGE] == page(b"a")
        grown.add(len(data))
        rest = (photo / "cut").read_bytes()
        assert PAGE <= len(rest) <= 4 * PAGE
        assert rest == b"a" * len(rest), "what was not taken away is still there"
        cut.add(len(rest))
    assert {PAGE, 5 * PAGE} < grown
    assert {PAGE, 4 * PAGE} < cut
    assert any(size % PAGE for size in grown)


def test_the_kernel_writes_back_of_its_own_accord(disk: Disk) -> None:
    disk.write("file", page(b"a", 4))
    assert disk.arm() == 0
    disk.write("file", page(b"b", 4))
    for seed in range(40):
        disk.verbs.ps_disk_write_back(seed)
    disk.write("file", page(b"c", 4))
    disk.verbs.ps_disk_only_mood(b"nothing")
    data = (disk.photo(1, disk.root.parent / "photo") / "file").read_bytes()
    assert data == page(b"b", 4), "neither what was synced nor what is there now"


def test_syncfs_brings_all(disk: Disk) -> None:
    assert disk.arm() == 0
    disk.write("file", b"a")
    disk.call("mkdir", disk.root / "directory", 0o777)
    disk.write("directory/inside", b"b")
    descriptor = disk.open(".", os.O_RDONLY)
    disk.call("syncfs", descriptor)
    disk.call("close", descriptor)
    for _, photo in photos_in(disk, "photo"):
        assert (photo / "file").read_bytes() == b"a"
        assert (photo / "directory/inside").read_bytes() == b"b"


# ---- plans -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        *("", "counts", "count:1", "fail:0:5", "fail:1:0", "fail:1", "fail:1:5:0", "fail:1:5:-2"),
        *("kill:0", "kill:x", "photo:1:2:dest", "photo:1:2"),
    ],
)
def test_plans_that_are_none(disk: Disk, plan: str) -> None:
    assert disk.arm(plan) == errno.EINVAL


def test_photos_do_not_go_below_the_root(disk: Disk) -> None:
    assert disk.arm(f"photo:1:2:{disk.root}/photo") == errno.EINVAL
    assert disk.verbs.ps_disk_arm(b"relative", b"count") == errno.EINVAL
    assert disk.verbs.ps_disk_arm(b"/", b"count") == errno.EINVAL
    assert disk.verbs.ps_disk_arm(os.fsencode(disk.root / "nothing"), b"photo:0:0:/") == errno.ENOENT


@pytest.mark.parametrize(
    ("plan", "failing"), [("fail:3:28", {3}), ("fail:2:28:3", {2, 3, 4}), ("fail:4:28:-1", {4, 5, 6})]
)
def test_calls_fail_when_the_plan_says_so(disk: Disk, plan: str, failing: set[int]) -> None:
    assert disk.arm(plan) == 0
    (disk.root.parent / "elsewhere").write_bytes(b"")
    for n in range(1, 7):
        disk.verbs.mkdir(os.fsencode(disk.root.parent / f"outside-{n}"), 0o777)  # these do not count
        try:
            disk.call("mkdir", disk.root / str(n), 0o777)
            failed = False
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert disk.verbs.ps_disk_failed() == b"mkdir"
            assert disk.verbs.ps_disk_failed_path() == str(n).encode()
            failed = True
        assert failed == (n in failing)
        assert (disk.root / str(n)).exists() != failed
        assert (disk.root.parent / f"outside-{n}").exists()
    assert disk.verbs.ps_disk_calls() == 6


SCRIPT = """
import os, sys
root = sys.argv[1]
try:
    with open(root + "/file", "wb", buffering=0) as file:
        file.write(b"x" * 5000)
        os.fsync(file.fileno())
    os.replace(root + "/file", root + "/renamed")
    print(sorted(os.listdir(root)), os.stat(root).st_ino)
    print(open("/proc/sys/kernel/random/boot_id").read().strip())
except OSError as error:
    print(error.errno, error.filename)
"""


def whole_process(root: Path, plan: str, **more: str) -> tuple[int, str]:
    command = [sys.executable, "-c", SCRIPT, str(root)]
    done = subprocess.run(command, env={**environment(root, plan), **more}, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def test_whole_processes(tmp_path: Path) -> None:
    """Loaded before libc, it has the calls of an interpreter."""
    root = tmp_path / "root"
    root.mkdir()
    code, said = whole_process(root, "count", PYSTREAM_DISK_BOOT="7")
    assert code == 0
    assert said.splitlines()[1] == "b0070000-0000-4000-8000-000000000007"
    (root / "renamed").unlink()
    trace = tmp_path / "trace"
    whole_process(root, "count", PYSTREAM_DISK_TRACE=str(trace))
    calls = [line.split()[1] for line in trace.read_text().splitlines()]
    assert [call for call in calls if call != "close"] == ["open", "write", "fsync", "rename"]
    (root / "renamed").unlink()
    answers = [whole_process(root, f"fail:{n}:28")[1] for n in range(1, len(calls) + 1)]
    assert answers[0] == f"28 {root}/file"
    assert sum(answer.startswith("28 ") for answer in answers) == len(calls)
    code, _ = whole_process(root, "kill:2")
    assert code == -signal.SIGKILL
    assert (root / "file").read_bytes() == b""


def test_photos_of_whole_processes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "renamed").write_bytes(b"before")
    found = set()
    for seed in range(40):
        photo = tmp_path / f"photo-{seed}"
        code, _ = whole_process(root, f"photo:5:{seed}:{photo}")
        assert code == -signal.SIGKILL
        found.add((photo / "renamed").read_bytes())
        inodes = (tmp_path / f"photo-{seed}.inodes").read_bytes()
        assert len(inodes) == 16 * len(list(photo.iterdir()))
        (root / "file").unlink(missing_ok=True)
        (root / "renamed").write_bytes(b"before")
    assert found == {b"before"}, "nothing was renamed yet"


# ---- partitions --------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_partitions_survive_power_failures() -> None:
    trials = 200_000 if LONG else 2_000
    found = power.run(1, trials)
    assert found["failures"] == []
    assert found["trials"] == trials
    details = found["details"]
    assert details["power_failures"] > 3 * trials
    assert details["deepest"] == 3, "three failures in one recovery"
    assert details["moods"].keys() == set(MOODS)
    assert all(count > trials / 6 for count in details["moods"].values())
    assert details["cuts"] > trials / 3
    assert details["looks"] > trials / 8
    assert details["cuts_checked"] > trials / 4
    assert details["records_lost"] > trials


@pytest.mark.timeout(600)
def test_they_do_so_under_the_sanitizers() -> None:
    found = power.run_program(power.program(options=power.CHECKED), 1_000_000, 300)
    assert (found["failed"], found.get("errors", "")) == ([], "")
    assert found["trials"] == 300


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_have_their_place_in_the_sources(mutant: Mutant) -> None:
    assert (power.KERNELS / mutant.file).read_text().count(mutant.old) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_kernel_is_found_out(mutant: Mutant) -> None:
    found = power.run_program(power.program(mutant), 1, 100_000, 120, "--stop")
    assert found["failed"], f"{mutant.promise}: not missed in {found['trials']} trials"
    print(json.dumps({"mutant": mutant.name, "trials": found["trials"], "found": found["failed"][0]}))


def test_a_program_that_fails_tells_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == "no-segment-sync"]
    broken = power.program(mutant)
    monkeypatch.setattr(power, "program", lambda: broken)
    found = power.run(1, 40, workers=2)
    assert found["trials"] == 40
    failure = found["failures"][0]
    seed = int(failure.split()[1].rstrip(":"))
    assert failure.endswith(f"({broken.name} --verbose --first {seed} --trials 1)")
    assert power.run_program(broken, seed, 1)["failed"][0][0] == seed


# ---- whole processes ---------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_stores_survive_power_failures() -> None:
    trials = 10_000 if LONG else 300
    found = power.run_stores(1, trials)
    assert found["failures"] == []
    assert found["trials"] == trials
    assert found["details"]["power_failures"] > trials
    assert found["details"]["repairs"] > trials / 15
    assert found["details"]["unmade"] > trials / 30


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broken", stores.BROKEN)
def test_stores_that_do_not_sync_are_found_out(broken: str) -> None:
    found = power.run_stores(1, 400, broken=broken)
    assert found["failures"], f"not missed in {found['trials']} trials"
    print(found["failures"][0][:300])
