"""Processes of the trials: forked from one that has nothing open, they say what they have done through a
pipe, as they do it; and servants that fork them.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HANG_S: Final = 30
"""A process that takes longer hangs."""

Say = Callable[[str, Any], None]


def said_of(said: list[tuple[str, Any]], word: str) -> list[Any]:
    return [what for word_, what in said if word_ == word]


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it had said."""

    status: int
    """As os.waitpid has it."""
    said: list[tuple[str, Any]]

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    @property
    def failure(self) -> str | None:
        """What went wrong with it, unless it ended well or was killed."""
        for text in said_of(self.said, "failure"):
            return str(text)
        if self.status == 0 or self.killed:
            return None
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return "it hangs" if number == signal.SIGALRM else f"it died of {signal.Signals(number).name}"
        return f"it ended with {os.waitstatus_to_exitcode(self.status)}"


def in_a_process(function: Callable[[Say], None], seconds: int = HANG_S) -> Ended:
    """Run `function` in a forked process, which is to end well, and in time."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _live(function, writing, seconds)
    os.close(writing)
    with open(reading, "rb") as file:
        said = list(_messages(file))
    _, status = os.waitpid(child, 0)
    return Ended(status, said)


def _live(function: Callable[[Say], None], channel: int, seconds: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)

    def say(word: str, what: Any) -> None:
        data = pickle.dumps((word, what))
        os.write(channel, len(data).to_bytes(4, "little") + data)

    try:
        function(say)
    except BaseException as error:
        lines = "".join(traceback.format_exception(error))
        say("failure", f"{type(error).__name__}: {error}\n{lines[-4000:]}")
        os._exit(1)
    os._exit(0)


def _messages(file: Any) -> Iterator[tuple[str, Any]]:
    while len(head := file.read(4)) == 4:
        data = file.read(int.from_bytes(head, "little"))
        if len(data) < int.from_bytes(head, "little"):
            return
        yield pickle.loads(data)


Job = Callable[[Any], Any]


@contextmanager
def pool(
    workers: int, environment: dict[str, str] | None = None
) -> Iterator[Callable[[Job, list[Any]], list[Any]]]:
    """Processes that have everything imported, and nothing open: they fork.

    Yields:
        f(function, arguments) -> what `function`, of a module, answers to each; one for each worker at most.
    """
    wanted = dict(os.environ if environment is None else environment)
    tests = str(Path(__file__).resolve().parent.parent)
    wanted["PYTHONPATH"] = os.pathsep.join(filter(None, (tests, *sys.path)))
    command = [sys.executable, "-c", "from faults import processes; processes.serve()"]
    servants = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=wanted)
        for _ in range(workers)
    ]

    def play(function: Job, arguments: list[Any]) -> list[Any]:
        used = servants[: len(arguments)]
        assert len(used) == len(arguments)
        for servant, argument in zip(used, arguments, strict=True):
            assert servant.stdin is not None
            pickle.dump((function, argument), servant.stdin)
            servant.stdin.flush()
        answers = []
        for servant in used:
            assert servant.stdout is not None
            done, answer = pickle.load(servant.stdout)
            if not done:
                raise RuntimeError(answer)
            answers.append(answer)
        return answers

    try:
        yield play
    finally:
        for servant in servants:
            assert servant.stdin is not None and servant.stdout is not None
            with suppress(OSError):
                servant.stdin.close()
            try:
                servant.wait(timeout=2 * HANG_S)
            except subprocess.TimeoutExpired:
                servant.kill()
                servant.wait()
            servant.stdout.close()


def serve() -> None:
    """What the processes of `pool` do."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no answer
    while True:
        try:
            function, argument = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, function(argument)
        except Exception:
            answer = False, traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()
