"""Blocks of rows as records: values, keys and timestamps, without the rows that cannot become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pystream._native import rows
from pystream._native.limits import FRAME_HEADER_BYTES
from pystream.errors import OptionError
from pystream.ingest.blocks import UNKNOWN, Block
from pystream.ingest.errors import BadRow
from pystream.ingest.fields import check_dtype, field_values
from pystream.ingest.plan import Plan, missing
from pystream.ingest.text import Column, dump_json, json_cell, json_rows, object_text, plain_text
from pystream.ingest.times import list_to_ns, to_ns
from pystream.metadata import TopicOptions

FRAMING_BYTES: Final = 1024
"""Room that a segment keeps, beside a record's own bytes, for its headers and those of its batch."""


@dataclass(frozen=True, slots=True)
class Records:
    """What a block becomes."""

    values: Any
    """A binary Arrow array, or a NumPy array of the topic's dtype."""
    keys: Column | None
    timestamps: npt.NDArray[np.int64] | None
    """Nanoseconds since the epoch."""
    bad: list[BadRow]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, order: npt.NDArray[np.intp]) -> Records:
        """The records in another order, or some of them."""
        return self._each(
            lambda column: column[order] if isinstance(column, np.ndarray) else column.take(pa.array(order))
        )

    def slice(self, start: int, stop: int) -> Records:
        """The records from `start` up to `stop`; nothing is copied."""
        return self._each(
            lambda column: (
                column[start:stop] if isinstance(column, np.ndarray) else column.slice(start, stop - start)
            )
        )

    def _each(self, change: Any) -> Records:
        return replace(
            self,
            values=change(self.values),
            keys=None if self.keys is None else change(self.keys),
            timestamps=None if self.timestamps is None else change(self.timestamps),
        )


