"""One round: start the processes, do them harm for so many seconds, let them end, and check what they saw."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import random
import signal
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

import pystream

from . import actors, groups, keepers, members, upkeep
from .checker import TORN, Findings, Log, check
from .history import History, load
from .values import decode

CASTS: Final[dict[str, dict[str, int]]] = {
    "log": {
        "appender": 2,
        "armed": 2,
        "sender": 1,
        "holder": 1,
        "opener": 1,
        "forker": 1,
        "tail": 2,
        "iterator": 1,
        "waiter": 1,
    },
    "race": {"ping": 1, "pong": 1},
    "groups": {"feeder": 1, "auto": 2, "manual": 2, "batches": 1, "observer": 1},
    "upkeep": {
        "keyer": 2,
        "tidier": 1,
        "armed_tidier": 1,
        "trimmer": 1,
        "follower": 2,
        "scanner": 1,
        "viewer": 1,
        "watcher": 1,
    },
}
"""Who takes part, and how many of each; a round may have several of these."""

TICK_S: Final = 0.01
STRIKE_S: Final = 0.1
"""The longest time between two processes that are killed or stopped."""
LATE_S: Final = 0.2
"""When the conductor wakes so much too late, the machine is too busy to tell stalls from delays."""
ENDING_S: Final = 30
"""How long a process may take to end once it should."""

TOLD: Final = ("kill", "stop", "forked", "hold", "assigned", "revoked", "lost", "commit", "refused", "tidied")
"""What is counted in the verdict, by the words of the histories."""

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass
class Verdict:
    """What came of a round."""

    seed: int
    seconds: float
    anomalies: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Anomalies of each kind, those that are not listed among them."""
    done: dict[str, int] = field(default_factory=dict)
    """How much happened, so that nobody takes an empty round for a sound one."""
    library: str = ""
    """The pystream that was tried."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Life:
    name: str
    role: str
    pid: int
    resume_at: float | None = None


class Conductor:
    """Owns the processes of a round, orphans of theirs included, and ends what does not end."""

    def __init__(self, directory: Path, seconds: float, seed: int, cast: dict[str, int]) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.directory = directory
        self.path = str(directory / "store")
        self.histories = str(directory / "histories")
        os.mkdir(self.histories)
        self.history = History(self.histories, "conductor")
        self.cast = cast
        self.seconds = seconds
        self.lives: dict[int, Life] = {}
        self.spawned = 0
        self.until = 0.0
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    # ---- lives ------------------------------------------------------------------------------------

    def spawn(self, role: str, until: float | None = None) -> Life:
        self.spawned += 1
        number, name, parent = self.spawned, f"{role}-{self.spawned}", os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # this process has no thread that matters
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() == parent:  # else the parent was gone before that
                    code = self.live(role, name, number, self.until if until is None else until)
            finally:
                os._exit(code)
        life = self.lives[pid] = Life(name, role, pid)
        self.history.note("start", name, pid)
        return life

    def live(self, role: str, name: str, number: int, until: float) -> int:
        logging.getLogger("pystream").setLevel(logging.CRITICAL)  # members are put out on purpose
        actor = actors.Actor(name, number, self.seed, self.path, self.histories, until)
        with open(f"{self.directory}/{name}.stack", "w") as stack:
            faulthandler.enable(stack)
            faulthandler.register(signal.SIGUSR1, stack)
            actors.guarded(actor, lambda: ROLES[role](actor))
            faulthandler.disable()
        os.unlink(f"{self.directory}/{name}.stack")
        return 0

    def reap(self) -> list[Life]:
        """Those that have ended meanwhile."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            life = self.lives.pop(pid, None)
            if life is not None:
                self.history.note("end", life.name, os.waitstatus_to_exitcode(status))
                ended.append(life)
        return ended

    def resume(self, life: Life) -> None:
        os.kill(life.pid, signal.SIGCONT)
        self.history.note("resume", life.name)
        life.resume_at = None

    # ---- the round --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the store in another process: this one is to fork without ever having had it open."""
        pid = os.fork()
        if pid == 0:
            try:
                actors.create(self.path, self.rng.choice(("mmap", "pwrite")))
                members.create(self.path)
                keepers.create(self.path)
            except BaseException as error:
                self.history.note("error", f"making the store: {error!r}")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def play(self) -> None:
        try:
            self.prepare()
            start = time.monotonic()
            self.until = start + self.seconds
            race = self.seconds if self.cast.keys() <= actors.RACERS else self.seconds / 3  # it takes a core
            for role, count in self.cast.items():
                for _ in range(count):
                    self.spawn(role, start + race if role in actors.RACERS else None)
            self.harm(self.until - min(2.0, self.seconds / 4))
            self.finish([life for life in self.lives.values() if life.role in WRITERS])
            self.finish([self.spawn("closer")])
            self.finish(list(self.lives.values()))
        finally:
            self.clear()

    def harm(self, until: float) -> None:
        """Kill, stop and resume at random; start anew what has ended."""
        next_at, awake = time.monotonic() + 0.2, time.monotonic_ns()
        births: list[tuple[float, str]] = []
        while (now := time.monotonic()) < until:
            for life in self.reap():
                if life.role not in SPARED:
                    births.append((now + self.rng.random() * 0.2, life.role))
            for birth in [birth for birth in births if birth[0] <= now]:
                births.remove(birth)
                self.spawn(birth[1])
            for life in self.lives.values():
                if life.resume_at is not None and life.resume_at <= now:
                    self.resume(life)
            if now >= next_at:
                next_at = now + self.rng.random() * STRIKE_S
                self.strike(now)
            awake = self.tick(awake)
        for _, role in births:
            self.spawn(role)
        for life in self.lives.values():
            if life.resume_at is not None:
                self.resume(life)

    def strike(self, now: float) -> None:
        lives = [life for life in self.lives.values() if life.role not in SPARED]
        if not lives:
            return
        life = self.rng.choice(lives)
        if self.rng.random() < (0.3 if life.role in members.MEMBERS else 0.5):
            self.history.note("kill", life.name)
            os.kill(life.pid, signal.SIGKILL)
            life.resume_at = None
        elif life.resume_at is None:
            is_member = life.role in members.MEMBERS
            life.resume_at = now + (members.stop_seconds(self.rng) if is_member else self.rng.random() * 1.2)
            self.history.note("stop", life.name)
            os.kill(life.pid, signal.SIGSTOP)

    def tick(self, awake: int) -> int:
        """Sleep a little; note when that took long. `awake`: when the last one ended."""
        time.sleep(TICK_S)
        now = time.monotonic_ns()
        if now - awake > (TICK_S + LATE_S) * 1e9:
            self.history.note("late", awake)
        return now

    def finish(self, lives: list[Life]) -> None:
        """Wait for these to end by themselves. One that does not is said to hang, with where it is."""
        deadline, awake = max(time.monotonic(), self.until) + ENDING_S, time.monotonic_ns()
        left = {life.pid for life in lives} & self.lives.keys()
        while left and time.monotonic() < deadline:
            awake = self.tick(awake)
            self.reap()
            left &= self.lives.keys()
        for pid in left:
            name = self.lives[pid].name
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.2)
            stack = (self.directory / f"{name}.stack").read_text(errors="replace")
            self.history.note("hang", f"{name} does not end: {stack}")
            self.history.note("kill", name)
            os.kill(pid, signal.SIGKILL)

    def clear(self) -> None:
        """End what is left, forked children that idle included."""
        deadline = time.monotonic() + ENDING_S
        while time.monotonic() < deadline:
            self.reap()
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            if not children:
                return
            for pid in map(int, children):
                if pid in self.lives:
                    self.history.note("kill", self.lives[pid].name)
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def closer(actor: actors.Actor) -> None:
    """Ends every partition there is."""
    actors.closer(actor, beside=keepers.TOPICS)
    keepers.seal(actor)


