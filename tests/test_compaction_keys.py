"""Compacted topics take no records without keys, whichever way they come."""

from __future__ import annotations

import pyarrow as pa
import pytest

import pystream
from harness import T0
from pystream._native.compact import compact
from pystream._native.linewriter import LineWriter


@pytest.fixture
def keyed(store: pystream.Store) -> pystream.Topic:
    return store.topic("keyed", create=True, cleanup="compact", segment_bytes="64KiB")


def test_null_keys_are_refused(keyed: pystream.Topic, store: pystream.Store) -> None:
    with pytest.raises(
        pystream.KeyRequiredError, match="record 0 has no key: topic 'keyed' is compacted"
    ) as caught:
        keyed.append([b"a", b"b"])
    assert caught.value.index == 0
    assert isinstance(caught.value, ValueError)
    with pytest.raises(pystream.KeyRequiredError, match="record 1 has no key") as caught:
        keyed.append([b"a", b"b", b"c"], keys=[b"x", None, None])
    assert caught.value.index == 1
    with pytest.raises(pystream.KeyRequiredError):
        keyed.append(pa.array([b"a", b"b"]), keys=pa.array([b"x", None], pa.binary()))
    with keyed.producer() as producer:
        for given in ({}, {"headers": {"a": b"1"}}, {"partition": 0}, {"timestamp": T0}):
            with pytest.raises(pystream.KeyRequiredError, match="the record has no key"):
                producer.send(b"a", **given)
        with pytest.raises(pystream.KeyRequiredError, match="record 2"):
            producer.send_many([b"a"] * 4, keys=[b"x", b"", None, b"y"])
        with pytest.raises(pystream.KeyRequiredError):
            producer.send_many(pa.array([b"a"]))
        producer.send(b"kept", key=b"")
        producer.send(None, key=b"tombstone")
    with keyed.producer(key="utf8") as producer, pytest.raises(pystream.KeyRequiredError):
        producer.send(b"a", None)
    assert [(record.key, record.value) for record in keyed.records()] == [
        (b"", b"kept"),
        (b"tombstone", None),
    ]
    keyed.append([], keys=[])
    both = store.topic("both", create=True, cleanup="compact,delete")
    with pytest.raises(pystream.KeyRequiredError):
        both.append([b"a"])
    other = store.topic("other", create=True)
    other.append([b"a"])


def test_null_keys_are_refused_of_lines(keyed: pystream.Topic) -> None:
    with keyed.producer() as producer:
        writer = LineWriter(producer)
        with pytest.raises(pystream.KeyRequiredError, match="line 1, has no key"):
            writer.feed(b"one\ntwo\n")
            writer.finish()
        writer = LineWriter(producer, separator=b"=", null_text=b"-")
        with pytest.raises(pystream.KeyRequiredError, match="line 3, has no key") as caught:
            writer.feed(b"a=1\nb=2\n-=3\nc=4\n")
            writer.finish()
        assert caught.value.index == 2
    assert [(record.key, record.value) for record in keyed.records()] == [(b"a", b"1"), (b"b", b"2")]


def test_null_keys_from_before_stay(store: pystream.Store) -> None:
    """Of a topic that was made to be compacted later: they cannot be replaced, so they are not."""
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    producer = topic.producer(linger=60)
    for n in range(2000):
        producer.send(b"%d" % n * 40, key=None if n % 10 == 0 else b"k%d" % (n % 7))
    topic.partition(0)._log().needs_keys = True
    with pytest.raises(pystream.KeyRequiredError):
        producer.send(b"late")
    producer.close()  # what was accepted before goes in
    topic.flush()
    assert compact(topic.partition(0)._log(), now_ns=T0).ran
    there = [record.offset for record in topic.records() if record.key is None]
    assert there == list(range(0, 2000, 10))
    topic.partition(0)._log().needs_keys = False
    topic.append([b"again"])
