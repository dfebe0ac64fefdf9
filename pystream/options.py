"""What people type, turned into what the native floor takes: bytes, nanoseconds, names, dtypes.

Sizes are integers of bytes or text such as "128MiB". Durations are seconds (int or float), a
`timedelta`, or text such as "200ms" or "7d". Times are an aware `datetime`, a `numpy.datetime64`, or
integer nanoseconds since the Unix epoch. Everything refused raises `OptionError` (a `ValueError`) or
`TypeError`, names the option, and says what would do.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, SupportsIndex, TypeAlias

import numpy as np

from pystream._native.limits import (
    PARTITIONS_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    TOPIC_NAME_BYTES_MAX,
)
from pystream.errors import OptionError, UnsupportedError

Size: TypeAlias = int | str
"""Bytes: an int, or text with a unit (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)."""

Duration: TypeAlias = float | str | timedelta
"""Seconds: a number, a `timedelta`, or text with a unit (ns, us, ms, s, min, h, d)."""

Time: TypeAlias = datetime | np.datetime64 | int
"""A moment: an aware `datetime`, a `numpy.datetime64` (UTC), or int nanoseconds since the Unix epoch."""

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)

INT_TIME_MIN: Final = 10**16
"""Smallest int taken for nanoseconds since the epoch; smaller ones are seconds, ms or us by mistake."""

DURATION_NS_MAX: Final = INT64_MAX
"""Longest duration: 292 years, what int64 nanoseconds hold."""

STORE_PATH_BYTES_MAX: Final = 400
"""Longest path of a store, links resolved; the native floor keeps paths in buffers of 512 bytes."""

PARTITION_PATH_BYTES_MAX: Final = 447
"""Longest path of a partition's directory."""

SEGMENT_BYTES_UNIT: Final = 4096
"""Segments are whole pages: `segment_bytes` is rounded up to a multiple of this."""

INDEX_INTERVAL_BYTES_MIN: Final = 1 << 10
INDEX_INTERVAL_BYTES_MAX: Final = 1 << 30

WIDTH_BYTES_MAX: Final = 16 << 20
"""Largest `value_bytes`, `key_bytes` and `dtype` item: 16 MiB."""

SYNC_INTERVAL_NS_MIN: Final = 1_000_000
SYNC_INTERVAL_NS_MAX: Final = 3600 * 10**9

MIN_FREE_BYTES_MAX: Final = 1 << 60
"""Most that a store can be told to leave free: 1 EiB."""

_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1 << (10 * power) for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_DURATION_UNITS_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_DATETIME64_UNITS_NS: Final = {
    "W": 7 * 86400 * 10**9,
    "D": 86400 * 10**9,
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
_DATETIME64_PARTS: Final = {"ps": 10**3, "fs": 10**6, "as": 10**9}  # of a nanosecond
_DATETIME64_CALENDAR_MAX: Final = {"Y": 1000, "M": 12000}  # far beyond what nanoseconds hold
_QUANTITY: Final = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([A-Za-zµ]*)\s*", re.ASCII)
_DIGITS_MAX: Final = 40
_SECONDS_EXACT: Final = 1e10  # seconds below this are converted as floats; more is more than any duration
_NO_NUMBERS: Final = (bool, np.bool_, np.timedelta64)  # NumPy's is an integer to isinstance
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TOPIC_NAME_REFUSED: Final = re.compile(r"[^a-zA-Z0-9._-]", re.ASCII)

# Words of options that a later version will honour. Refused by name, so that nobody believes that
# they took effect.
_LATER: Final = {
    "isolation": "transactions",
    "transactional_id": "transactions",
}


def refuse_unknown(function: str, options: Mapping[str, object]) -> None:
    """Refuse leftover keyword arguments: by a clear word when a later version will have them.

    Raises:
        UnsupportedError: the option is known, but not available yet.
        TypeError: there is no such option.
    """
    for name in options:
        if name in _LATER:
            raise UnsupportedError(f"{name}=: not available in this version of pystream: {_LATER[name]}")
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def parse_flag(name: str, value: object) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}= must be True or False, not {type(value).__name__}")
    return bool(value)


