"""Sizes, durations, times, names and dtypes, at both sides of each limit."""

from datetime import UTC, date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pytest

from pystream import OptionError
from pystream import options as opt
from pystream.metadata import TopicOptions

MIB = 1 << 20
SECOND = 10**9


def size(value: object, minimum: int = 0, maximum: int = 1 << 62) -> int:
    return opt.parse_size("size", value, minimum=minimum, maximum=maximum)


# ---- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (4096, 4096),
        (np.int64(7), 7),
        ("4096", 4096),
        ("0B", 0),
        ("64KiB", 64 << 10),
        ("128MiB", 128 * MIB),
        ("128 mib", 128 * MIB),
        (" 1.5GiB ", 3 << 29),
        ("2TiB", 2 << 40),
        ("1kB", 1000),
        ("1KB", 1000),
        ("3MB", 3_000_000),
        ("1.5GB", 1_500_000_000),
        ("0.5KiB", 512),
    ],
)
def test_size(text: object, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MiB",
        "12 parsecs",
        "-1",
        "1e6",
        "0x10",
        "1,000",
        "1.B",
        "0.3B",
        "\u0661KiB",
        "9" * 5000,
        "0." + "1" * 5000,
        "nan",
    ],
)
def test_size_text_refused(text: str) -> None:
    with pytest.raises(OptionError, match="size="):
        size(text)


@pytest.mark.parametrize("value", [1.5, 4096.0, None, True, np.bool_(True), b"1KiB", [1]])
def test_size_type_refused(value: object) -> None:
    with pytest.raises(TypeError, match="size="):
        size(value)


@pytest.mark.parametrize(("value", "accepted"), [(9, False), (10, True), (20, True), (21, False)])
def test_size_limits(value: int, accepted: bool) -> None:
    for given in (value, str(value), f"{value}B"):
        if accepted:
            assert size(given, 10, 20) == value
        else:
            with pytest.raises(OptionError, match="from 10 to 20"):
                size(given, 10, 20)


# ---- durations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (0, 0),
        (1, SECOND),
        (0.005, 5_000_000),
        (1e-9, 1),
        (np.float64(0.25), SECOND // 4),
        (np.int32(3), 3 * SECOND),
        ("200ms", 200_000_000),
        ("7d", 7 * 86400 * SECOND),
        ("1.5 h", 5400 * SECOND),
        ("2min", 120 * SECOND),
        ("2m", 120 * SECOND),
        ("10us", 10_000),
        ("10µs", 10_000),
        ("3ns", 3),
        ("4s", 4 * SECOND),
        (timedelta(days=1, microseconds=1), 86400 * SECOND + 1000),
    ],
)
def test_duration(value: object, nanoseconds: int) -> None:
    assert opt.parse_duration("linger", value) == nanoseconds


@pytest.mark.parametrize(
    "value",
    [
        *("", "5", "ms", "5 MS", "-1s", "1y"),
        *(-1, -1e-9, float("nan"), float("inf"), timedelta(-1)),
        *(10**300, 1e300, -1e300, 1e10, np.float64(1e308)),
    ],
)
def test_duration_refused(value: object) -> None:
    with pytest.raises(OptionError, match="linger="):
        opt.parse_duration("linger", value)


@pytest.mark.parametrize("value", [None, True, b"1s", [1], 1j, np.timedelta64(7, "D")])
def test_duration_type_refused(value: object) -> None:
    with pytest.raises(TypeError, match="linger="):
        opt.parse_duration("linger", value)


def test_duration_limits() -> None:
    longest = opt.DURATION_NS_MAX
    assert opt.parse_duration("d", f"{longest}ns") == longest
    assert opt.parse_duration("d", f"{longest - 1}ns") == longest - 1
    with pytest.raises(OptionError):
        opt.parse_duration("d", f"{longest + 1}ns")
    for value, accepted in (("1us", False), ("2us", True), ("3us", True), ("4us", False)):
        if accepted:
            opt.parse_duration("d", value, minimum=2000, maximum=3000)
        else:
            with pytest.raises(OptionError, match="seconds"):
                opt.parse_duration("d", value, minimum=2000, maximum=3000)


