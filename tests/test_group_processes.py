"""Members of a group in several processes, that are killed, stopped, hung and forked."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import group_lives
import pystream
from group_lives import SOON_S, Company, Place, append, fill, owned, places, until
from harness import Life, quick_directory
from pystream.group.shared import SharedGroup

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

SOURCES = Path(pystream.__file__).parent / "group"
T4 = [("t", index) for index in range(4)]

AT_WORK = ("written", "swapped", "fenced", "revoked", "claimed", "saving")
"""Points where a member can be killed at whatever it does with its group's files."""

ALWAYS = {"group.written", "group.swapped", "group.claimed", "group.saving"}
"""Those that a member comes to though nobody else comes, goes or dies."""


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


@pytest.fixture
def store(path: Path) -> Iterator[pystream.Store]:
    with pystream.open(path, sync_interval=0.05) as opened:
        yield opened


def start(path: Path, target: Any = group_lives.member, **options: Any) -> tuple[Life, str]:
    """Another process with a member, and its id."""
    life = Life(target, str(path), options)
    word, member = life.receive()
    assert word == "member"
    return life, member


def drain(life: Life) -> list[Any]:
    """What it has said until now, or until it ended."""
    said = []
    while life.channel.poll(0):
        try:
            said.append(life.channel.recv())
        except EOFError:
            break
    return said


def test_every_point_is_known() -> None:
    """A point that is added to the code is added to these tests."""
    sources = "".join(file.read_text() for file in SOURCES.glob("*.py"))
    named = set(re.findall(r'\.point\(\s*"([^"]+)"\s*\)', sources))
    assert named == {f"group.{name}" for name in AT_WORK}


# ---- killed ---------------------------------------------------------------------------------------


def test_killed_while_others_wait(store, path):
    """They are woken, go on where it was, and get only the record in its hand a second time."""
    topic = fill(store)
    life, member = start(path, group_lives.idler)
    got: list[tuple[str, int, list[int]]] = []
    heir = store.consumer("t", group="g")

    def read() -> None:
        try:
            while True:
                batch = heir.poll()
                got.append((batch.topic, batch.partition, batch.offsets.tolist()))
        except pystream.ClosedError:
            pass

    thread = threading.Thread(target=read)
    thread.start()
    life.channel.send("ask")
    until(lambda: len(places(heir)[0]) == 2, "its share")
    theirs = [place for place, owner in owned(store, "g").items() if owner == member]
    assert len(theirs) == 2
    append(topic, theirs[0][1], 1)
    assert life.receive() == (theirs[0][1], 0)
    append(topic, theirs[0][1], 1)
    life.channel.send("ask")
    assert life.receive() == (theirs[0][1], 1)  # which it has in its hand
    life.kill()
    began = time.monotonic()
    until(lambda: len(places(heir)[0]) == 4, "the heir's share")
    assert time.monotonic() - began < 2
    append(topic, theirs[1][1], 1)
    until(lambda: len(got) == 2, "the records")
    heir.close()
    thread.join(20)
    assert sorted(got) == sorted([("t", theirs[0][1], [1]), ("t", theirs[1][1], [0])])
    assert life.end() == -signal.SIGKILL


def test_killed_while_others_have_records(store, path):
    """Who does not wait hears of it, too."""
    topic = fill(store, records=1)
    life, _ = start(path)
    heir = store.consumer("t", group="g")
    until(lambda: heir.poll(timeout=0.01) is None and len(places(heir)[0]) == 2, "its share")
    mine = places(heir)[0][0][1]
    append(topic, mine, 3000)
    life.kill()
    records = iter(heir)
    began = time.monotonic()
    count = 0
    while len(heir.assignment()) < 4:
        next(records)
        count += 1
        assert count < 3000 and time.monotonic() - began < 2
        time.sleep(0.001)  # it works
    heir.close()
    life.end()


@pytest.mark.parametrize("name", AT_WORK)
def test_killed_at_a_point(store, path, name):
    """The others go on; what was acknowledged is committed, and everything is read."""
    fill(store, records=20)
    acknowledged: dict[int, int] = {}
    reached = 0
    with store.consumer("t", group="g", session_timeout=1, auto_commit=False) as steady:
        for nth in (1, 2, 5):
            victim = Life(group_lives.work, str(path), 4, fault=f"group.{name}:{nth}:kill")
            lives = [victim, Life(group_lives.work, str(path), 3)]
            deadline = time.monotonic() + SOON_S
            while any(life.process.is_alive() for life in lives):
                assert time.monotonic() < deadline
                batch = steady.poll(timeout=0.01)
                if batch is not None:
                    steady.commit()
                    heard(acknowledged, [(batch.partition, batch.next_offset)])
                for life in lives:
                    heard(acknowledged, drain(life))
            for life in lives:
                heard(acknowledged, drain(life))
            reached += victim.end() == -signal.SIGKILL
            lives[1].end()
            company = Company(store, "g", steady)
            began = time.monotonic()
            assert company.settle() == [T4]
            assert time.monotonic() - began < 5
            steady.commit()
            for partition, offset in acknowledged.items():
                assert steady.committed(("t", partition)) >= offset, (name, nth)
    assert reached or f"group.{name}" not in ALWAYS, "nobody was killed"
    committed = store.group("g").committed()
    assert [where.offset for where in committed.values()] == [
        store["t"].partition(index).end_offset for index in range(4)
    ]


