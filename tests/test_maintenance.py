"""Maintenance: what is due is done, in one process at a time, beside all others, and stops for no failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import maintainers
import pystream
from harness import T0, Life, eventually, quick_directory
from maintainers import fill, segments
from pystream._native.retention import delete_before
from pystream.maintenance.clock import Clock, Reading
from pystream.maintenance.maintainer import _maintainers, of

S = 10**9
DAY = 86400 * S
SEGMENT = 65536
THREAD = "pystream-maintenance"


def threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("pystream-") and name != "pystream-groups"]


def maintainer_of(store: pystream.Store) -> Any:
    return of(store._handle, store.path, store._settings, store._identity)


class Jumped:
    """The machine's clocks, with a wall clock that somebody has set."""

    def __init__(self, ahead_ns: int = 0) -> None:
        self.ahead_ns = ahead_ns

    def __call__(self) -> Reading:
        return Reading("boot", time.monotonic_ns(), time.time_ns() + self.ahead_ns)


@pytest.fixture
def quiet(tmp_path: Path) -> Any:
    """A store whose maintenance is only done when it is asked for."""
    with pystream.open(tmp_path / "store", maintenance=False) as opened:
        yield opened


# ---- the thread -----------------------------------------------------------------------------------


def test_a_thread_begins_with_the_first_partition_and_ends_with_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        assert threads() == []
        topic.append([b"x"])
        assert threads() == [THREAD]
        with pystream.open(path) as again:
            again.topic("t").append([b"y"])
            assert threads() == [THREAD], "one for all who have the store open"
        assert threads() == [THREAD]
    assert threads() == []
    assert _maintainers == {}


@pytest.mark.parametrize("mode", ["reads", "off"])
def test_no_thread(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "store"
    with pystream.open(path, maintenance=False) as store:
        fill(store.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT), 6)
        assert threads() == []
    options: dict[str, Any] = {"mode": "r"} if mode == "reads" else {"maintenance": False}
    with pystream.open(path, **options) as store:
        assert sum(1 for _ in store.topic("t").records()) == 6
        time.sleep(0.05)
        assert threads() == []
        assert len(segments(store, "t")) == 6
        if mode == "reads":
            with pytest.raises(pystream.ReadOnlyError):
                store.maintain()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, 5), (True, 5), (0.01, 0.01), ("2s", 2), ("1d", 86400)],
)
def test_intervals(tmp_path: Path, given: Any, seconds: float) -> None:
    with pystream.open(tmp_path / "store", maintenance=given) as store:
        assert store._settings.maintenance_ns == round(seconds * S)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (0, pystream.OptionError, "maintenance=0: must be from 0.01 to 86400 seconds"),
        ("9ms", pystream.OptionError, "must be from 0.01"),
        ("86401s", pystream.OptionError, "to 86400 seconds"),
        ("often", pystream.OptionError, "not a duration"),
        (b"1s", TypeError, "maintenance= must be seconds"),
    ],
)
def test_refused_intervals(tmp_path: Path, given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        pystream.open(tmp_path / "store", maintenance=given)
    assert not (tmp_path / "store").exists()


def test_conflicting_intervals(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance="1s"):
        with pystream.open(tmp_path / "store"), pystream.open(tmp_path / "store", maintenance=1.0):
            pass
        for other in (False, "2s"):
            with pytest.raises(
                pystream.OptionError, match=r"already open in this process with maintenance=1\.0"
            ):
                pystream.open(tmp_path / "store", maintenance=other)
    with pytest.raises(pystream.OptionError, match="maintenance= is for stores that are written to"):
        pystream.open(tmp_path / "store", "r", maintenance="1s")


def test_a_forked_child_has_none_and_may_have_its_own(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=0.01) as store:
        topic = store.topic("t", create=True)
        topic.append([b"x"])
        eventually(lambda: (tmp_path / "store/maintenance.json").exists())
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert threads() == []
                assert _maintainers == {}
                with pystream.open(tmp_path / "store", maintenance=0.01) as own:
                    own.topic("t").append([b"y"])
                    assert threads() == [THREAD]
                    own.maintain(timeout=20)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        store.maintain(timeout=20)
        assert threads() == [THREAD]


@pytest.mark.parametrize("closing", ["", "del store, topic", "import os; os._exit(0)"])
def test_the_interpreter_ends(tmp_path: Path, closing: str) -> None:
    code = f"""
import pystream, time
store = pystream.open({str(tmp_path / "store")!r}, maintenance=0.01)
topic = store.topic("t", create=True, segment_bytes=65536, retention_bytes=65536)
for _ in range(50):
    topic.append([bytes(40_000)])
time.sleep(0.1)
{closing}
"""
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - began < 20


def test_waits_are_not_disturbed(tmp_path: Path) -> None:
    """Appends go on in all their speed while there is much to do."""
    with pystream.open(tmp_path / "store", maintenance=0.01) as store:
        old = store.topic("old", create=True, segment_bytes=SEGMENT, partitions=4)
        for index in range(4):
            fill(old, 50, partition=index, timestamp=T0)
        topic = store.topic("t", create=True)
        topic.append([b"x"])
        old.alter(retention="1h")
        longest = 0.0
        until = time.monotonic() + 20
        while any(len(segments(store, "old", i)) > 1 for i in range(4)):
            began = time.monotonic()
            topic.append([b"x"])
            longest = max(longest, time.monotonic() - began)
            assert began < until
        assert longest < 1


def test_an_idle_process_sleeps(tmp_path: Path) -> None:
    """It looks about once a second whether somebody has altered a topic, and passes are hardly more."""
    life = Life(maintainers.idle, tmp_path / "store")
    sleeps, cpu_s = life.receive()
    life.end()
    assert sleeps <= 20
    assert cpu_s < 0.15


# ---- what is due ----------------------------------------------------------------------------------


def test_what_is_expired_goes_by_itself(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=0.01) as store:
        topic = store.topic("t", create=True, segment_bytes=SEGMENT, retention="1h")
        fill(topic, 5, timestamp=T0)
        fill(topic, 1)
        eventually(lambda: topic.partition(0).beginning_offset == 5)
        eventually(lambda: segments(store, "t") == [5])
        assert [record.offset for record in topic.records()] == [5]


def test_a_bound_holds_without_a_pass(tmp_path: Path) -> None:
    """Who begins a new segment sees to it at once, however long the interval."""
    with pystream.open(tmp_path / "store", maintenance="1d") as store:
        topic = store.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=3 * SEGMENT)
        most = 0
        for _ in range(300):
            fill(topic, 1)
            most = max(most, len(segments(store, "t")))
            time.sleep(0.001)
        eventually(lambda: len(segments(store, "t")) <= 6)
        assert most < 100, "it was bounded all the while"