class Shaper:
    """Makes the records of one job.

    Args:
        plan: what is wanted.
        options: how the topic stores its records.
    """

    def __init__(self, plan: Plan, options: TopicOptions) -> None:
        plan.check_topic(options)
        self._plan = plan
        self._options = options
        self.unused: dict[str, None] = {}
        """Columns that no field of the dtype takes."""
        if options.dtype is not None:
            check_dtype(options.dtype)

    def shape(self, block: Block, source: str) -> Records:
        """The records of a block, its bad rows among them in the order of the source."""
        plan = self._plan
        bad: dict[int, str] = {}
        if block.count == 0:
            return Records(pa.array([], pa.binary()), None, None, block.bad)
        keys = None if plan.key is None else self._texts(block, source, plan.key, "key", bad)
        timestamps = self._timestamps(block, source, bad)
        values = self._values(block, source, bad)
        self._check_sizes(values, keys, bad)
        records = Records(values, keys, timestamps, [])
        if bad:
            records = records.take(np.delete(np.arange(block.count), list(bad)))
        places = sorted(bad)
        found = block.bad + [
            BadRow(source, number, block.unit, bad[row], block.text(row))
            for row, number in zip(places, block.numbers(places), strict=True)
        ]
        return replace(records, bad=sorted(found, key=lambda row: row.number))

    # ---- columns

    def _column(self, block: Block, source: str, name: str) -> Any:
        """A column, or the list of what JSON lines have under a name."""
        if block.objects is not None:
            return [item.get(name) for item in block.objects]
        if name not in block.columns:
            raise missing(name, block.names, source)
        return block.columns[name]

    def _texts(self, block: Block, source: str, name: str, what: str, bad: dict[int, str]) -> Column:
        column = self._column(block, source, name)
        if isinstance(column, list):
            texts: list[bytes | None] = []
            for row, value in enumerate(column):
                try:
                    texts.append(object_text(value))
                except TypeError as error:
                    bad.setdefault(row, f"the {what} {name!r}: {error}")
                    texts.append(None)
            return pa.array(texts, pa.binary())
        try:
            texts_array = plain_text(column)
        except TypeError as error:
            raise OptionError(f"{source}: the column {name!r} cannot be the {what}: {error}") from None
        return texts_array.cast(pa.binary()) if pa.types.is_string(texts_array.type) else texts_array

    def _timestamps(self, block: Block, source: str, bad: dict[int, str]) -> npt.NDArray[np.int64] | None:
        name = self._plan.timestamp
        if name is None:
            return None
        column = self._column(block, source, name)
        read = list_to_ns if isinstance(column, list) else to_ns
        try:
            found, wrong = read(column, self._plan.times)
        except OptionError as error:
            raise OptionError(f"{source}: column {name!r}: {error}") from None
        for row, reason in wrong.items():
            bad.setdefault(row, f"column {name!r} {reason}" if reason.startswith("has") else reason)
        return found

    # ---- values

    def _values(self, block: Block, source: str, bad: dict[int, str]) -> Any:
        plan = self._plan
        if plan.value == "raw" or (plan.value == "json" and block.objects is not None):
            assert block.lines is not None
            return block.lines()
        if plan.value == "json":
            return self._json(block, bad)
        if plan.value == "column":
            assert plan.value_column is not None
            return self._texts(block, source, plan.value_column, "value", bad)
        return self._fields(block, source, bad)

    def _json(self, block: Block, bad: dict[int, str]) -> Column:
        if block.cells:
            # What stands where nothing stood so far is nothing still.
            cells = []
            for name in block.names:
                cell = block.cells[name]
                kind = rows.CELLS["text_or_null" if cell == UNKNOWN else cell]
                cells.append((kind, block.columns[name]))
        else:
            cells = [json_cell(block.columns[name]) for name in block.names]
        values, wrong = json_rows(block.names, cells, block.count)
        for row, index in wrong.items():
            name = block.names[index]
            bad.setdefault(
                row, _cell_reason(block.cells.get(name, "text"), name, block.columns[name][row].as_py())
            )
        return values

    def _fields(self, block: Block, source: str, bad: dict[int, str]) -> npt.NDArray[Any]:
        dtype = self._options.dtype
        assert dtype is not None
        if dtype.names is None or self._plan.value == "field":
            name = self._plan.value_column
            assert name is not None
            values, wrong = field_values(self._column(block, source, name), dtype, self._plan.times)
            for row, reason in wrong.items():
                bad.setdefault(row, f"column {name!r}: {reason}")
            return values
        self._note_unused(block, dtype.names)
        out = np.zeros(block.count, dtype)
        for name in dtype.names:
            values, wrong = field_values(self._column(block, source, name), dtype[name], self._plan.times)
            out[name] = values
            for row, reason in wrong.items():
                bad.setdefault(row, f"column {name!r}: {reason}")
        return out

    def _note_unused(self, block: Block, names: tuple[str, ...]) -> None:
        taken = {*names, self._plan.key, self._plan.timestamp}
        there: Mapping[str, Any] = block.columns or (block.objects[0] if block.objects else {})
        self.unused.update(dict.fromkeys(name for name in there if name not in taken))

    # ---- sizes

    def _check_sizes(self, values: Any, keys: Column | None, bad: dict[int, str]) -> None:
        """Find the records that the topic cannot hold."""
        options = self._options
        room = options.segment_bytes - FRAME_HEADER_BYTES - FRAMING_BYTES
        total = np.zeros(len(values), np.int64)
        for what, column, width in (("value", values, options.value_width), ("key", keys, options.key_width)):
            if column is None or isinstance(column, np.ndarray):
                continue
            sizes, present = _sizes(column)
            if width >= 0:
                for row in np.flatnonzero((sizes != width) & present):
                    bad.setdefault(
                        int(row), f"the {what} has {sizes[row]} bytes, where the topic has exactly {width}"
                    )
            total += sizes
        for row in np.flatnonzero(total > room):
            bad.setdefault(int(row), f"{total[row]} bytes, where a segment of this topic has room for {room}")


def _sizes(column: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, 4 * column.offset).astype(
        np.int64
    )
    present = (
        np.ones(len(column), bool)
        if not column.null_count
        else column.is_valid().to_numpy(zero_copy_only=False)
    )
    return np.diff(offsets), present


def _cell_reason(cell: str, name: str, value: Any) -> str:
    if cell not in ("number", "bool"):
        return f"column {name!r}: {str(value)[:80]} is not UTF-8"
    shown = (
        dump_json(value.decode("utf-8", "backslashreplace")).decode()
        if isinstance(value, bytes)
        else repr(value)
    )
    return f"column {name!r}: {shown[:80]} is no {cell}; if the column holds text, say types={name}=string"
