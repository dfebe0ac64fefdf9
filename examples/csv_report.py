"""A CSV file into a topic, and a report with a chart out of it.

    python examples/csv_report.py                                   # on a year of invented sales
    python examples/csv_report.py sales.csv --time when --group branch --amount euros

The rows go in as JSON, keyed by the group and stamped with their own time. The report reads the topic, a
batch at a time: how many, how much, the best day, and a chart of each group's weeks. Run again with
`--store`, it reports on what is there already: rows are ingested once.
"""

import argparse
import csv
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import matplotlib
import numpy as np
import orjson

import pystream
from pystream.ingest import ingest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#2a6f97", "#c8553d", "#588157", "#8a5a83", "#b08900", "#4a4e69")

Days = dict[date, float]


def invent(path: Path, rows: int = 20_000, seed: int = 11) -> None:
    """Write a CSV file of a year's sales in three branches: weekends are good, one branch opens in May."""
    random = np.random.default_rng(seed)
    start = datetime(2024, 1, 1, 8, tzinfo=UTC)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["when", "branch", "item", "euros"])
        for minutes in np.sort(random.integers(0, 366 * 1440, rows)):
            when = start + timedelta(minutes=int(minutes))
            branch = random.choice(["harbour", "market", "station"], p=[0.3, 0.45, 0.25])
            if branch == "station" and when.month < 5:
                continue
            euros = random.gamma(3, 4) * (1.6 if when.weekday() >= 5 else 1.0)
            item = random.choice(["coffee", "cake", "beans"])
            out.writerow([when.isoformat(), branch, item, f"{euros:.2f}"])


def total(topic: pystream.Topic, amount: str) -> dict[str, Days]:
    """For each group, what each day amounted to."""
    groups: dict[str, Days] = defaultdict(lambda: defaultdict(float))
    for batch in topic.batches():
        days = batch.timestamps.astype("M8[D]").tolist()
        for key, value, day in zip(batch.keys, batch.values, days, strict=True):
            groups[bytes(key).decode()][day] += float(orjson.loads(value)[amount])
    return groups


def print_report(groups: dict[str, Days], rows: int) -> None:
    """A line a group."""
    print(f"{rows:,} rows")
    print(f"{'group':12}{'days':>6}{'total':>14}{'a day':>11}  best day")
    for name, days in sorted(groups.items(), key=lambda item: -sum(item[1].values())):
        amount = sum(days.values())
        best = max(days, key=days.__getitem__)
        print(
            f"{name:12}{len(days):>6}{amount:>14,.2f}{amount / len(days):>11,.2f}  {best} ({days[best]:,.2f})"
        )


def draw(groups: dict[str, Days], amount: str, path: Path) -> None:
    """Totals by week, a line a group, named at its end."""
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    first = min(min(days) for days in groups.values())
    last = max(max(days) for days in groups.values())
    weeks = max(1, ((last - first).days + 1) // 7)  # whole ones: a part of a week would look like a fall
    starts = [first + timedelta(weeks=week) for week in range(weeks)]
    for (name, days), colour in zip(sorted(groups.items()), COLOURS * len(groups), strict=False):
        sums = [0.0] * weeks
        for day, euros in days.items():
            if (day - first).days // 7 < weeks:
                sums[(day - first).days // 7] += euros
        begin = (min(days) - first).days // 7
        axes.plot(starts[begin:], sums[begin:], color=colour, linewidth=2)
        axes.annotate(
            f" {name}",
            (starts[-1], sums[-1]),
            color=colour,
            va="center",
            weight="bold",
            annotation_clip=False,
        )
    axes.set_title(f"{amount} a week", loc="left", weight="bold")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e0e0e0")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Read the arguments; ingest, report, draw."""
    parser = argparse.ArgumentParser(description="A CSV file into a topic, and a report out of it.")
    parser.add_argument("csv", nargs="?", type=Path, help="the file (default: invented sales)")
    parser.add_argument("--time", default="when", help="column of the time")
    parser.add_argument("--group", default="branch", help="column to group by")
    parser.add_argument("--amount", default="euros", help="column to sum")
    parser.add_argument("--store", type=Path, help="keep the store here (default: a temporary one)")
    parser.add_argument("--chart", type=Path, default=Path("report.png"), help="where the picture goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        source = given.csv or Path(spare) / "sales.csv"
        if given.csv is None:
            invent(source)
        with pystream.open(given.store or Path(spare) / "report.ps") as store:
            topic = store.topic("rows", create=True, compression="lz4")
            ingest(topic, source, key=given.group, timestamp=given.time, resume=True)
            groups = total(topic, given.amount)
            print_report(groups, topic.partition(0).end_offset)
    draw(groups, given.amount, given.chart)
    print(f"chart: {given.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
