"""Latencies in an HDR histogram: three significant digits from a nanosecond to a day, whatever the number."""

from __future__ import annotations

from array import array
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

HIGHEST_NS: Final = 86400 * 10**9
DIGITS: Final = 3
KEPT_BITS: Final = 11
"""Leading bits of a value that tell its bucket: 2,048 is the first power of two from 2 * 10**DIGITS on."""
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


class Latencies:
    """Counts of nanoseconds. Filled from arrays, so that the loop that is measured only takes the times."""

    def __init__(self) -> None:
        self._counts: Any = HdrHistogram(1, HIGHEST_NS, DIGITS)
        self._max = 0

    @classmethod
    def from_text(cls, text: str, maximum: int) -> Self:
        """What `as_text` said, with its `max_ns`."""
        made = cls()
        made._counts.decode_and_add(text.encode())
        made._max = maximum
        return made

    def as_text(self) -> str:
        """The histogram in HdrHistogram's own compressed form, which its other tools read."""
        text: str = self._counts.encode().decode()
        return text

    def add(self, spent: npt.NDArray[np.int64]) -> None:
        """Count times in nanoseconds; negative ones are 0, those beyond a day are a day."""
        if not len(spent):
            return
        spent = np.clip(spent, 0, HIGHEST_NS)
        self._max = max(self._max, int(spent.max()))
        # Cut to the first value of their bucket: few differ then, and the histogram is asked once for each.
        exponent = np.frexp(spent.astype(np.float64))[1]
        shift = np.maximum(exponent - KEPT_BITS, 0)
        values, counts = np.unique(spent >> shift << shift, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if not self._counts.record_value(value, count):
                raise ValueError(f"{value} ns does not fit into the histogram")

    def add_stamps(self, stamps: array[int]) -> None:
        """Count the times between each two of these moments."""
        moments = np.frombuffer(stamps, np.int64)
        self.add(moments[1:] - moments[:-1])

    def merge(self, other: Latencies) -> None:
        """Count what `other` counted, too."""
        self._counts.add(other._counts)
        self._max = max(self._max, other._max)

    @property
    def count(self) -> int:
        """How many were counted."""
        return int(self._counts.total_count)

    @property
    def max_ns(self) -> int:
        """The longest, exactly."""
        return self._max

    def percentiles_ns(self, wanted: tuple[float, ...] = PERCENTILES) -> list[int]:
        """The times that so many in a hundred did not exceed, within 0.1 %."""
        found = self._counts.get_percentile_to_value_dict(list(wanted))
        return [min(int(found[each]), self._max) for each in wanted] if self.count else [0] * len(wanted)

    def summary(self) -> dict[str, float]:
        """Count and percentiles in microseconds, for JSON."""
        names = ("p50_us", "p90_us", "p99_us", "p99_9_us")
        told = {name: ns / 1000 for name, ns in zip(names, self.percentiles_ns(), strict=True)}
        return {"count": self.count, **told, "max_us": self._max / 1000}


def time_text(nanoseconds: float) -> str:
    """A short time for people: 850 ns, 1.25 us, 17.3 ms, 2.0 s."""
    for unit, size in (("ns", 1.0), ("us", 1e3), ("ms", 1e6)):
        if nanoseconds < 999.5 * size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1e9:,.3g} s"