def check_text(name: str, value: object) -> None:
    """Raise TypeError for what is neither text nor None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}= must be a str, not {type(value).__name__}")


def check_callable(name: str, value: object) -> None:
    """Raise TypeError for what is neither a function nor None: now, and not when it is first called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name}= must be a function, not {type(value).__name__}")


def parse_names(name: str, value: object) -> tuple[str, ...]:
    """Names, from a list of them or from text with commas.

    Raises:
        TypeError: neither.
    """
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise TypeError(f'{name}= must be a list of names, or text such as "a,b", not {type(value).__name__}')
    names = tuple(value)
    for item in names:
        if not isinstance(item, str):
            raise TypeError(f"{name}= must hold names, not {type(item).__name__}")
    return names


def parse_int(name: str, value: object, *, minimum: float = -math.inf, maximum: float = math.inf) -> int:
    """An integer between `minimum` and `maximum`, both included. Booleans are not integers here."""
    if type(value) is int:  # asking for SupportsIndex takes microseconds
        number = value
    elif isinstance(value, (bool, np.bool_)) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}= must be an int, not {type(value).__name__}")
    else:
        number = operator.index(value)
    if not minimum <= number <= maximum:
        raise OptionError(f"{name}={number}: must be from {minimum} to {maximum}")
    return number


def parse_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """One of a few words."""
    words = sorted(choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}= must be one of {', '.join(map(repr, words))}, not {type(value).__name__}")
    if value not in words:
        raise OptionError(f"{name}={value!r}: must be one of {', '.join(map(repr, words))}")
    return value


def parse_size(name: str, value: object, *, minimum: int, maximum: int) -> int:
    """Bytes, from an int or from text such as "128MiB" or "1.5 GB".

    Raises:
        OptionError: not a size, not whole bytes, or outside `minimum`..`maximum` (both included).
        TypeError: neither int nor str.
    """
    if not isinstance(value, str):
        if isinstance(value, float):
            raise TypeError(f'{name}={value!r}: give bytes as an int, or text such as "128MiB"')
        return parse_int(name, value, minimum=minimum, maximum=maximum)
    match = _QUANTITY.fullmatch(value)
    unit = _SIZE_UNITS.get(match[3].lower()) if match else None
    if match is None or unit is None:
        raise OptionError(
            f'{name}={value!r}: not a size; write bytes as an int, or text such as "64KiB", "128MiB", "1GB"'
        )
    size, rest = _times(match, unit)
    if rest:
        raise OptionError(f"{name}={value!r}: not a whole number of bytes")
    if not minimum <= size <= maximum:
        raise OptionError(f"{name}={value!r}: must be from {minimum} to {maximum} bytes")
    return size


def _times(match: re.Match[str], unit: int) -> tuple[int, int]:
    """The number of a `_QUANTITY` times `unit`: whole, and whether something is left over. Exact."""
    fraction = match[2] or ""
    if len(match[1]) + len(fraction) > _DIGITS_MAX:
        return 2 * INT64_MAX, 0  # beyond every limit
    scale: int = 10 ** len(fraction)
    return divmod(int(match[1] + fraction) * unit, scale)


def parse_duration(name: str, value: object, *, minimum: int = 0, maximum: int = DURATION_NS_MAX) -> int:
    """Nanoseconds, from seconds (int or float), a `timedelta`, or text such as "200ms" or "7d".

    Args:
        minimum: least nanoseconds accepted.
        maximum: most nanoseconds accepted.

    Raises:
        OptionError: not a duration, not finite, or outside the limits.
        TypeError: of another type.
    """
    if type(value) is float and 0 < value < _SECONDS_EXACT:  # what a loop that polls gives
        nanoseconds = round(value * 1e9)
    elif type(value) is int:
        nanoseconds = value * 10**9
    elif isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        unit = _DURATION_UNITS_NS.get(match[3]) if match else None
        if match is None or unit is None:
            raise OptionError(
                f'{name}={value!r}: not a duration; write seconds as a number, or text such as "200ms", "7d"'
            )
        nanoseconds, _ = _times(match, unit)
    elif isinstance(value, timedelta):
        nanoseconds = (value.days * 86400 + value.seconds) * 10**9 + value.microseconds * 1000
    elif isinstance(value, _NO_NUMBERS) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f'{name}= must be seconds (a number), a timedelta, or text such as "200ms", '
            f"not {type(value).__name__}"
        )
    elif isinstance(value, (int, np.integer)):
        nanoseconds = int(value) * 10**9
    elif abs(float(value)) < _SECONDS_EXACT:
        nanoseconds = round(float(value) * 1e9)
    elif math.isfinite(value):
        nanoseconds = int(value) * 10**9  # beyond every limit, and 1e300 * 1e9 beyond what a float holds
    else:
        raise OptionError(f"{name}={value!r}: must be finite")
    if not minimum <= nanoseconds <= maximum:
        raise OptionError(f"{name}={value!r}: must be from {minimum / 1e9:g} to {maximum / 1e9:g} seconds")
    return nanoseconds


