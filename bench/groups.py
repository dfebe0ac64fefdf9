"""Consumer groups: how long a hand-over takes, and what a group costs: python bench/groups.py

A member of a group is killed (SIGKILL) while it reads; its heir notes when it reads the first record of the
dead one's partition, and which. Then the heir is the next to be killed, and another process the next heir.
Beside it, in turn, the floor: a process that sleeps on a pidfd, hears of a kill, and looks at a lock once.

Then records are read one by one without a group and in one, in turn. Prints Markdown tables and writes them,
with every figure, to bench/results/groups.md and .json.

Environment: PYSTREAM_BENCH_GROUPS_KILLS (50), PYSTREAM_BENCH_GROUPS_RECORDS (2,000,000),
PYSTREAM_BENCH_GROUPS_ROUNDS (7), PYSTREAM_BENCH_DIR (build/).
"""

import fcntl
import json
import mmap
import os
import random
import select
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import data
import machine
import pystream

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
TARGET_S = 0.1
PACE_S = 200e-6
BATCH_RECORDS = 100
KILL_RECORDS = 5000
"""Records of each partition for each kill: a second of reading, and more."""
WAIT_S = 30
FLOCK = struct.Struct("hhqqi4x")


READY, FIRST_AT, FIRST, LAST = range(4)
"""What each process says of each partition, in shared memory: that it has joined (of partition 0), when it
read its first record there, which that was, and its last one, as offset plus one."""


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child. This process has no store open, so the child has none either."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    return pid


def wait_for(said: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not said():
        if time.monotonic() > until:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.0005)


def fill(path: Path, partitions: int, records: int) -> None:
    """A topic of as many records in each partition."""
    values = data.values(records)

    def work() -> None:
        with pystream.open(path) as store:
            topic = store.topic("flow", create=True, partitions=partitions)
            for index in range(partitions):
                for at in range(0, records, BATCH_RECORDS):
                    topic.partition(index).append(values[at : at + BATCH_RECORDS])

    _, status = os.waitpid(fork(work), 0)
    if status:
        raise SystemExit("the store could not be made")


# ---- hand-over ----------------------------------------------------------------------------------------


def member(path: Path, words: np.ndarray[Any, Any]) -> None:
    """Read in the group, at a pace, until killed."""
    now = time.monotonic_ns
    with pystream.open(path) as store, store.consumer("flow", group="heirs") as consumer:
        words[0, READY] = 1
        for record in consumer:
            said = words[record.partition]
            if not said[FIRST_AT]:
                said[FIRST_AT] = now()
                said[FIRST] = record.offset + 1
            said[LAST] = record.offset + 1
            time.sleep(PACE_S)


def hand_overs(path: Path, partitions: int, kills: int) -> dict[str, list[float]]:
    """With one partition the heir sleeps when the other is killed; with two it reads one of them."""
    memory = mmap.mmap(-1, (kills + 1) * partitions * 4 * 8)
    words: np.ndarray[Any, Any] = np.frombuffer(memory, "i8").reshape(kills + 1, partitions, 4)
    pick = random.Random(data.SEED)
    seconds, twice, floor = [], [], []
    victim = fork(lambda: member(path, words[0]))
    wait_for(lambda: words[0, :, FIRST_AT].all(), "the first member to read")
    for number in range(1, kills + 1):
        before, after = words[number - 1], words[number]
        heir = fork(lambda after=after: member(path, after))
        wait_for(lambda after=after: after[0, READY], "the heir to join")
        if partitions > 1:
            wait_for(lambda after=after: after[:, FIRST_AT].any(), "the heir to get its share")
        time.sleep(pick.uniform(0.005, 0.02))
        inherited = int(np.flatnonzero(after[:, FIRST_AT] == 0)[0])
        killed_at = time.monotonic_ns()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda after=after, i=inherited: after[i, LAST], "the heir to read")
        os.waitpid(victim, 0)
        seconds.append((int(after[inherited, FIRST_AT]) - killed_at) / 1e9)
        again = int(before[inherited, LAST] - after[inherited, FIRST]) + 1
        if again < 0:
            raise SystemExit(f"{-again} records were passed over")
        twice.append(again)
        floor.append(bare_hand_over(path.parent / "lock"))
        victim = heir
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    return {"seconds": seconds, "floor_seconds": floor, "given_out_twice": twice}


