"""A topic as a table: what a dict would hold, whoever appends, and however."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pystream
from harness import T0, Life, quick_directory
from pystream import latest
from pystream._native.compact import compact
from pystream._native.retention import delete_before


@pytest.fixture
def prices(store: pystream.Store) -> pystream.Topic:
    return store.topic("prices", create=True, key="utf8", value="json", segment_bytes="64KiB")


def test_as_a_mapping(prices: pystream.Topic) -> None:
    table = prices.latest()
    assert isinstance(table, pystream.Latest)
    assert (len(table), list(table), dict(table), bool(table)) == (0, [], {}, False)
    prices.append([1, {"px": 2}, [3]], keys=["a", "b", "c"], timestamps=np.array([T0, T0 + 1, T0 + 2]))
    assert table["b"] == {"px": 2}
    assert "b" in table
    assert table.get("x") is None
    assert table.get("x", 7) == 7
    with pytest.raises(KeyError, match="x"):
        table["x"]
    assert set(table) == {"a", "b", "c"} == set(table.keys())
    assert sorted(map(str, table.values())) == ["1", "[3]", "{'px': 2}"]
    assert dict(table.items()) == {"a": 1, "b": {"px": 2}, "c": [3]} == table.snapshot()
    assert ("a", 1) in table.items()
    assert (table.offset("c"), table.timestamp("c"), table.partition("c")) == (2, T0 + 2, 0)
    prices.append([None, 4], keys=["b", "a"])
    assert "b" not in table
    assert len(table) == 2
    assert (table["a"], table.offset("a")) == (4, 4)
    for ask in (table.offset, table.timestamp, table.partition):
        with pytest.raises(KeyError):
            ask("b")
    assert table.positions == {0: 5}
    assert repr(table) == "<pystream.Latest of topic 'prices', 2 keys>"
    assert table.topic == "prices"
    with pytest.raises(TypeError):
        table["a"] = 1  # type: ignore[index]


def test_bytes_without_serializers(topic: pystream.Topic) -> None:
    topic.append([b"1", b"2", b"3", b""], keys=[b"a", None, b"", b"e"])
    table = topic.latest()
    assert table.snapshot() == {b"a": b"1", b"": b"3", b"e": b""}
    assert table[bytearray(b"a")] == b"1"
    assert table[memoryview(b"a")] == b"1"
    assert None not in table
    with pytest.raises(KeyError):
        table[None]
    with pytest.raises(TypeError, match="key"):
        table["a"]
    with pytest.raises(TypeError):
        7 in table  # noqa: B015


def test_a_key_that_cannot_be_made(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, key="json")
    topic.append([b"1"], keys=[{"a": 1}])
    table = topic.latest()
    with pytest.raises(pystream.SerializationError):
        table[object()]
    assert table[{"a": 1}] == b"1"


def test_one_that_does_not_follow(prices: pystream.Topic) -> None:
    prices.append([1], keys=["a"])
    table = prices.latest(follow=False)
    prices.append([2], keys=["b"])
    assert table.snapshot() == {"a": 1}
    assert table.refresh()
    assert not table.refresh()
    assert table.snapshot() == {"a": 1, "b": 2}


def test_what_is_iterated_is_of_one_moment(prices: pystream.Topic) -> None:
    prices.append([1, 2, 3], keys=["a", "b", "c"])
    table = prices.latest()
    seen = {}
    for key, value in table.items():
        prices.append([None, 9], keys=["c", "d"])
        assert "d" in table
        seen[key] = value
    assert seen == {"a": 1, "b": 2, "c": 3}
    keys = iter(table)
    prices.append([None], keys=["a"])
    assert set(keys) == {"a", "b", "d"}


def test_waiting(prices: pystream.Topic) -> None:
    table = prices.latest()
    assert not table.wait(0)
    begun = time.monotonic()
    assert not table.wait(0.05)
    assert 0.05 <= time.monotonic() - begun < 5
    prices.append([1], keys=["a"])
    assert table.wait(0)
    threading.Timer(0.2, lambda: prices.append([2], keys=["a"])).start()
    begun = time.monotonic()
    assert table.wait(30)
    assert time.monotonic() - begun < 10
    assert table["a"] == 2
    assert not table.wait("10ms")


def test_several_threads(prices: pystream.Topic) -> None:
    table = prices.latest()
    failures = []
    over = threading.Event()

    def reads() -> None:
        try:
            last = -1
            while not over.is_set():
                now = table.get("n", -1)
                assert now >= last
                last = now
                assert len(table) <= 101
                for _, value in table.items():
                    assert value >= 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=reads) for _ in range(3)]
    waiters = [threading.Thread(target=table.wait, args=(20,)) for _ in range(2)]
    for thread in threads + waiters:
        thread.start()
    for n in range(400):
        prices.append([n, n], keys=["n", f"k{n % 100}"])
    over.set()
    for thread in threads + waiters:
        thread.join(30)
        assert not thread.is_alive()
    assert not failures
    assert table["n"] == 399


def test_another_process_appends(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store") as store:
        table = store.topic("t", create=True, key="utf8", value="json").latest()
        assert len(table) == 0
        life = Life(appends, str(tmp_path / "store"))
        while table.get("end") is None:
            table.wait(1)
        assert table.snapshot() == {**{f"k{n}": 900 + n for n in range(100)}, "end": True}
        assert life.end() == 0


def appends(channel: Any, path: str) -> None:
    with pystream.open(path) as store, store.topic("t", key="utf8", value="json").producer() as producer:
        for n in range(1000):
            producer.send(n, key=f"k{n % 100}")
        producer.send(True, key="end")


def test_for_reading_only(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True)
        topic.append([b"1"], keys=[b"a"])
        with pystream.open(tmp_path / "store", mode="r") as view:
            table = view.topic("t").latest()
            assert table[b"a"] == b"1"
            topic.append([b"2"], keys=[b"a"])
            assert table[b"a"] == b"2"
            threading.Timer(0.1, lambda: topic.append([b"3"], keys=[b"a"])).start()
            assert table.wait(10)
            assert table[b"a"] == b"3"


def test_durable_records_only(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, durability="none")
    table = topic.latest(durable=True)
    topic.append([b"1"], keys=[b"a"])
    assert b"a" not in table
    topic.flush()
    assert table[b"a"] == b"1"


def test_several_partitions(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=4)
    with topic.producer() as producer:
        for n in range(1000):
            producer.send(b"%d" % n, key=b"k%d" % (n % 50))
    table = topic.latest()
    assert table.snapshot() == {b"k%d" % n: b"%d" % (950 + n) for n in range(50)}
    assert len({table.partition(key) for key in table}) == 4
    assert table.positions == {number: topic.partition(number).end_offset for number in range(4)}
    threading.Timer(0.1, lambda: topic.append([b"x"], keys=[b"y"], partition=3)).start()
    assert table.wait(10)
    assert table.partition(b"y") == 3
    # A key in several: the later timestamp counts, whichever partition is read first.
    topic.append([b"old", b"new"], keys=[b"a", b"b"], timestamps=np.array([T0, T0 + 10]), partition=0)
    topic.append([b"new", b"old"], keys=[b"a", b"b"], timestamps=np.array([T0 + 10, T0]), partition=1)
    assert (table[b"a"], table[b"b"]) == (b"new", b"new")
    topic.append([None], keys=[b"a"], timestamps=T0 + 5, partition=2)
    assert table[b"a"] == b"new"
    topic.append([None], keys=[b"a"], timestamps=T0 + 20, partition=2)
    assert b"a" not in table


def test_partitions_that_are_added(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    topic.append([b"1"], keys=[b"a"])
    table = topic.latest()
    assert len(table) == 1
    topic.add_partitions(to=3)
    topic.append([b"2"], keys=[b"b"], partition=2)
    assert table.refresh()
    assert table.snapshot() == {b"a": b"1", b"b": b"2"}
    topic.add_partitions(to=4)
    topic.append([b"3"], keys=[b"c"], partition=3)
    assert table.wait(10)
    assert table.partition(b"c") == 3


def test_records_that_were_missed(store: pystream.Store, caplog: pytest.LogCaptureFixture) -> None:
    """What is removed before it was read: the partition is read anew, and the log says so."""
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    for n in range(100):
        topic.append([b"%d" % n * 500], keys=[b"k%d" % n])
    table = topic.latest()
    assert len(table) == 100
    for n in range(100, 200):
        topic.append([b"%d" % n * 500], keys=[b"k%d" % n])
    log = topic.partition(0)._log()
    delete_before(log, 150)
    log.retain()
    with caplog.at_level(logging.WARNING, "pystream"):
        assert len(table) == 50
    assert set(table) == {b"k%d" % n for n in range(150, 200)}
    assert table.restarts == 1
    assert "reads partition 0 anew from offset 150" in caplog.text
    delete_before(log, 180)  # what has been read stays
    assert len(table) == 50
    assert table.restarts == 1


def test_of_a_compacted_topic(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, cleanup="compact", segment_bytes="64KiB")
    early = topic.latest()
    for n in range(4000):
        topic.append([b"%d" % n * 20], keys=[b"k%d" % (n % 60)])
        if n % 1000 == 500:
            assert len(early) == 60
            topic.flush()
            assert compact(topic.partition(0)._log(), now_ns=T0).ran
    assert (
        topic.latest().snapshot()
        == early.snapshot()
        == {b"k%d" % (n % 60): b"%d" % n * 20 for n in range(4000)}
    )


@pytest.mark.parametrize("away_s", [599, 601])
def test_a_tombstone_that_was_missed(
    store: pystream.Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away_s: int
) -> None:
    """Who did not look for longer than tombstones stay cannot know of all of them, and reads anew."""
    now_s = [10**6]
    monkeypatch.setattr(latest, "_now_ns", lambda: now_s[0] * 10**9)
    topic = store.topic("t", create=True, cleanup="compact", segment_bytes="64KiB", delete_retention="10min")
    topic.append([b"1", b"2"], keys=[b"a", b"b"])
    table = topic.latest()
    assert set(table) == {b"a", b"b"}
    now_s[0] += 10**5
    assert not table.refresh() and table.restarts == 0  # nothing has come meanwhile
    topic.append([None], keys=[b"a"])
    for n in range(400):
        topic.append([b"%d" % n * 500], keys=[b"c"])
    topic.flush()
    if away_s > 600:
        for turn in range(2):
            assert compact(topic.partition(0)._log(), now_ns=T0 + turn, delete_retention_ns=0).ran
        assert b"a" not in [record.key for record in topic.records()]
    table._look_again_ns = 0
    now_s[0] += away_s
    with caplog.at_level(logging.WARNING, "pystream"):
        assert set(table) == {b"b", b"c"}
    assert table.restarts == (away_s > 600)
    assert ("tombstones may have been removed" in caplog.text) == (away_s > 600)
    now_s[0] += 10**5
    topic.alter(cleanup="delete")
    topic.append([b"3"], keys=[b"a"])
    assert table[b"a"] == b"3" and table.restarts == (away_s > 600)


def test_values_of_fixed_width(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, value_bytes=4, key_bytes=2)
    topic.append([b"aaaa", None, b"bbbb"], keys=[b"k1", b"k2", b"k1"])
    assert topic.latest().snapshot() == {b"k1": b"bbbb"}


def test_when_the_store_or_topic_goes(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True)
        topic.append([b"1"], keys=[b"a"])
        table, gone = topic.latest(), store.topic("u", create=True).latest()
        assert table[b"a"] == b"1"
        assert len(gone) == 0
        store.delete_topic("u")
        with pytest.raises(pystream.TopicDeletedError):
            len(gone)
    with pytest.raises(pystream.ClosedError):
        table[b"a"]
    with pytest.raises(pystream.ClosedError):
        table.wait(1)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.none() | st.binary(max_size=3)), min_size=1, max_size=6),
        max_size=12,
    ),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_it_is_what_a_dict_would_be(batches: list[list[tuple[int, bytes | None]]], partitions: int) -> None:
    with quick_directory() as directory, pystream.open(directory / "store", maintenance=False) as store:
        topic = store.topic("t", create=True, partitions=partitions)
        table, model = topic.latest(), {}
        for batch in batches:
            with topic.producer() as producer:
                for number, value in batch:
                    key = b"%d" % number
                    producer.send(value, key=key)
                    if value is None:
                        model.pop(key, None)
                    else:
                        model[key] = value
            assert table.snapshot() == model
            assert len(table) == len(model)
        assert topic.latest().snapshot() == model
