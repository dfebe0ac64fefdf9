"""The checker of the stress for consumer groups, on histories written by hand: each anomaly is named."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from stress import groups
from stress.checker import Findings, Log
from stress.history import Entry, parse

S = 10**9
A = 0x10001
LOGS = {"t/0": Log([A] * 10, range(10))}


def entries(lines: str) -> list[Entry]:
    """Entries from lines of "ACTOR SECONDS KIND FIELDS"; each actor's stand together, as they do in files."""
    found = []
    for line in lines.strip().splitlines():
        actor, seconds, rest = line.split(maxsplit=2)
        found += parse(actor, f"{round(float(seconds) * S)} {rest} ;")
    return sorted(found, key=lambda entry: entry.actor)


def kinds(lines: str, committed: Mapping[str, int] | None = None) -> dict[str, int]:
    found = Findings()
    groups.check(entries(lines), LOGS, committed or {}, found)
    return dict(found.counts)


def seen(actor: str, member: str, seconds: float, offset: int, count: int = 1) -> str:
    return f"{actor} {seconds} seen {member} t/0 {offset} {A} {offset} {count}\n"


HANDED_OVER = (
    "a 1 assigned m1 1 auto t/0 0\n"
    + seen("a", "m1", 1.1, 0, 3)
    + seen("a", "m1", 1.2, 3, 2)
    + "a 1.9 revoked m1 t/0\nb 2.1 assigned m2 2 manual t/0 5\n"
    + seen("b", "m2", 2.2, 5, 5)
    + f"b 3 commit m2 {int(2.9 * S)} t/0 10\nb 4 revoked m2 t/0\n"
)
KILLED = (
    "a 1 assigned m1 1 auto t/0 0\n"
    + seen("a", "m1", 1.1, 0, 3)
    + seen("a", "m1", 1.2, 3, 2)
    + "c 1.3 kill a\nc 1.3 end a -9\n"
)
STOPPED = (
    "a 1 assigned m1 1 manual t/0 0\n"
    + seen("a", "m1", 1.1, 0, 3)
    + "c 1.2 stop a\nb 2.4 assigned m2 2 manual t/0 0\nc 3 resume a\n"
)


def test_a_sound_group_has_no_anomaly() -> None:
    assert kinds(HANDED_OVER, {"t/0": 10}) == {}
    assert kinds("") == {}


def test_told_late_and_nothing_read() -> None:
    """Stopped between taking a partition and hearing of it, then put out: it is told both when it goes on."""
    late = HANDED_OVER + "d 2.5 assigned m3 2 auto t/0 3\n"
    assert kinds(late + "d 2.6 lost m3 t/0\n", {"t/0": 10}) == {}
    read = kinds(late + seen("d", "m3", 2.55, 3) + "d 2.6 lost m3 t/0\n", {"t/0": 10})
    assert read == {"two-owners": 1, "lost-commit": 1, "fenced-commit": 1}


def test_who_dies_leaves_what_it_had_last() -> None:
    """The last that it was given is given again; what was before is not."""
    assert kinds(KILLED + "b 1.4 assigned m2 2 auto t/0 3\n", {"t/0": 3}) == {}
    assert kinds(KILLED + "b 1.4 assigned m2 2 auto t/0 0\n", {"t/0": 3}) == {"lost-commit": 1}


def test_two_owners() -> None:
    both = "a 1 assigned m1 1 auto t/0 0\nb 2 assigned m2 2 auto t/0 0\n"
    assert kinds(both) == {"two-owners": 1}
    assert kinds(both + "a 3 revoked m1 t/0\n") == {"two-owners": 1}
    assert kinds(both + "a 1.9 revoked m1 t/0\n") == {}
    assert kinds(both + "c 1.9 kill a\n") == {}
    assert kinds(both + "c 2 late 900000000\n") == {}, "the machine was so busy that nobody could show itself"


def test_who_was_silent_may_be_put_out() -> None:
    assert kinds(STOPPED + "a 3.1 lost m1 t/0\n") == {}
    early = STOPPED.replace("b 2.4", "b 1.5")
    assert kinds(early + "a 3.1 lost m1 t/0\n") == {"two-owners": 1}


