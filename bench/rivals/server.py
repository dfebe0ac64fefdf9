"""Starts a rival's own process and always ends it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import crew
from rivals.base import BUILD, Contestant, Failed

READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30


def find_program(name: str) -> Path | None:
    """A server of the system's, or the one that tools/rivals.sh has unpacked."""
    there = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if there:
        return Path(there)
    for folder in ("usr/bin", "usr/sbin"):
        path = BUILD / "root" / folder / name
        if path.exists():
            return path
    return None


def absent(name: str) -> str | None:
    """One line when there is no such program."""
    return None if find_program(name) else f"{name} is not installed"


def program_version(name: str) -> str:
    path = find_program(name)
    if path is None:
        return "absent"
    told = subprocess.run([str(path), "--version"], capture_output=True, text=True, env=surroundings())
    return told.stdout.strip().splitlines()[0] if told.stdout.strip() else "unknown"


def surroundings() -> dict[str, str]:
    """The environment, in which unpacked servers find their libraries."""
    libraries = ":".join(str(path) for path in sorted((BUILD / "root/usr/lib").glob("*-linux-gnu*")))
    there = os.environ.get("LD_LIBRARY_PATH", "")
    return os.environ | ({"LD_LIBRARY_PATH": f"{there}:{libraries}".strip(":")} if libraries else {})


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens at; all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def java() -> str | None:
    """The path of a Java of 17 or newer."""
    path = shutil.which("java")
    if path is None:
        return None
    told = subprocess.run([path, "-version"], capture_output=True, text=True).stderr
    digits = told.partition('version "')[2].partition(".")[0].partition('"')[0]
    return path if digits.isdigit() and int(digits) >= 17 else None


class Server:
    """A process with its output in a file of its directory."""

    def __init__(self, command: Sequence[str], directory: Path, **more: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = Path(command[0]).name
        self.log = directory / "server.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=directory,
                stdout=more.pop("stdout", log),
                stderr=log,
                stdin=more.pop("stdin", subprocess.DEVNULL),
                env=surroundings(),
                start_new_session=True,  # Ctrl-C is for the benchmark, which stops its servers itself
                preexec_fn=crew.die_with_parent,
                **more,
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Raises Failed with the last words of the process when it ends or takes too long."""
        until = time.monotonic() + READY_SECONDS_MAX
        while True:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with {self.process.returncode}: {self.words()}")
            try:
                if ready():
                    return
            except Exception as error:  # not there yet, in the words of the client at hand
                if time.monotonic() > until:
                    self.stop()
                    raise Failed(f"{self.name} is not ready: {error!r}; {self.words()}") from error
            if time.monotonic() > until:
                self.stop()
                raise Failed(f"{self.name} is not ready after {READY_SECONDS_MAX} s: {self.words()}")
            time.sleep(0.02)

    def words(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def stop(self) -> None:
        """Ask it to end; insist."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Served(Contestant):
    """A rival behind a server of its own, which `prepare` starts as `_server`."""

    server = True

    _server: Server | None = None

    def kill(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._server = None

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
