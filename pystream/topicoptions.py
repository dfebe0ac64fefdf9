"""How a topic stores its records, and what may be changed about that later.

`OPTIONS` says of each option how it is read, how it is shown, and when a change of it acts; the command line,
`Topic.alter` and the documentation go by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple, TypedDict

import numpy as np

from pystream import options as opt
from pystream._native.limits import (
    CODECS,
    DURABILITIES,
    FRAME_HEADER_BYTES,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
)
from pystream.errors import OptionError

RETENTION_NS_MIN: Final = 1_000_000
"""Shortest `retention` and `segment_age`: 1 ms, Kafka's."""

RETENTION_BYTES_MIN: Final = SEGMENT_BYTES_MIN
"""Smallest `retention_bytes` and `retention_topic_bytes`: 64 KiB, the smallest segment."""

RETENTION_BYTES_MAX: Final = 1 << 60
"""Largest `retention_bytes` and `retention_topic_bytes`: 1 EiB."""

MESSAGE_BYTES_MIN: Final = 1 << 10
"""Smallest `max_message_bytes`: 1 KiB."""

CLEANUPS: Final = ("delete", "compact", "compact,delete")

UNLIMITED: Final = {
    "retention_ns": "forever",
    "retention_bytes": "unlimited",
    "retention_topic_bytes": "unlimited",
    "segment_age_ns": "never",
    "max_message_bytes": "unlimited",
}
"""Options that may be without a limit, and the word for that; `None` is for the default."""

AT_ONCE: Final = "at once"
NEXT_SEGMENT: Final = "from the next segment"
NEXT_PRODUCER: Final = "from the next producer"


@dataclass(frozen=True, slots=True, eq=False)
class TopicOptions:
    """How a topic stores its records, and for how long.

    Given when the topic is made. `Topic.alter` changes them, but for `dtype`, `value_bytes` and `key_bytes`,
    which say what a record is; `Topic.add_partitions` adds partitions.
    """

    partitions: int = 1
    """Partitions, 1 to 65,536."""
    compression: str = "none"
    """Codec of new batches: "none" or "lz4"."""
    durability: str = "interval"
    """"interval", "sync" or "none"."""
    dtype: np.dtype[Any] | None = None
    """NumPy type of each value, or None."""
    value_bytes: int | None = None
    """Bytes of every value, or None when they vary (or follow from `dtype`)."""
    key_bytes: int | None = None
    """Bytes of every key that is not null, or None when they vary."""
    segment_bytes: int = 128 << 20
    """Bytes of a segment file."""
    index_interval_bytes: int = 16 << 10
    """Bytes of log between two entries of the sparse index."""
    timestamp_type: str = "create"
    """"create": the producer's clock or the timestamp given. "append": the log's clock at append."""
    retention_ns: int | None = None
    """Nanoseconds that records are kept, or None: for ever."""
    retention_bytes: int | None = None
    """Bytes that each partition keeps, or None: all."""
    retention_topic_bytes: int | None = None
    """Bytes that all partitions together keep, or None: all."""
    cleanup: str = "delete"
    """"delete": old records go as `retention` says. "compact": the last record of each key stays.
    "compact,delete": both."""
    min_cleanable_dirty_ratio: float = 0.5
    """Share of the log, 0 to 1, that is not compacted yet when compaction is worth its while."""
    min_compaction_lag_ns: int = 0
    """Nanoseconds that a record is left alone by compaction."""
    delete_retention_ns: int = 24 * 3600 * 10**9
    """Nanoseconds that a tombstone (a key with a null value) stays once compaction has seen it."""
    segment_age_ns: int | None = 7 * 24 * 3600 * 10**9
    """Nanoseconds after which a segment that is still being written is ended; None: when it is full."""
    max_message_bytes: int | None = None
    """Bytes of the largest batch, as stored, its header included; None: what a segment holds."""

    def __post_init__(self) -> None:
        if self.dtype is not None and self.value_bytes is not None:
            raise OptionError("dtype= and value_bytes= both say how wide a value is: give one of them")
        width = self.value_width
        record = FRAME_HEADER_BYTES + max(width, 0) + (self.key_bytes or 0)
        if record > self.segment_bytes // 2:
            raise OptionError(
                f"segment_bytes={self.segment_bytes}: too small for records of {record - FRAME_HEADER_BYTES} "
                f"bytes; must be at least twice a batch of one record ({2 * record} bytes)"
            )
        if self.max_message_bytes is not None and record > self.max_message_bytes:
            raise OptionError(
                f"max_message_bytes={self.max_message_bytes}: too small for records of "
                f"{record - FRAME_HEADER_BYTES} bytes; must be at least {record}, a batch of one record"
            )

    @property
    def compacts(self) -> bool:
        """Whether compaction is on."""
        return "compact" in self.cleanup

    @property
    def deletes(self) -> bool:
        """Whether `retention`, `retention_bytes` and `retention_topic_bytes` take effect."""
        return "delete" in self.cleanup

    @property
    def value_width(self) -> int:
        """Bytes of every value, or -1 when they vary."""
        if self.dtype is not None:
            return self.dtype.itemsize
        return -1 if self.value_bytes is None else self.value_bytes

    @property
    def key_width(self) -> int:
        """Bytes of every key, or -1 when they vary."""
        return -1 if self.key_bytes is None else self.key_bytes

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> dict[str, Any]:
        """The options that were given (those not None), checked, by their stored names and in stored form."""
        found = ((OPTIONS[name], value) for name, value in given.items() if value is not None)
        return {option.stored: option.read(value) for option, value in found}

    def differing(self, given: Mapping[str, object]) -> str | None:
        """The first option given (by its stored name, as `parse` returns it) that is not so here, or None."""
        for name, wanted in given.items():
            existing = getattr(self, name)
            # NumPy holds that dtype("f8") == None, so None is compared by identity.
            if (existing is None) != (wanted is None) or existing != wanted:
                return name
        return None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopicOptions):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(tuple(self.to_json().items()))

    def to_json(self) -> dict[str, object]:
        document: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.dtype is not None:
            document["dtype"] = opt.dtype_to_text(self.dtype)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TopicOptions:
        """The options that `to_json` wrote; those that did not exist then are as they are by default."""
        names = [name for name in STORED if name in document or name not in ADDED_LATER]
        known: dict[str, Any] = {name: document[name] for name in names}
        if known["dtype"] is not None:
            known["dtype"] = opt.dtype_from_text(known["dtype"])
        for name, value in list(known.items()):
            if value is not None:
                known[name] = STORED[name].restore(value)
            elif name not in UNLIMITED:
                del known[name]
        return cls(**known)