def test_timeout() -> None:
    assert opt.parse_timeout("timeout", None) == -1
    assert opt.parse_timeout("timeout", 0) == 0
    with pytest.raises(OptionError):
        opt.parse_timeout("timeout", -1)


# ---- times ----------------------------------------------------------------------------------------

NEW_YEAR = 1_356_998_400 * SECOND  # 2013-01-01T00:00Z


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (NEW_YEAR, NEW_YEAR),
        (np.int64(NEW_YEAR), NEW_YEAR),
        (datetime(2013, 1, 1, tzinfo=UTC), NEW_YEAR),
        (datetime(2012, 12, 31, 19, tzinfo=timezone(timedelta(hours=-5))), NEW_YEAR),
        (datetime(2013, 1, 1, 0, 0, 0, 123456, tzinfo=UTC), NEW_YEAR + 123_456_000),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), -1000),
        (np.datetime64("2013-01-01"), NEW_YEAR),
        (np.datetime64("2013"), NEW_YEAR),
        (np.datetime64("2013-01"), NEW_YEAR),
        (np.datetime64("2013-01-01T00:00:00.000000001"), NEW_YEAR + 1),
        (np.datetime64(1_999, "ps"), 1),
        (np.datetime64(-1, "ps"), -1),
        (np.datetime64("1969-12-31T23:59:59.999", "ms"), -1_000_000),
        (np.datetime64(-1, "ns"), -1),
        (np.datetime64(NEW_YEAR // 3600 // SECOND // 6, "6h"), NEW_YEAR),
    ],
)
def test_time(value: object, nanoseconds: int) -> None:
    assert opt.parse_time("t", value) == nanoseconds


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (1_356_998_400, "seconds"),
        (1_356_998_400_000, "milliseconds"),
        (1_795_000_000_000_000, "microseconds"),
    ],
)
def test_time_in_other_units_is_refused_with_a_hint(number: int, unit: str) -> None:
    with pytest.raises(OptionError, match=unit):
        opt.parse_time("t", number)


def test_time_int_limits() -> None:
    least = opt.INT_TIME_MIN
    assert least == 10**16
    with pytest.raises(OptionError, match="too small"):
        opt.parse_time("t", least - 1)
    assert opt.parse_time("t", least) == least
    assert opt.parse_time("t", least + 1) == least + 1
    for number in (0, -1, -(10**18)):
        with pytest.raises(OptionError, match="too small"):
            opt.parse_time("t", number)


def test_time_range_limits() -> None:
    assert opt.parse_time("t", opt.INT64_MAX - 1) == opt.INT64_MAX - 1
    assert opt.parse_time("t", opt.INT64_MAX) == opt.INT64_MAX
    with pytest.raises(OptionError, match="2262"):
        opt.parse_time("t", opt.INT64_MAX + 1)
    assert opt.parse_time("t", np.datetime64(opt.INT64_MIN + 1, "ns")) == opt.INT64_MIN + 1


