"""Pipe lines into a topic, and tail it from other processes.

    journalctl -f | python examples/pipe_tail.py write logs.ps      # in one terminal
    python examples/pipe_tail.py tail logs.ps --match error         # in another, or in several

Each line is a record; the host and the process that wrote it are in its headers. A tail begins with the last
lines and goes on until it is interrupted (or until `--idle` seconds passed without a line). Writers and tails
come and go as they like: the store is a directory, and nobody serves it.

`pystream produce` and `pystream consume --follow` do this without a program, and faster; here is how.
"""

import argparse
import os
import socket
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

import pystream

TOPIC = "lines"


def write(store: pystream.Store, lines: Iterable[bytes]) -> int:
    """Send lines, without their newlines, as they come. Returns how many."""
    headers = {"host": socket.gethostname().encode(), "pid": b"%d" % os.getpid()}
    count = 0
    with store.topic(TOPIC, create=True, compression="lz4").producer() as producer:
        for line in lines:
            producer.send(line.rstrip(b"\n"), headers=headers)
            count += 1
    return count


def shown(record: pystream.Record) -> str:
    """A record as a line of text."""
    when = datetime.fromtimestamp((record.timestamp or 0) / 1e9, UTC)
    pid = dict(record.headers).get("pid") or b"?"
    text = (record.value or b"").decode(errors="replace")
    return f"{when:%H:%M:%S.%f} [{pid.decode()}] {text}"


def tail(store: pystream.Store, last: int, match: str, idle: float | None) -> None:
    """Print the last lines, then new ones as they come."""
    partition = store.topic(TOPIC, create=True, compression="lz4").partition(0)
    begin = max(partition.beginning_offset, partition.end_offset - last)
    with store.consumer(TOPIC, start={(TOPIC, 0): begin}, timeout=idle) as consumer:
        for record in consumer:
            line = shown(record)
            if match.lower() in line.lower():
                print(line, flush=True)


def main() -> None:
    """Read the arguments and do one of the two."""
    parser = argparse.ArgumentParser(description="Pipe lines into a topic, and tail it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("write", "tail"):
        command = commands.add_parser(name)
        command.add_argument("store", help="the store's directory")
    command.add_argument("-n", "--last", type=int, default=10, help="lines to begin with")
    command.add_argument("--match", default="", help="show only lines that contain this")
    command.add_argument("--idle", type=float, help="end after this many seconds without a line")
    given = parser.parse_args()
    with pystream.open(given.store) as store:
        if given.command == "write":
            count = write(store, sys.stdin.buffer)
            print(f"{count} lines", file=sys.stderr)
        else:
            tail(store, given.last, given.match, given.idle)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
