"""Sources as blocks of rows, each a place from which reading can go on.

A block of lines is cut from the bytes that begin where the one before it ended: the same place gives the
same block. Rows of CSV are found first, by the rules of Arrow's reader, and each block is then given to
that reader whole: so every row's line is known, and a row that the reader refuses is known by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from pystream._native import rows
from pystream.errors import OptionError
from pystream.ingest.errors import BadRow, SourceError
from pystream.ingest.plan import CSV_TYPES, Plan, check_names, missing
from pystream.ingest.sources import STDIN, Bytes, Source, open_arrow, reading
from pystream.ingest.text import Column, binary_array, parse_json

BLOCK_BYTES: Final = 4 << 20
"""Text that is read at a time."""
ROW_BYTES_MAX: Final = 256 << 20
"""Text that one row may have: a quote that is never closed must not swallow a file."""
TABLE_ROWS: Final = 64 << 10
"""Rows of Parquet that are decoded at a time."""

_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
UNKNOWN: Final = "unknown"
"""The cell of a CSV column in which nothing has stood yet."""
_UNCLOSED: Final = "a quote is opened here and never closed"
_NOTHING: Final = tuple(pcsv.ConvertOptions().null_values)
_BOOLS: Final = ("true", "True", "TRUE", "1", "false", "False", "FALSE", "0")

Position = dict[str, Any]
"""A place in a source, as JSON: bytes and lines, or rows."""


@dataclass(slots=True)
class Block:
    """Rows that were read together."""

    count: int
    """Rows here, without those in `bad`."""
    after: Position
    """Where the next block begins."""
    numbers: Callable[[Sequence[int]], list[int]]
    """The line or row numbers of some rows, given in order."""
    unit: str
    names: list[str] = field(default_factory=list)
    columns: dict[str, Column] = field(default_factory=dict)
    """By name; binary text where the source is CSV. Empty for JSON lines."""
    cells: dict[str, str] = field(default_factory=dict)
    """For CSV: the JSON cell of each column."""
    objects: list[Any] | None = None
    """For JSON lines that were looked into: what each holds."""
    text: Callable[[int], bytes] = lambda row: b""
    """Row i as it stands in the source."""
    lines: Callable[[], Column] | None = None
    """All of them, as a binary array."""
    bad: list[BadRow] = field(default_factory=list)
    """Rows that could not be read at all."""
    source_bytes: int = 0
    """Bytes of the source that were read so far."""


def read_blocks(source: Source, plan: Plan, position: Position | None, limit: int | None) -> Iterator[Block]:
    """The blocks of a source from `position` (None: the beginning) on.

    Args:
        limit: bytes of the file that count, see `Bytes`.

    Raises:
        SourceError: it cannot be read as what it is said to be.
        OptionError: a column that is needed is not there.
    """
    with reading(source.name):
        if source.format == "csv":
            yield from _csv_blocks(source, plan, dict(position or {}), limit)
        elif source.format == "jsonl":
            yield from _json_blocks(source, plan, dict(position or {}), limit)
        else:
            yield from _table_blocks(source, dict(position or {}))


# ---- lines ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Cut:
    """Whole rows of text, and where they lie."""

    data: bytes
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    consumed: int
    at: int  # byte after them
    line: int  # number of the line at data[0]
    raw: int
    unclosed: bool = False  # the last row opens a quote that the source never closes

    def numbers(self, rows_: Sequence[int]) -> list[int]:
        """The numbers of the lines on which some rows begin, given in order: one pass, however many."""
        found, line, at = [], self.line, 0
        for row in rows_:
            start = int(self.starts[row])
            line += self.data.count(b"\n", at, start)
            at = start
            found.append(line)
        return found

    def number(self, row: int) -> int:
        return self.numbers([row])[0]

    def bad_rows(self, source: str, reasons: Mapping[int, str]) -> list[BadRow]:
        """Rows that are bad, by their place here."""
        places = sorted(reasons)
        return [
            BadRow(source, number, "line", reasons[row], self.text(row))
            for row, number in zip(places, self.numbers(places), strict=True)
        ]

    def text(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.ends[row]]


def _cuts(
    source: Source, position: Position, limit: int | None, quote: int, delimiter: int
) -> Iterator[_Cut]:
    at, line = position.get("at", 0), position.get("line", 1)
    stream = Bytes(source, limit)
    try:
        stream.skip_to(at)
        buffer, want, ended = b"", BLOCK_BYTES, False
        while True:
            if len(buffer) < want and not ended:
                asked = want - len(buffer)
                data = stream.read(asked)
                ended = not data if stream.is_pipe else len(data) < asked
                buffer = buffer + data if buffer else data
                if at == 0:
                    if buffer.startswith(_UTF16_BOMS):
                        raise SourceError(
                            f"{source.name}: UTF-16 text; make it UTF-8 first (iconv -f UTF-16 -t UTF-8)"
                        )
                    if buffer.startswith(_UTF8_BOM):
                        buffer, at = buffer[3:], 3
            if not buffer:
                return
            data = buffer if len(buffer) <= want else buffer[:want]
            last = ended and len(data) == len(buffer)
            starts, ends, consumed = rows.split_rows(data, 0, delimiter, quote, source.format == "csv", last)
            if consumed == 0:
                if len(data) >= ROW_BYTES_MAX:
                    raise SourceError(
                        f"{source.name}:{line}: a row of more than {ROW_BYTES_MAX >> 20} MiB begins here"
                        + ("; is a quote not closed?" if quote >= 0 else ""),
                        path=source.path,
                    )
                if len(data) >= want:
                    want *= 2
                continue
            at += consumed
            if len(starts):
                # The end of a line ends a row, unless it stands in quotes.
                tail = data[starts[-1] :] + b"\n" if last and quote >= 0 else b""
                unclosed = bool(tail) and rows.split_rows(tail, 0, delimiter, quote, True, False)[2] == 0
                yield _Cut(data, starts, ends, consumed, at, line, stream.raw_position, unclosed)
            line += data.count(b"\n", 0, consumed)
            buffer, want = buffer[consumed:], BLOCK_BYTES
    finally:
        stream.close()


def _after(cut: _Cut, **more: Any) -> Position:
    return {"at": cut.at, "line": cut.line + cut.data.count(b"\n", 0, cut.consumed), **more}


def _json_blocks(source: Source, plan: Plan, position: Position, limit: int | None) -> Iterator[Block]:
    first = not position
    for cut in _cuts(source, position, limit, -1, 0):
        kept = np.ones(len(cut.starts), bool)
        objects: list[Any] | None = None
        reasons: dict[int, str] = {}
        if plan.needs_columns:
            objects = []
            data = cut.data
            for row, (start, end) in enumerate(zip(cut.starts.tolist(), cut.ends.tolist(), strict=True)):
                try:
                    item = parse_json(data[start:end])
                except (ValueError, RecursionError) as error:
                    kept[row] = False
                    if not data[start:end].isspace():
                        reasons[row] = f"not JSON ({error})"
                    continue
                if isinstance(item, dict):
                    objects.append(item)
                else:
                    kept[row] = False
                    reasons[row] = f"not a JSON object, which a row is, but {type(item).__name__}"
            if first and objects:
                _check_fields(source, plan, objects)
                first = False
        bad = cut.bad_rows(source.name, reasons)
        yield _line_block(cut, np.flatnonzero(kept), bad, objects=objects)


def _check_fields(source: Source, plan: Plan, objects: list[Any]) -> None:
    """A name that no row of the first block has is a slip of the pen."""
    names = list(dict.fromkeys(name for item in objects for name in item))
    for wanted in (plan.key, plan.timestamp, plan.value_column):
        if wanted is not None and wanted not in names:
            raise missing(wanted, names, source.name)


def _line_block(
    cut: _Cut, kept: npt.NDArray[np.intp], bad: list[BadRow], after: Position | None = None, **more: Any
) -> Block:
    def lines() -> Column:
        if len(kept) == len(cut.starts):
            data, offsets = rows.gather(cut.data, cut.starts, cut.ends)
        else:
            data, offsets = rows.gather(cut.data, cut.starts[kept], cut.ends[kept])
        return binary_array(data, offsets)

    return Block(
        count=len(kept),
        after=_after(cut) if after is None else after,
        numbers=lambda places: cut.numbers([int(kept[row]) for row in places]),
        unit="line",
        text=lambda row: cut.text(int(kept[row])),
        lines=lines,
        bad=bad,
        source_bytes=cut.raw,
        **more,
    )


# ---- CSV ------------------------------------------------------------------------------------------------


def _dialect(source: Source, plan: Plan) -> tuple[int, int, pcsv.ParseOptions]:
    """Delimiter, quote (or -1), and both as Arrow's reader takes them."""
    is_tsv = not {"tsv", "tab"}.isdisjoint(source.name.lower().split(".")[-2:])
    delimiter = plan.delimiter or ("\t" if is_tsv else ",")
    parse = pcsv.ParseOptions(
        delimiter=delimiter, quote_char=plan.quote or False, newlines_in_values=plan.quote is not None
    )
    return ord(delimiter), -1 if plan.quote is None else ord(plan.quote), parse


