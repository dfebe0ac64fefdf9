"""Copies of topics: the same records, all of them or a range, whole or not at all."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystream
from harness import T0, Life, contents, quick_directory, rows
from pystream import copying, metadata
from pystream.copying import Copied


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


def without_offsets(topic: pystream.Topic, index: int, *place: Any) -> list[Any]:
    found = topic.partition(index).records(*place)
    return [(r.timestamp, r.key, r.value, r.headers) for r in found]


def fill(store: pystream.Store, name: str = "t", partitions: int = 2, **options: Any) -> pystream.Topic:
    """Records with all that a record can have."""
    topic = store.topic(name, create=True, partitions=partitions, segment_bytes="64KiB", **options)
    for batch in range(24):
        numbers = range(batch * 40, batch * 40 + 40)
        topic.append(
            [None if n % 7 == 0 else b"value-%d" % n * (n % 40) for n in numbers],
            keys=None if batch % 5 == 0 else [None if n % 3 == 0 else b"key-%d" % (n % 9) for n in numbers],
            headers=None
            if batch % 4 == 0
            else [{"n": b"%d" % n, "none": None} if n % 2 else None for n in numbers],
            timestamps=None if batch % 6 == 0 else [T0 + 1000 * n for n in numbers],
            partition=batch % partitions,
        )
    return topic


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_all_of_it(path: Path, compression: str) -> None:
    with pystream.open(path, maintenance=False) as store:
        topic = fill(store, compression=compression)
        topic.alter(retention="1000d", cleanup="compact,delete", segment_age="never")
        told: list[tuple[int, int]] = []
        made = store.copy_topic("t", path.parent / "b", progress=lambda *at: told.append(at))
        assert made == Copied(str(path.parent / "b"), "t", {0: 480, 1: 480}, made.bytes)
        assert (made.records, told[-1]) == (960, (960, 960))
        assert told == sorted(told)
        with pystream.open(path.parent / "b") as other:
            copy = other["t"]
            assert copy.options == topic.options
            assert copy.uuid != topic.uuid
            for index in (0, 1):
                assert rows(copy.partition(index).records()) == rows(topic.partition(index).records())
                batches = [len(batch) for batch in topic.partition(index).scan()]
                assert [len(batch) for batch in copy.partition(index).scan()] == batches
            assert copy.append([b"more"], keys=[b"k"], partition=1) == 480
            assert copy.partition(0).durable_offset == 480
    assert pystream.verify(path.parent / "b").sound
    assert not list((path.parent / "b" / "topics").glob("*+*"))


def test_to_a_store_that_is_open(store: pystream.Store, tmp_path: Path) -> None:
    fill(store)
    with pystream.open(tmp_path / "b") as other:
        store.copy_topic("t", other, "u", compression="lz4", durability="sync", timestamp_type="append")
        options = other["u"].options
        assert (options.compression, options.durability, options.timestamp_type) == ("lz4", "sync", "append")
        assert without_offsets(other["u"], 0) == without_offsets(store["t"], 0)  # nothing is stamped anew
        assert other["u"].append([b"x"], partition=0) == 480
    with pystream.open(store.path, "r") as reading:
        assert reading.copy_topic("t", str(tmp_path / "c")).records == 960


def test_ranges(store: pystream.Store) -> None:
    topic = fill(store, partitions=3)
    store.copy_topic("t", store, "a", start={0: 7, 2: 311}, stop={0: 8, 2: 320})
    assert without_offsets(store["a"], 0) == without_offsets(topic, 0, 7, 8)
    assert without_offsets(store["a"], 1) == without_offsets(topic, 1)
    assert without_offsets(store["a"], 2) == without_offsets(topic, 2, 311, 320)
    assert store["a"].offsets() == {0: (0, 1), 1: (0, 320), 2: (0, 9)}
    store.copy_topic("t", store, "b", partitions=[2, 2])
    assert store["b"].offsets() == {0: (0, 0), 1: (0, 0), 2: (0, 320)}
    store.copy_topic("t", store, "one", start=311, stop=320, partitions=[2])  # which is all that it can mean
    assert store["one"].offsets() == {0: (0, 0), 1: (0, 0), 2: (0, 9)}
    moment = np.datetime64(T0 + 1000 * 500, "ns")
    end = datetime.fromtimestamp((T0 + 1000 * 700) / 1e9, UTC)
    store.copy_topic("t", store, "c", start=moment, stop=end)
    for index in range(3):
        assert without_offsets(store["c"], index) == without_offsets(topic, index, moment, end)
    store.copy_topic("t", store, "d", start="latest")
    assert store["d"].offsets() == dict.fromkeys(range(3), (0, 0))


def test_fixed_widths_and_dtypes(store: pystream.Store) -> None:
    dtype = np.dtype([("a", "i4"), ("b", "f8")])
    array = np.zeros(1000, dtype)
    array["a"] = range(1000)
    ticks = store.topic("ticks", create=True, dtype=dtype, key_bytes=4)
    ticks.append(array, keys=[b"%04d" % n if n % 2 else None for n in range(1000)])
    store.copy_topic("ticks", store, "copy", start={0: 3}, stop={0: 997})
    found = np.concatenate(list(store["copy"].partition(0).arrays()))
    assert (found == array[3:997]).all()
    assert without_offsets(store["copy"], 0) == without_offsets(ticks, 0, 3, 997)
    with pytest.raises(pystream.OptionError, match="its records cannot go there"):
        store.copy_topic("ticks", store, store.topic("plain", create=True).name, append=True)
    store.topic("empty", create=True, value_bytes=0, key_bytes=0).append([b""] * 10, keys=[b"", None] * 5)
    store.copy_topic("empty", store, "still", start={0: 1})
    assert without_offsets(store["still"], 0) == without_offsets(store["empty"], 0, 1)


def test_behind_what_is_there(store: pystream.Store) -> None:
    topic = fill(store)
    for name in ("u", "v"):
        store.topic(name, create=True, partitions=3).append([b"first"], partition=1)
    made = store.copy_topic("t", store, "u", append=True)
    assert made.partitions == {0: 480, 1: 480}
    assert without_offsets(store["u"], 1)[1:] == without_offsets(topic, 1)
    store.alter_topic("v", timestamp_type="append")
    store.copy_topic("t", store, "v", append=True, partitions=[0])
    assert min(r.timestamp or 0 for r in store["v"].partition(0).records()) > T0 + 10**15
    copied, original = ([r.value for r in each.partition(0).records()] for each in (store["v"], topic))
    assert copied == original
    one = store.topic("one", create=True)
    with pytest.raises(pystream.OptionError, match=r"of partition 1 to copy; add_partitions\(to=2\)"):
        store.copy_topic("t", store, "one", append=True)
    assert store.copy_topic("t", store, "one", append=True, partitions=[0]).records == 480
    keyed = store.topic("keyed", create=True, cleanup="compact", partitions=2)
    with pytest.raises(pystream.KeyRequiredError, match="has no key; topic 'keyed' is compacted"):
        store.copy_topic("t", store, "keyed", append=True)
    assert keyed.offsets()[0] == (0, 0)
    assert one.offsets() == {0: (0, 480)}


def test_refused(path: Path) -> None:
    store = pystream.open(path, maintenance=False)
    fill(store)
    store.flush()
    before = contents(path)
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (
            pystream.TopicExistsError,
            "topic 't' already in .*; give the copy another name, or append=True",
            {},
        ),
        (pystream.OptionError, "cannot be appended to itself", {"append": True}),
        (pystream.TopicNotFoundError, "no topic 'x'", {"new_name": "x", "append": True}),
        (pystream.OptionError, "keeps its options", {"append": True, "retention": "1d"}),
        (pystream.OptionError, "dtype=: the copy has the original's", {"new_name": "x", "dtype": "f8"}),
        (pystream.OptionError, "partition=2: topic 't' has", {"new_name": "x", "partitions": [2]}),
        (pystream.OptionError, "retention='0s'", {"new_name": "x", "retention": "0s"}),
        (TypeError, "unexpected keyword argument 'color'", {"new_name": "x", "color": 1}),
        (TypeError, "partitions= must be a list of partitions, not int", {"new_name": "x", "partitions": 1}),
        (pystream.OptionError, "offsets of its own", {"new_name": "x", "start": 5, "partitions": [0, 1]}),
        (TypeError, "append=", {"new_name": "x", "append": 1}),
        (pystream.OffsetOutOfRangeError, "481", {"new_name": "x", "start": {0: 481}}),
        (pystream.OptionError, "reserved", {"new_name": "__x"}),
        (pystream.OptionError, "topic name", {"new_name": "a/b"}),
    ]
    for kind, text, options in cases:
        with pytest.raises(kind, match=text):
            store.copy_topic("t", store, **options)
    with pytest.raises(
        pystream.TopicNotFoundError, match=r"no topic 'nope' in [^;]*$"
    ):  # nor a way to make it
        store.copy_topic("nope", store, "x")
    with pystream.open(path, "r") as reading, pytest.raises(pystream.ReadOnlyError):
        store.copy_topic("t", reading, "x")
    with pytest.raises(pystream.StoreNotFoundError):
        store.copy_topic("t", path.parent / "not" / "there")
    assert contents(path) == before
    store.close()
    with pytest.raises(pystream.ClosedError):
        store.copy_topic("t", path, "x")


def test_into_smaller_segments(store: pystream.Store) -> None:
    """Batches are cut in pieces where they do not fit, down to single records, which must."""
    topic = store.topic("t", create=True)
    generator = random.Random(7)
    values = [generator.randbytes(generator.randrange(20_000)) for _ in range(100)]
    topic.append(values, keys=[b"%d" % n for n in range(100)], headers=[{"h": b"%d" % n} for n in range(100)])
    store.copy_topic("t", store, "u", segment_bytes="64KiB", max_message_bytes=1024)
    assert without_offsets(store["u"], 0) == without_offsets(topic, 0)
    assert store["u"].options.max_message_bytes == 1024
    topic.append([bytes(100_000)])
    with pytest.raises(pystream.RecordTooLargeError):
        store.copy_topic("t", store, "v", segment_bytes="64KiB")
    assert store.topics() == ["t", "u"]
    assert not [name for name in os.listdir(Path(store.path) / "topics") if "+" in name]


def test_while_others_go_on(path: Path) -> None:
    with pystream.open(path) as store:
        topic = fill(store, partitions=1)
        stop = threading.Event()

        def write() -> None:
            while not stop.wait(0.0005):  # as fast as it can, it makes millions to compare
                topic.append([b"more"] * 10)

        thread = threading.Thread(target=write)
        thread.start()
        for number in range(5):
            made = store.copy_topic("t", store, f"copy-{number}")
            assert made.records == store[f"copy-{number}"].partition(0).end_offset
            copied = without_offsets(store[f"copy-{number}"], 0)
            assert copied == without_offsets(topic, 0, 0, made.records)
        stop.set()
        thread.join()


def test_somebody_makes_one_of_that_name_meanwhile(store: pystream.Store) -> None:
    fill(store)

    def make(done: int, total: int) -> None:
        store.topic("u", create=True).append([b"theirs"])

    with pytest.raises(pystream.TopicExistsError, match="topic 'u' already"):
        store.copy_topic("t", store, "u", progress=make)
    assert [record.value for record in store["u"].records()][-1] == b"theirs"
    assert not [name for name in os.listdir(Path(store.path) / "topics") if "+" in name]


def test_interrupted(store: pystream.Store) -> None:
    fill(store)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.copy_topic("t", store, "u", progress=interrupt)
    assert store.topics() == ["t"]
    assert not [name for name in os.listdir(Path(store.path) / "topics") if "+" in name]
    assert store.copy_topic("t", store, "u").records == 960


def copy_and_say(channel: Any, path: str) -> None:
    with pystream.open(path) as store:
        store.copy_topic("t", store, "u", progress=lambda *at: (channel.send("copying"), time.sleep(60)))


def test_killed(path: Path) -> None:
    with pystream.open(path) as store:
        fill(store)
        life = Life(copy_and_say, str(path))
        assert life.receive() == "copying"
        hidden = [name for name in os.listdir(path / "topics") if "+" in name]
        assert len(hidden) == 1
        with pystream.open(path) as another:  # it lives: what it makes is left alone
            assert another.topics() == ["t"]
        assert [name for name in os.listdir(path / "topics") if "+" in name] == hidden
        life.kill()
        assert life.end() == -signal.SIGKILL
        store.topic("v", create=True)  # whoever makes one sweeps
        assert sorted(os.listdir(path / "topics")) == ["t", "v"]
        assert store.copy_topic("t", store, "u").records == 960


def test_full_disk(store: pystream.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    handle = store._handle
    for fault in ("allocate:3:errno=28", "sync_data:1:errno=28", "rename:1:errno=28"):
        handle.arm(fault)
        try:
            store.copy_topic("t", store, "u")
        except pystream.StorageError as error:
            assert error.errno == errno.ENOSPC
            assert "u" not in store
        else:
            assert store["u"].offsets() == store["t"].offsets()
            store.delete_topic("u")
        finally:
            handle.arm(None)
        assert not [name for name in os.listdir(Path(store.path) / "topics") if "+" in name]
    for verb in ("fsync", "rename", "mkdir"):

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(metadata.os, verb, fail)
            with pytest.raises(pystream.StorageError, match="No space left"):
                store.copy_topic("t", store, "u")
        assert "u" not in store
    assert store.copy_topic("t", store, "u").records == 960


def test_a_long_one_is_synced_on_the_way(store: pystream.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "SYNC_BYTES", 1000)
    topic = fill(store, partitions=1)
    store.copy_topic("t", store, "u")
    assert without_offsets(store["u"], 0) == without_offsets(topic, 0)


def test_a_damaged_original(store: pystream.Store) -> None:
    topic = fill(store, partitions=1)
    topic.flush()
    segment = min((Path(store.path) / "topics/t/0").glob("*.log"))
    data = bytearray(segment.read_bytes())
    data[3000] ^= 1
    segment.write_bytes(data)
    with pystream.open(store.path, "r") as reading, pytest.raises(pystream.CorruptLogError):
        reading.copy_topic("t", Path(store.path).parent / "b")
    with pystream.open(Path(store.path).parent / "b") as other:
        assert other.topics() == []


RECORD = st.tuples(
    st.none() | st.binary(max_size=12),
    st.none() | st.binary(max_size=6),
    st.none() | st.lists(st.tuples(st.text(max_size=4), st.none() | st.binary(max_size=5)), max_size=3),
    st.integers(T0, T0 + 10**12),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(RECORD, min_size=1, max_size=40), max_size=6),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(["none", "lz4"]),
)
def test_any_records_and_any_range(
    batches: list[list[Any]], span: tuple[float, float], compression: str
) -> None:
    with quick_directory() as directory, pystream.open(directory / "s", maintenance=False) as store:
        topic = store.topic("t", create=True, compression=compression)
        for batch in batches:
            values, keys, headers, times = zip(*batch, strict=True)
            topic.append(list(values), keys=list(keys), headers=list(headers), timestamps=list(times))
        end = topic.partition(0).end_offset
        first, last = sorted(round(share * end) for share in span)
        store.copy_topic("t", store, "u", start={0: first}, stop={0: last}, max_message_bytes=1024)
        assert without_offsets(store["u"], 0) == without_offsets(topic, 0, first, last)
        assert store["u"].offsets() == {0: (0, last - first)}
