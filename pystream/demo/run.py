"""The work of the demonstration: in, out again, and every check."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from time import perf_counter

import numpy as np

import pystream
from pystream.demo import DemoError
from pystream.demo.counting import Counted, count_csv, row_text
from pystream.demo.flights import (
    MISSING_NUMBER,
    MISSING_TEXT,
    NUMBERS_DTYPE,
    PACKAGED_FLIGHTS,
    Events,
    find_data,
    read_events,
)

EVENTS_TOPIC = "flights"
NUMBERS_TOPIC = "flight-numbers"
PARTITIONS = 4
CHUNK_RECORDS = 16_384
# Noon of Independence Day in New York, which keeps UTC-4 in summer.
SEEK_TIME = np.datetime64("2013-07-04T16:00:00", "ns")
SEEKS_TIMED = 1_000

Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Check:
    """Something that must be so. `detail` says what was seen, and what was expected where it is not so."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Rate:
    """`records` in `seconds`; `size` is the bytes of their keys and values, uncompressed."""

    name: str
    records: int
    size: int
    seconds: float

    @property
    def records_per_second(self) -> float:
        return self.records / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return self.size / self.seconds


@dataclass
class Seen:
    """What came out of the events topic."""

    flights: int = 0
    size: int = 0
    gaps: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    mistimed: int = 0
    miskeyed: int = 0
    by_carrier: Counter[str] = field(default_factory=Counter)
    by_day: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    other_utc_day: int = 0
    partitions: dict[str, set[int]] = field(default_factory=dict)  # carrier -> where it was found
    digests: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """All that the report and the picture show."""

    data: Path
    store: Path
    counted: Counted
    seen: Seen
    bytes_in: int
    bytes_stored: int
    rates: list[Rate]
    read_seconds: float  # CSV to events, before the log
    seek_offsets: list[int | None]
    seek_seconds: float  # one seek, on average
    delays: dict[int, tuple[int, int]]  # month -> (minutes, flights) from mapped arrays
    checks: list[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def check_place(store: Path) -> None:
    """Refuse a place that is neither empty nor an earlier demo's store, which `run` replaces."""
    if not store.exists():
        return
    if not store.is_dir():
        raise DemoError(f"{store}: not a directory; name another with --store")
    if not any(store.iterdir()):
        return
    topics = store / "topics"
    if not (store / "store.json").is_file() or not topics.is_dir():
        raise DemoError(f"{store}: not empty and not a store; name another directory with --store")
    others = {path.name for path in topics.iterdir() if not path.name.startswith(".")}
    others -= {EVENTS_TOPIC, NUMBERS_TOPIC}
    if others:
        names = ", ".join(sorted(others))
        raise DemoError(f"{store}: holds other topics ({names}); name another directory with --store")


def run(store: Path, data: Path | None, step: Step) -> Result:
    """Do it all. Raises DemoError when it cannot start; what differs is in the checks of the result."""
    path = data or find_data()
    check_place(store)
    step("reading the CSV", 0, 0)
    started = perf_counter()
    events = read_events(path)
    read_seconds = perf_counter() - started
    step("counting the CSV by other code", 0, 0)
    counted = count_csv(path)

    if store.exists():
        shutil.rmtree(store)
    with pystream.open(store) as opened:
        topic = opened.topic(EVENTS_TOPIC, create=True, partitions=PARTITIONS, compression="lz4")
        numbers = opened.topic(NUMBERS_TOPIC, create=True, dtype=NUMBERS_DTYPE)
        rates = [ingest_events(topic, events, step), ingest_numbers(numbers, events, step)]
        batches_rate, bytes_stored = scan_batches(topic, step)
        rates += [batches_rate, scan_records(topic, step)]
        seen = account(topic, len(events), step)
        delays, arrays_rate, mapped = monthly_delays(numbers, store, step)
        rates.append(arrays_rate)
        seek_offsets, seek_seconds, seek_check = seek_by_time(topic, counted, seen)
        ends = sum(topic.partition(i).end_offset for i in range(PARTITIONS))
    return Result(
        data=path,
        store=store,
        counted=counted,
        seen=seen,
        bytes_in=rates[0].size,
        bytes_stored=bytes_stored,
        rates=rates,
        read_seconds=read_seconds,
        seek_offsets=seek_offsets,
        seek_seconds=seek_seconds,
        delays=delays,
        checks=[
            *check_events(counted, seen, rates, ends, packaged=data is None),
            seek_check,
            check_delays(counted, delays),
            mapped,
        ],
    )


# --- in -------------------------------------------------------------------------------------------


def ingest_events(topic: pystream.Topic, events: Events, step: Step) -> Rate:
    """All events through one producer, keyed by carrier, made durable at the end."""
    total = len(events)
    size = sum(map(len, events.values)) + sum(map(len, events.keys))
    started = perf_counter()
    with topic.producer() as producer:
        for start in range(0, total, CHUNK_RECORDS):
            part = slice(start, start + CHUNK_RECORDS)
            producer.send_many(
                events.values[part], keys=events.keys[part], timestamps=events.timestamps[part]
            )
            step("events into the log", start, total)
        producer.flush(durable=True)
    return Rate("events in (JSON, LZ4, durable)", total, size, perf_counter() - started)


def ingest_numbers(topic: pystream.Topic, events: Events, step: Step) -> Rate:
    """The numeric columns as fixed-width records, made durable at the end."""
    total = len(events)
    step("numbers into the log", 0, total)
    partition = topic.partition(0)
    started = perf_counter()
    for start in range(0, total, CHUNK_RECORDS):
        part = slice(start, start + CHUNK_RECORDS)
        partition.append(events.numbers[part], timestamps=events.timestamps[part])
    partition.flush(durable=True)
    return Rate("numbers in (fixed width, durable)", total, events.numbers.nbytes, perf_counter() - started)


# --- out ------------------------------------------------------------------------------------------


def scan_batches(topic: pystream.Topic, step: Step) -> tuple[Rate, int]:
    """Every batch, its checksum verified, keys and values lent; and their bytes as stored."""
    step("scanning batches", 0, 0)
    records = size = stored = 0
    started = perf_counter()
    for batch in topic.batches():
        records += len(batch)
        size += batch.values.data.nbytes + batch.keys.data.nbytes
        stored += batch.stored_bytes
    return Rate("events out, as batches", records, size, perf_counter() - started), stored


def scan_records(topic: pystream.Topic, step: Step) -> Rate:
    """Every record, one by one."""
    step("scanning records", 0, 0)
    records = size = 0
    started = perf_counter()
    for record in topic.records():
        records += 1
        size += len(record.value or b"") + len(record.key or b"")
    return Rate("events out, one by one", records, size, perf_counter() - started)


def account(topic: pystream.Topic, total: int, step: Step) -> Seen:
    """Read everything back through batches and take down what is there, record by record."""
    seen = Seen()
    digests: dict[str, blake2b] = {}
    for number in range(PARTITIONS):
        partition = topic.partition(number)
        next_offset, last_time = 0, np.datetime64(-(2**62), "ns")
        for batch in partition.scan():
            step("accounting for every event", seen.flights, total)
            expected = np.arange(next_offset, next_offset + len(batch))
            if not np.array_equal(batch.offsets, expected):
                seen.gaps.append(f"partition {number}, expected {next_offset}, got {batch.base_offset}")
            next_offset = batch.next_offset
            times = batch.timestamps
            if times[0] < last_time or np.any(times[1:] < times[:-1]):
                seen.disorder.append(f"partition {number}, the batch at {batch.base_offset}")
            last_time = times[-1]
            try:
                take_down(batch, seen, digests)
            except (ValueError, KeyError, TypeError) as error:
                seen.gaps.append(
                    f"partition {number}, the batch at {batch.base_offset} is no event: {error!r}"
                )
        if next_offset != partition.end_offset:
            seen.gaps.append(f"partition {number}: read up to {next_offset} of {partition.end_offset}")
    seen.digests = {carrier: digest.hexdigest() for carrier, digest in digests.items()}
    return seen


def take_down(batch: pystream.Batch, seen: Seen, digests: dict[str, blake2b]) -> None:
    """Decode the events of one batch from the memory it lends."""
    hours = []
    keys, values = batch.keys, batch.values
    utc_days = batch.timestamps.astype("datetime64[D]").astype(str)
    for i in range(len(batch)):
        event = json.loads(str(values[i] or b"", "utf-8"))
        carrier = event["carrier"]
        day = event["year"], event["month"], event["day"]
        cells = []
        for name, cell in event.items():
            if cell is None:
                seen.missing[name] += 1
                cells.append(MISSING_TEXT)
            else:
                cells.append(str(cell))
        hours.append(event["time_hour"].removesuffix("Z"))
        seen.miskeyed += keys[i] != carrier.encode()
        seen.by_carrier[carrier] += 1
        seen.by_day[day] += 1
        seen.other_utc_day += utc_days[i] != "{:04}-{:02}-{:02}".format(*day)
        if carrier not in digests:
            digests[carrier] = blake2b(digest_size=16)
            seen.partitions[carrier] = set()
        digests[carrier].update(row_text(cells))
        seen.partitions[carrier].add(batch.partition)
    seen.flights += len(batch)
    seen.size += values.data.nbytes + keys.data.nbytes
    seen.mistimed += int(np.count_nonzero(np.array(hours, dtype="datetime64[ns]") != batch.timestamps))


def monthly_delays(
    topic: pystream.Topic, store: Path, step: Step
) -> tuple[dict[int, tuple[int, int]], Rate, Check]:
    """Departure delays by month from the mapped arrays, and proof that they are the mapped file."""
    step("delays from mapped arrays", 0, 0)
    minutes = np.zeros(13, np.int64)
    flights = np.zeros(13, np.int64)
    records = size = copied = 0
    seconds = 0.0
    arrays = topic.partition(0).arrays()
    while True:
        started = perf_counter()
        rows = next(arrays, None)
        if rows is None:
            break
        known = rows["dep_delay"] != MISSING_NUMBER
        months = rows["month"][known]
        minutes += np.bincount(months, weights=rows["dep_delay"][known], minlength=13).astype(np.int64)
        flights += np.bincount(months, minlength=13)
        seconds += perf_counter() - started
        records += len(rows)
        size += rows.nbytes
        copied += not is_mapped(rows, store)
    rate = Rate("numbers out, as mapped arrays", records, size, seconds)
    check = Check(
        "arrays are the mapped file, not copies",
        copied == 0,
        "every address lies in a segment's map" if copied == 0 else f"{copied} arrays lie elsewhere",
    )
    months_seen = {int(m): (int(minutes[m]), int(flights[m])) for m in range(1, 13) if flights[m]}
    return months_seen, rate, check


def is_mapped(rows: np.ndarray[tuple[int, ...], np.dtype[np.void]], store: Path) -> bool:
    """Whether the kernel's list of this process's maps has these rows inside a segment of the store."""
    first = rows.__array_interface__["data"][0]
    root = str(store.resolve())
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, *_, path = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(bound, 16) for bound in span.split("-"))
            if start <= first and first + rows.nbytes <= end:
                return path.startswith(root) and path.endswith(".log")
    return False


