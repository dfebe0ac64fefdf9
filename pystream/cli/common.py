"""What the commands share: exit codes, arguments, places in a log, output."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

import pystream
from pystream import metadata
from pystream.options import parse_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # takes no type before Click 8.5

EXIT_DONE = 0
EXIT_DIFFERS = 1
EXIT_USAGE = 2
EXIT_FAILED = 3
EXIT_FAULT = 70
EXIT_INTERRUPTED = 130

F = TypeVar("F", bound=Callable[..., Any])


def fail(code: int, message: str) -> NoReturn:
    """Say what is wrong on stderr, and end with `code`."""
    warn(message)
    sys.exit(code)


def warn(message: str) -> None:
    """Say something on stderr that does not end the command; nor does a stderr that fails."""
    with suppress(OSError):
        click.echo(f"pystream: {message}", err=True)


def say(message: str) -> None:
    """Report on stderr what was done."""
    with suppress(OSError):
        click.echo(message, err=True)


# What the library says to who writes Python, as it is said here.
_IN_OTHER_WORDS = (
    ("does not exist (create=False)", "does not exist; `pystream topics create` makes a store"),
    (" (create=False)", ""),
    ("; create=True makes it", "; `pystream topics create` makes it"),
    ("; a store open to read makes none", "; `pystream topics create` makes it"),
    ("; add_partitions() adds some", "; `pystream topics add-partitions` adds some"),
    ("altered by add_partitions(), which adds some", "altered by `pystream topics add-partitions`"),
    ("; alter_topic() changes that", "; `pystream topics alter` changes that"),
    ("; give {partition: offset}", "; choose one with --partition"),
    (
        'give key=, or alter the topic to cleanup="delete"',
        "give keys, or `pystream topics alter --cleanup delete`",
    ),
    ("; give the copy another name, or append=True", "; give a NEW_NAME, or --append"),
    ("; mode='r' opens a store that is only to be read", ""),
    ("; use a local file system, or force=True to do without the guarantees", "; use a local file system"),
)


def error_text(error: BaseException) -> str:
    """What an error says, without the form that Python gives to an `OSError`."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename not in (None, "") else ""
        advice = error.advice if isinstance(error, pystream.StorageError) else None
        text = f"{where}{error.strerror}" + (f"; {advice}" if advice else "")
    else:
        text = str(error)
    for said, meant in _IN_OTHER_WORDS:
        text = text.replace(said, meant)
    return text


