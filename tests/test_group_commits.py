"""Committed offsets: by themselves and by hand, and where a consumer begins by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import pystream
from group_lives import Company, append, fill, places, until
from harness import T0, quick_directory
from pystream import OffsetAndMetadata, OffsetOutOfRangeError, OptionError, TopicPartition
from pystream.group.offsets import METADATA_BYTES_MAX

P = ("t", 0)


@pytest.fixture
def store() -> Iterator[pystream.Store]:
    with quick_directory() as directory, pystream.open(directory / "s") as opened:
        yield opened


@pytest.fixture
def topic(store: pystream.Store) -> pystream.Topic:
    """One partition of ten records, a batch each."""
    return fill(store, partitions=1, records=10)


def join(store: pystream.Store, **options: Any) -> pystream.Consumer:
    return store.consumer("t", **{"group": "g", "timeout": 5} | options)


def committed(store: pystream.Store, place: tuple[str, int] = P) -> int | None:
    found = store.group("g").committed().get(TopicPartition(*place))
    return None if found is None else found.offset


def saved(store: pystream.Store) -> list[tuple[int | None, bool]]:
    return [(where.committed, where.durable) for where in store.group("g").describe().partitions]


# ---- by themselves --------------------------------------------------------------------------------


def test_a_record_is_committed_when_the_next_is_asked_for(store, topic):
    with join(store) as consumer:
        records = iter(consumer)
        for number in range(5):
            assert next(records).offset == number
            assert committed(store) == number == consumer.committed(P)
    assert committed(store) == 5


def test_a_batch_is_committed_when_the_next_is_asked_for(store, topic):
    topic.append([b"x"] * 7)
    with join(store) as consumer:
        for number in range(10):
            assert len(consumer.poll()) == 1
            assert committed(store) == number
        assert len(consumer.poll()) == 7
        assert committed(store) == 10
        assert consumer.poll(timeout=0) is None
        assert committed(store) == 17
    assert committed(store) == 17


def test_records_and_batches_by_turns(store, topic):
    topic.append([b"x"] * 7)
    with join(store) as consumer:
        records, batches = iter(consumer), consumer.batches()
        assert next(records).offset == 0
        assert next(batches).offsets.tolist() == [1]
        assert committed(store) == 1
        assert next(records).offset == 2
        assert committed(store) == 2
        consumer.seek(P, 10)
        assert committed(store) == 2
        assert [next(records).offset for _ in range(3)] == [10, 11, 12]
        assert committed(store) == 12
        assert next(batches).offsets.tolist() == [13, 14, 15, 16]
        assert committed(store) == 13


def leave_by_break(consumer: pystream.Consumer) -> None:
    with consumer:
        for record in consumer:
            if record.offset == 3:
                break


def leave_by_error(consumer: pystream.Consumer) -> None:
    with pytest.raises(KeyError), consumer:
        for record in consumer:
            if record.offset == 3:
                raise KeyError


def leave_while_handling(consumer: pystream.Consumer) -> None:
    try:
        for record in consumer:
            if record.offset == 3:
                raise KeyError
    except KeyError:
        consumer.close()


def leave_after_handling(consumer: pystream.Consumer) -> None:
    try:
        for record in consumer:
            if record.offset == 3:
                raise KeyError
    except KeyError:
        pass
    consumer.close()


def leave_by_handling_in_the_loop(consumer: pystream.Consumer) -> None:
    with consumer:
        for record in consumer:
            try:
                if record.offset == 3:
                    raise KeyError
            except KeyError:
                break


def leave_by_error_in_batches(consumer: pystream.Consumer) -> None:
    with pytest.raises(KeyError), consumer:
        for batch in consumer.batches():
            if batch.offsets[0] == 3:
                raise KeyError


@pytest.mark.parametrize(
    ("leave", "wanted"),
    [
        (leave_by_break, 4),
        (leave_by_error, 3),
        (leave_while_handling, 3),
        (leave_after_handling, 4),
        (leave_by_handling_in_the_loop, 4),
        (leave_by_error_in_batches, 3),
    ],
)
def test_the_record_in_hand(store, topic, leave: Callable[[pystream.Consumer], None], wanted: int):
    """It is done unless an exception is on its way: then it is given out again."""
    leave(join(store))
    assert saved(store) == [(wanted, True)]
    with join(store) as consumer:
        assert next(iter(consumer)).offset == wanted


def test_the_record_in_hand_of_a_store_that_is_closed(tmp_path):
    for number, fails in enumerate([False, True, False]):
        opened = pystream.open(tmp_path / "s")
        try:
            with opened as store:
                fill(store, partitions=1, records=3)
                records = iter(join(store))
                first = next(records).offset
                assert next(records).offset == first + 1
                if fails:
                    raise KeyError(number)
        except KeyError:
            assert fails
        with pystream.open(tmp_path / "s") as store:
            assert committed(store) == [2, 3, 5][number]


def test_offsets_are_saved_each_interval(tmp_path):
    """Without anybody closing anything, and no sooner than they are durable in the log."""
    with pystream.open(tmp_path / "s", sync_interval=0.05) as store:
        topic = fill(store, partitions=1, records=10)
        consumer = join(store)
        records = iter(consumer)
        for number in range(6):
            assert next(records).offset == number
        until(lambda: saved(store) == [(5, True)], "the offset's durability")
        append(topic, 0, 5)
        for number in range(6, 12):
            assert next(records).offset == number
        until(lambda: saved(store) == [(11, True)], "the offset's durability")
        consumer.close()


def test_seeking_back_is_not_committed_until_something_is_read_there(store, topic):
    with join(store) as consumer:
        records = iter(consumer)
        for _ in range(6):
            next(records)
        consumer.seek(P, 2)
        assert committed(store) == 5
        assert next(records).offset == 2
        assert next(records).offset == 3
        assert committed(store) == 3


# ---- by hand --------------------------------------------------------------------------------------


def test_by_hand_nothing_is_committed_unless_it_is_said(store, topic):
    with join(store, auto_commit=False) as consumer:
        records = iter(consumer)
        assert [next(records).offset for _ in range(4)] == [0, 1, 2, 3]
        assert (consumer.committed(P), committed(store)) == (None, None)
        consumer.commit()  # the record in hand included
        assert consumer.committed(P) == 4
        next(records)
        assert consumer.committed(P) == 4
        consumer.commit({P: 2})  # back is allowed
        assert consumer.committed(P) == 2
        consumer.commit({TopicPartition("t", 0): 3})
    assert committed(store) == 3
    with join(store, auto_commit=False) as consumer:
        assert consumer.position(P) == 3
        assert consumer.poll() is not None
    assert committed(store) == 3


def test_by_hand_a_batch(store, topic):
    topic.append([b"x"] * 5)
    with join(store, auto_commit=False) as consumer:
        consumer.seek(P, 10)
        batch = consumer.poll()
        consumer.commit()
        assert consumer.committed(P) == batch.next_offset == 15
        assert consumer.poll(timeout=0) is None
        consumer.commit()
        assert consumer.committed(P) == 15


def test_by_hand_what_was_not_read_yet(store, topic):
    """Everything up to where it begins is done."""
    with join(store, auto_commit=False, start="latest") as consumer:
        consumer.commit()
        assert consumer.committed(P) == 10


def test_metadata(store, topic):
    with join(store, auto_commit=False) as consumer:
        consumer.poll()
        consumer.commit({P: OffsetAndMetadata(4, "part 7")})
        assert consumer.committed(P) == 4
        assert consumer.committed(P, metadata=True) == OffsetAndMetadata(4, "part 7", 0)
        assert store.group("g").committed() == {(*P, None): OffsetAndMetadata(4, "part 7", 0)}
        consumer.commit({P: 5})
        assert consumer.committed(P, metadata=True) == OffsetAndMetadata(5, "", 0)
        consumer.commit({P: OffsetAndMetadata(6, "ü", leader_epoch=0)})
    with join(store) as consumer:
        assert consumer.committed(P, metadata=True) == OffsetAndMetadata(6, "ü", 0)
        assert consumer.position(P) == 6
        assert consumer.committed(P) == 6


def test_metadata_is_durable_when_that_is_asked_for(tmp_path):
    with pystream.open(tmp_path / "s", sync_interval=1000) as store:
        fill(store, partitions=1, records=10)
        with join(store, auto_commit=False) as consumer:
            for offsets in ({P: OffsetAndMetadata(4, "x")}, {P: 6}, None):
                if offsets is None:
                    consumer.seek(P, 8)
                consumer.commit(offsets)
                assert saved(store)[0][1] is False
                consumer.commit(offsets, durable=True)
                assert saved(store) == [({4: 4, 6: 6}.get(consumer.committed(P), 8), True)]


def test_metadata_at_its_limit(store, topic):
    with join(store, auto_commit=False) as consumer:
        for text in ("x" * METADATA_BYTES_MAX, "ü" * (METADATA_BYTES_MAX // 2)):
            consumer.commit({P: OffsetAndMetadata(4, text)})
            assert consumer.committed(P, metadata=True).metadata == text
        for text in ("x" * (METADATA_BYTES_MAX + 1), "ü" * (METADATA_BYTES_MAX // 2) + "x"):
            with pytest.raises(OptionError, match=r"4,?096"):
                consumer.commit({P: OffsetAndMetadata(4, text)})
        with pytest.raises(TypeError, match="metadata must be a str, not bytes"):
            consumer.commit({P: OffsetAndMetadata(4, b"x")})
        assert consumer.committed(P) == 4


@pytest.mark.parametrize("offset", [-1, 11, 2**63])
def test_offsets_that_there_are_not(store, topic, offset):
    with join(store, auto_commit=False) as consumer:
        consumer.commit({P: 10})
        consumer.commit({P: 0})
        for entry in (offset, OffsetAndMetadata(offset)):
            with pytest.raises((OffsetOutOfRangeError, OptionError), match=str(offset)):
                consumer.commit({P: entry})
        assert consumer.committed(P) == 0


def test_commits_that_are_refused(store, topic):
    fill(store, "u", partitions=1)
    with join(store, auto_commit=False) as consumer:
        for offsets, error, says in (
            ({("u", 0): 0}, OptionError, "not assigned"),
            ({("t", 1): 0}, OptionError, "t"),
            ({("no", 0): 0}, pystream.TopicNotFoundError, "no"),
            ({P: "4"}, TypeError, "offset"),
            ({P: 1.5}, TypeError, "offset"),
            ({P: OffsetAndMetadata(1, leader_epoch=-1)}, OptionError, "leader_epoch"),
            ({"t": 1}, TypeError, "TopicPartition"),
        ):
            with pytest.raises(error, match=says):
                consumer.commit(offsets)
            with pytest.raises(error, match=says):
                consumer.commit({P: 3} | offsets)
            assert consumer.committed(P) is None
        with pytest.raises(TypeError, match=r"offsets= must be .* not <class .list.>"):
            consumer.commit([("t", 0, 1)])
        with pytest.raises(TypeError, match="durable"):
            consumer.commit(durable=1)
    with pytest.raises(pystream.ClosedError):
        consumer.commit()


def test_committed_of_partitions_that_others_read(store, topic):
    fill(store, "u", partitions=2, records=3)
    first = store.consumer("u", group="g")
    second = store.consumer("t", group="g")
    company = Company(store, "g", first, second)
    company.settle()
    company.ask()
    assert second.committed(("u", 1)) == 3 == first.committed(("u", 1))
    assert first.committed(P) == 10
    with pytest.raises(OptionError):
        first.committed(("u", 2))
    company.close()


def test_on_revoked_may_commit(store):
    """What is committed there is where the heir begins; at the end of the store, too."""
    fill(store, partitions=2, records=5)
    opened = pystream.open(store.path)
    first = join(opened, auto_commit=False, on_revoked=lambda consumer, _: consumer.commit())
    assert {first.poll().partition, first.poll().partition} == {0, 1}
    second = join(store, auto_commit=False)
    first.poll(timeout=0)
    (mine,) = places(first)[0]
    assert second.poll(timeout=0) is not None
    (theirs,) = places(second)[0]
    assert {mine, theirs} == {("t", 0), ("t", 1)}
    assert committed(store, theirs) == 1
    assert committed(store, mine) == 1
    while first.poll(timeout=0) is not None:
        pass
    reached = first.position(mine)
    assert reached == 5
    opened.close()
    assert committed(store, mine) == reached
    second.close()


# ---- where to begin -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("earliest", 0),
        ("latest", 10),
        (np.datetime64(T0 + 4, "ns"), 4),
        (datetime(2100, 1, 1, tzinfo=UTC), 10),
        ({P: 7}, 7),
        ({P: "latest"}, 10),
    ],
)
def test_start_where_nothing_is_committed(store, start, first):
    topic = store.topic("t", create=True)
    for number in range(10):
        topic.append([b"x"], timestamps=T0 + number)
    with join(store, start=start) as consumer:
        assert consumer.position(P) == first
        if first < 10:
            assert next(iter(consumer)).offset == first
    # From then on it is committed, though nothing may have been read.
    wanted = first + 1 if first < 10 else first
    assert committed(store) == wanted
    topic.append([b"later"])
    with join(store, start="earliest") as consumer:
        assert consumer.position(P) == wanted


def test_a_start_is_kept_by_who_has_read_nothing(store, topic):
    """Where "latest" was when it was first asked for, the next one begins: nothing is passed over."""
    first = join(store, start="latest")
    append(topic, 0, 2)
    first._membership.abandon()
    with join(store, start="latest") as second:
        assert second.position(P) == 10
        assert second.poll().offsets.tolist() == [10]
    first.close()


def test_seek_to_committed(store):
    fill(store, partitions=2, records=10)
    with join(store, auto_commit=False, start={("t", 1): 6}) as consumer:
        consumer.commit({P: 3})
        for _ in range(8):
            consumer.poll()
        consumer.seek_to_committed()
        assert (consumer.position(P), consumer.position(("t", 1))) == (3, 6)
        consumer.seek_to_end()
        consumer.seek_to_committed(P)
        assert (consumer.position(P), consumer.position(("t", 1))) == (3, 10)
        assert consumer.poll().offsets.tolist() == [3]
        with pytest.raises(OptionError):
            consumer.seek_to_committed(("t", 2))


def test_lag(store):
    topic = fill(store, partitions=2, records=4)
    with join(store) as consumer:
        assert consumer.lag() == {TopicPartition("t", 0): 4, TopicPartition("t", 1): 4}
        records = iter(consumer)
        where = next(records)
        next(records)
        assert sum(consumer.lag().values()) == 7
        append(topic, where.partition, 3)
        assert consumer.lag()[TopicPartition("t", where.partition)] in (6, 7)
        consumer.seek_to_end()
        assert set(consumer.lag().values()) == {0}


def test_serializers(store):
    """A value that cannot be read is not consumed, and not committed; what is read through is."""
    topic = store.topic("t", create=True)
    topic.append([b"1"])
    topic.append([b"{"])
    topic.append([b"[3]"])
    with join(store, value="json") as consumer:
        records = iter(consumer)
        assert next(records).value == 1
        for _ in range(2):
            with pytest.raises(pystream.SerializationError):
                next(records)
            assert committed(store) == 1
            records = iter(consumer)
        consumer.seek(P, 2)
        assert next(iter(consumer)).value == [3]
    assert committed(store) == 3


def test_a_topic_of_the_same_name_begins_anew(store):
    """Offsets belong to a topic, not to its name."""
    fill(store, partitions=1, records=5)
    with join(store) as consumer:
        for _ in range(5):
            consumer.poll()
    assert committed(store) == 5
    store.delete_topic("t")
    assert store.group("g").committed() == {}
    fill(store, partitions=1, records=9)
    with join(store) as consumer:
        assert consumer.position(P) == 0
        assert consumer.committed(P) in (None, 0)