def _csv_blocks(source: Source, plan: Plan, position: Position, limit: int | None) -> Iterator[Block]:
    delimiter, quote, parse = _dialect(source, plan)
    names: list[str] | None = position.get("names")
    cells: dict[str, str] = dict(position.get("cells", {}))
    for cut in _cuts(source, position, limit, quote, delimiter):
        head = 0
        if names is None:
            names, head = _header(source, plan, cut, parse)
        total = len(cut.starts) - head - cut.unclosed
        broken = {len(cut.starts) - 1: _UNCLOSED} if cut.unclosed else {}
        if total <= 0:
            after = _after(cut, names=names, cells=cells)
            bad = cut.bad_rows(source.name, broken)
            yield _line_block(cut, np.empty(0, np.intp), bad, after, names=names)
            continue
        table, bad_rows = _parse(cut, head, names, parse, {name: pa.binary() for name in names})
        if table.num_rows + len(bad_rows) != total:
            raise SourceError(
                f"{source.name}:{cut.number(head)}: {total} rows end in this block, but the reader found "
                f"{table.num_rows + len(bad_rows)}; are its quotes in order?",
                path=source.path,
            )
        if not cells:
            cells = _infer_cells(source, plan, cut, head, names, parse)
        columns = {name: column.combine_chunks() for name, column in zip(names, table.columns, strict=True)}
        for name, cell in cells.items():
            if cell == UNKNOWN:
                cells = {**cells, name: _cell_of(columns[name])}
        kept = np.arange(head, head + total)
        if bad_rows:
            kept = np.delete(kept, list(bad_rows))
        bad = cut.bad_rows(source.name, broken | {head + row: reason for row, reason in bad_rows.items()})
        after = _after(cut, names=names, cells=cells)
        yield _line_block(cut, kept, bad, after, names=names, columns=columns, cells=cells)