def heard(acknowledged: dict[int, int], said: list[tuple[int, int]]) -> None:
    for partition, offset in said:
        acknowledged[partition] = max(acknowledged.get(partition, 0), offset)


def test_a_fencer_that_is_killed(store, path):
    """It had fenced a member that lives, and not taken it out: what that one had committed is kept."""
    fill(store, partitions=1, records=10)
    consumer = store.consumer("t", group="g", timeout=5)
    records = iter(consumer)
    assert [next(records).offset for _ in range(4)] == [0, 1, 2, 3]
    group = SharedGroup(store._handle, store.path, "g", create=False)
    peer = group.peer(consumer.member_id)
    assert peer is not None
    peer.fence()
    with pytest.raises(pystream.FencedMemberError):
        consumer.commit()
    before = consumer.member_id
    group.control.notify()
    assert next(records).offset in (3, 4)  # 3 was in hand
    assert consumer.member_id != before
    assert [next(records).offset for _ in range(3)][-1] >= 6
    consumer.close()


def test_all_are_killed_at_once(path):
    """Who opens the store next goes on exactly where each was."""
    with pystream.open(path, sync_interval=1000) as store:
        fill(store, records=30)
    lives = [start(path)[0] for _ in range(3)]
    said: list[Any] = []
    until(lambda: [said.extend(drain(life)) for life in lives] and len(set(said)) == 120, "reading")
    for life in lives:
        os.kill(life.pid, signal.SIGSTOP)  # or the others might still take out the first to die
    for life in lives:
        life.kill()
    for life in lives:
        life.end()
    last = {index: max(offset for partition, offset in said if partition == index) for index in range(4)}
    with pystream.open(path) as store:
        description = store.group("g").describe()
        assert description.state == "empty"
        assert [member.alive for member in description.members] == [False] * 3
        assert [where.lag in (0, 1) for where in description.partitions] == [True] * 4
        with store.consumer("t", group="g") as consumer:
            assert [consumer.position(place) in (last[place[1]], last[place[1]] + 1) for place in T4] == [
                True
            ] * 4
            again = []
            while (batch := consumer.poll(timeout=0)) is not None:
                again.append((batch.partition, batch.next_offset))
            assert all(end == 30 for _, end in again)
            assert len(again) <= 4


# ---- stopped, and hung ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_silent_for_too_long(store, path, how):
    """Its partitions move, its commit is refused, and when it asks again it is a member again."""
    fill(store, records=10)
    life, member = start(path, group_lives.idler, session_timeout=0.3)
    life.channel.send("ask")
    assert life.receive()[1] == 0
    life.channel.send("ask")
    life.receive()
    if how == "stopped":
        os.kill(life.pid, signal.SIGSTOP)
    began = time.monotonic()
    with store.consumer("t", group="g", session_timeout=0.3) as heir:
        assert places(heir) == [[]]
        until(lambda: heir.poll(timeout=0.05) is not None, "its share")
        assert 0.3 <= time.monotonic() - began < 5
        assert owned(store, "g") == dict.fromkeys(T4, heir.member_id)
        while heir.poll(timeout=0) is not None:
            pass
        if how == "stopped":
            os.kill(life.pid, signal.SIGCONT)
        before = store.group("g").committed()
        life.channel.send("commit")
        assert life.receive() == "FencedMemberError"
        assert store.group("g").committed() == before
        life.channel.send("lost")
        assert life.receive() == []
        life.channel.send("ask")  # it joins, and waits for its share

        def theirs() -> set[Place]:
            return {place for place, owner in owned(store, "g").items() if owner != heir.member_id}

        until(lambda: heir.poll(timeout=0.01) is None and len(theirs()) == 2, "the new member")
        assert len(places(heir)[0]) == 2
        mine = theirs()
        append(store["t"], min(mine)[1], 1)
        assert life.receive() == (min(mine)[1], 10)
        life.channel.send("lost")
        assert life.receive() == [T4]
        life.channel.send("member")
        assert life.receive() not in (member, heir.member_id)
        life.channel.send("end")
        assert life.end() == 0


