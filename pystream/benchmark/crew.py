"""The workers of a run, seen from the parent: started together, listened to, ended whatever happens."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic, monotonic_ns
from types import TracebackType
from typing import Any, Final, Self

from pystream.benchmark import BenchmarkError
from pystream.benchmark.plan import Plan

READY_SECONDS_MAX: Final = 120
SILENCE_SECONDS_MAX: Final = 120
BEGIN_IN_NS: Final = 30_000_000
"""From "go" to the beginning, so that all have heard it."""
END_SECONDS_MAX: Final = 5
ERROR_CHARS_MAX: Final = 2000

# The child finds the package where the parent found it, whatever the current directory holds.
_START: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pystream.benchmark.worker import main
main()
"""

Progress = Callable[[int, int], None]
"""Called with records and bytes so far, of all workers."""


class Member:
    """One worker."""

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self.done: dict[str, Any] | None = None
        self.progress = (0, 0)
        self.errors = Path(plan.scratch) / f"errors-{name.replace(' ', '-')}"
        self._read = b""
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps([path or os.getcwd() for path in sys.path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                process_group=0,  # the terminal's ^C is for the parent
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.tell(json.dumps(plan.as_dict()))

    def tell(self, line: str) -> None:
        """Say a line to it; that it cannot hear any more shows when it is listened to."""
        try:
            self.input.write(line.encode() + b"\n")
        except BrokenPipeError:
            return

    def hear(self) -> list[dict[str, Any]]:
        """What it said since.

        Raises:
            BenchmarkError: it has failed, or died.
        """
        data = os.read(self.output.fileno(), 1 << 20)
        if not data and self.done is None:
            raise BenchmarkError(self._death())
        self._read += data
        *lines, self._read = self._read.split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            if error := message.get("error"):
                raise BenchmarkError(f"{self.name} failed: {error}")
            self.progress = tuple(message.get("progress", self.progress))
            self.done = message.get("done", self.done)
        return messages

    def _death(self) -> str:
        code = self.process.wait(END_SECONDS_MAX)
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += " (by somebody, or because memory ran out)"
        else:
            how = f"ended with exit code {code}"
        said = self.errors.read_text(errors="replace").strip()[-ERROR_CHARS_MAX:]
        return f"{self.name} (process {self.process.pid}) {how}" + (f":\n{said}" if said else "")


class Crew:
    """Workers that begin together. A context manager: leaving it ends them.

    Raises:
        BenchmarkError: a worker failed, died, or fell silent.
    """

    def __init__(self, plans: Iterable[tuple[str, Plan]]) -> None:
        self.members: list[Member] = []
        self._plans = list(plans)
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        try:
            for name, plan in self._plans:
                member = Member(name, plan)
                self.members.append(member)
                self._selector.register(member.output, selectors.EVENT_READ, member)
            ready = 0
            end = monotonic() + READY_SECONDS_MAX
            while ready < len(self.members):
                ready += sum("ready" in message for _, message in self._listen(end - monotonic()))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def go(self) -> int:
        """Let all begin at one moment; that moment, on the machine's clock."""
        begin = monotonic_ns() + BEGIN_IN_NS
        for member in self.members:
            member.tell(f"go {begin}")
        return begin

    def wait(self, progress: Progress, on_done: Callable[[Member], None] | None = None) -> None:
        """Listen until all are done.

        Args:
            on_done: called when one of them is.
        """
        left = len(self.members)
        while left:
            for member, message in self._listen(SILENCE_SECONDS_MAX):
                if "done" in message:
                    left -= 1
                    self._selector.unregister(member.output)
                    if on_done is not None:
                        on_done(member)
            progress(*(sum(each) for each in zip(*(member.progress for member in self.members), strict=True)))

    def _listen(self, seconds: float) -> list[tuple[Member, dict[str, Any]]]:
        heard = self._selector.select(max(seconds, 0))
        if not heard:
            raise BenchmarkError(
                f"no worker said anything for {seconds:.0f} s: is the machine, or its disk, overloaded?"
            )
        return [(key.data, message) for key, _ in heard for message in key.data.hear()]

    def _end(self) -> None:
        for member in self.members:
            if member.done is None:
                member.process.kill()  # nothing of what it has done is kept
        for member in self.members:
            member.process.wait()
            member.input.close()
            member.output.close()
        self._selector.close()
