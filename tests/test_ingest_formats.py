"""Files of every format and compression become the same records."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystream
from pystream.ingest import SourceError, blocks, ingest

TABLE = pa.table(
    {
        "id": pa.array(range(3000), pa.int64()),
        "name": [f'näme {i} "quoted", \\ and\ttab' if i % 7 else "" for i in range(3000)],
        "price": [i / 8 for i in range(3000)],
        "open": [i % 3 == 0 for i in range(3000)],
    }
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pystream.Store]:
    with pystream.open(tmp_path / "store") as opened:
        yield opened


def topic_of(store: pystream.Store, name: str = "t", **options: Any) -> pystream.Topic:
    return store.topic(name, create=True, **options)


def values(topic: pystream.Topic) -> list[bytes | None]:
    return [record.value for record in topic.records()]


def documents(topic: pystream.Topic) -> list[Any]:
    return [json.loads(value or b"") for value in values(topic)]


def write(table: pa.Table, path: Path) -> None:
    """A table as a file of the format and compression that its name says."""
    buffer = io.BytesIO()
    name = path.name
    if ".csv" in name or ".tsv" in name:
        pcsv.write_csv(table, buffer, pcsv.WriteOptions(delimiter="\t" if ".tsv" in name else ","))
    elif ".jsonl" in name:
        for row in table.to_pylist():
            buffer.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    elif ".parquet" in name:
        pq.write_table(table, buffer, row_group_size=1000)
    elif ".feather" in name:
        feather.write_feather(table, buffer, compression="zstd", chunksize=700)
    else:
        kind = ipc.new_stream if ".arrows" in name else ipc.new_file
        with kind(buffer, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    codec = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}.get(path.suffix)
    with pa.OSFile(str(path), "wb") as raw:
        if codec is None:
            raw.write(buffer.getvalue())
        else:
            with pa.CompressedOutputStream(raw, codec) as out:
                out.write(buffer.getvalue())


NAMES = [
    *("a.csv", "a.csv.gz", "a.csv.zst", "a.csv.bz2", "a.csv.lz4", "a.tsv", "a.tsv.gz"),
    *(
        "a.jsonl",
        "a.jsonl.gz",
        "a.jsonl.zst",
        "a.parquet",
        "a.arrow",
        "a.arrows",
        "a.arrows.zst",
        "a.feather",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_each_format(store, tmp_path, monkeypatch, name):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20_000)
    write(TABLE, tmp_path / name)
    topic = topic_of(store)
    result = ingest(topic, tmp_path / name)
    assert documents(topic) == TABLE.to_pylist()
    assert (result.rows, result.bad_rows, result.rows_total) == (3000, 0, 3000)
    assert result.bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_the_first_bytes_tell_what_no_name_tells(store, tmp_path, name):
    write(TABLE, tmp_path / name)
    (tmp_path / name).rename(tmp_path / "data")
    topic = topic_of(store)
    if "csv" in name or "tsv" in name or name.endswith(("jsonl.gz", "jsonl.zst", "arrows.zst")):
        with pytest.raises(
            pystream.OptionError, match=r"data: cannot tell its format; say which: csv, jsonl"
        ):
            ingest(topic, tmp_path / "data")
        form = "jsonl" if "jsonl" in name else "arrow-stream" if "arrows" in name else "csv"
        ingest(topic, tmp_path / "data", format=form, delimiter="\t" if "tsv" in name else None)
    else:
        ingest(topic, tmp_path / "data")
    assert documents(topic) == TABLE.to_pylist()


def test_several_sources_and_patterns(store, tmp_path):
    for index, name in enumerate(["b2.csv", "b10.csv", "b1.csv.gz"]):
        write(TABLE.slice(index * 10, 10), tmp_path / name)
    write(TABLE.slice(100, 5), tmp_path / "z.parquet")
    topic = topic_of(store)
    result = ingest(topic, [tmp_path / "z.parquet", str(tmp_path / "b*.csv*")])
    assert [Path(name).name for name in result.sources] == ["z.parquet", "b1.csv.gz", "b10.csv", "b2.csv"]
    ids = [row["id"] for row in documents(topic)]
    assert ids == [*range(100, 105), *range(20, 30), *range(10, 20), *range(10)]


def test_a_file_whose_name_looks_like_a_pattern(store, tmp_path):
    write(TABLE.slice(0, 3), tmp_path / "a[1].csv")
    assert ingest(topic_of(store), tmp_path / "a[1].csv").rows == 3


def test_several_members_of_gzip(store, tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a":1}\n') + gzip.compress(b'{"a":2}\n'))
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.jsonl.gz")
    assert values(topic) == [b'{"a":1}', b'{"a":2}']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a,b\n1,x\n2,y\n", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        (b"a,b\n1,x\n2,y", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        (b"a,b\r\n1,x\r\n\r\n2,y\r\n", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        (b"a,b\r1,x\r2,y\r", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        (b"\xef\xbb\xbfa,b\n1,x\n", [{"a": 1, "b": "x"}]),
        (b'a,b\n1,"x\ny"\n2,"p""q"\n', [{"a": 1, "b": "x\ny"}, {"a": 2, "b": 'p"q'}]),
        (b'"a\nc",b\n1,x\n', [{"a\nc": 1, "b": "x"}]),
        (b'a,b\n1,5" pipe\n2,6" pipe\n', [{"a": 1, "b": '5" pipe'}, {"a": 2, "b": '6" pipe'}]),
        (b"a,b\n,\n1,x\n", [{"a": None, "b": ""}, {"a": 1, "b": "x"}]),
        (
            b"a\n1.50\n-.5\n+2\n1e3\n3.\nNA\ninf\nnan\n",
            [{"a": n} for n in (1.5, -0.5, 2, 1000, 3, None, None, None)],
        ),
        (b"zip\n00501\n10115\n", [{"zip": "00501"}, {"zip": "10115"}]),
        (b"a,b\nTRUE,2024-01-01\nfalse,NA\n", [{"a": True, "b": "2024-01-01"}, {"a": False, "b": None}]),
        (b"a\n123456789012345678901234567890\n", [{"a": 123456789012345678901234567890}]),
        (b"a\n0.1000000000000000055511151231257827\n", [{"a": 0.1}]),
        (b'a\n"\x01\x1f\x7f\xf0\x9f\x98\x80/\\"\n', [{"a": "\x01\x1f\x7f\U0001f600/\\"}]),
        (b"a,b\n", []),
    ],
)
def test_csv_texts(store, tmp_path, text, expected):
    (tmp_path / "a.csv").write_bytes(text)
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.csv")
    assert documents(topic) == expected


def test_csv_numbers_keep_their_digits(store, tmp_path):
    (tmp_path / "a.csv").write_text("a\n1.10\n-0\n1E5\n12345678901234567890123\n")
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.csv")
    assert values(topic) == [b'{"a":1.10}', b'{"a":-0}', b'{"a":1E5}', b'{"a":12345678901234567890123}']


def test_csv_options(store, tmp_path):
    (tmp_path / "a.txt").write_text("1;'x;y'\n2;z\n")
    topic = topic_of(store)
    ingest(
        topic,
        tmp_path / "a.txt",
        format="csv",
        delimiter=";",
        quote="'",
        columns=["n", "s"],
        types={"*": "string"},
    )
    assert documents(topic) == [{"n": "1", "s": "x;y"}, {"n": "2", "s": "z"}]
    plain = topic_of(store, "plain")
    ingest(
        plain,
        tmp_path / "a.txt",
        format="csv",
        delimiter=";",
        quote=None,
        columns=["n", "s", "more"],
        bad_rows="skip",
    )
    assert documents(plain) == [{"n": 1, "s": "'x", "more": "y'"}]


def test_a_column_that_begins_empty(store, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    (tmp_path / "a.csv").write_text(
        "i,late,never\n" + "".join(f"{i},{i if i > 50 else ''},\n" for i in range(100))
    )
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.csv")
    expected = [{"i": i, "late": i if i > 50 else None, "never": None} for i in range(100)]
    assert documents(topic) == expected


def test_a_row_larger_than_a_block(store, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    rows = [{"a": "x" * size} for size in (1, 99, 100, 101, 350, 5, 1000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.jsonl")
    assert documents(topic) == rows


def test_the_largest_row(store, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 128)
    monkeypatch.setattr(blocks, "ROW_BYTES_MAX", 1024)
    (tmp_path / "a.csv").write_text('a\n1\n"' + "x" * 1021 + '"\n')
    assert ingest(topic_of(store), tmp_path / "a.csv", types={"a": "string"}).rows == 2
    (tmp_path / "b.csv").write_text('a\n1\n"' + "x" * 2000 + '"\n')
    with pytest.raises(
        SourceError, match=r"b\.csv:3: a row of more than .* begins here; is a quote not closed\?"
    ):
        ingest(topic_of(store), tmp_path / "b.csv")


def test_raw_lines_are_byte_for_byte(store, tmp_path):
    lines = [b'{"a":  1 }', b"not json at all", b"\xff\xfe\x00 bytes", b" {}"]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.jsonl", value="raw")
    assert values(topic) == lines
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,"x\n y" \r\n 2 ,z\n')
    csv = topic_of(store, "csv")
    ingest(csv, tmp_path / "a.csv", value="raw", key="b")
    assert values(csv) == [b'1,"x\n y" ', b" 2 ,z"]


def test_json_lines_stay_as_they_are(store, tmp_path):
    lines = [
        b'{"a" : 1.10, "b":[1,{"c":null}]}',
        b'{"b":"other type", "n":123456789012345678901234567890}',
        b"{}",
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n\n".join(lines))
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.jsonl")
    assert values(topic) == lines


TYPED = {
    "i8": (pa.array([1, None, -128], pa.int8()), [1, None, -128]),
    "u64": (pa.array([2**64 - 1, 0, None], pa.uint64()), [2**64 - 1, 0, None]),
    "f2": (pa.array(np.array([1.5, 2, 0], "f2")), [1.5, 2.0, 0.0]),
    "f4": (pa.array([0.1, float("nan"), None], pa.float32()), [0.1, None, None]),
    "f8": (pa.array([5.0, float("inf"), 1e300]), [5.0, None, 1e300]),
    "bool": (pa.array([True, None, False]), [True, None, False]),
    "null": (pa.nulls(3), [None] * 3),
    "text": (pa.array(['a"\\\n', None, "ü"]), ['a"\\\n', None, "ü"]),
    "large": (pa.array(["a", None, "ü"], pa.large_string()), ["a", None, "ü"]),
    "view": (pa.array(["a", None, "ü" * 30]).cast(pa.string_view()), ["a", None, "ü" * 30]),
    "dictionary": (pa.array(["x", None, "x"]).dictionary_encode(), ["x", None, "x"]),
    "binary": (pa.array([b"\xff\x00", None, b""]), ["/wA=", None, ""]),
    "fixed": (pa.array([b"ab", None, b"cd"], pa.binary(2)), ["YWI=", None, "Y2Q="]),
    "decimal": (
        pa.array([Decimal("1.50"), None, Decimal("-3.00")], pa.decimal128(9, 2)),
        ["1.50", None, "-3.00"],
    ),
    "date": (pa.array([date(2024, 2, 29), None, date(1969, 1, 1)]), ["2024-02-29", None, "1969-01-01"]),
    "time": (pa.array([time(1, 2, 3), None, time(0)], pa.time32("s")), ["01:02:03", None, "00:00:00"]),
    "naive": (
        pa.array([datetime(2024, 1, 1, 2, 3, 4, 5), None, datetime(1960, 1, 1)], pa.timestamp("us")),
        ["2024-01-01T02:03:04.000005", None, "1960-01-01T00:00:00.000000"],
    ),
    "aware": (
        pa.array([0, None, 3600], pa.timestamp("s", "Europe/Berlin")),
        ["1970-01-01T00:00:00Z", None, "1970-01-01T01:00:00Z"],
    ),
    "duration": (pa.array([timedelta(seconds=1), None, timedelta(0)], pa.duration("ms")), [1000, None, 0]),
    "list": (pa.array([[1.0, float("nan")], None, []]), [[1.0, None], None, []]),
    "struct": (
        pa.array(
            [
                {"b": b"\x01", "d": Decimal("1.5"), "t": date(2024, 1, 1)},
                None,
                {"b": None, "d": None, "t": None},
            ]
        ),
        [{"b": "AQ==", "d": "1.5", "t": "2024-01-01"}, None, {"b": None, "d": None, "t": None}],
    ),
}


@pytest.mark.parametrize("name", TYPED)
def test_arrow_types_in_json(store, tmp_path, name):
    column, expected = TYPED[name]
    table = pa.table({"other": [1, 2, 3], 'odd "näme"': column})
    with ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.arrow")
    assert documents(topic) == [{"other": i + 1, 'odd "näme"': value} for i, value in enumerate(expected)]


def test_float_stays_float(store, tmp_path):
    pq.write_table(pa.table({"a": [5.0, -0.0, 1e15, 1e22]}), tmp_path / "a.parquet")
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.parquet")
    assert [type(row["a"]) for row in documents(topic)] == [float] * 4
    assert [row["a"] for row in documents(topic)] == [5.0, -0.0, 1e15, 1e22]


cells = st.one_of(
    st.text(max_size=20),
    st.integers(-(10**6), 10**6).map(str),
    st.sampled_from(["", "NA", "true", '"', ",", "\n"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=30),
    st.integers(10, 200),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_as_pyarrow_reads_it(tmp_path_factory, rows, block, end):
    """Whatever is in the fields and wherever blocks are cut: the texts are those of Arrow's own reader."""
    path = tmp_path_factory.mktemp("h")
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
    text = end.join([",".join(row) for row in [['"a"', '"b"'], *quoted]])
    (path / "a.csv").write_bytes(text.encode("utf-8", "replace"))
    types = pcsv.ConvertOptions(column_types={"a": pa.string(), "b": pa.string()})
    wanted = pcsv.read_csv(
        path / "a.csv", parse_options=pcsv.ParseOptions(newlines_in_values=True), convert_options=types
    )
    with pytest.MonkeyPatch.context() as patch, pystream.open(path / "s") as store:
        patch.setattr(blocks, "BLOCK_BYTES", block)
        topic = topic_of(store)
        ingest(topic, path / "a.csv", types={"*": "string"})
        assert documents(topic) == wanted.to_pylist()


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5), st.recursive(scalars, lambda s: st.lists(s, max_size=3), max_leaves=5)
        ),
        min_size=1,
        max_size=10,
    )
)
def test_json_lines_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("h")
    (path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pystream.open(path / "s") as store:
        topic = topic_of(store)
        ingest(topic, path / "a.jsonl")
        assert documents(topic) == rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(),
            st.binary(),
        ),
        min_size=1,
    )
)
def test_parquet_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("h")
    columns = list(zip(*rows, strict=True))
    pq.write_table(
        pa.table({name: list(column) for name, column in zip("ifsb", columns, strict=True)}),
        path / "a.parquet",
    )
    with pystream.open(path / "s") as store:
        topic = topic_of(store, partitions=3)
        ingest(topic, path / "a.parquet", partition=1)
        assert [(d["i"], d["f"], d["s"], base64.b64decode(d["b"])) for d in documents(topic)] == rows
        assert topic.offsets()[1] == (0, len(rows))