def test_a_heartbeat_keeps_it_in(store, path):
    fill(store, records=10)
    life, member = start(path, group_lives.idler, session_timeout=0.4)
    life.channel.send("ask")
    life.receive()
    with store.consumer("t", group="g", session_timeout=0.4) as other:
        ended = time.monotonic() + 1.2
        while time.monotonic() < ended:
            life.channel.send("heartbeat")
            assert life.receive() is None
            assert other.poll(timeout=0.05) is None
        assert owned(store, "g") == dict.fromkeys(T4, member)
        life.channel.send("commit")
        assert life.receive() is None
        life.channel.send("end")
        assert life.end() == 0


def test_who_was_stopped_finds_nobody_guilty(store, path):
    """The others' silence is counted from when it is noticed: after a stop of its own it puts out nobody."""
    fill(store)
    life, member = start(path, group_lives.wait_for_ever, session_timeout=0.5)
    other, _ = start(path, group_lives.wait_for_ever, session_timeout=30)
    until(lambda: len(set(owned(store, "g").values())) == 2, "both")
    for _ in range(2):
        os.kill(other.pid, signal.SIGSTOP)
        time.sleep(0.8)  # longer than the session_timeout of the one that goes on
        os.kill(other.pid, signal.SIGCONT)
        time.sleep(0.2)
        assert member in owned(store, "g").values()
    for one in (life, other):
        one.kill()
        one.end()


# ---- forked ---------------------------------------------------------------------------------------


def test_fork(store, path):
    """The child is told so, and disturbs nobody; the parent's death is heard of though the child lives on."""
    fill(store, records=5)
    life = Life(group_lives.fork_and_read, str(path))
    child, said, partition = life.receive()
    try:
        assert said.split() == ["ForkedError"] * 11
        rest = [life.receive() for _ in range(19)]
        assert sorted([*rest, (partition, 0)]) == [
            (index, offset) for index in range(4) for offset in range(5)
        ]
        with store.consumer("t", group="g") as heir:
            until(lambda: heir.poll(timeout=0.01) is None and len(places(heir)[0]) == 2, "its share")
            life.kill()
            life.end()
            began = time.monotonic()
            until(lambda: heir.poll(timeout=0.01) is None and places(heir) == [T4], "its share")
            assert time.monotonic() - began < 2
            os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_holds_no_lock_of_the_group(store, path):
    """Neither on the member's file nor on the group's: another process saves, and makes the group anew."""
    fill(store, records=5)
    life = Life(group_lives.fork_and_read, str(path))
    child, _, _ = life.receive()
    try:
        life.kill()
        life.end()
        group = store.group("g")
        assert [member.alive for member in group.describe().members] == [False]
        assert group.reset("latest").keys() == {("t", index, None) for index in range(4)}
        group.delete()
        assert store.groups() == []
    finally:
        os.kill(child, signal.SIGKILL)


# ---- waiting --------------------------------------------------------------------------------------


def test_an_idle_member_sleeps(store, path):
    """It wakes once a second at most, whatever its session_timeout; its other threads do not wake at all."""
    fill(store)
    life, _ = start(path, group_lives.wait_for_ever)
    other, _ = start(path, group_lives.wait_for_ever)
    until(lambda: store.group("g").describe().state == "stable", "peace")
    time.sleep(1.2)  # what was read last is saved meanwhile
    before = switches(life.pid)
    time.sleep(3)
    assert switches(life.pid) - before <= 5
    for one in (life, other):
        one.kill()
        one.end()


def switches(pid: int) -> int:
    """How often the threads of a process went to sleep."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.MULTILINE)
        assert found is not None
        count += int(found[1])
    return count


def test_a_signal_ends_a_wait(store, path):
    """Ctrl-C in a member without partitions, and in one with; both leave the group."""
    fill(store, partitions=1)
    lives = [start(path, group_lives.wait_for_ever)[0] for _ in range(2)]
    until(lambda: store.group("g").describe().state == "stable", "peace")
    for life in lives:
        os.kill(life.pid, signal.SIGINT)
        assert life.receive(5) == "interrupted"
        assert life.end() == 0
    assert store.group("g").describe().members == ()


def test_an_interpreter_that_ends_with_its_consumer_open(store, path):
    """The group is left, and only the record in hand is given out again."""
    import subprocess
    import sys

    fill(store, partitions=1, records=5)
    text = (
        "import sys, pystream\n"
        "store = pystream.open(sys.argv[1])\n"
        "records = iter(store.consumer('t', group='g'))\n"
        "print([next(records).offset for _ in range(3)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text, str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[0, 1, 2]\n", "", 0)
    description = store.group("g").describe()
    assert description.members == ()
    assert [(where.committed, where.durable) for where in description.partitions] in (
        [(2, True)],
        [(3, True)],
    )
