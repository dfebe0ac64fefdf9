"""The checker of the stress for topics that look after themselves, on histories written by hand: each anomaly
is named, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import pystream
from stress import keepers, upkeep
from stress.checker import Findings
from stress.history import Entry, parse
from stress.keepers import AGE_S, BOUND_BYTES, SEGMENT_BYTES, is_tombstone, key_number
from stress.upkeep import Kept
from stress.values import LAST_STREAM

S = 10**9
A, B = 0x10002, 0x20001
"""Of the first one's records, one is a tombstone that deletes an older one."""
COUNT = 60
ROOM = 200
"""Bytes that each record is said to take at most."""

Rows = list[tuple[int, int, int]]
WHOLE: Rows = [(offset, A, offset) for offset in range(COUNT)]


def entries(lines: str) -> list[Entry]:
    """Entries from lines of "ACTOR SECONDS KIND FIELDS"; each actor's stand together, as they do in files."""
    found: list[Entry] = []
    for line in lines.strip().splitlines():
        actor, seconds, rest = line.split(maxsplit=2)
        found += parse(actor, f"{round(float(seconds) * S)} {rest} ;")
    return sorted(found, key=lambda entry: entry.actor)


def kinds(name: str, lines: str = "", rows: Rows = WHOLE, start: int = 0, **more: int) -> dict[str, int]:
    """What the checker says of this, and of a partition that holds these rows in the end. The first COUNT
    were all acknowledged, at offsets that are their numbers."""
    found = Findings()
    end = max([COUNT, *(row[0] + 1 for row in rows)])
    sent = f"w 0 put {A} {name} 0 {COUNT} {COUNT * ROOM}\nw 0.1 kept {A} 0 {COUNT} 0 0\n"
    upkeep.check(entries(sent + lines), {name: Kept(start, end, rows, **more)}, found)
    return dict(found.counts)


def compacted(rows: Rows = WHOLE) -> Rows:
    """Of each key the last; no tombstones."""
    last = {key_number(stream, number): offset for offset, stream, number in rows}
    return [row for row in rows if last[key_number(*row[1:])] == row[0] and not is_tombstone(row[2])]


def test_all_is_there() -> None:
    assert kinds("sized/0") == kinds("aged/0") == kinds("table/0") == {}
    assert 20 < len(compacted()) < COUNT - 10
    assert kinds("table/0", rows=compacted()) == {}
    with_tombstones = [row for row in WHOLE if row in compacted() or is_tombstone(row[2])]
    assert kinds("table/0", rows=with_tombstones) == {}
    assert kinds("table/0", rows=WHOLE[:10] + [row for row in with_tombstones if row[0] >= 10]) == {}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sized/0", WHOLE[:30] + WHOLE[31:]),
        ("sized/0", WHOLE[:-1]),
        ("aged/0", WHOLE[1:]),
        ("table/0", compacted()[1:]),
        ("table/0", compacted()[:-1]),
    ],
)
def test_what_was_acknowledged_is_missing(name: str, rows: Rows) -> None:
    assert "lost-write" in kinds(name, rows=rows)


@pytest.mark.parametrize(
    ("anomaly", "rows"),
    [
        ("inconsistent-offsets", [*WHOLE[:30], (30, A, 31), *WHOLE[31:]]),
        ("duplicate", [*WHOLE, (COUNT, A, 3)]),
        ("foreign-record", [*WHOLE, (COUNT, B, 0)]),
        ("reordered", [*WHOLE, (COUNT + 1, A, COUNT + 9), (COUNT + 2, A, COUNT + 8)]),
        ("offset-gap", [*WHOLE, (COUNT + 1, A, COUNT + 9)]),
        ("offset-gap", [WHOLE[1], WHOLE[0], *WHOLE[2:]]),
    ],
)
def test_what_is_there_is_wrong(anomaly: str, rows: Rows) -> None:
    assert anomaly in kinds("sized/0", rows=rows)


def test_an_acknowledged_record_beyond_the_end() -> None:
    found = Findings()
    lines = entries(f"w 0 put {A} sized/0 0 2 99\nw 1 kept {A} 0 2 0 0")
    upkeep.check(lines, {"sized/0": Kept(0, 1, [(0, A, 0)])}, found)
    assert found.counts == {"lost-write": 1}


