"""Partitions that are added while others use the topic: everybody takes them up, and nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import administrators
import pystream
from harness import Life, eventually, quick_directory
from pystream import OptionError


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def test_added(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    other = store.topic("t")
    topic.append([b"a"])
    assert topic.add_partitions(2) == 3
    assert (topic.partitions, other.partitions) == (3, 3)
    assert other.partition(2).append([b"b"]) == 0
    assert other.offsets() == {0: (0, 1), 1: (0, 0), 2: (0, 1)}
    assert store.add_partitions("t", to=5) == 5
    assert store.add_partitions("t", to=5) == 5
    with pytest.raises(OptionError, match="to=4: topic 't' has 5 partitions; there can never be fewer"):
        topic.add_partitions(to=4)
    for count in (0, -1, 65536):
        with pytest.raises(OptionError, match=f"count={count}: must be from 1 to 65535"):
            topic.add_partitions(count)
    with pytest.raises(OptionError, match="can have 65536: at most 65531 more"):
        topic.add_partitions(65532)
    with pytest.raises(OptionError, match="to=65537"):
        topic.add_partitions(to=65537)
    for refused in ({}, {"count": 1, "to": 3}):
        with pytest.raises(TypeError, match="count, how many to add, or to="):
            topic.add_partitions(**refused)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="count"):
        topic.add_partitions(1.0)  # type: ignore[arg-type]
    with pytest.raises(pystream.TopicNotFoundError):
        store.add_partitions("u", 1)
    assert topic.partitions == 5
    with pytest.raises(OptionError, match="partitions 0 to 4"):
        topic.partition(5)


def test_as_many_as_there_may_be(path: Path) -> None:
    with pystream.open(path) as store:
        topic = store.topic("t", create=True)
        assert topic.add_partitions(65535) == 65536
        assert topic.partition(65535).append([b"last"]) == 0
        with pytest.raises(OptionError, match="at most 0 more"):
            topic.add_partitions(1)


def test_left_by_one_who_died(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    (Path(store.path) / "topics/t/1").mkdir()
    assert topic.add_partitions(1) == 2
    assert topic.append([b"x"], partition=1) == 0


def test_an_open_producer_sends_to_them(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    plain, keyed = topic.producer(linger=0), topic.producer(linger=0)
    mine = topic.producer(linger=0, partitioner=lambda key, partitions: partitions - 1)
    exclusive = store.topic("e", create=True).producer(exclusive=True)
    keys = [b"key-%d" % n for n in range(200)]
    keyed.send_many([b"v"] * 200, keys=keys)
    for turn in range(3):  # again and again: in each way there are blocks of lanes behind one another
        topic.add_partitions(turn + 1)
        assert plain.partitions == keyed.partitions == mine.partitions == topic.partitions
    for key in keys:
        keyed.send(b"w", key=key)
    keyed.flush()
    mine.send(b"mine")
    mine.flush(durable=True)
    mine.send_many([b"mine"] * 3, keys=[b"k"] * 3)
    plain.send(b"named", partition=5)
    for _ in range(30):
        plain.send_many([b"spread"])
    plain.flush()
    offsets = topic.offsets()
    assert offsets[6] >= (0, 4)
    assert all(end > 0 for _, end in offsets.values())
    found = {record.key: record.partition for record in topic.records() if record.value == b"w"}
    with store.topic("same", create=True, partitions=7).producer() as same:
        for key in keys:
            same.send(b"w", key=key)
    assert found == {record.key: record.partition for record in store["same"].records()}
    store.add_partitions("e", 1)
    assert exclusive.partitions == 2
    with pytest.raises(pystream.PartitionHeldError):
        store["e"].partition(1).exclusive()
    for producer in (plain, keyed, mine, exclusive):
        producer.close()
    store["e"].partition(1).exclusive().release()


def test_a_partitioner_that_makes_it_grow(store: pystream.Store) -> None:
    """All records of one call are spread over the same number of partitions, the later one."""
    topic = store.topic("t", create=True, partitions=2)
    asked: list[int] = []

    def choose(key: bytes | None, partitions: int) -> int:
        if len(asked) == 3:
            topic.add_partitions(8)
        asked.append(partitions)
        return partitions - 1

    with topic.producer(partitioner=choose) as producer:
        producer.send_many([b"x"] * 10)
    assert asked[:4] == [2] * 4
    assert asked[-10:] == [10] * 10
    assert topic.offsets()[9] == (0, 10)


@pytest.mark.parametrize(
    ("mode", "subscription", "options"),
    [
        ("rw", "t", {}),
        ("r", "t", {"start": "latest"}),
        ("rw", "^t$", {}),
        ("rw", "t", {"group": "g"}),
        ("rw", "^t$", {"group": "h"}),
    ],
)
def test_other_processes_take_them_up(
    path: Path, mode: str, subscription: str, options: dict[str, Any]
) -> None:
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, partitions=2)
        producing = Life(administrators.produce_on, str(path), "t", 60.0)
        assert producing.receive() == "ready"
        consuming = Life(administrators.consume_on, str(path), mode, subscription, options)
        assert consuming.receive() == "ready"
        topic.add_partitions(3)
        eventually(lambda: all(end > 0 for _, end in topic.offsets().values()))
        producing.channel.send("enough")
        sent, partitions, _ = producing.receive()
        assert partitions == 5
        assert producing.end() == 0
        ends = topic.offsets()
        assert sum(end for _, end in ends.values()) == sent
        with store.consumer("t", timeout=0) as mine:
            numbers = sorted(int(record.value or b"") for record in mine)
        assert numbers == list(range(sent))
        time.sleep(0.5)
        topic.append([b"end"], partition=4)
        seen, ended = consuming.receive(60)
        assert ended is None
        assert consuming.end() == 0
        found = [(partition, offset) for _, partition, offset, _ in seen]
        assert len(set(found)) == len(found)
        for partition in (2, 3, 4):  # from their very beginning, whatever `start` says
            mine_there = [offset for where, offset in found if where == partition]
            assert mine_there[: ends[partition][1]] == list(range(len(mine_there)))[: ends[partition][1]]
            assert mine_there


def test_two_members_share_them(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=2)
    with store.consumer("t", group="g") as one, store.consumer("t", group="g") as two:
        for consumer in (one, two, one, two):
            consumer.poll(0)
        assert sorted(len(consumer.assignment()) for consumer in (one, two)) == [1, 1]
        topic.add_partitions(2)

        def shared() -> bool:
            for consumer in (one, two):
                consumer.poll(0.01)
            return sorted(len(consumer.assignment()) for consumer in (one, two)) == [2, 2]

        eventually(shared)
        assert {tp.partition for consumer in (one, two) for tp in consumer.assignment()} == {0, 1, 2, 3}


def test_an_ingest_job_goes_on_where_it_began(store: pystream.Store, tmp_path: Path) -> None:
    """Rows of a job that goes on are taken in again, and recognised, so they have to go where they went."""
    from pystream.ingest import ingest

    topic = store.topic("t", create=True, partitions=2)
    source = tmp_path / "rows.csv"
    source.write_text("n\n" + "".join(f"{n}\n" for n in range(200)))
    ingest(topic, source, key="n")
    topic.add_partitions(3)
    with source.open("a") as more:
        more.write("".join(f"{n}\n" for n in range(200, 400)))
    ingest(topic, source, key="n", resume=True)
    found = sorted(json.loads(record.value or b"")["n"] for record in topic.records())
    assert found == list(range(400))
    assert topic.offsets()[4] == (0, 0)
