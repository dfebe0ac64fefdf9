"""Rows about reading."""

import os
import random
from collections import deque

import numpy as np
import pytest

import data
import pystream
from race import Row

BATCH_BYTES = 256 << 10
RECORDS = data.scale("RECORDS", 1_000_000)
STORE_BYTES = data.scale("STORE_GB", 1) << 30
START_NS = 1_700_000_000_000_000_000


def drain(batches):
    deque(batches, maxlen=0)


def segments(topic):
    directory = os.path.join(topic._store.path, "topics", topic.name, "0")
    return sorted(os.path.join(directory, n) for n in os.listdir(directory) if n.endswith(".log"))


@pytest.fixture(scope="module")
def library(shelf):
    """A store with a topic of large batches, and one of batches with a single record each."""
    path = os.path.join(shelf, "library")
    values = data.values(RECORDS)
    with pystream.open(path) as store:
        with store.topic("large", create=True).producer(batch_bytes=BATCH_BYTES) as producer:
            producer.send_many(values)
        append = store.topic("small", create=True).partition(0).append
        for value in values[: RECORDS // 5]:
            append([value])
    return path


@pytest.mark.parametrize("ready", ["all", "few"])
def test_records(track, library, ready):
    topic = track.keep(pystream.open(library))["large"]
    every = list(topic.records())
    few = every[:1024]

    def loop(make):
        def prepare():
            records = make()

            def work():
                for record in records:
                    record.offset  # noqa: B018
                    record.value  # noqa: B018

            return work

        return prepare

    if ready == "all":
        row = Row("records, reading `.offset` and `.value`", "ratio", 0.6, "ns", len(every))
        floor, make = "ready-made, each distinct", lambda: track.floors.Ready(every, len(every))
    else:
        row = Row("the same, beside objects that stay in the cache", "none", 0, "ns", len(every))
        floor, make = "1,024 ready-made, again and again", lambda: track.floors.Ready(few, len(every))
    track.race(row, loop(topic.records), {floor: loop(make)})


def test_records_text(track, shelf):
    path = os.path.join(shelf, "texts")
    texts = data.texts(RECORDS)
    with pystream.open(path) as store, store.topic("texts", create=True, value="utf8").producer() as producer:
        producer.send_many(texts)
    store = track.keep(pystream.open(path))

    def through():
        records = store.topic("texts", value="utf8").records()

        def work():
            for record in records:
                record.offset  # noqa: B018
                record.value  # noqa: B018

        return work

    def by_hand():
        records = store["texts"].records()

        def work():
            for record in records:
                record.offset  # noqa: B018
                record.value.decode()

        return work

    row = Row('records with `value="utf8"`, reading `.offset` and `.value`', "ratio", 1, "ns", len(texts))
    track.race(row, through, {"bytes and `.decode()`": by_hand})


def test_batches_first(track, library):
    with pystream.open(library) as store:
        paths = segments(store["large"])
    total = sum(os.path.getsize(path) for path in paths)

    def prepare():
        topic = track.opened(pystream.open(library))["large"]
        return lambda: drain(topic.batches())

    def floor(populate):
        def prepare():
            files = [track.opened(track.floors.File.view(path)) for path in paths]
            return lambda: [file.hash_pass(BATCH_BYTES, populate) for file in files]

        return prepare

    row = Row("batches, first pass, checksums on", "ratio", 0.9, "GB/s", total)
    track.race(row, prepare, {"xxh3, faults": floor(False), "xxh3, populate": floor(True)}, rounds=9)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("what", ["values", "arrow"])
def test_batches_again(track, library, size, what):
    topic = track.keep(pystream.open(library))[size]
    count = sum(1 for _ in topic.batches())
    passes = max(1, 200_000 // count)

    def with_values():
        for _ in range(passes):
            for batch in topic.batches():
                batch.values  # noqa: B018

    def with_arrow():
        for _ in range(passes):
            for batch in topic.batches():
                batch.__arrow_c_array__()

    label = {"small": "of one record", "large": "of 256 KiB"}[size]
    extra = {"values": "`.values`", "arrow": "an Arrow export"}[what]
    target = {"values": 3, "arrow": 0.5}[what]
    work = {"values": with_values, "arrow": with_arrow}[what]
    row = Row(f"batches {label} again, with {extra}", "above", target, "M/s", count * passes)
    track.race(row, lambda: work)


@pytest.fixture(scope="module")
def big(shelf):
    """A store whose one partition has STORE_BYTES; each batch has a timestamp, one ms after the last."""
    path = os.path.join(shelf, "big")
    per_batch = 200
    block = data.numbers(per_batch * 128).view("V128")
    with pystream.open(path) as store:
        partition = store.topic("big", create=True, value_bytes=128).partition(0)
        for i in range(STORE_BYTES // block.nbytes):
            partition.append(block, timestamps=START_NS + i * 1_000_000)
    return path


def big_label():
    return f"{STORE_BYTES >> 30} GiB"


def test_seek_offset(track, big):
    store = track.keep(pystream.open(big))
    end = store["big"].partition(0).end_offset
    places = random.Random(data.SEED).choices(range(end), k=2000)
    consumer = track.keep(store.consumer("big"))
    place = pystream.TopicPartition("big", 0)
    for offset in places[:50]:
        consumer.seek(place, offset)
        assert consumer.poll(timeout=0)[0].offset == offset
    seek = consumer.seek

    def work():
        for offset in places:
            seek(place, offset)

    track.race(Row(f"seek by offset in {big_label()}", "below", 5, "us", len(places)), lambda: work)


def test_seek_time(track, big):
    store = track.keep(pystream.open(big))
    partition = store["big"].partition(0)
    per_batch, end = 200, partition.end_offset
    places = random.Random(data.SEED).choices(range(end // per_batch), k=2000)
    times = [START_NS + batch * 1_000_000 for batch in places]
    find = partition.offset_for_time
    for batch, time in zip(places, times, strict=True):
        assert find(time) == batch * per_batch

    def work():
        for time in times:
            find(time)

    track.race(Row(f"seek by time in {big_label()}", "below", 5, "us", len(times)), lambda: work)


def test_read_one(track, big):
    store = track.keep(pystream.open(big))
    partition = store["big"].partition(0)
    places = random.Random(data.SEED).choices(range(partition.end_offset), k=2000)
    for offset in places:
        assert partition[offset].offset == offset

    def work():
        for offset in places:
            partition[offset]

    track.race(Row(f"`partition[offset]` in {big_label()}", "none", 0, "us", len(places)), lambda: work)


def test_open_big(track, big):
    def prepare():
        def work():
            store = track.opened(pystream.open(big))
            store["big"].partition(0).end_offset  # noqa: B018

        return work

    row = Row(f"open a store with a partition of {big_label()}", "below", 10, "ms", 1)
    track.race(row, prepare, rounds=9)


def test_scan_array(track, big):
    """Summing a column straight from the map: what reading is for."""
    with pystream.open(big) as store:
        paths = segments(store["big"])
    total = sum(os.path.getsize(path) for path in paths)

    def prepare():
        partition = track.opened(pystream.open(big))["big"].partition(0)
        return lambda: sum(int(array.view(np.int64).max()) for array in partition.arrays())

    row = Row("arrays of a topic, first pass, their maximum taken", "none", 0, "GB/s", total)
    track.race(row, prepare, rounds=3)
