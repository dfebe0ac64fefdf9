"""Export: every format read back by pyarrow; ranges, columns, forms of keys and values, what is refused."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pystream
from exports import NAMES, data_of, found, lines, read, wanted
from harness import T0, quick_directory
from pystream.export import BadRecordError, export
from pystream.export import blocks as blocks_module
from pystream.export.text import moments

GOLDEN = Path(__file__).resolve().parent / "golden"
ALL = "offset,partition,timestamp,key,value,headers"
TEXT = [name for name in NAMES if "csv" in name or "json" in name or "tsv" in name]


def form_of(name: str) -> str:
    return "utf8" if name in TEXT else "bytes"


@pytest.fixture(params=["none", "lz4"])
def mixed(store: pystream.Store, request: pytest.FixtureRequest) -> pystream.Topic:
    """Three partitions of batches of uneven sizes, with nulls, headers and text that wants escaping."""
    topic = store.topic("mixed", create=True, partitions=3, segment_bytes="64KiB", compression=request.param)
    pieces = [
        b"plain",
        None,
        b"",
        b'say "hi", \\ \n\ttwo lines\r\n',
        "é\u2028\U0001f600".encode(),
        b"\x01\x1f",
    ]
    count = 0
    for size in (1, 7, 2, 40, 1, 120, 3):
        for index in (0, 2):
            each = range(count, count + size)
            topic.partition(index).append(
                [pieces[i % 6] for i in each],
                keys=[None if i % 5 == 0 else b"k%d" % (i % 4) if i % 7 else b"" for i in each],
                headers=[[("h", b"%d" % i), ("h", None), ('"', b"\\")] if i % 6 == 0 else None for i in each],
                timestamps=np.array([T0 + i * 10**9 + i % 3 for i in each]),
            )
            count += size
    topic.partition(2).append([b"no time"], timestamps=np.full(1, "NaT", "M8[ns]"))
    return topic


# ---- formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_record_comes_back(mixed: pystream.Topic, tmp_path: Path, name: str) -> None:
    result = export(mixed, tmp_path / name)
    assert found(tmp_path / name) == wanted(mixed.records(), form_of(name))
    assert result.records == 349
    assert result.offsets == {0: (0, 174), 1: (0, 0), 2: (0, 175)}
    assert result.columns == tuple(ALL.split(","))
    assert [(file.path, file.bytes) for file in result.files] == [
        (str(tmp_path / name), (tmp_path / name).stat().st_size)
    ]


@pytest.mark.parametrize("form", ["utf8", "base64", "hex"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_forms_of_keys_and_values(mixed: pystream.Topic, tmp_path: Path, name: str, form: str) -> None:
    export(mixed, tmp_path / name, key=form, value=form)
    rows = wanted(mixed.records(), form)
    if name == "a.parquet":  # headers have their own type there
        rows = [(*row[:5], raw[5]) for row, raw in zip(rows, wanted(mixed.records(), "bytes"), strict=True)]
    assert found(tmp_path / name) == rows


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.arrows", "a.feather"])
def test_the_schema_is_the_topic_s(topic: pystream.Topic, tmp_path: Path, name: str) -> None:
    topic.append([b"x"], timestamps=T0)
    export(topic, tmp_path / name)
    table = read(tmp_path / name)
    if name != "a.parquet":  # which calls what is in a list "element"
        assert table.schema == pa.schema(topic)
        assert table == pa.table(topic)
    assert table.schema.names == pa.schema(topic).names
    assert [table.schema.field(i).type for i in range(4)] == [
        pa.schema(topic).field(i).type for i in range(4)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_topic(topic: pystream.Topic, tmp_path: Path, name: str) -> None:
    assert export(topic, tmp_path / name).records == 0
    if "jsonl" in name:
        assert data_of(tmp_path / name) == b""
    else:
        table = read(tmp_path / name)
        assert table.num_rows == 0
        assert table.column_names == ["offset", "timestamp", "key", "value", "headers"]


CODECS = [
    *(("a.parquet", codec) for codec in ("snappy", "none", "gzip", "zstd", "lz4", "brotli")),
    *((name, codec) for name in ("a.arrow", "a.arrows", "a.feather") for codec in ("none", "lz4", "zstd")),
]


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_codecs(topic: pystream.Topic, tmp_path: Path, name: str, codec: str) -> None:
    for _ in range(10):
        topic.append([b"again and again " * 20] * 50)
    export(topic, tmp_path / name, compression=codec, columns=ALL)
    assert found(tmp_path / name) == wanted(topic.records(), "bytes")
    size = (tmp_path / name).stat().st_size
    if name.endswith(".parquet"):
        column = pa.parquet.ParquetFile(tmp_path / name).metadata.row_group(0).column(4)
        assert column.compression.lower() == ("uncompressed" if codec == "none" else codec)
    else:
        assert (size > 150_000) is (codec == "none")


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_text_compressed_by_word_or_by_name(
    topic: pystream.Topic, tmp_path: Path, format: str, codec: str
) -> None:
    topic.append([b"x"] * 100)
    suffix = {"gzip": ".gz", "zstd": ".zst"}[codec]
    export(topic, tmp_path / f"plain.{format}")
    export(topic, tmp_path / f"named.{format}{suffix}")
    export(topic, tmp_path / f"said.{format}{suffix}", compression=codec)
    export(topic, tmp_path / "neither", format=format, compression=codec)
    text = (tmp_path / f"plain.{format}").read_bytes()
    assert (
        data_of(tmp_path / f"named.{format}{suffix}") == text == data_of(tmp_path / f"said.{format}{suffix}")
    )
    assert (tmp_path / "neither").read_bytes()[:2] == {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5"}[codec]


# ---- ranges ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 9), (7, 8), (8, 8), (9, 170), (173, 174), (5, 9999)])
def test_ranges_of_offsets(mixed: pystream.Topic, tmp_path: Path, start: int, stop: int) -> None:
    result = export(mixed, tmp_path / "a.parquet", start=start, stop=stop, partitions=[0], columns=ALL)
    assert found(tmp_path / "a.parquet") == wanted(
        mixed.records({0: start, 1: "latest", 2: "latest"}, {0: stop}), "bytes"
    )
    assert result.offsets == {0: (start, min(stop, 174))}


def test_ranges_of_time(mixed: pystream.Topic, tmp_path: Path) -> None:
    start, stop = (datetime.fromtimestamp(T0 // 10**9 + s, UTC) for s in (20, 200))
    export(mixed, tmp_path / "a.jsonl", start=start, stop=stop)
    assert found(tmp_path / "a.jsonl") == wanted(mixed.records(start, stop), "utf8")
    times = [row[2] for row in found(tmp_path / "a.jsonl")]
    assert times
    assert all(T0 + 20 * 10**9 <= time < T0 + 200 * 10**9 for time in times)


@pytest.mark.parametrize("partitions", [[1], [2, 0], [0, 0], [0, 1, 2]])
def test_some_partitions(mixed: pystream.Topic, tmp_path: Path, partitions: list[int]) -> None:
    export(mixed, tmp_path / "a.csv", partitions=partitions)
    assert found(tmp_path / "a.csv") == wanted(
        (r for r in mixed.records() if r.partition in partitions), "utf8"
    )


@pytest.mark.parametrize("most", [0, 1, 7, 8, 173, 174, 175, 348, 349, 350])
def test_at_most(mixed: pystream.Topic, tmp_path: Path, most: int) -> None:
    result = export(mixed, tmp_path / "a.parquet", max_records=most)
    assert found(tmp_path / "a.parquet") == wanted(list(mixed.records())[:most], "bytes")
    assert result.records == min(most, 349)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), max_size=8),
    rows=st.integers(1, 40),
    size=st.integers(1, 2000),
    most=st.none() | st.integers(0, 120),
    start=st.integers(0, 100),
)
def test_blocks_tile_the_range(sizes: list[int], rows: int, size: int, most: int | None, start: int) -> None:
    """However stored batches are cut and put together, each record is there once, in its place."""
    with (
        quick_directory() as directory,
        pystream.open(directory / "s") as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        topic = store.topic("t", create=True, partitions=2, segment_bytes="64KiB")
        for at, each in enumerate(sizes):
            topic.append([b"v" * (at * 7 + i) for i in range(each)], partition=at % 2)
        patch.setattr(blocks_module, "BLOCK_ROWS", rows)
        patch.setattr(blocks_module, "BLOCK_BYTES", size)
        first = {index: min(start, end) for index, (_, end) in topic.offsets().items()}
        spans = blocks_module.resolve(topic, first, None, None)
        blocks = list(blocks_module.read(topic, spans, most))
        told = [(b.partition, o) for b in blocks for o in b.rows.column(0).to_pylist()]
        assert told == [(r.partition, r.offset) for r in topic.records(first)][:most]
        done = [block.done for block in blocks]
        assert done == sorted(done)
        total = sum(span.stop - span.start for span in spans)
        if done and (most is None or most >= total):
            assert done[-1] == total
        assert all(block.rows.num_rows <= rows for block in blocks)


def test_the_end_is_the_one_at_the_beginning(topic: pystream.Topic, tmp_path: Path) -> None:
    topic.append([b"before"] * 10)
    with topic.producer() as producer:
        producer.send_many([b"before"] * blocks_module.BLOCK_ROWS)

    def meanwhile(progress: Any) -> None:
        topic.append([b"after"])

    result = export(topic, tmp_path / "a.jsonl", progress=meanwhile)
    assert result.records == 10 + blocks_module.BLOCK_ROWS
    assert {line["value"] for line in lines(tmp_path / "a.jsonl")} == {"before"}


def test_progress_comes_to_the_end(mixed: pystream.Topic, tmp_path: Path) -> None:
    said = []
    export(mixed, tmp_path / "a.csv", progress=said.append)
    assert {each.step for each in said} == {"rows"}
    assert said[-1][1:] == (349, 349, 349)


def test_golden_stores(tmp_path: Path) -> None:
    """Gaps in the offsets, cut tails, dtypes, widths: whatever a store of version 1 may hold."""
    with zipfile.ZipFile(GOLDEN / "v1.zip") as archive:
        archive.extractall(tmp_path / "s")
    with pystream.open(tmp_path / "s") as store:
        gaps = [record.offset for record in store["gaps"].records()]
        assert gaps != list(range(gaps[0], gaps[0] + len(gaps)))
        for name in store:
            topic = store[name]
            for each in ("a.arrow", "a.jsonl"):
                path = tmp_path / f"{name}.{each}"
                is_text = each == "a.jsonl" and topic.options.dtype is None
                result = export(
                    topic, path, columns=ALL, **({"value": "base64", "key": "hex"} if is_text else {})
                )
                records = list(topic.records())
                assert result.records == len(records)
                table = read(path) if each == "a.arrow" else None
                offsets = (
                    table["offset"].to_pylist()
                    if table is not None
                    else [line["offset"] for line in lines(path)]
                )
                assert offsets == [record.offset for record in records]
                if is_text:
                    assert [row[4] for row in found(path)] == [row[4] for row in wanted(records, "base64")]
                    assert [row[3] for row in found(path)] == [row[3] for row in wanted(records, "hex")]
                elif table is not None:
                    stored = pa.table(topic)
                    assert table.select(stored.column_names) == stored


# ---- columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["value", "key,offset", "headers,partition,timestamp", ["value", "key"]])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_columns_in_the_order_asked_for(
    mixed: pystream.Topic, tmp_path: Path, name: str, columns: Any
) -> None:
    export(mixed, tmp_path / name, columns=columns)
    names = columns.split(",") if isinstance(columns, str) else columns
    if name == "a.jsonl":
        assert all(list(line) == names for line in lines(tmp_path / name))
    else:
        assert read(tmp_path / name).column_names == names
    export(mixed, tmp_path / "all.jsonl")
    if "value" in names:
        got = lines(tmp_path / name) if name == "a.jsonl" else read(tmp_path / name).to_pylist()
        values = [None if each["value"] is None else each["value"] for each in got]
        whole = [line["value"] for line in lines(tmp_path / "all.jsonl")]
        if name == "a.parquet":
            whole = [None if value is None else value.encode() for value in whole]
        elif name == "a.csv" and len(names) == 1:
            whole = ["" if value is None else value for value in whole]  # else the line would be empty
        assert values == whole


DTYPE = np.dtype(
    [("n", "i4"), ("key", "u8"), ("x", "f8"), ("h", "f2"), ("ok", "?"), ("s", "S4"), ("u", "U3"),
     ("t", "M8[us]"), ("d", "m8[ms]"), ("p", "i2", (2,))]
)  # fmt: skip


@pytest.fixture
def typed(store: pystream.Store) -> pystream.Topic:
    topic = store.topic("typed", create=True, dtype=DTYPE)
    rows = np.zeros(9, DTYPE)
    rows["n"], rows["key"], rows["x"] = (
        np.arange(9) - 4,
        np.uint64(2**64 - 1) - np.arange(9, dtype="u8"),
        np.arange(9) / 3,
    )
    rows["x"][:3] = np.nan, np.inf, 2
    rows["h"], rows["ok"], rows["s"], rows["u"] = 0.5, np.arange(9) % 2, b"ab", "né"
    rows["t"] = np.datetime64("2020-02-29T12:00:00.000001")
    rows["t"][4], rows["d"], rows["p"] = "NaT", 1500, (1, -1)
    topic.append(rows, keys=[b"k%d" % i for i in range(9)], timestamps=T0)
    return topic


def test_a_dtype_as_json_lines(typed: pystream.Topic, tmp_path: Path) -> None:
    export(typed, tmp_path / "a.jsonl")
    got = lines(tmp_path / "a.jsonl")
    names = "offset timestamp key n value_key x h ok s u t d p headers"
    assert list(got[0]) == names.split()
    assert [line["n"] for line in got] == list(range(-4, 5))
    assert [line["value_key"] for line in got] == [2**64 - 1 - i for i in range(9)]
    assert [line["x"] for line in got] == [None, None, 2.0, *(np.arange(3, 9) / 3)]
    assert '"x":2.0,' in data_of(tmp_path / "a.jsonl").decode()
    assert (got[1]["h"], got[1]["ok"], got[1]["s"], got[1]["u"]) == (0.5, True, "ab", "né")
    assert (got[0]["t"], got[4]["t"], got[0]["d"]) == ("2020-02-29T12:00:00.000001000", None, 1500)
    assert got[0]["p"] == "AQD//w=="


def test_a_dtype_as_csv(typed: pystream.Topic, tmp_path: Path) -> None:
    export(typed, tmp_path / "a.csv", columns="value")
    table = read(tmp_path / "a.csv")
    assert table.column_names == list(DTYPE.names or ())
    assert table["n"].to_pylist() == list(range(-4, 5))
    assert table["u"].to_pylist() == ["né"] * 9
    assert table["t"].null_count == 1
    assert table["d"].to_pylist() == [1500] * 9


def test_a_dtype_as_arrow(typed: pystream.Topic, tmp_path: Path) -> None:
    export(typed, tmp_path / "a.arrow")
    table = read(tmp_path / "a.arrow")
    stored = pa.table(typed)
    table = table.rename_columns(stored.column_names)
    assert table.schema == stored.schema
    assert table.drop_columns(["x"]) == stored.drop_columns(["x"])
    assert np.array_equal(table["x"].to_numpy(), stored["x"].to_numpy(), equal_nan=True)
    export(typed, tmp_path / "b.arrow", columns="x,offset,value")
    assert read(tmp_path / "b.arrow").column_names[:4] == ["x", "offset", "n", "key"]


def test_a_plain_dtype(store: pystream.Store, tmp_path: Path) -> None:
    topic = store.topic("plain", create=True, dtype="f8")
    topic.append(np.arange(4) / 2)
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        export(topic, tmp_path / name, columns="value")
        assert [float(each) for each in read(tmp_path / name)["value"].to_pylist()] == [0.0, 0.5, 1.0, 1.5]


# ---- text -----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.none() | st.integers(-(2**63) + 1, 2**63 - 1), max_size=20),
    st.sampled_from(["ns", "us", "s"]),
)
def test_moments_are_written_as_numpy_writes_them(numbers: list[int | None], unit: str) -> None:
    scale = {"ns": 1, "us": 10**3, "s": 10**9}[unit]
    small = [None if number is None else number // scale for number in numbers]
    written = moments(pa.array(small, pa.timestamp(unit, "UTC"))).to_pylist()
    expected = [
        None if n is None else str(np.datetime64(n * scale, "ns")) + "Z" if abs(n * scale) < 2**63 else None
        for n in small
    ]
    assert written == [
        w if e is None and n is not None else e for w, e, n in zip(written, expected, small, strict=True)
    ]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.none() | st.text(), min_size=1, max_size=12), st.lists(st.floats() | st.none(), max_size=12)
)
def test_text_and_numbers_in_json_lines(texts: list[str | None], numbers: list[float | None]) -> None:
    from pystream.export.jsonlines import render

    count = max(len(texts), len(numbers))
    table = pa.record_batch(
        {
            "text": pa.array(texts + [None] * (count - len(texts)), pa.string()),
            'odd "name"\n': pa.array(numbers + [None] * (count - len(numbers)), pa.float64()),
        }
    )
    for rows in (table, table.slice(1), table.slice(count // 2, 1)):
        if not rows.num_rows:
            continue
        written = bytes(render(rows, frozenset()))
        assert written.endswith(b"\n")
        finite = [
            {**row, 'odd "name"\n': x if x is not None and np.isfinite(x) else None}
            for row in rows.to_pylist()
            for x in [row['odd "name"\n']]
        ]
        assert [json.loads(line) for line in written.split(b"\n")[:-1]] == finite


def test_a_delimiter(mixed: pystream.Topic, tmp_path: Path) -> None:
    export(mixed, tmp_path / "a.csv", delimiter=";", columns="offset,key")
    assert data_of(tmp_path / "a.csv").startswith(b'"offset";"key"\n0;')


# ---- bad records ----------------------------------------------------------------------------------------


@pytest.fixture
def dirty(store: pystream.Store) -> pystream.Topic:
    topic = store.topic("dirty", create=True, partitions=2)
    topic.partition(1).append(
        [b"a", b"\xff\xfe", b"c", b"d", b"e\x80"],
        keys=[b"k", b"k", b"\xc3", None, b"k"],
        headers=[None, None, None, [("n", b"1"), ("h", b"\xe9")], None],
    )
    return topic


@pytest.mark.parametrize("name", TEXT)
def test_what_is_not_utf8_is_named(dirty: pystream.Topic, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRecordError) as caught:
        export(dirty, tmp_path / name)
    assert str(caught.value) == (
        'dirty/1 offset 1: value is not UTF-8 (byte 0xff at 0); base64 or hex, as in value="base64", writes '
        'any bytes; bad_values="skip" leaves such records out'
    )
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("dirty", 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_bad_key_and_a_bad_header_are_named(dirty: pystream.Topic, tmp_path: Path) -> None:
    with pytest.raises(BadRecordError, match=r'offset 2: key is not UTF-8 .* as in key="base64"'):
        export(dirty, tmp_path / "a.csv", start={1: 2})
    with pytest.raises(BadRecordError, match=r"offset 3: headers header is not UTF-8|offset 3: header"):
        export(dirty, tmp_path / "a.csv", start={1: 3})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_skipping_tells_and_counts(dirty: pystream.Topic, tmp_path: Path, name: str) -> None:
    told: list[tuple[int, int, str]] = []
    result = export(
        dirty,
        tmp_path / name,
        bad_values="skip",
        on_bad=lambda *each: told.append(each),
        columns="offset,key,value,headers",
    )
    assert (result.records, result.skipped) == (1, 4)
    assert [(p, o) for p, o, _ in told] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert read(tmp_path / name)["offset"].to_pylist() == [0]


def test_all_may_be_skipped(dirty: pystream.Topic, tmp_path: Path) -> None:
    result = export(dirty, tmp_path / "a.csv", bad_values="skip", start={1: 4})
    assert (result.records, result.skipped) == (0, 1)
    assert read(tmp_path / "a.csv").num_rows == 0


def test_damage_is_not_exported(store: pystream.Store, tmp_path: Path) -> None:
    topic = store.topic("t", create=True)
    topic.append([b"some value that is there"] * 3)
    (segment,) = (tmp_path / "store/topics/t/0").glob("*.log")
    data = bytearray(segment.read_bytes())
    at = data.index(b"some value")
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    with pytest.raises(pystream.CorruptLogError):
        export(topic, tmp_path / "a.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
