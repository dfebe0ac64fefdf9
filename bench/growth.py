"""Cost against size, plotted: python bench/growth.py [--quick] [--only PART]

Everything grows: the records of a partition, from ten thousand to a billion of 8 bytes; partitions, 1 to
1,000; batches, 1 to 100,000 records; threads and processes, 1 to 8; bytes written in one go, 1 to 10 GB.
What ought to be flat has its slope measured: by least squares over the logarithms of size and cost, as what
a doubling of the size adds to the cost; at most 5 % is wanted. Where the cost is that of moving bytes, the
floor of the same bytes is measured beside it, in the same run, and its own slope stands beside. And 10 GB
are streamed through a producer and a consumer, whose process keeps less than 64 MiB of memory of its own
(bench/memory.py).

Writes bench/results/growth.json, .md and .png, and prints the Markdown.
Environment: PYSTREAM_BENCH_DIR (build/; it should have 20 GB free).
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import growing
import machine
import memory
from paths import disk_root

RESULTS = Path(__file__).parent / "results"
SLOPE_MAX = 0.05
# A floor is not asked to be flat: it says what of a slope is the machine's.
FLOOR = "floor"
Found = dict[str, dict[int, list[float]]]


@dataclass(frozen=True)
class Sweep:
    """One thing that grows.

    key:   in the results.
    title: what grows; axis: in which unit.
    unit:  of costs: "ns" a record or byte, "us" or "ms" an operation.
    flat:  what ought to be flat, and from which size on: below it a batch or a process is not yet full.
    run:   (root, floors, scale) -> (size, costs in seconds) of each size.
    each:  what a cost is of.
    note:  said below the table.
    """

    key: str
    title: str
    axis: str
    each: str
    flat: dict[str, int]
    run: Callable[[Path, ModuleType, "Scale"], Iterator[tuple[int, growing.Seconds]]]
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """How far it goes. gigabytes: of the largest store; rounds: how often each sweep is repeated."""

    records: list[int]
    partitions: list[int]
    batches: list[int]
    crews: list[int]
    sustained: list[int]
    batch_records: int
    crew_bytes: int
    memory_gb: float
    rounds: int


def decades(first: int, last: int) -> list[int]:
    """Powers of ten from one to the other."""
    return [10**power for power in range(round(math.log10(first)), round(math.log10(last)) + 1)]


FULL = Scale(
    records=decades(10_000, 1_000_000_000),
    partitions=decades(1, 1000),
    batches=decades(1, 100_000),
    crews=[1, 2, 4, 8],
    sustained=[1 << 30, 2 << 30, 5 << 30, 10 << 30],
    batch_records=2_000_000,
    crew_bytes=1 << 30,
    memory_gb=10,
    rounds=3,
)
QUICK = Scale(
    records=decades(10_000, 10_000_000),
    partitions=decades(1, 100),
    batches=decades(1, 10_000),
    crews=[1, 2, 4],
    sustained=[32 << 20, 64 << 20],
    batch_records=200_000,
    crew_bytes=32 << 20,
    memory_gb=0.1,
    rounds=2,
)

SWEEPS = (
    Sweep(
        "records",
        "Records in a partition",
        "records of 8 bytes",
        "a record, an operation",
        dict.fromkeys(("append", "read"), 1_000_000)
        | dict.fromkeys(("open", "seek by offset", "seek by time", "partition[offset]"), 10_000),
        lambda root, floors, scale: growing.record_growth(root, floors, scale.records),
        "Appended as arrays of 256 KiB; read as arrays, for the first time in a process, so with checksums; "
        "both of what was added since the last size. Below a million records there are few batches, and "
        "starting is most of the cost. The last step adds 7 GB, written by the syncs of each second: at the "
        "disk's pace. The floor writes 256 MiB.",
    ),
    Sweep(
        "partitions",
        "Partitions of a topic",
        "partitions",
        "a record, a partition",
        dict.fromkeys(("append, batches of 100", "send with keys", "read by a consumer"), 1)
        | dict.fromkeys(("make a partition", "open a partition"), 10),
        lambda root, floors, scale: growing.partition_growth(root, scale.partitions, scale.batch_records),
        "The same records of 100 B in all. By key, more partitions make a producer's batches smaller, and "
        "each `send` finds other memory than the last.",
    ),
    Sweep(
        "batches",
        "Records in a batch",
        "records of 100 B a batch",
        "a record",
        dict.fromkeys(("append", "read records", "read batches"), 1000),
        lambda root, floors, scale: growing.batch_growth(root, floors, scale.batches, scale.batch_records),
        "A batch has a cost of its own, which its records share; flat is asked for from 1,000 records on.",
    ),
    Sweep(
        "threads",
        "Threads",
        "threads of one process, a partition each",
        "a byte, of all together",
        dict.fromkeys(("append", "append, LZ4", "read"), 1),
        lambda root, floors, scale: growing.crew_growth(
            root, floors, scale.crews, scale.crew_bytes, "threads"
        ),
        "The same bytes in all. Flat is as fast as one thread alone; below that, cores are used.",
    ),
    Sweep(
        "processes",
        "Processes",
        "processes, a partition each",
        "a byte, of all together",
        dict.fromkeys(("append", "append, LZ4", "read"), 1),
        lambda root, floors, scale: growing.crew_growth(
            root, floors, scale.crews, scale.crew_bytes, "processes"
        ),
        "The same bytes in all. Flat is as fast as one process alone; below that, cores are used.",
    ),
    Sweep(
        "sustained",
        "Bytes in one go",
        "bytes",
        "a byte",
        dict.fromkeys(("send and flush", "append and flush"), 1),
        lambda root, floors, scale: growing.sustained(root, floors, scale.sustained),
        "All on the disk at the end: a burst of 1 GB beside 10 GB. `send` in a loop, values of 100 B; "
        "`append` of arrays of 256 KiB.",
    ),
)


# ---- slopes -----------------------------------------------------------------------------------------------


def per_doubling(costs: dict[int, float]) -> float | None:
    """What a doubling of the size adds to the cost, as a part of it: 0 is flat. None: of one size alone."""
    points = [(math.log2(size), math.log2(cost)) for size, cost in sorted(costs.items()) if cost > 0]
    if len(points) < 2:
        return None
    mean_x = statistics.fmean(x for x, _ in points)
    mean_y = statistics.fmean(y for _, y in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return float(2**slope - 1)


def slopes(found: Found, flat: dict[str, int]) -> list[dict[str, Any]]:
    """Of each cost that ought to be flat and of each floor: the slope of the medians, and of each round."""
    rows = []
    for name, by_size in found.items():
        first = flat.get(name.removesuffix(f", {FLOOR}"), 1 if name == FLOOR else None)
        if first is None:
            continue
        sizes = {size: rounds for size, rounds in by_size.items() if size >= first}
        slope = per_doubling({size: statistics.median(rounds) for size, rounds in sizes.items()})
        if slope is None:
            continue
        count = min(len(rounds) for rounds in sizes.values())
        each = [per_doubling({size: rounds[at] for size, rounds in sizes.items()}) for at in range(count)]
        is_floor = name.endswith(FLOOR)
        rows.append(
            {
                "cost": name,
                "from": min(sizes),
                "to": max(sizes),
                "per_doubling": slope,
                "rounds": each,
                "met": None if is_floor else slope <= SLOPE_MAX,
            }
        )
    return rows


def ratios(found: Found) -> dict[str, dict[int, float]]:
    """The floor's time by the figure's, of each size; both were measured in turn."""
    by_name: dict[str, dict[int, float]] = {}
    for name, by_size in found.items():
        floor = found.get(f"{name}, {FLOOR}") or (found.get(FLOOR) if not name.endswith(FLOOR) else None)
        if floor and not name.endswith(FLOOR):
            by_name[name] = {
                size: statistics.median(f / c for f, c in zip(floor[size], costs, strict=True))
                for size, costs in by_size.items()
                if size in floor
            }
    return by_name


# ---- telling ----------------------------------------------------------------------------------------------


def cost_text(seconds: float, each: str) -> str:
    """A cost; of a byte, as a speed."""
    if each.startswith("a byte"):
        return f"{1e-9 / seconds:.2f} GB/s"
    for unit, factor in (("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e12:.3g} ps"


def size_text(size: int, sweep: str) -> str:
    return f"{size / 2**30:.2g} GiB" if sweep == "sustained" else f"{size:,}"


def sweep_table(sweep: Sweep, found: Found, rows: list[dict[str, Any]]) -> str:
    sizes = sorted({size for by_size in found.values() for size in by_size})
    beside = ratios(found)
    by_name = {row["cost"]: row for row in rows}
    head = [f"for {sweep.each}", *(size_text(size, sweep.key) for size in sizes)]
    head += ["a doubling adds", "rounds", "target", "met"]
    text = f"### {sweep.title}\n\n| {' | '.join(head)} |\n|---|{'--:|' * (len(sizes) + 2)}---|---|\n"
    for name, by_size in found.items():
        cells = [name]
        for size in sizes:
            cell = cost_text(statistics.median(by_size[size]), sweep.each) if size in by_size else ""
            if size in beside.get(name, {}):
                cell += f" ({beside[name][size]:.2f})"
            cells.append(cell)
        row = by_name.get(name)
        if row is None:
            cells += [""] * 4
        else:
            each = sorted(slope for slope in row["rounds"] if slope is not None)
            spread = f"{each[0]:+.1%} .. {each[-1]:+.1%}" if each else ""
            wanted = "" if row["met"] is None else f"≤ {SLOPE_MAX:.0%}"
            met = {True: "yes", False: "no", None: ""}[row["met"]]
            since = "" if row["from"] == sizes[0] else f" from {size_text(row['from'], sweep.key)}"
            cells += [f"{row['per_doubling']:+.1%}{since}", spread, wanted, met]
        text += f"| {' | '.join(cells)} |\n"
    return f"{text}\n{sweep.note}\n"


def memory_table(found: dict[str, Any]) -> str:
    before, peak, limit = (found[f"{which}_bytes"] / 2**20 for which in ("before", "peak", "limit"))
    return (
        "### Memory\n\n| streamed | values of | before | at most | target | met |\n"
        "|--:|--:|--:|--:|---|---|\n"
        f"| {found['bytes'] / 1e9:.3g} GB | {found['value_bytes']:,} B | {before:.1f} MiB "
        f"| {peak:.1f} MiB | < {limit:.0f} MiB | {'yes' if peak < limit else 'no'} |\n\n"
        "`RssAnon` of a process that sends and reads so much, seen every 20 ms.\n"
    )


LEGEND = """\
Costs are medians of the rounds; in brackets, the floor's time by pystream's, where there is a floor of the
same bytes: 1 is as fast as checksum and pwrite, or as one pass of the checksum over the mapped file. What a
doubling of the size adds is the slope of a line through the logarithms of sizes and costs, by least
squares; beside it, those of the single rounds.
"""


def report(results: dict[str, Any]) -> str:
    """Markdown of what main() has found."""
    text = "".join(f"- {key}: {value}\n" for key, value in results["machine"].items()) + "\n"
    for sweep in SWEEPS:
        if sweep.key in results["sweeps"]:
            one = results["sweeps"][sweep.key]
            text += sweep_table(sweep, keyed(one["costs"]), one["slopes"]) + "\n"
    if results.get("memory"):
        text += memory_table(results["memory"]) + "\n"
    return text + LEGEND


def keyed(costs: dict[str, Any]) -> Found:
    """Sizes as numbers again: JSON has made them texts."""
    return {name: {int(size): rounds for size, rounds in by.items()} for name, by in costs.items()}


def plot(results: dict[str, Any], path: Path) -> None:
    """All sweeps in one picture, both axes logarithmic; floors are dashed, in the colour of their figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    swept = [sweep for sweep in SWEEPS if sweep.key in results["sweeps"]]
    panels = len(swept) + bool(results.get("memory"))
    columns = 2 if panels > 1 else 1
    lines = -(-panels // columns)
    figure, grid = pyplot.subplots(lines, columns, figsize=(8.5 * columns, 4.2 * lines), squeeze=False)
    axes = iter(grid.flat)
    for sweep in swept:
        axis = next(axes)
        found = keyed(results["sweeps"][sweep.key]["costs"])
        colours = {name: f"C{at}" for at, name in enumerate(n for n in found if not n.endswith(FLOOR))}
        for name, by_size in found.items():
            sizes = sorted(by_size)
            middle = [statistics.median(by_size[size]) for size in sizes]
            colour = colours.get(name.removesuffix(f", {FLOOR}"), "0.4")
            style = "--" if name.endswith(FLOOR) else "-"
            axis.plot(sizes, middle, style, color=colour, marker="o", markersize=4, label=name)
            low, high = ([edge(by_size[size]) for size in sizes] for edge in (min, max))
            axis.fill_between(sizes, low, high, color=colour, alpha=0.12, linewidth=0)
        sizes = sorted({size for by_size in found.values() for size in by_size})
        axis.set(xscale="log", yscale="log", title=sweep.title, xlabel=sweep.axis)
        axis.set_ylabel(f"for {sweep.each}")
        axis.set_xticks(sizes, [size_text(size, sweep.key) for size in sizes], minor=False)
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.yaxis.set_major_formatter(ticker.EngFormatter(unit="s"))
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.yaxis.set_major_locator(ticker.LogLocator(numticks=12, subs=(1.0, 3.0)))
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    if results.get("memory"):
        axis, streamed = next(axes), results["memory"]
        axis.plot(
            [at / 1e9 for at, _ in streamed["course"]], [held / 2**20 for _, held in streamed["course"]]
        )
        axis.axhline(streamed["limit_bytes"] / 2**20, linestyle="--", color="0.4")
        axis.set(title="Memory while streaming", xlabel="GB streamed", ylabel="RssAnon, MiB", ylim=(0, None))
        axis.grid(True, alpha=0.3)
    for axis in axes:
        axis.remove()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# ---- running ----------------------------------------------------------------------------------------------


def swept(sweep: Sweep, root: Path, floors: ModuleType, scale: Scale) -> dict[str, Any]:
    """All rounds of one sweep: each begins in an empty directory, with the smallest size."""
    found: Found = {}
    for _ in range(scale.rounds):
        path = Path(tempfile.mkdtemp(prefix="growth-", dir=root))
        try:
            for size, costs in sweep.run(path, floors, scale):
                for name, seconds in costs.items():
                    found.setdefault(name, {}).setdefault(size, []).append(seconds)
        finally:
            shutil.rmtree(path, ignore_errors=True)
    return {"costs": found, "slopes": slopes(found, sweep.flat)}


def measured(keys: Iterable[str], scale: Scale, root: Path) -> dict[str, Any]:
    from floors.build import load

    floors = load()
    wanted = list(keys)
    sweeps = {}
    for sweep in SWEEPS:
        if sweep.key in wanted:
            print(f"growth: {sweep.title.lower()}", file=sys.stderr, flush=True)
            sweeps[sweep.key] = swept(sweep, root, floors, scale)
    results: dict[str, Any] = {"sweeps": sweeps}
    if "memory" in wanted:
        print("growth: memory", file=sys.stderr, flush=True)
        results["memory"] = memory.measured(root, scale.memory_gb)
    facts = machine.facts(str(root)) | {"rounds": str(scale.rounds)}
    return {"machine": facts, **results}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    keys = (*(sweep.key for sweep in SWEEPS), "memory")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--only", choices=keys, action="append", help="this one; may be given again")
    parser.add_argument("--rounds", type=int, metavar="N", help="of each sweep")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        if arguments.rounds < 1:
            parser.error("--rounds takes a number from 1 on")
        scale = Scale(**{**scale.__dict__, "rounds": arguments.rounds})
    results = measured(arguments.only or keys, scale, disk_root())
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "growth.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = report(json.loads(json.dumps(results)))
    (arguments.out / "growth.md").write_text(text, encoding="utf-8")
    plot(json.loads(json.dumps(results)), arguments.out / "growth.png")
    print(text)


if __name__ == "__main__":
    main()