def test_nothing_is_opened_where_nothing_is_due(quiet: pystream.Store) -> None:
    for name, options in {
        "kept": {},
        "aged": {"retention": "30d"},
        "sized": {"retention_bytes": "1GiB"},
    }.items():
        fill(quiet.topic(name, create=True, segment_bytes=SEGMENT, partitions=2, **options), 3, partition=1)
    path = quiet.path
    quiet.close()
    with pystream.open(path, maintenance=False) as store:
        report = store.maintain()
        assert (report.topics, report.partitions, report.partitions_opened) == (3, 6, 0)
        assert report.did_nothing
        assert report.complete
        assert store._handle.open_logs() == []


def test_what_was_opened_is_closed(quiet: pystream.Store) -> None:
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, partitions=3, retention_bytes=SEGMENT)
    for index in range(3):
        fill(topic, 5, partition=index)
    path = quiet.path
    quiet.close()
    before = len(os.listdir("/proc/self/fd"))
    with pystream.open(path, maintenance=False) as store:
        kept = store.topic("t").partition(1)
        assert kept.end_offset == 5
        report = store.maintain()
        assert (report.partitions_opened, report.segments_removed) == (3, 9)
        assert [(done.topic, done.partition, done.log_start) for done in report.work] == [
            ("t", index, 3) for index in range(3)
        ]
        assert [handle.partition for handle in store._handle.open_logs()] == [1], "it is in use"
        fill(store.topic("t"), 1, partition=1)
        assert kept.end_offset == 6
        assert store.topic("t").partition(0).append([b"x"]) == 5
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_somebody_asks_for_meanwhile_stays_open(quiet: pystream.Store) -> None:
    topic = quiet.topic("t", create=True)
    handle = topic._open_log(0, passing=True)
    topic.partition(0).append([b"x"])
    quiet._handle.give_back(handle)
    assert topic.partition(0).append([b"y"]) == 1
    assert quiet._handle.open_logs() == [handle]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_by_age(quiet: pystream.Store, kept: int) -> None:
    """Segments whose last record is too old go, those behind one that is not stay."""
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention="1h")
    now = time.time_ns()
    fill(topic, 2, timestamp=now - DAY)
    fill(topic, kept, timestamp=now)
    fill(topic, 2, timestamp=now - DAY)
    quiet.maintain()
    assert topic.partition(0).beginning_offset == (2 if kept else 4)
    assert set(segments(quiet, "t")) >= set(range(2, 4 + kept) if kept else ())


