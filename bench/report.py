"""What the comparison found, as tables, plots and parts of the documentation: from the JSON alone."""

import json
import re
import statistics
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OPS = {
    ("write", "batch", ""): "write, batches",
    ("write", "record", ""): "write, records",
    ("write", "acked", ""): "write, one by one",
    ("read", "batch", "warm"): "read batches, warm",
    ("read", "record", "warm"): "read records, warm",
    ("read", "batch", "cold"): "read batches, cold",
    ("read", "record", "cold"): "read records, cold",
}
COLOURS = {
    "floor": "#b0b0b0",
    "pystream": "#d1495b",
    "extra": "#e9a3ac",
    "Python": "#30638e",
    "Java": "#edae49",
}
PLOT_COLUMNS = 2
BAR_INCHES = 0.24
TITLE_WIDTH = 58
"""Characters above each column."""

LEGEND = """\
Figures are records a second, medians of {rounds} rounds in which floors, pystream and rivals took
turns; ± is the interquartile range by the median. Every contestant writes as much as takes it about
{seconds:g} s, and no more than {gb:g} GB of values, so that slow ones handle less. Batches: one call
for each block of records, whose size is named above the table; records: one call, or one step of a
loop, for each. Writing ends when all is done as the column "done when" says, reading when every value
was seen, as `bytes` but for "columns". Cold: before reading, everything was closed (servers stopped),
synced, read through once so that a virtual machine's memory is there, and the kernel asked to drop the
files' pages (`POSIX_FADV_DONTNEED`); the floors read cold, too. In the last lines of each
table the floor is the faster of the two, and the best rival is the fastest that Python drives.
"""


def short(rate: float) -> str:
    """12.3 M, 4.56 k, 789."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rate >= size:
            value = rate / size
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{unit}"
    return f"{rate:.0f}"


def row_name(row: Mapping[str, Any]) -> str:
    return OPS[row["op"], row["form"], row["temperature"]]


def judged(row: dict[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A row with medians, spreads and ratios. kinds: by key, what has `.kind` and `.language`."""
    for cell in row["cells"].values():
        if not cell.get("seconds"):
            continue
        rates = [cell["records"] / seconds for seconds in cell["seconds"]]
        cell["rate"] = statistics.median(rates)
        cell["iqr"] = spread(rates)
    rated = {key: cell["rate"] for key, cell in row["cells"].items() if "rate" in cell}
    ours = [key for key in rated if kinds[key].kind == "pystream"]
    floors = [key for key in rated if kinds[key].kind == "floor"]
    rivals = [key for key in rated if kinds[key].kind == "rival"]
    python = [key for key in rivals if kinds[key].language == "Python"]
    row["ratios"] = {}
    if ours:
        rate = rated[ours[0]]
        for name, among in (("floor", floors), ("rival", python), ("any_rival", rivals)):
            if among:
                best = max(among, key=rated.__getitem__)
                row["ratios"][name] = {"best": best, "times": rate / rated[best]}
    return row


def spread(rates: list[float]) -> float:
    """The interquartile range; of fewer than two figures 0."""
    if len(rates) < 2:
        return 0.0
    low, _, high = statistics.quantiles(rates, n=4, method="inclusive")
    return high - low


def cell_text(cell: Mapping[str, Any]) -> str:
    if "rate" in cell:
        width = f" ±{100 * cell['iqr'] / cell['rate']:.0f}%" if len(cell["seconds"]) > 1 else ""
        return f"{short(cell['rate'])}{width}"
    return "failed" if "failed" in cell else "-"