def test_who_waits_for_the_disk_is_silent() -> None:
    """A durable commit may take longer than a session."""
    slow = STOPPED.replace("c 1.2 stop a\n", "").replace("c 3 resume a", "a 3 commit m1 {} t/0 0")
    assert kinds(slow.format(int(1.2 * S)) + "a 3.1 lost m1 t/0\n") == {}
    assert kinds(slow.format(int(2.3 * S)) + "a 3.1 lost m1 t/0\n") == {"two-owners": 1}


def test_who_was_put_out_reads_on() -> None:
    """What it was given before it was stopped, it may note afterwards; no more."""
    assert kinds(STOPPED + seen("a", "m1", 3.1, 3)) == {}
    assert kinds(STOPPED + seen("a", "m1", 3.1, 3) + seen("a", "m1", 3.2, 4)) == {"two-owners": 1}


def test_fenced_commit() -> None:
    assert kinds(STOPPED + f"a 3.1 commit m1 {3 * S} t/0 0\n", {"t/0": 0}) == {"fenced-commit": 1}
    assert kinds(STOPPED + f"a 3.1 commit m1 {2 * S} t/0 0\n", {"t/0": 0}) == {}
    assert kinds(STOPPED + "a 3.1 refused m1 t/0 3\n") == {}


def test_lost_commit() -> None:
    assert kinds(HANDED_OVER.replace("manual t/0 5", "manual t/0 4"), {"t/0": 10}) == {"lost-commit": 1}
    assert kinds(HANDED_OVER) == {"lost-commit": 1}
    assert kinds(HANDED_OVER, {"t/0": 9}) == {"lost-commit": 1}


def test_what_is_observed_never_goes_back() -> None:
    back = "o 1 observed t/0 5\no 2 observed t/0 4\n"
    assert kinds(back) == {"lost-commit": 1}
    assert kinds(back.replace("t/0 4", "t/1 4")) == {}
    assert kinds(back.replace("o 2", "q 2")) == {}, "they are two observers"


def test_what_one_who_was_fenced_has_read_on_its_own_does_not_count() -> None:
    """It was stopped between two requests; the second one's commit may have come too late."""
    text = (
        STOPPED.replace("manual t/0 0\n", "auto t/0 0\n", 1) + seen("a", "m1", 3.1, 3) + "a 3.2 lost m1 t/0\n"
    )
    assert kinds(text) == {}
    quick = (
        text.replace("stop a", "nothing").replace("b 2.4 assigned", "b 3.3 assigned").replace("3.1", "1.3")
    )
    assert kinds(quick, {"t/0": 3}) == {"lost-commit": 1}


def test_lost_delivery() -> None:
    assert kinds(HANDED_OVER.replace(f"t/0 3 {A} 3 2", f"t/0 4 {A} 4 1"), {"t/0": 10}) == {"lost-delivery": 1}
    assert kinds(HANDED_OVER.replace(f"t/0 0 {A} 0 3", f"t/0 1 {A} 1 2"), {"t/0": 10}) == {"lost-delivery": 1}
    assert kinds(HANDED_OVER, {"t/0": 11}) == {"lost-delivery": 1}


@pytest.mark.parametrize(("generation", "found"), [(7, {}), (8, {}), (6, {"generation": 1})])
def test_generation(generation: int, found: dict[str, int]) -> None:
    assert kinds(f"a 1 assigned m1 7 auto\na 2 assigned m1 {generation} auto\n") == found


def test_a_partition_that_nobody_takes_over() -> None:
    assert kinds(KILLED + "b 4.2 assigned m2 2 auto t/0 3\n", {"t/0": 3}) == {}
    late = KILLED + "b 5.3 assigned m2 2 auto t/0 3\n"
    assert kinds(late, {"t/0": 3}) == {"stall": 1}
    assert kinds(late + "c 2 stop b\nc 4 resume b\n", {"t/0": 3}) == {}


def test_how_long_a_hand_over_takes() -> None:
    found = Findings()
    assert groups.check(entries(KILLED + "b 1.34 assigned m2 2 auto t/0 3\n"), LOGS, {"t/0": 3}, found) == 40
    assert groups.check(entries(HANDED_OVER), LOGS, {"t/0": 10}, found) == -1
    assert found.counts == {}
