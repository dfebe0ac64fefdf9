"""Where rows come from: finding the files, knowing their format, and reading their bytes."""

from __future__ import annotations

import glob
import os
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import pyarrow as pa

from pystream._native.hashing import xxh3_hex
from pystream.errors import OptionError
from pystream.ingest.errors import SourceError
from pystream.ingest.plan import LINE_FORMATS, Plan

STDIN: Final = "-"
FINGERPRINT_BYTES: Final = 64 << 10
IDLE_S: Final = 0.2
"""What a pipe has given goes on its way when nothing more comes for so long."""

_EXTENSIONS: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jl": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".arrows": "arrow-stream",
}
_COMPRESSED: Final = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bz2",
    ".lz4": "lz4",
}
_CODEC_MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bz2"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
_FORMAT_MAGICS: Final = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"\xff\xff\xff\xff", "arrow-stream"))


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or standard input."""

    name: str
    """As it was named."""
    path: str
    """Absolute, links resolved; "-" for standard input."""
    format: str
    compression: str
    is_stream: bool
    """A pipe or a device: read once, from the beginning."""
    size: int
    """Bytes when it was looked at; 0 for a stream."""

    @property
    def can_grow(self) -> bool:
        """Rows appended later stand behind those that are there."""
        return self.format in LINE_FORMATS and self.compression == "none" and not self.is_stream


def find_sources(given: Sequence[str | os.PathLike[str]], plan: Plan) -> list[Source]:
    """The sources that were named, wildcards expanded and sorted, each with its format.

    Raises:
        OptionError: none given, one given twice, or of a format that cannot be told.
        SourceError: not there, a directory, or not what its name says.
    """
    names: list[str] = []
    for item in given:
        name = os.fspath(item)
        if name != STDIN and not os.path.lexists(name) and glob.has_magic(name):
            found = sorted(path for path in glob.glob(name, recursive=True) if not os.path.isdir(path))
            if not found:
                raise SourceError(f"{name}: no file matches", path=name)
            names += found
        else:
            names.append(name)
    if not names:
        raise OptionError("no sources: name files, or - for standard input")
    sources = [_look_at(name, plan) for name in names]
    seen: dict[str, str] = {}
    for source in sources:
        if source.path in seen:
            raise OptionError(
                f"{source.name}: the same file as {seen[source.path]}; its rows would go in twice"
            )
        seen[source.path] = source.name
    if plan.value == "raw":
        for source in sources:
            if source.format not in LINE_FORMATS:
                raise OptionError(f"value='raw': {source.name} is {source.format}, which has no lines")
    return sources


def _lines_hint(head: bytes) -> str:
    """Where a log belongs, whose lines have no columns."""
    return (
        "; or, if each line is to be a record as it stands, use `pystream produce`" if head.isascii() else ""
    )


def _peek() -> bytes:
    """The first bytes of standard input, which stay there."""
    with reading("standard input"):
        buffer: Any = sys.stdin.buffer
        head: bytes = buffer.peek(16)[:16]
    return head


def _look_at(name: str, plan: Plan) -> Source:
    if name == STDIN:
        head = b"" if plan.format and plan.compression else _peek()
        return _named(name, STDIN, head, plan, is_stream=True, size=0)
    with reading(name):
        status = os.stat(name)
        if stat.S_ISDIR(status.st_mode):
            raise SourceError(
                f"{name}: a directory; name its files, or a pattern such as '{name}/*.csv'", path=name
            )
        if not stat.S_ISREG(status.st_mode):
            return _named(name, os.path.abspath(name), b"", plan, is_stream=True, size=0)
        with open(name, "rb") as file:
            head = file.read(16)
    return _named(name, os.path.realpath(name), head, plan, is_stream=False, size=status.st_size)


def _named(name: str, path: str, head: bytes, plan: Plan, *, is_stream: bool, size: int) -> Source:
    """A source whose format and compression are said, or told by its name, or by its first bytes."""
    stem, extension = os.path.splitext(name.lower())
    compression = plan.compression or _COMPRESSED.get(extension)
    if extension in _COMPRESSED:
        extension = os.path.splitext(stem)[1]
    if compression is None:
        compression = next((codec for magic, codec in _CODEC_MAGICS if head.startswith(magic)), "none")
    form = plan.format or _EXTENSIONS.get(extension)
    magic = next((form for magic, form in _FORMAT_MAGICS if head.startswith(magic)), None)
    if form is None:
        form = magic
    if form == "arrow" and magic == "arrow-stream":
        form = magic  # both are called .arrow
    if form is None and head.lstrip().startswith(b"{"):
        form = "jsonl"
    if form is None:
        if size == 0 and not is_stream:
            raise SourceError(f"{name}: empty, and its name does not say what it is; say format=", path=name)
        raise OptionError(
            f"{'standard input' if name == STDIN else name}: cannot tell its format; say which: "
            "csv, jsonl, parquet, arrow or arrow-stream (format=)" + _lines_hint(head)
        )
    if is_stream and form in ("parquet", "arrow"):
        raise OptionError(
            f"{'standard input' if name == STDIN else name}: {form} is read from its end, so it must be a "
            "file; a pipe can carry csv, jsonl or arrow-stream"
        )
    if head.startswith(b"FEA1"):
        raise SourceError(
            f"{name}: Feather version 1, which is long out of use; write it anew as version 2", path=name
        )
    if compression != "none" and form in ("parquet", "arrow"):
        raise OptionError(f"{name}: a {form} file is compressed inside, not as a whole ({compression})")
    return Source(name, path, form, compression, is_stream, size)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Let what Arrow and the system say of a source out as `SourceError`."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        raise SourceError(f"{name}: {said}", path=name, errno_=error.errno) from error
    except pa.ArrowException as error:
        raise SourceError(f"{name}: {' '.join(str(error).split())}", path=name) from error


def fingerprint(path: str, limit: int) -> dict[str, Any]:
    """What tells whether the first `limit` bytes of a file are still the same, without reading them all."""
    with open(path, "rb") as file:
        head = file.read(min(limit, FINGERPRINT_BYTES))
        file.seek(max(0, limit - FINGERPRINT_BYTES))
        tail = file.read(min(limit, FINGERPRINT_BYTES))
    return {"bytes": limit, "head": xxh3_hex(head), "tail": xxh3_hex(tail)}


# ---- bytes ----------------------------------------------------------------------------------------------


class Bytes:
    """The bytes of a line-based source, decompressed, from any place to the end or to a limit.

    Args:
        limit: bytes of the file that count; what was appended to it since does not. None: all.
    """

    def __init__(self, source: Source, limit: int | None) -> None:
        self.source = source
        self.at = 0
        self._limit = limit if source.can_grow else None
        self._is_pipe = False
        self._file: IO[bytes] | None = None
        if source.path == STDIN:
            self._raw: Any = sys.stdin.buffer
        else:
            buffering = -1 if source.is_stream else 0
            self._raw = self._file = open(source.path, "rb", buffering=buffering)  # noqa: SIM115
        self._is_pipe = source.is_stream and source.compression == "none"
        self._input: Any = self._raw
        if source.compression != "none":
            self._input = pa.CompressedInputStream(pa.PythonFile(self._raw, "r"), source.compression)

    @property
    def raw_position(self) -> int:
        """Bytes of the file that were read, for the progress bar."""
        if self.source.compression == "none":
            return self.at
        try:
            return int(self._raw.tell())
        except OSError:
            return self.at

    def skip_to(self, at: int) -> None:
        """Go to byte `at` of the decompressed bytes."""
        if self.source.compression == "none" and not self.source.is_stream:
            self._raw.seek(at)
            self.at = at
            return
        while self.at < at:
            if not self.read(min(at - self.at, 4 << 20)):
                raise SourceError(f"{self.source.name}: shorter than it was", path=self.source.path)

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end (or, of a pipe, when nothing comes for a while)."""
        if self._limit is not None:
            size = min(size, self._limit - self.at)
        pieces: list[bytes] = []
        left = size
        while left > 0:
            if self._is_pipe and pieces and not select.select([self._raw], [], [], IDLE_S)[0]:
                break
            piece = self._raw.read1(left) if self._is_pipe else self._input.read(left)
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.at += len(data)
        return data

    @property
    def is_pipe(self) -> bool:
        """A short read does not mean the end."""
        return self._is_pipe

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Counted:
    """An open file that knows how much of it was read, as a pipe does not."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at


@contextmanager
def open_arrow(source: Source) -> Iterator[Any]:
    """An Arrow stream's bytes, decompressed, as Arrow reads them itself."""
    raw = pa.PythonFile(_Counted(sys.stdin.buffer), "r") if source.path == STDIN else pa.OSFile(source.path)
    try:
        yield raw if source.compression == "none" else pa.CompressedInputStream(raw, source.compression)
    finally:
        if source.path != STDIN:
            raw.close()