def seek_by_time(
    topic: pystream.Topic, counted: Counted, seen: Seen
) -> tuple[list[int | None], float, Check]:
    """Find SEEK_TIME in each partition, and hold it against the CSV: as many records lie before it there as
    the partition's carriers have flights before that hour."""
    partitions = [topic.partition(i) for i in range(PARTITIONS)]
    started = perf_counter()
    for _ in range(SEEKS_TIMED):
        for partition in partitions:
            partition.offset_for_time(SEEK_TIME)
    seconds = (perf_counter() - started) / (SEEKS_TIMED * PARTITIONS)
    text = f"{np.datetime_as_string(SEEK_TIME, unit='s')}Z"
    offsets: list[int | None] = []
    expected: list[int | None] = []
    early = 0
    for number, partition in enumerate(partitions):
        offset = partition.offset_for_time(SEEK_TIME)
        offsets.append(offset)
        if offset is not None:
            early += bool(np.datetime64(partition[offset].timestamp or 0, "ns") < SEEK_TIME)
        here = [
            hours for carrier, hours in counted.hours.items() if number in seen.partitions.get(carrier, ())
        ]
        before = sum(hour < text for hours in here for hour in hours)
        expected.append(before if before < sum(map(len, here)) else None)
    found = offsets == expected and not early
    return (
        offsets,
        seconds,
        Check("seek by time finds the hour's first event", found, same(offsets, expected)),
    )