def test_the_active_segment_expires_too(quiet: pystream.Store) -> None:
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention="1h")
    topic.append([b"x"] * 10, timestamps=T0)
    report = quiet.maintain()
    assert (report.segments_removed, report.work[0].rolled, report.work[0].log_start) == (1, 1, 10)
    assert list(topic.records()) == []
    assert topic.append([b"y"]) == 10
    assert quiet.maintain().did_nothing


def test_what_was_deleted_by_offset_goes(quiet: pystream.Store) -> None:
    """The one who deleted it died before the files were gone."""
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT)
    fill(topic, 5)
    delete_before(topic.partition(0)._log(), 3)
    assert len(segments(quiet, "t")) == 5
    report = quiet.maintain()
    assert (report.segments_removed, segments(quiet, "t")) == (3, [3, 4])


def test_old_active_segments_are_ended(quiet: pystream.Store) -> None:
    jumped = Jumped()
    maintainer_of(quiet)._clock = Clock(quiet.path, jumped)
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention="30d", segment_age="1h")
    topic.append([b"x"], timestamps=time.time_ns() - DAY)
    topic.append([b"y"])
    jumped.ahead_ns = 3599 * S
    assert quiet.maintain(force_clock=True).did_nothing
    jumped.ahead_ns = 3601 * S
    assert quiet.maintain(force_clock=True).work[0].rolled == 1
    assert segments(quiet, "t") == [0, 2]
    assert quiet.maintain().did_nothing
    jumped.ahead_ns = 0
    topic.append([b"z"])
    assert quiet.maintain().did_nothing


def test_without_a_rule_segments_are_not_ended(quiet: pystream.Store) -> None:
    topic = quiet.topic("t", create=True, segment_age="1ms")
    topic.append([b"x"], timestamps=T0)
    assert quiet.maintain().did_nothing
    assert segments(quiet, "t") == [0]


def test_one_topic_only(quiet: pystream.Store) -> None:
    for name in ("a", "b"):
        fill(quiet.topic(name, create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT), 5)
    report = quiet.maintain("b")
    assert {done.topic for done in report.work} == {"b"}
    assert (len(segments(quiet, "a")), len(segments(quiet, "b"))) == (5, 2)
    with pytest.raises(pystream.TopicNotFoundError, match="did you mean 'a'"):
        quiet.maintain("a.")
    with pytest.raises(pystream.OptionError, match="not allowed"):
        quiet.maintain("a/b")


# ---- bounds of whole topics -----------------------------------------------------------------------


def test_all_partitions_together(quiet: pystream.Store) -> None:
    """The oldest segments go, whichever partition they are in."""
    topic = quiet.topic(
        "t", create=True, segment_bytes=SEGMENT, partitions=3, retention_topic_bytes=6 * 40_000
    )
    for step in range(12):
        fill(topic, 1, partition=step % 3 if step < 9 else 0, timestamp=T0 + step * S)
    report = quiet.maintain()
    left = [segments(quiet, "t", index) for index in range(3)]
    assert left == [[2, 3, 4, 5], [2], [2]], "as few go as can be"
    assert report.segments_removed == 6
    assert quiet.maintain().did_nothing


def test_a_topics_bound_holds_while_it_is_written(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=0.05) as store:
        topic = store.topic(
            "t", create=True, segment_bytes=SEGMENT, partitions=2, retention_topic_bytes=8 * SEGMENT
        )
        for step in range(200):
            fill(topic, 1, partition=step % 2)
            time.sleep(0.001)
        eventually(lambda: sum(len(segments(store, "t", index)) for index in range(2)) <= 16)


# ---- much to do -----------------------------------------------------------------------------------


def test_a_thousand_expired_segments(tmp_path: Path) -> None:
    """The store opens as fast as any; what is expired is worked off step by step, and appends go on."""
    with quick_directory() as directory:
        path = directory / "store"
        with pystream.open(path, durability="none", maintenance=False) as store:
            topic = store.topic("t", create=True, segment_bytes=SEGMENT)
            fill(topic, 1000, timestamp=T0)
            topic.alter(retention="1h")
            report = store.maintain(timeout=0)
            assert report.segments_removed <= 64
            assert not report.complete
        began = time.monotonic()
        with pystream.open(path, maintenance=0.05) as store:
            topic = store.topic("t")
            fill(topic, 1)
            assert time.monotonic() - began < 1
            eventually(lambda: segments(store, "t") == [1000])
            assert [record.offset for record in topic.records()] == [1000]


