"""What the other processes of the tests of topic administration do. Imported there without pytest."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pystream


def leftovers(path: Path) -> list[str]:
    """Directories of topics that are being made, changed or removed, or that a death has left."""
    return [entry for entry in os.listdir(path / "topics") if "+" in entry]


def said_of(error: BaseException) -> tuple[str, str]:
    """What an error is called and says."""
    return type(error).__name__, str(error)


def produce_on(channel: Any, path: str, name: str, seconds: float) -> None:
    """Send numbered records with 50 keys by one producer, until told that it is enough; tell how many."""
    with pystream.open(path) as store:
        topic = store.topic(name)
        producer = topic.producer(linger=0.002)
        channel.send("ready")
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end and not channel.poll(0):
            producer.send(b"%d" % number, key=b"key-%d" % (number % 50))
            number += 1
            if number % 20 == 0:
                producer.flush()
                time.sleep(0.002)
        producer.flush()
        channel.send((number, producer.partitions, topic.options.segment_bytes))
        producer.close()


def consume_on(channel: Any, path: str, mode: str, subscription: str, options: dict[str, Any]) -> None:
    """Read all that comes until a record says "end"; tell what was read, and what ended it."""
    store = pystream.open(path, mode)
    consumer = store.consumer(subscription, timeout=20, **options)
    channel.send("ready")
    seen = []
    try:
        for record in consumer:
            seen.append((record.topic, record.partition, record.offset, record.value))
            if record.value == b"end":
                break
    except pystream.PystreamError as error:
        channel.send((seen, said_of(error)))
    else:
        channel.send((seen, None))
    consumer.close()
    store.close()


def append_with(channel: Any, path: str, name: str) -> None:
    """Append what one is told to, by objects that were got before anything changed; tell offset or what it
    raised, and the options as they are known here."""
    with pystream.open(path) as store:
        topic = store.topic(name)
        partition = topic.partition(0)
        partition.append([b"first"])
        channel.send("ready")
        while (values := channel.recv()) is not None:
            try:
                channel.send((partition.append(values), topic.options.to_json()))
            except pystream.PystreamError as error:
                channel.send((said_of(error), None))


def alter_for_ever(channel: Any, path: str, name: str, option: str, values: list[Any], times: int) -> None:
    """Alter one option again and again."""
    with pystream.open(path) as store:
        topic = store.topic(name)
        channel.send("ready")
        for turn in range(times):
            topic.alter(**{option: values[turn % len(values)]})
        channel.send("done")


def grow_for_ever(channel: Any, path: str, name: str, times: int) -> None:
    """Add a partition again and again."""
    with pystream.open(path) as store:
        topic = store.topic(name)
        channel.send("ready")
        channel.send([topic.add_partitions(1) for _ in range(times)])


def rename_to_and_fro(channel: Any, path: str, name: str, mine: str, times: int) -> None:
    """Give the topic another name and its own again; how often that could be done."""
    with pystream.open(path) as store:
        channel.send("ready")
        done = 0
        for _ in range(times):
            try:
                store.rename_topic(name, mine)
                store.rename_topic(mine, name)
                done += 1
            except (pystream.TopicNotFoundError, pystream.TopicExistsError):
                pass
        channel.send(done)
