"""What `ingest` and `export` have in common: options as they are typed, and a bar of rows."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from pystream.cli.common import progress_bar

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID


class Typed:
    """Turns options that a message of the library names into a command's: value='hex' is --value hex.

    Args:
        options: the library's options, in the order in which they are looked for.
        others: those that the command calls otherwise.
    """

    def __init__(self, options: Iterable[str], others: Mapping[str, str]) -> None:
        self._others = others
        names = "|".join(sorted(options, key=len, reverse=True))
        self._pattern = re.compile(rf"""(?<![\w/.-])({names})=(?:"([^"]*)"|'([^']*)'|True\b)?""")

    def __call__(self, message: str) -> str:
        def typed(match: re.Match[str]) -> str:
            name = self._others.get(match[1], match[1].replace("_", "-"))
            given = match[2] if match[2] is not None else match[3]
            follows = message[match.end() : match.end() + 1]
            return f"--{name}" + (f" {given}" if given else " " if follows.isalnum() else "")

        return self._pattern.sub(typed, message)


class Bar:
    """Rows, their rate and the time left, on standard error while that is a terminal.

    Args:
        quiet: show nothing.
        columns: makes what else is shown before the rows.
    """

    def __init__(self, quiet: bool, columns: Callable[[], Iterable[ProgressColumn]]) -> None:
        self._is_shown = not quiet and sys.stderr.isatty()
        self._columns = columns
        self._stack = ExitStack()
        self._task: TaskID | None = None
        self._name = ""

    def __enter__(self) -> Self:
        if self._is_shown:
            from rich.progress import TextColumn, TimeRemainingColumn

            self._bar = self._stack.enter_context(
                progress_bar(
                    *self._columns(),
                    TextColumn("{task.fields[rows]:,} rows"),
                    TextColumn("{task.fields[rate]}"),
                    TimeRemainingColumn(),
                )
            )
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def show(self, name: str, done: float, total: float | None, rows: int) -> None:
        """Show how far the step `name` is; another name begins another step."""
        if not self._is_shown:
            return
        if self._task is None or name != self._name:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._name = name
            self._task = self._bar.add_task(name, total=total, rows=0, rate="")
        seconds = self._bar.tasks[-1].elapsed or 0
        rate = f"{rows / seconds:,.0f} rows/s" if seconds > 0 else ""
        self._bar.update(self._task, completed=done, rows=rows, rate=rate)
