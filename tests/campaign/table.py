"""The table of what was reached: for the page on durability, and as a list for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .kinds import Kind
from .ledger import Entry

PAGE: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "durability.md"
BEGIN: Final = "<!-- campaigns: written by python -m tests.campaign --table --write -->"
END: Final = "<!-- end of campaigns -->"
HEAD: Final = (
    "test",
    "each CI run",
    "wanted",
    "reached",
    "by the latest version",
    "failures",
    "last run",
    "command",
)


class PageError(Exception):
    """The page has no place for the table."""


def row(kind: Kind, entries: Sequence[Entry]) -> tuple[str, ...]:
    mine = [entry for entry in entries if entry.test == kind.name and (entry.trials or entry.failed)]
    begin = (f"**{kind.name}**: {kind.what}", kind.ci, kind.goal(kind.total(entries)))
    command = f"`make campaign TEST={kind.name}`"
    if not mine:
        return (*begin, "not run", "", "", "", command)
    last = mine[-1]
    here = [entry for entry in mine if entry.digest == last.digest]
    failed, failed_here = sum(e.failed for e in mine), sum(e.failed for e in here)
    failures = f"{failed_here:,}"
    if failed > failed_here:
        failures += f" (earlier versions: {failed - failed_here:,})"
    return (
        *begin,
        kind.progress(entries),
        f"{kind.progress(entries, last.digest)} by {last.version}",
        failures,
        last.date[:10],
        command,
    )


def markdown(kinds: Sequence[Kind], entries: Sequence[Entry]) -> str:
    """The table, and under it the machines that the runs were made on. A function of the ledger alone."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row(kind, entries) for kind in kinds)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    machines = list(dict.fromkeys(entry.machine for entry in entries))
    if machines:
        text += "\nMachines of these runs:\n\n" + "".join(f"- {machine}\n" for machine in machines)
    return text


def summary(kinds: Sequence[Kind], entries: Sequence[Entry], digest: str) -> str:
    """What there is, how far it is, and how far with the sources as they are now."""
    lines = []
    for kind in kinds:
        count, here = kind.progress(entries), kind.progress(entries, digest)
        wanted = kind.goal(kind.total(entries))
        more = "" if kind.missing(entries) else ", reached"
        lines.append(
            f"{kind.name:<13} {kind.what}\n{'':<13} {count} (wanted: {wanted}{more}); {here} "
            "with the sources as they are"
        )
    return "\n".join(lines)


def expected(page: str, table: str) -> str:
    """The page with this table between its marks.

    Raises:
        PageError: the marks are not there once each, in this order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise PageError(f"the page must have these two lines, once each: {BEGIN} and {END}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}"


def write(page: Path, table: str) -> bool:
    """Put the table into the page; whether that has changed it."""
    old = page.read_text(encoding="utf-8")
    new = expected(old, table)
    if new != old:
        page.write_text(new, encoding="utf-8")
    return new != old
