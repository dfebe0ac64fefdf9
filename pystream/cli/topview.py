"""How `pystream top` looks: a screen of text, as wide and as high as there is room."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from rich.text import Text

from pystream.cli.common import bytes_text, time_text
from pystream.cli.toprates import Line, Picture, groups_in_order, in_order

GAP: Final = 2
KEYS: Final = (
    "q quit  s sort  t topics/partitions  ↑↓ PgUp PgDn  space pause",
    "q quit  s sort  t topics/partitions  space pause",
    "q quit  s sort  t topics/partitions",
    "q quit",
)
"""What the last line says, as far as there is room."""
GROUPS_SHARE: Final = 3
"""Of the lines there are for tables, one in so many is for consumer groups, and more where topics are few."""


class Cell(NamedTuple):
    """A column: its title, what it shows of a line, and how soon it is left out where there is no room."""

    title: str
    show: Callable[[Any], str]
    rank: int = 0
    is_name: bool = False
    style: Callable[[Any], str] | None = None


def count_text(number: float) -> str:
    """A number for people, in five characters: 0, 12, 1,234, 12.3k, 4.5M."""
    if abs(number) < 9_999.5:
        return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
    for unit in ("k", "M", "G"):
        number /= 1000
        if abs(number) < 999.95:  # would be rounded to 1000.0
            return f"{number:.1f}{unit}"
    number /= 1000
    return f"{number:,.1f}T"


def rate_text(number: float) -> str:
    """The same of a rate: blank where nothing moves."""
    return count_text(number) if number else "-"


def bytes_rate_text(size: float) -> str:
    return bytes_text(size) if size else "-"


def age_text(nanoseconds: int | None) -> str:
    """How long, for people: 20ms, 1.5s, 3m20s, 2h05m, 3d04h."""
    if nanoseconds is None:
        return "?"
    return seconds_text(nanoseconds / 1e9)


def seconds_text(seconds: float) -> str:
    if seconds <= 0:
        return "0"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f}ms"
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def _lag(line: Line) -> str:
    return "-" if line.lag_records is None else count_text(line.lag_records)


def _state(line: Line) -> str:
    if line.error is not None:
        return "error"
    return "poisoned" if line.poisoned else ""


def _ratio(line: Line) -> str:
    return f"{line.raw_bytes / line.stored_bytes:.1f}x" if line.stored_bytes else "-"


_WARN: Final = "yellow"
_BAD: Final = "bold red"

LINE_CELLS: Final = (
    Cell("Topic", lambda line: line.topic, is_name=True),
    Cell("P", lambda line: "" if line.partition is None else str(line.partition), rank=1),
    Cell("In/s", lambda line: rate_text(line.in_records)),
    Cell("In B/s", lambda line: bytes_rate_text(line.in_bytes), rank=3),
    Cell("Out/s", lambda line: rate_text(line.out_records), rank=2),
    Cell("Out B/s", lambda line: bytes_rate_text(line.out_bytes), rank=9),
    Cell("Lag", _lag, style=lambda line: _WARN if line.lag_records else ""),
    Cell(
        "Age",
        lambda line: "-" if line.lag_records is None else age_text(line.lag_ns),
        rank=5,
        style=lambda line: _WARN if line.lag_ns else "",
    ),
    Cell("Records", lambda line: count_text(line.records), rank=6),
    Cell("Disk", lambda line: bytes_text(line.disk_bytes), rank=2),
    Cell(
        "To free",
        lambda line: bytes_text(line.reclaimable_bytes) if line.reclaimable_bytes else "-",
        rank=10,
    ),
    Cell("Packed", _ratio, rank=11),
    Cell("Segments", lambda line: f"{line.segments:,}", rank=8),
    Cell("Unsynced", lambda line: rate_text(line.unsynced_records), rank=7),
    Cell("Waiting", lambda line: str(line.waited_for) if line.waited_for else "-", rank=12),
    Cell("State", _state, rank=1, is_name=True, style=lambda line: _BAD),
)

GROUP_CELLS: Final = (
    Cell("Group", lambda group: group.group, is_name=True),
    Cell("Topic", lambda group: group.topic, is_name=True),
    Cell("P", lambda group: "" if group.partition is None else str(group.partition), rank=1),
    Cell("Members", lambda group: f"{group.members:,}", rank=4),
    Cell("Out/s", lambda group: rate_text(group.records_per_second), rank=2),
    Cell(
        "Lag",
        lambda group: count_text(group.lag_records),
        style=lambda group: _WARN if group.lag_records else "",
    ),
    Cell("Age", lambda group: age_text(group.lag_ns), rank=3),
    Cell(
        "Caught up in",
        lambda group: "never" if group.caught_up_seconds is None else seconds_text(group.caught_up_seconds),
        rank=5,
    ),
)

NAME_MAX: Final = 40
NAME_ENOUGH: Final = 20
"""What names are left of their length before columns are left out."""


def table(
    cells: Sequence[Cell], rows: Sequence[Any], width: int, every: Sequence[Any] | None = None
) -> list[Text]:
    """A table of a title and a line for each row, no wider than `width`: names that are too long are cut in
    the middle, and columns that have no room are left out. `every`: all rows, where these are a part."""
    texts = [[cell.show(row) for cell in cells] for row in rows]
    used = [i for i, cell in enumerate(cells) if cell.rank == 0 or any(row[i] for row in texts)]
    wanted = {i: max([len(cells[i].title), *(len(row[i]) for row in texts)]) for i in used}
    for i in used:
        if cells[i].is_name:  # the same when it is scrolled
            wanted[i] = min(max([wanted[i], *(len(cells[i].show(row)) for row in every or ())]), NAME_MAX)
    widths = {i: min(wanted[i], NAME_ENOUGH) if cells[i].is_name else wanted[i] for i in used}
    kept: list[int] = []
    for i in sorted(used, key=lambda i: cells[i].rank):
        if cells[i].rank == 0 or sum(widths[k] + GAP for k in kept) + widths[i] <= width:
            kept.append(i)
    kept.sort()
    spare = width - sum(widths[i] + GAP for i in kept) + GAP
    for i in kept:
        if cells[i].is_name:
            grown = min(max(widths[i] + spare, len(cells[i].title)), wanted[i])
            spare -= grown - widths[i]
            widths[i] = grown
    shown = [_line([(cells[i].title, widths[i], cells[i], "bold") for i in kept])]
    for row, line in zip(rows, texts, strict=True):
        styled = []
        for i in kept:
            style = cells[i].style
            styled.append((line[i], widths[i], cells[i], style(row) if style is not None else ""))
        shown.append(_line(styled))
    return shown


def _line(parts: Sequence[tuple[str, int, Cell, str]]) -> Text:
    line = Text(no_wrap=True, end="")
    for number, (text, width, cell, style) in enumerate(parts):
        text = _fitted(text, width)
        line.append(" " * GAP if number else "")
        line.append(text.ljust(width) if cell.is_name else text.rjust(width), style=style)
    return line


def _fitted(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return text[:left] + "…" + text[len(text) - (width - 1 - left) :]


def head(picture: Picture, width: int) -> list[Text]:
    """What the whole store does, in two lines."""
    first = Text(no_wrap=True, end="")
    clock = time_text(picture.taken_ns)[11:19] + "Z"
    name = _fitted(os.path.basename(picture.path) or picture.path, max(width - 40, NAME_ENOUGH))
    first.append(f"pystream top  {name}", style="bold")
    first.append(f"  {clock}")
    first.append(f"  {_several(picture.topics, 'topic')}, {_several(picture.partitions, 'partition')}")
    facts = (
        f"in {count_text(picture.in_records)}/s {bytes_text(picture.in_bytes)}/s",
        f"out {count_text(picture.out_records)}/s {bytes_text(picture.out_bytes)}/s",
        f"disk {bytes_text(picture.disk_bytes)}, {bytes_text(picture.free_bytes)} free",
        f"{count_text(picture.records)} records",
    )
    text = facts[0]
    for fact in facts[1:]:
        if len(text) + GAP + len(fact) <= width:
            text += " " * GAP + fact
    second = Text(text, no_wrap=True, end="")
    return [first, second]


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


class View:
    """What of a picture is looked at: the order, and how far it was scrolled."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.top = 0
        self.page = 1
        self.note = ""

    def scroll(self, lines: int) -> None:
        """By so many lines; `screen` sees to it that something is left to be seen."""
        self.top = max(self.top + lines, 0)

    def screen(self, picture: Picture, width: int, height: int) -> list[Text]:
        """Exactly `height` lines, or fewer."""
        top = head(picture, width)
        problems = [_problem(text) for text in picture.errors[:2]]
        room = max(height - len(top) - len(problems) - 1, 1)
        lines, groups = in_order(picture.lines, self.order), groups_in_order(picture.groups)
        for_groups = 0
        if groups and room >= 8:
            for_groups = max(room // GROUPS_SHARE, room - len(lines) - 2)
            for_groups = min(for_groups, len(groups) + 2)
        self.page = max(room - for_groups - 2, 1)
        self.top = min(self.top, max(len(lines) - self.page, 0))
        seen = lines[self.top : self.top + self.page]
        shown = [*top, Text(end=""), *table(LINE_CELLS, seen, width, lines)]
        if not lines:
            shown.append(Text("no topics yet", style="dim", end=""))
        if for_groups:
            shown += [Text(end=""), *table(GROUP_CELLS, groups[: for_groups - 2], width, groups)]
        shown += [Text(end="")] * (height - len(shown) - len(problems) - 1)
        shown = shown[: max(height - len(problems) - 1, 0)]
        return [*shown, *problems, self._foot(len(lines), width)][-height:]

    def _foot(self, count: int, width: int) -> Text:
        last = min(self.top + self.page, count)
        where = f"{self.top + 1}-{last} of {count}, " if count > self.page else ""
        left = f"{where}by {self.order}{', ' + self.note if self.note else ''}"
        keys = next((text for text in KEYS if len(left) + GAP + len(text) <= width), "")
        text = left + " " * max(width - len(left) - len(keys), 0) + keys
        return Text(_fitted(text, width).ljust(width), style="reverse", no_wrap=True, end="")


def _problem(text: str) -> Text:
    return Text(text, style=_BAD, no_wrap=True, overflow="ellipsis", end="")


def plain(picture: Picture, order: str, width: int) -> list[str]:
    """The same as lines of text without an end: for what is no terminal."""
    lines, groups = in_order(picture.lines, order), groups_in_order(picture.groups)
    shown = [*head(picture, width), *table(LINE_CELLS, lines, width)]
    if groups:
        shown += [Text(), *table(GROUP_CELLS, groups, width)]
    shown += [Text(error) for error in picture.errors]
    return [line.plain.rstrip() for line in shown]
