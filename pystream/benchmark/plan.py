"""What a run is to do: the options, what they stand for, and how much disk they may take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from pystream._native.limits import FRAME_HEADER_BYTES
from pystream.benchmark import BenchmarkError

SEED_DEFAULT: Final = 20130101
RANDOM_BYTES_DEFAULT: Final = 100
JSON_BYTES_DEFAULT: Final = 256
JSON_BYTES_MIN: Final = 160
"""Shortest JSON event: its names, punctuation and numbers."""
SIZE_BYTES_MAX: Final = 16 << 20
STAMP_BYTES: Final = 16
"""What a record of `latency` carries: when it was due and when it was appended, int64 nanoseconds each."""
TICK_FIELDS: Final = (("ts", "i8"), ("px", "f8"), ("qty", "i4"), ("side", "i4"))
TICK_BYTES: Final = 24
KEY_COUNT: Final = 10_000
KEY_BYTES: Final = 13
BATCH_DEFAULT: Final = 1000
BATCH_MAX: Final = 1 << 20
SEND_RUN: Final = 100
"""Calls of `send` that are timed together: one takes about as long as reading the clock."""
CREW_MAX: Final = 256
"""Most processes times threads."""
SECONDS_MIN: Final = 0.05
SECONDS_MAX: Final = 24 * 3600
TOTAL_BYTES_MAX: Final = 1 << 44
PASSES_MAX: Final = 1000
SEED_MAX: Final = 2**63 - 1
RATE_MAX: Final = 10_000_000
SEGMENT_BYTES_DEFAULT: Final = 128 << 20
SEGMENTS_BYTES_MAX: Final = 4 << 30
"""Partitions have smaller segments where they are so many that their segments would be more than this."""
SEGMENT_BYTES_LEAST: Final = 1 << 20
FRAME_ALIGN_BYTES: Final = 64


@dataclass(frozen=True)
class Plan:
    """A run, or the part of one process in it. Sizes in bytes.

    seconds, total_bytes: when to end, of values; exactly one of them is given where records are written.
    rate: records a second of all writers; None: as fast as they go.
    part: which of the workers (processes) this is; None for the whole.
    """

    mode: str
    shape: str = "random"
    size: int = RANDOM_BYTES_DEFAULT
    keys: str = "none"
    batch: int | None = None
    codec: str = "none"
    partitions: int = 1
    durability: str = "interval"
    threads: int = 1
    processes: int = 1
    call: str = "append"
    seconds: float | None = None
    total_bytes: int | None = None
    rate: float | None = None
    reading: str = "records"
    passes: int = 1
    cold: bool = False
    fan_out: bool = False
    spin: bool = False
    warmup: float = 0.0
    seed: int = SEED_DEFAULT
    space: int = 0
    store: str = ""
    scratch: str = ""
    part: int | None = None

    @property
    def crew(self) -> int:
        """How many threads do the work, in all processes."""
        return self.threads * self.processes

    @property
    def batch_records(self) -> int:
        """Records of a call of `append` or `send_many`; of `send`, those that are timed together."""
        if self.call == "send":
            return SEND_RUN
        return BATCH_DEFAULT if self.batch is None else self.batch

    @property
    def fixed(self) -> bool:
        """Whether the topic declares the width of its values."""
        return self.shape == "ticks" or self.reading == "arrays"

    @property
    def segment_bytes(self) -> int:
        """Size of the topic's segments."""
        share = SEGMENTS_BYTES_MAX // self.partitions >> 20 << 20
        return min(SEGMENT_BYTES_DEFAULT, max(SEGMENT_BYTES_LEAST, share))

    @property
    def frame_bytes(self) -> int:
        """What a batch takes in the log, uncompressed; of `send`, the most that one run of calls takes."""
        count = self.batch_records
        body = count * self.size
        if not self.fixed:
            body += 4 * (count + 1) + 8
        if self.keys != "none":
            body += count * (KEY_BYTES + 4) + 12
        return FRAME_HEADER_BYTES + -(-body // FRAME_ALIGN_BYTES) * FRAME_ALIGN_BYTES

    @property
    def calls_for_bytes(self) -> int:
        """How many calls each thread makes to write `total_bytes`."""
        assert self.total_bytes is not None
        return max(1, -(-self.total_bytes // (self.batch_records * self.size * self.crew)))

    @property
    def calls_for_space(self) -> int:
        """How many calls each thread may make in the space that was set aside.

        Keys spread a call over partitions: each may get a frame of its own.
        """
        frames = self.partitions if self.keys != "none" and self.call == "send_many" else 1
        worst = self.frame_bytes + (frames - 1) * (FRAME_HEADER_BYTES + FRAME_ALIGN_BYTES)
        return max(1, int(self.space / (worst * self.crew)))

    @property
    def space_needed(self) -> int:
        """Bytes that the records of `total_bytes` take at most; 0 where only the time is given."""
        if self.total_bytes is None:
            return 0
        whole = replace(self, space=1 << 62)
        worst = (1 << 62) / (whole.calls_for_space * self.crew)
        return int(self.calls_for_bytes * self.crew * worst)

    def check(self) -> Self:
        """Refuse what does not go together.

        Raises:
            BenchmarkError: which options, and what to give instead.
        """
        if self.shape == "json" and self.size < JSON_BYTES_MIN:
            raise BenchmarkError(f"--size {self.size}: JSON events have at least {JSON_BYTES_MIN} bytes")
        if self.shape == "ticks" and self.size != TICK_BYTES:
            raise BenchmarkError(f"--size {self.size}: ticks have {TICK_BYTES} bytes; leave --size out")
        if self.mode == "latency" and self.size < STAMP_BYTES:
            raise BenchmarkError(
                f"--size {self.size}: the records of latency carry {STAMP_BYTES} bytes of "
                "times; give at least that"
            )
        if self.rate is not None and not self.rate > 0:  # NaN is in no range, and out of none
            raise BenchmarkError(f"--rate {self.rate}: must be more than 0")
        if self.crew > CREW_MAX:
            raise BenchmarkError(
                f"--processes {self.processes} with --threads {self.threads} is {self.crew} threads in all; "
                f"at most {CREW_MAX}"
            )
        if self.mode == "consume":
            if self.crew > self.partitions and not self.fan_out:
                raise BenchmarkError(
                    f"{self.crew} readers of {self.partitions} partition{'s' * (self.partitions > 1)}: each "
                    f"reads partitions of its own; give --partitions {self.crew}, or --fan-out for each to "
                    "read all"
                )
            if self.reading == "arrays" and self.shape == "json":
                raise BenchmarkError("--as arrays: JSON events are no arrays; give --shape ticks or random")
        if self.frame_bytes > self.segment_bytes // 2:
            raise BenchmarkError(
                f"--batch {self.batch_records} of --size {self.size} is {self.frame_bytes:,} bytes; with "
                f"{self.partitions} partition{'s' * (self.partitions > 1)}, segments have "
                f"{self.segment_bytes:,} bytes here, and a batch at most half of that: make it smaller"
            )
        return self

    def for_part(self, part: int) -> Plan:
        """The share of one process."""
        return replace(self, part=part)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, from which `Plan(**...)` makes it again."""
        return asdict(self)
