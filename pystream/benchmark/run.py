"""The runs: what is made, what is measured, what is compared with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import pystream
from pystream.benchmark import BenchmarkError, floors, scratch
from pystream.benchmark.crew import Crew, Member
from pystream.benchmark.histogram import Latencies
from pystream.benchmark.loops import READ_RUN, TOPIC
from pystream.benchmark.machine import machine_facts, version_facts
from pystream.benchmark.plan import KEY_BYTES, TICK_FIELDS, Plan

SYNC_FLOOR_SECONDS_MAX: Final = 1.0
PARTITION_BYTES: Final = 1 << 20
"""What a partition takes before its records: index and reserved space."""

Show = Callable[[str, float, float | None, int], None]
"""Shows progress: the step, how far it is, of how much (None: unknown), and records so far."""

MEANINGS: Final = {
    "interval": "acknowledged records survive the death of any process; the disk has them within a second",
    "sync": "acknowledged records are on the disk",
    "none": "acknowledged records survive the death of any process; the disk has them when the kernel likes",
}


@dataclass
class Result:
    """What was measured under one name. Bytes are of values and keys; stored ones, of the log."""

    name: str
    records: int
    size: int
    seconds: float
    stored: int | None
    latency_of: str
    latencies: Latencies
    ratio: float | None = None
    """Of the best floor's speed; None at a rate that was asked for."""

    @property
    def records_per_second(self) -> float:
        return self.records / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "records": self.records,
            "bytes": self.size,
            "stored_bytes": self.stored,
            "seconds": self.seconds,
            "records_per_second": self.records_per_second,
            "bytes_per_second": self.size / self.seconds,
            "stored_bytes_per_second": None if self.stored is None else self.stored / self.seconds,
            "floor_ratio": self.ratio,
            "latency": {"of": self.latency_of, **self.latencies.summary()},
            "hdr_histogram": self.latencies.as_text(),
        }