def _parse(
    cut: _Cut, head: int, names: list[str], parse: pcsv.ParseOptions, types: dict[str, Any] | None
) -> tuple[pa.Table, dict[int, str]]:
    """The rows from `head` on as a table, and {row: reason} of those with too few or too many fields."""
    bad: dict[int, str] = {}

    def refuse(row: Any) -> str:
        found = "1 field" if row.actual_columns == 1 else f"{row.actual_columns} fields"
        due = "1 is" if row.expected_columns == 1 else f"{row.expected_columns} are"
        bad[row.number - 1] = f"{found}, where {due} due"
        return "skip"

    start = int(cut.starts[head])
    end = int(cut.starts[-1]) if cut.unclosed else cut.consumed
    data = pa.py_buffer(cut.data)[start:end]
    parse.invalid_row_handler = refuse
    table = pcsv.read_csv(
        pa.BufferReader(data),
        pcsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
        parse,
        pcsv.ConvertOptions(column_types=types, check_utf8=types is None, strings_can_be_null=False),
    )
    return table, bad


def _header(source: Source, plan: Plan, cut: _Cut, parse: pcsv.ParseOptions) -> tuple[list[str], int]:
    """The names of the columns, and how many rows they take."""
    if plan.columns is not None:
        return list(plan.columns), 0
    if cut.unclosed and len(cut.starts) == 1:
        raise SourceError(f"{source.name}:{cut.number(0)}: the header: {_UNCLOSED}")
    data = pa.py_buffer(cut.text(0) + b"\n")
    read = pcsv.ReadOptions(use_threads=False, autogenerate_column_names=True, block_size=len(data) + 1)
    strings = pcsv.ConvertOptions(strings_can_be_null=False)
    try:
        table = pcsv.read_csv(pa.BufferReader(data), read, parse, strings)
        # A header may look like numbers: each name is taken as text.
        strings.column_types = {name: pa.string() for name in table.column_names}
        table = pcsv.read_csv(pa.BufferReader(data), read, parse, strings)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{source.name}:{cut.number(0)}: the header cannot be read: {error}") from error
    names = [str(column[0].as_py()) for column in table.columns]
    check_names(names, f"{source.name}:{cut.number(0)}")
    return names, 1


def _infer_cells(
    source: Source, plan: Plan, cut: _Cut, head: int, names: list[str], parse: pcsv.ParseOptions
) -> dict[str, str]:
    """What each column holds, judged by the first block as Arrow's reader judges, or as the plan says."""
    try:
        table, _ = _parse(cut, head, names, parse, None)
        cells = {name: _cell_for(column) for name, column in zip(names, table.columns, strict=True)}
    except (pa.ArrowInvalid, UnicodeDecodeError):  # something is not UTF-8: rows will say which
        cells = {}
    texts, _ = _parse(cut, head, names, parse, {name: pa.binary() for name in names})
    for name, column in zip(names, texts.columns, strict=True):
        cells.setdefault(name, "text")
        if cells[name] == "number" and _any(pc.match_substring_regex(column, rb"^\s*[+-]?0[0-9]")):
            cells[name] = "text"  # 00501 is a code, not 501
    everywhere = plan.types.get("*")
    for name in names:
        kind = plan.types.get(name, everywhere)
        if kind is not None:
            cells[name] = CSV_TYPES[kind]
    unknown = [name for name in plan.types if name not in names and name != "*"]
    if unknown:
        raise missing(unknown[0], names, source.name)
    return cells


