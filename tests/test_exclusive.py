"""Holding a partition for exclusive writing: alone, among threads, and among processes that die or stop."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lives
import pystream
from harness import Life


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[pystream.Topic]:
    with pystream.open(tmp_path / "s") as store:
        yield store.topic("t", create=True)


def values(topic: pystream.Topic) -> list[bytes | None]:
    return [record.value for record in topic.records()]


def test_hold_and_release(topic):
    partition = topic.partition(0)
    with partition.exclusive() as hold:
        assert repr(hold) == "<pystream.Hold on 't'/0>"
        assert partition.append([b"a"]) == 0
        with topic.producer() as producer:  # of this process: welcome
            producer.send(b"b")
        with pytest.raises(pystream.PartitionHeldError, match="by this process already") as caught:
            partition.exclusive(timeout=None)  # waiting for oneself would be for ever
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.topic, caught.value.partition) == ("t", 0)
        assert partition.append([b"c"]) == 2
    assert repr(hold) == "<pystream.Hold, released>"
    hold.release()
    with partition.exclusive():
        hold.release()  # an old one lets go of nothing
        with pytest.raises(pystream.PartitionHeldError):
            partition.exclusive()
    assert values(topic) == [b"a", b"b", b"c"]


def test_a_forgotten_hold_lets_go(topic):
    hold = topic.partition(0).exclusive()
    del hold
    gc.collect()
    topic.partition(0).exclusive().release()


def test_bad_arguments(topic):
    with pytest.raises(pystream.OptionError, match="timeout="):
        topic.partition(0).exclusive(timeout=-1)
    with pytest.raises(TypeError, match="exclusive= must be True or False"):
        topic.producer(exclusive=1)


def test_after_close(tmp_path):
    store = pystream.open(tmp_path / "s")
    partition = store.topic("t", create=True).partition(0)
    hold = partition.exclusive()
    store.close()
    hold.release()
    with pytest.raises(pystream.ClosedError):
        partition.exclusive()
    with pystream.open(tmp_path / "s") as store, store.topic("t").partition(0).exclusive():
        hold.release()  # that of the store before


@pytest.mark.parametrize("ending", ["release", "close", "kill"])
def test_another_process(topic, ending):
    life = Life(lives.hold_partition, topic._store.path)
    assert life.receive() == "held"
    partition = topic.partition(0)
    with pytest.raises(pystream.PartitionHeldError, match=f"exclusive writing by process {life.pid}"):
        partition.exclusive()
    with pytest.raises(pystream.LockTimeoutError, match=f"exclusive writing by process {life.pid}"):
        partition.append([b"mine"], timeout=0)
    assert values(topic) == [b"theirs"]
    waiting: list[int] = []
    waiter = threading.Thread(target=lambda: waiting.append(partition.append([b"mine"])))
    waiter.start()
    time.sleep(0.05)
    assert not waiting
    if ending == "kill":
        life.kill()
        assert life.end() == -signal.SIGKILL
    else:
        life.channel.send("let go")
        assert life.receive() == "released"
    waiter.join(10)
    assert waiting == [1]
    partition.exclusive().release()
    if ending != "kill":
        life.channel.send("end")
        assert life.end() == 0
    assert values(topic) == [b"theirs", b"mine"]


@pytest.mark.parametrize("count", [1, 2])
def test_what_waits_for_the_partition_is_what_was_given(topic, count):
    """Whatever becomes of the list meanwhile: an item that is on its way must not be freed with it."""
    life = Life(lives.hold_partition, topic._store.path)
    assert life.receive() == "held"
    given, fill = [bytes([i]) * 3000 for i in range(count)], []
    waiter = threading.Thread(target=topic.partition(0).append, args=(given,))
    waiter.start()
    time.sleep(0.05)
    given.clear()
    fill += [b"\xff" * 2999 + bytes([i]) for i in range(64)]  # they take the place of what was freed
    life.channel.send("let go")
    assert life.receive() == "released"
    waiter.join(10)
    life.channel.send("end")
    assert life.end() == 0
    assert values(topic) == [b"theirs", *(bytes([i]) * 3000 for i in range(count))]
    assert len(fill) == 64


def test_stopped_is_not_dead(topic):
    life = Life(lives.hold_partition, topic._store.path)
    assert life.receive() == "held"
    os.kill(life.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(pystream.LockTimeoutError, match=f"process {life.pid}"):
        topic.append([b"x"], timeout=0.2)
    with pytest.raises(pystream.PartitionHeldError, match=f"process {life.pid}"):
        topic.partition(0).exclusive(timeout=0.2)
    assert time.monotonic() - start >= 0.4
    life.kill()
    life.end()
    assert topic.append([b"x"]) == 1


def test_the_child_of_a_dead_holder_holds_nothing(topic):
    life = Life(lives.hold_partition, topic._store.path, True)
    child = life.receive()
    try:
        assert life.receive() == "held"
        life.kill()
        life.end()
        os.kill(child, 0)  # alive
        with topic.partition(0).exclusive():
            assert topic.append([b"x"]) == 1
    finally:
        os.kill(child, signal.SIGKILL)


def test_processes_take_turns(topic):
    writers = [Life(lives.append_held, topic._store.path, writer, 30, 5) for writer in range(3)]
    for life in writers:
        assert life.receive() == "ready"
    for life in writers:
        life.channel.send("go")
    for life in writers:
        assert life.end() == 0
    found = [lives.parsed(value) for value in values(topic)]
    assert len(found) == 3 * 30 * 5
    for at in range(0, len(found), 5):  # each turn is whole
        writer, first = found[at]
        assert found[at : at + 5] == [(writer, first + i) for i in range(5)]


def test_producer(tmp_path):
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=3)
        with topic.producer(exclusive=True) as producer:
            assert [topic.partition(i)._log().held for i in range(3)] == [True] * 3
            for i in range(100):
                producer.send(b"%d" % i, key=b"%d" % i)
            with pytest.raises(pystream.PartitionHeldError):
                topic.producer(exclusive=True)
        assert [topic.partition(i)._log().held for i in range(3)] == [False] * 3
        assert sorted(int(value) for value in values(topic)) == list(range(100))
        with topic.partition(2).exclusive(), pytest.raises(pystream.PartitionHeldError):
            topic.producer(exclusive=True)  # two are free, and must not stay held
        topic.producer(exclusive=True).close()


def test_producer_lets_go_though_closing_fails(tmp_path, monkeypatch):
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True)
        producer = topic.producer(exclusive=True, linger=60)
        producer.send(b"x")
        topic.partition(0)._log().poison(5)
        with pytest.raises(pystream.DeliveryError):
            producer.close()
        assert not topic.partition(0)._log().held
