"""The options of a topic on the command line: those of `topics create` and of `topics alter`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import click

from pystream import options as opt
from pystream._native.limits import CODECS, DURABILITIES
from pystream.cli.common import F, option_value, parse_dtype_text
from pystream.topicoptions import OPTIONS


def number(text: str) -> int | str:
    """A plain number of bytes as an int, so that it is said back as typed."""
    return int(text) if text.isdecimal() and text.isascii() else text


def seconds(text: str) -> float | str:
    """A plain number as seconds; the rest has a unit, or is refused."""
    try:
        return float(text)
    except ValueError:
        return text


def _given(name: str, convert: Callable[[str], Any] = str) -> Callable[..., Any]:
    """A callback that checks what was given, and hands it on as given: the library reads it once more."""

    def check(text: str) -> Any:
        value = convert(text)
        OPTIONS[name].read(value)
        return value

    return option_value(check)


def _choice(words: Iterable[str]) -> dict[str, Any]:
    return {"type": click.Choice(sorted(words))}


def _size(name: str) -> dict[str, Any]:
    return {"metavar": "SIZE", "callback": _given(name, number)}


def _duration(name: str) -> dict[str, Any]:
    return {"metavar": "DURATION", "callback": _given(name, seconds)}


_FLAGS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "partitions": (
        {"type": int, "callback": option_value(opt.parse_partitions)},
        "How many partitions, 1 to 65,536; 1 by default.",
    ),
    "compression": (_choice(CODECS), "Codec of the batches; none by default."),
    "durability": (
        _choice(DURABILITIES),
        "interval (the default): on the disk within a second; sync: before an append is acknowledged; "
        "none: when the kernel sees fit.",
    ),
    "dtype": (
        {"metavar": "DTYPE", "callback": option_value(parse_dtype_text)},
        "NumPy type of each value: fields as ts:i8,px:f8, or one type such as f8.",
    ),
    "value_bytes": (_size("value_bytes"), "Bytes of each value, where all are equally long."),
    "key_bytes": (_size("key_bytes"), "Bytes of each key, where all are equally long."),
    "segment_bytes": (
        _size("segment_bytes"),
        "Size of a segment file, 64KiB to 2GiB less 4KiB; 128MiB by default. No batch can be larger.",
    ),
    "index_interval_bytes": (
        _size("index_interval_bytes"),
        "Bytes of log between two index entries, 1KiB to 1GiB; 16KiB by default.",
    ),
    "timestamp_type": (
        {"type": click.Choice(["create", "append"])},
        "Timestamps are those given, else the producer's clock (create, the default), or the clock when "
        "a batch is appended (append).",
    ),
    "retention": (_duration("retention"), "How long records are kept, such as 7d; forever by default."),
    "retention_bytes": (
        _size("retention_bytes"),
        "How much each partition keeps, such as 10GiB, at least 64KiB; unlimited by default.",
    ),
    "retention_topic_bytes": (
        _size("retention_topic_bytes"),
        "How much all partitions together keep; unlimited by default.",
    ),
    "cleanup": (
        {"metavar": "delete|compact|compact,delete", "callback": _given("cleanup")},
        "delete (the default): old records go as --retention and --retention-bytes say; compact: the last "
        "record of each key stays; compact,delete: both.",
    ),
    "min_cleanable_dirty_ratio": (
        {"type": float, "metavar": "RATIO", "callback": _given("min_cleanable_dirty_ratio", float)},
        "Compaction begins when this share of the log, 0 to 1, is new; 0.5 by default.",
    ),
    "min_compaction_lag": (
        _duration("min_compaction_lag"),
        "How long a record is left alone by compaction; 0 by default.",
    ),
    "delete_retention": (
        _duration("delete_retention"),
        "How long a tombstone stays once compaction has seen it; 1d by default.",
    ),
    "segment_age": (
        _duration("segment_age"),
        "How long a segment is written at most, such as 1h, or never: until it is full; 7d by default.",
    ),
    "max_message_bytes": (
        _size("max_message_bytes"),
        "Bytes of the largest batch as stored, at least 1KiB; unlimited by default: what a segment holds.",
    ),
}


def topic_options(names: Iterable[str]) -> Callable[[F], F]:
    """Give a command the options of a topic with these names."""

    def decorate(command: F) -> F:
        for name in reversed(list(names)):
            attributes, help_text = _FLAGS[name]
            command = click.option(f"--{flag(name)}", **attributes, help=help_text)(command)
        return command

    return decorate


def flag(name: str) -> str:
    """An option's name on the command line."""
    return name.replace("_", "-")
