"""What the processes of the proofs do. Imported there without pytest."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import pystream
from harness import T0, die


def open_store(path: str, io: str) -> pystream.Store:
    return pystream.open(path, io=io, force=True)


def append_and_die(
    channel: Any, path: str, io: str, name: str, batches: list[dict[str, Any]], torn: dict[str, Any] | None
) -> None:
    """Append batches, tell the first offset of each, and die: with `torn`, in the midst of that append."""
    store = open_store(path, io)
    partition = store.topic(name).partition(0)
    for batch in batches:
        channel.send(partition.append(**batch))
    if torn is not None:
        store._handle.arm("append.header:1:kill" if io == "mmap" else "append.log_end:1:kill")
        partition.append(**torn)
    die()


def numbered(writer: int, number: int, size: int) -> bytes:
    """A value that says who wrote it as which, and can be told from a torn one."""
    text = b"%d:%d:" % (writer, number)
    return text + bytes((writer * 31 + number * 7 + i) & 0xFF for i in range(size))


def parsed(value: bytes) -> tuple[int, int]:
    """Writer and number of a `numbered` value, every byte of which is checked."""
    writer, number, _ = value.split(b":", 2)
    size = len(value) - len(b"%s:%s:" % (writer, number))
    assert value == numbered(int(writer), int(number), size), "torn or mixed up"
    return int(writer), int(number)


def append_for_ever(
    channel: Any, path: str, io: str, writer: int, first: int, size: int, count: int, limit: int
) -> None:
    """Append batches of `count` numbered values; tell each offset once it is acknowledged. Ends by a fault,
    a signal, or when `limit` batches have been appended."""
    store = open_store(path, io)
    partition = store.topic("t").partition(0)
    channel.send("ready")
    for batch in range(limit):
        begin = first + batch * count
        values = [numbered(writer, number, size) for number in range(begin, begin + count)]
        offset = partition.append(values, timestamps=np.arange(begin, begin + count) + T0)
        channel.send((offset, begin))
    store.close()


def produce_for_ever(channel: Any, path: str, io: str, writer: int, size: int, limit: int) -> None:
    """Send numbered values, flush now and then; tell how many are acknowledged."""
    store = open_store(path, io)
    producer = store.topic("t").producer(linger=0.001, batch_bytes=4096)
    channel.send("ready")
    for number in range(limit):
        producer.send(numbered(writer, number, size))
        if number % 16 == 15:
            producer.flush()
            channel.send(number + 1)
    store.close()


def read_all(channel: Any, path: str, io: str) -> None:
    store = open_store(path, io)
    channel.send([(record.offset, record.value) for record in store.topic("t").records()])
    store.close()


def follow(channel: Any, path: str, io: str, records: int) -> None:
    """Consume so many records as they come, and tell whether all was as it should be."""
    store = open_store(path, io)
    last: dict[int, int] = {}
    seen = 0
    with store.consumer("t", timeout=30) as consumer:
        channel.send("ready")
        for record in consumer:
            assert record.offset == seen, (record.offset, seen)
            assert record.value is not None
            writer, number = parsed(record.value)
            assert number == last.get(writer, -1) + 1, (writer, number, last.get(writer))
            last[writer] = number
            seen += 1
            if seen == records:
                break
    channel.send(last)
    store.close()


def call(channel: Any, function: Callable[..., Any], *arguments: Any) -> None:
    """Send what `function` returns, or the name of what it raises."""
    try:
        channel.send(function(*arguments))
    except BaseException as error:
        channel.send(f"{type(error).__name__}: {error}")


def append_one(path: str) -> int:
    with open_store(path, "mmap") as store:
        return store.topic("t").append([b"one"])


def hold_lock(channel: Any, path: str) -> None:
    """Append once; hold the append lock as a stopped writer would, until told; append again."""
    with open_store(path, "mmap") as store:
        topic = store.topic("t")
        topic.append([b"mine"])
        fd = os.open(f"{path}/topics/t/locks", os.O_RDWR)
        lock = struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, lock)
        channel.send("holding")
        channel.recv()
        os.close(fd)
        topic.append([b"mine too"])
        channel.send("gone on")


def fork_then_use(channel: Any, path: str) -> None:
    """Open, fork, and let the child open for itself what the parent has not used yet."""
    store = pystream.open(path)
    topic = store.topic("t", create=True)
    read_fd, write_fd = os.pipe()
    if os.fork() == 0:
        with pystream.open(path) as mine:
            os.write(write_fd, b"%d" % mine["t"].append([b"child"]))
        os._exit(0)
    first = int(os.read(read_fd, 10))
    channel.send((first, topic.append([b"parent"])))
    store.close()


def open_append_close(channel: Any, path: str, writer: int, rounds: int) -> None:
    for number in range(rounds):
        with pystream.open(path) as store:
            store.topic("t", create=True, segment_bytes=65536).append([numbered(writer, number, 3000)])
    channel.send("done")


def echo(channel: Any, path: str) -> None:
    """Append to topic "back" what arrives in topic "t", record by record."""
    with pystream.open(path) as store, store.consumer("t", spin=0) as consumer:
        back = store.topic("back", create=True)
        channel.send("ready")
        for record in consumer:
            if record.value == b"end":
                break
            back.append([record.value])


def fork_and_die_appending(channel: Any, path: str) -> None:
    """Use every lock, leave a child that lives on with what it inherited, die with the append lock held."""
    store = pystream.open(path)
    topic = store.topic("t", create=True)
    producer = topic.producer(linger=0.001)
    producer.send(b"sent")
    producer.flush()
    topic.append([b"appended"])
    topic.partition(0).flush()
    child = os.fork()
    if child == 0:
        channel.close()
        time.sleep(60)
        os._exit(0)
    channel.send((child, store._handle.incarnation))
    channel.recv()
    store._handle.arm("append.begun:1:kill")
    topic.append([b"never"])


def hold_partition(channel: Any, path: str, fork: bool = False, index: int = 0) -> None:
    """Hold a partition of t until told to let go; `fork`: with a child that goes on living."""
    with pystream.open(path) as store:
        topic = store.topic("t")
        hold = topic.partition(index).exclusive()
        topic.append([b"theirs"], partition=index)
        if fork:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            channel.send(child)
        channel.send("held")
        channel.recv()
        hold.release()
        channel.send("released")
        channel.recv()


def append_held(channel: Any, path: str, writer: int, rounds: int, records: int) -> None:
    """Hold t/0 again and again, each time to append records that nobody may come between."""
    with pystream.open(path) as store:
        partition = store.topic("t").partition(0)
        channel.send("ready")
        channel.recv()
        for number in range(rounds):
            with partition.exclusive(timeout=None):
                first = partition.append([numbered(writer, number * records, 20)])
                for i in range(1, records):
                    assert partition.append([numbered(writer, number * records + i, 20)]) == first + i


def read_as_nobody(channel: Any, path: str) -> None:
    """Read t as a user who may write nowhere, and fail to write."""
    import pystream.group.patterns  # what is imported later may be where nobody can read

    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        pystream.open(path)
        said = "opened to write"
    except OSError as error:
        said = type(error).__name__
    with pystream.open(path, "r") as store:
        channel.send((said, [(r.partition, r.offset, r.value) for r in store.topic("t").records()]))
        with store.consumer("t", start="latest") as consumer:
            channel.send("waiting")
            batch = consumer.poll(timeout=30)
            channel.send(None if batch is None else batch.values.to_pylist())
