"""Writers of one file each: rows in, bytes out."""

from __future__ import annotations

from collections.abc import Set
from typing import IO, Any, Final, Protocol

import pyarrow as pa

from pystream.export.jsonlines import render, render_bare
from pystream.export.request import Request

ROW_GROUP_BYTES: Final = 64 << 20
ROW_GROUP_ROWS: Final = 1 << 20


class Sink(Protocol):
    """Where rows of one file go."""

    pending_bytes: int
    """Bytes of rows that are held back to be written together."""

    def write(self, rows: pa.RecordBatch) -> None: ...

    def flush(self) -> None:
        """Write what is held back."""

    def close(self) -> None:
        """Write the end of the file. The file itself stays open."""


class ParquetSink:
    """Row groups of about 64 MiB in memory."""

    def __init__(self, file: IO[bytes], schema: pa.Schema, codec: str) -> None:
        import pyarrow.parquet as pq

        self.pending_bytes = 0
        self._rows = 0
        self._pending: list[pa.RecordBatch] = []
        self._writer = pq.ParquetWriter(_borrowed(file), schema, compression=codec)

    def write(self, rows: pa.RecordBatch) -> None:
        self._pending.append(rows)
        self._rows += rows.num_rows
        self.pending_bytes += rows.nbytes
        if self.pending_bytes >= ROW_GROUP_BYTES or self._rows >= ROW_GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending), row_group_size=ROW_GROUP_ROWS)
            self._pending.clear()
            self.pending_bytes = self._rows = 0

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._writer.close()


class _Direct:
    """What writes at once."""

    pending_bytes = 0

    def flush(self) -> None:
        pass


class ArrowSink(_Direct):
    """Arrow IPC: a file, or a stream."""

    def __init__(self, file: IO[bytes], schema: pa.Schema, codec: str, is_stream: bool) -> None:
        options = pa.ipc.IpcWriteOptions(compression=None if codec == "none" else codec)
        new = pa.ipc.new_stream if is_stream else pa.ipc.new_file
        self._writer = new(_borrowed(file), schema, options=options)

    def write(self, rows: pa.RecordBatch) -> None:
        self._writer.write_batch(rows)

    def close(self) -> None:
        self._writer.close()


class CsvSink(_Direct):
    """A line of names, then one a row. Text is in quotes, so that "" is empty and nothing is null.

    Where there is one column, a null is "" too: readers pass over empty lines.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema, codec: str, delimiter: str) -> None:
        import pyarrow.csv

        self._is_one = len(schema) == 1
        types = [pa.string() if self._is_one else _cell_type(field.type) for field in schema]
        self._schema = pa.schema(
            [pa.field(field.name, kind) for field, kind in zip(schema, types, strict=True)]
        )
        self._file = _compressed(file, codec)
        self._writer = pyarrow.csv.CSVWriter(
            self._file, self._schema, write_options=pyarrow.csv.WriteOptions(delimiter=delimiter)
        )

    def write(self, rows: pa.RecordBatch) -> None:
        cells = [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(rows.columns, self._schema, strict=True)
        ]
        if self._is_one:
            cells = [cells[0].fill_null("")]
        self._writer.write_batch(pa.RecordBatch.from_arrays(cells, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
        self._file.close()


def _cell_type(kind: pa.DataType) -> pa.DataType:
    """The type as which a column is handed to Arrow's CSV writer."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_duration(kind):
        return pa.int64()
    return kind


class JsonLinesSink(_Direct):
    """One object a line. JSON values with no column beside them are each a line as they are."""

    def __init__(self, file: IO[bytes], schema: pa.Schema, codec: str, json_columns: Set[str]) -> None:
        self._file = _compressed(file, codec)
        self._json_columns = json_columns
        self._is_bare = schema.names == ["value"] and "value" in json_columns

    def write(self, rows: pa.RecordBatch) -> None:
        if rows.num_rows:
            self._file.write(render_bare(rows) if self._is_bare else render(rows, self._json_columns))

    def close(self) -> None:
        self._file.close()


class _Borrowed:
    """A file that is left open by who closes this."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _borrowed(file: IO[bytes]) -> Any:
    return pa.PythonFile(_Borrowed(file), mode="w")


def _compressed(file: IO[bytes], codec: str) -> Any:
    plain = _borrowed(file)
    return plain if codec == "none" else pa.CompressedOutputStream(plain, codec)


def open_sink(request: Request, file: IO[bytes], schema: pa.Schema, json_columns: Set[str]) -> Sink:
    """A writer of `request`'s format into `file`, which it does not close."""
    if request.format == "parquet":
        return ParquetSink(file, schema, request.codec)
    if request.format == "csv":
        return CsvSink(file, schema, request.codec, request.delimiter)
    if request.format == "jsonl":
        return JsonLinesSink(file, schema, request.codec, json_columns)
    return ArrowSink(file, schema, request.codec, request.format == "arrow-stream")