# ---- what cannot be read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 and then nothing of use", r"a\.parquet: .*[Pp]arquet"),
        ("a.arrow", b"ARROW1\0\0 nothing", r"a\.arrow: "),
        ("a.arrows", b"\xff\xff\xff\xff\x10\0\0\0abc", r"a\.arrows: "),
        ("a.csv.gz", gzip.compress(b"a\n1\n2\n" * 1000)[:-12], r"a\.csv\.gz: Truncated compressed stream"),
        ("a.csv.gz", b"this is no gzip", r"a\.csv\.gz: "),
        ("a.csv", "a\n1\n".encode("utf-16"), r"a\.csv: UTF-16 text; make it UTF-8 first"),
        ("a.feather", b"FEA1....", r"a\.feather: Feather version 1"),
        ("a.dat", b"", r"a\.dat: empty, and its name does not say what it is"),
    ],
)
def test_unreadable_sources(store, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    topic = topic_of(store)
    with pytest.raises(SourceError, match=message):
        ingest(topic, tmp_path / name)
    assert values(topic) == []


def test_a_job_that_wrote_nothing_is_in_nobodys_way(store, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    topic = topic_of(store)
    with pytest.raises(SourceError):
        ingest(topic, tmp_path / "a.parquet")
    write(TABLE, tmp_path / "a.parquet")
    assert ingest(topic, tmp_path / "a.parquet").rows == 3000


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ([], pystream.OptionError, "no sources"),
        (["missing.csv"], SourceError, r"missing\.csv: No such file"),
        (["no-*.csv"], SourceError, r"no-\*\.csv: no file matches"),
        (["."], SourceError, r"\.: a directory; name its files, or a pattern such as '\./\*\.csv'"),
        (["a.csv", "./a.csv"], pystream.OptionError, r"the same file as a\.csv; its rows would go in twice"),
    ],
)
def test_sources_that_are_not_there(store, tmp_path, monkeypatch, given_, error, message):
    monkeypatch.chdir(tmp_path)
    write(TABLE, tmp_path / "a.csv")
    with pytest.raises(error, match=message):
        ingest(topic_of(store), given_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, "format='xml': must be one of 'csv'"),
        ({"compression": "rar"}, "compression='rar': must be one of"),
        ({"delimiter": ";;"}, "delimiter=';;': must be one ASCII character"),
        ({"delimiter": '"'}, "is the quote character too"),
        ({"types": {"id": "int"}}, "types=id=int: a column is"),
        ({"types": {"prize": "number"}}, "no column 'prize'; did you mean 'price'"),
        ({"columns": ["a", "a"]}, "the column 'a' stands there twice"),
        ({"key": "nam"}, "no column 'nam'; did you mean 'name'"),
        ({"timestamp_unit": "s"}, "need timestamp="),
        ({"timestamp": "id", "timestamp_unit": "h"}, "must be one of 's', 'ms', 'us', 'ns'"),
        ({"timestamp": "id", "timestamp_unit": "s", "timestamp_format": "%Y"}, "give one of them"),
        ({"timestamp": "id", "timestamp_format": "today"}, "not a format such as"),
        ({"timestamp": "id", "timezone": "Mars/Base"}, "no such time zone"),
        ({"value": "xml"}, "value='xml': must be 'json' or 'raw'"),
        ({"value": "raw", "value_column": "id"}, "give one of them"),
        ({"value_column": "ids"}, "no column 'ids'; did you mean 'id'"),
        ({"partition": 1}, "has only partition 0"),
        ({"bad_rows": "keep"}, "bad_rows='keep': must be one of"),
        ({"bad_rows_to": "x"}, "needs bad_rows='skip'"),
        ({"resume": True, "restart": True}, "contradict each other"),
        ({"checkpoint": -1}, "checkpoint=-1: must be from 0 to 3600 seconds"),
        ({"checkpoint": 3601}, "checkpoint=3601: must be from 0 to 3600 seconds"),
    ],
)
def test_options_that_make_no_sense(store, tmp_path, options, message):
    write(TABLE, tmp_path / "a.csv")
    topic = topic_of(store)
    with pytest.raises(pystream.OptionError, match=message):
        ingest(topic, tmp_path / "a.csv", **options)
    assert values(topic) == []
    assert ingest(topic, tmp_path / "a.csv", checkpoint=3600).rows == 3000


def test_raw_values_need_lines(store, tmp_path):
    write(TABLE, tmp_path / "a.parquet")
    with pytest.raises(
        pystream.OptionError, match=r"value='raw': .*a\.parquet is parquet, which has no lines"
    ):
        ingest(topic_of(store), tmp_path / "a.parquet", value="raw")


def test_names_that_stand_twice(store, tmp_path):
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    topic = topic_of(store)
    with pytest.raises(pystream.OptionError, match=r"a\.csv:1: the column 'a' stands there twice"):
        ingest(topic, tmp_path / "a.csv")