def test_work_is_shared_out(quiet: pystream.Store) -> None:
    """No partition waits until all of another one is done."""
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, partitions=2, durability="none")
    for index in range(2):
        fill(topic, 130, partition=index, timestamp=T0)
    topic.alter(retention="1h")
    seen = []

    def note(_: object) -> None:
        seen.append(tuple(len(segments(quiet, "t", index)) for index in range(2)))

    quiet.maintain(progress=note)
    assert 60 < seen[1][0] == seen[1][1] < 70, "64 files a step, in turn"
    assert max(seen[-1]) <= 2


# ---- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("forced", [False, True])
def test_a_clock_that_jumps_forward_empties_nothing(quiet: pystream.Store, forced: bool) -> None:
    jumped = Jumped()
    maintainer_of(quiet)._clock = Clock(quiet.path, jumped)
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention="7d")
    fill(topic, 3)
    assert quiet.maintain().did_nothing
    jumped.ahead_ns = 365 * DAY
    report = quiet.maintain(force_clock=forced)
    assert report.did_nothing is not forced
    assert (report.clock_ahead_ns > 364 * DAY) is not forced
    assert topic.partition(0).beginning_offset == (3 if forced else 0)


def test_a_clock_that_jumps_back_keeps_what_there_is(quiet: pystream.Store) -> None:
    jumped = Jumped()
    maintainer_of(quiet)._clock = Clock(quiet.path, jumped)
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention="7d")
    quiet.maintain()
    fill(topic, 2, timestamp=time.time_ns() - 8 * DAY)
    jumped.ahead_ns = -30 * DAY
    assert quiet.maintain().did_nothing
    jumped.ahead_ns = 0
    assert quiet.maintain().segments_removed == 2


# ---- the claim ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_one_process_at_a_time(tmp_path: Path, end: int | None) -> None:
    path = tmp_path / "store"
    with pystream.open(path, maintenance=False) as store:
        fill(store.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT), 5)
        life = Life(maintainers.claim, str(path))
        assert life.receive() == "claimed"
        with pytest.raises(pystream.LockTimeoutError, match="another process is at its maintenance"):
            store.maintain(timeout=0.2)
        assert len(segments(store, "t")) == 5
        if end is None:
            life.channel.send("let go")
        else:
            os.kill(life.pid, end)
        assert store.maintain(timeout=20).segments_removed == 3
        if end is None:
            life.channel.send("end")
        life.end()


def test_a_stopped_holder_holds_up_only_maintenance(tmp_path: Path) -> None:
    """And not even all of that: bounds on size are kept by whoever writes."""
    path = tmp_path / "store"
    with pystream.open(path, maintenance=0.02) as store:
        topic = store.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=3 * SEGMENT)
        aged = store.topic("aged", create=True, segment_bytes=SEGMENT, retention="1h")
        life = Life(maintainers.claim, str(path))
        assert life.receive() == "claimed"
        os.kill(life.pid, signal.SIGSTOP)
        fill(aged, 1, timestamp=T0)
        fill(topic, 50)
        eventually(lambda: len(segments(store, "t")) <= 6)
        assert len(list(topic.records())) <= 6
        assert aged.partition(0).beginning_offset == 0
        life.kill()
        eventually(lambda: aged.partition(0).beginning_offset == 1)
        life.end()


def test_threads_take_turns(quiet: pystream.Store) -> None:
    topic = quiet.topic("t", create=True, segment_bytes=SEGMENT, retention_bytes=SEGMENT)
    fill(topic, 20)
    reports: list[Any] = []
    workers = [threading.Thread(target=lambda: reports.append(quiet.maintain())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(report.segments_removed for report in reports) == [0, 0, 0, 18]
    assert all(report.complete for report in reports)


def test_the_background_lets_go_when_somebody_asks(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store", maintenance=0.01) as store:
        fill(store.topic("t", create=True, segment_bytes=SEGMENT, partitions=2), 3)
        for _ in range(20):
            assert store.maintain(timeout=10).complete


def test_several_processes(tmp_path: Path) -> None:
    """All maintain and write; what they see is never anything but a log that begins later."""
    path = tmp_path / "store"
    with pystream.open(path, maintenance=0.01) as store:
        store.topic("t", create=True, segment_bytes=SEGMENT, partitions=2, retention_bytes=4 * SEGMENT)
        lives = [Life(maintainers.write_and_read, str(path), seed, 150) for seed in range(3)]
        assert [life.receive() for life in lives] == ["done"] * 3
        for life in lives:
            assert life.end() == 0
        topic = store.topic("t")
        assert sum(partition.end_offset for partition in map(topic.partition, range(2))) == 450
        store.maintain()
        for index in range(2):
            assert len(segments(store, "t", index)) <= 8
        assert not store.verify().damage