def duration_text(nanoseconds: int) -> str:
    """A duration in the largest unit that it is a whole number of: "7d", "90min". For `parse_duration`."""
    for unit in ("d", "h", "min", "s", "ms", "us"):
        if nanoseconds and nanoseconds % _DURATION_UNITS_NS[unit] == 0:
            return f"{nanoseconds // _DURATION_UNITS_NS[unit]}{unit}"
    return f"{nanoseconds}ns" if nanoseconds else "0s"


def size_text(size: int) -> str:
    """Bytes in the largest unit that they are a whole number of: "128MiB", "1000B". For `parse_size`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit.lower()] == 0:
            return f"{size // _SIZE_UNITS[unit.lower()]}{unit}"
    return f"{size}B"


def parse_ratio(name: str, value: object) -> float:
    """A number from 0 to 1, both included.

    Raises:
        OptionError: outside, or not a number at all (NaN).
        TypeError: of another type.
    """
    if isinstance(value, _NO_NUMBERS) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}= must be a number from 0 to 1, not {type(value).__name__}")
    if not 0 <= value <= 1:
        raise OptionError(f"{name}={value!r}: must be from 0 to 1")
    return float(value)


def parse_timeout(name: str, value: object) -> int:
    """Nanoseconds to wait: -1 (for ever) for None, else a duration that is not negative."""
    return -1 if value is None else parse_duration(name, value)


def parse_time(name: str, value: object) -> int:
    """Nanoseconds since the Unix epoch, from an aware `datetime`, a `datetime64`, or int nanoseconds.

    Ints below 10**16 are refused: nanoseconds passed that four months after the epoch, so they are
    seconds, milliseconds or microseconds by mistake. Earlier moments can be said as a `datetime`.

    Raises:
        OptionError: naive datetime, NaT, too small an int, or outside 1677-09-21 .. 2262-04-11.
        TypeError: of another type.
    """
    if isinstance(value, np.datetime64):
        nanoseconds = _datetime64_ns(name, value)
    elif isinstance(value, datetime):
        if value != value:  # pandas' NaT is a datetime, too
            raise OptionError(f"{name}=NaT: not a moment")
        if value.utcoffset() is None:
            raise OptionError(
                f"{name}={value!r}: the datetime has no time zone; say which, "
                "for example value.replace(tzinfo=timezone.utc) or value.astimezone()"
            )
        delta = value - _EPOCH
        nanoseconds = (delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000
        nanoseconds += getattr(delta, "nanoseconds", 0)  # pandas' Timestamp is a datetime with more digits
    elif type(value) is not int and (
        isinstance(value, (bool, np.bool_)) or not isinstance(value, SupportsIndex)
    ):
        hint = "; use datetime(..., tzinfo=timezone.utc)" if isinstance(value, date) else ""
        if isinstance(value, (float, np.floating)):
            hint = "; for seconds use datetime.fromtimestamp(t, timezone.utc)"
        raise TypeError(
            f"{name}= must be an aware datetime, a numpy.datetime64 or int nanoseconds since the epoch, "
            f"not {type(value).__name__}{hint}"
        )
    else:
        nanoseconds = operator.index(value)
        if nanoseconds < INT_TIME_MIN:
            raise OptionError(
                f"{name}={nanoseconds}: too small for nanoseconds since the epoch{_unit_hint(nanoseconds)}"
            )
    if not INT64_MIN < nanoseconds <= INT64_MAX:
        raise OptionError(f"{name}={value!r}: outside 1677-09-21 .. 2262-04-11, what int64 nanoseconds hold")
    return nanoseconds


def _unit_hint(number: int) -> str:
    """Which unit a too small int is most likely in, judged by where it would put the moment."""
    for unit, factor, low in (("seconds", 10**9, 10**7), ("milliseconds", 10**6, 10**10)):
        if low <= number < low * 10**3:
            return f"; if it is {unit}, multiply by {factor}"
    if number >= 10**13:
        return "; if it is microseconds, multiply by 1000"
    return "; give an aware datetime or a numpy.datetime64 for a moment this early"


def _datetime64_ns(name: str, value: np.datetime64) -> int:
    if np.isnat(value):
        raise OptionError(f"{name}=NaT: not a moment")
    unit, step = np.datetime_data(value.dtype)
    if unit in ("Y", "M"):  # of uneven length: only NumPy's calendar knows the day
        count = int(value.astype("i8")) * step
        if abs(count) > _DATETIME64_CALENDAR_MAX[unit]:
            return INT64_MAX + 1
        value, unit, step = value.astype("M8[D]"), "D", 1
    # In Python's integers, because datetime64 overflows in silence.
    count = int(value.astype("i8")) * step
    if unit in _DATETIME64_PARTS:
        return count // _DATETIME64_PARTS[unit]
    return count * _DATETIME64_UNITS_NS[unit]


def parse_timestamp(value: object) -> int:
    """One record's timestamp in nanoseconds; see `parse_time`."""
    return parse_time("timestamp", value)


