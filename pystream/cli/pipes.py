"""What `produce` and `consume` share: options that name bytes, and the ends of pipes."""

from __future__ import annotations

import re
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import click

from pystream.cli.common import EXIT_FAILED, ParamType, fail

_ESCAPES: Final = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"0": b"\0", b"\\": b"\\"}


class BytesType(ParamType):
    """Bytes from text, with the escapes \\t \\n \\r \\0 \\\\ and \\xHH."""

    name = "text"

    def __init__(self, exactly: int | None = None) -> None:
        self.exactly = exactly

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value

        def escaped(match: re.Match[bytes]) -> bytes:
            if match[2]:
                return bytes([int(match[2], 16)])
            if match[1] not in _ESCAPES:
                self.fail(f"{value!r}: after a backslash stands t, n, r, 0, xHH or a backslash", param, ctx)
            return _ESCAPES[match[1]]

        data = re.sub(
            rb"\\(x([0-9a-fA-F]{2})|.|$)",
            escaped,
            str(value).encode(errors="surrogateescape"),
            flags=re.DOTALL,
        )
        if self.exactly is not None and len(data) != self.exactly:
            self.fail(f"{value!r} is {len(data)} bytes; it must be {self.exactly}", param, ctx)
        return data


def delimiter_options(help_text: str) -> Callable[[Any], Any]:
    """-d/--delimiter and -0/--null."""

    def add(command: Any) -> Any:
        command = click.option("-0", "--null", "null", is_flag=True, help="The same as --delimiter '\\0'.")(
            command
        )
        return click.option(
            "-d",
            "--delimiter",
            type=BytesType(1),
            metavar="BYTE",
            default="\\n",
            show_default=True,
            help=help_text,
        )(command)

    return add


def chosen_delimiter(ctx: click.Context, delimiter: bytes, null: bool) -> bytes:
    """What -d and -0 come to."""
    source = click.core.ParameterSource.COMMANDLINE
    if null and ctx.get_parameter_source("delimiter") is source and delimiter != b"\0":
        raise click.UsageError("--delimiter and --null contradict each other")
    return b"\0" if null else delimiter


def end_of(stream: Any, name: str) -> int | BinaryIO:
    """The descriptor of a standard stream; the stream itself where it has none."""
    if stream is None:
        fail(EXIT_FAILED, f"{name} is closed")
    if stream is not sys.stdin:
        stream.flush()
    try:
        return int(stream.fileno())
    except OSError:  # io.UnsupportedOperation is one
        binary: BinaryIO = getattr(stream, "buffer", stream)
        return binary


def when_nobody_reads(fd: int, call: Callable[[], object]) -> None:
    """Call, from a thread, when the other end of a pipe is closed; who waits for records would not notice."""

    def watch() -> None:
        watched = select.poll()
        watched.register(fd, 0)  # errors and hang-ups are always reported
        watched.poll()
        call()

    threading.Thread(target=watch, name="pystream-output", daemon=True).start()
