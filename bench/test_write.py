"""Rows about writing."""

import os
import threading

import numpy as np
import pyarrow as pa
import pytest

import data
from race import Row

BATCH_BYTES = 256 << 10
SENDS = data.scale("SENDS", 2_000_000)
SUSTAINED_PASSES = data.scale("SUSTAINED_PASSES", 5)
# What a value of variable width takes in a batch: its bytes and an offset.
STORED_BYTES = data.VALUE_BYTES + 4


@pytest.fixture(scope="module")
def values():
    return data.values(SENDS)


@pytest.fixture(scope="module")
def blob():
    return np.frombuffer(data.numbers(SENDS * STORED_BYTES), np.uint8)


def stores(track, size, work, batches=0):
    """The floor `work(file, way)` for each way of storing `size` bytes, in so many batches with headers."""
    ways = {"populate, memcpy": "POPULATE", "pwrite": "PWRITE"}

    def runner(way):
        def prepare():
            file = track.file(size + batches * 256 + (64 << 10))
            return lambda: work(file, way)

        return prepare

    return {name: runner(getattr(track.floors, way)) for name, way in ways.items()}


def call_floor(track, values):
    def prepare():
        send = track.floors.Sink().send

        def work():
            for value in values:
                send(value)

        return work

    return prepare


def sender(track, values, flush):
    def prepare():
        producer = track.producer(track.topic(warm=[b"first"]))
        send = producer.send

        def work():
            for value in values:
                send(value)
            if flush:
                producer.flush()

        return work

    return prepare


def test_send(track, values):
    row = Row("`send` loop, 100 B", "ratio", 0.6, "ns", len(values))
    track.race(row, sender(track, values, False), {"no-op call": call_floor(track, values)})


def test_send_and_flush(track, values):
    row = Row("`send` loop, 100 B, with its `flush`", "none", 0, "ns", len(values))
    track.race(row, sender(track, values, True), {"no-op call": call_floor(track, values)})