class TopicChanges(TypedDict, total=False):
    """What `Topic.alter` takes: see `TopicOptions`. None puts an option back to its default; those that may
    be without a limit take a word for that ("forever", "unlimited", "never")."""

    compression: str | None
    durability: str | None
    segment_bytes: opt.Size | None
    index_interval_bytes: opt.Size | None
    timestamp_type: str | None
    retention: opt.Duration | None
    retention_bytes: opt.Size | None
    retention_topic_bytes: opt.Size | None
    cleanup: str | None
    min_cleanable_dirty_ratio: float | None
    min_compaction_lag: opt.Duration | None
    delete_retention: opt.Duration | None
    segment_age: opt.Duration | None
    max_message_bytes: opt.Size | None


class Option(NamedTuple):
    """One option of a topic."""

    name: str
    """As people give it."""
    stored: str
    """As `TopicOptions` and `topic.json` have it; with the unit at its end, where the name has none."""
    read: Callable[[Any], Any]
    """What was given, checked, in its stored form. Raises OptionError or TypeError, which name the option."""
    restore: Callable[[Any], Any]
    """The stored form, checked likewise."""
    acts: str | None
    """When a change acts; None: it cannot be changed."""
    show: Callable[[Any], str]
    """The stored form in words, such that `read` takes them."""

    def text(self, value: Any) -> str:
        """A stored value in words."""
        return UNLIMITED.get(self.stored, "none") if value is None else self.show(value)

    def said(self, value: Any) -> str:
        """A stored value as it is said in errors, behind the name and "="."""
        return repr(value if self.show is str and value is not None else self.text(value))

    @property
    def way_to_change(self) -> str:
        """What to do for another value, to be put behind an error."""
        if self.name == "partitions":
            return "; add_partitions() adds some"
        return "" if self.acts is None else "; alter_topic() changes that"


