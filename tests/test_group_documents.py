"""The form in which a group's state is written: it comes back whole, and nothing else passes for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystream._native.hashing import xxh3_hex
from pystream._native.limits import FORMAT_VERSION
from pystream.errors import CorruptLogError, FormatVersionError
from pystream.group.documents import Claim, Committed, Member, State, Subscribed, decode, encode

offsets = st.integers(0, 2**63 - 1)
uuids = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")
members = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")
keys = st.tuples(uuids, st.integers(0, 2**31 - 1))
text = st.text(st.characters(), max_size=20)  # lone surrogates, too: what a file name may hold
names = st.text("abcXYZ019._-", min_size=1, max_size=20)
states = st.builds(
    State,
    generation=offsets,
    assignor=st.sampled_from(["sticky", "range", "roundrobin"]),
    deleted=st.booleans(),
    members=st.dictionaries(
        members,
        st.builds(
            Member,
            st.integers(1, 2**22),
            offsets,
            text,
            st.lists(names, max_size=3).map(tuple),
            offsets,
            st.booleans(),
        ),
        max_size=4,
    ),
    topics=st.dictionaries(names, st.builds(Subscribed, uuids, st.integers(1, 2**31 - 1)), max_size=4),
    claims=st.dictionaries(
        keys,
        st.builds(Claim, members, st.integers(0, 2**20 - 1), offsets, st.integers(0, 2**31 - 1)),
        max_size=4,
    ),
    targets=st.dictionaries(keys, members, max_size=4),
    committed=st.dictionaries(
        keys, st.builds(Committed, offsets, st.integers(0, 2**31 - 1), text, offsets), max_size=4
    ),
    names=st.dictionaries(uuids, names, max_size=4),
)

KEY = ("0123456789abcdef" * 2, 3)
STATE = State(
    generation=7,
    members={"00000000000000aa": Member(41, 4026531836, "billing.py", ("clicks",), 45 * 10**9, False)},
    topics={"clicks": Subscribed(KEY[0], 4)},
    claims={KEY: Claim("00000000000000aa", 0, 6, 2)},
    targets={KEY: "00000000000000aa"},
    committed={KEY: Committed(12, 2, "café", 1_700_000_000_000_000_000)},
    names={KEY[0]: "clicks"},
)


@settings(deadline=None, max_examples=150)
@given(states)
def test_what_is_written_comes_back(state: State) -> None:
    data = encode(state)
    assert decode(data, "somewhere") == state
    assert encode(decode(data, "somewhere")) == data
    assert data.isascii() and data.count(b"\n") == 2  # it can be read with a pager


@settings(deadline=None, max_examples=50)
@given(states)
def test_a_copy_is_changed_alone(state: State) -> None:
    before = encode(state)
    copy = state.copy()
    assert copy == state
    copy.generation += 1
    for mapping in (copy.members, copy.topics, copy.claims, copy.targets, copy.committed, copy.names):
        mapping.clear()
    assert encode(state) == before


def test_what_a_member_has() -> None:
    assert STATE.claimed_by("00000000000000aa") == STATE.claims
    assert STATE.targets_of("00000000000000aa") == {KEY}
    assert STATE.claimed_by("00000000000000bb") == {}
    assert STATE.targets_of("00000000000000bb") == set()


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_every_byte_that_differs_is_told(mask: int) -> None:
    data = encode(STATE)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= mask
        with pytest.raises((CorruptLogError, FormatVersionError), match="some/where") as caught:
            decode(bytes(damaged), "some/where")
        assert caught.value.path == "some/where"


def test_every_piece_that_is_missing_or_too_much_is_told() -> None:
    data = encode(STATE)
    for end in range(len(data)):
        with pytest.raises(CorruptLogError, match="damaged"):
            decode(data[:end], "x")
    for more in (b"\0", b"\n", data):
        with pytest.raises(CorruptLogError, match="damaged"):
            decode(data + more, "x")
    with pytest.raises(CorruptLogError, match="damaged"):
        decode(bytes(4096), "x")


def test_another_version_is_told_from_damage() -> None:
    data = encode(STATE)
    newer = written(data.partition(b"\n")[2].decode().rstrip(), FORMAT_VERSION + 1)
    with pytest.raises(
        FormatVersionError, match=rf"version {FORMAT_VERSION + 1}; this .* version {FORMAT_VERSION}$"
    ):
        decode(newer, "x")


def test_a_damaged_version_is_no_other_version() -> None:
    data = encode(STATE)
    at = len(b"pystream-group ")
    for bit in range(8):
        with pytest.raises(CorruptLogError, match="checksum differs"):
            decode(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], "x")


def written(document: Any, version: int = FORMAT_VERSION) -> bytes:
    """With a checksum that fits."""
    body = (document if isinstance(document, str) else json.dumps(document)).encode() + b"\n"
    checksum = xxh3_hex(f"{version}\n".encode() + body)
    return f"pystream-group {version} {checksum}\n".encode() + body


def sound() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encode(STATE).partition(b"\n")[2])
    return document


def test_the_form_is_what_these_tests_think() -> None:
    assert decode(written(sound()), "x") == STATE


@pytest.mark.parametrize("entry", sorted(sound()))
def test_entries_that_are_missing_or_malformed(entry: str) -> None:
    lacking = sound()
    del lacking[entry]
    with pytest.raises(CorruptLogError, match="missing or malformed"):
        decode(written(lacking), "x")
    if entry not in ("deleted", "assignor"):
        for wrong in ("nonsense", [[1]], None):
            with pytest.raises(CorruptLogError, match="missing or malformed"):
                decode(written(sound() | {entry: wrong}), "x")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "7", '"state"', "{}"])
def test_no_document_at_all(text: str) -> None:
    with pytest.raises(CorruptLogError, match="missing or malformed"):
        decode(written(text), "x")
