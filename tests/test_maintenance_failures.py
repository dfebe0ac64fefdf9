"""Maintenance that meets what is broken: the others go on, and what fails is tried again."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import pystream
from maintainers import fill, segments
from pystream.maintenance import shift
from pystream.maintenance.jobs import HEAVY, Job, Steps
from pystream.maintenance.places import RETRY_NS_MAX, Place, TopicPlace

S = 10**9
SEGMENT = 65536


def threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("pystream-") and thread.name != "pystream-groups"
    ]


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[pystream.Store]:
    """A store whose maintenance is only done when it is asked for."""
    with pystream.open(tmp_path / "store", maintenance=False) as opened:
        yield opened


def broken(store: pystream.Store, way: str) -> None:
    """Break the topic called "bad"."""
    directory = Path(store.path, "topics", "bad")
    if way == "topic.json":
        (directory / "topic.json").write_bytes(b"{}")
    elif way == "head":
        (directory / "0" / "head").write_bytes(b"\xff" * 4096)
    elif way == "segment":
        with open(directory / "0" / f"{0:020}.log", "r+b") as file:
            file.write(bytes(4096))
    elif way == "poison":
        store.topic("bad").partition(0)._log().poison(5)
    elif way == "deleted":
        for file in sorted(directory.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        directory.rmdir()


@pytest.mark.parametrize("way", ["topic.json", "head", "segment", "poison", "deleted"])
def test_a_broken_topic_stops_no_other(tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "store"
    with pystream.open(path, maintenance=False) as store:
        for name in ("bad", "good", "worse"):
            fill(store.topic(name, create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT), 5)
    with pystream.open(path, maintenance=False) as store:
        broken(store, way)
        for _ in range(2):
            report = store.maintain()
            assert report.complete
        for name in ("good", "worse"):
            assert len(segments(store, name)) == 2
    caplog.clear()
    with pystream.open(path, maintenance=0.01) as store:
        fill(store.topic("good"), 1)
        time.sleep(0.3)
        told = [record for record in caplog.records if record.name == "pystream.maintenance"]
        assert len(told) <= 1, "said once, not at every tick"
        assert threads() == ["pystream-maintenance", "pystream-retention"]


def test_what_is_mended_is_maintained_again(quiet: pystream.Store) -> None:
    fill(quiet.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT), 5)
    file = Path(quiet.path, "topics", "t", "topic.json")
    data = file.read_bytes()
    file.write_bytes(b"")
    (problem,) = quiet.maintain().problems
    assert (problem.topic, problem.partition) == ("t", None)
    assert "CorruptLogError" in problem.error
    file.write_bytes(data)
    assert quiet.maintain().segments_removed == 3


def test_a_failure_is_tried_again_later_and_later() -> None:
    from pystream.maintenance.places import Place, TopicPlace

    topic = TopicPlace.__new__(TopicPlace)
    topic.directory = "nowhere"
    place = Place(topic, 0)
    pauses = []
    for _ in range(12):
        place.failed(OSError("x"))
        pauses.append(place.not_before - time.monotonic_ns())
    assert pauses[0] > S
    assert all(a < b + S for a, b in pairwise(pauses))
    assert RETRY_NS_MAX - S < pauses[-1] <= RETRY_NS_MAX
    place.succeeded()
    assert place.failed(OSError("x"))
    assert not place.failed(OSError("x"))
    assert place.failed(OSError("y"))


def test_a_topic_deleted_meanwhile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pystream.open(tmp_path / "store", maintenance=0.01) as store:
        for turn in range(10):
            topic = store.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT)
            fill(topic, 10)
            time.sleep(0.002 * turn)
            store.delete_topic("t")
        time.sleep(0.1)
        assert store.topics() == []
        assert os.listdir(tmp_path / "store/topics") == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_altered_options_act_on_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits long for its turn looks for them no less often."""
    look = pystream.Store._refresh_options

    def late(store: pystream.Store) -> None:
        time.sleep(0.05)
        look(store)

    monkeypatch.setattr(pystream.Store, "_refresh_options", late)
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True)  # and kept: who has no object of a topic follows none
        log = topic.partition(0)._log()
        for compacts in (True, False, True):
            alter = [
                "topics",
                "alter",
                store.path,
                "t",
                "--cleanup",
                "compact" if compacts else "delete",
                "-yq",
            ]
            subprocess.run([sys.executable, "-m", "pystream", *alter], check=True)
            began = time.monotonic()
            while log.needs_keys is not compacts:
                assert time.monotonic() - began < 60
                time.sleep(0.01)


def test_a_full_disk_is_no_reason_to_keep_what_is_expired(quiet: pystream.Store) -> None:
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT)
    fill(topic, 5)
    quiet._handle.arm("pwrite_all:1:errno=28:1000")
    try:
        report = quiet.maintain()
    finally:
        quiet._handle.arm(None)
    assert report.segments_removed == 3


def test_the_nth_call_fails(tmp_path: Path) -> None:
    """Whatever fails, all is done the next time, and nothing that is to stay is lost."""
    for nth in range(1, 200):
        path = tmp_path / f"store-{nth}"
        with pystream.open(path, maintenance=False) as store:
            topic = store.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT)
            fill(topic, 4)
        with pystream.open(path, maintenance=False) as store:
            store._handle.arm(f"*:{nth}:errno=5:1")
            failed = False
            try:
                report = store.maintain()
                failed = bool(report.problems)
            except pystream.StorageError:
                failed = True
            store._handle.arm(None)
        with pystream.open(path, maintenance=False) as store:
            store.maintain()
            assert [record.offset for record in store.topic("t").records()] == [2, 3]
            assert segments(store, "t") == [2, 3]
        if not failed and nth > 60:
            break
    assert nth > 20


def test_left_overs_of_deleters(quiet: pystream.Store) -> None:
    grave = Path(quiet.path, "topics", ".deleted+0123456789abcdef")
    (grave / "0").mkdir(parents=True)
    (grave / "0" / f"{0:020}.log").write_bytes(bytes(1000))
    quiet.maintain()
    assert not grave.exists()


def test_reports(quiet: pystream.Store) -> None:
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT)
    fill(topic, 5)
    report = quiet.maintain()
    document = report.to_json()
    assert document["work"][0]["segments_removed"] == 3
    assert document["complete"] is True
    assert report.bytes_removed == document["work"][0]["bytes_removed"] > 3 * 40_000
    assert report.seconds > 0
    assert set(document) == {
        "store", "topics", "partitions", "partitions_opened", "work", "problems", "clock_ahead_ns", "seconds",
        "complete",
    }  # fmt: skip


def test_a_step_that_takes_too_long_is_given_up(
    quiet: pystream.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for the claim does not wait for it, and its partition is not left alone for ever, nor are
    those whose turn was to come."""
    quiet.topic("t", create=True)
    monkeypatch.setattr(shift, "LIFTER_JOIN_S", 0.1)
    begun, goes_on = threading.Event(), threading.Event()

    def steps() -> Steps:
        yield HEAVY
        begun.set()
        goes_on.wait(60)
        yield HEAVY

    topic = TopicPlace(quiet, "t")
    places = [Place(topic, index) for index in range(2)]
    lifter = shift.Lifter(quiet._handle)
    for place in places:
        job = Job(place, steps(), [])
        job.step()
        lifter.take(job)
    assert begun.wait(60) and not lifter.is_idle
    assert all(place.busy for place in places)
    lifter.stop()
    assert not lifter.done and not any(place.busy for place in places)
    goes_on.set()
    lifter._thread.join(60)
    assert len(lifter.done) == 2 and lifter.is_idle
