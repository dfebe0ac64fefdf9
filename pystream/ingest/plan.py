"""What a job is asked to do with its rows, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from pystream import options as opt
from pystream.errors import OptionError
from pystream.ingest.times import NO_RULES, TimeRules
from pystream.metadata import TopicOptions

FORMATS: Final = ("csv", "jsonl", "parquet", "arrow", "arrow-stream")
LINE_FORMATS: Final = ("csv", "jsonl")
COMPRESSIONS: Final = ("none", "gzip", "zstd", "bz2", "lz4")
CSV_TYPES: Final = {"string": "text", "number": "number", "bool": "bool"}
"""What a column of a CSV file can be said to hold, and the JSON cell it goes into."""
_TEXTS: Final = ("format", "compression", "delimiter", "quote", "key", "timestamp", "value_column")


@dataclass(frozen=True, slots=True)
class Plan:
    """Options that shape records. The same options on the same sources make the same records."""

    format: str | None = None
    compression: str | None = None
    delimiter: str | None = None
    quote: str | None = '"'
    columns: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    timestamp: str | None = None
    times: TimeRules = NO_RULES
    value: str = "json"
    value_column: str | None = None
    partition: int | None = None

    def __post_init__(self) -> None:
        for name in _TEXTS:
            opt.check_text(name, getattr(self, name))
        _check_choice("format", self.format, FORMATS)
        _check_choice("compression", self.compression, COMPRESSIONS)
        for name, text in (("delimiter", self.delimiter), ("quote", self.quote)):
            if text is not None and (len(text) != 1 or not text.isascii() or text in "\r\n\0"):
                raise OptionError(f"{name}={text!r}: must be one ASCII character")
        if self.quote is not None and (self.delimiter or ",") == self.quote:
            raise OptionError(f"delimiter={self.delimiter!r}: is the quote character too")
        for name, kind in self.types.items():
            if not isinstance(name, str):
                raise TypeError(f"types= must have names of columns, not {type(name).__name__}")
            if kind not in CSV_TYPES:
                raise OptionError(f"types={name}={kind}: a column is 'string', 'number' or 'bool'")
        if self.columns is not None:
            check_names(self.columns, "columns=")
        if self.timestamp is None and (self.times.format or self.times.unit or self.times.zone != "UTC"):
            raise OptionError("timestamp_format=, timestamp_unit= and timezone= need timestamp=, the column")
        self.times.check()

    @property
    def needs_columns(self) -> bool:
        """False where lines can go in without a look inside."""
        return self.value != "raw" or self.key is not None or self.timestamp is not None

    def shape(self) -> dict[str, Any]:
        """The options as a document: two plans make the same records when these are equal."""
        document = asdict(self)
        document["times"] = list(self.times)
        document["types"] = dict(sorted(self.types.items()))
        document["columns"] = None if self.columns is None else list(self.columns)
        return document

    def check_topic(self, options: TopicOptions) -> None:
        """Refuse what this topic cannot take.

        Raises:
            OptionError: which option, and why.
        """
        if self.timestamp is not None and options.timestamp_type == "append":
            raise OptionError(
                "timestamp=: the topic stamps its records itself (timestamp_type='append'); leave it out"
            )
        if self.partition is not None and not 0 <= self.partition < options.partitions:
            raise OptionError(f"partition={self.partition}: the topic has {options.partitions}")
        if self.value == "fields" and options.dtype is None:
            raise OptionError("the topic has no dtype, so its values have no fields")


def value_mode(value: str | None, value_column: str | None, options: TopicOptions) -> str:
    """How values are made: "json", "raw", "column", or "fields" (records of a dtype).

    Raises:
        OptionError: what was asked for does not go with the topic, or with itself.
    """
    if value is not None and value not in ("json", "raw"):
        raise OptionError(f"value={value!r}: must be 'json' or 'raw'; for one column use value_column=")
    if value_column is not None:
        if value is not None:
            raise OptionError(f"value={value!r} and value_column={value_column!r}: give one of them")
        return "field" if options.dtype is not None else "column"
    if options.dtype is None:
        return value or "json"
    if value is not None:
        raise OptionError(f"value={value!r}: the topic has records of {options.dtype}; leave it out")
    if options.dtype.names is None:
        raise OptionError(
            f"the topic has values of {options.dtype}: say which column they are (value_column=)"
        )
    return "fields"


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse names that stand twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise OptionError(
            f"{where}: the column {twice[0]!r} stands there twice; name the columns otherwise (columns=)"
        )


def missing(name: str, names: Sequence[str], where: str) -> OptionError:
    """There is no such column."""
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names[:20]) or 'none'}"
    return OptionError(f"{where}: no column {name!r}; {hint}")


def _check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise OptionError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")
