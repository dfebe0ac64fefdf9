"""Where rows go: one file, a directory of files, or an open stream. Whole or not at all.

A file is written without a name (or, where the file system cannot, under a temporary one beside it),
synced, and given its name when it is complete. A directory is written under a temporary name beside it and
renamed at the end. So under the name that was asked for there is never half an export, whatever ends the
process.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from pystream.errors import OptionError
from pystream.export.errors import OutputExistsError
from pystream.export.shape import Shaped
from pystream.export.sinks import Sink
from pystream.metadata import storage_errors, sync_directory

OPEN_FILES_MAX: Final = 256
"""Files of a directory that are written at the same time; a further one closes the one idle longest."""

PENDING_BYTES_MAX: Final = 128 << 20
"""Bytes that all files of a directory together hold back for their row groups."""

NO_TIME: Final = "__HIVE_DEFAULT_PARTITION__"
"""Name of the time of records that have none, as Hive and those who read its layout know it."""

_PERIODS_NS: Final = {"day": 86_400 * 10**9, "hour": 3_600 * 10**9}
_OWN: Final = re.compile(r"part-[0-9]+(-[0-9]+)?\.[a-z.]+|(date|hour)=[0-9A-Za-z_-]+")

OpenSink = Callable[[IO[bytes]], Sink]


class WrittenFile(NamedTuple):
    """A file of an export."""

    path: str
    records: int
    bytes: int


class Output(Protocol):
    """Takes rows; `finish` makes them appear, `discard` leaves nothing."""

    def write(self, rows: Shaped) -> None: ...

    def finish(self) -> list[WrittenFile]: ...

    def discard(self) -> None: ...


# ---- a stream -------------------------------------------------------------------------------------------


class StreamOutput:
    """An open file, such as standard output, which stays open."""

    def __init__(self, file: IO[bytes], name: str, open_sink: OpenSink) -> None:
        self._file = file
        self._name = name
        self._records = 0
        self._sink = open_sink(file)

    def write(self, rows: Shaped) -> None:
        self._sink.write(rows.rows)
        self._records += rows.rows.num_rows

    def finish(self) -> list[WrittenFile]:
        self._sink.close()
        self._file.flush()
        return [WrittenFile(self._name, self._records, 0)]

    def discard(self) -> None:
        with suppress(Exception):
            self._sink.close()


# ---- one file -------------------------------------------------------------------------------------------


class FileOutput:
    """One file. Something that is no regular file, such as a pipe or a device, is written as it stands."""

    def __init__(self, path: str, overwrite: bool, open_sink: OpenSink) -> None:
        self._path = os.path.realpath(path)
        self._overwrite = overwrite
        self._records = 0
        check_file(path, overwrite)
        with storage_errors(path):
            self._is_special = os.path.exists(self._path)
            self._is_special = self._is_special and not stat.S_ISREG(os.stat(self._path).st_mode)
            self._temporary: str | None = None
            if self._is_special:
                self._file: IO[bytes] = open(self._path, "wb")  # noqa: SIM115 - closed by finish or discard
            else:
                self._file = self._unnamed()
        try:
            with storage_errors(path):
                self._sink = open_sink(self._file)
        except BaseException:
            self._drop()
            raise

    def _unnamed(self) -> IO[bytes]:
        directory = os.path.dirname(self._path)
        try:
            number = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._temporary = _beside(self._path)
            return open(self._temporary, "xb")
        return os.fdopen(number, "wb")

    def write(self, rows: Shaped) -> None:
        with storage_errors(self._path):
            self._sink.write(rows.rows)
        self._records += rows.rows.num_rows

    def finish(self) -> list[WrittenFile]:
        with storage_errors(self._path):
            self._sink.close()
            self._file.flush()
            size = self._file.tell() if not self._is_special else 0
            if not self._is_special:
                os.fsync(self._file.fileno())
                self._name()
            self._file.close()
        return [WrittenFile(self._path, self._records, size)]

    def _name(self) -> None:
        """Give the complete file its name: a new one never takes the place of another."""
        directory = os.path.dirname(self._path)
        source = self._temporary or f"/proc/self/fd/{self._file.fileno()}"
        if self._overwrite and self._temporary is None:
            self._temporary = _beside(self._path)
            _link(source, self._temporary)
        if self._overwrite:
            assert self._temporary is not None
            os.replace(self._temporary, self._path)
        else:
            try:
                _link(source, self._path)
            except FileExistsError:
                raise _exists(self._path, "appeared meanwhile") from None
            if self._temporary is not None:
                os.unlink(self._temporary)
        self._temporary = None
        sync_directory(directory)

    def discard(self) -> None:
        with suppress(Exception):
            self._sink.close()
        self._drop()

    def _drop(self) -> None:
        with suppress(Exception):
            self._file.close()
        if self._temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)


def check_file(path: str, overwrite: bool) -> None:
    """Refuse a name that cannot be written to, before anything is read.

    Raises:
        OutputExistsError: there is a file, and not `overwrite`.
        OptionError: there is a directory, or no directory to write in.
    """
    if os.path.isdir(path):
        raise OptionError(
            f"{path}: is a directory; name a file, or write several: one a partition "
            '(split="partition"), a day (by="day") or so many rows (rows_per_file=)'
        )
    _check_parent(path)
    if os.path.isfile(path) and not overwrite:
        raise _exists(path, "exists")
    if os.path.islink(path) and not os.path.exists(path):
        raise OptionError(f"{path}: is a link to {os.readlink(path)}, which is not there")


def _check_parent(path: str) -> None:
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise OptionError(f"{path}: there is no directory {parent}")


def _exists(path: str, how: str) -> OutputExistsError:
    return OutputExistsError(f"{path}: {how}; overwrite=True replaces it", path=path)


def _beside(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name[:200]}.{os.urandom(6).hex()}.part")


def _link(source: str, target: str) -> None:
    # With a directory given, linkat(2) is called and told to follow the link in /proc; link(2) would not.
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(source, target, src_dir_fd=here, follow_symlinks=True)
    except OSError as error:
        error.filename = target  # and not what a descriptor is called
        raise
    finally:
        os.close(here)


# ---- a directory ----------------------------------------------------------------------------------------


@dataclass
class _Part:
    """One file of a directory."""

    path: Path
    file: IO[bytes]
    sink: Sink
    records: int = 0


class DirectoryOutput:
    """Files of a directory: one a partition, a day or an hour, and a number of rows, as asked for.

    Args:
        split: a file a partition: part-00003.csv.
        by: "day": date=2026-01-31/part-00000.csv; "hour": date=2026-01-31/hour=07/part-00000.csv.
        rows_per_file: so many rows at most: part-00000.csv, part-00001.csv, or part-00003-00000.csv.
    """

    def __init__(
        self,
        path: str,
        overwrite: bool,
        open_sink: OpenSink,
        extension: str,
        *,
        split: bool,
        by: str | None,
        rows_per_file: int | None,
    ) -> None:
        self._path = os.path.realpath(path)
        self._overwrite = overwrite
        self._open_sink = open_sink
        self._extension = extension
        self._split = split
        self._by = by
        self._rows_per_file = rows_per_file
        self._open: OrderedDict[tuple[int, int | None], _Part] = OrderedDict()
        self._numbers: dict[tuple[int, int | None], int] = {}
        self._written: list[tuple[Path, int, int]] = []
        self._pending = 0
        check_directory(path, overwrite)
        self._temporary = Path(_beside(self._path))
        with storage_errors(path):
            self._temporary.mkdir()

    def write(self, rows: Shaped) -> None:
        group = rows.partition if self._split else 0
        with storage_errors(self._path):
            for period, part in self._periods(rows):
                self._write((group, period), part)

    def _periods(self, rows: Shaped) -> Iterator[tuple[int | None, pa.RecordBatch]]:
        """The rows of each day or hour, in their order; None: of those without a time."""
        if self._by is None:
            yield None, rows.rows
            return
        times = rows.timestamps
        length = _PERIODS_NS[self._by]
        least = np.iinfo(np.int64).min
        numbers = times.cast(pa.int64()).fill_null(least).to_numpy(zero_copy_only=False)
        periods = np.where(numbers == least, least, np.floor_divide(numbers, length))
        if len(periods) and (periods == periods[0]).all():
            first = int(periods[0])
            yield None if first == least else first, rows.rows
            return
        order = np.argsort(periods, kind="stable")
        values, starts = np.unique(periods[order], return_index=True)
        for value, places in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
            yield None if value == least else value, rows.rows.take(pa.array(places))

    def _write(self, key: tuple[int, int | None], rows: pa.RecordBatch) -> None:
        while rows.num_rows:
            part = self._part(key)
            room = rows.num_rows if self._rows_per_file is None else self._rows_per_file - part.records
            self._pending -= part.sink.pending_bytes
            part.sink.write(rows.slice(0, room))
            self._pending += part.sink.pending_bytes
            part.records += min(room, rows.num_rows)
            if part.records == self._rows_per_file:
                self._close(key)
            rows = rows.slice(room)
        if self._pending > PENDING_BYTES_MAX:
            for part in self._open.values():
                part.sink.flush()
            self._pending = 0

    def _part(self, key: tuple[int, int | None]) -> _Part:
        part = self._open.get(key)
        if part is not None:
            self._open.move_to_end(key)
            return part
        if len(self._open) >= OPEN_FILES_MAX:
            self._close(next(iter(self._open)))
        path = self._temporary / self._name(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "xb")  # noqa: SIM115 - closed when the part is complete
        try:
            part = _Part(path, file, self._open_sink(file))
        except BaseException:
            file.close()
            raise
        self._open[key] = part
        return part

    def _name(self, key: tuple[int, int | None]) -> str:
        group, period = key
        number = self._numbers.get(key, 0)
        self._numbers[key] = number + 1
        directory = "" if self._by is None else self._period_name(period)
        name = f"part-{group:05}" if self._split else f"part-{number:05}"
        # A file a partition is cut by rows, or begun anew when its time comes back.
        if self._split and (self._rows_per_file is not None or number):
            name += f"-{number:05}"
        return directory + name + self._extension

    def _period_name(self, period: int | None) -> str:
        if period is None:
            return f"date={NO_TIME}/" + (f"hour={NO_TIME}/" if self._by == "hour" else "")
        day, hour = divmod(period, 24) if self._by == "hour" else (period, None)
        return f"date={np.datetime64(day, 'D')}/" + ("" if hour is None else f"hour={hour:02}/")

    def _close(self, key: tuple[int, int | None]) -> None:
        part = self._open.pop(key)
        self._pending -= part.sink.pending_bytes
        try:
            part.sink.close()
            part.file.flush()
            os.fsync(part.file.fileno())
            self._written.append((part.path, part.records, part.file.tell()))
        finally:
            with suppress(Exception):
                part.file.close()

    def finish(self) -> list[WrittenFile]:
        with storage_errors(self._path):
            if not self._open and not self._written:
                self._part((0, None))  # a reader finds the columns, if not a row
            while self._open:
                self._close(next(iter(self._open)))
            for directory, _, _ in os.walk(self._temporary):
                sync_directory(directory)
            old = self._set_aside()
            os.rename(self._temporary, self._path)  # refused by the kernel when something is in there
            sync_directory(os.path.dirname(self._path))
            if old is not None:
                _remove(old)
        return [
            WrittenFile(str(Path(self._path) / path.relative_to(self._temporary)), records, size)
            for path, records, size in sorted(self._written)
        ]

    def _set_aside(self) -> str | None:
        check_directory(self._path, self._overwrite)
        if not os.path.isdir(self._path) or not os.listdir(self._path):
            return None
        old = _beside(self._path)
        os.rename(self._path, old)
        return old

    def discard(self) -> None:
        for part in self._open.values():
            with suppress(Exception):
                part.sink.close()
            with suppress(Exception):
                part.file.close()
        self._open.clear()
        _remove(str(self._temporary))


def check_directory(path: str, overwrite: bool) -> None:
    """Refuse a directory that cannot be written, before anything is read.

    Raises:
        OutputExistsError: it holds something, and not `overwrite`, or something no export has written.
        OptionError: it is a file, or there is no directory to make it in.
    """
    _check_parent(path)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise OptionError(f"{path}: is a file; several files are written into a directory")
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    if names and not overwrite:
        raise OutputExistsError(f"{path}: is not empty; overwrite=True replaces it", path=path)
    if strange := [name for name in names if not _OWN.fullmatch(name)]:
        raise OutputExistsError(
            f"{path}: holds {strange[0]!r}, which no export has written: not replaced; remove it, or name "
            "another directory",
            path=path,
        )


def _remove(path: str) -> None:
    from shutil import rmtree

    rmtree(path, ignore_errors=True)


def open_output(
    output: str | os.PathLike[str] | IO[bytes],
    open_sink: OpenSink,
    extension: str,
    *,
    overwrite: bool,
    split: bool,
    by: str | None,
    rows_per_file: int | None,
) -> Any:
    """The output that was asked for."""
    if not isinstance(output, (str, os.PathLike)):
        return StreamOutput(output, str(getattr(output, "name", "")), open_sink)
    path = os.fspath(output)
    if split or by or rows_per_file is not None:
        return DirectoryOutput(
            path, overwrite, open_sink, extension, split=split, by=by, rows_per_file=rows_per_file
        )
    return FileOutput(path, overwrite, open_sink)
