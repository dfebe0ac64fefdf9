"""What the other processes of test_delete_topic.py do. Imported there without pytest."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pystream


def said_by(function: Callable[[], Any]) -> str:
    """The name of what `function` raises, or what it returns."""
    try:
        return repr(function())
    except pystream.PystreamError as error:
        return type(error).__name__


def delete(channel: Any, path: str, name: str) -> None:
    """Delete a topic, having it open."""
    with pystream.open(path) as store:
        topic = store.topic(name)
        topic.append([b"before"], partition=0)
        channel.send("ready")
        store.delete_topic(name)
        channel.send("deleted")


def hold_everything(channel: Any, path: str, name: str) -> None:
    """Have a topic open in every way, and tell what each of them says once it was deleted."""
    with pystream.open(path) as store:
        topic = store.topic(name)
        partition = topic.partition(0)
        for value in (b"mine", b"mine, too"):
            partition.append([value])
        batch = next(partition.scan())
        reading = partition.records()
        next(reading)
        consumer = store.consumer(name, start="latest")
        producer = topic.producer(linger=60)
        producer.send(b"queued", partition=0)
        channel.send("ready")
        channel.recv()
        uses: dict[str, Callable[[], Any]] = {
            "append": lambda: partition.append([b"x"]),
            "append to one not yet opened": lambda: topic.append([b"x"], partition=1),
            "get": lambda: partition[0],
            "go on reading": lambda: next(reading),
            "tail": partition.tail,
            "flush": partition.flush,
            "poll": lambda: consumer.poll(0),
            "end": lambda: partition.end_offset,
            "time": lambda: partition.offset_for_time(1_700_000_000_000_000_000),
            "wait": lambda: partition.wait(10**6, timeout=5),
            "flush producer": producer.flush,
            "open": lambda: store.topic(name).uuid == topic.uuid,
        }
        channel.send({name: said_by(use) for name, use in uses.items()})
        channel.send(bytes(batch.values[0]))


def wait_for_records(channel: Any, path: str, name: str) -> None:
    """Wait for a record, for ever."""
    with pystream.open(path) as store, store.consumer(name, start="latest", spin=0) as consumer:
        channel.send("ready")
        channel.send(said_by(consumer.poll))


def append_until_refused(channel: Any, path: str, name: str, size: int, durability: str) -> None:
    """Append as quickly as possible; tell what ended that, and how many were acknowledged."""
    with pystream.open(path) as store:
        topic = store.topic(name)
        assert topic.options.durability == durability
        partition = topic.partition(0)
        count = 0
        try:
            while True:
                partition.append([b"old" + bytes(size)])
                count += 1
                if count == 5:
                    channel.send("ready")
        except pystream.PystreamError as error:
            channel.send((type(error).__name__, count))


def hold_partition(channel: Any, path: str, name: str) -> None:
    with pystream.open(path) as store, store.topic(name).partition(1).exclusive():
        channel.send("holding")
        channel.recv()


def make_and_delete(channel: Any, path: str, seed: int, rounds: int) -> None:
    """Make, fill and delete the same few topics as others do; only what the others did may get in the way."""
    seeded = random.Random(seed)
    mine = b"%d" % os.getpid()
    with pystream.open(path) as store:
        for _ in range(rounds):
            name = f"t{seeded.randrange(2)}"
            try:
                topic = store.topic(name, create=True, segment_bytes=65536)
                for _ in range(seeded.randrange(1, 30)):
                    topic.append([mine + bytes(5000)])
                for record in topic.records():
                    assert record.value is not None and record.value.endswith(bytes(5000))
                if seeded.random() < 0.7:
                    store.delete_topic(name)
            except (pystream.TopicDeletedError, pystream.TopicNotFoundError):
                pass
    channel.send("done")
