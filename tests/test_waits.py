"""What waiting costs: those who wait, and those who append."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

import pystream
import waits
from harness import Life, quick_directory
from pystream.inspection import read_head

CROWD = 100


def wakes(topic: pystream.Topic, partition: int = 0) -> int:
    """Calls of this process to wake somebody who waits for the partition."""
    process = topic.stats()[partition].process
    return 0 if process is None else process.wakes


def until_waited_for(partition: pystream.Partition) -> None:
    head = Path(partition._log().path) / "head"
    deadline = time.monotonic() + 20
    while not read_head(head).waited_for:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["poll", "wait"])
def test_a_killed_waiter_costs_one_call(store: pystream.Store, topic: pystream.Topic, how: str) -> None:
    life = Life(waits.waiter, store.path, "t", how)
    assert life.receive() == "waiting"
    until_waited_for(topic.partition(0))
    life.kill()
    assert life.end() == -9
    before = wakes(topic)
    for _ in range(100):
        topic.append([b"x"])
    assert wakes(topic) == before + 1


def test_a_hundred_waiters_are_woken_by_one_call(store: pystream.Store, topic: pystream.Topic) -> None:
    life = Life(waits.crowd, store.path, "t", 0, CROWD)
    assert life.receive() == "waiting"
    before = wakes(topic)
    topic.append([b"for all"])
    assert life.receive() == [b"for all"] * CROWD
    topic.append([b"for none"])
    assert wakes(topic) == before + 1
    assert life.end() == 0


def test_a_hundred_waiters_elsewhere_cost_nothing(store: pystream.Store) -> None:
    topic = store.topic("two", create=True, partitions=2, segment_bytes="64KiB")
    life = Life(waits.crowd, store.path, "two", 1, CROWD)
    assert life.receive() == "waiting"
    for _ in range(500):
        topic.partition(0).append([b"x"])
    assert wakes(topic, 0) == 0
    topic.partition(1).append([b"x"])
    assert life.receive() == [b"x"] * CROWD
    assert (wakes(topic, 0), wakes(topic, 1)) == (0, 1)
    assert life.end() == 0


def test_without_a_waiter_nobody_is_woken(topic: pystream.Topic) -> None:
    for _ in range(100):
        topic.append([b"x"])
    assert wakes(topic) == 0
    assert topic.partition(0).wait(99, timeout=0)
    assert not topic.partition(0).wait(100, timeout=0.01)
    topic.append([b"x"])
    topic.append([b"x"])
    assert wakes(topic) == 1  # who gave up had said that he waits


@pytest.mark.parametrize(
    ("partitions", "forbidden", "sleeps_max"),
    [
        (1, (), 4),
        (5, (), 4),
        (200, (), 5),
        (1000, (), 5),
        (5, ("many",), 200),
        (200, ("many",), 200),
        (1, ("one", "many"), 200),
        (5, ("one", "many"), 200),
    ],
)
def test_an_idle_consumer_sleeps_and_hears(
    partitions: int, forbidden: tuple[str, ...], sleeps_max: int
) -> None:
    """In two seconds it wakes about twice, or looks now and then where the kernel has no futexes."""
    with quick_directory() as path, pystream.open(path / "s") as store:
        topic = store.topic("t", create=True, partitions=partitions, segment_bytes="64KiB")
        life = Life(waits.idle, store.path, "t", partitions, forbidden)
        sleeps = life.receive()
        # Read-only naps are between 1 and 50 ms, so at least some 40 of them; slept on words, one a second.
        assert sleeps <= sleeps_max
        assert (sleeps > 20) == bool(forbidden)
        began = time.monotonic_ns()
        topic.partition(partitions - 1).append([b"x"])
        ((at, index),) = life.receive()
        assert index == partitions - 1
        assert at - began < (200 if forbidden else 100) * waits.MS
        assert life.end() == 0


@pytest.mark.parametrize("forbidden", [(), ("one",)])
def test_wait_without_futexes(
    store: pystream.Store, topic: pystream.Topic, forbidden: tuple[str, ...]
) -> None:
    life = Life(waits.lone_wait, store.path, "t", forbidden)
    assert life.receive() == "waiting"
    time.sleep(0.3)
    topic.append([b"x"])
    began = time.monotonic_ns()
    found, at, cpu_s = life.receive()
    assert found
    assert at - began < 200 * waits.MS
    assert cpu_s < 0.15
    assert life.end() == 0


@pytest.mark.parametrize("how", ["close", "wake", "interrupt"])
@pytest.mark.parametrize("partitions", [1, 5, 200])
def test_a_wait_ends_at_once(store: pystream.Store, partitions: int, how: str) -> None:
    topic = store.topic("t", create=True, partitions=partitions, segment_bytes="64KiB")
    with store.consumer("t") as consumer:

        def end() -> None:
            if how == "interrupt":
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            elif how == "close":
                consumer.close()
            else:
                consumer._fetcher.wake()

        timer = threading.Timer(0.1, end)
        timer.start()
        began = time.monotonic()
        if how == "wake":
            assert consumer.poll() is None
        else:
            with pytest.raises(KeyboardInterrupt if how == "interrupt" else pystream.ClosedError):
                consumer.poll()
        assert 0.05 < time.monotonic() - began < 0.9
        timer.join()
        if how != "close":  # it can be used again
            topic.partition(partitions - 1).append([b"x"])
            batch = consumer.poll(timeout=10)
            assert batch is not None and batch.partition == partitions - 1


def test_partitions_may_change_between_long_waits(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=400, segment_bytes="64KiB")
    with store.consumer("t", start="latest") as consumer:
        for assigned in (range(400), range(0, 400, 2), range(150, 300), range(400)):
            consumer.assign([("t", index) for index in assigned])
            consumer.pause(("t", assigned[1]))
            assert consumer.poll(timeout=0.02) is None
            for index in (assigned[0], assigned[-1], assigned[2]):
                timer = threading.Timer(0.02, topic.partition(index).append, [[b"x"]])
                timer.start()
                batch = consumer.poll(timeout=20)
                assert batch is not None and batch.partition == index
                timer.join()
            consumer.resume(("t", assigned[1]))
