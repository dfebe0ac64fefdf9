"""Options of consumers in a group: what each takes, and what is refused before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pystream
from group_lives import fill, owned, places
from harness import quick_directory
from pystream import OptionError, ReadOnlyError, TopicNotFoundError

T4 = [("t", index) for index in range(4)]


@pytest.fixture
def store() -> Iterator[pystream.Store]:
    with quick_directory() as directory, pystream.open(directory / "s") as opened:
        yield opened


def join(store: pystream.Store, *topics: Any, **options: Any) -> pystream.Consumer:
    return store.consumer(*topics or ("t",), group="g", **options)


def test_assignors_do_not_mix(store):
    fill(store)
    with join(store, assignor="range") as first:
        with pytest.raises(OptionError, match=r"assignor='sticky': the members .* use 'range'"):
            join(store)
        assert places(first) == [T4]
        assert len(store.group("g").describe().members) == 1
    with join(store) as alone:  # whose members are gone, it may change
        assert places(alone) == [T4]


@pytest.mark.parametrize(
    ("option", "value", "error", "says"),
    [
        ("group", "", OptionError, "empty"),
        ("group", "a/b", OptionError, "'/' is not allowed"),
        ("group", "a+b", OptionError, r"'\+' is not allowed"),
        ("group", "..", OptionError, "not allowed"),
        ("group", "__x", OptionError, "reserved"),
        ("group", "x" * 250, OptionError, "at most 249"),
        ("group", 7, TypeError, "group name must be a str"),
        ("assignor", "best", OptionError, "assignor"),
        ("session_timeout", 0.0999, OptionError, "session_timeout"),
        ("session_timeout", 86400.001, OptionError, "session_timeout"),
        ("session_timeout", -1, OptionError, "session_timeout"),
        ("auto_commit", 1, TypeError, "auto_commit"),
        ("truncated", "ignore", OptionError, "truncated"),
        ("client", 7, TypeError, "client"),
        ("on_assigned", 7, TypeError, "on_assigned"),
        ("on_revoked", "x", TypeError, "on_revoked"),
        ("on_lost", 7, TypeError, "on_lost"),
    ],
)
def test_options_that_are_refused(store, option, value, error, says):
    fill(store)
    with pytest.raises(error, match=says):
        store.consumer("t", **{"group": "g"} | {option: value})
    assert store.groups() == []


def test_options_at_their_limits(store):
    fill(store)
    for options in (
        {"group": "x" * 249},
        {"session_timeout": 0.1},
        {"session_timeout": 86400},
        {"session_timeout": "1d"},
        {"client": ""},
        {"client": "ü" * 1000},
    ):
        with store.consumer("t", **{"group": "g"} | options) as consumer:
            assert places(consumer) == [T4]
            assert consumer.poll(timeout=0.01) is None


@pytest.mark.parametrize(
    "option",
    [
        {"assignor": "range"},
        {"session_timeout": 5},
        {"auto_commit": False},
        {"truncated": "resume"},
        {"client": "x"},
        {"on_assigned": print},
        {"on_revoked": print},
        {"on_lost": print},
    ],
    ids=lambda option: next(iter(option)),
)
def test_options_that_want_a_group(store, option):
    fill(store)
    with pytest.raises(OptionError, match=rf"{next(iter(option))}= is for consumers in a group"):
        store.consumer("t", **option)


def test_read_only_stores_have_no_members(store):
    fill(store)
    with (
        pystream.open(store.path, mode="r") as reading,
        pytest.raises(ReadOnlyError),
    ):
        reading.consumer("t", group="g")
    assert store.groups() == []


def test_a_topic_that_is_not_there(store):
    with pytest.raises(TopicNotFoundError):
        join(store, "no")
    assert owned(store, "g") == {} and store.group("g").describe().members == ()