def test_what_was_deleted_comes_back() -> None:
    """A tombstone is gone, and what it had deleted is there."""
    last = {key_number(A, number): number for number in range(COUNT)}
    deleted = [number for number in last.values() if is_tombstone(number)]
    assert kinds("table/0", rows=sorted(compacted() + [(n, A, n) for n in deleted])) == {}, "they may stay"
    older = next(n for n in range(COUNT) if n not in deleted and last[key_number(A, n)] in deleted)
    back = sorted([*compacted(), (older, A, older)])
    assert kinds("table/0", rows=back) == {"resurrected": 1}
    tombstone = last[key_number(A, older)]
    assert kinds("table/0", rows=sorted([*back, (tombstone, A, tombstone)])) == {}


# ---- where the log starts -------------------------------------------------------------------------------


def test_who_cuts_it_may() -> None:
    assert kinds("sized/0", "d 5 delete sized/0 20\n", WHOLE[20:], start=20) == {}
    assert kinds("sized/0", "d 5 delete sized/0 19\n", WHOLE[20:], start=20) == {"early-deletion": 1}
    assert kinds("sized/0", "", WHOLE[20:], start=20) == {"early-deletion": 1}
    looked = f"d 5 delete sized/0 20\nr 4 begins sized/0 20 {3 * S}\n"
    assert kinds("sized/0", looked, WHOLE[20:], start=20) == {"early-deletion": 1}, "before it was cut"


def test_what_is_too_old_may_go() -> None:
    early, late = AGE_S * 0.9, AGE_S * 1.1
    for seconds, anomalies in (early, {"early-deletion": 1}), (late, {}):
        looked = f"r {seconds} begins aged/0 20 0\n"
        assert kinds("aged/0", looked, WHOLE[20:], start=20) == anomalies
        assert "early-deletion" in kinds("table/0", looked.replace("aged", "table"), WHOLE[20:], start=20)