@pytest.mark.parametrize(
    "value",
    [
        np.datetime64("NaT", "D"),
        np.datetime64("NaT", "ns"),
        datetime(2013, 1, 1),
        datetime(9999, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        np.datetime64("2262-04-12"),
        np.datetime64("1677-09-21"),
        np.datetime64(2**62, "D"),
        np.datetime64(2**62, "Y"),
        np.datetime64(2**62, "us"),
    ],
)
def test_time_refused(value: object) -> None:
    with pytest.raises(OptionError, match="t="):
        opt.parse_time("t", value)


@pytest.mark.parametrize("value", [None, 1.5e9, True, "2013-01-01", date(2013, 1, 1), np.float64(1e18), b""])
def test_time_type_refused(value: object) -> None:
    with pytest.raises(TypeError, match="t="):
        opt.parse_time("t", value)


def test_times() -> None:
    assert opt.parse_times("t", None) is None
    assert opt.parse_times("t", np.datetime64("2013-01-01")) == NEW_YEAR
    assert opt.parse_times("t", datetime(2013, 1, 1, tzinfo=UTC)) == NEW_YEAR
    seconds = np.array(["2013-01-01", "NaT", "1970-01-01T00:00:01"], dtype="M8[s]")
    nanoseconds = opt.parse_times("t", seconds)
    assert nanoseconds.dtype == np.int64
    assert nanoseconds.tolist() == [NEW_YEAR, opt.INT64_MIN, SECOND]
    with pytest.raises(OptionError, match=r"t\[1\]"):
        opt.parse_times("t", np.array(["2013-01-01", "9999-01-01"], dtype="M8[D]"))
    for number in (0, 1_356_998_400_000, opt.INT_TIME_MIN - 1):
        with pytest.raises(OptionError, match=rf"t\[2\]={number}: too small"):
            opt.parse_times("t", np.array([opt.INT64_MIN, NEW_YEAR, number]))
    stamps = np.array([opt.INT64_MIN, opt.INT_TIME_MIN, NEW_YEAR])
    assert opt.parse_times("t", stamps) is stamps


class Timestamp(datetime):
    """A datetime with nanoseconds, and with one value that is no moment: what pandas has."""

    def __sub__(self, other: Any) -> Any:
        delta = super().__sub__(other)
        return SimpleNamespace(
            days=delta.days, seconds=delta.seconds, microseconds=delta.microseconds, nanoseconds=789
        )

    def __ne__(self, other: object) -> bool:
        return self.year == 1 or super().__ne__(other)


def test_digits_beyond_microseconds_are_kept() -> None:
    moment = Timestamp(2013, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    assert opt.parse_time("t", moment) == NEW_YEAR + 123_456_789
    with pytest.raises(OptionError, match="t=NaT"):
        opt.parse_time("t", Timestamp(1, 1, 1, tzinfo=UTC))


def test_columns_of_times_become_arrays() -> None:
    column = pyarrow.array([datetime(2013, 1, 1, tzinfo=UTC)])
    with pytest.raises(TypeError, match=r"t= .*np\.asarray"):
        opt.parse_times("t", column)
    assert opt.parse_times("t", np.asarray(column, dtype="datetime64[ns]")).tolist() == [NEW_YEAR]


# ---- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "_a", "a__", "...", ".hidden", "-", "x" * 248, "x" * 249])
def test_topic_name(name: str) -> None:
    assert opt.check_topic_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        (".", "not allowed"),
        ("..", "not allowed"),
        ("../evil", "'/'"),
        ("a b", "' '"),
        ("a\0b", "x00"),
        ("a\n", "n"),
        ("é", "é"),
        ("٣", "not allowed"),
        ("x" * 250, "at most 249"),
        ("x" * 100_000, "at most 249"),
        ("__consumer_offsets", "reserved"),
        ("__", "reserved"),
    ],
)
def test_topic_name_refused(name: str, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        opt.check_topic_name(name)
    with pytest.raises(ValueError, match="topic name"):
        opt.check_topic_name(name)


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"]])
def test_topic_name_type_refused(name: object) -> None:
    with pytest.raises(TypeError, match="topic name"):
        opt.check_topic_name(name)


# ---- topic options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(-1, False), (0, False), (1, True), (2, True), (65535, True), (65536, True), (65537, False)],
)
def test_partitions_limits(value: int, accepted: bool) -> None:
    if accepted:
        assert opt.parse_partitions(value) == value
    else:
        with pytest.raises(OptionError, match="partitions"):
            opt.parse_partitions(value)