@dataclass
class Report:
    """A run and all that is to be said of it."""

    benchmark: str
    plan: Plan
    started: datetime
    machine: dict[str, Any]
    versions: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    floors: list[floors.Floor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """How the figures came about."""
    warnings: list[str] = field(default_factory=list)
    """What speaks against them."""
    durable_seconds: float | None = None
    """From the beginning until everything was on the disk."""
    series: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds since the beginning, records and bytes so far."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        hidden = {"store", "scratch", "part", "space", "mode"}
        return {
            "benchmark": self.benchmark,
            "started": self.started.isoformat(timespec="seconds"),
            "options": {name: value for name, value in self.plan.as_dict().items() if name not in hidden},
            "batch_records": self.plan.batch_records,
            "segment_bytes": self.plan.segment_bytes,
            "acknowledged_means": MEANINGS[self.plan.durability],
            "machine": self.machine,
            "versions": self.versions,
            "results": [result.as_dict() for result in self.results],
            "floors": [
                {
                    "name": floor.name,
                    f"{floor.unit}_per_second": floor.per_second,
                    "latency": None if floor.latencies is None else floor.latencies.summary(),
                }
                for floor in self.floors
            ],
            "on_disk_seconds": self.durable_seconds,
            "progress": [{"seconds": s, "records": r, "bytes": b} for s, r, b in self.series],
            "notes": self.notes,
            "warnings": self.warnings,
        }

    def add(self, result: Result, records: int | None = None) -> None:
        """Take a result in.

        Args:
            records: how many there must be.

        Raises:
            BenchmarkError: there are others.
        """
        if records is not None and result.records != records:
            raise BenchmarkError(
                f"{result.name}: {result.records:,} records were counted and {records:,} are in the log; "
                "these figures cannot be believed: please report it"
            )
        if result.seconds <= 0 or not result.records:
            raise BenchmarkError(f"{result.name}: nothing was done in the time given: give more")
        self.results.append(result)


class Run:
    """A run in its scratch directory."""

    def __init__(self, plan: Plan, directory: Path, show: Show) -> None:
        self.directory = directory
        self.show = show
        fixed = floors.FLOOR_BYTES_MAX + plan.partitions * PARTITION_BYTES
        space = scratch.space_for(directory, plan.space_needed, fixed)
        self.plan = replace(
            plan, space=space, scratch=str(directory), store=str(directory / scratch.STORE_NAME)
        )
        self.report = Report(
            plan.mode, self.plan, datetime.now(UTC), machine_facts(directory), version_facts()
        )
        self._make_topic()

    def _make_topic(self) -> None:
        plan = self.plan
        options: dict[str, Any] = {}
        if plan.shape == "ticks":
            options["dtype"] = list(TICK_FIELDS)
        elif plan.fixed:
            options["value_bytes"] = plan.size
        with pystream.open(plan.store) as store:
            store.topic(
                TOPIC,
                create=True,
                partitions=plan.partitions,
                compression=plan.codec,
                durability=plan.durability,
                segment_bytes=plan.segment_bytes,
                **options,
            )

    def crew(
        self, step: str, plans: list[tuple[str, Plan]], on_done: Callable[[Crew, Member], None] | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        """Run workers to their end: when they began, and what each said."""
        self.show(f"{step}: starting", 0, None, 0)
        series = self.report.series
        series.clear()
        with Crew(plans) as crew:
            begin = crew.go()

            def progress(records: int, size: int) -> None:
                seconds = max(monotonic_ns() - begin, 0) / 1e9
                if seconds and (not series or records > series[-1][1]):
                    series.append((seconds, records, size))
                total = plans[0][1].total_bytes
                if total is not None:
                    self.show(step, min(size, total), total, records)
                else:
                    self.show(step, seconds, plans[0][1].seconds, records)

            crew.wait(progress, None if on_done is None else lambda member: on_done(crew, member))
            return begin, [member.done for member in crew.members if member.done is not None]

    def stored(self) -> tuple[int, int]:
        """Records in the log, and the bytes that they take there."""
        with pystream.open(self.plan.store, "r") as store:
            stats = store[TOPIC].stats()
        return sum(each.high_watermark for each in stats.partitions), stats.stored_bytes

    def segments(self) -> list[Path]:
        """The files of the log, with what they hold; the store is closed."""
        return sorted(Path(self.plan.store).glob(f"topics/{TOPIC}/*/*.log"))

    def gather(self, name: str, done: list[dict[str, Any]], latency_of: str) -> Result:
        """One result from what all threads measured under a name. It lasts from the first begin to the last
        end."""
        own = [s for each in done for s in each["stretches"] if s["name"] == name]
        latencies = Latencies()
        for stretch in own:
            latencies.merge(Latencies.from_text(stretch["histogram"], stretch["max_ns"]))
        seconds = (max(s["end_ns"] for s in own) - min(s["begin_ns"] for s in own)) / 1e9
        records = sum(s["records"] for s in own)
        keys = KEY_BYTES if self.plan.keys != "none" else 0
        size = sum(s["size"] for s in own) + records * keys
        return Result(name, records, size, seconds, None, latency_of, latencies)

    def workers(self, plan: Plan) -> list[tuple[str, Plan]]:
        """A plan for each process."""
        return [(f"worker {part}", plan.for_part(part)) for part in range(plan.processes)]

    def finish(self) -> Report:
        """The report, with what can be said now."""
        self.report.machine["load_average_after"] = machine_facts(self.directory)["load_average"]
        return self.report

    def note_end(self, done: list[dict[str, Any]]) -> None:
        """Say so where a run ended before it was to."""
        if any(s["ended_by"] == "space" for each in done for s in each["stretches"]):
            self.report.warnings.append(
                f"ended early: the space set aside for it, {self.plan.space:,} bytes, was used up"
            )

    def note_rate(self, result: Result) -> None:
        """Say so where an open loop fell behind."""
        rate = self.plan.rate
        if rate is not None and result.records_per_second < 0.98 * rate:
            self.report.warnings.append(
                f"fell behind: {result.records_per_second:,.0f} records/s instead of {rate:,.0f}; the "
                "latencies hold the backlog, too, as they should"
            )


def calls_text(plan: Plan) -> str:
    """What a latency is of."""
    count = plan.batch_records
    if plan.call == "send":
        text = f"{count} calls of send"
    elif plan.call == "flush":
        text = f"append of {count:,} and flush(durable=True)"
    else:
        text = f"{plan.call} of {count:,}"
    return text + (", from when it was due" if plan.rate is not None else "")


def produce(plan: Plan, directory: Path, show: Show) -> Report:
    """Write as fast as it goes, or at a rate."""
    run = Run(plan, directory, show)
    show("floors", 0, None, 0)
    before = floors.write_floors(directory, plan.seed)
    begin, done = run.crew("produce", run.workers(run.plan))
    show("floors", 0, None, 0)
    after = floors.write_floors(directory, plan.seed)
    run.report.floors = [one.better(other) for one, other in zip(before, after, strict=True)]
    result = run.gather("produce", done, calls_text(plan))
    records, result.stored = run.stored()
    best = max(floor.per_second for floor in run.report.floors)
    result.ratio = None if plan.rate is not None else result.size / result.seconds / best
    run.report.add(result, records)
    run.report.durable_seconds = (max(each["durable_ns"] for each in done) - begin) / 1e9
    run.note_end(done)
    run.note_rate(result)
    return run.finish()


def consume(plan: Plan, directory: Path, show: Show) -> Report:
    """Fill a topic, then read it."""
    run = Run(plan, directory, show)
    if plan.cold and run.report.machine["filesystem"] in ("tmpfs", "ramfs"):
        raise BenchmarkError(
            f"--cold: {directory.parent} is on {run.report.machine['filesystem']}, which has no disk to read "
            "from; name a directory on a disk"
        )
    call = "append" if plan.keys == "none" else "send_many"
    fill = replace(run.plan, mode="fill", call=call, threads=1, processes=1, part=0)
    run.crew("filling", [("the writer", fill)])
    records, stored = run.stored()
    files = run.segments()
    if plan.cold:
        floors.evict(files)
    show("floors", 0, None, 0)
    floor = floors.read_floor(files)
    if plan.cold:
        floors.evict(files)
    _, done = run.crew("consume", run.workers(run.plan))
    if plan.cold:
        floors.evict(files)
    show("floors", 0, None, 0)
    run.report.floors = [floor.better(floors.read_floor(files))]
    whole = plan.crew if plan.fan_out else 1
    what = {"records": f"{READ_RUN:,} records", "batches": "a batch", "arrays": "an array"}[plan.reading]
    for name in ("first pass", "again"):
        times = 1 if name == "first pass" else plan.passes - 1
        if not times:
            continue
        result = run.gather(name, done, what)
        result.stored = stored * whole * times
        result.ratio = result.stored / result.seconds / run.report.floors[0].per_second
        run.report.add(result, records * whole * times)
    run.report.notes.append(
        "the first pass verifies every checksum, later ones need not; values are lent and not looked at"
        if plan.reading != "records"
        else "the first pass verifies every checksum, later ones need not; each record's value and offset "
        "are looked at"
    )
    if plan.cold:
        run.report.notes.append(
            "cold: before the first pass the files were synced and the kernel was asked to drop their pages "
            "(posix_fadvise DONTNEED); what the disk itself caches it keeps"
        )
    return run.finish()


def durable(plan: Plan, directory: Path, show: Show) -> Report:
    """Appends that are on the disk when they return, beside a bare loop of writes and syncs."""
    run = Run(plan, directory, show)
    frame = run.plan.frame_bytes
    seconds = min((plan.seconds or SYNC_FLOOR_SECONDS_MAX) / 2, SYNC_FLOOR_SECONDS_MAX)
    show("floors", 0, None, 0)
    floor = floors.sync_floor(directory, frame, seconds, plan.seed)
    _, done = run.crew("durable", run.workers(run.plan))
    show("floors", 0, None, 0)
    floor = floor.better(floors.sync_floor(directory, frame, seconds, plan.seed))
    run.report.floors = [floor]
    result = run.gather("durable", done, calls_text(plan))
    records, result.stored = run.stored()
    if plan.rate is None:
        result.ratio = result.records_per_second / plan.batch_records / floor.per_second
    run.report.add(result, records)
    if plan.crew > 1:
        run.report.notes.append(
            f"the floor is one writer's; {plan.crew} writers share syncs, so that more than 1.0 of it "
            "is possible"
        )
    run.note_end(done)
    run.note_rate(result)
    return run.finish()


def latency(plan: Plan, waits: list[str], directory: Path, show: Show) -> Report:
    """Append in one process, at a rate, to a consumer in another."""
    run = Run(plan, directory, show)
    usable = run.report.machine["cpus_usable"]
    if usable < 2:
        run.report.warnings.append("one CPU for two processes: the receiver waits until the sender gives way")
    before = stored_before = 0
    for wait in waits:
        seconds = (plan.seconds or 0) + plan.warmup
        shared = replace(run.plan, seconds=seconds, spin=wait == "spin", space=run.plan.space // len(waits))
        pair = [
            ("the receiver", replace(shared, mode="receive", part=0)),
            ("the sender", replace(shared, mode="pace", part=1)),
        ]

        def on_done(crew: Crew, member: Member) -> None:
            if member.done is not None and member.name == "the sender":
                crew.members[0].tell(f"expect {member.done['stretches'][0]['records']}")

        _, done = run.crew(f"latency, receiver {wait}s", pair, on_done)
        received, sent = done
        records, stored = run.stored()
        for name in ("from when it was due", "from the call"):
            result = run.gather(name, [received], name)
            result.name = f"receiver {wait}s"
            result.stored = stored - stored_before
            if records - before != sent["stretches"][0]["records"]:
                raise BenchmarkError(f"{records - before:,} records are in the log, not what was sent")
            run.report.add(result, records - before)
            if not result.latencies.count:
                raise BenchmarkError("no record was due after --warmup: give a longer --duration")
        before, stored_before = records, stored
        run.note_end([sent])
        run.note_rate(run.gather("sent", [sent], ""))
    return run.finish()
