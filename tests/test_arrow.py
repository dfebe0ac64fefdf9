"""The Arrow C data interface: schemas, addresses, nulls, slices, fields, streams, release."""

import gc
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pystream
from pystream._native.batch import Batch

START = 1_356_998_400_000_000_000

HEADERS = pa.field(
    "headers",
    pa.list_(
        pa.field(
            "item",
            pa.struct([pa.field("key", pa.utf8(), nullable=False), pa.field("value", pa.binary())]),
            nullable=False,
        )
    ),
    nullable=False,
)
OFFSET = pa.field("offset", pa.int64(), nullable=False)
TIMESTAMP = pa.field("timestamp", pa.timestamp("ns", "UTC"))


def only_batch(topic: pystream.Topic) -> Batch:
    (batch,) = topic.batches()
    return batch


def export(source: object) -> pa.RecordBatch:
    found = pa.record_batch(source)
    found.validate(full=True)
    return found


@pytest.fixture(params=["none", "lz4"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- schemas --------------------------------------------------------------------------------------


def test_schema_of_a_topic(topic: pystream.Topic) -> None:
    topic.append([b"x"])
    want = pa.schema(
        [OFFSET, TIMESTAMP, pa.field("key", pa.binary()), pa.field("value", pa.binary()), HEADERS]
    )
    assert pa.schema(topic) == want
    assert pa.schema(only_batch(topic)) == want
    assert export(only_batch(topic)).schema == want


def test_schema_of_declared_widths(store: pystream.Store) -> None:
    topic = store.topic("fixed", create=True, segment_bytes="4MiB", value_bytes=4, key_bytes=16)
    schema = pa.schema(topic)
    assert schema.field("key").type == pa.binary(16)
    assert schema.field("value").type == pa.binary(4)


def test_schema_of_a_dtype(store: pystream.Store) -> None:
    topic = store.topic(
        "rows",
        create=True, segment_bytes="4MiB",
        dtype=[
            ("i1", "i1"), ("u2", "u2"), ("i4", ">i4"), ("u8", "u8"), ("f2", "f2"), ("f4", "f4"),
            ("f8", ">f8"), ("ok", "?"), ("s", "S5"), ("v", "V3"), ("t_s", "M8[s]"), ("t_ms", ">M8[ms]"),
            ("t_us", "M8[us]"), ("t_ns", "M8[ns]"), ("d", "m8[ms]"), ("day", "M8[D]"), ("pair", "i2", (2,)),
            ("in", [("a", "i1")]), ("text", "U2"), ("c", "c8"),
        ],
    )  # fmt: skip
    types = {field.name: field.type for field in pa.schema(topic)}
    assert types == {
        "offset": pa.int64(), "timestamp": pa.timestamp("ns", "UTC"), "key": pa.binary(),
        "i1": pa.int8(), "u2": pa.uint16(), "i4": pa.int32(), "u8": pa.uint64(), "f2": pa.float16(),
        "f4": pa.float32(), "f8": pa.float64(), "ok": pa.bool_(), "s": pa.binary(5), "v": pa.binary(3),
        "t_s": pa.timestamp("s"), "t_ms": pa.timestamp("ms"), "t_us": pa.timestamp("us"),
        "t_ns": pa.timestamp("ns"), "d": pa.duration("ms"), "day": pa.binary(8), "pair": pa.binary(4),
        "in": pa.binary(1), "text": pa.binary(8), "c": pa.binary(8), "headers": HEADERS.type,
    }  # fmt: skip


def test_field_names_like_system_columns(store: pystream.Store) -> None:
    dtype = [("key", "i1"), ("value_key", "i1"), ("offset", "i2"), ("value", "i4")]
    topic = store.topic("rows", create=True, segment_bytes="4MiB", dtype=dtype)
    names = ["offset", "timestamp", "key", "value_value_key", "value_key", "value_offset", "value", "headers"]
    assert pa.schema(topic).names == names
    topic.append(np.array([(1, 2, 3, 4)], dtype))
    found = export(only_batch(topic))
    assert [found[name][0].as_py() for name in names[3:7]] == [1, 2, 3, 4]


# ---- what is lent ---------------------------------------------------------------------------------


def test_addresses_are_the_batch_s_own(store: pystream.Store, codec: str) -> None:
    topic = store.topic("t", create=True, segment_bytes="4MiB", compression=codec)
    topic.append([b"value-%d" % i for i in range(100)], keys=[b"k%d" % i for i in range(100)])
    batch = only_batch(topic)
    for part in (batch, batch[:40], batch[7:93], batch[100:]):
        found = export(part)
        # A slice shares the whole batch's buffers: Arrow says where it begins.
        assert found["value"].buffers()[2].address == batch.values.address
        assert found["key"].buffers()[2].address == batch.keys.address
        assert found["value"].to_pylist() == part.values.to_pylist()
    assert pa.array(batch.values).buffers()[2].address == batch.values.address


def test_fixed_width_addresses(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="4MiB", value_bytes=8)
    topic.append([b"12345678"] * 10)
    batch = only_batch(topic)
    assert export(batch)["value"].buffers()[1].address == batch.values.address
    numbers = store.topic("n", create=True, segment_bytes="4MiB", dtype="f8")
    numbers.append(np.arange(10.0))
    batch = only_batch(numbers)
    found = export(batch[4:])["value"]
    assert found.buffers()[1].address == batch.values.address + 4 * 8
    assert found.to_pylist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_stored_timestamps_are_lent(topic: pystream.Topic) -> None:
    topic.append([b"x"] * 3, timestamps=np.array([START, START + 1, START + 2]))
    batch = only_batch(topic)
    found = export(batch)["timestamp"]
    assert found.buffers()[1].address == batch.timestamps.ctypes.data
    assert found.cast(pa.int64()).to_pylist() == [START, START + 1, START + 2]


# ---- contents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000, 20_000])
def test_every_column_and_slice(store: pystream.Store, codec: str, count: int) -> None:
    topic = store.topic("t", create=True, segment_bytes="4MiB", compression=codec)
    values = [None if i % 5 == 1 else b"v" * (i % 7) for i in range(count)]
    keys = [None if i % 3 == 0 else b"%d" % i for i in range(count)]
    headers = [[("h", b"%d" % i), ("n", None)] if i % 4 == 0 else [] for i in range(count)]
    times = np.arange(START, START + count)
    topic.append(values, keys=keys, headers=headers, timestamps=times)
    batch = only_batch(topic)
    for start, stop in [(0, count), (0, 0), (count // 3, count // 2), (count - 1, count), (1, count)]:
        found = export(batch[start:stop])
        assert found["offset"].to_pylist() == list(range(start, max(start, stop)))
        assert found["timestamp"].cast(pa.int64()).to_pylist() == times[start:stop].tolist()
        assert found["key"].to_pylist() == keys[start:stop]
        assert found["value"].to_pylist() == values[start:stop]
        rows = [[(h["key"], h["value"]) for h in row] for row in found["headers"].to_pylist()]
        assert rows == headers[start:stop]


@pytest.mark.parametrize("key_bytes", [None, 0, 3])
@pytest.mark.parametrize("count", [1, 1000, 70_000])
def test_columns_that_are_not_stored(store: pystream.Store, key_bytes: int | None, count: int) -> None:
    options = {} if key_bytes is None else {"key_bytes": key_bytes}
    topic = store.topic("t", create=True, segment_bytes="4MiB", value_bytes=1, **options)
    topic.append([b"x"] * count)
    found = export(only_batch(topic)[count // 2 :])
    rest = count - count // 2
    assert found["key"].null_count == rest
    assert found["key"].type == (pa.binary() if key_bytes is None else pa.binary(key_bytes))
    assert found["headers"].null_count == 0
    assert found["headers"].to_pylist() == [[]] * rest
    assert len(found["timestamp"].unique()) == 1


def test_fields(store: pystream.Store, codec: str) -> None:
    dtype = np.dtype(
        [
            ("n", "i4"),
            ("x", ">f8"),
            ("ok", "?"),
            ("s", "S3"),
            ("t", "M8[us]"),
            ("b", ">M8[ms]"),
            ("p", "i2", (2,)),
        ]
    )
    rows = np.zeros(1000, dtype)
    rows["n"] = np.arange(1000)
    rows["x"] = rows["n"] / 2
    rows["ok"] = rows["n"] % 3 == 0
    rows["s"] = b"abc"
    rows["t"] = np.datetime64("2013-01-01") + rows["n"].astype("m8[s]")
    rows["t"][::7] = "NaT"
    rows["b"] = rows["t"]
    topic = store.topic("rows", create=True, segment_bytes="4MiB", dtype=dtype, compression=codec)
    topic.append(rows)
    batch = only_batch(topic)
    for start, stop in [(0, 1000), (13, 500), (999, 1000), (4, 4)]:
        found = export(batch[start:stop])
        part = rows[start:stop]
        for name in ("n", "x", "ok", "s", "t", "b"):
            assert found[name].to_pylist() == part[name].tolist(), name  # NaT is null
        assert found["p"].to_pylist() == [pair.tobytes() for pair in part["p"]]


def test_a_requested_schema_is_ignored(topic: pystream.Topic) -> None:
    topic.append([b"x"])
    batch = only_batch(topic)
    wanted = pa.schema([("value", pa.large_binary())]).__arrow_c_schema__()
    _, array = batch.__arrow_c_array__(wanted)
    assert "arrow_array" in repr(array)
    assert "arrow_array_stream" in repr(topic.__arrow_c_stream__(wanted))


def test_capsules_nobody_takes(topic: pystream.Topic) -> None:
    topic.append([b"x"] * 100)
    batch = only_batch(topic)
    for _ in range(1000):
        batch.__arrow_c_array__()
        batch.__arrow_c_schema__()
        batch.values.__arrow_c_array__()
        topic.__arrow_c_stream__()


# ---- streams --------------------------------------------------------------------------------------


def test_a_topic_is_a_stream(store: pystream.Store, codec: str) -> None:
    topic = store.topic("t", create=True, segment_bytes="4MiB", partitions=3, compression=codec)
    for partition in range(3):
        for batch in range(4):
            topic.append([b"%d-%d" % (partition, batch)] * 5, partition=partition)
    table = pa.table(topic)
    table.validate(full=True)
    assert table["value"].to_pylist() == [
        b"%d-%d" % (p, b) for p in range(3) for b in range(4) for _ in range(5)
    ]
    assert table["offset"].to_pylist() == list(range(20)) * 3
    assert table.schema == pa.schema(topic)
    assert len(table.to_batches()) == 12


def test_a_stream_of_nothing(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="4MiB", partitions=2)
    assert pa.table(topic).num_rows == 0


def test_a_stream_that_fails_says_why(tmp_path: Path) -> None:
    store = pystream.open(tmp_path / "store")
    topic = store.topic("t", create=True, segment_bytes="4MiB")
    topic.append([b"x" * 1000])
    (path,) = (tmp_path / "store").glob("topics/t/0/*.log")
    store.close()
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"y")
    with pystream.open(tmp_path / "store") as store:
        reader = pa.RecordBatchReader.from_stream(store["t"])
        with pytest.raises((pa.ArrowException, OSError), match="checksum"):
            reader.read_all()


def test_a_stream_is_exported_once(topic: pystream.Topic) -> None:
    from pystream._native.arrow import ArrowStream

    topic.append([b"x"])
    stream = ArrowStream(topic._schema, topic._readers("earliest", None))
    assert pa.table(stream).num_rows == 1
    with pytest.raises(ValueError, match="exported already"):
        stream.__arrow_c_stream__()
    with pytest.raises(TypeError, match="partition readers"):
        ArrowStream(topic._schema, [object()])  # type: ignore[list-item]


# ---- lifetime -------------------------------------------------------------------------------------


def test_exports_outlive_everything(tmp_path: Path, codec: str) -> None:
    store = pystream.open(tmp_path / "store")
    topic = store.topic("t", create=True, segment_bytes="4MiB", compression=codec)
    topic.append([b"value-%d" % i for i in range(1000)])
    found = export(only_batch(topic)[10:])
    column = found["value"]
    del topic, found
    store.close()
    del store
    shutil.rmtree(tmp_path / "store")
    gc.collect()
    assert column.to_pylist() == [b"value-%d" % i for i in range(10, 1000)]


def test_released_by_other_threads(topic: pystream.Topic) -> None:
    topic.append([b"x" * 100] * 50, keys=[b"k"] * 50)
    batch = only_batch(topic)
    for _ in range(50):
        exports = [[pa.record_batch(batch[i:]) for i in range(50)] for _ in range(4)]
        threads = [threading.Thread(target=mine.clear) for mine in exports]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert batch.values[0] == b"x" * 100
