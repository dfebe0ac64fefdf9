"""An ingest job goes on in a topic of which compaction or retention has taken something away meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import pystream
from harness import quick_directory
from ingests import Stop, stop_after
from pystream._native.limits import SEGMENT_BYTES_MIN
from pystream.ingest import blocks, ingest, job


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_directory() as path:
        yield path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)


def rows_file(path: Path, count: int, keys: int = 1) -> Path:
    path.write_text(
        "".join(json.dumps({"n": n, "k": f"key-{n % keys}", "t": "x" * 50}) + "\n" for n in range(count))
    )
    return path


def rows_of(topic: pystream.Topic) -> list[int]:
    """The rows of the job that stand in the first partition."""
    found = [json.loads(record.value or b"") for record in topic.partition(0).records()]
    return [value["n"] for value in found if "n" in value]


@pytest.mark.parametrize("keys", [37, 700, 100_000])
@pytest.mark.parametrize("superseded", [False, True])
def test_records_that_compaction_left_out_count(tmp_path, keys, superseded):
    """What was written is known by what is left, though records, and whole batches, of it are gone."""
    source = rows_file(tmp_path / "a.jsonl", 4000, keys)
    with pystream.open(tmp_path / "store", maintenance=None) as store:
        topic = store.topic(
            "t", create=True, cleanup="compact", segment_bytes=SEGMENT_BYTES_MIN, min_cleanable_dirty_ratio=0
        )
        with pytest.raises(Stop):
            ingest(topic, source, key="k", on_progress=stop_after(250), checkpoint=3600)
        written = topic.partition(0).end_offset
        assert 2000 < written < 4000
        if superseded:  # of the job, nothing is left
            for n in range(0, min(keys, written), 100):
                batch = range(n, min(n + 100, keys, written))
                topic.append([b'{"t": "other"}' for _ in batch], keys=[b"key-%d" % k for k in batch])
        for _ in range(2):  # so that it is finished
            topic.append([b'{"t": "%s"}' % (b"z" * 60_000)], keys=[b"filler"])
        store.maintain()
        left = rows_of(topic)
        assert (left == list(range(written))) == (keys > 4000 and not superseded)
        assert not superseded or keys > 4000 or not left
        assert ingest(topic, source, key="k", resume=True, checkpoint=0).rows == 4000 - written
        assert rows_of(topic) == [*left, *range(written, 4000)]


def test_records_that_were_deleted_count(tmp_path):
    """As far as what comes after them is there."""
    source = rows_file(tmp_path / "a.jsonl", 1000)
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True)
        with pytest.raises(Stop):
            ingest(topic, source, on_progress=stop_after(30), checkpoint=3600)
        partition = topic.partition(0)
        written = partition.end_offset
        assert 200 < written < 800
        partition.delete_records(before=written // 2)
        assert ingest(topic, source, resume=True).rows == 1000 - written
        assert rows_of(topic) == list(range(written // 2, 1000))


def test_a_state_that_lies_below_the_log_start_holds_after_a_cut(tmp_path):
    """A cut never reaches below the log start, so what the state counts was there."""
    source = rows_file(tmp_path / "a.jsonl", 1000)
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True)
        with pytest.raises(Stop):
            ingest(topic, source, on_progress=stop_after(30), checkpoint=0)
        (file,) = Path(store.path).glob("ingest/*.json")
        document = json.loads(file.read_text())
        (end,) = document["state"]["ends"]
        assert end > 200
        topic.partition(0).delete_records(before=end)
        document["state"]["epochs"] = [-1]  # the machine was started anew meanwhile
        file.write_bytes(job.metadata.encode(document))
        ingest(topic, source, resume=True)
        assert rows_of(topic) == list(range(end, 1000))


def test_records_missing_in_a_log_that_is_whole_are_found(tmp_path):
    """Where nothing was left out or deleted, a hole is damage."""
    source = rows_file(tmp_path / "a.jsonl", 1000)
    with pystream.open(tmp_path / "store") as store:
        topic = store.topic("t", create=True)
        with pytest.raises(Stop):
            ingest(topic, source, on_progress=stop_after(30), checkpoint=3600)
        topic.partition(0).delete_records(before=20)
        (file,) = Path(store.path).glob("ingest/*.json")
        document = json.loads(file.read_text())
        document["state"]["ends"] = [100]
        file.write_bytes(job.metadata.encode(document))
        with pytest.raises(pystream.CorruptLogError, match="where 0 is due; records of the job are missing"):
            ingest(topic, source, resume=True)
