"""Partitions: appending, and reading by offset, range and time."""

from datetime import UTC, datetime

import numpy as np
import pytest

import pystream
from pystream import OffsetOutOfRangeError, OptionError

START = 1_356_998_400_000_000_000  # 2013-01-01T00:00Z, in ns
SECOND = 10**9


def values(records) -> list[bytes | None]:  # type: ignore[no-untyped-def]
    return [record.value for record in records]


@pytest.fixture
def numbered(topic: pystream.Topic) -> pystream.Partition:
    """Values b"0" to b"99" in batches of ten, a second apart from the year 2013 on."""
    partition = topic.partition(0)
    for first in range(0, 100, 10):
        partition.append(
            [b"%d" % number for number in range(first, first + 10)],
            timestamps=np.arange(first, first + 10) * SECOND + START,
        )
    return partition


# ---- appending ------------------------------------------------------------------------------------


def test_offsets_follow(topic: pystream.Topic) -> None:
    partition = topic.partition(0)
    assert (partition.beginning_offset, partition.end_offset, partition.high_watermark) == (0, 0, 0)
    assert partition.append([b"a", b"b"]) == 0
    assert partition.append([b"c"]) == 2
    assert partition.append([]) == 3
    assert topic.append([b"d"]) == 3
    assert (partition.beginning_offset, partition.end_offset) == (0, 4)
    assert (partition.topic, partition.index) == ("t", 0)


def test_record_as_it_went_in(topic: pystream.Topic) -> None:
    partition = topic.partition(0)
    partition.append(
        [b"value", None, b""],
        keys=[None, b"", b"key"],
        headers=[None, [("a", b"1"), ("a", None)], {"b": b""}],
        timestamps=[START, START + 1, START + 2],
    )
    first, second, third = partition
    assert (first.offset, first.key, first.value, first.headers, first.timestamp) == (
        0,
        None,
        b"value",
        (),
        START,
    )
    assert (second.offset, second.key, second.value, second.timestamp) == (1, b"", None, START + 1)
    assert second.headers == (("a", b"1"), ("a", None))
    assert (third.key, third.value, third.headers) == (b"key", b"", (("b", b""),))
    assert (third.topic, third.partition) == ("t", 0)


def test_clock_when_no_timestamp_is_given(topic: pystream.Topic) -> None:
    before = np.datetime64("now", "ns") - np.timedelta64(2, "s")
    topic.append([b"x"])
    stamp = topic.partition(0)[0].timestamp
    assert stamp is not None
    assert before < np.datetime64(stamp, "ns") < before + np.timedelta64(60, "s")


@pytest.mark.parametrize(
    "moment", [START, datetime(2013, 1, 1, tzinfo=UTC), np.datetime64("2013-01-01"), np.int64(START)]
)
def test_one_timestamp_for_all(topic: pystream.Topic, moment: object) -> None:
    topic.append([b"a", b"b"], timestamps=moment)
    assert [record.timestamp for record in topic.records()] == [START, START]


@pytest.mark.parametrize(
    "moments",
    [
        [START, START + SECOND],
        [datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, 0, 0, 1, tzinfo=UTC)],
        np.array([START, START + SECOND]),
        np.array(["2013-01-01T00:00:00", "2013-01-01T00:00:01"], dtype="M8[s]"),
    ],
)
def test_a_timestamp_each(topic: pystream.Topic, moments: object) -> None:
    topic.append([b"a", b"b"], timestamps=moments)
    assert [record.timestamp for record in topic.records()] == [START, START + SECOND]


