"""Batch, Column and Record: what they say, what they lend, and how long it lives."""

import gc
import itertools
import pickle
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pystream
from pystream._native.batch import Batch, Record
from pystream._native.column import Column

SECOND = 10**9
START = 1_356_998_400 * SECOND

VALUES = [b"one", None, b"", b"four" * 20, b"five"]
KEYS = [None, b"", b"k3", b"k4", None]
HEADERS = [(), (("a", b"1"), ("a", None)), (), (("é", b""),), ()]
TIMES = [START + 5, START, START + 9, START + 9, START]


def only_batch(topic: pystream.Topic) -> Batch:
    (batch,) = topic.batches()
    return batch


@pytest.fixture(params=["none", "lz4"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mixed(store: pystream.Store, codec: str) -> pystream.Topic:
    """One batch of VALUES, KEYS, HEADERS and TIMES forty times over, at offsets 3 to 202."""
    topic = store.topic("mixed", create=True, segment_bytes="4MiB", compression=codec)
    topic.append([b"before"] * 3)
    topic.append(VALUES * 40, keys=KEYS * 40, headers=HEADERS * 40, timestamps=np.array(TIMES * 40))
    return topic


def mixed_batch(topic: pystream.Topic) -> Batch:
    return next(topic.partition(0).scan(3))


# ---- Batch ----------------------------------------------------------------------------------------


def test_a_batch_describes_itself(mixed: pystream.Topic, codec: str) -> None:
    batch = mixed_batch(mixed)
    assert (batch.topic, batch.partition, len(batch)) == ("mixed", 0, 200)
    assert (batch.base_offset, batch.next_offset) == (3, 203)
    assert batch.codec == codec
    assert 0 < batch.stored_bytes <= batch.raw_bytes
    assert (batch.stored_bytes < batch.raw_bytes) == (codec == "lz4")
    assert batch.leader_epoch >= 0
    assert 0 <= batch.durable_offset <= 3
    assert not batch.transactional
    assert not batch.control
    optional = "producer_id", "producer_epoch", "base_sequence", "schema_id", "batch_uuid", "delete_horizon"
    assert [getattr(batch, name) for name in optional] == [None] * 6
    assert repr(batch) == f"<Batch of 200 records, mixed[0] offsets 3 to 203, codec {codec}>"


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 200), (0, 0), (200, 200), (1, 200), (0, 199), (7, 8), (8, 120), (-20, -3), (5, 2)]
)
def test_slices_agree_in_every_column(mixed: pystream.Topic, start: int, stop: int) -> None:
    whole = mixed_batch(mixed)
    part = whole[start:stop]
    want = range(200)[start:stop]
    assert isinstance(part, Batch)
    assert len(part) == len(want)
    assert part.offsets.tolist() == [3 + i for i in want]
    assert part.timestamps.view("i8").tolist() == [TIMES[i % 5] for i in want]
    assert part.values.to_pylist() == [VALUES[i % 5] for i in want]
    assert part.keys.to_pylist() == [KEYS[i % 5] for i in want]
    assert part.headers == [HEADERS[i % 5] for i in want]
    assert [None if v is None else bytes(v) for v in part.values] == [VALUES[i % 5] for i in want]
    assert list(part) == [whole[i] for i in want]
    assert list(part[1:-1]) == [whole[i] for i in want[1:-1]]
    assert len(part.values[2:]) == len(want[2:])
    if want:
        assert (part.base_offset, part.next_offset) == (3 + want[0], 3 + want[-1] + 1)
    else:
        assert part.base_offset == part.next_offset


def test_records_of_a_batch(mixed: pystream.Topic) -> None:
    batch = mixed_batch(mixed)
    for i, record in enumerate(batch):
        assert record == batch[i] == batch[i - 200]
        assert (record.topic, record.partition, record.offset) == ("mixed", 0, 3 + i)
        assert (record.key, record.value) == (KEYS[i % 5], VALUES[i % 5])
        assert (record.headers, record.timestamp) == (HEADERS[i % 5], TIMES[i % 5])
    for index in (200, -201):
        with pytest.raises(IndexError, match="out of range for a batch of 200"):
            batch[index]
    with pytest.raises(TypeError):
        batch["0"]  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="step 1"):
        batch[::2]


def test_offsets_and_timestamps(topic: pystream.Topic) -> None:
    before = np.datetime64("now", "ns")
    topic.append([b"x"] * 1000)
    batch = only_batch(topic)
    assert batch.offsets.dtype == np.int64
    assert batch.timestamps.dtype == np.dtype("datetime64[ns]")
    assert batch.timestamps.shape == batch.offsets.shape == (1000,)
    # One clock read a batch: one value, seen a thousand times.
    assert batch.timestamps.strides == (0,)
    assert before - np.timedelta64(1, "s") <= batch.timestamps[0] <= before + np.timedelta64(60, "s")
    assert batch.offsets is batch.offsets
    for array in (batch.offsets, batch.timestamps):
        assert not array.flags.writeable


