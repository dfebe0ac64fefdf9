"""Fork: a child is told that handles are its parent's, keeps nothing locked, reads on what was lent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lives
import pystream
from harness import T0, Life, quick_directory
from pystream import ForkedError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def in_child(check: Callable[[], Any]) -> str:
    """What `check` returned or raised in a forked child, as text."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = repr(check())
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(write_fd, answer.encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        answer = pipe.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return answer


def test_every_handle_says_so(path: Path) -> None:
    store = pystream.open(path)
    topic = store.topic("t", create=True, partitions=2)
    partition = topic.partition(0)
    partition.append([b"a", b"b"], timestamps=T0)
    producer = topic.producer(linger=60)
    producer.send(b"in the parent's builder", partition=0)
    consumer = store.consumer("t", timeout=0)
    records = partition.records()
    batches = partition.scan()
    uses: dict[str, Callable[[], Any]] = {
        "store.topics": store.topics,
        "store.topic": lambda: store.topic("t"),
        "store.consumer": lambda: store.consumer("t"),
        "topic.append": lambda: topic.append([b"x"], partition=0),
        "topic.producer": topic.producer,
        "topic.records": lambda: list(topic.records()),
        "unopened partition": lambda: topic.partition(1).append([b"x"]),
        "partition.append": lambda: partition.append([b"x"]),
        "partition.append nothing": lambda: partition.append([]),
        "partition[0]": lambda: partition[0],
        "partition.tail": partition.tail,
        "partition.end_offset": lambda: partition.end_offset,
        "partition.wait": lambda: partition.wait(9, 0),
        "partition.flush": partition.flush,
        "partition.offset_for_time": lambda: partition.offset_for_time(T0),
        "producer.send": lambda: producer.send(b"x"),
        "producer.send_many": lambda: producer.send_many([b"x"]),
        "producer.flush": producer.flush,
        "consumer.poll": lambda: consumer.poll(0),
        "consumer iteration": lambda: list(consumer),
        "consumer.position": lambda: consumer.position(("t", 0)),
        "consumer.seek": lambda: consumer.seek(("t", 0), 0),
    }
    for name, use in uses.items():
        assert in_child(use).startswith("ForkedError"), name
    # Iterators begun before the fork give what they hold, or say so; they never give anything wrong.
    for begun in (records, batches):
        assert in_child(lambda begun=begun: len(list(begun))).startswith(("ForkedError", "1", "2"))
    # Closing in the child is allowed, and leaves the parent's alone.
    assert in_child(lambda: (producer.close(), consumer.close(), store.close())) == "(None, None, None)"
    assert issubclass(ForkedError, RuntimeError)
    producer.flush()
    assert partition.append([b"c"]) == 3
    assert [record.value for record in partition] == [b"a", b"b", b"in the parent's builder", b"c"]
    producer.close()
    store.close()


def test_lent_memory_stays_readable(path: Path) -> None:
    store = pystream.open(path)
    topic = store.topic("t", create=True, dtype="i8")
    topic.append(np.arange(1000))
    compressed = store.topic("z", create=True, compression="lz4")
    compressed.append([b"value %d" % (i % 3) for i in range(1000)])
    array = next(topic.partition(0).arrays())
    batch = next(compressed.partition(0).scan())
    record = compressed.partition(0)[7]

    def check() -> int:
        assert bytes(batch.values[1]) == b"value 1"
        assert batch[2].value == b"value 2"
        assert [one.offset for one in batch][:3] == [0, 1, 2]
        assert record.value == b"value 1"
        return int(array.sum())

    assert in_child(check) == repr(499500)
    store.close()
    assert in_child(check) == repr(499500)


def test_child_opens_again(path: Path) -> None:
    """The child's store is its own; both write, and both close."""
    store = pystream.open(path)
    topic = store.topic("t", create=True)
    topic.append([b"parent"])

    def check() -> tuple[int, list[bytes | None]]:
        with pystream.open(path) as mine:
            assert mine is not store
            again = mine["t"]
            with again.producer() as producer:
                producer.send(b"child")
            end = again.append([b"child too"])
            return end, [record.value for record in again.records()]

    assert in_child(check) == repr((2, [b"parent", b"child", b"child too"]))
    assert topic.append([b"parent too"]) == 3
    assert len(list(topic.records())) == 4
    store.close()
    # A store that was opened again in a child whose parent has closed it meanwhile.
    assert in_child(check)[1] == "5"


def test_grandchildren(path: Path) -> None:
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)

        def grandchild() -> str:
            with pystream.open(path) as mine:
                mine["t"].append([b"child"])
                return in_child(lambda: mine["t"].append([b"grandchild"]))

        assert "ForkedError" in in_child(grandchild)
        assert topic.append([b"x"]) == 1