def parse_times(name: str, values: Any) -> Any:
    """Timestamps as the native floor takes them: None, int nanoseconds for all, or an array or list.

    `datetime64` arrays of any unit become int64 nanoseconds, NaT meaning that the record has no timestamp.
    Ints below 10**16 are refused in arrays too. Lists are left to the native floor.
    """
    if isinstance(values, np.ndarray) and values.ndim:
        if values.dtype.kind == "M":
            return _datetime64_array(name, values)
        if values.dtype == np.int64 and values.size and values.min() < INT_TIME_MIN:
            small = (values < INT_TIME_MIN) & (values != INT64_MIN)
            if small.any():
                at = int(np.argmax(small))
                parse_time(f"{name}[{at}]", values[at])
        return values
    if values is None or isinstance(values, (list, tuple)):
        return values
    if hasattr(values, "__len__") and not isinstance(values, (str, bytes, np.ndarray)):
        raise TypeError(
            f"{name}= must be one moment, a list or an array, not {type(values).__name__}; a column becomes "
            "an array by np.asarray(column, dtype='datetime64[ns]')"
        )
    return parse_time(name, values)


def _datetime64_array(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    try:
        nanoseconds = values.astype("M8[ns]", copy=False)
    except OverflowError:  # from NumPy 2.5 on; older ones wrap in silence
        for at, moment in enumerate(values.flat):
            if not np.isnat(moment):
                parse_time(f"{name}[{at}]", moment)
        raise
    if np.datetime_data(values.dtype)[0] not in ("ns", *_DATETIME64_PARTS):
        lost = (nanoseconds.astype(values.dtype) != values) & ~np.isnat(values)
        if lost.any():
            at = int(np.argmax(lost))
            raise OptionError(f"{name}[{at}]={values[at]}: outside 1677-09-21 .. 2262-04-11")
    return nanoseconds.view(np.int64)


def parse_store_path(path: object) -> str:
    """The path of a store's directory as text.

    Raises:
        OptionError: empty, with a NUL character, or too long once links are resolved.
        TypeError: neither str nor `os.PathLike` of one.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or os.PathLike, not {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError("path must be a str, not bytes")
    if not text or "\0" in text:
        raise OptionError(f"path={text!r}: " + ("is empty" if not text else "holds a NUL character"))
    length = len(os.fsencode(os.path.realpath(text)))
    if length > STORE_PATH_BYTES_MAX:
        raise OptionError(
            f"path={text!r}: has {length} bytes in full; a store's may have {STORE_PATH_BYTES_MAX} bytes"
        )
    return text


def check_topic_name(name: object) -> str:
    """A topic name; see `check_name`."""
    return check_name("topic", name)


def check_name(noun: str, name: object) -> str:
    """A name of a topic or group by Kafka's rule: 1 to 249 of `a-z A-Z 0-9 . _ -`, not "." or "..", not
    "__...".

    Raises:
        OptionError: which rule is broken.
        TypeError: not a str.
    """
    if not isinstance(name, str):
        raise TypeError(f"{noun} name must be a str, not {type(name).__name__}")
    if not name:
        raise OptionError(f"{noun} name is empty")
    if refused := _TOPIC_NAME_REFUSED.search(name):
        raise OptionError(
            f"{noun} name {name[:300]!r}: {refused[0]!r} is not allowed; use a-z, A-Z, 0-9, '.', '_' and '-'"
        )
    if name in (".", ".."):
        raise OptionError(f"{noun} name {name!r} is not allowed")
    if len(name) > TOPIC_NAME_BYTES_MAX:
        raise OptionError(
            f"{noun} name has {len(name)} characters: at most {TOPIC_NAME_BYTES_MAX} are allowed"
        )
    if name.startswith("__"):
        raise OptionError(f"{noun} name {name!r}: names that start with '__' are reserved")
    return name


def parse_partitions(value: object) -> int:
    """A number of partitions, 1 to 65,536."""
    return parse_int("partitions", value, minimum=1, maximum=PARTITIONS_MAX)


def parse_segment_bytes(value: object) -> int:
    """Bytes of a segment, 64 KiB to 2 GiB - 4 KiB, rounded up to whole pages of 4 KiB."""
    size = parse_size("segment_bytes", value, minimum=SEGMENT_BYTES_MIN, maximum=SEGMENT_BYTES_MAX)
    return -(-size // SEGMENT_BYTES_UNIT) * SEGMENT_BYTES_UNIT


def parse_index_interval_bytes(value: object) -> int:
    """Bytes of log between two index entries, 1 KiB to 1 GiB."""
    return parse_size(
        "index_interval_bytes", value, minimum=INDEX_INTERVAL_BYTES_MIN, maximum=INDEX_INTERVAL_BYTES_MAX
    )


def parse_width(name: str, value: object) -> int:
    """A fixed width of values or keys, 0 to 16 MiB."""
    return parse_size(name, value, minimum=0, maximum=WIDTH_BYTES_MAX)


def parse_dtype(value: Any) -> np.dtype[Any]:
    """A NumPy dtype whose items are plain bytes of a known width, and that can be written down exactly.

    Raises:
        OptionError: no dtype, holds Python objects, has no width, or cannot be restored from its description.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"dtype={value!r}: not a NumPy dtype ({error})") from error
    if dtype.hasobject:
        raise OptionError(f"dtype={dtype}: holds Python objects, which cannot be stored")
    if dtype.subdtype is not None:
        raise OptionError(f"dtype={dtype}: give an array a name: dtype=[('values', {value!r})]")
    if not 1 <= dtype.itemsize <= WIDTH_BYTES_MAX:
        raise OptionError(
            f"dtype={dtype}: has {dtype.itemsize} bytes an item; must be 1 to {WIDTH_BYTES_MAX}"
        )
    try:
        restored = dtype_from_text(dtype_to_text(dtype))
    except (TypeError, ValueError) as error:
        raise OptionError(f"dtype={dtype}: cannot be described exactly ({error})") from error
    if restored != dtype:
        raise OptionError(f"dtype={dtype}: cannot be described exactly (it would come back as {restored})")
    return dtype


def dtype_to_text(dtype: np.dtype[Any]) -> str:
    """The description of a dtype as NumPy's own .npy files write it: a Python literal."""
    return repr(np.lib.format.dtype_to_descr(dtype))


def dtype_from_text(text: str) -> np.dtype[Any]:
    """The dtype that `dtype_to_text` described."""
    from ast import literal_eval  # only topics with a dtype need it

    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(literal_eval(text))
    return dtype
