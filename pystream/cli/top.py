"""`pystream top`."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pystream
from pystream.cli import toprates
from pystream.cli.common import (
    EXIT_FAILED,
    TopicType,
    console,
    error_text,
    fail,
    json_option,
    open_store,
    option_value,
    store_argument,
)
from pystream.cli.topicoptions import seconds
from pystream.cli.toprates import ORDERS, Picture
from pystream.options import parse_duration, parse_int

if TYPE_CHECKING:
    from rich.console import Console

    from pystream.stats import StoreStats

INTERVAL_NS_MIN: Final = 100_000_000
INTERVAL_NS_MAX: Final = 3600 * 10**9

_KEY_NAMES: Final = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1bOH": "home",
    b"\x1b[F": "end",
    b"\x1b[4~": "end",
    b"\x1bOF": "end",
    b"k": "up",
    b"j": "down",
    b"\x02": "page up",
    b"\x06": "page down",
}


@click.command()
@store_argument
@click.option(
    "--interval",
    default="1s",
    show_default=True,
    metavar="DURATION",
    callback=option_value(
        lambda text: parse_duration(
            "interval", seconds(text), minimum=INTERVAL_NS_MIN, maximum=INTERVAL_NS_MAX
        )
    ),
    help="From one look to the next, 100ms to 1h; rates are of that time.",
)
@click.option(
    "-t", "--topic", "topics", type=TopicType(), multiple=True, help="Only this topic; may be given again."
)
@click.option("-p", "--partitions", is_flag=True, help="A line for each partition, instead of each topic.")
@click.option(
    "--sort",
    "order",
    type=click.Choice(list(ORDERS)),
    default="name",
    show_default=True,
    help="The most of this first; in and out go by bytes.",
)
@click.option("--once", is_flag=True, help="Look twice, an interval apart, print that, and end.")
@click.option(
    "-n",
    "--count",
    metavar="N",
    callback=option_value(lambda text: parse_int("count", _number(text), minimum=1, maximum=10**9)),
    help="End after so many pictures.",
)
@json_option
def top(
    store: Path,
    interval: int,
    topics: tuple[str, ...],
    partitions: bool,
    order: str,
    once: bool,
    count: int | None,
    as_json: bool,
) -> None:
    """Watch a store: rates in and out, lag of consumer groups, disk, by topic or by partition.

    In a terminal it shows a screen that is drawn anew with each look. Keys: q quits, s sorts by another
    column, t goes from topics to partitions and back, arrows and PgUp and PgDn scroll, the space bar pauses.
    Elsewhere, each picture is printed as text, or with --json as a line of JSON.

    Nothing is written: it runs beside the programs that use the store. What goes out is what consumer groups
    have committed. Age is how long the first record has been waiting that a group has not done.

    \b
    Examples:
      pystream top events.ps
      pystream top events.ps --topic clicks --partitions --sort lag
      pystream top events.ps --once --json
    """
    count = 1 if once else count
    with open_store(store, read_only=True) as opened:
        for name in topics:
            opened.topic(name)  # says that there is none, and what was perhaps meant
        watch = Watch(opened, topics, interval / 1e9, partitions)
        where = console()
        if as_json or count == 1 or not where.is_terminal or where.is_dumb_terminal:
            _print(watch, order, count, where, as_json=as_json)
        else:
            _Screen(watch, order, count, where).run()


def _number(text: object) -> object:
    return int(text) if isinstance(text, str) and text.isdecimal() and text.isascii() else text


class Watch:
    """Looks at a store, and keeps the last one but one to make rates of."""

    def __init__(
        self, store: pystream.Store, topics: tuple[str, ...], seconds: float, by_partition: bool
    ) -> None:
        self._store = store
        self._topics = topics
        self.seconds = seconds
        self.by_partition = by_partition
        self._before: tuple[StoreStats, float] | None = None
        self._now: tuple[StoreStats, float] | None = None

    def look(self) -> None:
        """Raises StorageError."""
        there = [name for name in self._topics if name in self._store] if self._topics else None
        found = self._store.stats(there)
        self._before, self._now = self._now, (found, time.monotonic())

    def picture(self) -> Picture:
        """Of the last two looks."""
        assert self._now is not None
        now, at = self._now
        before, since = self._before if self._before is not None else (None, at)
        return toprates.picture(before, now, at - since, by_partition=self.by_partition)


# ---- for what is no terminal ----------------------------------------------------------------------------


def _print(watch: Watch, order: str, count: int | None, where: Console, *, as_json: bool) -> None:
    from pystream.cli.topview import plain

    watch.look()
    shown = 0
    due = time.monotonic()
    while count is None or shown < count:
        due = max(due + watch.seconds, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))
        watch.look()
        picture = watch.picture()
        if as_json:
            ordered = replace(picture, lines=tuple(toprates.in_order(picture.lines, order)))
            click.echo(json.dumps(ordered.as_dict()))
        else:
            click.echo(("\n" if shown else "") + "\n".join(plain(picture, order, where.width)))
        sys.stdout.flush()
        shown += 1


# ---- the screen -----------------------------------------------------------------------------------------


class _Screen:
    """The live view. Every byte of the terminal's state is given back, however it ends."""

    def __init__(self, watch: Watch, order: str, count: int | None, where: Console) -> None:
        from pystream.cli.topview import View

        self._watch = watch
        self._view = View(order)
        self._where = where
        self._left = count
        self._paused = False
        self._picture: Picture | None = None
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._typed = b""

    def run(self) -> None:
        """Until q, ^C, or as often as was asked for."""
        error: pystream.PystreamError | None = None
        with ExitStack() as stack:
            bell = stack.enter_context(_signals(self._suspend))
            stack.enter_context(self._shown())
            with suppress(KeyboardInterrupt):
                error = self._loop(bell)
        if error is not None:
            fail(EXIT_FAILED, error_text(error))

    def _loop(self, bell: int) -> pystream.PystreamError | None:
        due = 0.0
        while True:
            if time.monotonic() >= due and not self._paused:
                try:
                    self._watch.look()
                except pystream.PystreamError as error:  # the store itself is gone, or cannot be read
                    return error
                self._picture = self._watch.picture()
                due = time.monotonic() + self._watch.seconds
                if self._left is not None:
                    if self._left == 0:
                        return None
                    self._left -= 1
            self._draw()
            for key in self._wait(bell, None if self._paused else due - time.monotonic()):
                if key == "q":
                    return None
                self._press(key)

    def _wait(self, bell: int, seconds: float | None) -> list[str]:
        """The keys that were pressed; none when the time was over, or the terminal has another size."""
        files = [bell] if self._keys is None else [bell, self._keys]
        ready, _, _ = select.select(files, [], [], seconds if seconds is None else max(seconds, 0))
        if bell in ready:
            os.read(bell, 4096)
        if self._keys is None or self._keys not in ready:
            return []
        typed = os.read(self._keys, 4096)
        if not typed:  # the terminal went away
            return ["q"]
        return list(_keys_of(typed))

    def _press(self, key: str) -> None:
        view = self._view
        if key == "s":
            names = list(ORDERS)
            view.order = names[(names.index(view.order) + 1) % len(names)]
            view.top = 0
        elif key == "t":
            self._watch.by_partition = not self._watch.by_partition
            self._picture = self._watch.picture()
            view.top = 0
        elif key == " ":
            self._paused = not self._paused
            view.note = "paused" if self._paused else ""
        else:
            page = view.page
            moves = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -(10**9), "end": 10**9}
            view.scroll(moves.get(key, 0))

    def _draw(self) -> None:
        """In one write, so that nothing flickers."""
        assert self._picture is not None
        width, height = self._where.size
        with self._where.capture() as drawn:
            for number, line in enumerate(self._view.screen(self._picture, width, height)):
                line.truncate(width, pad=True)  # to the end: nothing is left of what stood there
                self._where.print(line, end="" if number + 1 == height else "\n", soft_wrap=True)
        self._write("\x1b[H" + drawn.get().replace("\n", "\r\n"))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """The other screen, without a cursor, keys as they are pressed; and back."""
        before = termios.tcgetattr(self._keys) if self._keys is not None else None
        self._enter()
        try:
            yield
        finally:
            self._leave(before)

    def _enter(self) -> None:
        if self._keys is not None:
            with suppress(termios.error):
                tty.setcbreak(self._keys, termios.TCSANOW)
        self._write("\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J")

    def _leave(self, before: list[Any] | None) -> None:
        with suppress(OSError):  # the terminal may be gone
            self._write("\x1b[?25h\x1b[?1049l")
        if self._keys is not None and before is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, before)

    def _suspend(self) -> None:
        """^Z: give the terminal back, stop, and take it again when told to go on."""
        before = termios.tcgetattr(self._keys) if self._keys is not None else None
        if before is not None:
            before[3] |= termios.ICANON | termios.ECHO
        self._leave(before)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()


# What a key sends: a sequence (CSI or SS3), or a character. An escape by itself is the key of that name.
_KEY: Final = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)


def _keys_of(typed: bytes) -> Iterator[str]:
    """The names of the keys in what was read. Letters are small; what has no name is its bytes as text."""
    for code in _KEY.findall(typed):
        yield _KEY_NAMES.get(code) or code.decode("ascii", "replace").lower()


@contextmanager
def _signals(suspend: Callable[[], None]) -> Iterator[int]:
    """A descriptor that can be read when a signal came: the window has another size, or ^Z is over."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    handlers: dict[signal.Signals, Any] = {
        signal.SIGWINCH: lambda *_: None,
        signal.SIGCONT: lambda *_: None,
        signal.SIGTSTP: lambda *_: suspend(),
        signal.SIGTERM: stop,
        signal.SIGHUP: stop,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
