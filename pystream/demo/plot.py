"""The picture: flights a day through the year, and how fast they went in and came out."""

from datetime import date
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from pystream.demo.run import Result

INK, IN_COLOUR, OUT_COLOUR, GRID = "#222222", "#c8553d", "#2a6f97", "#d0d0d0"
DPI = 150


def save_picture(result: Result, path: Path) -> None:
    """Write a PNG of both charts."""
    figure = plt.figure(figsize=(11, 8), layout="constrained", facecolor="white")
    above, below = figure.subfigures(2, 1, height_ratios=[3, 2], hspace=0.06, squeeze=False)[:, 0]
    draw_days(above.subplots(), result)
    draw_rates(below.subplots(), result)
    figure.savefig(path, dpi=DPI, format="png")
    plt.close(figure)


def draw_days(axes: Axes, result: Result) -> None:
    counts = sorted((date(*day), n) for day, n in result.seen.by_day.items())
    days = [day for day, _ in counts]
    flights = [n for _, n in counts]
    week = [fmean(flights[max(0, i - 3) : i + 4]) for i in range(len(flights))]
    axes.bar(mdates.date2num(days), flights, width=1.0, color=OUT_COLOUR, alpha=0.35, label="a day")
    axes.plot(mdates.date2num(days), week, color=OUT_COLOUR, linewidth=1.8, label="mean of seven days")
    lowest = min(counts, key=lambda count: count[1])
    axes.annotate(
        f"{lowest[0]:%-d %B}: {lowest[1]:,}",
        (float(mdates.date2num(lowest[0])), lowest[1]),
        xytext=(-14, -34),
        textcoords="offset points",
        ha="right",
        color=INK,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "none", "alpha": 0.9},
        arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8},
    )
    axes.set_title(
        f"{result.seen.flights:,} flights scheduled to leave New York, by New York's local day",
        loc="left",
        color=INK,
        weight="bold",
    )
    axes.set_ylabel("flights a day")
    axes.set_xlim(mdates.date2num(days[0]) - 1, mdates.date2num(days[-1]) + 1)
    axes.set_ylim(0, max(flights) * 1.12)
    axes.xaxis.set_major_locator(mdates.MonthLocator())
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%b"))
    axes.legend(loc="lower left", ncols=2, frameon=True, framealpha=0.9, edgecolor="none")
    axes.spines[["top", "right"]].set_visible(False)


def draw_rates(axes: Axes, result: Result) -> None:
    rates = result.rates[::-1]
    colours = [IN_COLOUR if " in " in rate.name else OUT_COLOUR for rate in rates]
    speeds = [rate.records_per_second / 1e6 for rate in rates]
    # Dots, not bars: on a logarithmic axis the length of a bar says nothing.
    axes.hlines(range(len(rates)), 0, speeds, color=GRID, linewidth=1, zorder=1)
    axes.scatter(speeds, range(len(rates)), color=colours, s=90, zorder=2)
    for i, (rate, speed) in enumerate(zip(rates, speeds, strict=True)):
        text = f"   {speed:,.2f} M records/s, {rate.bytes_per_second / 1e6:,.0f} MB/s"
        axes.text(speed, i, text, va="center", color=INK)
    axes.set_yticks(range(len(rates)), [rate.name for rate in rates])
    axes.set_ylim(-0.6, len(rates) - 0.4)
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 2, max(speeds) * 12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{speed:g}"))
    axes.set_xlabel("million records a second, logarithmic")
    axes.set_title("In (red) and out (blue) of the log", loc="left", color=INK, weight="bold")
    axes.spines[["top", "right"]].set_visible(False)
