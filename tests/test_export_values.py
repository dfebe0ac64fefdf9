"""JSON values: embedded as they are, or as columns of types that hold for the whole range."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pystream
from exports import data_of, lines, read
from harness import quick_directory
from pystream.export import BadRecordError, export
from pystream.export import blocks as blocks_module
from pystream.export.request import Fields
from pystream.export.values import Clash, columns, embedded, infer, unify

Fill = Callable[..., pystream.Topic]


@pytest.fixture
def fill(store: pystream.Store) -> Fill:
    """A topic of these values, each in a batch of its own when they are few."""

    def make(*values: bytes | str | None) -> pystream.Topic:
        topic = store.topic("t", create=True)
        for value in values:
            topic.append([value.encode() if isinstance(value, str) else value])
        return topic

    return make


def fields_of(*values: bytes) -> dict[str, Any]:
    found = infer([pa.array(values, pa.binary())], skip_bad=False)
    assert isinstance(found, Fields)
    return found.types


# ---- embedded -------------------------------------------------------------------------------------------


def test_values_are_embedded_as_they_are(fill: Fill, tmp_path: Path) -> None:
    values = [
        '{"a": 1.10,"a2":12345678901234567890123}',
        "{}",
        None,
        "[1,\n 2]",
        '"text"',
        "null",
        " 7 ",
        '{"b":\r\n{}}',
    ]
    export(fill(*values), tmp_path / "a.jsonl", value="json")
    written = data_of(tmp_path / "a.jsonl").decode()
    assert '"value":{"a": 1.10,"a2":12345678901234567890123},' in written
    assert len(written.splitlines()) == len(values)
    wanted = [None if value is None else json.loads(value) for value in values]
    assert [line["value"] for line in lines(tmp_path / "a.jsonl")] == wanted


def test_values_alone_are_the_lines(fill: Fill, tmp_path: Path) -> None:
    export(fill('{"a":1}', None, '{"b":\n2}'), tmp_path / "a.jsonl", value="json", columns="value")
    assert data_of(tmp_path / "a.jsonl") == b'{"a":1}\nnull\n{"b": 2}\n'


NOT_JSON = [
    b"", b" ", b"{", b"{}}", b'{"a":1}{"a":2}', b'{"a":1},', b'{"a":1}\n{"a":2}', b'{"a":NaN}',
    b'{"a":[1, -Infinity]}', b"{'a':1}", b'{"a":01}', b"\xff", b'{"a":"\xff"}', b'{"a":"\n"}', b"{}\0",
    b"[" * 100_000, b'{"a":1,}', b"nul",
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_JSON)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_what_is_not_json_is_named(fill: Fill, tmp_path: Path, name: str, value: bytes) -> None:
    topic = fill(b'{"a":1}', b'{"a":2}', value, b'{"a":3}')
    with pytest.raises(BadRecordError, match=r"^t/0 offset 2: value is not (JSON|UTF-8)"):
        export(topic, tmp_path / name, value="json")
    result = export(topic, tmp_path / name, value="json", columns="offset,value", bad_values="skip")
    assert (result.records, result.skipped) == (3, 1)
    got = lines(tmp_path / name) if name == "a.jsonl" else read(tmp_path / name).to_pylist()
    assert [row["offset"] for row in got] == [0, 1, 3]
    assert [row["value"]["a"] if name == "a.jsonl" else row["a"] for row in got] == [1, 2, 3]


def test_words_like_numbers_in_text_are_text(fill: Fill, tmp_path: Path) -> None:
    topic = fill('{"a":": NaN","b":["x, Infinity"]}', '{"a":"Information"}')
    export(topic, tmp_path / "a.jsonl", value="json", columns="value")
    assert lines(tmp_path / "a.jsonl") == [{"a": ": NaN", "b": ["x, Infinity"]}, {"a": "Information"}]
    export(topic, tmp_path / "a.parquet", value="json", columns="a")
    assert read(tmp_path / "a.parquet")["a"].to_pylist() == [": NaN", "Information"]


def test_halves_of_an_object_are_no_objects(fill: Fill, tmp_path: Path) -> None:
    """Two that are one when they are joined, beside one that is two: the counts agree."""
    topic = fill('{"a":', "1}", '{"a":2}{"a":3}')
    with pytest.raises(BadRecordError, match="offset 0"):
        export(topic, tmp_path / "a.jsonl", value="json")
    assert [bad.row for bad in embedded(pa.array([b'{"a":', b"1}", b'{"a":2}{"a":3}'], pa.binary()))[1]] == [
        0,
        1,
        2,
    ]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.none() | JSON_VALUES, min_size=1, max_size=8), st.sampled_from([None, 1]))
def test_any_json_is_embedded_exactly(values: list[Any], indent: int | None) -> None:
    texts = [
        None
        if value is None
        else json.dumps(value, indent=indent, ensure_ascii=indent is None).encode("utf-8", "surrogatepass")
        for value in values
    ]
    try:
        _ = [text and text.decode() for text in texts]
    except UnicodeDecodeError:
        return
    found, bad = embedded(pa.array(texts, pa.binary()))
    assert bad == []
    assert [None if text is None else json.loads(text) for text in found.to_pylist()] == values
    assert all("\n" not in (text or "") for text in found.to_pylist())


# ---- inferred types -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((b'{"a":1}', b'{"a":-9223372036854775808}'), pa.int64()),
        ((b'{"a":1}', b'{"a":2.5}'), pa.float64()),
        ((b'{"a":9223372036854775807}', b'{"a":2.5}'), pa.float64()),
        ((b'{"a":9223372036854775808}', b'{"a":1}'), pa.decimal128(38, 0)),
        ((b'{"a":99999999999999999999999999999999999999}',), pa.decimal128(38, 0)),
        ((b'{"a":100000000000000000000000000000000000000}',), None),
        ((b'{"a":true}', b'{"a":null}', b"{}"), pa.bool_()),
        ((b'{"a":null}', b"{}"), pa.string()),
        ((b'{"a":"2013-01-01 00:00:00"}',), pa.string()),
        ((b'{"a":"2013-01-01T00:00:00Z"}', b'{"a":"later"}'), pa.string()),
        ((b'{"a":1}', b'{"a":"x"}'), None),
        ((b'{"a":true}', b'{"a":1}'), None),
        ((b'{"a":{}}', b'{"a":{}}'), None),
        ((b'{"a":[]}',), pa.list_(pa.string())),
        ((b'{"a":[1]}', b'{"a":[null, 2.5]}'), pa.list_(pa.float64())),
        ((b'{"a":[1]}', b'{"a":["x"]}'), None),
        ((b'{"a":[1,"x"]}',), None),
        ((b'{"a":{"b":1}}', b'{"a":{"c":"2013-01-01"}}'), pa.struct([("b", pa.int64()), ("c", pa.string())])),
        ((b'{"a":{"b":1}}', b'{"a":{"b":"x"}}'), None),
        ((b'{"a":{"b":1}}', b'{"a":[1]}'), None),
    ],
)
def test_types_hold_for_all_values(values: tuple[bytes, ...], kind: Any) -> None:
    assert fields_of(*values) == {"a": kind}
    apart = infer([pa.array([value], pa.binary()) for value in values], skip_bad=False)
    assert apart == Fields({"a": kind})
    backwards = infer([pa.array([value], pa.binary()) for value in reversed(values)], skip_bad=False)
    assert isinstance(backwards, Fields)
    assert set(backwards.types) == {"a"}
    if kind is None or not pa.types.is_struct(kind):
        assert backwards.types["a"] == kind


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.none() | st.dictionaries(st.text("abc", min_size=1, max_size=1), JSON_VALUES, max_size=3),
        min_size=1,
        max_size=10,
    ),
    st.integers(1, 10),
)
def test_columns_hold_what_the_values_hold(values: list[dict[str, Any] | None], size: int) -> None:
    """Whatever the values are: the types found for all hold each, and nothing is lost but a float's digits
    where floats and integers meet."""
    texts = []
    for value in values:
        text = None if value is None else json.dumps(value, ensure_ascii=False)
        try:
            texts.append(None if text is None else text.encode())
        except UnicodeEncodeError:
            return
    blocks = [pa.array(texts[at : at + size], pa.binary()) for at in range(0, len(texts), size)]
    fields = infer(blocks, skip_bad=False)
    assert isinstance(fields, Fields)
    rows: list[dict[str, Any]] = []
    for block in blocks:
        arrays, bad = columns(block, fields)
        assert bad == []
        names = list(fields.types)
        rows += [
            {name: array[i].as_py() for name, array in zip(names, arrays, strict=True)}
            for i in range(len(block))
        ]
    for value, row in zip(values, rows, strict=True):
        for name, kind in fields.types.items():
            wanted = (value or {}).get(name)
            if kind is None:
                assert (None if row[name] is None else json.loads(row[name])) == wanted
            elif not pa.types.is_nested(kind):
                assert row[name] == wanted or float(row[name]) == float(wanted)


def test_a_clash_stays_a_clash() -> None:
    with pytest.raises(Clash):
        unify(pa.int64(), pa.string())
    one = infer(
        [pa.array([each], pa.binary()) for each in (b'{"a":1}', b'{"a":"x"}', b'{"a":2}')], skip_bad=False
    )
    assert one == Fields({"a": None})


def test_fields_over_several_blocks(fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 2)
    values = [
        '{"n":1,"s":"x"}',
        '{"n":2}',
        None,
        '{"n":2.5,"new":[true]}',
        '{"s":null,"big":18446744073709551615}',
    ]
    said: list[Any] = []
    export(fill(*values), tmp_path / "a.parquet", value="json", columns="offset,value", progress=said.append)
    table = read(tmp_path / "a.parquet")
    assert table.to_pylist() == [
        {"offset": 0, "n": 1.0, "s": "x", "new": None, "big": None},
        {"offset": 1, "n": 2.0, "s": None, "new": None, "big": None},
        {"offset": 2, "n": None, "s": None, "new": None, "big": None},
        {"offset": 3, "n": 2.5, "s": None, "new": [True], "big": None},
        {"offset": 4, "n": None, "s": None, "new": None, "big": Decimal(2**64 - 1)},
    ]
    # Begun with the fields of the first block, which are not those of the second.
    assert [each.step for each in said] == ["rows"] + ["schema"] * 3 + ["rows"] * 3
    assert [each.done for each in said] == [2] + [2, 4, 5] * 2


def test_fields_called_like_columns(fill: Fill, tmp_path: Path) -> None:
    topic = fill('{"key":1,"value_key":2,"offset":3,"value":4}')
    export(topic, tmp_path / "a.csv", value="json")
    names = ["offset", "timestamp", "key", "value_value_key", "value_key", "value_offset", "value", "headers"]
    assert read(tmp_path / "a.csv").column_names == names
    export(topic, tmp_path / "b.csv", value="json", columns="value")
    assert read(tmp_path / "b.csv").column_names == ["key", "value_key", "offset", "value"]
    export(topic, tmp_path / "c.csv", value="json", columns="value_offset,offset,value")
    assert read(tmp_path / "c.csv").to_pylist() == [
        {"value_offset": 3, "offset": 0, "key": "1", "value_key": 2, "value": "4"}
    ]


def test_some_fields(fill: Fill, tmp_path: Path) -> None:
    topic = fill('{"a":1,"b":{"c":[1]},"d":"x"}', '{"d":"y","a":null}')
    export(topic, tmp_path / "a.jsonl", value="json", columns="d,b,offset")
    assert lines(tmp_path / "a.jsonl") == [
        {"d": "x", "b": {"c": [1]}, "offset": 0},
        {"d": "y", "b": None, "offset": 1},
    ]
    export(topic, tmp_path / "b.csv", value="json", columns="d,value")
    assert data_of(tmp_path / "b.csv") == b'"d","a","b"\n"x",1,"{""c"":[1]}"\n"y",,\n'
    with pytest.raises(
        pystream.OptionError, match=r"columns='z': no such column; there are offset, .* a, b, d$"
    ):
        export(topic, tmp_path / "c.csv", value="json", columns="a,z")


def test_no_field_at_all(fill: Fill, tmp_path: Path) -> None:
    topic = fill("{}", None)
    export(topic, tmp_path / "a.csv", value="json", columns="offset,value")
    assert read(tmp_path / "a.csv").to_pylist() == [{"offset": 0}, {"offset": 1}]
    with pytest.raises(pystream.OptionError, match="no column to write"):
        export(topic, tmp_path / "b.csv", value="json", columns="value")


@pytest.mark.parametrize("value", ["[1]", "1", '"text"', "null"])
def test_only_objects_have_fields(fill: Fill, tmp_path: Path, value: str) -> None:
    topic = fill('{"a":1}', value)
    with pytest.raises(BadRecordError, match="offset 1: value is JSON but no object"):
        export(topic, tmp_path / "a.csv", value="json")


# ---- a schema that is given -----------------------------------------------------------------------------


def test_a_schema(fill: Fill, tmp_path: Path) -> None:
    topic = fill(
        '{"i":1,"f":1,"s":"x","t":"2013-01-01T00:00:00.123456789Z","m":12.50,"j":{"a":[1]},"b":true}',
        '{"j":"x"}',
    )
    schema = "i:int16,f:float32,s:string,t:timestamp,m:decimal(10, 2),j:json,b:bool"
    export(topic, tmp_path / "a.parquet", value="json", schema=schema, columns="value")
    table = read(tmp_path / "a.parquet")
    assert [str(kind) for kind in table.schema.types] == [
        "int16", "float", "string", "timestamp[ns, tz=UTC]", "decimal128(10, 2)", "string", "bool",
    ]  # fmt: skip
    assert table["t"].cast(pa.int64())[0].as_py() == 1_356_998_400_123_456_789
    assert table["m"][0].as_py() == Decimal("12.50")
    assert table["j"].to_pylist() == ['{"a":[1]}', '"x"']
    export(topic, tmp_path / "a.csv", value="json", schema=schema, columns="value")
    assert data_of(tmp_path / "a.csv").splitlines()[1].decode() == (
        '1,1,"x","2013-01-01T00:00:00.123456789Z",12.50,"{""a"":[1]}",true'
    )
    arrow = pa.schema([("i", pa.int8()), ("s", pa.string())])
    with pytest.raises(BadRecordError, match="it has a field that is not in schema=: 'f', 't', "):
        export(topic, tmp_path / "b.parquet", value="json", schema=arrow)


def test_a_schema_leaves_other_fields_out_only_when_told(fill: Fill, tmp_path: Path) -> None:
    topic = fill('{"a":1}', '{"a":2,"b":3}')
    with pytest.raises(BadRecordError) as caught:
        export(topic, tmp_path / "a.csv", value="json", schema="a:int")
    assert str(caught.value) == (
        "t/0 offset 1: value does not fit the schema: it has a field that is not in schema=: 'b'; add it, "
        'or end the schema with "..."; bad_values="skip" leaves such records out'
    )
    export(topic, tmp_path / "a.csv", value="json", schema="a:int,...", columns="value")
    assert data_of(tmp_path / "a.csv") == b'"a"\n"1"\n"2"\n'


@pytest.mark.parametrize("value", ['{"a":"x"}', '{"a":1.5}', '{"a":128}', '{"a":[1]}', '{"a":true}'])
def test_what_does_not_fit_is_named(fill: Fill, tmp_path: Path, value: str) -> None:
    topic = fill('{"a":127}', '{"a":-128}', None, value, "{}")
    with pytest.raises(BadRecordError, match="offset 3: value does not fit the schema: "):
        export(topic, tmp_path / "a.csv", value="json", schema="a:int8")
    told: list[Any] = []
    export(
        topic,
        tmp_path / "a.csv",
        value="json",
        schema="a:int8",
        columns="offset,a",
        bad_values="skip",
        on_bad=lambda *each: told.append(each),
    )
    assert [each[:2] for each in told] == [(0, 3)]
    assert read(tmp_path / "a.csv")["a"].to_pylist() == [127, -128, None, None]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("a", "'a' is not \"name:type\""),
        ("a:int,", "'' is not"),
        (":int", 'is not "name:type"'),
        ("a:thing", "no type 'thing'; there are bool, int"),
        ("a:int,a:str", "a name is there twice"),
        ("...", "no field"),
        ("a:decimal(39,0)", "1 to 38 digits"),
        ("a:decimal(2,3)", "1 to 38 digits"),
    ],
)
def test_schemas_that_are_refused(fill: Fill, tmp_path: Path, schema: str, message: str) -> None:
    with pytest.raises(pystream.OptionError, match=message.replace("(", r"\(").replace(")", r"\)")):
        export(fill("{}"), tmp_path / "a.csv", value="json", schema=schema)


def test_a_later_block_that_does_not_parse(tmp_path: Path) -> None:
    """Many good values, then a bad one: found among them, and the good ones are there without it."""
    with quick_directory() as directory, pystream.open(directory / "s") as store:
        topic = store.topic("t", create=True)
        values = [b'{"n":%d}' % i for i in range(20_000)]
        values[15_000] = b'{"n":}'
        with topic.producer() as producer:
            producer.send_many(values)
        with pytest.raises(BadRecordError, match="offset 15000: value is not JSON"):
            export(topic, tmp_path / "a.parquet", value="json")
        result = export(topic, tmp_path / "a.parquet", value="json", bad_values="skip", columns="n")
        assert result.skipped == 1
        wanted = [i for i in range(20_000) if i != 15_000]
        assert read(tmp_path / "a.parquet")["n"].to_pylist() == wanted


@pytest.mark.parametrize(
    "values",
    [
        ['{"a":1}', '{"a":2.5}'],
        ['{"a":2.5}', '{"a":12345678901234567890}'],
        ['{"a":null}', '{"a":"x"}', '{"a":3}'],
        ['{"a":1}', '{"b":"x"}'],
        ["{}", '{"z":1}'],
        [None, '{"z":1}'],
        ['{"a":18446744073709551615}', '{"a":2.5}'],
        ['{"a":[]}', '{"a":[1]}'],
        ['{"a":1}', '{"a":"x"}', '{"a":1}'],
    ],
)
def test_a_guess_changes_nothing(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[str | None]
) -> None:
    """A file is begun with the fields of the first block; a stream, which cannot be begun anew, is not."""
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 1)
    topic = fill(*values)
    export(topic, tmp_path / "a.arrows", value="json", columns="offset,value")
    with (tmp_path / "b.arrows").open("wb") as file:
        export(topic, file, format="arrow-stream", value="json", columns="offset,value")
    assert read(tmp_path / "a.arrows") == read(tmp_path / "b.arrows")
    assert (tmp_path / "a.arrows").read_bytes() == (tmp_path / "b.arrows").read_bytes()


def test_a_bad_record_after_a_guess_is_told_once(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 1)
    topic = fill('{"a":1}', b"\xff", '{"a":2}', "nonsense")
    told: list[Any] = []
    result = export(
        topic,
        tmp_path / "a.parquet",
        value="json",
        columns="a",
        bad_values="skip",
        on_bad=lambda *each: told.append(each[:2]),
    )
    assert told == [(0, 1), (0, 3)]
    assert (result.records, result.skipped) == (2, 2)
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["a.parquet"]
