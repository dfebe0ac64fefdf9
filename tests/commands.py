"""What the tests of the command line share: the command as people run it, in a shell and in a terminal."""

import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

WAIT_S = 60
# Said in full, because readline, which pytest loads, puts COLUMNS where Python does not see it.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}


def finished(command: list[object], **options: object) -> subprocess.CompletedProcess[str]:
    defaults = {"capture_output": True, "text": True, "timeout": WAIT_S, "env": ENVIRONMENT}
    return subprocess.run(list(map(str, command)), **(defaults | options))


def pystream_(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command as people run it."""
    return finished([sys.executable, "-m", "pystream", *arguments], **options)


def altered(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command, after `code` has changed something in it."""
    script = f"{code}\nfrom pystream.__main__ import main\nmain()"
    return finished([sys.executable, "-c", script, *arguments], **options)


def in_shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `$@` is the command."""
    return finished(["bash", "-c", line, "bash", sys.executable, "-m", "pystream", *arguments])


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, command: list[str], columns: int = 80, rows: int = 50, **environment: str) -> None:
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.execvpe(command[0], command, ENVIRONMENT | {"TERM": "xterm-256color"} | environment)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def until(self, text: str) -> str:
        """What it showed since it was last asked, up to where `text` is there."""
        before = len(self.shown)
        end = time.monotonic() + WAIT_S
        while text not in self.shown[before:]:
            assert time.monotonic() < end, f"never showed {text!r}: {self.shown!r}"
            if select.select([self.file], [], [], 1)[0]:
                self.shown += os.read(self.file, 65536).decode()
        return self.shown[before:]

    def end(self, typing: str = "") -> int:
        """Its exit code, after `typing`; `shown` is then all that it showed.

        Python may look for signals just before it begins to wait for a line: ^C is typed again then.
        """
        self.type(typing)
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if not select.select([self.file], [], [], 2)[0]:
                self.type(typing if typing == "\x03" else "")
                continue
            try:
                data = os.read(self.file, 65536)
            except OSError as error:  # how Linux says that the other side is closed
                assert error.errno == errno.EIO
                break
            if not data:
                break
            self.shown += data.decode(errors="replace")
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise AssertionError(f"does not end: {self.shown!r}")
        os.close(self.file)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def in_terminal(*arguments: object, columns: int = 80, **environment: str) -> tuple[int, list[str]]:
    terminal = Terminal([sys.executable, "-m", "pystream", *map(str, arguments)], columns, **environment)
    code = terminal.end()
    return code, terminal.shown.split("\r\n")
