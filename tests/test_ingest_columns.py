"""Columns as keys, timestamps and fields of a dtype; rows that are bad, and where they stand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pystream
from pystream._native.hashing import murmur2
from pystream._native.limits import SEGMENT_BYTES_MIN
from pystream.ingest import BadRowError, SourceError, blocks, infer_dtype, ingest, shape


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pystream.Store]:
    with pystream.open(tmp_path / "store") as opened:
        yield opened


def ingested(store: pystream.Store, path: Path, name: str = "t", **options: Any) -> list[pystream.Record]:
    made = {
        key: options.pop(key) for key in ("dtype", "partitions", "key_bytes", "value_bytes") if key in options
    }
    topic = store.topic(name, create=True, **made)
    ingest(topic, path, **options)
    return list(topic.records())


# ---- keys and values --------------------------------------------------------------------------------------


def test_keys_choose_partitions_as_a_producer_does(store, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("k,n\n" + "".join(f"käy {i % 50},{i}\n" for i in range(5000)))
    records = ingested(store, path, key="k", partitions=7)
    assert len(records) == 5000
    for record in records:
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 7
    sent = store.topic("sent", create=True, partitions=7)
    with sent.producer() as producer:
        for line in path.read_text().splitlines()[1:]:
            producer.send(b"", key=line.split(",")[0].encode())
    assert sent.offsets() == store["t"].offsets()


def test_records_without_a_key_take_turns(store, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"n":{i}}}\n' for i in range(10_000)))
    ingested(store, tmp_path / "a.jsonl", partitions=4)
    assert store["t"].offsets() == dict.fromkeys(range(4), (0, 2500))


TEXTS = {
    "int": (pa.array([-5, 2**40]), [b"-5", b"1099511627776"]),
    "float": (pa.array([1.0, 0.1]), [b"1.0", b"0.1"]),
    "bool": (pa.array([True, False]), [b"true", b"false"]),
    "text": (pa.array(["ü", ""]), ["ü".encode(), b""]),
    "binary": (pa.array([b"\xff", None]), [b"\xff", None]),
    "date": (pa.array([date(2024, 1, 2), None]), [b"2024-01-02", None]),
    "time": (
        pa.array([0, 1], pa.timestamp("ms", "UTC")),
        [b"1970-01-01T00:00:00.000Z", b"1970-01-01T00:00:00.001Z"],
    ),
    "dictionary": (pa.array(["a", "b"]).dictionary_encode(), [b"a", b"b"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_a_column(store, tmp_path, name):
    column, expected = TEXTS[name]
    pq.write_table(pa.table({"c": column, "n": [1, 2]}), tmp_path / "a.parquet")
    records = ingested(store, tmp_path / "a.parquet", key="c", value_column="c")
    assert [record.key for record in records] == expected
    assert [record.value for record in records] == expected


def test_the_text_of_json_fields(store, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"k":1}\n{"k":"ü"}\n{"k":null}\n{"x":1}\n{"k":true}\n{"k":1.5}\n{"k":[1]}\n'
    )
    records = ingested(store, tmp_path / "a.jsonl", key="k", bad_rows="skip")
    assert [record.key for record in records] == [b"1", "ü".encode(), None, None, b"true", b"1.5"]


def test_nested_columns_are_no_keys(store, tmp_path):
    pq.write_table(pa.table({"c": [[1], [2]]}), tmp_path / "a.parquet")
    with pytest.raises(
        pystream.OptionError, match=r"the column 'c' cannot be the key: nested values have no text"
    ):
        ingested(store, tmp_path / "a.parquet", key="c")


# ---- timestamps -------------------------------------------------------------------------------------------

NS = 10**9
JAN = 1_704_067_200  # 2024-01-01T00:00:00Z

TIMES = [
    ("2024-01-01T00:00:00Z", {}, JAN * NS),
    ("2024-01-01 00:00:00", {}, JAN * NS),
    ("2024-01-01", {}, JAN * NS),
    ("2024-01-01T00:00", {}, JAN * NS),
    ("2024-01-01T02:00:00+02:00", {}, JAN * NS),
    ("2024-01-01T00:00:00.123456789", {}, JAN * NS + 123456789),
    ("2024-01-01T00:00:00.5-0130", {}, (JAN + 5400) * NS + NS // 2),
    ("1677-09-21T00:12:43.145224193Z", {}, -(2**63) + 1),
    ("1969-12-31T23:59:59.999999999Z", {}, -1),
    ("2262-04-11T23:47:16.854775807Z", {}, 2**63 - 1),
    ("2024-01-01 01:00", {"timezone": "Europe/Berlin"}, JAN * NS),
    ("2024-01-01T00:00:00Z", {"timezone": "Europe/Berlin"}, JAN * NS),
    ("2024-10-27 02:30", {"timezone": "Europe/Berlin"}, 1_729_989_000 * NS),
    ("01/01/2024", {"timestamp_format": "%d/%m/%Y"}, JAN * NS),
    ("01.01.2024 00:00:00.25", {"timestamp_format": "%d.%m.%Y %H:%M:%S.%f"}, JAN * NS + NS // 4),
    ("1 Jan 2024 02:00 +0200", {"timestamp_format": "%d %b %Y %H:%M %z"}, JAN * NS),
    (str(JAN), {"timestamp_unit": "s"}, JAN * NS),
    (f"{JAN}.000000001", {"timestamp_unit": "s"}, JAN * NS + 1),
    (f"{JAN}123", {"timestamp_unit": "ms"}, JAN * NS + 123_000_000),
    (f"{JAN}123456", {"timestamp_unit": "us"}, JAN * NS + 123_456_000),
    (f"{JAN}123456789", {"timestamp_unit": "ns"}, JAN * NS + 123_456_789),
    ("0", {"timestamp_unit": "s"}, 0),
]


@pytest.mark.parametrize(("text", "options", "expected"), TIMES)
@pytest.mark.parametrize("companion", [None, "bad"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_moments_of_text(store, tmp_path, text, options, expected, companion, form):
    """Alone, when the whole column is read at once, and beside a bad one, when each is looked at."""
    texts = [text, text] + ([companion] if companion else [])
    if form == "csv":
        (tmp_path / "a.csv").write_text("n,when\n" + "".join(f"1,{item}\n" for item in texts))
    else:
        (tmp_path / "a.jsonl").write_text(
            "".join(json.dumps({"n": 1, "when": item}) + "\n" for item in texts)
        )
    records = ingested(store, tmp_path / f"a.{form}", timestamp="when", bad_rows="skip", **options)
    assert [record.timestamp for record in records] == [expected, expected]


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (pa.array([JAN, JAN], pa.timestamp("s")), {}),
        (pa.array([JAN * 1000] * 2, pa.timestamp("ms", "America/New_York")), {}),
        (pa.array([datetime(2024, 1, 1, 1)] * 2, pa.timestamp("us")), {"timezone": "Europe/Berlin"}),
        (pa.array([date(2024, 1, 1)] * 2), {}),
        (pa.array([JAN * 1000] * 2), {"timestamp_unit": "ms"}),
        (pa.array([JAN] * 2, pa.uint32()), {"timestamp_unit": "s"}),
        (pa.array([float(JAN)] * 2), {"timestamp_unit": "s"}),
        (pa.array(["2024-01-01"] * 2).dictionary_encode(), {}),
    ],
)
def test_moments_of_typed_columns(store, tmp_path, column, options):
    pq.write_table(pa.table({"when": column}), tmp_path / "a.parquet")
    records = ingested(store, tmp_path / "a.parquet", timestamp="when", **options)
    assert [record.timestamp for record in records] == [JAN * NS, JAN * NS]


def test_json_numbers_are_moments_by_their_unit(store, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"t":1704067200.5}\n{"t":1704067200}\n{"t":true}\n{"t":{}}\n{"t":null}\n{}\n'
    )
    refused: list[Any] = []
    records = ingested(
        store,
        tmp_path / "a.jsonl",
        timestamp="t",
        timestamp_unit="s",
        bad_rows="skip",
        on_bad_row=refused.append,
    )
    assert [record.timestamp for record in records] == [JAN * NS + NS // 2, JAN * NS]
    assert [(row.number, row.reason) for row in refused] == [
        (3, "the timestamp True is not a moment"),
        (4, "the timestamp '{}' is not a number"),
        (5, "column 't' has no timestamp"),
        (6, "column 't' has no timestamp"),
    ]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("soon", {}, "the timestamp 'soon' is not ISO 8601"),
        ("", {}, "column 'when' has no timestamp"),
        ("2024-02-30", {}, "the timestamp '2024-02-30' is not a moment"),
        ("2300-01-01", {}, "is outside 1677-09-21 .. 2262-04-11"),
        ("1677-09-21T00:12:43.145224192Z", {}, "is outside 1677-09-21 .. 2262-04-11"),
        (
            "2024-01-01",
            {"timestamp_format": "%d/%m/%Y"},
            "the timestamp '2024-01-01' does not match '%d/%m/%Y'",
        ),
        ("x", {"timestamp_unit": "s"}, "the timestamp 'x' is not a number"),
        (str(JAN * 1000), {"timestamp_unit": "s"}, "is outside 1677-09-21 .. 2262-04-11"),
    ],
)
def test_texts_that_are_no_moments(store, tmp_path, text, options, reason):
    (tmp_path / "a.csv").write_text(f"n,when\n1,{text}\n")
    with pytest.raises(BadRowError) as raised:
        ingested(store, tmp_path / "a.csv", timestamp="when", **options)
    assert reason in raised.value.row.reason
    assert raised.value.row.number == 2


def test_numbers_need_a_unit(store, tmp_path):
    pq.write_table(pa.table({"when": [JAN]}), tmp_path / "a.parquet")
    with pytest.raises(pystream.OptionError, match=r"column 'when': the timestamps are numbers: say whether"):
        ingested(store, tmp_path / "a.parquet", timestamp="when")


def test_a_topic_that_stamps_its_records_itself(store, tmp_path):
    (tmp_path / "a.csv").write_text("when\n2024-01-01\n")
    topic = store.topic("t", create=True, timestamp_type="append")
    with pytest.raises(pystream.OptionError, match=r"timestamp=: the topic stamps its records itself"):
        ingest(topic, tmp_path / "a.csv", timestamp="when")
    assert ingest(topic, tmp_path / "a.csv").rows == 1


# ---- records of a dtype -----------------------------------------------------------------------------------

DTYPE = np.dtype(
    [("i", ">i2"), ("f", "f4"), ("b", "?"), ("t", "M8[ms]"), ("s", "S4"), ("u", "U3"), ("d", "f8")]
)
ROWS = np.array(
    [
        (-5, 0.5, True, "2024-01-01T00:00:00.001", b"ab", "üx", 1e300),
        (32767, np.nan, False, "1960-01-01", b"", "", np.nan),
    ],
    DTYPE,
)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_fields_take_the_columns_of_their_names(store, tmp_path, form):
    path = tmp_path / f"a.{form}"
    if form == "csv":
        path.write_text(
            "d,i,f,b,t,s,u,more\n1e300,-5,0.5,true,2024-01-01T00:00:00.001,ab,üx,1\nNA,32767,,0,1960-01-01,,,2\n"
        )
    elif form == "jsonl":
        path.write_text(
            '{"i":-5,"f":0.5,"b":true,"t":"2024-01-01T00:00:00.001","s":"ab","u":"üx","d":1e300,"more":1}\n'
            '{"i":32767,"f":null,"b":false,"t":"1960-01-01","s":"","u":""}\n'
        )
    else:
        table = {
            "i": pa.array([-5, 32767], pa.int64()),
            "f": pa.array([0.5, None], pa.float64()),
            "b": [True, False],
            "t": pa.array([datetime(2024, 1, 1, microsecond=1000), datetime(1960, 1, 1)], pa.timestamp("us")),
            "s": [b"ab", b""],
            "u": ["üx", ""],
            "d": [1e300, float("nan")],
            "more": [1, 2],
        }
        pq.write_table(pa.table(table), path)
    topic = store.topic("t", create=True, dtype=DTYPE)
    result = ingest(topic, path)
    (array,) = topic.partition(0).arrays()
    assert array.dtype == DTYPE
    for name in DTYPE.names:
        np.testing.assert_array_equal(array[name], ROWS[name])
    assert result.unused_columns == ["more"]


@pytest.mark.parametrize(
    ("field", "good", "bad", "reason"),
    [
        ("u1", ["0", "255"], ["256", "-1", "1.5", "", "x"], "column 'a': "),
        ("i8", [str(2**63 - 1), str(-(2**63))], [str(2**63), "9.5"], "column 'a': "),
        ("f4", ["3e38", "inf", "-1", "NA", ""], ["1e39", "x"], "column 'a': "),
        ("?", ["true", "False", "1", "0"], ["2", "yes", ""], "column 'a': "),
        ("M8[s]", ["2024-01-01T00:00:01"], ["2024-01-01T00:00:01.5", "x", ""], "column 'a'"),
        ("S2", ["ab", "", "ü"], ["abc", "üx"], "column 'a': "),
        ("U2", ["ab", "üx"], ["abc"], "column 'a': "),
    ],
)
def test_what_fits_a_field_and_what_does_not(store, tmp_path, field, good, bad, reason):
    (tmp_path / "a.csv").write_text("n,a\n" + "".join(f"1,{text}\n" for text in good + bad))
    refused: list[Any] = []
    topic = store.topic("t", create=True, dtype=[("a", field), ("n", "i1")])
    ingest(topic, tmp_path / "a.csv", bad_rows="skip", on_bad_row=refused.append)
    assert topic.offsets() == {0: (0, len(good))}
    assert [row.number for row in refused] == [2 + len(good) + i for i in range(len(bad))]
    assert all(row.reason.startswith(reason) for row in refused)
    (tmp_path / "b.jsonl").write_text('{"a":[1],"n":1}\n{"a":{},"n":1}\n')
    assert ingest(topic, tmp_path / "b.jsonl", bad_rows="skip").bad_rows == 2


def test_a_plain_dtype_takes_one_column(store, tmp_path):
    (tmp_path / "a.csv").write_text("n,x\n1,0.5\n2,0.25\n")
    topic = store.topic("t", create=True, dtype="f8")
    with pytest.raises(pystream.OptionError, match=r"say which column they are \(value_column=\)"):
        ingest(topic, tmp_path / "a.csv")
    ingest(topic, tmp_path / "a.csv", value_column="x", key="n")
    assert np.concatenate(list(topic.partition(0).arrays())).tolist() == [0.5, 0.25]
    assert [record.key for record in topic.records()] == [b"1", b"2"]


def test_fields_without_a_column(store, tmp_path):
    (tmp_path / "a.csv").write_text("price,qty\n1,2\n")
    topic = store.topic("t", create=True, dtype=[("prize", "f8"), ("qty", "i4")])
    with pytest.raises(pystream.OptionError, match=r"a\.csv: no column 'prize'; did you mean 'price'\?"):
        ingest(topic, tmp_path / "a.csv")


def test_values_of_a_dtype_are_not_chosen(store, tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    topic = store.topic("t", create=True, dtype=[("a", "i8")])
    with pytest.raises(pystream.OptionError, match=r"value='json': the topic has records of"):
        ingest(topic, tmp_path / "a.csv", value="json")
    odd = store.topic("odd", create=True, dtype=[("a", "f4", (3,))])
    with pytest.raises(pystream.OptionError, match=r"field 'a' of .*: rows can fill numbers, booleans"):
        ingest(odd, tmp_path / "a.csv")


def test_inferred_dtypes(tmp_path):
    table = pa.table(
        {
            "i": pa.array([1], pa.int16()),
            "f": pa.array([1], pa.float32()),
            "b": [True],
            "t": pa.array([1], pa.timestamp("us", "UTC")),
            "d": pa.array([date(2024, 1, 1)]),
            "m": pa.array([timedelta(0)], pa.duration("ms")),
            "s": pa.array([b"abc"], pa.binary(3)),
        }
    )
    fields = [
        ("i", "i2"),
        ("f", "f4"),
        ("b", "?"),
        ("t", "M8[us]"),
        ("d", "M8[D]"),
        ("m", "m8[ms]"),
        ("s", "S3"),
    ]
    pq.write_table(table, tmp_path / "a.parquet")
    assert infer_dtype(tmp_path / "a.parquet") == np.dtype(fields)
    (tmp_path / "a.csv").write_text("i,f,t\n1,0.5,2024-01-01 00:00:00\n")
    assert infer_dtype(tmp_path / "a.csv") == np.dtype([("i", "i8"), ("f", "f8"), ("t", "M8[s]")])
    (tmp_path / "a.jsonl").write_text('{"i":1,"f":0.5,"b":false}\n')
    assert infer_dtype(tmp_path / "a.jsonl") == np.dtype([("i", "i8"), ("f", "f8"), ("b", "?")])


def test_an_inferred_topic_holds_the_rows(store, tmp_path):
    table = pa.table(
        {"t": pa.array([1, 2], pa.timestamp("ns")), "x": [0.5, None], "d": pa.array([date(2024, 1, 1)] * 2)}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    topic = store.topic("t", create=True, dtype=infer_dtype(tmp_path / "a.parquet"))
    ingest(topic, tmp_path / "a.parquet", timestamp="t")
    (array,) = topic.partition(0).arrays()
    assert array["t"].astype("i8").tolist() == [1, 2]
    assert array["d"].tolist() == [date(2024, 1, 1)] * 2
    assert np.isnan(array["x"][1])


def test_what_cannot_be_inferred(tmp_path):
    pq.write_table(pa.table({"a": [1], "name": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(
        pystream.OptionError,
        match=r"column 'name' of string \(text has no fixed width: say one, such as S16\)",
    ):
        infer_dtype(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(SourceError, match="no rows, so no types to judge by"):
        infer_dtype(tmp_path / "a.csv")


# ---- bad rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [37, 100, 4 << 20])
def test_bad_rows_of_csv_have_their_line(store, tmp_path, monkeypatch, block):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    text = 'n,s\n1,a\n\n2,"two\nlines"\ntoo,many,fields\n3,b\nfew\nx4,c\n5,"a\n\n\nb"\n6,\xff\n7,d\n'
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    refused: list[Any] = []
    topic = store.topic("t", create=True)
    result = ingest(
        topic, tmp_path / "a.csv", types={"n": "number"}, bad_rows="skip", on_bad_row=refused.append,
        bad_rows_to=tmp_path / "bad.jsonl",
    )  # fmt: skip
    assert [json.loads(record.value)["n"] for record in topic.records()] == [1, 2, 3, 5, 7]
    assert [(row.number, row.reason, row.text) for row in refused] == [
        (6, "3 fields, where 2 are due", b"too,many,fields"),
        (8, "1 field, where 2 are due", b"few"),
        (9, "column 'n': \"x4\" is no number; if the column holds text, say types=n=string", b"x4,c"),
        (14, "column 's': b'\\xff' is not UTF-8", b"6,\xff"),
    ]
    assert (result.rows, result.bad_rows) == (5, 4)
    noted = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(row["line"], row.get("text"), row.get("text_base64")) for row in noted] == [
        (6, "too,many,fields", None),
        (8, "few", None),
        (9, "x4,c", None),
        (14, None, "Niz/"),
    ]


@pytest.mark.parametrize("block", [10, 4 << 20])
def test_bad_rows_of_json_lines(store, tmp_path, monkeypatch, block):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    (tmp_path / "a.jsonl").write_bytes(
        b'{"a":1}\n\n[1]\n{"a":\n{"a":NaN}\n{"a":"\xff"}\n  \n{"a":2} {"a":3}\n{"a":4}'
    )
    refused: list[Any] = []
    records = ingested(store, tmp_path / "a.jsonl", bad_rows="skip", on_bad_row=refused.append)
    assert [record.value for record in records] == [b'{"a":1}', b'{"a":4}']
    assert [row.number for row in refused] == [3, 4, 5, 6, 8]
    assert refused[0].reason == "not a JSON object, which a row is, but list"
    assert all(row.reason.startswith("not JSON (") for row in refused[1:])


def test_json_without_orjson(store, tmp_path, monkeypatch):
    monkeypatch.setattr("pystream.ingest.text.orjson", None)
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1}\n{"a":NaN}\n{"a":"\xff"}\n{"a":"\xc3\xbc"}\n')
    records = ingested(store, tmp_path / "a.jsonl", bad_rows="skip", value_column="a")
    assert [record.value for record in records] == [b"1", "ü".encode()]
    pq.write_table(pa.table({"ü": [[1.5, None]]}), tmp_path / "a.parquet")
    (record,) = ingested(store, tmp_path / "a.parquet", "u")
    assert record.value == '{"ü":[1.5,null]}'.encode()


def test_rows_of_parquet_have_numbers(store, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "TABLE_ROWS", 10)
    pq.write_table(
        pa.table({"t": ["2024-01-01"] * 25 + ["never"] + ["2024-01-01"] * 4}),
        tmp_path / "a.parquet",
        row_group_size=12,
    )
    with pytest.raises(BadRowError, match=r"a\.parquet: row 26: the timestamp 'never' is not ISO 8601"):
        ingested(store, tmp_path / "a.parquet", timestamp="t")
    assert store["t"].offsets() == {0: (0, 24)}


def test_widths_of_a_topic(store, tmp_path):
    (tmp_path / "a.csv").write_text("k,v\nab,1234\nabc,1234\nab,12345\nab,5678\n")
    records = ingested(
        store, tmp_path / "a.csv", key="k", value_column="v", key_bytes=2, value_bytes=4, bad_rows="skip"
    )
    assert [(record.key, record.value) for record in records] == [(b"ab", b"1234"), (b"ab", b"5678")]


@pytest.mark.parametrize("more", [0, 1])
def test_rows_at_the_limit_of_a_segment(store, tmp_path, more):
    room = SEGMENT_BYTES_MIN - pystream._native.limits.FRAME_HEADER_BYTES - shape.FRAMING_BYTES
    topic = store.topic("t", create=True, segment_bytes=SEGMENT_BYTES_MIN)
    (tmp_path / "a.jsonl").write_text("x" * (room + more) + "\n" + "y\n")
    refused: list[Any] = []
    ingest(topic, tmp_path / "a.jsonl", value="raw", bad_rows="skip", on_bad_row=refused.append)
    assert [len(record.value) for record in topic.records()] == [*([] if more else [room]), 1]
    reasons = [f"{room + 1} bytes, where a segment of this topic has room for {room}"] if more else []
    assert [row.reason for row in refused] == reasons


def test_batches_larger_than_a_segment_are_cut(store, tmp_path):
    topic = store.topic("t", create=True, segment_bytes=SEGMENT_BYTES_MIN)
    (tmp_path / "a.jsonl").write_text("".join(f'{{"n":{i}}}\n' for i in range(50_000)))
    ingest(topic, tmp_path / "a.jsonl")
    assert [json.loads(record.value)["n"] for record in topic.records()] == list(range(50_000))


def test_timestamps_default_to_now(store, tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    before = datetime.now(UTC)
    (record,) = ingested(store, tmp_path / "a.csv")
    assert before.timestamp() * NS - 10**6 <= record.timestamp <= datetime.now(UTC).timestamp() * NS + 10**6
