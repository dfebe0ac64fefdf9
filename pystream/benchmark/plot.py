"""The picture of a run: how it went on, and its latencies by percentile."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pystream.benchmark.histogram import Latencies, time_text
from pystream.benchmark.run import Report

INK, GRID, FLOOR_COLOUR = "#222222", "#d0d0d0", "#8a8a8a"
COLOURS = ("#2a6f97", "#c8553d", "#588157", "#7b2d8b")
DPI = 150
PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def save_picture(report: Report, path: Path) -> None:
    """Write a PNG."""
    throughput = report.benchmark in ("produce", "consume")
    figure = plt.figure(figsize=(10, 8 if throughput else 5), layout="constrained", facecolor="white")
    axes = figure.subplots(2 if throughput else 1, 1, squeeze=False)[:, 0]
    if throughput:
        draw_progress(axes[0], report)
    draw_latencies(axes[-1], report)
    machine = report.machine
    figure.suptitle(
        f"pystream bench {report.benchmark}: {machine['processor']}, {machine['cpus']} CPUs, "
        f"{machine['filesystem']}, durability {report.plan.durability}",
        color=INK,
        fontsize=10,
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=DPI, format="png")
    plt.close(figure)


def draw_progress(axes: Axes, report: Report) -> None:
    """Throughput from one report of the workers to the next, and the mean of the whole."""
    seconds = np.array([0.0, *(at for at, _, _ in report.series)])
    records = np.array([0, *(count for _, count, _ in report.series)])
    spans = np.diff(seconds)
    rates = np.diff(records)[spans > 0] / spans[spans > 0] / 1e6
    axes.stairs(rates, seconds[np.concatenate(([True], spans > 0))], color=COLOURS[0], linewidth=1.6)
    total = sum(result.seconds for result in report.results)
    mean = sum(result.records for result in report.results) / total / 1e6
    axes.axhline(mean, color=COLOURS[1], linewidth=1.2, linestyle="--")
    axes.annotate(
        f"mean {mean:,.3g} M records/s",
        (1, mean),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 5),
        textcoords="offset points",
        ha="right",
        color=COLOURS[1],
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )
    axes.set_ylim(0, max(float(rates.max()), mean) * 1.18)
    axes.set_xlim(0, float(seconds[-1]))
    axes.set_xlabel("seconds since the beginning")
    axes.set_ylabel("million records a second")
    axes.set_title(report.benchmark, loc="left", color=INK, weight="bold")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_latencies(axes: Axes, report: Report) -> None:
    """Latency by percentile, both logarithmic: each step to the right is ten times as rare."""
    of = {result.latency_of for result in report.results}
    curves = [
        (f"{result.name}, {result.latency_of}" if len(of) > 1 else result.name, result.latencies)
        for result in report.results
    ]
    for i, (name, latencies) in enumerate(curves):
        _curve(axes, name, latencies, COLOURS[i % len(COLOURS)], "-")
    for floor in report.floors:
        if floor.latencies is not None:
            _curve(axes, f"floor: {floor.name}", floor.latencies, FLOOR_COLOUR, "--")
    most = max(latencies.count for _, latencies in curves)
    shown = [p for p in PERCENTILES if p == 0 or 100 / (100 - p) <= most] or [0.0]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator([100 / (100 - p) for p in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 - 100 / x:.6g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ns, _: time_text(ns)))
    axes.set_xlim(1, max(most, 10))
    axes.set_xlabel("percentile")
    what = f" of {of.pop()}" if len(of) == 1 else ""
    axes.set_title(f"latency{what}", loc="left", color=INK, weight="bold")
    axes.grid(color=GRID, linewidth=0.6)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
    axes.spines[["top", "right"]].set_visible(False)


def _curve(axes: Axes, name: str, latencies: Latencies, colour: str, style: str) -> None:
    if not latencies.count:
        return
    rarity = np.geomspace(1, latencies.count, 200)
    percentiles = tuple(sorted({float(100 - 100 / each) for each in rarity}))
    times = np.maximum(latencies.percentiles_ns(percentiles), 1)
    axes.plot(
        [100 / (100 - p) for p in percentiles],
        times,
        color=colour,
        linestyle=style,
        linewidth=1.8,
        label=name,
    )