def test_what_is_too_much_may_go() -> None:
    for room, anomalies in (BOUND_BYTES // 40 - 9, {"early-deletion": 1}), (BOUND_BYTES // 40 + 9, {}):
        found = Findings()
        lines = entries(f"w 0 put {A} sized/0 0 {COUNT} {COUNT * room}\nw 1 kept {A} 0 {COUNT} 0 0")
        upkeep.check(lines, {"sized/0": Kept(20, COUNT, WHOLE[20:])}, found)
        assert found.counts == anomalies


def test_it_never_goes_back() -> None:
    cut = "d 1 delete sized/0 30\n"
    assert kinds("sized/0", cut + f"r 2 begins sized/0 30 {S}\n", WHOLE[20:], start=20) == {"log-start": 1}
    rising = cut + f"r 3 begins sized/0 20 {2 * S}\nq 5 begins sized/0 30 {4 * S}\n"
    assert kinds("sized/0", rising, WHOLE[30:], start=30) == {}
    back = cut + f"r 3 begins sized/0 30 {2 * S}\nq 5 begins sized/0 20 {4 * S}\n"
    assert kinds("sized/0", back, WHOLE[30:], start=30) == {"log-start": 1}
    beside = cut + f"r 3 begins sized/0 30 {2 * S}\nq 5 begins sized/0 20 {S}\n"
    assert kinds("sized/0", beside, WHOLE[30:], start=30) == {}, "it was asked before the other had answered"


# ---- what is read -----------------------------------------------------------------------------------


def got(*runs: tuple[int, int]) -> str:
    return "r 2 got r" + "".join(f" NAME {first} {A} {first} {count}" for first, count in runs) + "\n"


def reading(name: str, text: str) -> dict[str, int]:
    begin = f"d 0.5 delete {name} 40\nr 1 from r {name} 0\n"
    start = 0 if name == "table/0" else 40
    return kinds(name, begin + text.replace("NAME", name), WHOLE[start:], start)


def test_what_is_read_in_order() -> None:
    assert reading("sized/0", got((0, 20), (20, 5))) == {}
    assert reading("sized/0", got((0, 20), (19, 5))) == {"nonmonotonic-poll": 1}
    assert reading("sized/0", got((0, 20)) + "r 3 from r sized/0 5\n" + got((5, 5))) == {}


def test_what_is_passed_over() -> None:
    begins = "r 3 begins NAME {} 0\n"
    assert reading("sized/0", got((0, 10)) + got((30, 5)) + begins.format(30)) == {}
    assert reading("sized/0", got((0, 10)) + got((30, 5)) + begins.format(29)) == {"poll-skip": 1}
    assert reading("sized/0", got((0, 10)) + got((30, 5))) == {}, "it died before it could say why"
    jumps = got((0, 10)) + got((30, 5))
    assert reading("table/0", jumps + begins.format(0)) == {"poll-skip": 1}


def test_what_is_passed_over_as_it_was_superseded() -> None:
    last = {row[0] for row in compacted()}
    gone = next(n for n in range(1, COUNT) if n not in last)
    stays = next(n for n in sorted(last) if n > 0)
    begins = "r 3 begins NAME 0 0\n"
    assert reading("table/0", got((0, gone)) + got((gone + 1, 1)) + begins) == {}
    assert reading("table/0", got((0, stays)) + got((stays + 1, 1)) + begins) == {"poll-skip": 1}


# ---- tables -----------------------------------------------------------------------------------------


def table(rows: Rows) -> str:
    words = (f"0-key-{key_number(stream, n)} {offset} {stream} {n}" for offset, stream, n in rows)
    return "v 9 table table " + " ".join(words) + "\n"


def test_tables() -> None:
    rows = compacted()
    assert kinds("table/0", table(rows), rows) == {}
    assert kinds("table/0", table(rows[1:]), rows) == {"stale-table": 1}
    older = next(n for n in range(COUNT) if (n, A, n) not in rows and not is_tombstone(n))
    key = key_number(A, older)
    replaced = [row for row in rows if key_number(*row[1:]) != key] + [(older, A, older)]
    assert kinds("table/0", table(replaced), rows) == {"stale-table": 1}
    assert kinds("table/0", table([(n, B, k) for n, _, k in rows[:1]] + rows[1:]), rows) != {}


def test_the_last_record_of_a_partition_has_a_key_of_its_own() -> None:
    end = LAST_STREAM
    sent = f"c 8 put {end} table/0 0 1 99\nc 8.1 kept {end} 0 1 {COUNT} 0\n"
    rows = [*compacted(), (COUNT, end, 0)]
    told = table(compacted()).replace("\n", f" last-0 {COUNT} {end} 0\n")
    assert kinds("table/0", sent + told, rows) == {}
    assert kinds("table/0", sent + table(compacted()), rows) == {"stale-table": 1}


# ---- that it is done at all ---------------------------------------------------------------------------


def test_what_was_not_done() -> None:
    most = BOUND_BYTES + 2 * SEGMENT_BYTES
    assert kinds("sized/0", stored_bytes=most) == {}
    assert kinds("sized/0", stored_bytes=most + 1) == {"not-tidied": 1}
    assert kinds("table/0", stored_bytes=10 * most, dirty_bytes=2 * SEGMENT_BYTES) == {}
    assert kinds("table/0", stored_bytes=10 * most, dirty_bytes=10 * most) == {"not-tidied": 1}
    assert kinds("sized/0", "o 5 pinned topics/x.log#1\n") == {"pinned": 1}


# ---- the records ------------------------------------------------------------------------------------


def test_records_tell_themselves_from_others(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=2)
        for number in range(30):
            for index, right in (0, True), (1, False):
                key, value, headers = keepers.record_of(0, A, number, number * 10)
                topic.append([value], keys=[key], headers=[headers], partition=index)
                (record,) = topic.partition(index).tail(1)
                assert keepers.identify(record) == ((A, number) if right else None)
                assert (value is None) == is_tombstone(number)
        for key, value in ((b"0-key-1", b"?"), (b"0-key-1", None), (None, b"")):
            topic.append([value], keys=[key], partition=0)
            (record,) = topic.partition(0).tail(1)
            assert keepers.identify(record) is None