def test_stored_timestamps_are_lent(mixed: pystream.Topic) -> None:
    batch = mixed_batch(mixed)
    times = batch.timestamps
    assert not times.flags.owndata
    assert not times.flags.writeable
    assert batch[7:].timestamps.ctypes.data == times.ctypes.data + 7 * 8


def test_batches_are_not_made_copied_or_pickled(mixed: pystream.Topic) -> None:
    batch = mixed_batch(mixed)
    for kind in (Batch, Record, Column):
        with pytest.raises(TypeError):
            kind()
    for lending in (batch, batch.values):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(lending)
    with pytest.raises(AttributeError):
        batch.partition = 3  # type: ignore[misc]


# ---- Column ---------------------------------------------------------------------------------------


def test_a_column_of_variable_width(mixed: pystream.Topic) -> None:
    column = mixed_batch(mixed).values
    assert (len(column), column.null_count, column.width) == (200, 40, -1)
    assert column.nbytes == len(column.data) == sum(len(v or b"") for v in VALUES) * 40
    assert column[3] == VALUES[3]
    assert column[1] is None
    assert bytes(column.data) == b"".join(v or b"" for v in VALUES * 40)
    offsets = column[5:].offsets
    assert offsets is not None
    data = bytes(column[5:].data)
    found = [data[a - offsets[0] : b - offsets[0]] for a, b in itertools.pairwise(offsets)]
    assert found == [v or b"" for v in VALUES * 39]
    with pytest.raises(TypeError, match=r"\.to_pylist\(\), Arrow"):
        column.to_numpy()
    with pytest.raises(TypeError):
        np.asarray(column)
    with pytest.raises(IndexError, match="out of range for a column of 200"):
        column[200]
    with pytest.raises(ValueError, match="step 1"):
        column[::-1]
    assert repr(column) == f"<Column of 200, variable width, {column.nbytes} bytes, 40 null>"


def test_no_keys_at_all(topic: pystream.Topic) -> None:
    topic.append([b"x"] * 3)
    keys = only_batch(topic).keys
    assert keys.to_pylist() == [None] * 3
    assert (keys.null_count, keys.nbytes, keys.address) == (3, 0, 0)
    assert bytes(keys.data) == b""
    assert keys.offsets is not None
    assert keys.offsets.tolist() == [0] * 4


def test_what_is_lent_cannot_be_written(mixed: pystream.Topic) -> None:
    batch = mixed_batch(mixed)
    view = batch.values[0]
    assert view is not None
    assert view.readonly
    assert batch.values.data.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises((TypeError, BufferError)):
        (memoryview(view.obj).cast("B"))[0] = 1
    offsets = batch.values.offsets
    assert offsets is not None
    for array in (offsets, batch.timestamps, batch.offsets):
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            array.flags.writeable = True
            array[0] = 1


def test_uncompressed_values_are_the_map_itself(store: pystream.Store) -> None:
    topic = store.topic("plain", create=True, segment_bytes="4MiB")
    topic.append([b"abc", b"defg"], keys=[b"k", b"kk"])
    first, second = only_batch(topic), only_batch(topic)
    assert first.values.address == second.values.address
    with open("/proc/self/maps") as maps:
        lines = [line for line in maps if ".log" in line and " r--" in line]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    for column in (first.values, first.keys):
        assert any(low <= column.address < high for low, high in spans)


# ---- fixed width ----------------------------------------------------------------------------------


def test_declared_widths(store: pystream.Store, codec: str) -> None:
    topic = store.topic(
        "fixed", create=True, segment_bytes="4MiB", value_bytes=4, key_bytes=2, compression=codec
    )
    topic.append([b"aaaa", b"bb\0\0", None] * 50, keys=[b"k1", None, b"k3"] * 50)
    batch = only_batch(topic)
    assert batch.values.width == 4
    assert batch.values.offsets is None
    assert batch.values.to_pylist() == [b"aaaa", b"bb\0\0", None] * 50
    with pytest.raises(ValueError, match="zero_nulls=True"):
        batch.values.to_numpy()
    array = batch.values.to_numpy(zero_nulls=True)
    assert array.dtype == np.dtype("V4")
    assert [item.tobytes() for item in array[:3]] == [b"aaaa", b"bb\0\0", b"\0\0\0\0"]
    assert batch[:2].array.shape == (2,)
    assert batch.keys[0] == b"k1"


def test_width_zero(store: pystream.Store) -> None:
    topic = store.topic("empty", create=True, segment_bytes="4MiB", value_bytes=0)
    topic.append([b"", b"", b""])
    batch = only_batch(topic)
    assert batch.values.to_pylist() == [b""] * 3
    assert batch.array.shape == (3,)
    assert batch[1].value == b""


