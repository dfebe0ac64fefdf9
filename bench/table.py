"""The table of a benchmark run: python bench/table.py RESULTS.json

Prints Markdown, and writes it beside the JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3}
RATES = {"M/s": 1e6, "GB/s": 1e9}
HEAD = ("work", "floor", "of the floor", "pystream", "ratio", "at best", "target", "met")


LEGEND = """\
A floor is the least work that any log must do for the same result, measured in the same run and in turn with
the figure; where there are several ways to do it, the fastest. The ratio is the floor's time by pystream's: 1
is as fast as the floor. Figures are medians unless they say otherwise; at best: the fastest rounds of both.
"""


def shown(seconds: float, row: dict[str, Any]) -> str:
    """A time of one round in the row's unit."""
    value = measure(seconds, row)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {row['unit']}"


def measure(seconds: float, row: dict[str, Any]) -> float:
    unit, amount = row["unit"], row["amount"]
    return seconds / amount / SECONDS[unit] if unit in SECONDS else amount / seconds / RATES[unit]


def target(row: dict[str, Any]) -> str:
    value, unit = f"{row['target']:g}", row["unit"]
    return {
        "ratio": f"≥ {value}",
        "times": f"≤ {value} times the floor's",
        "below": f"< {value} {unit}",
        "above": f"≥ {value} {unit}",
        "none": "",
    }[row["kind"]]


def met(row: dict[str, Any], figure: float, ratio: float | None) -> str:
    kind, wanted = row["kind"], row["target"]
    if kind == "none":
        return ""
    if kind in ("ratio", "times"):
        assert ratio is not None
        good = ratio >= wanted if kind == "ratio" else 1 / ratio <= wanted
    else:
        value = measure(figure, row)
        good = value < wanted if kind == "below" else value >= wanted
    return "yes" if good else "no"


def line(benchmark: dict[str, Any]) -> tuple[str, ...]:
    """One row. The floor is the fastest of those that were tried, by its median."""
    extra = benchmark["extra_info"]
    row = extra["row"]
    figure = extra.get("figure") or benchmark["stats"]
    stat = row["stat"]
    floors = extra["floors"]
    ratio = best = None
    name, floor = "", None
    if floors:
        name, floor = min(floors.items(), key=lambda item: item[1][stat])
        ratio = floor[stat] / figure[stat]
        best = floor["min"] / figure["min"]
    return (
        row["work"],
        name,
        shown(floor[stat], row) if floor else "",
        shown(figure[stat], row),
        f"{ratio:.2f}" if ratio is not None else "",
        f"{best:.2f}" if best is not None else "",
        target(row),
        met(row, figure[stat], ratio),
    )


def table(results: dict[str, Any]) -> str:
    benchmarks = [b for b in results["benchmarks"] if "row" in b["extra_info"]]
    lines = [HEAD, *(line(b) for b in benchmarks)]
    facts = "".join(f"- {key}: {value}\n" for key, value in results["machine_info"].items())
    notes = [
        f"\n{b['extra_info']['row']['work']}: {b['extra_info']['row']['note']}\n"
        for b in benchmarks
        if b["extra_info"]["row"]["note"]
    ]
    body = "".join(f"| {' | '.join(cells)} |\n" for cells in lines[:1])
    body += "|---|---|--:|--:|--:|--:|---|---|\n"
    body += "".join(f"| {' | '.join(cells)} |\n" for cells in lines[1:])
    return f"{facts}\n{body}\n{LEGEND}{''.join(notes)}"


def main() -> None:
    path = Path(sys.argv[1])
    text = table(json.loads(path.read_text(encoding="utf-8")))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
