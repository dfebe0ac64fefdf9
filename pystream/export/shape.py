"""From the topic's own columns to those that are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pystream.errors import OptionError
from pystream.export import text, values
from pystream.export.blocks import Block
from pystream.export.errors import BadRecordError
from pystream.export.request import SYSTEM_COLUMNS, Fields, Request
from pystream.export.text import Bad

if TYPE_CHECKING:
    from pystream.topic import Topic

OnBad = Callable[[int, int, str], object]
"""Called with partition, offset and reason for each record that is left out."""


class Misfit(Exception):
    """A record is not what was guessed of all from the first ones; it may be bad, or the guess was."""


class Shaped(NamedTuple):
    """Rows as they are written, and what decides where."""

    rows: pa.RecordBatch
    timestamps: pa.Array
    partition: int


class _Column(NamedTuple):
    """One column of the topic: where it comes from, what it is called, how it is made."""

    source: str
    fields: tuple[pa.Field, ...]
    make: Callable[[pa.RecordBatch, int], tuple[list[Any], list[Bad]]]


class Shaper:
    """Makes rows of blocks, in the schema that `request` asks for.

    Args:
        fields: of the JSON values, where they become columns.
        is_guess: `fields` are those of the first values; `shape` raises Misfit at the first that differs.
    """

    def __init__(
        self,
        topic: Topic,
        request: Request,
        fields: Fields | None,
        on_bad: OnBad | None = None,
        *,
        is_guess: bool = False,
    ) -> None:
        self._topic = topic
        self._request = request
        self._raw = pa.schema(topic)
        self._fields = fields
        self._on_bad = on_bad
        self._is_guess = is_guess
        self.skipped = 0
        self._columns = list(self._plan())
        self.schema = pa.schema([field for column in self._columns for field in column.fields])
        self.json_columns = frozenset(
            field.name for field in self.schema if (field.metadata or {}).get(b"form") == b"json"
        )
        if self.json_columns:
            self.schema = pa.schema([field.remove_metadata() for field in self.schema])
        if not self.schema.names:
            raise OptionError(
                "no column to write: the values have no field; give schema=, or other columns",
                topic=topic.name,
            )

    def shape(self, block: Block) -> Shaped:
        """The rows of a block.

        Raises:
            BadRecordError: a key, value or header cannot be written, and is not to be skipped.
        """
        rows = block.rows
        arrays, bad = self._convert(rows, block.partition)
        if bad and self._is_guess:
            raise Misfit
        if bad:
            self._tell(rows, block.partition, bad)
            keep = np.ones(rows.num_rows, bool)
            keep[list(bad)] = False
            rows = rows.filter(pa.array(keep))
            arrays, bad = self._convert(rows, block.partition)
            assert not bad
        return Shaped(pa.RecordBatch.from_arrays(arrays, schema=self.schema), rows.column(1), block.partition)

    # ---- columns

    def _plan(self) -> Iterator[_Column]:
        request, dtype = self._request, self._topic.options.dtype
        own = self._raw.names[3:-1]  # after offset, timestamp and key; before headers
        taken = {name for name in request.columns if name in SYSTEM_COLUMNS and name != "value"}
        if request.value == "json" and self._fields is not None:
            names = list(self._fields.types)
        elif dtype is not None and dtype.names is not None:
            names = list(dtype.names)
        else:
            names = []
        called = _call(names, taken)
        named = [name for name in request.columns if name not in SYSTEM_COLUMNS]
        if unknown := [name for name in named if name not in called]:
            there = ", ".join([*SYSTEM_COLUMNS, *called])
            raise OptionError(
                f"columns={unknown[0]!r}: no such column; there are {there}", topic=self._topic.name
            )
        for column in request.columns:
            if column == "value":
                chosen = [(as_, name) for as_, name in called.items() if as_ not in named]
            elif column in called and column not in taken:
                chosen = [(column, called[column])]
            else:
                yield self._system(column)
                continue
            if self._fields is not None and request.value == "json":
                yield self._json(chosen)
            elif dtype is not None and dtype.fields is not None:
                for as_, name in chosen:
                    yield self._field(as_, own[names.index(name)], dtype.fields[name][0])
            elif dtype is not None:
                yield self._field("value", "value", dtype)
            else:
                yield self._value()

    def _system(self, name: str) -> _Column:
        request = self._request
        if name == "offset":
            return _lent(self._raw.field("offset"))
        if name == "partition":

            def partition(rows: pa.RecordBatch, number: int) -> tuple[list[Any], list[Bad]]:
                return [pa.array(np.full(rows.num_rows, number, np.int32))], []

            return _Column(name, (pa.field(name, pa.int32(), nullable=False),), partition)
        if name == "timestamp":
            return self._moment(name, 1) if request.is_text else _lent(self._raw.field(1))
        if name == "headers":
            if not request.is_text:
                return _lent(self._raw.field(len(self._raw) - 1), -1)
            encode = request.value if request.value in ("base64", "hex") else "utf8"
            none = "[]" if request.format == "jsonl" else None
            return _made(name, -1, lambda column: text.headers(column, encode, none), is_json=True)
        assert name == "key"
        if request.key == "bytes":
            return _lent(self._raw.field(2), 2)
        return _made(name, 2, text.ENCODERS[request.key])

    def _value(self) -> _Column:
        form = self._request.value
        assert form is not None
        if form == "bytes":
            return _lent(self._raw.field(3), 3)
        if form == "json":
            return _made("value", 3, values.embedded, is_json=True)
        return _made("value", 3, text.ENCODERS[form])

    def _json(self, chosen: list[tuple[str, str]]) -> _Column:
        assert self._fields is not None
        all_fields = self._fields
        some = Fields(
            {name: all_fields.types[name] for _, name in chosen},
            all_fields.others if len(chosen) == len(all_fields.types) else "ignore",
        )
        is_nested = {name: kind is not None and pa.types.is_nested(kind) for name, kind in some.types.items()}
        finish: list[Callable[[pa.Array], pa.Array]] = []
        fields = []
        for as_, name in chosen:
            kind = some.types[name]
            if kind is None or (is_nested[name] and self._request.is_text):
                finish.append((lambda column: column) if kind is None else text.json_text)
                fields.append(_json_field(as_))
            elif pa.types.is_timestamp(kind) and self._request.is_text:
                finish.append(text.moments)
                fields.append(pa.field(as_, pa.string()))
            else:
                finish.append(lambda column: column)
                fields.append(pa.field(as_, kind))

        def make(rows: pa.RecordBatch, number: int) -> tuple[list[Any], list[Bad]]:
            found, bad = values.columns(rows.column(3), some)
            return [last(each) for last, each in zip(finish, found, strict=True)] if not bad else [], bad

        return _Column("value", tuple(fields), make)

    def _field(self, as_: str, own: str, dtype: np.dtype[Any]) -> _Column:
        """A field of a topic with a dtype."""
        at = self._raw.names.index(own)
        field = self._raw.field(at).with_name(as_)
        if not self._request.is_text:
            return _lent(field, at)
        if pa.types.is_timestamp(field.type):
            return self._moment(as_, at)
        if not pa.types.is_fixed_size_binary(field.type):
            return _lent(field, at)
        if self._request.value is None and dtype.kind == "S":
            return _made(as_, at, text.padded)
        if self._request.value is None and dtype.kind == "U":
            return _made(as_, at, lambda column: text.wide(column, dtype))
        return _made(as_, at, text.ENCODERS[self._request.value or "base64"])

    @staticmethod
    def _moment(name: str, at: int) -> _Column:
        return _made(name, at, lambda column: (text.moments(column), []))

    # ---- bad records

    def _convert(self, rows: pa.RecordBatch, partition: int) -> tuple[list[Any], dict[int, tuple[str, str]]]:
        """All columns, and what is wrong with which rows."""
        arrays: list[Any] = []
        bad: dict[int, tuple[str, str]] = {}
        for column in self._columns:
            made, flaws = column.make(rows, partition)
            arrays += made
            for flaw in flaws:
                bad.setdefault(flaw.row, (column.source, flaw.reason))
        return arrays, bad

    def _tell(self, rows: pa.RecordBatch, partition: int, bad: dict[int, tuple[str, str]]) -> None:
        offsets = rows.column(0)
        for row, (source, reason) in sorted(bad.items()):
            offset = offsets[row].as_py()
            if not self._request.skip_bad:
                raise bad_record(self._topic.name, self._request, partition, offset, source, reason)
            self.skipped += 1
            if self._on_bad is not None:
                self._on_bad(partition, offset, f"{source} {reason}")


def bad_record(
    topic: str, request: Request, partition: int, offset: int, source: str, reason: str
) -> BadRecordError:
    """The error for a record that cannot be written."""
    form = request.key if source == "key" else request.value
    hint = '; base64 or hex, as in {0}="base64", writes any bytes' if form == "utf8" else ""
    where = "key" if source == "key" else "value"
    return BadRecordError(
        f"{topic}/{partition} offset {offset}: {source} {reason}{hint.format(where)}; "
        'bad_values="skip" leaves such records out',
        topic=topic,
        partition=partition,
        offset=offset,
    )


def _call(names: list[str], taken: set[str]) -> dict[str, str]:
    """What fields are called in the output, for what they are: none like a column that is written too."""
    called = {}
    for name in names:
        as_ = name
        while as_ in taken or (as_ != name and as_ in names) or as_ in called:
            as_ = "value_" + as_
        called[as_] = name
    return called


def _lent(field: pa.Field, at: int = 0) -> _Column:
    """A column as the topic has it."""
    at = {"offset": 0, "timestamp": 1}.get(field.name, at) if at == 0 else at
    return _Column(field.name, (field,), lambda rows, number: ([rows.column(at)], []))


def _made(
    name: str, at: int, convert: Callable[[pa.Array], text.Converted], is_json: bool = False
) -> _Column:
    """A column of text made of one of the topic's."""

    def make(rows: pa.RecordBatch, number: int) -> tuple[list[Any], list[Bad]]:
        found, bad = convert(rows.column(at if at >= 0 else rows.num_columns + at))
        return [found], bad

    return _Column(name, (_json_field(name) if is_json else pa.field(name, pa.string()),), make)


def _json_field(name: str) -> pa.Field:
    """A column whose text is JSON: embedded in JSON lines, a cell of text elsewhere."""
    return pa.field(name, pa.string(), metadata={"form": "json"})