def bare_hand_over(lock: Path) -> float:
    """Seconds from a kill until another process has heard of it, and has seen that a lock is free."""
    memory = mmap.mmap(-1, 4096)
    words = np.frombuffer(memory, "i8")

    def hold() -> None:
        with lock.open("w") as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
            words[0] = 1
            signal.pause()

    victim = fork(hold)
    wait_for(lambda: words[0], "a lock to be held")

    def hear() -> None:
        poll = select.poll()
        poll.register(os.pidfd_open(victim), select.POLLIN)
        with lock.open("r+") as file:
            words[1] = 1
            poll.poll()
            seen = fcntl.fcntl(file, fcntl.F_OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
            words[2] = time.monotonic_ns()
        assert FLOCK.unpack(seen)[0] == fcntl.F_UNLCK

    heir = fork(hear)
    wait_for(lambda: words[1], "a process to listen")
    time.sleep(0.005)
    killed_at = time.monotonic_ns()
    os.kill(victim, signal.SIGKILL)
    for pid, wanted in ((heir, 0), (victim, signal.SIGKILL)):
        if os.waitpid(pid, 0)[1] != wanted:
            raise SystemExit("the floor failed")
    return (int(words[2]) - killed_at) / 1e9


# ---- the record loop ----------------------------------------------------------------------------------


def read_all(consumer: pystream.Consumer, count: int, commit: bool) -> float:
    """Seconds to read so many records, with their offsets and values."""
    began = time.perf_counter()
    for record in consumer:
        record.value  # noqa: B018
        if commit:
            consumer.commit()
        if record.offset + 1 == count:
            break
    return time.perf_counter() - began


def loops(path: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Records a second, without a group and in one, in turn."""
    variants: dict[str, tuple[bool, dict[str, Any]]] = {
        "without a group": (False, {}),
        "in a group": (False, {"auto_commit": True}),
        "in a group, `commit()` after each": (True, {"auto_commit": False}),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    with pystream.open(path) as store:
        for number in range(rounds + 1):
            for name, (commit, options) in variants.items():
                if options:
                    options["group"] = f"loop-{number}-{commit}"
                with store.consumer("flow", **options) as consumer:
                    rate = count / read_all(consumer, count, commit)
                if number:  # the first round warms up
                    rates[name].append(rate)
                if options:
                    store.group(options["group"]).delete()
    return rates


# ---- the tables ---------------------------------------------------------------------------------------


def order(values: list[float], share: float) -> float:
    """An order statistic: the smallest value that so much of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(-int(-share * len(ordered) // 1) - 1, 0)]


def table(
    found: dict[str, dict[str, list[float]]], rates: dict[str, list[float]], facts: dict[str, str]
) -> str:
    said = "".join(f"- {name}: {fact}\n" for name, fact in facts.items())
    rows = [
        "| hand-over | kills | p50 | p99 | worst | floor p50 | floor p99 | given out twice | target | met |",
        "|---|--:|--:|--:|--:|--:|--:|---|---|---|",
    ]
    for name, figures in found.items():
        seconds, floor, twice = (figures[key] for key in ("seconds", "floor_seconds", "given_out_twice"))
        met = "yes" if max(seconds) < TARGET_S and max(twice) <= 1 else "no"
        cells = [
            name,
            str(len(seconds)),
            *(f"{value * 1e3:.2f} ms" for value in (order(seconds, 0.5), order(seconds, 0.99), max(seconds))),
            *(f"{value * 1e3:.2f} ms" for value in (order(floor, 0.5), order(floor, 0.99))),
            f"{max(twice)} at most, {sum(twice)} in all",
            f"< {TARGET_S * 1e3:.0f} ms, 1 record",
            met,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "| record by record | M/s | slowest .. fastest | of that without |", "|---|--:|--:|--:|"]
    plain = statistics.median(rates["without a group"])
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values) / 1e6:.2f} .. {max(values) / 1e6:.2f}"
        rows.append(f"| {name} | {middle / 1e6:.2f} | {spread} | {middle / plain:.2f} |")
    rows += [
        "",
        "A hand-over is the time from the kill until the heir holds the first record of the dead one's "
        "partition. The floor: until another process has heard of a kill by a pidfd, and has looked at a "
        "lock once. Given out twice is what the dead one had got and the heir got again: the record in its "
        f"hand. Rates are medians of {len(rates['in a group'])} rounds in turn; values have "
        f"{data.VALUE_BYTES} bytes.",
    ]
    return said + "\n" + "\n".join(rows) + "\n"


def main() -> None:
    kills = data.scale("GROUPS_KILLS", 50)
    count = data.scale("GROUPS_RECORDS", 2_000_000)
    rounds = data.scale("GROUPS_ROUNDS", 7)
    scratch = Path(os.environ.get("PYSTREAM_BENCH_DIR") or ROOT / "build")
    scratch.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="groups-", dir=scratch))
    found = {}
    try:
        for name, partitions in (("to a member that sleeps", 1), ("to a member that reads", 2)):
            path = directory / f"{partitions}.ps"
            fill(path, partitions, max(kills, 10) * KILL_RECORDS)
            found[name] = hand_overs(path, partitions, kills)
        fill(directory / "loop.ps", 1, count)
        rates = loops(directory / "loop.ps", count, rounds)
        facts = machine.facts(str(scratch))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = table(found, rates, facts)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "groups.md").write_text(text, encoding="utf-8")
    report = {"machine": facts, "hand_overs": found, "records_per_second": rates}
    (RESULTS / "groups.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
