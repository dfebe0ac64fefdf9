"""JSON lines: nothing is lost between `consume --format json` and `produce --format json`."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pystream
from pystream.cli import cli
from pystream.cli.jsonlines import decode, encode, objects

FEW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
blobs = st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)
names = st.text(st.characters(codec="utf-8"), max_size=8)
headers = st.lists(st.tuples(names, blobs), max_size=3)
times = st.none() | st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(0, 10**9)
records = st.lists(st.tuples(blobs, blobs, headers, times), min_size=1, max_size=8)


@pytest.fixture
def store(tmp_path):
    with pystream.open(tmp_path / "store") as store:
        yield store


def append(topic, rows):
    keys, values, heads, stamps = zip(*rows, strict=True)
    array = np.array(["NaT" if stamp is None else stamp for stamp in stamps], "datetime64[ns]")
    topic.append(list(values), keys=list(keys), headers=list(heads), timestamps=array)


def contents(topic):
    return [(r.key, r.value, list(r.headers), r.timestamp) for r in topic.records()]


def copy_through_lines(source, target):
    """What `consume | produce` does, in this process."""
    path = target._store.path
    lines = b"".join(line for batch in source.batches() for line in encode(batch, source.options.dtype))
    result = CliRunner().invoke(cli, ["produce", path, target.name, "--format", "json"], input=lines)
    assert result.exit_code == 0, result.output
    return lines


@FEW
@given(rows=records)
def test_records_survive(store, rows):
    name = f"t{len(store.topics())}"
    source = store.topic(name, create=True, segment_bytes="64KiB")
    target = store.topic(f"{name}-copy", create=True, segment_bytes="64KiB")
    append(source, rows)
    lines = copy_through_lines(source, target)
    assert contents(source) == [(k, v, h, t) for k, v, h, t in rows]
    assert contents(target) == contents(source)
    for i, line in enumerate(lines.splitlines()):
        said = json.loads(line)
        assert (said["topic"], said["partition"], said["offset"]) == (name, 0, i)


FIELDS = [
    ("flag", "?"),
    ("small", "i1"),
    ("large", "u8"),
    ("half", "f2"),
    ("single", "f4"),
    ("double", "f8"),
    ("name", "S5"),
    ("text", "U4"),
    ("when", "M8[us]"),
    ("day", "M8[D]"),
    ("took", "m8[ms]"),
    ("pair", "f4", (2,)),
    ("grid", "i2", (2, 3)),
    ("inner", [("x", "i4"), ("y", "f8")]),
]
DTYPE = np.dtype(FIELDS)


@FEW
@given(data=st.data())
def test_values_of_every_field_survive(data):
    raw = np.frombuffer(data.draw(st.binary(min_size=DTYPE.itemsize, max_size=DTYPE.itemsize)), DTYPE).copy()
    raw["flag"] = data.draw(st.booleans())
    raw["name"] = data.draw(
        st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=5)
    ).encode()
    raw["text"] = data.draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4))
    raw["when"] = data.draw(st.integers(-(10**15), 4 * 10**15) | st.just(-(2**63)))
    raw["day"] = data.draw(st.integers(-(10**5), 10**5))
    raw["took"] = data.draw(st.integers(-(10**9), 10**9) | st.just(-(2**63)))
    for name in ("half", "single", "double", "pair"):  # of all the kinds of not-a-number one is kept
        raw[name][np.isnan(raw[name])] = np.nan
    raw["inner"]["y"][np.isnan(raw["inner"]["y"])] = np.nan
    (text,) = objects(raw)
    assert decode(b'{"value":%s}' % text.encode(), DTYPE).value == raw.tobytes()


def test_a_topic_of_a_dtype_survives(store):
    dtype = [("px", "f8"), ("sym", "S4")]
    source = store.topic("source", create=True, dtype=dtype)
    target = store.topic("target", create=True, dtype=dtype)
    source.append(np.array([(1.5, b"ab"), (float("nan"), b""), (float("-inf"), b"\xc3\xa9")], dtype))
    source.append(np.array([(0.1, b"\xff")], dtype))  # no text: the whole value goes as bytes
    lines = copy_through_lines(source, target).splitlines()
    assert [r.value for r in target.records()] == [r.value for r in source.records()]
    assert json.loads(lines[1])["value"] == {"px": "nan", "sym": ""}
    assert "value_base64" in json.loads(lines[3])
    plain = store.topic("plain", create=True, dtype="i8")
    plain.append(np.array([1, -(2**63), 2**63 - 1]))
    target = store.topic("plain-copy", create=True, dtype="i8")
    assert b'"value":-9223372036854775808' in copy_through_lines(plain, target)
    assert [r.value for r in target.records()] == [r.value for r in plain.records()]
    void = store.topic("void", create=True, dtype="V3")
    void.append(np.array([b"abc"], "V3"))
    target = store.topic("void-copy", create=True, dtype="V3")
    copy_through_lines(void, target)
    assert [r.value for r in target.records()] == [b"abc"]


@pytest.mark.parametrize(
    ("line", "key", "value", "timestamp"),
    [
        (b'{"value": "a"}', None, b"a", None),
        (b' {"key": "\\u00e9", "value": null, "offset": 7} \r', "é".encode(), None, None),
        (
            b'{"value": {"b": [1, 2.5, null]}, "timestamp": 1700000000000000000}',
            None,
            b'{"b":[1,2.5,null]}',
            17 * 10**17,
        ),
        (b'{"value": 17}', None, b"17", None),
        (b'{"value_base64": "/w==", "key_base64": ""}', b"", b"\xff", None),
        (b'{"value": "", "timestamp": "1970-01-01T00:00:01.5Z"}', None, b"", 1_500_000_000),
        (b'{"value": "", "timestamp": "1970-01-01 01:00:00.000000001+01:00"}', None, b"", 1),
        (b'{"value": "", "timestamp": "1970-01-01T00:01"}', None, b"", 60 * 10**9),
        (b'{"value": "", "timestamp": "1677-09-21T00:12:43.145224193Z"}', None, b"", -(2**63) + 1),
        (b'{"value": "", "timestamp": "2262-04-11T23:47:16.854775807Z"}', None, b"", 2**63 - 1),
    ],
)
def test_lines_written_by_hand(line, key, value, timestamp):
    fields = decode(line)
    assert (fields.key, fields.value, fields.timestamp) == (key, value, timestamp)


def test_headers_written_by_hand():
    assert decode(b'{"value": "", "headers": {"a": "1", "b": null}}').headers == [("a", b"1"), ("b", None)]
    line = b'{"value": "", "headers": [{"name": "a", "value_base64": "/w=="}, {"name": "a", "value": ""}]}'
    assert decode(line).headers == [("a", b"\xff"), ("a", b"")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello", "not JSON: Expecting value at character 1"),
        (b'{"value": "a"', "not JSON"),
        (b'{"value": "\xff"}', "not UTF-8: invalid start byte at byte 12"),
        (b'{"value": NaN}', "not JSON: NaN"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "not an object but an array"),
        (b'"a"', "not an object but a string"),
        (b"{}", 'no value; give value, value_base64, or "value": null'),
        (b'{"key": "a"}', "no value"),
        (b'{"vlaue": 1, "value": ""}', "unknown member 'vlaue'; known are key, value, timestamp, headers"),
        (b'{"key": 1, "value": ""}', "key must be a string or null, not a number"),
        (b'{"key": {}, "value": ""}', "key must be a string or null, not an object"),
        (b'{"value": "a", "value_base64": "YQ=="}', "value and value_base64 are both given"),
        (b'{"value_base64": "a"}', "value_base64 is not base64: 'a'"),
        (b'{"value_base64": 1}', "value_base64 must be a string in base64, not a number"),
        (b'{"value": "\\ud800"}', "half of a surrogate pair"),
        (b'{"value": "", "timestamp": "yesterday"}', "timestamp 'yesterday' is neither ISO 8601"),
        (b'{"value": "", "timestamp": "2026-13-01T00:00:00Z"}', "neither ISO 8601"),
        (b'{"value": "", "timestamp": true}', "neither ISO 8601"),
        (b'{"value": "", "timestamp": 1700000000}', "too small for nanoseconds"),
        (b'{"value": "", "timestamp": "2262-04-11T23:47:16.854775808Z"}', "outside 1677-09-21 .. 2262-04-11"),
        (b'{"value": "", "headers": 1}', "headers must be an array or an object, not a number"),
        (b'{"value": "", "headers": [["a", "b"]]}', r"headers\[0\] must be an object such as"),
        (b'{"value": "", "headers": [{"name": "a"}]}', r"headers\[0\]: no value"),
        (b'{"value": "", "headers": {"a": 1}}', r"headers\[0\].value must be a string or null, not a number"),
        (
            b'{"value": "", "headers": [{"name": "a", "value": "", "x": 1}]}',
            r"headers\[0\] has an unknown member 'x'",
        ),
    ],
)
def test_bad_lines(line, reason):
    with pytest.raises(ValueError, match=reason):
        decode(line)


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [
        ("i1", "128", "value=128 does not fit int8: -128 to 127"),
        ("i1", "-129", "does not fit int8"),
        ("u8", "-1", "does not fit uint64"),
        ("i4", "1.5", "value must be what fits int32, not a number"),
        ("i4", "1e999", "does not fit int32"),
        ("i4", "true", "not a boolean"),
        ("i4", '"1"', "not a string"),
        ("f8", '"one"', "not a string"),
        ("?", "1", "must be what fits bool, not a number"),
        ("S2", '"abc"', "value has a length of 3; at most 2 fit"),
        ("U2", '"abc"', "value has a length of 3; at most 2 fit"),
        ("M8[s]", '"noon"', "'noon' is not ISO 8601"),
        ("m8[s]", '"1"', "must be what fits"),
        (("i4", 2), "[1]", "value must be an array of 2"),
        (("i4", 2), "[1, true]", r"value\[1\] must be what fits int32"),
        ([("a", "i4"), ("b", "i4")], '{"a": 1}', "value lacks 'b'; its fields are a, b"),
        ([("a", "i4")], '{"a": 1, "c": 2}', "value has no field 'c'"),
        ([("a", "i4")], "[1]", "value must be an object with a, not an array"),
        ([("a", [("b", "i1")])], '{"a": {"b": 300}}', "value.a.b=300 does not fit int8"),
    ],
)
def test_values_that_do_not_fit(dtype, value, reason):
    with pytest.raises(ValueError, match=reason):
        decode(b'{"value":%s}' % value.encode(), np.dtype(dtype))


@pytest.mark.parametrize(
    ("dtype", "values"), [("i1", (-128, 127)), ("u8", (0, 2**64 - 1)), ("S2", ("ab",)), ("U2", ("é",))]
)
def test_values_that_just_fit(dtype, values):
    for value in values:
        fields = decode(json.dumps({"value": value}).encode(), np.dtype(dtype))
        stored = np.frombuffer(fields.value, dtype)[0]
        assert (stored.decode() if dtype == "S2" else stored) == value
