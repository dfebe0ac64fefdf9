"""A column of moments as nanoseconds since the epoch.

Arrow timestamps and dates are understood as they are, text as ISO 8601 unless a format (`strptime`) or a
unit says otherwise, numbers by their unit. What names no zone is in the zone given, UTC by default; of an
hour that a clock shows twice the first is meant, and an hour that it leaves out counts as the moment of the
change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pystream import options as opt
from pystream.errors import OptionError
from pystream.ingest.text import Column, decoded
from pystream.options import INT64_MAX, INT64_MIN

UNITS_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ISO: Final = re.compile(
    r"\s*([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"\s*([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?\s*"
)
_QUICK_DIRECTIVES: Final = frozenset("YmdHMSTF%")  # those that Arrow's strptime reads as Python's does
_OUTSIDE: Final = "is outside 1677-09-21 .. 2262-04-11, what nanoseconds hold"


class TimeRules(NamedTuple):
    """How a column is read as moments."""

    format: str | None = None
    unit: str | None = None
    zone: str = "UTC"

    def check(self) -> None:
        """Raise OptionError for rules that make no sense, TypeError for what is no text."""
        opt.check_text("timestamp_format", self.format)
        opt.check_text("timestamp_unit", self.unit)
        if not isinstance(self.zone, str):
            raise TypeError(f"timezone= must be a str, not {type(self.zone).__name__}")
        if self.format is not None and self.unit is not None:
            raise OptionError(
                "timestamp_format= is for text and timestamp_unit= for numbers: give one of them"
            )
        if self.unit is not None and self.unit not in UNITS_NS:
            raise OptionError(f"timestamp_unit={self.unit!r}: must be one of 's', 'ms', 'us', 'ns'")
        if self.format is not None and "%" not in self.format:
            raise OptionError(
                f"timestamp_format={self.format!r}: not a format such as '%d/%m/%Y %H:%M:%S' (see strptime)"
            )
        self.tzinfo()

    def tzinfo(self) -> tzinfo:
        if self.zone == "UTC":
            return UTC
        try:
            return ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise OptionError(
                f"timezone={self.zone!r}: no such time zone; give a name such as 'Europe/Berlin'"
            ) from None


NO_RULES: Final = TimeRules()


def to_ns(array: Column, rules: TimeRules) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """Nanoseconds of each slot, and {row: reason} of those that are no moments."""
    array = decoded(array)
    kind = array.type
    moments: Any = None
    if pa.types.is_binary(kind):
        try:
            array = array.cast(pa.string())
        except pa.ArrowInvalid:
            return _one_by_one(array.to_pylist(), rules)
    if pa.types.is_string(array.type):
        moments = _from_text(array, rules)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        moments = _from_times(array, rules)
    elif pa.types.is_integer(kind):
        moments = _from_ints(array, _unit_of(rules))
    elif not (pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise OptionError(f"a column of {kind} has no moments: give one of timestamps, text or numbers")
    if moments is None:
        return _one_by_one(array.to_pylist(), rules)
    bad = {}
    if moments.null_count:
        bad = {int(row): "has no timestamp" for row in np.flatnonzero(pc.is_null(moments).to_numpy(False))}
    return pc.fill_null(moments.cast(pa.int64()), INT64_MIN).to_numpy(zero_copy_only=False), bad


def list_to_ns(values: list[Any], rules: TimeRules) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """The same for values that came out of JSON."""
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
        return _one_by_one(values, rules)
    if pa.types.is_string(array.type) or (pa.types.is_integer(array.type) and rules.unit is not None):
        return to_ns(array, rules)
    return _one_by_one(values, rules)


def _unit_of(rules: TimeRules) -> int:
    if rules.unit is None:
        raise OptionError(
            "the timestamps are numbers: say whether they are s, ms, us or ns (timestamp_unit=)"
        )
    return UNITS_NS[rules.unit]


# ---- whole columns: the moments as timestamp[ns], or None when some value needs a closer look ------------


def _from_text(array: Column, rules: TimeRules) -> Any:
    if rules.unit is not None:
        try:
            return _from_ints(array.cast(pa.int64()), UNITS_NS[rules.unit])
        except pa.ArrowInvalid:
            return None
    if rules.format is not None:
        directives = {pair[1] for pair in re.findall(r"%.?", rules.format) if len(pair) == 2}
        if not directives <= _QUICK_DIRECTIVES:
            return None
        found = pc.strptime(array, format=rules.format, unit="s", error_is_null=True)
        return _from_times(found, rules) if found.null_count == array.null_count else None
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return _from_times(array.cast(kind), rules)
        except pa.ArrowInvalid:
            continue
    return None


def _from_times(array: Column, rules: TimeRules) -> Any:
    try:
        if pa.types.is_date(array.type):
            array = array.cast(pa.timestamp("s" if pa.types.is_date32(array.type) else "ms"))
        zone = array.type.tz
        moments = array.cast(pa.timestamp("ns", zone))
        if zone is None and rules.zone != "UTC":
            return pc.assume_timezone(moments, rules.zone, ambiguous="earliest", nonexistent="earliest")
        return moments
    except pa.ArrowInvalid:
        return None


def _from_ints(array: Column, factor: int) -> Any:
    try:
        return pc.multiply_checked(array.cast(pa.int64()), factor).cast(pa.timestamp("ns"))
    except pa.ArrowInvalid:
        return None


# ---- one by one ---------------------------------------------------------------------------------------


def _one_by_one(values: list[Any], rules: TimeRules) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    read = reader(rules)
    found = np.empty(len(values), np.int64)
    bad: dict[int, str] = {}
    known: dict[Any, int | str] = {}
    for row, value in enumerate(values):
        if isinstance(value, (list, dict)):
            value = str(value)
        known_as = type(value), value  # True == 1
        answer = known.get(known_as)
        if answer is None:
            try:
                answer = read(value)
            except ValueError as error:
                answer = str(error)
            if len(known) < 100_000:
                known[known_as] = answer
        if isinstance(answer, str):
            bad[row] = answer
            answer = INT64_MIN
        found[row] = answer
    return found, bad


def reader(rules: TimeRules) -> Callable[[Any], int]:
    """A function of one value: its nanoseconds, or ValueError with the reason that it has none."""
    zone = rules.tzinfo()

    def read(value: Any) -> int:
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise ValueError(f"the timestamp {value!r} is not UTF-8") from None
        if value is None or value == "":
            raise ValueError("has no timestamp")
        if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal, datetime)):
            raise ValueError(f"the timestamp {value!r} is not a moment")
        if isinstance(value, datetime):
            ns = _ns_of(value, 0, zone)
        elif isinstance(value, str) and rules.unit is None:
            ns = _strptime(value, rules.format, zone) if rules.format is not None else _iso(value, zone)
        else:
            ns = _number(value, rules)
        if not INT64_MIN < ns <= INT64_MAX:
            raise ValueError(f"the timestamp {value!r} {_OUTSIDE}")
        return ns

    return read


def _number(value: Any, rules: TimeRules) -> int:
    if rules.unit is None:
        raise ValueError(
            f"the timestamp {value!r} is a number: say its unit, s, ms, us or ns (timestamp unit)"
        )
    try:
        number = Decimal(str(value).strip())
        return int((number * UNITS_NS[rules.unit]).to_integral_value())
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(f"the timestamp {value!r} is not a number") from None


def _iso(text: str, zone: tzinfo) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"the timestamp {text!r} is not ISO 8601 (a timestamp format or unit may be needed)")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    fraction = int((match[7] or "").ljust(9, "0"))
    offset = match[8]
    try:
        if offset in ("Z", "z"):
            zone = UTC
        elif offset:
            minutes = int(offset[1:3]) * 60 + int(offset[3:].lstrip(":") or 0)
            zone = timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes))
        return _ns_of(datetime(year, month, day, hour, minute, second, tzinfo=zone), fraction, zone)
    except ValueError as error:
        raise ValueError(f"the timestamp {text!r} is not a moment: {error}") from None


def _strptime(text: str, form: str, zone: tzinfo) -> int:
    try:
        return _ns_of(datetime.strptime(text, form), 0, zone)
    except ValueError:
        raise ValueError(f"the timestamp {text!r} does not match {form!r}") from None


def _ns_of(moment: datetime, more_ns: int, zone: tzinfo) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    delta = moment - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000 + more_ns
