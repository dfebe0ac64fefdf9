"""A consumer whose place is no longer in the log: retention has taken it away, or somebody has."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pystream import options as opt
from pystream._native.reader import PartitionReader
from pystream.errors import OffsetOutOfRangeError

if TYPE_CHECKING:
    from pystream._native.log import LogHandle
    from pystream._native.schema import Schema
    from pystream.consumer import Consumer
    from pystream.places import Start

OutOfRange: TypeAlias = Literal["earliest", "latest", "raise"]
"""Where a consumer goes on whose place was deleted: at the earliest record there is, with the next that is
appended, or nowhere before it has raised an error."""

POLICIES: Final = ("earliest", "latest", "raise")
QUIET_S: Final = 1.0
"""Who falls off again and again is told of it once in this time, with the sum."""


def parse_policy(value: object, start: Start) -> OutOfRange:
    """The option `out_of_range`; left out (None), what `start` says of new partitions."""
    if value is None:
        value = start if isinstance(start, str) else "earliest"
    word: OutOfRange = opt.parse_choice("out_of_range", value, POLICIES)  # type: ignore[assignment]
    return word


class Falls:
    """What a consumer does when it has fallen off the log, and how much it has passed over."""

    __slots__ = ("_consumer", "_policy", "_said", "_unsaid", "skipped")

    def __init__(self, consumer: Consumer, policy: OutOfRange) -> None:
        self._consumer = weakref.ref(consumer)  # which holds the readers, which hold this
        self._policy = policy
        self._said = object()
        self._unsaid = 0
        self.skipped = 0
        """Offsets that were deleted before they were read, all in all."""

    def __call__(self, reader: PartitionReader) -> None:
        """Put a reader that is below the log start where it is to go on.

        Raises:
            OffsetOutOfRangeError: the policy is "raise"; the reader goes on at the log start.
        """
        consumer = self._consumer()
        if consumer is None:
            return
        counted = self.skipped, self._unsaid
        while True:
            position = reader.position
            place, error = self.place(consumer, (reader.topic, reader.partition), position)
            try:
                reader.seek(place)
            except OffsetOutOfRangeError:  # the log starts later still by now
                self.skipped, self._unsaid = counted
                continue
            break
        if error is not None:
            raise error

    def reader(self, log: LogHandle, place: int, schema: Schema, durable: bool) -> PartitionReader:
        """A reader that asks here when it falls; where its place goes this moment, it begins at the log
        start."""
        while True:
            try:
                reader = PartitionReader(log, place, schema=schema, durable=durable)
            except OffsetOutOfRangeError:
                if place >= log.start_offset:
                    raise
                place = log.start_offset
                continue
            reader.on_fall = self
            return reader

    def place(
        self, consumer: Consumer, key: tuple[str, int], position: int
    ) -> tuple[int, OffsetOutOfRangeError | None]:
        """Where to go on in a partition of which `position` was deleted, and what is to be raised before."""
        start = consumer._partition_of(key).beginning_offset
        place = consumer._place(key, "latest", "start") if self._policy == "latest" else start
        lost = max(start - position, 0)
        self.skipped += max(place - position, 0)
        where = f"{key[0]!r}/{key[1]}"
        what = f"its place in {where} was {position}, but the log starts at {start} by now: {lost} offsets"
        if self._policy == "raise":
            return place, OffsetOutOfRangeError(
                f"the consumer fell off the log: {what} were deleted before it had read them. Asking again "
                f"goes on at {place}; out_of_range='earliest' does so at once",
                topic=key[0],
                partition=key[1],
                offset=position,
            )
        from pystream import notices  # not before there is something to say

        self._unsaid += max(place - position, 0)
        said = notices.warn(
            (self._said, key),
            "pystream.retention",
            "consumer fell off the log: %s were deleted before it had read them; going on at %d "
            "(offsets passed over since this was last said: %d)",
            what,
            place,
            self._unsaid,
        )
        if said:
            self._unsaid = 0
        return place, None
