"""What the proofs of consumer groups share, and what their processes do. Imported there without pytest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import pystream
from pystream import TopicPartition

SOON_S = 20
"""Longer than anything here takes, however busy the machine."""

Place = tuple[str, int]


def until(condition: Callable[[], object], what: str = "what is waited for") -> None:
    """Wait until something holds that others bring about."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not come"
        time.sleep(0.002)


def fill(store: pystream.Store, name: str = "t", partitions: int = 4, records: int = 0) -> pystream.Topic:
    """A topic with so many records in each partition; each value is b"PARTITION:OFFSET"."""
    topic = store.topic(name, create=True, partitions=partitions, segment_bytes="64KiB")
    for index in range(partitions):
        append(topic, index, records)
    return topic


def append(topic: pystream.Topic, index: int, records: int) -> None:
    """So many records more, a batch each."""
    partition = topic.partition(index)
    for offset in range(partition.end_offset, partition.end_offset + records):
        assert partition.append([b"%d:%d" % (index, offset)]) == offset


def places(*consumers: pystream.Consumer) -> list[list[Place]]:
    """What each reads."""
    return [[tuple(where[:2]) for where in consumer.assignment()] for consumer in consumers]


class Company:
    """Consumers of one group, asked in turn by one thread; what each was given is kept."""

    def __init__(self, store: pystream.Store, group: str, *consumers: pystream.Consumer) -> None:
        self.group = store.group(group)
        self.consumers = list(consumers)
        self.given: list[tuple[pystream.Consumer, TopicPartition]] = []

    def ask(self) -> int:
        """Ask each once, without waiting; how many batches there were."""
        count = 0
        for consumer in self.consumers:
            batch = consumer.poll(timeout=0)
            if batch is not None:
                count += 1
                self.given += [
                    (consumer, TopicPartition(batch.topic, batch.partition, offset))
                    for offset in batch.offsets.tolist()
                ]
        return count

    def settle(self) -> list[list[Place]]:
        """Ask until who is to read each partition does, and nothing is left; what each reads then."""
        deadline = time.monotonic() + SOON_S
        while self.ask() or self.group.describe().state != "stable":
            assert time.monotonic() < deadline, self.group.describe()
        return places(*self.consumers)

    def offsets(self, place: Place) -> list[int]:
        """What was given out of a partition, in order."""
        return [where.offset or 0 for _, where in self.given if where[:2] == place]

    def close(self) -> None:
        for consumer in self.consumers:
            consumer.close()


def owned(store: pystream.Store, group: str) -> dict[Place, str]:
    """Who reads each partition."""
    return {
        (where.topic, where.partition): where.member_id
        for where in store.group(group).describe().partitions
        if where.member_id is not None
    }


def covers(store: pystream.Store, group: str, wanted: Iterable[Place]) -> bool:
    return owned(store, group).keys() >= set(wanted)


# ---- other processes ------------------------------------------------------------------------------


def member(channel: Any, path: str, options: dict[str, Any] | None = None) -> None:
    """A member of group g that reads t for ever, and tells each record before it asks for the next."""
    with pystream.open(path) as store, store.consumer("t", group="g", **(options or {})) as consumer:
        channel.send(("member", consumer.member_id))
        for record in consumer:
            channel.send((record.partition, record.offset))


def idler(channel: Any, path: str, options: dict[str, Any] | None = None) -> None:
    """A member that takes one record, tells it, and asks for the next when it is told to go on.

    What it is told: "ask", "heartbeat", "commit", "end"; what it answers: the record, and errors by name.
    """
    lost: list[list[Place]] = []
    with pystream.open(path) as store:
        consumer = store.consumer(
            "t",
            group="g",
            timeout=SOON_S,
            on_lost=lambda _, partitions: lost.append([tuple(where[:2]) for where in partitions]),
            **(options or {}),
        )
        records = iter(consumer)
        channel.send(("member", consumer.member_id))
        while (told := channel.recv()) != "end":
            try:
                if told == "ask":
                    record = next(records)
                    channel.send((record.partition, record.offset))
                elif told == "heartbeat":
                    channel.send(consumer.heartbeat())
                elif told == "commit":
                    channel.send(consumer.commit())
                elif told == "lost":
                    channel.send(lost)
                elif told == "member":
                    channel.send(consumer.member_id)
            except pystream.PystreamError as error:
                channel.send(type(error).__name__)
        consumer.close()


def work(channel: Any, path: str, rounds: int) -> None:
    """Join, read, commit by hand, append, and leave, again and again; tell what is committed."""
    with pystream.open(path, sync_interval=0.05) as store:
        for number in range(rounds):
            with store.consumer("t", group="g", auto_commit=False, session_timeout=5) as consumer:
                for turn in range(20):
                    batch = consumer.poll(timeout=0.002)
                    if batch is not None:
                        consumer.commit(durable=turn % 4 == 0)
                        channel.send((batch.partition, batch.next_offset))
                    if turn % 4 == 0:
                        store["t"].append([b"more"], partition=number % 4)


def wait_for_ever(channel: Any, path: str, options: dict[str, Any] | None = None) -> None:
    """A member without anything to read, in a wait without an end; tells how its wait ended."""
    with (
        pystream.open(path, maintenance=False) as store,
        store.consumer("t", group="g", **(options or {})) as consumer,
    ):
        channel.send(("member", consumer.member_id))
        try:
            consumer.poll()
        except KeyboardInterrupt:
            channel.send("interrupted")


def fork_and_read(channel: Any, path: str) -> None:
    """A member with a child that goes on living: tells the child's pid, and what the child was told."""
    store = pystream.open(path)
    consumer = store.consumer("t", group="g")
    records = iter(consumer)
    first = next(records)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for use in (
            lambda: consumer.poll(timeout=0),
            lambda: next(records),
            consumer.commit,
            lambda: consumer.committed(("t", 0)),
            consumer.heartbeat,
            consumer.seek_to_committed,
            consumer.lag,
            lambda: consumer.subscribe("t"),
            lambda: store.consumer("t", group="g"),
            lambda: store.group("g").describe(),
            store.groups,
        ):
            try:
                said.append(repr(use()))
            except BaseException as error:
                said.append(type(error).__name__)
        consumer.close()
        store.close()
        del consumer, records, store
        os.write(write_fd, " ".join(said).encode())
        channel.close()
        time.sleep(600)
        os._exit(0)
    said = os.read(read_fd, 4096).decode()
    channel.send((child, said, first.partition))
    for record in records:
        channel.send((record.partition, record.offset))


def look_as_nobody(channel: Any, path: str) -> None:
    """What a user who may write nowhere sees of group g."""
    import pystream.group  # as long as we may read what it imports

    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    with pystream.open(path, "r") as store:
        group = store.group("g")
        description = group.describe()
        channel.send(
            (
                store.groups(),
                description.state,
                [where.committed for where in description.partitions],
                {tuple(place[:2]): entry.offset for place, entry in group.committed().items()},
            )
        )