ROLES: Final = actors.ROLES | members.ROLES | keepers.ROLES | {"closer": closer}
WRITERS: Final = actors.WRITERS.keys() | members.WRITERS.keys() | keepers.WRITERS.keys()
SPARED: Final = actors.SPARED | keepers.SPARED


def run(directory: Path, seconds: float, seed: int, cast: dict[str, int]) -> Verdict:
    """Play one round in an empty directory, and check it. Once a process: at the end, it opens the store."""
    conductor = Conductor(directory, seconds, seed, cast)
    conductor.play()
    entries = load(conductor.histories)
    logs, damage = read(conductor.path)
    found = check(entries, logs)
    found.add_all(damage)
    kept = upkeep.read(conductor.path, found)
    upkeep.check(entries, kept, found)
    handover_ms = groups.check(entries, logs, members.committed(conductor.path), found)
    tally = Counter(entry.kind for entry in entries)
    done = {kind: tally[kind] for kind in TOLD if tally[kind]}
    done |= {
        "processes": conductor.spawned,
        "records": sum(len(log) for log in logs.values()) + sum(one.end for one in kept.values()),
        "acknowledged": sum(int(entry.fields[2]) for entry in entries if entry.kind in ("ack", "kept")),
        "read": sum(sum(map(int, entry.fields[5::5])) for entry in entries if entry.kind in ("seen", "got")),
        "removed": sum(one.end - len(one.records) for one in kept.values()),
        "segments": len(list(Path(conductor.path).glob("topics/*/*/*.log"))),
    }
    if handover_ms >= 0:
        done["ms to hand over"] = handover_ms
    return Verdict(
        seed, seconds, [tuple(a) for a in found.anomalies], dict(found.counts), done, pystream.__file__
    )


def read(path: str) -> tuple[dict[str, Log], Findings]:
    """The log of every partition, each record decoded, each offset looked at."""
    logs, damage = {}, Findings()
    with pystream.open(path) as store:
        for name in store.topics():
            for index in range(0 if name in keepers.TOPICS else store.topic(name).partitions):
                logs[actors.label(name, index)] = read_partition(store.topic(name).partition(index), damage)
    return logs, damage


def read_partition(partition: pystream.Partition, damage: Findings) -> Log:
    name = actors.label(partition.topic, partition.index)
    streams: list[int] = []
    numbers: list[int] = []
    try:
        for batch in partition.scan():
            values = batch.values.to_pylist()
            dense = np.array_equal(batch.offsets, np.arange(batch.base_offset, batch.next_offset))
            if batch.base_offset != len(streams) or not dense or len(values) != len(batch.offsets):
                damage.add(
                    "offset-gap",
                    f"{name}: a batch of {len(values)} at {batch.base_offset}, not {len(streams)}",
                )
            for value in values:
                stream, number = decode(value) or (TORN, 0)
                streams.append(stream)
                numbers.append(number)
        if len(streams) != partition.end_offset:
            damage.add(
                "offset-gap", f"{name}: {len(streams)} records, though it ends at {partition.end_offset}"
            )
    except pystream.CorruptLogError as error:
        damage.add("torn-record", f"{name}: {error}")
    return Log(streams, numbers)