def _cell_for(column: Column) -> str:
    kind = column.type
    if pa.types.is_null(kind):
        return UNKNOWN
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_boolean(kind):
        return "bool"
    return "text" if pa.types.is_string(kind) or pa.types.is_binary(kind) else "text_or_null"


def _cell_of(column: Column) -> str:
    """What a column holds in which nothing stood before."""
    words = column.filter(pc.invert(pc.is_in(column, pa.array(_NOTHING, pa.binary()))))
    if len(words) == 0:
        return UNKNOWN
    if not _any(
        pc.invert(
            pc.match_substring_regex(words, rb"^\s*[+-]?([1-9][0-9]*|0)?(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*$")
        )
    ):
        return "number"
    return "bool" if pc.all(pc.is_in(words, pa.array(_BOOLS, pa.binary()))).as_py() else "text"


def _any(mask: Any) -> bool:
    return bool(pc.any(mask).as_py())


# ---- tables ---------------------------------------------------------------------------------------------


def _table_blocks(source: Source, position: Position) -> Iterator[Block]:
    done = position.get("rows", 0)
    at = 0
    for batch, share in _batches(source, done):
        at += batch if isinstance(batch, int) else len(batch)
        if isinstance(batch, int) or at <= done or len(batch) == 0:
            continue
        names = list(batch.schema.names)
        check_names(names, source.name)
        yield Block(
            count=len(batch),
            after={"rows": at},
            numbers=partial(_row_numbers, at - len(batch)),
            unit="row",
            names=names,
            columns=dict(zip(names, batch.columns, strict=True)),
            source_bytes=share,
        )


def _row_numbers(before: int, places: Sequence[int]) -> list[int]:
    return [before + row + 1 for row in places]


def _batches(source: Source, done: int) -> Iterator[tuple[Any, int]]:
    """Record batches, or the number of rows where the position is beyond; with the bytes read so far."""
    if source.format == "parquet":
        with pq.ParquetFile(source.path) as file:
            total, at = max(file.metadata.num_rows, 1), 0
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if at + count <= done:
                    at += count
                    yield count, source.size * at // total
                    continue
                for batch in file.iter_batches(TABLE_ROWS, row_groups=[group]):
                    at += len(batch)
                    yield batch, source.size * at // total
    elif source.format == "arrow":
        with pa.OSFile(source.path) as raw, ipc.open_file(raw) as file:
            for index in range(file.num_record_batches):
                yield file.get_batch(index), raw.tell()
    else:
        with open_arrow(source) as raw, ipc.open_stream(raw) as batches:
            for batch in batches:
                yield batch, _tell(raw)


def _tell(stream: Any) -> int:
    try:
        return int(stream.tell())
    except (OSError, pa.ArrowException):  # a pipe
        return 0


def schema_of(source: Source, plan: Plan) -> pa.Schema:
    """The Arrow schema of a source: as it says, or, of text, as Arrow's readers judge its first block.

    Raises:
        SourceError: it cannot be read, or has no rows to judge by.
        OptionError: it is a pipe, which can be read only once.
    """
    if source.is_stream:
        raise OptionError(
            f"{'standard input' if source.path == STDIN else source.name}: can be read only once, so its "
            "types cannot be looked at beforehand; give the dtype"
        )
    with reading(source.name):
        if source.format == "parquet":
            return pq.read_schema(source.path)
        if source.format == "arrow":
            with pa.OSFile(source.path) as raw:
                return ipc.open_file(raw).schema
        if source.format == "arrow-stream":
            with open_arrow(source) as raw:
                return ipc.open_stream(raw).schema
        if source.format == "jsonl":
            for block in _json_blocks(source, plan, {}, None):
                return pa.Table.from_pylist(block.objects or []).schema
        delimiter, quote, parse = _dialect(source, plan)
        for cut in _cuts(source, {}, None, quote, delimiter):
            names, head = _header(source, plan, cut, parse)
            if head < len(cut.starts) - cut.unclosed:
                return _parse(cut, head, names, parse, None)[0].schema
    raise SourceError(f"{source.name}: no rows, so no types to judge by; give the dtype", path=source.path)