# --- checks ---------------------------------------------------------------------------------------


def same(got: object, expected: object) -> str:
    return f"{got}" if got == expected else f"got {got}, expected {expected}"


def check_events(counted: Counted, seen: Seen, rates: list[Rate], ends: int, packaged: bool) -> list[Check]:
    """What came out of the events topic against what the CSV says."""
    outs = {rate.records for rate in rates} | {seen.flights, ends}
    expected = PACKAGED_FLIGHTS if packaged else counted.flights
    spread = {carrier: where for carrier, where in seen.partitions.items() if len(where) != 1}
    wrong = [carrier for carrier, digest in counted.digests.items() if seen.digests.get(carrier) != digest]
    return [
        Check(
            "every flight once",
            outs == {expected} and counted.flights == expected and seen.size == rates[0].size,
            f"{expected:,} in the CSV, in, out" if outs == {expected} else same(sorted(outs), [expected]),
        ),
        Check(
            "offsets dense in every partition",
            not seen.gaps,
            "; ".join(seen.gaps) or "from 0 to the end, no gap",
        ),
        Check(
            "per-carrier counts", seen.by_carrier == counted.by_carrier, f"{len(seen.by_carrier)} carriers"
        ),
        Check(
            "a carrier in one partition",
            not spread and not seen.miskeyed,
            str(spread or "by murmur2 of the key"),
        ),
        Check(
            "every field of every event, in order",
            not wrong and seen.digests.keys() == counted.digests.keys(),
            f"differs for {', '.join(wrong)}" if wrong else "digests of all rows agree, carrier by carrier",
        ),
        Check("time order kept", not seen.disorder, "; ".join(seen.disorder) or "in every partition"),
        Check(
            "timestamps are time_hour, UTC", seen.mistimed == 0, f"{seen.mistimed} of {seen.flights:,} differ"
        ),
        Check(
            "missing values are null",
            seen.missing == counted.missing,
            f"{seen.missing.total():,} nulls, {counted.missing.total():,} NA in the CSV",
        ),
        Check(
            "days are New York's",
            seen.by_day == counted.by_day and seen.other_utc_day == counted.other_utc_day,
            f"{len(seen.by_day)} days; {seen.other_utc_day:,} flights have another day in UTC",
        ),
    ]


def check_delays(counted: Counted, delays: dict[int, tuple[int, int]]) -> Check:
    """Sums and counts are integers, so equal means equal."""
    expected = {
        month: (counted.delay_minutes[month], n) for month, n in sorted(counted.delay_flights.items())
    }
    equal = delays == expected
    return Check(
        "mean delay per month",
        equal,
        f"{len(delays)} months, minutes and flights equal" if equal else same(delays, expected),
    )