@pytest.mark.parametrize("value", [1.0, "4", True, None])
def test_partitions_type_refused(value: object) -> None:
    with pytest.raises(TypeError, match="partitions"):
        opt.parse_partitions(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (65535, None),
        (65536, 65536),
        (65537, 69632),
        ("128MiB", 128 * MIB),
        ((2 << 30) - 4097, (2 << 30) - 4096),
        ((2 << 30) - 4096, (2 << 30) - 4096),
        ((2 << 30) - 4095, None),
        ("2GiB", None),
    ],
)
def test_segment_bytes_limits(value: object, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(OptionError, match="segment_bytes"):
            opt.parse_segment_bytes(value)
    else:
        assert opt.parse_segment_bytes(value) == expected


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (1023, False),
        (1024, True),
        (1025, True),
        ((1 << 30) - 1, True),
        (1 << 30, True),
        ((1 << 30) + 1, False),
    ],
)
def test_index_interval_limits(value: int, accepted: bool) -> None:
    if accepted:
        assert opt.parse_index_interval_bytes(value) == value
    else:
        with pytest.raises(OptionError, match="index_interval_bytes"):
            opt.parse_index_interval_bytes(value)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(-1, False), (0, True), (1, True), (16 * MIB - 1, True), (16 * MIB, True), (16 * MIB + 1, False)],
)
def test_width_limits(value: int, accepted: bool) -> None:
    if accepted:
        assert opt.parse_width("value_bytes", value) == value
    else:
        with pytest.raises(OptionError, match="value_bytes"):
            opt.parse_width("value_bytes", value)


STRUCTURED = [
    ("ts", "i8"),
    ("px", ">f8"),
    ("qty", "i4"),
    ("name", "S5"),
    ("grid", "<u2", (2, 3)),
    ("when", "M8[ms]"),
]


@pytest.mark.parametrize(
    "dtype",
    [
        "f8",
        np.int32,
        ">u2",
        "S16",
        "V12",
        "U3",
        "M8[ns]",
        "?",
        STRUCTURED,
        np.dtype([("a", "i1"), ("b", "i8")], align=True),
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [8, 2], "itemsize": 32}),
        [("outer", [("inner", "f4"), ("more", [("deep", "?")])])],
    ],
)
def test_dtype_is_restored_exactly(dtype: object) -> None:
    try:
        parsed = opt.parse_dtype(dtype)
    except OptionError as error:
        assert "exactly" in str(error)
        return
    restored = opt.dtype_from_text(opt.dtype_to_text(parsed))
    assert restored == parsed == np.dtype(dtype)  # type: ignore[call-overload]
    assert restored.itemsize == parsed.itemsize
    assert restored.fields == parsed.fields


@pytest.mark.parametrize(
    "dtype", ["O", [("a", "i4"), ("b", object)], "S0", "V", [], "nonsense", ("f4", (3,)), 7, "S16777217"]
)
def test_dtype_refused(dtype: object) -> None:
    with pytest.raises(OptionError, match="dtype="):
        opt.parse_dtype(dtype)


def test_dtype_limits() -> None:
    assert opt.parse_dtype("V16777216").itemsize == 16 * MIB
    assert opt.parse_dtype("V16777215").itemsize == 16 * MIB - 1
    with pytest.raises(OptionError, match="16777217"):
        opt.parse_dtype("V16777217")


def test_topic_options_agree_among_themselves() -> None:
    with pytest.raises(OptionError, match="value_bytes"):
        TopicOptions(dtype=np.dtype("f8"), value_bytes=8)
    with pytest.raises(OptionError, match="segment_bytes"):
        TopicOptions(segment_bytes=65536, value_bytes=40_000)
    with pytest.raises(OptionError, match="segment_bytes"):
        TopicOptions(segment_bytes=65536, key_bytes=40_000)


def test_topic_options_through_json() -> None:
    options = TopicOptions(partitions=3, compression="lz4", dtype=np.dtype(STRUCTURED), key_bytes=0)
    assert TopicOptions.from_json(options.to_json()) == options


def test_topic_options_compare_by_value() -> None:
    assert TopicOptions() == TopicOptions(partitions=1)
    assert hash(TopicOptions()) == hash(TopicOptions(partitions=1))
    assert TopicOptions() != TopicOptions(dtype=np.dtype("f8"))  # though NumPy says dtype("f8") == None
    assert TopicOptions() != TopicOptions(partitions=2)
    assert TopicOptions() != "options"
    assert TopicOptions().differing({"dtype": np.dtype("f8")}) == "dtype"
