"""The checker of the stress, on histories written by hand: each anomaly is named, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from stress.checker import TORN, Excuses, Log, check
from stress.history import History, Runs, load, parse
from stress.values import FILL_MAX, HEAD, decode, encode

S = 10**9
A, B = 0x10001, 0x20001
"""Two streams, both of partition t/0."""

SENT = f"""
0 send {A} t/0 0 3 ;
0 send {B} t/0 0 2 ;"""
ORDER = [(A, 0), (A, 1), (B, 0), (A, 2), (B, 1)]


def kinds(text: str, order: list[tuple[int, int]] = ORDER, actor: str = "a-1") -> dict[str, int]:
    """What the checker says of this history and a partition t/0 that holds these records."""
    log = Log([stream for stream, _ in order], [number for _, number in order])
    return dict(check(list(parse(actor, SENT + text)), {"t/0": log}).counts)


GOOD = f"""
1 ack {A} 0 2 0 1 2 ;
1 ack {B} 0 1 2 1 2 ;
1 ack {A} 2 1 -1 1 2 ;
1 open r t/0 1 ;
2 seen r t/0 1 {A} 1 1 t/0 2 {B} 0 1 ;
2 seen r t/0 3 {A} 2 1 t/0 4 {B} 1 1 ;
2 done r t/0 ;
2 end a-1 0 ;"""


def test_a_sound_history_has_no_anomaly() -> None:
    assert kinds(GOOD) == {}
    assert kinds("", []) == {}, "records that were not acknowledged may be lost"


@pytest.mark.parametrize(
    ("anomaly", "order"),
    [
        ("lost-write", [(A, 0), (A, 1), (A, 2), (B, 1)]),
        ("lost-write", []),
        ("duplicate", [*ORDER, (A, 2)]),
        ("duplicate", [(A, 0), (A, 1), (B, 0), (B, 0), (A, 2), (B, 1)]),
        ("reordered", [(A, 1), (A, 0), (B, 0), (A, 2), (B, 1)]),
        ("foreign-record", [*ORDER, (A, 3)]),
        ("foreign-record", [*ORDER, (0x30001, 0)]),
        ("torn-record", [*ORDER, (TORN, 0)]),
        ("inconsistent-offsets", [(B, 0), (A, 0), (A, 1), (A, 2), (B, 1)]),
    ],
)
def test_what_is_wrong_with_a_log(anomaly: str, order: list[tuple[int, int]]) -> None:
    assert anomaly in kinds(f"\n1 ack {A} 0 2 0 1 2 ;\n1 ack {B} 0 1 -1 1 2 ;", order)
    assert kinds(GOOD) == {}


def test_a_record_in_another_partition_is_foreign() -> None:
    log = Log([A], [0])
    entries = list(parse("a-1", f"\n0 send {A} t/0 0 1 ;"))
    assert check(entries, {"t/0": Log([], []), "t/1": log}).counts == {"foreign-record": 1}
    assert check(entries, {"t/0": log, "t/1": Log([], [])}).counts == {}


def test_aborted_write() -> None:
    assert kinds(f"\n1 fail {B} 1 1 LockTimeoutError ;") == {"aborted-write": 1}
    assert kinds(f"\n1 fail {B} 1 1 LockTimeoutError ;", ORDER[:-1]) == {}


def test_intruder() -> None:
    assert kinds(f"\n1 alone {A} 0 2 ;") == {}
    assert kinds(f"\n1 alone {A} 0 4 ;") == {"intruder": 1}


@pytest.mark.parametrize(
    ("anomaly", "seen"),
    [
        ("poll-skip", f"\n2 seen r t/0 0 {A} 0 1 t/0 2 {B} 0 1 ;"),
        ("poll-skip", f"\n2 seen r t/0 1 {A} 1 1 ;"),
        ("nonmonotonic-poll", f"\n2 seen r t/0 0 {A} 0 2 ;\n3 seen r t/0 1 {A} 1 1 ;"),
        ("nonmonotonic-poll", f"\n2 seen r t/0 0 {A} 0 2 ;\n3 seen r t/0 0 {A} 0 1 ;"),
        ("inconsistent-offsets", f"\n2 seen r t/0 0 {B} 0 1 ;"),
        ("inconsistent-offsets", f"\n2 seen r t/0 0 {A} 1 1 ;"),
        ("inconsistent-offsets", f"\n2 seen r t/0 0 {A} 0 3 ;"),
        ("unseen", f"\n2 seen r t/0 0 {A} 0 2 ;\n2 done r t/0 ;"),
    ],
)
def test_what_is_wrong_with_what_was_read(anomaly: str, seen: str) -> None:
    assert kinds("\n1 open r t/0 0 ;" + seen) == {anomaly: 1}


def test_what_is_read_beyond_the_log() -> None:
    everything = "".join(f" t/0 {i} {stream} {number} 1" for i, (stream, number) in enumerate(ORDER))
    assert kinds(f"\n1 open r t/0 0 ;\n2 seen r{everything} ;") == {}
    assert kinds(f"\n1 open r t/0 0 ;\n2 seen r{everything} ;", ORDER[:-1]) == {"inconsistent-offsets": 1}


def test_a_seek_is_no_skip() -> None:
    text = f"\n1 open r t/0 0 ;\n2 seen r t/0 0 {A} 0 2 ;\n3 open r t/0 4 ;\n3 seen r t/0 4 {B} 1 1 ;"
    text += f"\n4 open r t/0 0 ;\n4 seen r t/0 0 {A} 0 1 ;"
    assert kinds(text) == {}


def test_readers_are_told_apart() -> None:
    text = f"\n1 open r t/0 0 ;\n1 open q t/0 2 ;\n2 seen r t/0 0 {A} 0 2 ;\n2 seen q t/0 2 {B} 0 1 ;"
    assert kinds(text) == {}


@pytest.mark.parametrize("kind", ["torn", "error", "hang"])
def test_what_processes_say_themselves(kind: str) -> None:
    assert kinds(f"\n1 {kind} some words ;") == {"torn-record" if kind == "torn" else kind: 1}


def test_crash() -> None:
    assert kinds("\n1 end a-1 -11 ;") == {"crash": 1}
    assert kinds("\n1 end a-1 1 ;") == {"crash": 1}
    assert kinds("\n1 end b-1 -9 ;") == {"crash": 1}
    assert kinds("\n1 kill b-1 ;\n1 end b-1 -9 ;") == {}
    assert kinds("\n0 armed ;\n1 end a-1 -9 ;") == {}


# ---- stalls ---------------------------------------------------------------------------------------


def waited(began: float, ended: float, acknowledged: float, more: str = "") -> dict[str, int]:
    at = int(acknowledged * S)
    ack = f"\n1 ack {A} 0 1 0 {at} {at} ;"
    return kinds(f"{ack}\n1 waited r t/0 0 {int(began * S)} {int(ended * S)} ;{more}")


def test_a_lost_wake_up_is_a_stall() -> None:
    assert waited(10, 11.001, 10.3) == {"stall": 1}
    assert waited(10, 13.002, 12.3) == {"stall": 1}
    assert waited(10, 11.001, 9) == {"stall": 1}


def test_a_wait_that_was_woken_is_none() -> None:
    assert waited(10, 11.001, 11) == {}
    assert waited(10, 14, 13.9) == {}
    assert waited(10, 10.9, 10.1) == {}, "it was not its slice that ended it"
    assert waited(10, 11.5, 10.3) == {}, "it was not its slice that ended it"


def test_one_who_was_stopped_could_not_wake() -> None:
    stopped = f"\n{int(10.4 * S)} stop a-1 ;\n{int(10.9 * S)} resume a-1 ;"
    assert waited(10, 11.001, 10.3, stopped) == {}
    assert waited(10, 11.001, 10.3, stopped.replace("a-1", "b-1")) == {"stall": 1}
    assert waited(10, 11.001, 10.3, f"\n{11 * S} late {int(10.5 * S)} ;") == {}


def appended(began: float, ended: float, more: str = "") -> dict[str, int]:
    return kinds(f"\n1 ack {A} 0 1 0 {int(began * S)} {int(ended * S)} ;{more}")


def test_an_append_that_nobody_was_in_the_way_of() -> None:
    assert appended(10, 12.4) == {}
    assert appended(10, 12.6) == {"stall": 1}
    held = f"\n{9 * S} hold t/0 ;\n{13 * S} release t/0 ;"
    assert appended(10, 13.1, held) == {}
    assert appended(10, 13.1, held.replace("t/0", "t/1")) == {"stall": 1}
    stopped = f"\n{11 * S} stop b-1 ;\n{12 * S} resume b-1 ;"
    assert appended(10, 13.1, stopped) == {}
    assert appended(10, 15.1, stopped) == {"stall": 1}


def test_a_dead_holder_is_in_nobodys_way() -> None:
    """A lock that a forked child has kept: the holder was killed, and others wait on."""
    dead = f"\n{9 * S} hold t/0 ;\n{10 * S} kill a-1 ;\n{10 * S} end a-1 -9 ;"
    assert appended(9.5, 12, dead) == {}
    assert appended(9.5, 13.5, dead) == {"stall": 1}


def test_excuses() -> None:
    excuses = Excuses([(10, 20), (15, 30), (50, 60)])
    assert excuses.longest_without(0, 10) == 10
    assert excuses.longest_without(0, 100) == 40
    assert excuses.longest_without(12, 28) == 0
    assert excuses.longest_without(25, 55) == 20
    assert excuses.longest_without(31, 49) == 18
    assert Excuses([]).longest_without(3, 9) == 6


# ---- histories ------------------------------------------------------------------------------------


def test_an_entry_that_a_kill_has_torn_does_not_count(tmp_path: Path) -> None:
    history = History(tmp_path, "x-1")
    history.note("send", 1, "t/0", 0, 5)
    with (tmp_path / "x-1.history").open("ab") as file:
        file.write(b"\n123 ack 1 0 5 0 1")
    history.note("error", "two\nlines")
    assert [(e.actor, e.kind, e.text()) for e in load(tmp_path)] == [
        ("x-1", "send", "1 t/0 0 5"),
        ("x-1", "error", "two | lines"),
    ]


def test_runs_keep_every_record(tmp_path: Path) -> None:
    runs = Runs(History(tmp_path, "x-1"), "r")
    records = [("t/0", offset, A, offset) for offset in range(100)]
    records += [("t/1", offset, B, 2 * offset) for offset in range(100)]
    for record in records:
        runs.add(*record)
    runs.flush()
    found = []
    for entry in load(tmp_path):
        for i in range(1, len(entry.fields), 5):
            offset, stream, number, count = entry.ints(i + 1, i + 5)
            found += [(entry.fields[i], offset + k, stream, number + k) for k in range(count)]
    assert found == records
    assert len(load(tmp_path)) == 4


@pytest.mark.parametrize("fill", [0, 1, 200, FILL_MAX])
def test_values_tell_themselves_from_others(fill: int) -> None:
    value = encode(0xFFFF0001, 2**40, fill)
    assert len(value) == HEAD.size + fill
    assert decode(value) == (0xFFFF0001, 2**40)
    for at in (0, 5, len(value) - 1):
        assert decode(value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]) is None
    assert decode(value[:-1]) is None
    assert decode(b"") is decode(None) is None
    assert decode(bytes(len(value))) is None