def need(extra: str, *modules: str) -> None:
    """End with a clear word unless `modules`, which the extra `extra` brings, can be imported."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        fail(EXIT_USAGE, f"this needs {names}. Install the extra: pip install 'pystream-log[{extra}]'")


# ---- arguments and options ----------------------------------------------------------------------------


class SuggestingGroup(click.Group):
    """A group of commands that knows what was meant by a mistyped one."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Words that are commands of another group, and what to type for them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            from difflib import get_close_matches  # only on the way to an error

            commands = self.list_commands(ctx)
            near = get_close_matches(name, commands, n=1)
            if name in self.elsewhere:
                hint = f"did you mean {self.elsewhere[name]!r}?"
            elif near:
                hint = f"did you mean {near[0]!r}?"
            elif Path(name).is_dir():
                first = "describe" if "describe" in commands else commands[0]
                hint = f"the command comes before the store: {ctx.command_path} {first} {name}"
            else:
                hint = f"there are {', '.join(commands)}"
            ctx.fail(f"no such command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


class DirectoryType(click.Path):
    """A directory. Whether it is there is not asked."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":  # a variable that is not set, and for `Path` the current directory
            self.fail("is empty; '.' is the current directory", param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


class StoreType(DirectoryType):
    """The directory of a store. Whether one is there is for `open_store` to say."""


class NameType(ParamType):
    """A name in the store named before it, completed without opening that. `list_names` gives them all."""

    def __init__(self, name: str, list_names: Callable[[str], list[str]]) -> None:
        self.name = name
        self._list_names = list_names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        store = ctx.params.get("store")
        if store is None:
            return []
        try:
            names = self._list_names(os.path.expanduser(store))
        except pystream.PystreamError:
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class TopicType(NameType):
    """The name of a topic."""

    def __init__(self) -> None:
        super().__init__("topic", metadata.list_topics)


store_argument = click.argument("store", type=StoreType())
topic_argument = click.argument("topic", type=TopicType())
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")


def open_store(path: Path, *, create: bool = False, read_only: bool = False) -> pystream.Store:
    """The store at `path`; unless `create`, it must be there. Of one opened to read nothing is written."""
    return pystream.open(path, "r" if read_only else "rw", create=create)


def option_value(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback for a Click option: its value by one of `pystream.options`, which may be None.

    What the library refuses is a wrong usage of the option, in the library's words.
    """

    def convert(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        try:
            return parse(value)
        except pystream.OptionError as error:
            # The library names the option and the value first; Click has named it already.
            _, colon, reason = str(error).partition(": ")
            raise click.BadParameter(f"{value!r}: {reason if colon else error}", ctx, param) from None

    return convert


def parse_dtype_text(text: str) -> Any:
    """A NumPy dtype from text: fields as `ts:i8,px:f8`, or what NumPy itself understands, such as `f8`.

    Raises:
        OptionError: which field is not understood.
    """
    from pystream.options import parse_dtype

    if ":" not in text:
        return parse_dtype(text)
    fields = []
    for part in text.split(","):
        name, _, kind = (piece.strip() for piece in part.partition(":"))
        if not name or not kind:
            raise pystream.OptionError(f"dtype: field {part!r} is not NAME:TYPE, as in ts:i8,px:f8")
        try:
            parse_dtype([(name, kind)])
        except pystream.OptionError:
            raise pystream.OptionError(
                f"dtype: field {name!r}: {kind!r} is no NumPy type; write i8, f8, S16, M8[ns] and the like"
            ) from None
        fields.append((name, kind))
    return parse_dtype(fields)


class PlaceType(ParamType):
    """A place in a log: earliest, latest, an offset, a moment, or a time ago.

    Converted to what the library takes: the word, an int, or an aware `datetime`. Moments are ISO 8601,
    in UTC unless they say otherwise; a duration such as 15m or 2h is that long ago.
    """

    name = "place"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "earliest|latest|OFFSET|TIME"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(word) for word in ("earliest", "latest") if word.startswith(incomplete)]

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | datetime:
        if not isinstance(value, str):
            assert isinstance(value, (int, datetime))
            return value
        text = value.strip()
        if text in ("earliest", "latest"):
            return text
        if re.fullmatch(r"[0-9]+", text):
            return int(text)
        moment = _parse_moment(text)
        if moment is None:
            self.fail(f"{value!r}: give earliest, latest, an offset, {_MOMENT_WORDS}", param, ctx)
        return moment


class MomentType(ParamType):
    """A moment as `PlaceType` takes it: ISO 8601, or a time ago."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        moment = _parse_moment(str(value).strip())
        if moment is None:
            self.fail(f"{value!r}: give {_MOMENT_WORDS}", param, ctx)
        return moment


_MOMENT_WORDS: Final = "a moment such as 2026-01-31T12:00:00Z, or how long ago, such as 15m, 2h or 7d"


def _parse_moment(text: str) -> datetime | None:
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    with suppress(pystream.OptionError):
        return datetime.now(UTC) - timedelta(
            microseconds=parse_duration("ago", text.removeprefix("-")) // 1000
        )
    return None


PLACE = PlaceType()
MOMENT = MomentType()


# ---- output -------------------------------------------------------------------------------------------


WIDTH_UNLIMITED = 10_000
"""Columns of an output that is no terminal: nothing is folded or cut for who reads it there."""


def console(*, stderr: bool = False) -> Console:
    """Where tables go. Plain text when it is no terminal, a dumb one, or NO_COLOR is set.

    As wide as the terminal, or as COLUMNS says; as wide as need be where there is neither.
    """
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        found.width = WIDTH_UNLIMITED
    return found


class Column(NamedTuple):
    """A column of a table: its title, whether its cells are numbers, and how soon it may be left out."""

    title: str
    number: bool = False
    rank: int = 0
    """0: always shown. The others are, in the order of their ranks, as far as there is room."""


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout, without frames, so that it reads well everywhere.

    In a terminal too narrow for it, columns are left out, which the last line says.
    """
    from rich.table import Table
    from rich.text import Text

    where, cells = console(), list(rows)
    widths = [
        max(len(column.title), *(len(row[i]) for row in cells)) if cells else len(column.title)
        for i, column in enumerate(columns)
    ]
    kept: list[int] = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i].rank):
        if columns[i].rank == 0 or sum(widths[k] + _GAP for k in kept) + widths[i] <= where.width:
            kept.append(i)
    kept.sort()
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for i in kept:
        # Names may be folded; a number in two pieces would be read as another.
        table.add_column(
            columns[i].title,
            justify="right" if columns[i].number else "left",
            overflow="fold",
            no_wrap=columns[i].number or columns[i].rank > 0,
        )
    for row in cells:
        table.add_row(*(Text(row[i]) for i in kept))
    with where.capture() as text:
        where.print(table)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()), color=True)
    left_out = [
        column.title[0].lower() + column.title[1:] for i, column in enumerate(columns) if i not in kept
    ]
    if left_out:
        where.print(f"(no room for {', '.join(left_out)})", markup=False)


_GAP: Final = 2  # columns of blank between two of a table


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, a line each."""
    lines = list(facts)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name:{width}}  {value}")


def show_json(value: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, default=str))


@contextmanager
def progress_bar(*columns: Any) -> Iterator[Progress]:
    """A Rich progress bar on stderr while that is a terminal that can move its cursor; else nothing."""
    from rich.progress import Progress

    where = console(stderr=True)
    drawn = where.is_terminal and not where.is_dumb_terminal
    with Progress(*columns, console=where, transient=True, disable=not drawn) as bar:
        yield bar


def bytes_text(size: float) -> str:
    """A size for people: 999 B, 1.5 KiB, 128.0 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1023.95:  # would be rounded to 1024.0
            return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def time_text(nanoseconds: int | None) -> str:
    """A timestamp for people: ISO 8601 in UTC, with as many digits as it has; "" for none."""
    if nanoseconds is None:
        return ""
    seconds, rest = divmod(nanoseconds, 10**9)
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{rest:09}" if rest % 1000 else f"{rest // 1000:06}" if rest % 10**6 else f"{rest // 10**6:03}"
    return f"{text}.{digits}Z" if rest else f"{text}Z"