@pytest.mark.parametrize("many", [False, True], ids=["send", "send_many"])
def test_send_text(track, many):
    texts = data.texts(SENDS // 2)

    def writer(by_hand):
        def prepare():
            options = {} if by_hand else {"value": "utf8"}
            producer = track.producer(track.topic(warm=[b"first"]), **options)
            send, send_many = producer.send, producer.send_many

            def loop():
                for text in texts:
                    send(text)

            def encoding_loop():
                for text in texts:
                    send(text.encode())

            if many:
                return lambda: send_many([text.encode() for text in texts] if by_hand else texts)
            return encoding_loop if by_hand else loop

        return prepare

    call = "`send_many` of a list of str" if many else "`send` loop of str"
    row = Row(f'{call}, 100 characters, `value="utf8"`', "ratio", 1, "ns", len(texts))
    track.race(row, writer(False), {"bytes by `.encode()`": writer(True)})


def test_send_sustained(track, values, blob):
    def prepare():
        producer = track.producer(track.topic(warm=[b"first"]))
        send = producer.send

        def work():
            for _ in range(SUSTAINED_PASSES):
                for value in values:
                    send(value)
            producer.flush(durable=True)

        return work

    def floor(file, way):
        for _ in range(SUSTAINED_PASSES):
            file.store(blob, BATCH_BYTES, way)
        file.sync()

    size = blob.nbytes * SUSTAINED_PASSES
    row = Row("`send` loop, 100 B, sustained, on the disk at the end", "ratio", 0.9, "GB/s", size)
    ways = stores(track, size, floor, SUSTAINED_PASSES * (blob.nbytes // BATCH_BYTES + 1))
    floors = {f"{name}, fdatasync": f for name, f in ways.items()}
    track.race(row, prepare, floors, rounds=3)


def test_send_many(track, values):
    def prepare():
        producer = track.producer(track.topic(warm=[b"first"]))
        return lambda: producer.send_many(values)

    def floor(file, way):
        file.gather(values, BATCH_BYTES, way)

    row = Row("`send_many` of a list, 100 B", "ratio", 0.85, "ns", len(values))
    floors = {
        f"gather, offsets, xxh3, {name}": f
        for name, f in stores(track, len(values) * STORED_BYTES, floor).items()
    }
    track.race(row, prepare, floors)


@pytest.mark.parametrize("block", [BATCH_BYTES, 1 << 20, 8 << 20], ids=["256KiB", "1MiB", "8MiB"])
def test_append_array(track, block):
    array = data.numbers(256 << 20)
    blocks = np.split(array, array.nbytes // block)

    def prepare():
        append = track.topic(warm=array[:1], dtype="i8").partition(0).append

        def work():
            for part in blocks:
                append(part)

        return work

    def floor(file, way):
        file.append_blocks(array.view(np.uint8), block, way)

    label = f"{block >> 10} KiB" if block < 1 << 20 else f"{block >> 20} MiB"
    row = Row(f"`append` of an array, {label}", "ratio", 0.9, "GB/s", array.nbytes)
    floors = {f"xxh3, {name}": f for name, f in stores(track, array.nbytes, floor, len(blocks)).items()}
    track.race(row, prepare, floors)


def test_append_arrow(track, values, blob):
    count = BATCH_BYTES // STORED_BYTES
    columns = [pa.array(values[i : i + count], pa.binary()) for i in range(0, len(values), count)]

    def prepare():
        append = track.topic(warm=columns[0][:1]).partition(0).append

        def work():
            for column in columns:
                append(column)

        return work

    def floor(file, way):
        file.append_blocks(blob, BATCH_BYTES, way)

    row = Row("`append` of an Arrow column, 256 KiB", "ratio", 0.9, "GB/s", blob.nbytes)
    ways = stores(track, blob.nbytes, floor, blob.nbytes // BATCH_BYTES + 1)
    floors = {f"xxh3, {name}": f for name, f in ways.items()}
    track.race(row, prepare, floors)


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
def test_append_one(track, values, held):
    """No target of its own: what a single record costs when nothing is waited for."""
    some = values[:50_000]

    def prepare():
        partition = track.topic(warm=[b"first"]).partition(0)
        hold = partition.exclusive() if held else None
        append = partition.append

        def work(hold=hold):  # until the round ends
            for value in some:
                append([value])

        return work

    def floor(file, way):
        for value in some:
            file.append_blocks(value, 100, way)

    row = Row("`append` of one record, 100 B" + ", partition held" * held, "none", 0, "ns", len(some))
    ways = stores(track, len(some) * 100, floor, len(some))
    floors = {f"call, xxh3, {name}": f for name, f in ways.items()}
    track.race(row, prepare, floors)


def test_append_sync(track, values):
    count, frame_bytes = 1000, 192 + 128  # what one record of 100 B takes in a segment

    def prepare():
        append = track.topic(warm=[b"first"], durability="sync").partition(0).append
        some = values[:count]

        def work():
            for value in some:
                append([value])

        return work

    def floor():
        file = track.file(128 << 20)
        file.sync()
        return lambda: file.sync_loop(bytes(frame_bytes - 1) + b"1", frame_bytes, count)

    row = Row('`append` of one record, `durability="sync"`', "ratio", 0.95, "us", count)
    track.race(row, prepare, {"pwrite, fdatasync": floor}, rounds=9)


EVENTS = data.scale("EVENTS", 2_000_000)


@pytest.fixture(scope="module")
def events():
    """Lists of events, each 256 KiB."""
    every = data.words(EVENTS)
    step = BATCH_BYTES // 54
    return [every[i : i + step] for i in range(0, len(every) - step, step)]


def test_append_lz4(track, events):
    text = np.frombuffer(b"".join(b"".join(part) for part in events), np.uint8)

    def prepare():
        append = track.topic(warm=[b"first"], compression="lz4").partition(0).append

        def work():
            for part in events:
                append(part)

        return work

    def floor(file, way):
        file.compress_blocks(text, text.nbytes // len(events), way)

    row = Row("`append` of lists of JSON, LZ4", "none", 0, "GB/s", text.nbytes)
    floors = {f"LZ4, xxh3, {name}": f for name, f in stores(track, text.nbytes, floor, len(events)).items()}
    track.race(row, prepare, floors)


def test_threads_lz4(track, events):
    cores = min(len(os.sched_getaffinity(0)), 8)
    threads = max(cores, 2)

    def run(count):
        def prepare():
            append = track.topic(warm=[b"first"], compression="lz4").partition(0).append

            def write():
                for part in events:
                    append(part)

            workers = [threading.Thread(target=write) for _ in range(count)]

            def work():
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()

            return work

        return prepare

    raw = sum(len(value) for part in events for value in part)
    row = Row(
        f"{threads} threads appending to one LZ4 topic",
        "ratio",
        0.8,
        "GB/s",
        raw,
        note="Speed a thread, beside that of one thread alone: 1 is linear.",
    )
    track.race(row, run(threads), {"one thread alone": run(1)})
