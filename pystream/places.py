"""How partitions, places in them, and topics to read are named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from re import Pattern
from typing import NamedTuple, TypeAlias

from pystream import options as opt
from pystream.errors import OptionError
from pystream.partition import Position


class TopicPartition(NamedTuple):
    """A partition of a topic, and perhaps a place in it."""

    topic: str
    partition: int
    offset: int | None = None


class OffsetAndTimestamp(NamedTuple):
    """A record found by time: its offset, and its timestamp in nanoseconds since the epoch."""

    offset: int
    timestamp: int


class OffsetAndMetadata(NamedTuple):
    """A committed offset, and what was said with it."""

    offset: int
    metadata: str = ""
    leader_epoch: int | None = None
    """Of the log when it was committed; None: what it is now."""


PartitionLike: TypeAlias = TopicPartition | tuple[str, int]
"""A `TopicPartition`, or a plain (topic, partition)."""

Start: TypeAlias = Position | Mapping[PartitionLike, Position]
"""Where partitions begin: "earliest", "latest", a moment, or {(topic, partition): offset, moment or word}."""

Topics: TypeAlias = str | Pattern[str] | Iterable[str | Pattern[str]]
"""Topics to read: names, or one pattern: compiled, or text that begins with "^"."""


def check_start(start: Position) -> None:
    """Raise for what does not say where any partition begins."""
    if isinstance(start, str):
        opt.parse_choice("start", start, ("earliest", "latest"))
    elif hasattr(start, "__index__"):
        raise OptionError(
            f"start={start}: an offset belongs to one partition; give {{(topic, partition): offset}}"
        )
    else:
        opt.parse_time("start", start)


def parse_topics(topics: Topics) -> tuple[tuple[str, ...], Pattern[str] | None]:
    """What a consumer is to subscribe to: names, or one pattern.

    Raises:
        OptionError: not a regular expression, or a pattern among others.
        TypeError: no name.
    """
    given = [topics] if isinstance(topics, (str, Pattern)) else list(topics)
    names: list[str] = []
    for name in given:
        if isinstance(name, Pattern) or (isinstance(name, str) and name.startswith("^")):
            if len(given) > 1:
                raise OptionError("give one pattern alone, or names; a pattern may join others by '|'")
            from pystream.group.patterns import parse_pattern

            return (), parse_pattern(name)
        if not isinstance(name, str):
            several = "; give several one by one: consumer(*names)" * isinstance(name, (list, tuple))
            raise TypeError(f"topic name must be a str, not {type(name).__name__}{several}")
        names.append(name)
    return tuple(dict.fromkeys(names)), None