def test_records_without_timestamp(topic: pystream.Topic) -> None:
    topic.append([b"a", b"b"], timestamps=np.array(["2013-01-01", "NaT"], dtype="M8[D]"))
    assert [record.timestamp for record in topic.records()] == [START, None]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"values": "text"}, TypeError),
        ({"values": ["text"]}, TypeError),
        ({"values": b"bytes"}, TypeError),
        ({"values": [1]}, TypeError),
        ({"values": None}, TypeError),
        ({"values": 5}, TypeError),
        ({"values": [b"a"], "keys": ["k"]}, TypeError),
        ({"values": [b"a"], "keys": [b"k", b"l"]}, ValueError),
        ({"values": [b"a"], "headers": []}, ValueError),
        ({"values": [b"a"], "headers": [[("k", "v")]]}, TypeError),
        ({"values": [b"a"], "timestamps": [START, START]}, ValueError),
        ({"values": [b"a"], "timestamps": 1_356_998_400}, ValueError),
        ({"values": [b"a"], "timestamps": datetime(2013, 1, 1)}, ValueError),
        ({"values": [b"a"], "timestamps": 1.5}, TypeError),
        ({"values": [b"a"], "timestamps": np.array([1.5])}, TypeError),
        ({"values": [b"a"], "timeout": -1}, ValueError),
        ({"values": [b"a"], "timeout": b"1s"}, TypeError),
        ({"values": [b"a"], "colour": 1}, TypeError),
    ],
)
def test_refused_appends_write_nothing(topic: pystream.Topic, arguments: dict, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        topic.partition(0).append(**arguments)
    assert topic.partition(0).end_offset == 0


# ---- one record -----------------------------------------------------------------------------------


def test_by_offset(numbered: pystream.Partition) -> None:
    for offset in (0, 1, 9, 10, 55, 98, 99, np.int64(42)):
        record = numbered[offset]
        assert (record.offset, record.value) == (offset, b"%d" % offset)


@pytest.mark.parametrize("offset", [-1, 100, 101, 2**63 - 1, 2**70])
def test_offsets_that_are_not_there(numbered: pystream.Partition, offset: int) -> None:
    with pytest.raises(OffsetOutOfRangeError, match=f"offset {offset} is not in 't'/0") as caught:
        numbered[offset]
    assert isinstance(caught.value, LookupError)
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, offset)


@pytest.mark.parametrize("offset", ["1", 1.0, None, True, slice(0, 5)])
def test_offsets_of_wrong_type(numbered: pystream.Partition, offset: object) -> None:
    with pytest.raises(TypeError):
        numbered[offset]  # type: ignore[index]


def test_tail(numbered: pystream.Partition) -> None:
    assert values(numbered.tail()) == [b"%d" % number for number in range(90, 100)]
    assert values(numbered.tail(3)) == [b"97", b"98", b"99"]
    assert numbered.tail(0) == []
    assert len(numbered.tail(99)) == 99
    assert len(numbered.tail(100)) == len(numbered.tail(101)) == 100
    with pytest.raises(OptionError, match="n=-1"):
        numbered.tail(-1)


# ---- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 100), (0, 1), (5, 25), (10, 20), (9, 11), (99, 100), (100, 100), (50, 50), (60, 40)],
)
def test_ranges_are_cut_to_the_record(numbered: pystream.Partition, start: int, stop: int) -> None:
    expected = [b"%d" % number for number in range(start, stop)]
    assert values(numbered.records(start, stop)) == expected
    batches = list(numbered.scan(start, stop))
    assert [bytes(batch.values[i]) for batch in batches for i in range(len(batch))] == expected
    assert [offset for batch in batches for offset in batch.offsets] == list(range(start, stop))
    assert all(len(batch) for batch in batches)


def test_whole_range(numbered: pystream.Partition) -> None:
    expected = [b"%d" % number for number in range(100)]
    assert values(numbered) == values(numbered.records()) == expected
    assert values(numbered.records("earliest", "latest")) == expected
    assert values(numbered.records(stop=10**9)) == expected
    assert values(numbered.records("latest")) == []
    assert values(numbered.records(np.datetime64("2013-01-01T00:01:30"))) == expected[90:]
    assert values(numbered.records(datetime(2013, 1, 1, 0, 1, 30, 1, tzinfo=UTC))) == expected[91:]
    assert values(numbered.records(np.datetime64("2014-01-01"))) == []
    assert values(numbered.records(95, np.datetime64("2013-01-01T00:01:37"))) == [b"95", b"96"]


def test_end_is_as_it_was(numbered: pystream.Partition) -> None:
    records = numbered.records()
    numbered.append([b"later"])
    assert len(list(records)) == 100
    assert len(list(numbered)) == 101


@pytest.mark.parametrize("start", [101, 2**62])
def test_start_beyond_the_end(numbered: pystream.Partition, start: int) -> None:
    for read in (numbered.records, numbered.scan):
        with pytest.raises(OffsetOutOfRangeError, match=str(start)):
            read(start)


@pytest.mark.parametrize("start", [-1, 2**63, "newest"])
def test_refused_places(numbered: pystream.Partition, start: object) -> None:
    with pytest.raises(OptionError, match="start="):
        numbered.scan(start)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [1.5, b"1", [1], True])
def test_places_of_wrong_type(numbered: pystream.Partition, start: object) -> None:
    with pytest.raises(TypeError, match="start="):
        numbered.scan(start)  # type: ignore[arg-type]


