"""What is told through logging: the right thing, by the right logger, and not too often."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pystream
from pystream import notices


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been said yet."""
    monkeypatch.setattr(notices, "limited", notices.Limited())
    notices._watched.clear()
    notices._slowest.clear()


def test_the_same_thing_is_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(notices, "time", SimpleNamespace(monotonic=lambda: now[0]))
    limited = notices.Limited()
    log = logging.getLogger("pystream.storage")
    for second in range(125):
        now[0] = 100.0 + second
        said = limited.log("a", log, logging.WARNING, "%s is full", "disk")
        assert said is (second in (0, 60, 120))
    assert limited.log("b", log, logging.ERROR, "another %d", 1)
    assert caplog.messages == [
        "disk is full",
        "disk is full (and 59 times more since this was last said)",
        "disk is full (and 59 times more since this was last said)",
        "another 1",
    ]
    assert [record.levelname for record in caplog.records][-1] == "ERROR"


def test_what_was_said_is_not_remembered_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    limited = notices.Limited()
    log = logging.getLogger("pystream")
    for key in range(notices.KEYS_MAX + 1):
        assert limited.log(key, log, logging.DEBUG, "x")
    assert len(limited._said) == notices.KEYS_MAX
    assert not limited.log(1, log, logging.DEBUG, "x")
    assert limited.log(0, log, logging.DEBUG, "x")  # the oldest was forgotten


def test_a_program_that_has_not_set_up_logging_prints_nothing(tmp_path: Path) -> None:
    code = (
        "import pystream\n"
        "from pystream import notices\n"
        "notices.warn('key', 'pystream.storage', 'not to be seen')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == result.stdout == ""


def watched(monkeypatch: pytest.MonkeyPatch, store: pystream.Store, **syncs: int) -> None:
    """Look as if a log of this process were so late, and had been so slow."""
    log = store["t"].partition(0)._log()
    late, lag = syncs.get("late_ns", 0), syncs.get("lag_ns", 0)
    monkeypatch.setattr(notices, "syncs_of", lambda handle: [(log, late, lag)] * syncs.get("logs", 1))
    notices._watched.clear()
    notices.watch(store._handle)


def test_syncs_that_are_late_or_slow(
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    store: pystream.Store,
    topic: pystream.Topic,
) -> None:
    topic.append([b"x"])
    watched(monkeypatch, store, lag_ns=3 * 10**9)  # three intervals are borne
    assert caplog.messages == []
    watched(monkeypatch, store, late_ns=2_500_000_000, logs=3)
    assert caplog.messages == [
        "t/0: its sync is 2.5 s late (and those of 2 other partitions): the disk cannot follow, and appends "
        "wait until it has"
    ]
    watched(monkeypatch, store, lag_ns=3 * 10**9 + 1)
    watched(monkeypatch, store, lag_ns=3 * 10**9 + 1)
    assert (
        len(caplog.messages) == 2
        and "waited 3.0 s for its sync, which is due every 1 s" in caplog.messages[1]
    )
    assert {(record.name, record.levelname) for record in caplog.records} == {("pystream.storage", "WARNING")}


def test_disks_that_fill(
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    free = [10**12]

    def statvfs(path: str) -> Any:
        return SimpleNamespace(f_bavail=free[0], f_frsize=1, f_blocks=10**12)

    with pystream.open(tmp_path / "s", min_free_bytes="1GB") as store:
        topic = store.topic("t", create=True)
        monkeypatch.setattr(notices, "os", SimpleNamespace(statvfs=statvfs))
        notices.watch(store._handle)  # nothing was written: nothing to warn of
        topic.append([b"x"])
        for left, said in ((10**9 + 2**30, 0), (10**9 + 2**30 - 1, 1), (10**9, 1)):
            free[0] = left
            watched(monkeypatch, store)
            assert len(caplog.messages) == said, left
        assert caplog.messages == [
            f"{store.path}: the disk is nearly full: {10**9 + 2**30 - 1} bytes of {10**12} are free"
        ]


def test_appends_that_are_refused(fresh: None, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    with pystream.open(tmp_path / "s", min_free_bytes=disk.f_blocks * disk.f_frsize) as store:
        topic = store.topic("t", create=True)
        with pytest.raises(pystream.StorageError, match="min_free_bytes"):
            for _ in range(100):
                topic.append([bytes(10**6)])
        assert store.stats().low_on_space
        notices._watched.clear()
        notices.watch(store._handle)
        assert any("appends are refused" in message for message in caplog.messages)


def test_a_look_too_soon_is_none(fresh: None, monkeypatch: pytest.MonkeyPatch, store: pystream.Store) -> None:
    looks = []
    monkeypatch.setattr(notices, "syncs_of", lambda handle: looks.append(handle) or [])
    for _ in range(5):
        notices.watch(store._handle)
    assert len(looks) == 1


def test_every_logger_is_in_the_documentation() -> None:
    root = Path(__file__).parent.parent
    page = (root / "docs/operations.md").read_text(encoding="utf-8")
    found = set()
    for path in (root / "pystream").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "getLogger(" in line or "warn(" in line:
                found |= {word for word in line.replace("'", '"').split('"') if word.startswith("pystream")}
    found = {name for name in found if all(part.isidentifier() for part in name.split("."))}
    assert {"pystream", "pystream.group", "pystream.storage"} <= found
    for name in found:
        assert f"`{name}`" in page, name
