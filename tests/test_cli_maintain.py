"""`pystream maintain`: once, watching, ended by signals, and where it cannot."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pystream
from commands import ENVIRONMENT, pystream_
from faults import disks
from harness import eventually
from maintainers import fill, segments

SEGMENT = 65536
WAIT_S = 30
T0 = 1_600_000_000_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a topic that has three segments too many, and one that keeps all."""
    path = tmp_path / "shop.ps"
    with pystream.open(path, maintenance=False) as store:
        fill(store.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT), 5)
        fill(store.topic("u", create=True, segment_bytes=SEGMENT), 2)
    return path


def left(path: Path, topic: str = "t") -> list[int]:
    with pystream.open(path, "r") as store:
        return segments(store, topic)


@contextmanager
def watching(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pystream", "maintain", str(path), "--watch", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], by: int) -> tuple[int, str, str]:
    process.send_signal(by)
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def test_once(path: Path) -> None:
    done = pystream_("maintain", path)
    assert done.returncode == 0
    assert "t " in done.stdout and "removed 3 segments" in done.stderr, done.stdout
    assert left(path) == [3, 4]
    assert left(path, "u") == [0, 1]
    again = pystream_("maintain", path)
    assert again.returncode == 0
    assert "looked at 2 partitions of 2 topics, removed 0 segments" in again.stderr
    assert pystream_("maintain", path, "--quiet").stderr == ""


def test_json(path: Path) -> None:
    document = json.loads(pystream_("maintain", path, "--json").stdout)
    assert [(done["topic"], done["segments_removed"]) for done in document["work"]] == [("t", 3)]
    assert document["complete"] and document["problems"] == []


def test_one_topic(path: Path) -> None:
    done = pystream_("maintain", path, "--topic", "u")
    assert "looked at 1 partition of 1 topic" in done.stderr
    assert left(path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)], ids=["ctrl-c", "SIGTERM"]
)
def test_watching(path: Path, by: int, code: int) -> None:
    """It goes on with what comes, says a line a pass that did something, and ends when it is told to."""
    with watching(path, "--interval", "50ms", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["work"][0]["segments_removed"] == 3
        with pystream.open(path, maintenance=False) as store:
            fill(store.topic("t"), 2)
        assert json.loads(process.stdout.readline())["work"][0]["log_start"] == 5
        returned, out, err = ended(process, by)
    assert "Traceback" not in err
    assert returned == code, err
    assert out == ""
    assert left(path) == [5, 6]


def test_two_watch(path: Path) -> None:
    """One waits for the other, and neither fails."""
    quick = "--interval", "20ms", "--quiet"
    with watching(path, *quick) as one, watching(path, *quick) as other:
        with pystream.open(path, maintenance=False) as store:
            for _ in range(10):
                fill(store.topic("t"), 1)
                time.sleep(0.02)
        eventually(lambda: left(path) == [13, 14], WAIT_S)
        for process in (one, other):
            eventually(partial(_has_open, process.pid, "live"), WAIT_S)
            assert process.poll() is None
            returned, _, err = ended(process, signal.SIGTERM)
            assert (returned, err) == (0, "")


def test_missing(tmp_path: Path) -> None:
    done = pystream_("maintain", tmp_path / "nothing")
    assert done.returncode != 0
    assert "nothing" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == [], "nothing is made"
    assert pystream_("maintain").returncode == 2


def test_an_unknown_topic(path: Path) -> None:
    done = pystream_("maintain", path, "--topic", "nobody")
    assert done.returncode != 0
    assert "nobody" in done.stderr and "Traceback" not in done.stderr


def test_an_interval_is_for_watching(path: Path) -> None:
    done = pystream_("maintain", path, "--interval", "1s")
    assert done.returncode == 2
    assert "--interval is for --watch" in done.stderr


def test_a_broken_topic(path: Path) -> None:
    """The rest is done, and the exit code says that not all was."""
    Path(path, "topics", "u", "topic.json").write_bytes(b"{}")
    done = pystream_("maintain", path)
    assert done.returncode == 3
    assert "u: " in done.stderr and "Traceback" not in done.stderr
    assert left(path) == [3, 4]


if disks.can_mount():

    @contextmanager
    def mounted(directory: Path, *options: str) -> Iterator[Path]:
        directory.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", directory], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "-l", directory], check=True)

    def free(directory: Path) -> int:
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize

    def fill_up(directory: Path) -> None:
        """Until not one byte is left."""
        with open(directory / "ballast", "wb", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
        assert free(directory) == 0

    def test_deleting_needs_no_space(tmp_path: Path) -> None:
        """With not a byte free, what is expired goes."""
        with mounted(tmp_path / "disk", "-o", "size=8m") as disk:
            path = disk / "store"
            with pystream.open(path, maintenance=False) as store:
                topic = store.topic("t", create=True, segment_bytes=SEGMENT)
                fill(topic, 20)
                topic.alter(retention_bytes=SEGMENT)
            fill_up(disk)
            done = pystream_("maintain", path)
            assert done.returncode == 0, done.stderr
            assert left(path) == [18, 19]
            assert free(disk) > 0
            with pystream.open(path, maintenance=False) as store:
                assert [record.offset for record in store.topic("t").records()] == [18, 19]

    def test_compaction_waits_for_space(tmp_path: Path) -> None:
        """It says that the disk is full, keeps everything, and is done when there is room."""
        with mounted(tmp_path / "disk", "-o", "size=8m") as disk:
            path = disk / "store"
            with pystream.open(path, maintenance=False) as store:
                topic = store.topic("t", create=True, segment_bytes=SEGMENT, cleanup="compact")
                for number in range(20):
                    topic.append([bytes(40_000)], keys=[b"key-%d" % (number % 3)])
            fill_up(disk)
            done = pystream_("maintain", path)
            assert done.returncode == 3
            assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
            with pystream.open(path, "r") as store:
                assert len(list(store.topic("t").records())) == 20
            os.unlink(disk / "ballast")
            done = pystream_("maintain", path)
            assert done.returncode == 0, done.stderr
            with pystream.open(path, "r") as store:
                kept = [record.offset for record in store.topic("t").records()]
            assert kept[-3:] == [17, 18, 19] and len(kept) < 6

    def test_read_only_media(path: Path, tmp_path: Path) -> None:
        """It is refused, with a word that says why."""
        with mounted(tmp_path / "disk") as disk:
            subprocess.run(["cp", "-a", path, disk / "store"], check=True)
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            done = pystream_("maintain", disk / "store")
            assert done.returncode != 0
            assert "Read-only file system" in done.stderr and "Traceback" not in done.stderr
            assert left(disk / "store") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rule", [{"retention_bytes": SEGMENT}, {"retention": "1h"}], ids=["size", "age"])
def test_a_disk_that_becomes_read_only(
    tmp_path: Path, rule: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Maintenance says so once, does not spin, holds nobody up, and does what is due when it may again."""
    with pystream.open(tmp_path / "store", maintenance=0.02) as store:
        topic = store.topic("t", create=True, segment_bytes=SEGMENT)
        fill(topic, 1, timestamp=T0)
        store._handle.arm(f"unlink:1:errno={errno.EROFS}:1000000")
        topic.alter(**rule)
        began = time.monotonic()
        fill(topic, 4, timestamp=T0)
        assert time.monotonic() - began < 2
        eventually(lambda: _warnings(caplog), WAIT_S)
        before = time.process_time()
        time.sleep(1.5)
        assert time.process_time() - before < 0.5
        assert len(_warnings(caplog)) == 1
        assert "Read-only file system" in _warnings(caplog)[0]
        store._handle.arm(None)
        eventually(lambda: len(segments(store, "t")) <= 2, WAIT_S)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("pystream") and record.levelno >= logging.WARNING
    ]


def _has_open(pid: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        return any(os.readlink(file).endswith(f"/{name}") for file in Path(f"/proc/{pid}/fd").iterdir())
    return False
