"""What a reader tells others and hears from them: beats, marks, and calls between two records."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import pystream
from loops import SOON_S, until, waiting
from pystream import ClosedError, serializers
from pystream._native.fetcher import Attention, Fetcher
from pystream._native.reader import PartitionReader

MS = 1_000_000
FOR_EVER = -1


class Word:
    """A shared word, of 4 or 8 bytes."""

    def __init__(self, size: int, value: int = 0) -> None:
        self.memory = bytearray(size)
        self.format = {4: "=I", 8: "=q"}[size]
        self.set(value)

    def set(self, value: int) -> None:
        struct.pack_into(self.format, self.memory, 0, value)

    def get(self) -> int:
        return int(struct.unpack_from(self.format, self.memory)[0])


class Member:
    """A Fetcher with an Attention, and what was called."""

    def __init__(self, topic: pystream.Topic, partitions: int = 1, **options: Any) -> None:
        self.topic = topic
        self.word, self.beats = Word(4, 7), Word(8)
        self.calls: list[bool] = []
        self.act: Callable[[], object] = lambda: None
        self.attention = Attention(
            self.notice, word=self.word.memory, beats=self.beats.memory, **{"slice_ns": 20 * MS} | options
        )
        self.fetcher = Fetcher()
        self.fetcher.attend(self.attention)
        self.marks = [Word(8, -1) for _ in range(partitions)]
        for index in range(partitions):
            self.add(index)

    def notice(self, waited: bool) -> None:
        self.calls.append(waited)
        self.act()

    def add(self, index: int) -> PartitionReader:
        reader = PartitionReader(self.topic.partition(index)._log(), 0)
        reader.share_mark(self.marks[index].memory)
        self.fetcher.add(reader)
        return reader


def reader_of(topic: pystream.Topic, value: Any) -> PartitionReader:
    """Of its first partition, with a serializer."""
    none = serializers.parse_readers("key", None)(topic.name)
    value = serializers.parse_readers("value", value)(topic.name)
    schema = serializers.schema_with(topic._stored_schema, value, none)
    return PartitionReader(topic.partition(0)._log(), 0, schema=schema)


@pytest.fixture
def wide(store: pystream.Store) -> pystream.Topic:
    return store.topic("wide", create=True, partitions=3, segment_bytes="64KiB")


@pytest.fixture
def member(wide: pystream.Topic) -> Member:
    return Member(wide)


@pytest.mark.parametrize("value", [None, lambda data: bytes(data)], ids=["bytes", "callable"])
def test_a_mark_is_at_the_record_in_hand_and_then_behind_it(wide, value):
    wide.append([b"%d" % i for i in range(4)], partition=0)
    wide.append([b"x", b"y"], partition=0)
    member = Member(wide, partitions=0)
    reader = reader_of(wide, value)
    mark = Word(8, -1)
    reader.share_mark(mark.memory)
    member.fetcher.add(reader)
    records = member.fetcher.records(0)
    assert (mark.get(), reader.reached) == (-1, 0)
    for offset in range(6):
        record = next(records)
        assert (record.offset, mark.get(), reader.position, reader.reached) == (*[offset] * 3, offset + 1)
    assert next(records, None) is None
    assert (mark.get(), reader.position, reader.reached) == (6, 6, 6)


def test_a_batch_is_consumed_at_the_next_ask(wide):
    member = Member(wide)
    (reader,) = member.fetcher.readers
    wide.append([b"a"] * 3, partition=0)
    wide.append([b"b"] * 2, partition=0)
    member.fetcher.poll(0)
    assert (member.marks[0].get(), reader.position, reader.reached) == (0, 3, 3)
    next(member.fetcher.records(0))
    assert member.marks[0].get() == 3
    member.fetcher.poll(0)  # the rest of it
    assert (member.marks[0].get(), reader.reached) == (4, 5)
    assert member.fetcher.poll(0) is None
    assert member.marks[0].get() == 5


def test_each_partition_has_its_own_mark(wide):
    member = Member(wide, 3)
    for index in range(3):
        wide.append([b"x"] * 2, partition=index)
    records = member.fetcher.records(0)
    for _ in range(6):
        record = next(records)
        assert member.marks[record.partition].get() == record.offset
        others = {mark.get() for i, mark in enumerate(member.marks) if i != record.partition}
        assert others <= {-1, 2}
    batch_of = member.fetcher.poll  # a batch of one while records come from another
    wide.append([b"y"] * 2, partition=0)
    wide.append([b"y"] * 2, partition=1)
    first, batch = next(records), batch_of(0)
    assert batch is not None
    assert member.marks[first.partition].get() == 3
    assert {member.marks[0].get(), member.marks[1].get()} == {2, 3}
    assert sum(1 for _ in records) == 1 - (batch.partition == first.partition) + 2 * (
        batch.partition == first.partition
    )
    assert [mark.get() for mark in member.marks] == [4, 4, 2]


def test_a_seek_leaves_the_mark_alone(wide):
    member = Member(wide)
    wide.append([b"x"] * 10, partition=0)
    (reader,) = member.fetcher.readers
    records = member.fetcher.records(0)
    next(records)
    next(records)
    reader.seek(8)
    assert (member.marks[0].get(), reader.reached) == (1, 8)
    member.fetcher.readers[0].pause()
    assert next(records, None) is None
    reader.settle_mark()
    assert member.marks[0].get() == 1
    reader.resume()
    assert next(records).offset == member.marks[0].get() == 8
    reader.settle_mark()
    reader.settle_mark()
    assert (member.marks[0].get(), reader.position) == (9, 8)


def test_a_record_that_cannot_be_made_is_not_consumed(store):
    topic = store.topic("j", create=True)
    topic.append([b"1", b"{", b"3"])
    reader, mark = reader_of(topic, "json"), Word(8, -1)
    reader.share_mark(mark.memory)
    fetcher = Fetcher([reader])
    fetcher.attend(Attention(lambda waited: None, beats=Word(8, 0).memory))
    records = fetcher.records(0)
    assert next(records).value == 1
    for _ in range(2):
        with pytest.raises(pystream.SerializationError):
            next(records)
        assert (mark.get(), reader.reached) == (1, 1)
    reader.seek(2)
    assert next(records).value == mark.get() + 1 == 3


def test_one_that_only_calls_is_asked_once_a_batch(store):
    topic = store.topic("j", create=True)
    for _ in range(2):
        topic.append([b"x"] * 3)
    seen = []
    attention = Attention(seen.append)
    fetcher = Fetcher([PartitionReader(topic.partition(0)._log(), 0)])
    fetcher.attend(attention)
    records = fetcher.records(0)
    assert next(records).offset == 0
    attention.want()
    assert [next(records).offset for _ in range(2)] == [1, 2]
    assert seen == []
    assert next(records).offset == 3
    assert seen == [False]


def test_every_ask_beats(member, wide):
    wide.append([b"x"] * 5, partition=0)
    asks = [lambda: member.fetcher.poll(0), lambda: next(member.fetcher.records(0), None)] * 4
    for count, ask in enumerate(asks, 1):
        ask()
        assert member.beats.get() == count
    assert member.calls == []


@pytest.mark.parametrize("how", ["word", "want"])
def test_it_is_called_once_before_anything_is_taken(member, wide, how):
    wide.append([b"x"] * 5, partition=0)
    records = member.fetcher.records(0)
    assert next(records).offset == 0
    marks = []
    member.act = lambda: marks.append(member.marks[0].get())
    if how == "word":
        member.word.set(8)
    else:
        member.attention.want()
    assert next(records).offset == 1
    assert (member.calls, marks) == ([False], [1])
    assert member.fetcher.poll(0)[0].offset == 2
    assert member.calls == [False]


def test_it_may_change_what_is_read(member, wide):
    for index in range(3):
        wide.append([b"%d" % index] * 3, partition=index)
    records = member.fetcher.records(0)
    assert next(records).partition == 0

    def exchange() -> None:
        (reader,) = member.fetcher.readers
        assert (reader.position, reader.reached, member.marks[0].get()) == (0, 1, 1)
        member.fetcher.remove(reader)
        member.marks.append(Word(8, -1))
        member.add(1)

    member.marks *= 2
    member.act = exchange
    member.attention.want()
    assert [r.partition for r in records] == [1, 1, 1]


def test_what_it_raises_goes_to_the_asker_and_it_is_called_again(member, wide):
    wide.append([b"x"] * 2, partition=0)
    asks = [lambda: member.fetcher.poll(0), lambda: next(member.fetcher.records(0))]

    def fail() -> None:
        raise KeyError("mine")

    member.act = fail
    member.word.set(9)
    for ask in asks * 2:
        with pytest.raises(KeyError, match="mine"):
            ask()
    member.act = lambda: None
    assert member.fetcher.poll(0)[0].offset == 0
    assert member.calls == [False] * 5


def test_no_records_within_a_call(member, wide):
    wide.append([b"x"] * 2, partition=0)
    said = []

    def ask() -> None:
        for act in (lambda: member.fetcher.poll(0), lambda: next(member.fetcher.records(0))):
            with pytest.raises(RuntimeError, match="calling back") as caught:
                act()
            said.append(caught.value)

    member.act = ask
    member.attention.want()
    assert member.fetcher.poll(FOR_EVER) is not None
    assert len(said) == 2


@pytest.mark.parametrize("waited", [False, True])
def test_closing_within_a_call_ends_the_ask(member, waited):
    member.act = member.fetcher.close
    if not waited:
        member.attention.want()
    assert member.fetcher.poll(FOR_EVER) is None
    assert member.calls == [waited]
    assert member.fetcher.readers == ()
    with pytest.raises(ClosedError):
        member.fetcher.poll(0)


# ---- waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [0, 1, 3])
def test_a_wait_is_cut_into_slices(wide, partitions):
    member = Member(wide, partitions)
    began = time.monotonic()
    assert member.fetcher.poll(210 * MS) is None
    assert time.monotonic() - began >= 0.2
    assert 3 <= len(member.calls) <= 10
    assert set(member.calls) == {True}
    assert len(member.calls) <= member.beats.get() - 1 <= len(member.calls) + 3


@pytest.mark.parametrize("partitions", [0, 1, 3])
@pytest.mark.parametrize("how", ["want", "wake", "close"])
def test_a_wait_hears_at_once(wide, partitions, how):
    member = Member(wide, partitions, slice_ns=60_000 * MS)
    heard: list[float] = []

    def stop() -> None:
        heard.append(time.monotonic())
        member.fetcher.wake()

    member.act = stop
    act = {"want": member.attention.want, "wake": member.fetcher.wake, "close": member.fetcher.close}[how]
    timer = threading.Timer(0.1, act)
    timer.start()
    began = time.monotonic()
    assert member.fetcher.poll(FOR_EVER) is None
    assert 0.05 < time.monotonic() - began < 0.9
    assert member.calls == ([True] if how == "want" else [])
    timer.join()


def test_partitions_that_come_meanwhile_are_read(wide):
    member = Member(wide, 0)
    member.marks = [Word(8, -1)]
    wide.append([b"x"], partition=0)
    member.act = lambda: member.fetcher.readers or (len(member.calls) == 3 and member.add(0))
    batch = member.fetcher.poll(FOR_EVER)
    assert batch is not None and batch[0].value == b"x"
    assert member.calls == [True] * 3


def test_attending_can_be_ended(member, wide):
    member.act = lambda: member.fetcher.attend(None)
    assert member.fetcher.poll(100 * MS) is None
    assert member.calls == [True]
    wide.append([b"x"], partition=0)
    assert member.fetcher.poll(0) is not None
    assert member.fetcher.poll(0) is None
    assert (member.calls, member.marks[0].get()) == ([True], 0)


def test_memory_of_the_wrong_size_is_refused(topic):
    for options in ({"word": bytearray(8)}, {"beats": bytearray(4)}, {"word": bytes(4)}, {"slice_ns": 0}):
        with pytest.raises(ValueError, match=r"buffer of|more than 0"):
            Attention(print, **options)
    reader = PartitionReader(topic.partition(0)._log(), 0)
    for memory in (bytearray(4), bytes(8), memoryview(bytearray(16))[::2]):
        with pytest.raises(ValueError, match="writable buffer of 8"):
            reader.share_mark(memory)


# ---- event loops ----------------------------------------------------------------------------------


def test_an_event_loop_looks_too(run, store, wide):
    async def main() -> None:
        async with store.async_consumer("wide") as consumer:
            member = Member(wide, 0)
            consumer._fetcher.attend(member.attention)
            for index, reader in enumerate(consumer._fetcher.readers):
                member.marks.append(Word(8, -1))
                reader.share_mark(member.marks[index].memory)
            assert await consumer.poll(timeout=0.21) is None
            assert 3 <= len(member.calls) <= 12 and set(member.calls) == {True}
            beats = member.beats.get()
            wide.append([b"a", b"b"], partition=1)
            async for record in consumer:
                assert member.marks[1].get() == record.offset
                if record.offset == 1:
                    break
            assert member.beats.get() >= beats + 2
            member.attention.want()
            assert await consumer.poll(timeout=0) is None
            assert member.calls[-1] is False
            assert member.marks[1].get() == 2

    run(main())


@pytest.mark.parametrize("how", ["want", "records"])
def test_an_event_loop_hears_at_once(run, store, wide, how):
    async def main() -> None:
        async with store.async_consumer("wide") as consumer:
            member = Member(wide, 0, slice_ns=60_000 * MS)
            consumer._fetcher.attend(member.attention)
            task = asyncio.create_task(consumer.poll())
            await until(waiting(consumer))
            if how == "want":
                member.act = consumer._consumer.close
                await asyncio.to_thread(member.attention.want)
                with pytest.raises(ClosedError):
                    await asyncio.wait_for(task, SOON_S)
                assert member.calls == [True]
            else:
                wide.append([b"x"], partition=2)
                assert await asyncio.wait_for(task, SOON_S) is not None
                assert member.calls == []

    run(main())