def test_fork_while_threads_write(path: Path) -> None:
    """A fork in the midst of appends, sends and syncs: the child opens for itself, the parent goes on."""
    import threading

    with pystream.open(path, sync_interval=0.002) as store:
        topic = store.topic("t", create=True)
        stop = threading.Event()
        counts = [0, 0]

        def append() -> None:
            while not stop.is_set():
                topic.append([b"a" * 100])
                counts[0] += 1

        def send() -> None:
            with topic.producer(linger=0.001) as producer:
                while not stop.is_set():
                    producer.send(b"s" * 100)
                    counts[1] += 1

        threads = [threading.Thread(target=work) for work in (append, send)]
        for thread in threads:
            thread.start()

        def child() -> str:
            try:
                topic.append([b"never"])
            except ForkedError:
                with pystream.open(path) as mine:
                    mine["t"].append([b"child"])
                    return "told"
            return "not told"

        try:
            for _ in range(15):
                assert in_child(child) == "'told'"
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert topic.partition(0).end_offset == sum(counts) + 15


def test_locks_die_with_the_parent(path: Path) -> None:
    """Not with the child, whatever it inherited: a third process appends within 100 ms."""
    pystream.open(path).close()
    life = Life(lives.fork_and_die_appending, str(path))
    child, incarnation = life.receive()
    try:
        with pystream.open(path) as store:
            partition = store.topic("t").partition(0)
            assert store._handle.incarnation == incarnation
            life.channel.send("die")
            life.process.join()
            begun = time.monotonic()
            offset = partition.append([b"mine"], timeout=5)
            assert time.monotonic() - begun < 0.1
            assert partition[offset].value == b"mine"
        os.kill(child, 0)  # it lives
        with pystream.open(path) as store:  # nobody else is in it now, so it is looked through
            assert store._handle.incarnation != incarnation
            assert store.topic("t").append([b"alone"], timeout=5) == offset + 1
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
    assert life.end() == -signal.SIGKILL


def test_child_keeps_no_descriptor(path: Path) -> None:
    """Those that carry locks are closed in the child, the others are only for reading."""
    store = pystream.open(path)
    topic = store.topic("t", create=True)
    topic.append([b"x"])

    def inherited() -> list[str]:
        return sorted(
            os.path.basename(target)
            for fd in os.listdir("/proc/self/fd")
            if (target := link(fd)).startswith(str(path))
        )

    assert "locks" in inherited()
    assert "live" in inherited()
    names = in_child(inherited)
    assert "locks" not in names
    assert "live" not in names
    store.close()
    assert inherited() == []


def link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_nothing_survives_exec(path: Path) -> None:
    import subprocess

    with pystream.open(path) as store:
        store.topic("t", create=True).append([b"x"])
        shown = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False, check=True
        ).stdout
        assert "/dev/null" in shown or "pipe:" in shown
        assert str(path) not in shown


def work(path: str, number: int) -> int:
    with pystream.open(path) as store:
        topic = store.topic("t")
        with topic.producer() as producer:
            for i in range(50):
                producer.send(b"%d:%d" % (number, i))
        return topic.partition(0).end_offset


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(path: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        topic.append([b"parent:0"])
        with context.Pool(2) as pool:
            pool.starmap(work, [(str(path), number) for number in range(4)])
        values = [record.value for record in topic.records()]
        for number in range(4):
            mine = [value for value in values if value and value.startswith(b"%d:" % number)]
            assert mine == [b"%d:%d" % (number, i) for i in range(50)]
        assert len(values) == 201


def test_handles_are_not_pickled(path: Path) -> None:
    """A handle sent to another process would be another handle; so it is refused."""
    import pickle

    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        topic.append([b"x"])
        batch = next(topic.batches())
        with topic.producer() as producer:
            for thing in (store, topic, topic.partition(0), producer, store.consumer("t"), batch):
                with pytest.raises((TypeError, pickle.PicklingError)):
                    pickle.dumps(thing)


def test_fork_in_a_life(path: Path) -> None:
    """The same in a process that forks before it ever used the store."""
    pystream.open(path).close()
    life = Life(lives.fork_then_use, str(path))
    assert life.receive() == (0, 1)
    assert life.end() == 0
