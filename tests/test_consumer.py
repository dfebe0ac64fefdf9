"""Consumers without groups: assignment, polling, places, idling, closing."""

import re
import threading
import time
from datetime import UTC, datetime

import numpy as np
import pytest

import pystream
from pystream import (
    ClosedError,
    OffsetAndTimestamp,
    OffsetOutOfRangeError,
    OptionError,
    TopicNotFoundError,
    TopicPartition,
    UnsupportedError,
)

START = 1_356_998_400_000_000_000
SECOND = 10**9


@pytest.fixture
def clicks(store: pystream.Store) -> pystream.Topic:
    """Three partitions of 20 records in batches of five; b"P-N" at N seconds into 2013."""
    topic = store.topic("clicks", create=True, partitions=3)
    for first in range(0, 20, 5):
        for partition in range(3):
            topic.append(
                [b"%d-%d" % (partition, number) for number in range(first, first + 5)],
                partition=partition,
                timestamps=np.arange(first, first + 5) * SECOND + START,
            )
    return topic


def by_partition(records) -> dict[int, list[int]]:  # type: ignore[no-untyped-def]
    found: dict[int, list[int]] = {}
    for record in records:
        assert record.value == b"%d-%d" % (record.partition, record.offset)
        found.setdefault(record.partition, []).append(record.offset)
    return found


# ---- reading --------------------------------------------------------------------------------------


