"""Records as text with columns: lines for programs, tables for people."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import pystream
from pystream.cli.common import time_text

Columns: TypeAlias = Callable[[pystream.Batch], Iterable[bytes]]
"""Makes the lines of a batch."""


def lines(
    *,
    hexadecimal: bool,
    keys: bool,
    offsets: bool,
    times: bool,
    headers: bool,
    numbers: bool,
    separator: bytes,
    null_text: bytes | None,
    delimiter: bytes,
) -> Columns:
    """A line a record: partition, offset, time, headers, key and value, those that are wanted."""

    def slot(data: bytes | None) -> bytes:
        if data is None:
            return null_text or b""
        return data.hex().encode() if hexadecimal else data

    def header(name: str, value: bytes | None) -> bytes:
        return name.encode(errors="surrogateescape") + b"=" + slot(value)

    def make(batch: pystream.Batch) -> Iterator[bytes]:
        for record in batch:
            parts = []
            if numbers:
                parts.append(b"%d" % record.partition)
            if offsets:
                parts.append(b"%d" % record.offset)
            if times:
                parts.append(time_text(record.timestamp).encode())
            if headers:
                parts.append(b",".join([header(*pair) for pair in record.headers]))
            if keys:
                parts.append(slot(record.key))
            parts.append(slot(record.value))
            yield separator.join(parts) + delimiter

    return make


# ---- tables -------------------------------------------------------------------------------------------

_GAP: Final = "  "
# Least and most columns of a terminal for what may be cut.
_KEY_WIDTHS: Final = (10, 24)
_HEADERS_WIDTHS: Final = (10, 30)
_VALUE_WIDTH_MIN: Final = 20
_OFFSET_WIDTH_MIN: Final = 8
# From here on there is room for longer keys in records to come.
_WIDE: Final = 120
_TIME_WIDTH: Final = len("2026-01-31 12:00:00.123")


class Table:
    """A table that is printed as records come, a row a line.

    What is longer than its column is cut; values are not where there is no terminal to be as wide as. Times
    are cut to the millisecond.
    """

    def __init__(self, topic: pystream.Topic, headers: bool) -> None:
        self._dtype = topic.options.dtype
        self._headers = headers
        self._numbers = topic.partitions > 1
        self._widths: list[int] | None = None
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        columns = os.environ.get("COLUMNS", "")
        self._width: int | None = None
        if sys.stdout.isatty() or columns.isdecimal():
            self._width = max(shutil.get_terminal_size().columns, 1)
        try:
            "…".encode(self._encoding)
            self._cut = "…"
        except UnicodeEncodeError:
            self._cut = "..."
        self._bold = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ

    def __call__(self, batch: pystream.Batch) -> Iterator[bytes]:
        rows = [list(row) for row in self._rows(batch)]
        if self._widths is None:
            titles = self._titles()
            self._widths = self._measure([titles, *rows])
            title = self._line(titles).rstrip("\n")
            yield self._bytes(f"\x1b[1m{title}\x1b[0m\n" if self._bold else f"{title}\n")
        for row in rows:
            yield self._bytes(self._line(row))

    def _bytes(self, text: str) -> bytes:
        return text.encode(self._encoding, errors="backslashreplace")

    def _titles(self) -> list[str]:
        return [
            *(["part"] if self._numbers else []),
            "offset",
            "time (UTC)",
            "key",
            *(["headers"] if self._headers else []),
            "value",
        ]

    def _rows(self, batch: pystream.Batch) -> Iterator[Iterable[str]]:
        values = None
        if self._dtype is not None:
            from pystream.cli.jsonlines import objects

            values = objects(batch.array)
        for i, record in enumerate(batch):
            row = [str(record.partition)] if self._numbers else []
            row += [str(record.offset), _time(record.timestamp), _shown(record.key)]
            if self._headers:
                row.append(", ".join(f"{_clean(name)}={_shown(value)}" for name, value in record.headers))
            row.append(_shown(record.value) if values is None else values[i])
            yield row

    def _measure(self, rows: list[list[str]]) -> list[int]:
        """Columns of the terminal for each column, from the title and the first records."""
        from rich.cells import cell_len

        widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
        offset = 1 if self._numbers else 0
        widths[offset] = max(widths[offset], _OFFSET_WIDTH_MIN)  # they grow
        widths[offset + 1] = _TIME_WIDTH
        cut = {offset + 2: _KEY_WIDTHS}
        if self._headers:
            cut[offset + 3] = _HEADERS_WIDTHS
        for i, (least, most) in cut.items():
            if any(row[i] not in ("", "-") for row in rows[1:]):
                wide = self._width is None or self._width >= _WIDE
                widths[i] = most if wide else min(max(widths[i], least), most)
        if self._width is not None:
            used = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
            for i, (least, _) in sorted(cut.items(), reverse=True):  # headers give way before keys
                spared = min(max(used + _VALUE_WIDTH_MIN - self._width, 0), max(widths[i] - least, 0))
                widths[i] -= spared
                used -= spared
            widths[-1] = max(self._width - used, _VALUE_WIDTH_MIN)
        return widths

    def _line(self, row: list[str]) -> str:
        assert self._widths is not None
        right = 2 if self._numbers else 1  # numbers stand to the right
        cells = [text.rjust(width) for text, width in zip(row[:right], self._widths, strict=False)]
        cells += [
            self._fit(text, width) for text, width in zip(row[right:-1], self._widths[right:-1], strict=True)
        ]
        cells.append(row[-1] if self._width is None else self._fit(row[-1], self._widths[-1]))
        line = _GAP.join(cells).rstrip()
        return (line if self._width is None else self._fit(line, self._width).rstrip()) + "\n"

    def _fit(self, text: str, width: int) -> str:
        from rich.cells import cell_len, set_cell_size

        if cell_len(text) <= width:
            return set_cell_size(text, width)
        return set_cell_size(text, max(width - len(self._cut), 0)) + self._cut


def _time(nanoseconds: int | None) -> str:
    text = time_text(nanoseconds)
    return f"{text[:10]} {text[11:19]}.{(text[20:-1] or '0').ljust(3, '0')[:3]}" if text else "-"


def _shown(data: bytes | None) -> str:
    """Bytes for people: text where they are text, and nothing that a terminal would obey."""
    return "-" if data is None else _clean(data.decode(errors="backslashreplace"))


def _clean(text: str) -> str:
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])