def contestants_of(scene: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """Those that have a figure or a failure to tell in this scene."""
    return [
        key
        for key in results["contestants"]
        if any("why_not" not in row["cells"].get(key, {"why_not": ""}) for row in scene["rows"])
    ]


def scene_table(scene: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Contestants down, operations across."""
    rows = scene["rows"]
    people = results["contestants"]
    lines = [["contestant", *map(row_name, rows), "durability", "done when"]]
    for key in contestants_of(scene, results):
        promise = scene["promises"][key]
        name = f"**{people[key]['label']}**" if people[key]["kind"] == "pystream" else people[key]["label"]
        lines.append(
            [name, *(cell_text(row["cells"][key]) for row in rows), promise["durability"], promise["done"]]
        )
    for name, title, best in (
        ("floor", "pystream by the floor", False),
        ("rival", "pystream by the best Python rival", True),
    ):
        found = [row["ratios"].get(name) for row in rows]
        if any(found):
            texts = [ratio_text(ratio, people, best) for ratio in found]
            lines.append([f"*{title}*", *texts, "", ""])
    align = ["---", *["--:"] * len(rows), "---", "---"]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], align, *lines[1:]])
    return "\n\n".join([table, *notes(scene, results)])


def ratio_text(ratio: Mapping[str, Any] | None, people: Mapping[str, Any], best: bool) -> str:
    if ratio is None:
        return ""
    times = ratio["times"]
    shown = f"{times:.2f}" if times < 10 else f"{times:,.0f}"
    return f"{shown} x {people[ratio['best']]['label']}" if best else shown


def notes(scene: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    """Why there is no figure, a line each; what stayed in the cache."""
    lines = []
    for key, who in results["contestants"].items():
        if who["why_not"]:
            continue
        reasons: dict[str, list[str]] = {}
        for row in scene["rows"]:
            cell = row["cells"][key]
            reason = cell.get("failed") or cell.get("why_not")
            if reason and who["kind"] not in ("floor", "extra"):
                reasons.setdefault(("failed: " if "failed" in cell else "") + reason, []).append(
                    row_name(row)
                )
        for reason, names in reasons.items():
            where = "" if len(names) == len(scene["rows"]) else f" ({'; '.join(names)})"
            lines.append(f"- {who['label']}: {' '.join(reason.split())}{where}")
    left = {
        results["contestants"][key]["label"]: cell["left_in_cache"]
        for row in scene["rows"]
        for key, cell in row["cells"].items()
        if cell.get("left_in_cache")
    }
    stayed = [f"{label} {100 * share:.1f} %" for label, share in left.items() if share >= 0.005]
    if stayed:
        lines.append(f"- Pages that the kernel did not drop before cold reading: {', '.join(stayed)}")
    if lines:
        yield "\n".join(lines)


def facts_list(results: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in results["machine"].items() if name != "pystream"]
    versions: dict[str, str] = {}
    for who in results["contestants"].values():
        versions |= who["versions"]
    if versions:
        lines.append(f"- versions: {', '.join(f'{name} {value}' for name, value in versions.items())}")
    lines.append(f"- seed: {results['options']['seed']}")
    lines += [
        f"- without {who['label']}: {who['why_not']}"
        for who in results["contestants"].values()
        if who["why_not"]
    ]
    return "\n".join(lines)


def summary_table(results: Mapping[str, Any]) -> str:
    """A line a row: pystream, its floor, the best rivals."""
    people = results["contestants"]
    lines = [
        [
            "setting",
            "work",
            "pystream",
            "by the floor",
            "best Python rival",
            "times",
            "best of all rivals",
            "times",
        ],
        ["---", "---", "--:", "--:", "---", "--:", "---", "--:"],
    ]
    for scene in results["scenes"]:
        for row in scene["rows"]:
            cell = row["cells"].get("pystream")
            if not cell or "rate" not in cell:
                continue
            ratios = row["ratios"]
            floor = ratios.get("floor")
            texts = [f"{floor['times']:.2f}" if floor else ""]
            for name in ("rival", "any_rival"):
                ratio = ratios.get(name)
                if ratio is None:
                    texts += ["", ""]
                    continue
                best = row["cells"][ratio["best"]]["rate"]
                texts += [
                    f"{people[ratio['best']]['label']}, {short(best)}",
                    ratio_text(ratio, people, False),
                ]
            lines.append([scene["title"], row_name(row), short(cell["rate"]), *texts])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings_table(results: Mapping[str, Any]) -> str:
    """How each was set, once for all scenes in which it was set so."""
    found: dict[tuple[str, str], list[str]] = {}
    for scene in results["scenes"]:
        for key in contestants_of(scene, results):
            found.setdefault((key, scene["promises"][key]["settings"]), []).append(scene["key"])
    order = list(results["contestants"])
    lines = ["| contestant | settings | scenes |", "|---|---|---|"]
    for (key, text), keys in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        everywhere = len(keys) == sum(key in contestants_of(s, results) for s in results["scenes"])
        where = "all" if everywhere else ", ".join(f"`{name}`" for name in keys)
        lines.append(f"| {results['contestants'][key]['label']} | {text} | {where} |")
    return "\n".join(lines)


def tables(results: Mapping[str, Any]) -> str:
    """All of it as Markdown, below a title that the page has by itself."""
    parts = [facts_list(results), LEGEND.format(**results["options"]).strip()]
    for scene in results["scenes"]:
        size = f"{scene['value_bytes']:,} bytes each"
        block = f", {scene['block']:,} a block" if scene["block"] > 1 else ""
        parts.append(
            f"### {scene['title']}\n\n`{scene['key']}`: {size}{block}.\n\n{scene_table(scene, results)}"
        )
    parts.append(f"### How each was set\n\n{settings_table(results)}")
    return "\n\n".join(parts) + "\n"


# ---- plots


def plots(results: Mapping[str, Any], directory: Path) -> Iterator[Path]:
    """A PNG for each scene: bars of all contestants, a part for each operation, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.png"):
        old.unlink()
    for scene in results["scenes"]:
        people = contestants_of(scene, results)
        shown = plotted_rows(scene)
        if not shown:
            continue
        columns = min(PLOT_COLUMNS, len(shown))
        lines = -(-len(shown) // columns)
        height = lines * (0.8 + BAR_INCHES * len(people)) + 0.7
        figure, axes = pyplot.subplots(lines, columns, figsize=(5.6 * columns, height), squeeze=False)
        rates = [cell["rate"] for row in shown for cell in row["cells"].values() if "rate" in cell]
        for axis, row in zip(axes.flat, shown, strict=False):
            bars(axis, row, people, results["contestants"], (min(rates) / 3, max(rates) * 6))
        for axis in list(axes.flat)[len(shown) :]:
            axis.set_visible(False)
        title = textwrap.fill(scene["title"], TITLE_WIDTH * columns)
        figure.suptitle(title, fontsize=11)
        figure.tight_layout()
        path = directory / f"{scene['key']}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        yield path


def plotted_rows(scene: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows that have any figure."""
    return [row for row in scene["rows"] if any("rate" in cell for cell in row["cells"].values())]


def bars(
    axis: Any, row: Mapping[str, Any], keys: list[str], people: Mapping[str, Any], limits: tuple[float, float]
) -> None:
    """One operation, the fastest on top; quartiles as whiskers."""
    rated = sorted(
        (key for key in keys if "rate" in row["cells"][key]), key=lambda k: row["cells"][k]["rate"]
    )
    cells = [row["cells"][key] for key in rated]
    colours = [
        COLOURS[people[key]["language"] if people[key]["kind"] == "rival" else people[key]["kind"]]
        for key in rated
    ]
    values = [cell["rate"] for cell in cells]
    axis.barh(
        [people[key]["label"] for key in rated],
        values,
        color=colours,
        xerr=[cell["iqr"] / 2 for cell in cells],
        error_kw={"elinewidth": 0.8, "ecolor": "#404040"},
    )
    for place, value in enumerate(values):
        axis.text(value * 1.15, place, short(value), va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(*limits)
    axis.set_title(f"{row_name(row)}, records/s", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


# ---- the documentation

MARKED = re.compile(
    r"(?P<head><!-- compare: (?P<name>[a-z]+) -->\n).*?(?P<foot><!-- /compare -->)", re.DOTALL
)


def filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with each part between its markers.

    Raises:
        ValueError: the page has a marker that has no part, or lacks one.
    """
    seen = []

    def put(found: re.Match[str]) -> str:
        name = found["name"]
        seen.append(name)
        if name not in parts:
            raise ValueError(f"nothing fills the marker {name!r}; there are {', '.join(parts)}")
        return f"{found['head']}\n{parts[name]}\n\n{found['foot']}"

    page = MARKED.sub(put, page)
    missing = sorted(parts.keys() - set(seen))
    if missing:
        raise ValueError(f"the page has no marker for {', '.join(missing)}")
    return page


def parts_of(results: Mapping[str, Any]) -> dict[str, str]:
    """What the markers of the page are filled with."""
    pictures = [
        f"![{scene['title']}](images/compare/{scene['key']}.png){{ loading=lazy }}"
        for scene in results["scenes"]
        if plotted_rows(scene)
    ]
    return {
        "summary": f"{facts_list(results)}\n\n{summary_table(results)}",
        "plots": "\n\n".join(pictures),
    }


def write_docs(path: Path, docs: Path) -> None:
    """Fill docs/performance.md and docs/images/compare/ from the results at `path`."""
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `make bench` first")
    results = json.loads(path.read_text(encoding="utf-8"))
    page = docs / "performance.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), parts_of(results)), encoding="utf-8")
    for _ in plots(results, docs / "images" / "compare"):
        pass