def test_every_record_once_in_order(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer("clicks", timeout=0) as consumer:
        assert by_partition(consumer) == {p: list(range(20)) for p in range(3)}
        assert list(consumer) == []
        clicks.append([b"1-20"], partition=1)
        assert by_partition(consumer) == {1: [20]}


def test_batches(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer("clicks", timeout=0) as consumer:
        batches = list(consumer.batches())
    assert sorted((batch.partition, batch.base_offset, len(batch)) for batch in batches) == [
        (p, first, 5) for p in range(3) for first in range(0, 20, 5)
    ]
    assert by_partition(record for batch in batches for record in batch) == {
        p: list(range(20)) for p in range(3)
    }


def test_partitions_take_turns(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer("clicks") as consumer:
        turns = [consumer.poll(0).partition for _ in range(12)]
    assert sorted(turns[:3]) == sorted(turns[3:6]) == [0, 1, 2]


def test_poll_waits_as_told(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    with store.consumer("t") as consumer:
        assert consumer.poll(0) is None
        began = time.monotonic()
        assert consumer.poll(timeout="50ms") is None
        assert 0.045 <= time.monotonic() - began < 5
        later = threading.Timer(0.05, topic.append, [[b"x"]])
        later.start()
        batch = consumer.poll()
        later.join()
        assert batch is not None
        assert [record.value for record in batch] == [b"x"]
        for timeout, kind in ((-1, ValueError), ("soon", ValueError), (b"1s", TypeError)):
            with pytest.raises(kind, match="timeout"):
                consumer.poll(timeout)


def test_waiting_on_several_partitions(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer("clicks", start="latest") as consumer:
        for partition in (2, 0, 1):
            later = threading.Timer(0.05, clicks.append, [[b"%d-20" % partition]], {"partition": partition})
            later.start()
            batch = consumer.poll(10)
            later.join()
            assert batch is not None
            assert (batch.partition, batch.base_offset) == (partition, 20)


def test_idle_timeout_ends_iteration(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer("clicks", timeout=0.05) as consumer:
        began = time.monotonic()
        assert sum(1 for _ in consumer) == 60
        assert 0.045 <= time.monotonic() - began < 5


def test_consumed_when_the_next_is_asked_for(store: pystream.Store, clicks: pystream.Topic) -> None:
    where = TopicPartition("clicks", 1)
    with store.consumer(timeout=0) as consumer:
        consumer.assign([where])
        assert consumer.position(where) == 0
        records = iter(consumer)
        for offset in range(7):
            assert next(records).offset == offset
            assert consumer.position(where) == offset
        batch = consumer.poll(0)  # the rest of the batch in hand
        assert (batch.base_offset, batch.next_offset) == (7, 10)
        assert consumer.position(where) == 10
        assert [record.offset for record in consumer] == list(range(10, 20))
        assert consumer.position(where) == 20


def test_iterating_again_goes_on(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer(timeout=0) as consumer:
        consumer.assign([("clicks", 0)])
        for record in consumer:
            if record.offset == 3:
                break
        assert next(iter(consumer)).offset == 4
        assert [record.offset for record in consumer] == list(range(5, 20))


# ---- start ----------------------------------------------------------------------------------------


def test_latest(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer("clicks", start="latest", timeout=0) as consumer:
        assert list(consumer) == []
        clicks.append([b"2-20"], partition=2)
        assert by_partition(consumer) == {2: [20]}


@pytest.mark.parametrize(
    "moment",
    [START + 15 * SECOND, np.datetime64("2013-01-01T00:00:14.5"), datetime(2013, 1, 1, 0, 0, 15, tzinfo=UTC)],
)
def test_start_at_a_moment(store: pystream.Store, clicks: pystream.Topic, moment: object) -> None:
    if isinstance(moment, int):
        with pytest.raises(OptionError, match="start="):
            store.consumer("clicks", start=moment)
        return
    with store.consumer("clicks", start=moment, timeout=0) as consumer:
        assert by_partition(consumer) == {p: list(range(15, 20)) for p in range(3)}


def test_start_by_partition(store: pystream.Store, clicks: pystream.Topic) -> None:
    start = {("clicks", 0): 18, TopicPartition("clicks", 2): "latest"}
    with store.consumer("clicks", start=start, timeout=0) as consumer:
        assert by_partition(consumer) == {0: [18, 19], 1: list(range(20))}


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        ("newest", OptionError),
        (5, OptionError),
        (1.5, TypeError),
        (None, TypeError),
        ({("clicks", 3): 0}, OptionError),
        ({("click", 0): 0}, TopicNotFoundError),
        ({("clicks", 0): 21}, OffsetOutOfRangeError),
        ({("clicks", 0): -1}, OptionError),
        ({0: 5}, TypeError),
    ],
)
def test_start_refused(
    store: pystream.Store, clicks: pystream.Topic, start: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        store.consumer("clicks", start=start)


# ---- assignment -----------------------------------------------------------------------------------


def test_subscribe(store: pystream.Store, clicks: pystream.Topic) -> None:
    other = store.topic("other", create=True)
    other.append([b"x"])
    with store.consumer(timeout=0) as consumer:
        assert consumer.assignment() == []
        for use in (consumer.poll, consumer.batches, consumer.__iter__):
            with pytest.raises(OptionError, match="subscribe"):
                use()
        consumer.subscribe("clicks")
        assert consumer.assignment() == [TopicPartition("clicks", p) for p in range(3)]
        assert sum(1 for _ in consumer) == 60
        consumer.subscribe(["other", "clicks", "other"])
        assert [record.value for record in consumer] == [b"x"]
        consumer.subscribe(["other"])
        assert consumer.assignment() == [TopicPartition("other", 0)]
        consumer.subscribe([])
        assert consumer.assignment() == []


def test_subscribe_refuses(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer("clicks") as consumer:
        with pytest.raises(TopicNotFoundError, match="clicks"):
            consumer.subscribe(["clicks", "click"])
        with pytest.raises(OptionError, match="regular expression"):
            consumer.subscribe("^cl(")
        with pytest.raises(OptionError, match="one pattern alone"):
            consumer.subscribe(["clicks", re.compile("cl.*")])
        with pytest.raises(TypeError, match="one of str"):
            consumer.subscribe(re.compile(b"cl.*"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="topic"):
            consumer.subscribe([5])
        with pytest.raises(TypeError, match="one by one"):
            store.consumer(["clicks", "other"])  # type: ignore[arg-type]
        assert len(consumer.assignment()) == 3
    with pytest.raises(TopicNotFoundError):
        store.consumer("nothing")


def test_assign(store: pystream.Store, clicks: pystream.Topic) -> None:
    with store.consumer(timeout=0) as consumer:
        consumer.assign([("clicks", 0, 17), TopicPartition("clicks", 2)])
        assert consumer.assignment() == [TopicPartition("clicks", 0), TopicPartition("clicks", 2)]
        assert by_partition(consumer) == {0: [17, 18, 19], 2: list(range(20))}
        consumer.assign([("clicks", 2), ("clicks", 1, 20)])
        assert consumer.position(("clicks", 2)) == 20
        assert list(consumer) == []


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        (("clicks", 3), OptionError),
        (("clicks", -1), OptionError),
        (("none", 0), TopicNotFoundError),
        (("clicks", 0, 21), OffsetOutOfRangeError),
        (("clicks", 0, -1), OptionError),
        (("clicks", "0"), TypeError),
        (("clicks",), TypeError),
        ("clicks", TypeError),
        (5, TypeError),
    ],
)
def test_assign_refuses(
    store: pystream.Store, clicks: pystream.Topic, where: object, kind: type[Exception]
) -> None:
    with store.consumer() as consumer:
        consumer.assign([("clicks", 1)])
        with pytest.raises(kind):
            consumer.assign([("clicks", 0), where])
        assert consumer.assignment() == [TopicPartition("clicks", 1)]


def test_pause_and_resume(store: pystream.Store, clicks: pystream.Topic) -> None:
    one, two = TopicPartition("clicks", 1), ("clicks", 2)
    with store.consumer("clicks", timeout=0) as consumer:
        consumer.pause(one, two)
        assert consumer.paused() == [TopicPartition("clicks", 1), TopicPartition("clicks", 2)]
        assert by_partition(consumer) == {0: list(range(20))}
        consumer.resume(two)
        assert by_partition(consumer) == {2: list(range(20))}
        assert consumer.paused() == [one]
        assert consumer.position(one) == 0
        consumer.resume(one)
        assert by_partition(consumer) == {1: list(range(20))}
        for refuse in (consumer.pause, consumer.resume):
            with pytest.raises(OptionError):
                refuse(("clicks", 3))


# ---- places ---------------------------------------------------------------------------------------


def test_seek(store: pystream.Store, clicks: pystream.Topic) -> None:
    where = ("clicks", 0)
    with store.consumer(timeout=0) as consumer:
        consumer.assign([where])
        for offset in (13, 0, 19, 20, 4):
            consumer.seek(where, offset)
            assert consumer.position(where) == offset
            assert [record.offset for record in consumer] == list(range(offset, 20))
        consumer.seek(where, np.datetime64("2013-01-01T00:00:18"))
        assert [record.offset for record in consumer] == [18, 19]
        consumer.seek_to_beginning()
        assert next(iter(consumer)).offset == 0
        consumer.seek(where, 7)  # while a batch is in hand
        assert consumer.position(where) == 7
        assert next(iter(consumer)).offset == 7
        consumer.seek_to_end(where)
        assert list(consumer) == []
        assert consumer.position(where) == 20


@pytest.mark.parametrize(
    ("where", "offset", "kind"),
    [
        (("clicks", 0), 21, OffsetOutOfRangeError),
        (("clicks", 0), -1, OptionError),
        (("clicks", 0), "newest", OptionError),
        (("clicks", 0), 1.0, TypeError),
        (("clicks", 1), 0, OptionError),
        (("clicks", 9), 0, OptionError),
        (("none", 0), 0, TopicNotFoundError),
    ],
)
def test_seek_refuses(
    store: pystream.Store,
    clicks: pystream.Topic,
    where: tuple[str, int],
    offset: object,
    kind: type[Exception],
) -> None:
    with store.consumer() as consumer:
        consumer.assign([("clicks", 0, 5)])
        with pytest.raises(kind):
            consumer.seek(where, offset)
        assert consumer.position(("clicks", 0)) == 5


def test_offsets(store: pystream.Store, clicks: pystream.Topic) -> None:
    store.topic("empty", create=True)
    one, empty = TopicPartition("clicks", 1), ("empty", 0)
    with store.consumer() as consumer:
        assert consumer.beginning_offsets([one, empty]) == {one: 0, empty: 0}
        assert consumer.end_offsets([one, empty]) == {one: 20, empty: 0}
        assert consumer.offsets_for_times(
            {one: START + 5 * SECOND + 1, empty: np.datetime64("2013-01-01")}
        ) == {
            one: OffsetAndTimestamp(6, START + 6 * SECOND),
            empty: None,
        }
        with pytest.raises(OptionError, match="milliseconds"):
            consumer.offsets_for_times({one: 1_356_998_400_000})


# ---- options and life -----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["isolation"])
def test_options_of_later_versions(store: pystream.Store, clicks: pystream.Topic, option: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{option}="):
        store.consumer("clicks", **{option: "billing"})


def test_unknown_options(store: pystream.Store) -> None:
    with pytest.raises(TypeError, match="auto_offset_reset"):
        store.consumer(auto_offset_reset="earliest")
    for name, value in (("timeout", -1), ("spin", 2), ("spin", "1min")):
        with pytest.raises(OptionError, match=name):
            store.consumer(**{name: value})


@pytest.mark.parametrize("spin", [0, 20e-6, "1ms", 1])
def test_spin(store: pystream.Store, clicks: pystream.Topic, spin: object) -> None:
    with store.consumer("clicks", spin=spin, timeout=0) as consumer:
        assert sum(1 for _ in consumer) == 60


def test_close(store: pystream.Store, clicks: pystream.Topic) -> None:
    consumer = store.consumer("clicks")
    batch = consumer.poll(0)
    records = iter(consumer)
    consumer.close()
    consumer.close()
    assert consumer.closed
    for use in (
        consumer.poll,
        consumer.assignment,
        consumer.batches,
        lambda: next(records),
        lambda: iter(consumer),
    ):
        with pytest.raises(ClosedError):
            use()
    assert len(batch) == 5
    assert "closed" in repr(consumer)


def test_close_ends_a_wait(store: pystream.Store) -> None:
    store.topic("t", create=True)
    consumer = store.consumer("t")
    later = threading.Timer(0.1, consumer.close)
    later.start()
    began = time.monotonic()
    with pytest.raises(ClosedError):
        consumer.poll()
    later.join()
    assert time.monotonic() - began < 5


def test_store_closed_under_an_iterator(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pystream.open(tmp_path / "s") as store:
        store.topic("t", create=True).append([b"a", b"b"])
        records = iter(store.consumer("t"))
        assert next(records).value == b"a"
    with pytest.raises(ClosedError):
        list(records)