def test_several_partitions_one_after_the_other(store: pystream.Store) -> None:
    topic = store.topic("many", create=True, partitions=3)
    for partition in range(3):
        topic.append(
            [b"%d-%d" % (partition, number) for number in range(5)], partition=partition, timestamps=START
        )
    assert values(topic.records()) == [b"%d-%d" % (p, n) for p in range(3) for n in range(5)]
    assert [len(batch) for batch in topic.batches()] == [5, 5, 5]
    assert values(topic.records({0: "latest", 1: 3, 2: np.datetime64("2014-01-01")})) == [b"1-3", b"1-4"]
    assert values(topic.records(stop={0: 1, 1: 0, 2: 1})) == [b"0-0", b"2-0"]
    assert values(topic.records("latest")) == []
    with pytest.raises(OptionError, match="3 partitions"):
        topic.records(1)
    with pytest.raises(OptionError, match="partition=3"):
        topic.records({3: 0})
    with pytest.raises(OffsetOutOfRangeError):
        topic.records({2: 6})


# ---- arrays ---------------------------------------------------------------------------------------

TICK = np.dtype([("ts", "<i8"), ("px", "<f8"), ("qty", "<i4")])


def test_structured_arrays(store: pystream.Store) -> None:
    rows = np.zeros(1000, dtype=TICK)
    rows["ts"], rows["px"], rows["qty"] = np.arange(1000), np.linspace(0, 1, 1000), -np.arange(1000)
    topic = store.topic("ticks", create=True, dtype=TICK)
    for first in range(0, 1000, 100):
        topic.append(rows[first : first + 100])
    arrays = list(topic.partition(0).arrays())
    assert all(array.dtype == TICK and not array.flags.writeable and array.ndim == 1 for array in arrays)
    assert np.array_equal(np.concatenate(arrays), rows)
    part = np.concatenate(list(topic.partition(0).arrays(150, 751)))
    assert np.array_equal(part, rows[150:751])
    assert list(topic.partition(0).arrays(500, 500)) == []


def test_arrays_outlive_the_store(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("ticks", create=True, dtype="f8", compression="lz4")
        topic.append(np.arange(10.0))
        arrays = list(topic.partition(0).arrays())
    del store, topic
    assert arrays[0].tolist() == list(map(float, range(10)))


def test_arrays_of_fixed_bytes(store: pystream.Store) -> None:
    topic = store.topic("hashes", create=True, value_bytes=4)
    topic.append([b"abcd", b"e\0\0\0"])
    (array,) = topic.partition(0).arrays()
    assert array.dtype.itemsize == 4
    assert [item.tobytes() for item in array] == [b"abcd", b"e\0\0\0"]


def test_no_arrays_of_varying_values(numbered: pystream.Partition) -> None:
    with pytest.raises(OptionError, match="dtype="):
        numbered.arrays()


# ---- time, waiting, syncing -----------------------------------------------------------------------


def test_offset_for_time(numbered: pystream.Partition) -> None:
    assert numbered.offset_for_time(START) == 0
    assert numbered.offset_for_time(START - 1) == 0
    assert numbered.offset_for_time(START + 1) == 1
    for number in (1, 9, 10, 50, 99):
        assert numbered.offset_for_time(START + number * SECOND) == number
        assert numbered.offset_for_time(START + number * SECOND - 1) == number
    assert numbered.offset_for_time(START + 99 * SECOND + 1) is None
    assert numbered.offset_for_time(np.datetime64("1980-01-01")) == 0
    assert numbered.offset_for_time(datetime(2013, 1, 1, 0, 0, 7, tzinfo=UTC)) == 7
    with pytest.raises(OptionError, match="seconds"):
        numbered.offset_for_time(1_356_998_400)


def test_wait(numbered: pystream.Partition) -> None:
    assert numbered.wait(99) is True
    assert numbered.wait(0, 0) is True
    assert numbered.wait(100, 0) is False
    assert numbered.wait(100, "20ms") is False
    for offset in (-1, 2**63):
        with pytest.raises(OptionError, match="offset="):
            numbered.wait(offset, 0)


def test_flush(numbered: pystream.Partition) -> None:
    numbered.flush(durable=False)
    numbered.flush()
    assert numbered.durable_offset == 100


def test_sync_topics_are_durable_at_once(store: pystream.Store) -> None:
    partition = store.topic("t", create=True, durability="sync").partition(0)
    partition.append([b"a"])
    assert partition.durable_offset == partition.high_watermark == 1


def test_stats(numbered: pystream.Partition, topic: pystream.Topic) -> None:
    process = topic.stats()[0].process
    assert process.appends == 10
    assert process.appended_records == 100