def parse_cleanup(value: object) -> str:
    """ "delete", "compact", or both in either order, as text with a comma or a list."""
    words = ",".join(sorted(set(opt.parse_names("cleanup", value))))
    if words not in CLEANUPS:
        raise OptionError(f"cleanup={value!r}: must be one of {', '.join(map(repr, CLEANUPS))}")
    return words


def _option(
    name: str,
    read: Callable[[Any], Any],
    acts: str | None = AT_ONCE,
    *,
    stored: str | None = None,
    restore: Callable[[Any], Any] | None = None,
    show: Callable[[Any], str] = str,
) -> Option:
    stored = stored or name
    restore = restore or read
    word = UNLIMITED.get(stored)
    return Option(name, stored, read if word is None else _or_word(read, word), restore, acts, show)


def _or_word(read: Callable[[Any], Any], word: str) -> Callable[[Any], Any]:
    def read_or_word(value: object) -> Any:
        if isinstance(value, str) and value == word:
            return None
        try:
            return read(value)
        except OptionError as error:
            raise OptionError(f"{error}, or {word!r}") from None

    return read_or_word


def _choice(name: str, choices: Iterable[str]) -> Option:
    return _option(name, lambda value: opt.parse_choice(name, value, choices))


def _size(name: str, minimum: int, maximum: int) -> Option:
    return _option(
        name,
        lambda value: opt.parse_size(name, value, minimum=minimum, maximum=maximum),
        show=opt.size_text,
    )


def _duration(name: str, minimum: int = 0) -> Option:
    stored = f"{name}_ns"
    return _option(
        name,
        lambda value: opt.parse_duration(name, value, minimum=minimum),
        stored=stored,
        restore=lambda value: opt.parse_int(stored, value, minimum=minimum, maximum=opt.DURATION_NS_MAX),
        show=opt.duration_text,
    )


OPTIONS: Final[dict[str, Option]] = {
    option.name: option
    for option in (
        _option("partitions", opt.parse_partitions, None),
        _choice("compression", CODECS)._replace(acts=NEXT_PRODUCER),
        _choice("durability", DURABILITIES),
        _option("dtype", opt.parse_dtype, None, show=opt.dtype_to_text),
        _option("value_bytes", lambda value: opt.parse_width("value_bytes", value), None),
        _option("key_bytes", lambda value: opt.parse_width("key_bytes", value), None),
        _option("segment_bytes", opt.parse_segment_bytes, NEXT_SEGMENT, show=opt.size_text),
        _option("index_interval_bytes", opt.parse_index_interval_bytes, NEXT_SEGMENT, show=opt.size_text),
        _choice("timestamp_type", ("create", "append")),
        _duration("retention", RETENTION_NS_MIN),
        _size("retention_bytes", RETENTION_BYTES_MIN, RETENTION_BYTES_MAX),
        _size("retention_topic_bytes", RETENTION_BYTES_MIN, RETENTION_BYTES_MAX),
        _option("cleanup", parse_cleanup),
        _option(
            "min_cleanable_dirty_ratio", lambda value: opt.parse_ratio("min_cleanable_dirty_ratio", value)
        ),
        _duration("min_compaction_lag"),
        _duration("delete_retention"),
        _duration("segment_age", RETENTION_NS_MIN),
        _size("max_message_bytes", MESSAGE_BYTES_MIN, SEGMENT_BYTES_MAX),
    )
}
"""Every option by its name, as people give it."""

STORED: Final = {option.stored: option for option in OPTIONS.values()}
"""The same by the stored name."""

ALTERABLE: Final = tuple(option.name for option in OPTIONS.values() if option.acts is not None)
"""The names of the options that `Topic.alter` changes."""

ADDED_LATER: Final = frozenset(
    {
        "retention_ns",
        "retention_bytes",
        "retention_topic_bytes",
        "cleanup",
        "min_cleanable_dirty_ratio",
        "min_compaction_lag_ns",
        "delete_retention_ns",
        "segment_age_ns",
        "max_message_bytes",
    }
)
"""What the topic.json of earlier versions does not have."""
