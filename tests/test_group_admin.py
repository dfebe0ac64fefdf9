"""Groups from outside: told about, set elsewhere, deleted; and topics that come and go under patterns."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pystream
from group_lives import Company, append, fill, places, until
from harness import T0, quick_directory
from pystream import GroupNotEmptyError, GroupNotFoundError, OptionError, TopicPartition

P = ("t", 0)


@pytest.fixture
def store() -> Iterator[pystream.Store]:
    with quick_directory() as directory, pystream.open(directory / "s") as opened:
        yield opened


def place(index: int, name: str = "t") -> TopicPartition:
    return TopicPartition(name, index)


def use(store: pystream.Store, *offsets: int | None, group: str = "g") -> None:
    """Commit these offsets in partitions 0, 1 ... of t."""
    with store.consumer(group=group, auto_commit=False) as consumer:
        consumer.assign([("t", index) for index in range(len(offsets))])
        consumer.commit({("t", index): offset for index, offset in enumerate(offsets) if offset is not None})


# ---- told about -----------------------------------------------------------------------------------


def test_describe(store):
    topic = fill(store, partitions=2, records=10)
    before = datetime.now(UTC) - timedelta(seconds=1)
    with store.consumer("t", group="g", client="billing", session_timeout=7, assignor="range") as consumer:
        company = Company(store, "g", consumer)
        company.ask()
        append(topic, 0, 1)
        description = store.group("g").describe()
        assert (description.name, description.state, description.assignor) == ("g", "stable", "range")
        assert description.generation == consumer.generation == 1
        (member,) = description.members
        assert member.member_id == consumer.member_id
        assert (member.client, member.alive, member.topics, member.session_timeout) == (
            "billing",
            True,
            ("t",),
            7.0,
        )
        assert member.partitions == (place(0), place(1))
        assert isinstance(member.pid, int) and Path(f"/proc/{member.pid}").exists()
        first, second = description.partitions
        assert (first.topic, first.partition, second.partition) == ("t", 0, 1)
        assert (first.member_id, first.pid) == (consumer.member_id, member.pid)
        assert (first.beginning_offset, first.end_offset, first.committed, first.lag) == (0, 11, 0, 11)
        assert before < first.committed_at <= datetime.now(UTC)
        assert first.committed_at.tzinfo is UTC
    description = store.group("g").describe()
    assert (description.state, description.members) == ("empty", ())
    assert [where.committed for where in description.partitions] == [1, 0]
    assert [where.member_id for where in description.partitions] == [None, None]
    assert all(where.durable for where in description.partitions)
    assert repr(store.group("g")).startswith("<pystream.Group 'g' of ")


def test_describe_what_was_never_committed(store):
    fill(store, partitions=2, records=10)
    with store.consumer("t", group="g", auto_commit=False):
        for where in store.group("g").describe().partitions:
            assert (where.committed, where.committed_at, where.metadata, where.durable) == (
                None,
                None,
                "",
                False,
            )
            assert where.lag == 10
    use(store, 4)
    first, *_ = store.group("g").describe().partitions
    assert (first.committed, first.lag) == (4, 6)


def test_describe_without_its_topic(store):
    fill(store, partitions=1, records=10)
    use(store, 4)
    store.delete_topic("t")
    (where,) = store.group("g").describe().partitions
    assert (where.topic, where.committed, where.end_offset, where.beginning_offset, where.lag) == (
        "t",
        4,
        None,
        None,
        None,
    )
    assert store.group("g").committed() == {}
    assert store.group("g").reset("earliest") == {}


def test_groups_that_there_are(store):
    fill(store)
    assert store.groups() == []
    for name in ("b", "a", "a-b.c_d"):
        use(store, 0, group=name)
    assert store.groups() == ["a", "a-b.c_d", "b"]
    Path(store.path, "groups", "no control here").mkdir()
    Path(store.path, "groups", "file").write_text("")
    assert store.groups() == ["a", "a-b.c_d", "b"]
    for name, error in (("no", GroupNotFoundError), ("file", GroupNotFoundError), ("a/b", OptionError)):
        with pytest.raises(error, match=re.escape(name)):
            store.group(name)
    with pytest.raises(TypeError, match="group name must be a str"):
        store.group(7)
    assert issubclass(GroupNotFoundError, LookupError) and issubclass(GroupNotEmptyError, RuntimeError)


def test_of_a_store_that_is_closed(store):
    fill(store)
    use(store, 0)
    group = store.group("g")
    store.close()
    for ask in (store.groups, lambda: store.group("g"), group.describe, group.committed, group.delete):
        with pytest.raises(pystream.ClosedError):
            ask()


# ---- set elsewhere --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        ({"to": "earliest"}, [0, 0]),
        ({"to": "latest"}, [10, 10]),
        ({"to": 0}, [0, 0]),
        ({"to": 7}, [7, 7]),
        ({"to": 10}, [10, 10]),
        ({"to": 11}, [10, 10]),
        ({"to": 2**62}, [10, 10]),
        ({"to": np.datetime64(T0 + 3, "ns")}, [3, 3]),
        ({"to": datetime(2100, 1, 1, tzinfo=UTC)}, [10, 10]),
        ({"shift": 2}, [6, 8]),
        ({"shift": -5}, [0, 1]),
        ({"shift": 0}, [4, 6]),
        ({"shift": 6}, [10, 10]),
        ({"shift": -(2**62)}, [0, 0]),
    ],
    ids=str,
)
def test_reset(store, arguments, after):
    topic = store.topic("t", create=True, partitions=2)
    for index in range(2):
        for number in range(10):
            topic.append([b"x"], partition=index, timestamps=T0 + number)
    use(store, 4, 6)
    group = store.group("g")
    wanted = {place(index): ((4, 6)[index], after[index]) for index in range(2)}
    assert group.reset(**arguments, dry_run=True) == wanted
    assert [entry.offset for entry in group.committed().values()] == [4, 6]
    assert group.reset(**arguments) == wanted
    assert [(where.committed, where.durable) for where in group.describe().partitions] == [
        (offset, True) for offset in after
    ]
    with store.consumer("t", group="g") as consumer:
        assert [consumer.position(("t", index)) for index in range(2)] == after


def test_reset_of_some(store):
    fill(store, partitions=3, records=10)
    fill(store, "u", partitions=1, records=5)
    use(store, 4, 6)
    group = store.group("g")
    assert group.reset("latest", partitions=[("t", 2)]) == {place(2): (None, 10)}
    assert group.reset("latest", topics=["u"]) == {place(0, "u"): (None, 5)}
    assert group.reset(shift=1, topics="t") == {place(0): (4, 5), place(1): (6, 7), place(2): (10, 10)}
    assert group.reset(shift=-1, topics=["u"], partitions=[("t", 0), TopicPartition("t", 0)]) == {
        place(0): (5, 4),
        place(0, "u"): (5, 4),
    }
    assert group.reset("earliest", topics=[], partitions=[]) == {}
    assert group.reset("earliest").keys() == {place(0), place(1), place(2), place(0, "u")}


def test_resets_that_are_refused(store):
    fill(store, partitions=2, records=10)
    use(store, 4, 6)
    group = store.group("g")
    for arguments, error, says in (
        ({}, OptionError, "to= or shift="),
        ({"to": "earliest", "shift": 1}, OptionError, "to= or shift="),
        ({"to": "soon"}, OptionError, "to"),
        ({"to": -1}, OptionError, "to"),
        ({"to": 1.5}, TypeError, "to"),
        ({"shift": "2"}, TypeError, "shift"),
        ({"to": 0, "topics": ["no"]}, pystream.TopicNotFoundError, "no"),
        ({"to": 0, "partitions": [("t", 2)]}, OptionError, "t"),
        ({"to": 0, "partitions": ("t", 0)}, TypeError, "partitions= must be a list .* it has 't' in it"),
        ({"to": 0, "partitions": [0]}, TypeError, "partitions= must be a list .* it has 0 in it"),
        ({"to": 0, "partitions": 0}, TypeError, "partitions= must be a list, not int"),
        ({"to": 0, "topics": 5}, TypeError, "topics= must be a list, not int"),
        ({"to": {("t", 0): 3}}, TypeError, "to= must be an offset, .* not dict"),
        ({"to": 0, "dry_run": 1}, TypeError, "dry_run"),
    ):
        with pytest.raises(error, match=says):
            group.reset(**arguments)
        assert [entry.offset for entry in group.committed().values()] == [4, 6]


def test_what_members_read_is_not_reset(store):
    fill(store, partitions=2, records=10)
    with store.consumer(group="g") as consumer:
        consumer.assign([("t", 1)])
        group = store.group("g")
        with pytest.raises(
            GroupNotEmptyError, match=r"'t'/1 is read by a member of group 'g', in process \d+"
        ):
            group.reset("latest", topics=["t"])
        assert place(0) not in group.committed()
        assert group.reset("latest", partitions=[P]) == {place(0): (None, 10)}
        with pytest.raises(GroupNotEmptyError):
            group.reset("latest", partitions=[("t", 1)], dry_run=True)
        consumer._membership.abandon()
        assert group.reset("latest", partitions=[("t", 1)]) == {place(1): (0, 10)}


# ---- deleted --------------------------------------------------------------------------------------


def test_delete(store):
    fill(store, records=10)
    with store.consumer("t", group="g") as consumer:
        consumer.commit({P: 4})
    assert consumer.generation == 2  # it left
    group, again = store.group("g"), store.group("g")
    group.delete()
    assert store.groups() == []
    assert list(Path(store.path, "groups").iterdir()) == []
    for one in (group, again):
        for ask in (one.describe, one.committed, one.delete, lambda one=one: one.reset("earliest")):
            with pytest.raises(GroupNotFoundError, match="'g'"):
                ask()
    with pytest.raises(GroupNotFoundError):
        store.group("g")
    assert consumer.generation is None
    with store.consumer("t", group="g") as consumer:  # another of that name
        assert (consumer.position(P), consumer.generation) == (0, 1)


def test_a_group_with_members_is_not_deleted(store):
    fill(store)
    group = None
    with store.consumer("t", group="g") as consumer:
        group = store.group("g")
        with pytest.raises(GroupNotEmptyError, match=r"group 'g' has members, in processes \d+"):
            group.delete()
        assert consumer.poll(timeout=0) is None
        assert len(places(consumer)[0]) == 4
        consumer._membership.abandon()
        group.delete()
    assert store.groups() == []


def test_deleted_while_somebody_joins(store):
    """Whoever has opened it, and is about to join, joins another of that name."""
    fill(store, partitions=1, records=3)
    use(store, 2)
    with store.consumer(group="g") as consumer:
        store.group("g").delete()
        consumer.subscribe("t")
        assert consumer.position(P) == 0
        assert store.groups() == ["g"]
        assert len(store.group("g").describe().members) == 1


# ---- patterns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["^a.*", "^a(-[0-9]+)?$", re.compile("a.*"), re.compile("A.*", re.I)], ids=str
)
@pytest.mark.parametrize("group", [None, "g"])
def test_topics_that_match(store, pattern, group):
    for name in ("a", "a-1", "ba", "b"):
        fill(store, name, partitions=1)
    with store.consumer(pattern, **({"group": group} if group else {})) as consumer:
        assert places(consumer) == [[("a", 0), ("a-1", 0)]]
        consumer.subscribe("b")
        assert places(consumer) == [[("b", 0)]]
        consumer.subscribe(pattern)
        assert places(consumer) == [[("a", 0), ("a-1", 0)]]
        consumer.subscribe(re.compile("none"))
        assert places(consumer) == [[]]
        assert consumer.poll(timeout=0.01) is None  # some may come


@pytest.mark.parametrize("group", [None, "g"])
def test_patterns_that_are_refused(store, group):
    fill(store)
    options = {"group": group} if group else {}
    for topics, error, says in (
        (("^(",), OptionError, "not a regular expression"),
        (("^a", "b"), OptionError, "one pattern alone"),
        (("b", re.compile("a")), OptionError, "one pattern alone"),
        ((re.compile(b"a"),), TypeError, "must be one of str"),
    ):
        with pytest.raises(error, match=says):
            store.consumer(*topics, **options)


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("busy", [False, True], ids=["waiting", "flowing"])
def test_a_topic_that_comes_is_read(store, group, busy):
    """Within 100 ms, it says; here only soon. Its first records are read though it begins at the latest."""
    flow = fill(store, "a-0", partitions=1, records=1)
    consumer = store.consumer("^a-.*", **({"group": group} if group else {}))
    seen: dict[str, float] = {}
    done = threading.Event()

    def read() -> None:
        try:
            for record in consumer:
                seen.setdefault(record.topic, time.monotonic())
        except pystream.ClosedError:
            pass

    def flood() -> None:
        while not done.is_set():
            flow.append([b"x"])
            time.sleep(0.0002)

    threads = [threading.Thread(target=work) for work in ([read, flood] if busy else [read])]
    for thread in threads:
        thread.start()
    until(lambda: "a-0" in seen, "the first")
    for number in range(1, 4):
        topic = fill(store, f"a-{number}", partitions=2)
        fill(store, f"b-{number}", partitions=1, records=1)
        topic.append([b"first"], partition=1)
        appended = time.monotonic()
        until(lambda name=topic.name: name in seen, "the topic")
        assert seen[topic.name] - appended < 2
    done.set()
    consumer.close()
    for thread in threads:
        thread.join(20)
    assert seen.keys() == {"a-0", "a-1", "a-2", "a-3"}


@pytest.mark.parametrize("group", [None, "g"])
def test_the_first_topic_of_all(store, group):
    """It is heard of at once, though there was nothing to watch; several times, for no wait is to hide it."""
    late = 0
    for number in range(3):
        with store.consumer(f"^a-{number}.*", **({"group": group} if group else {})) as consumer:
            got: list[Any] = []
            thread = threading.Thread(
                target=lambda consumer=consumer, got=got: got.append(consumer.poll(timeout=20))
            )
            thread.start()
            began = time.monotonic()
            fill(store, f"a-{number}", partitions=1, records=1)
            thread.join()
            late += time.monotonic() - began > 0.5
            assert got[0].topic == f"a-{number}"
    assert late <= 1


@pytest.mark.parametrize("group", [None, "g"])
def test_a_topic_that_goes_is_dropped(store, group):
    for name in ("a-0", "a-1"):
        fill(store, name, partitions=1, records=2)
    said: list[Any] = []
    options: dict[str, Any] = (
        {"group": group, "on_revoked": lambda _, partitions: said.append([tuple(p[:2]) for p in partitions])}
        if group
        else {}
    )
    with store.consumer("^a-.*", **options) as consumer:
        for _ in range(4):
            consumer.poll(timeout=5)
        store.delete_topic("a-1")
        assert consumer.poll(timeout=0.05) is None
        assert places(consumer) == [[("a-0", 0)]]
        assert said == ([[("a-1", 0)]] if group else [])
        append(store["a-0"], 0, 1)
        assert consumer.poll(timeout=5).topic == "a-0"
        fill(store, "a-1", partitions=2, records=1)  # another of that name
        got = [consumer.poll(timeout=5) for _ in range(2)]
        assert [(batch.topic, batch.offsets.tolist()) for batch in got] == [("a-1", [0])] * 2
        assert len(places(consumer)[0]) == 3


def test_a_topic_that_comes_is_shared_out(store):
    fill(store, "a-0", partitions=2)
    company = Company(store, "g", *[store.consumer("^a-.*", group="g") for _ in range(2)])
    assert [len(share) for share in company.settle()] == [1, 1]
    fill(store, "a-1", partitions=4, records=3)
    until(lambda: company.ask() or sum(map(len, places(*company.consumers))) == 6, "the topic")
    assert [len(share) for share in company.settle()] == [3, 3]
    assert all(company.offsets(("a-1", index)) == [0, 1, 2] for index in range(4))
    company.close()
