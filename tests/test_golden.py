"""Stores written once by each version of the format, read for ever. golden/make_v1.py wrote the first."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pystream
from harness import T0, batch_rows, quick_directory, rows
from pystream._native.limits import FORMAT_VERSION

GOLDEN = Path(__file__).resolve().parent / "golden"
VERSIONS = sorted(file.stem for file in GOLDEN.glob("*.zip"))


def said(data: bytes | None) -> str | None:
    """Bytes as JSON says them: in hexadecimal, or, when they are many, by their digest."""
    if data is None or len(data) <= 48:
        return data if data is None else data.hex()
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"


FIELDS = (
    "base_offset next_offset leader_epoch codec raw_bytes transactional control delete_horizon "
    "producer_id producer_epoch base_sequence schema_id"
).split()


def described_batch(batch: pystream.Batch) -> dict[str, Any]:
    """All that can be told of a batch, as JSON: of many records only a digest."""
    one: dict[str, Any] = {name: getattr(batch, name) for name in FIELDS}
    one["batch_uuid"] = said(batch.batch_uuid)
    offsets, keys, values, headers, times = map(list, zip(*batch_rows(batch), strict=True))
    one |= {
        "offsets": offsets,
        "keys": [said(key) for key in keys],
        "values": [said(value) for value in values],
        "headers": [[[name, said(value)] for name, value in each] for each in headers],
        "timestamps": times,
    }
    if len(batch) > 12:
        for name in ("offsets", "keys", "values", "headers", "timestamps"):
            one[name] = said(json.dumps(one[name]).encode())
    return one


def described(topic: pystream.Topic) -> dict[str, Any]:
    """All that can be told of a topic, as JSON."""
    partitions = []
    for index in range(topic.partitions):
        partition = topic.partition(index)
        batches = [described_batch(batch) for batch in partition.scan()]
        partitions.append(
            {
                "beginning_offset": partition.beginning_offset,
                "end_offset": partition.end_offset,
                "batches": batches,
                "at times": {str(t): partition.offset_for_time(T0 + t) for t in (-9, 0, 3, 999, 25 * 10**9)},
            }
        )
    options = {
        name: getattr(topic.options, name)
        for name in ("partitions", "compression", "durability", "value_width", "key_width", "timestamp_type")
    }
    return {
        "uuid": str(topic.uuid),
        "dtype": None if topic.options.dtype is None else str(topic.options.dtype),
        "options": options,
        "partitions": partitions,
    }


@pytest.fixture(params=VERSIONS)
def golden(request: pytest.FixtureRequest) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A copy of the store, and what it holds."""
    with quick_directory() as directory:
        with zipfile.ZipFile(GOLDEN / f"{request.param}.zip") as archive:
            archive.extractall(directory / "s")
        yield directory / "s", json.loads((GOLDEN / f"{request.param}.json").read_text())


def test_there_is_one_of_each_version() -> None:
    assert [f"v{number + 1}" for number in range(FORMAT_VERSION)] == VERSIONS


def assert_same(store: pystream.Store, document: dict[str, Any]) -> None:
    assert store.topics() == sorted(document)
    for name, wanted in document.items():
        topic = store.topic(name)
        assert json.loads(json.dumps(described(topic))) == wanted, name
        assert rows(topic.records()) == [row for batch in topic.batches() for row in batch_rows(batch)]


def test_every_record_comes_back(golden: tuple[Path, dict[str, Any]]) -> None:
    path, document = golden
    with pystream.open(path) as store:
        assert_same(store, document)


def test_a_consumer_meets_every_record_once(golden: tuple[Path, dict[str, Any]]) -> None:
    path, _ = golden
    with pystream.open(path) as store:
        for name in store:
            topic = store.topic(name)
            wanted = sorted((record.partition, record.offset) for record in topic.records())
            with store.consumer(name, timeout=0) as consumer:
                assert sorted((record.partition, record.offset) for record in consumer) == wanted
                for index, (_, end) in topic.offsets().items():
                    assert consumer.position((name, index)) == end


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_the_log_goes_on(golden: tuple[Path, dict[str, Any]], io: str) -> None:
    """Appended to, closed, opened again: the old records stay as they are."""
    path, document = golden
    added = {}
    with pystream.open(path, io=io, force=True) as store:
        for name in store:
            topic = store.topic(name)
            width = topic.options.value_width
            value: Any = [b"new" if width < 0 else bytes(width)]
            if topic.options.dtype is not None:
                value = np.zeros(1, topic.options.dtype)
            for index in range(topic.partitions):
                added[name, index] = topic.partition(index).append(value)
                assert added[name, index] == document[name]["partitions"][index]["end_offset"]
    with pystream.open(path, io=io, force=True) as store:
        for (name, index), offset in added.items():
            partition = store.topic(name).partition(index)
            assert partition[offset].offset == offset
            assert partition.end_offset == offset + 1
            old = document[name]["partitions"][index]["batches"]
            assert [described_batch(batch) for batch in partition.scan(0, offset)] == old, name


def test_offsets_with_gaps(golden: tuple[Path, dict[str, Any]]) -> None:
    """What compaction will leave: reading from any offset goes on behind the gap that it is in."""
    path, _ = golden
    with pystream.open(path) as store:
        partition = store.topic("gaps").partition(0)
        offsets = [0, 5, 6, 20, 21, 27, *range(30, 36), *range(36, 636, 2)]
        assert [record.offset for record in partition] == offsets
        assert (partition.beginning_offset, partition.end_offset) == (0, 1000)
        for start in [*range(45), *range(600, 660), 998, 999, 1000]:
            wanted = [offset for offset in offsets if offset >= start]
            assert [record.offset for record in partition.records(start)] == wanted
            stop = start + 9
            within = [offset for offset in wanted if offset < stop]
            assert [int(o) for batch in partition.scan(start, stop) for o in batch.offsets] == within
            if start in offsets:
                assert partition[start].offset == start
            else:
                with pytest.raises(pystream.OffsetOutOfRangeError):
                    partition[start]
        assert [record.offset for record in partition.tail(100)] == offsets[-100:]


def test_a_cut_log_has_its_epochs(golden: tuple[Path, dict[str, Any]]) -> None:
    path, _ = golden
    with pystream.open(path) as store:
        cut = store.topic("cut").partition(0)
        assert [(batch.leader_epoch, batch.base_offset) for batch in cut.scan()] == [(0, 0), (0, 1), (1, 2)]
        assert cut.tail(1)[0].value == b"after the cut"
        died = store.topic("died").partition(0)
        assert [record.value for record in died][:2] == [b"durable", b"acknowledged"]
    assert len(list((path / "topics/cut/0").glob("*.cut"))) == 1
    # Another for the cut, another because the files are on another disk now.
    assert (path / "topics/cut/0/epochs").stat().st_size == 96