@pytest.mark.parametrize(
    "dtype",
    [
        [("ts", "i8"), ("px", "f8"), ("qty", "i4")],
        "f4",
        ">u2",
        [("name", "S7"), ("ok", "?"), ("day", "M8[s]"), ("inner", [("a", "i2"), ("b", "f4", (2,))])],
    ],
)
def test_structured_arrays_come_back(store: pystream.Store, codec: str, dtype: Any) -> None:
    dtype = np.dtype(dtype)
    topic = store.topic("rows", create=True, segment_bytes="4MiB", dtype=dtype, compression=codec)
    raw = np.random.default_rng(1).integers(0, 2, dtype.itemsize * 500, dtype=np.uint8)
    rows = np.frombuffer(raw.tobytes(), dtype)
    topic.append(rows)
    batch = only_batch(topic)
    assert batch.array.dtype == dtype
    assert batch.array.tobytes() == rows.tobytes()
    assert batch[100:].array.tobytes() == rows[100:].tobytes()
    assert not batch.array.flags.writeable
    assert np.asarray(batch.values).ctypes.data == batch.values.address == batch.array.ctypes.data
    copied = np.array(batch.values, copy=True)
    assert copied.ctypes.data != batch.values.address
    assert batch[3].value == rows[3:4].tobytes()


# ---- lifetime -------------------------------------------------------------------------------------


def test_lent_memory_outlives_everything(tmp_path: Path, codec: str) -> None:
    store = pystream.open(tmp_path / "store")
    topic = store.topic("t", create=True, segment_bytes="4MiB", compression=codec)
    topic.append([b"value-%d" % i for i in range(500)], keys=[b"key-%d" % i for i in range(500)])
    rows = store.topic("rows", create=True, segment_bytes="4MiB", dtype="i8", compression=codec)
    rows.append(np.arange(500))
    batch = only_batch(topic)
    view, data, keys, numbers = batch.values[499], batch.values.data, batch.keys, only_batch(rows).array
    part = batch[490:]
    del batch, topic, rows
    store.close()
    shutil.rmtree(tmp_path / "store")
    del store
    gc.collect()
    assert view == b"value-499"
    assert bytes(data[:14]) == b"value-0value-1"
    assert bytes(keys[7]) == b"key-7"
    assert numbers.sum() == 499 * 250
    assert [r.value for r in part] == [b"value-%d" % i for i in range(490, 500)]


def test_memory_goes_with_the_last_view(tmp_path: Path) -> None:
    """Of a closed store, the segments that something lends stay mapped, and no other."""

    def mapped() -> int:
        gc.collect()
        with open("/proc/self/maps") as maps:
            return len({line.split()[-1] for line in maps if str(tmp_path) in line and ".log" in line})

    store = pystream.open(tmp_path / "store")
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    for _ in range(50):
        topic.append([b"x" * 10_000])
    batches = list(topic.batches())
    first, last = batches[0].values[0], batches[-1].values.data
    del batches, topic
    store.close()
    del store
    assert mapped() == 2
    assert first is not None
    assert first[0] == last[0] == ord("x")
    del first
    assert mapped() == 1
    del last
    assert mapped() == 0


def test_a_decompressed_body_is_shared_by_its_views(store: pystream.Store) -> None:
    topic = store.topic("packed", create=True, segment_bytes="4MiB", compression="lz4")
    topic.append([b"x" * 1000] * 100)
    batch = only_batch(topic)
    assert batch[50:].values.address == batch.values.address + 50_000
    array = np.frombuffer(batch.values.data, np.uint8)
    gone = weakref.ref(array)
    assert (array == ord("x")).all()
    del array
    assert gone() is None


# ---- Record ---------------------------------------------------------------------------------------


def test_records_are_values(mixed: pystream.Topic) -> None:
    first, second = list(mixed_batch(mixed)), list(mixed.records(3))
    assert first == second
    assert len(set(first + second)) == 200
    assert first[0] != first[5]
    assert (first[0] == 3) is False
    for record in first[:5]:
        copy = pickle.loads(pickle.dumps(record))
        assert copy == record
        assert hash(copy) == hash(record)
        assert (copy.offset, copy.headers, copy.timestamp) == (
            record.offset,
            record.headers,
            record.timestamp,
        )
    with pytest.raises(AttributeError):
        first[0].value = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        first[0] < first[1]  # type: ignore[operator]  # noqa: B015
    assert repr(first[0]) == (
        f"Record(topic='mixed', partition=0, offset=3, timestamp={START + 5}, key=None, value=b'one')"
    )
    assert repr(first[3]).endswith(f"value={(b'four' * 12)!r}... (80 bytes), headers=(('é', b''),))")


def test_records_own_their_bytes(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "store") as store:
        store.topic("t", create=True, segment_bytes="4MiB").append([b"mine"], keys=[b"too"])
        (record,) = store["t"].records()
    assert (record.key, record.value) == (b"too", b"mine")


def test_iterating_a_batch_twice(mixed: pystream.Topic) -> None:
    batch = mixed_batch(mixed)
    one, two = iter(batch), iter(batch)
    assert next(one) == next(two)
    assert one.__length_hint__() == 199  # type: ignore[attr-defined]
    assert len(list(one)) == 199
    assert next(one, None) is None
