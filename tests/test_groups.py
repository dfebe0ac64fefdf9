"""Members of a consumer group in one process: who reads what, who is told, and what is refused."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

import pystream
from group_lives import Company, append, fill, owned, places, until
from harness import quick_directory
from pystream import (
    ClosedError,
    OptionError,
    PartitionOwnedError,
    TopicDeletedError,
    TopicNotFoundError,
)
from pystream._native.reader import PartitionReader

T4 = [("t", index) for index in range(4)]


@pytest.fixture
def store() -> Iterator[pystream.Store]:
    with quick_directory() as directory, pystream.open(directory / "s") as opened:
        yield opened


def join(store: pystream.Store, *topics: Any, **options: Any) -> pystream.Consumer:
    return store.consumer(*topics or ("t",), group="g", **options)


class Calls:
    """What a consumer's callbacks were called with."""

    def __init__(self) -> None:
        self.said: list[tuple[str, list[tuple[str, int]]]] = []
        self.options = {name: self.hear(name) for name in ("on_assigned", "on_revoked", "on_lost")}

    def hear(self, name: str) -> Any:
        def called(consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
            assert all(isinstance(where, pystream.TopicPartition) for where in partitions)
            self.said.append((name, [tuple(where[:2]) for where in partitions]))

        return called


# ---- who reads what -------------------------------------------------------------------------------


def test_one_member_reads_everything(store):
    fill(store, records=3)
    with join(store) as consumer:
        assert places(consumer) == [T4]
        assert (consumer.group, consumer.generation) == ("g", 1)
        assert re.fullmatch("[0-9a-f]{16}", consumer.member_id)
        got = [next(iter(consumer)) for _ in range(12)]
        assert sorted((record.partition, record.offset) for record in got) == [
            (index, offset) for index in range(4) for offset in range(3)
        ]
        assert owned(store, "g") == dict.fromkeys(T4, consumer.member_id)
    assert owned(store, "g") == {}


def test_without_a_group_there_is_none(store):
    fill(store)
    with store.consumer("t") as consumer:
        assert (consumer.group, consumer.member_id, consumer.generation) == (None, None, None)
        for use in (
            consumer.commit,
            lambda: consumer.committed(("t", 0)),
            consumer.seek_to_committed,
            consumer.heartbeat,
        ):
            with pytest.raises(OptionError, match="in no group"):
                use()
    assert store.groups() == []


def test_an_owner_gives_up_when_it_asks_and_not_before(store):
    topic = fill(store)
    first, second = join(store), join(store)
    company = Company(store, "g", first, second)
    assert places(first, second) == [T4, []]
    assert company.group.describe().state == "rebalancing"
    for _ in range(5):
        assert second.poll(timeout=0) is None
    assert places(first, second) == [T4, []]
    assert first.poll(timeout=0) is None
    assert len(places(first)[0]) == 2
    assert second.poll(timeout=0) is None
    assert sorted(chain.from_iterable(places(first, second))) == T4
    assert company.group.describe().state == "stable"
    for index in range(4):
        append(topic, index, 2)
    company.settle()
    assert all(company.offsets(place) == [0, 1] for place in T4)
    readers = {place: {who for who, where in company.given if where[:2] == place} for place in T4}
    assert all(len(who) == 1 for who in readers.values())
    company.close()


def test_every_record_is_read_in_order_while_members_come_and_go(store):
    topic = fill(store, records=2)
    company = Company(store, "g", *[join(store)]) if store.groups() else None
    first = join(store)
    company = Company(store, "g", first)
    for number in range(6):
        for index in range(4):
            append(topic, index, 2)
        if number % 3 == 2:
            company.consumers.pop(0).close()
        company.consumers.append(join(store))
        company.settle()
    for place in T4:
        assert company.offsets(place) == list(range(14)), place  # closed cleanly: none is read twice
    company.close()


@pytest.mark.parametrize("assignor", ["sticky", "range", "roundrobin"])
def test_assignors(store, assignor):
    fill(store, "a", partitions=3)
    fill(store, "b", partitions=3)
    both = [join(store, "a", "b", assignor=assignor) for _ in range(2)]
    company = Company(store, "g", *both)
    shares = company.settle()
    assert sorted(map(len, shares)) == ([2, 4] if assignor == "range" else [3, 3])
    if assignor == "range":
        for share in shares:
            assert [index for name, index in share if name == "a"] == [
                index for name, index in share if name == "b"
            ]
    assert company.group.describe().assignor == assignor
    company.close()


def test_sticky_moves_as_little_as_possible(store):
    fill(store, partitions=6)
    company = Company(store, "g", join(store), join(store))
    before = company.settle()
    company.consumers.append(join(store))
    after = company.settle()
    assert [len(share) for share in after] == [2, 2, 2]
    assert all(set(now) < set(old) for old, now in zip(before, after[:2], strict=True))
    company.consumers.pop().close()
    assert [set(share) for share in company.settle()] != []
    assert all(set(now) > set(old) for old, now in zip(after[:2], places(*company.consumers), strict=True))
    company.close()


def test_more_members_than_partitions(store):
    """The one too many waits: it neither raises nor spins, and is there when it is wanted."""
    topic = fill(store, partitions=1)
    first, second = join(store), join(store)
    assert Company(store, "g", first, second).settle() == [[("t", 0)], []]
    before = time.thread_time()
    assert second.poll(timeout=0.3) is None
    assert time.thread_time() - before < 0.1
    assert second.lag() == {}
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(second.poll(timeout=20)))
    waiting.start()
    first.close()
    append(topic, 0, 1)
    waiting.join()
    assert [batch.offsets.tolist() for batch in got] == [[0]]
    second.close()


def test_topics_of_several_members_may_differ(store):
    fill(store, "a", partitions=2)
    fill(store, "b", partitions=2)
    company = Company(store, "g", join(store, "a"), join(store, "a", "b"))
    shares = company.settle()
    assert sorted(shares[0] + shares[1]) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert shares == [[("a", 0), ("a", 1)], [("b", 0), ("b", 1)]]
    company.close()


def test_groups_do_not_disturb_each_other(store):
    fill(store, records=2)
    with store.consumer("t", group="one") as one, store.consumer("t", group="two") as two:
        assert places(one, two) == [T4, T4]
        for consumer, name in ((one, "one"), (two, "two")):
            company = Company(store, name, consumer)
            company.settle()
            assert all(company.offsets(place) == [0, 1] for place in T4)
    assert store.groups() == ["one", "two"]


def test_two_stores_in_one_process(store):
    """Opened twice, it is the same group."""
    fill(store)
    with pystream.open(store.path) as again:
        first, second = join(store), join(again)
        assert sorted(map(len, Company(store, "g", first, second).settle())) == [2, 2]
        second.close()
        assert Company(again, "g", first).settle() == [T4]
        first.close()


def test_subscribing_anew(store):
    fill(store, "a", partitions=2, records=2)
    fill(store, "b", partitions=2)
    calls = Calls()
    first, second = join(store, "a", **calls.options), join(store, "a", "b")
    company = Company(store, "g", first, second)
    member = first.member_id
    assert company.settle() == [[("a", 0), ("a", 1)], [("b", 0), ("b", 1)]]
    first.subscribe(["a", "b"])
    assert first.member_id == member
    assert [len(share) for share in company.settle()] == [2, 2]
    first.subscribe("b")
    shares = company.settle()
    assert [place for place in shares[1] if place[0] == "a"] == [("a", 0), ("a", 1)]
    first.subscribe([])
    assert places(first) == [[]]
    with pytest.raises(OptionError, match="reads nothing yet"):
        first.poll(timeout=0)
    company.consumers = [second]
    assert len(company.settle()[0]) == 4
    first.subscribe("a")
    company.consumers = [first, second]
    company.settle()
    assert company.offsets(("a", 0)) == [0, 1]
    with pytest.raises(TopicNotFoundError, match="'no'"):
        first.subscribe(["a", "no"])
    company.settle()
    assert calls.said[0] == ("on_assigned", [("a", 0), ("a", 1)])
    assert {name for name, _ in calls.said} == {"on_assigned", "on_revoked"}
    company.close()


def test_a_consumer_without_topics_joins_later(store):
    fill(store, records=1)
    with store.consumer(group="g") as consumer:
        assert consumer.member_id is None
        with pytest.raises(OptionError, match="reads nothing yet"):
            consumer.poll(timeout=0)
        assert store.group("g").describe().members == ()
        consumer.subscribe("t")
        assert consumer.poll(timeout=5) is not None


# ---- callbacks ------------------------------------------------------------------------------------


def test_callbacks(store):
    fill(store)
    mine, theirs = Calls(), Calls()
    first = join(store, **mine.options)
    assert mine.said == [("on_assigned", T4)]
    second = join(store, **theirs.options)
    shares = Company(store, "g", first, second).settle()
    assert mine.said[1:] == [("on_revoked", shares[1])]
    assert theirs.said == [("on_assigned", shares[1])]
    second.close()
    assert theirs.said[1:] == [("on_revoked", shares[1])]
    Company(store, "g", first).settle()
    assert mine.said[2:] == [("on_assigned", shares[1])]
    first.close()
    assert mine.said[3:] == [("on_revoked", T4)]


def test_what_callbacks_may_do(store):
    """Commit and look about; what asks for records is refused, and everything goes on."""
    fill(store, records=4)
    refused: list[Any] = []
    leaving: list[Any] = []

    def revoked(consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        for place in partitions:
            assert place in consumer.assignment()
            consumer.commit({place: 1})
        for ask in (lambda: consumer.poll(timeout=0), lambda: next(iter(consumer))):
            if not leaving:
                with pytest.raises(RuntimeError, match="calling back"):
                    ask()
                refused.append(ask)

    def assigned(consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        for place in partitions:
            consumer.seek(place, 3)

    first = join(store, on_revoked=revoked, auto_commit=False)
    second = join(store, on_assigned=assigned)
    company = Company(store, "g", first, second)
    shares = company.settle()
    assert len(refused) == 2
    for place in shares[1]:
        assert [where.offset for who, where in company.given if who is second and where[:2] == place] == [3]
    leaving.append(True)
    company.close()


def test_a_callback_that_raises_keeps_its_partitions(store):
    """on_revoked has not done its work: it is called again at the next ask; nothing is given up before."""
    fill(store)
    failures = [ValueError("not yet"), ValueError("nor now")]
    calls = []

    def revoked(consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        calls.append(partitions)
        if failures:
            raise failures.pop(0)

    first, second = join(store, on_revoked=revoked), join(store)
    for text in ("not yet", "nor now"):
        with pytest.raises(ValueError, match=text):
            first.poll(timeout=0)
        assert places(first) == [T4]
        assert second.poll(timeout=0) is None
        assert places(second) == [[]]
    assert [len(share) for share in Company(store, "g", first, second).settle()] == [2, 2]
    assert len(calls) == 3
    assert calls[0] == calls[1] == calls[2]
    first.close()
    second.close()


def test_on_assigned_that_raises(store):
    """It goes to who asked; the partitions are read all the same."""
    topic = fill(store, partitions=1, records=1)
    failures = [ValueError("no room")]

    def assigned(consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        if failures:
            raise failures.pop()

    with store.consumer(group="g", on_assigned=assigned) as consumer:
        with pytest.raises(ValueError, match="no room"):
            consumer.subscribe("t")
        batch = consumer.poll(timeout=5)
        assert batch is not None and batch.offsets.tolist() == [0]
        append(topic, 0, 1)
        batch = consumer.poll(timeout=5)
        assert batch is not None and batch.offsets.tolist() == [1]


def test_on_revoked_that_raises_at_close(store):
    """The consumer is closed all the same, and the others have its partitions."""
    fill(store)

    def revoked(consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        raise ValueError("at the end")

    first, second = join(store, on_revoked=revoked), join(store)
    with pytest.raises(ValueError, match="at the end"):
        first.close()
    assert first.closed
    assert Company(store, "g", second).settle() == [T4]
    second.close()


def test_closing_in_a_callback(store):
    fill(store)
    first = join(store, on_revoked=lambda consumer, _: consumer.close())
    second = join(store)
    with pytest.raises(ClosedError):
        first.poll(timeout=0)
    assert first.closed
    assert Company(store, "g", second).settle() == [T4]
    second.close()


# ---- by hand --------------------------------------------------------------------------------------


def test_partitions_assigned_by_hand(store):
    fill(store, records=3)
    first, second = store.consumer(group="g"), store.consumer(group="g")
    first.assign([("t", 0), ("t", 1, 2)])
    second.assign([("t", 2)])
    company = Company(store, "g", first, second)
    assert company.settle() == [[("t", 0), ("t", 1)], [("t", 2)]]
    assert [company.offsets(place) for place in T4] == [[0, 1, 2], [2], [0, 1, 2], []]
    with pytest.raises(PartitionOwnedError, match=r"'t'/0 is read by another member of group 'g'") as caught:
        second.assign([("t", 3), ("t", 0)])
    assert (caught.value.topic, caught.value.partition) == ("t", 0)
    assert places(first, second) == [[("t", 0), ("t", 1)], [("t", 2)]]
    first.assign([("t", 1)])
    second.assign([("t", 0), ("t", 2)])
    assert places(first, second) == [[("t", 1)], [("t", 0), ("t", 2)]]
    first.close()
    second.assign(T4)
    assert places(second) == [T4]
    second.close()
    with store.consumer(group="g") as third:
        third.assign(T4)
        assert [third.position(place) for place in T4] == [3, 3, 3, 0]


def test_by_hand_beside_a_dead_member(store):
    """What it had is free."""
    fill(store)
    first, second = store.consumer(group="g"), store.consumer(group="g")
    first.assign([("t", 0)])
    second.assign([("t", 1)])
    first._membership.abandon()
    second.assign([("t", 0), ("t", 1)])
    assert places(second) == [[("t", 0), ("t", 1)]]
    second.close()
    first.close()


def test_who_assigns_and_who_subscribes_do_not_mix(store):
    fill(store)
    with store.consumer(group="g") as first, store.consumer(group="g") as second:
        first.assign([("t", 0)])
        with pytest.raises(OptionError, match="assign partitions by hand; all must do the same"):
            second.subscribe("t")
        assert places(first, second) == [[("t", 0)], []]
        second.assign([("t", 1)])
        with pytest.raises(OptionError, match="assign partitions by hand; all must do the same"):
            second.subscribe("t")
        assert places(first, second) == [[("t", 0)], [("t", 1)]]  # nothing has changed
        second.close()
        first.subscribe("t")  # alone, it may
        assert places(first) == [T4]
        with join(store) as third:
            with pytest.raises(OptionError, match="subscribe to topics; all must do the same"):
                third.assign([("t", 1)])
            Company(store, "g", first, third).settle()
            assert sorted(chain.from_iterable(places(first, third))) == T4
        first.assign([("t", 3)])
        assert places(first) == [[("t", 3)]]


# ---- its end --------------------------------------------------------------------------------------


def test_a_deleted_topic_that_was_named(store):
    fill(store, "a", partitions=1, records=1)
    fill(store, "b", partitions=1, records=1)
    committed = []
    with join(
        store, "a", "b", on_revoked=lambda consumer, _: committed.append(consumer.commit())
    ) as consumer:
        Company(store, "g", consumer).settle()
        store.delete_topic("a")
        for _ in range(2):
            with pytest.raises(TopicDeletedError, match="deleted") as caught:
                consumer.poll(timeout=0)
            assert caught.value.topic == "a"
        consumer.subscribe("b")
        assert places(consumer) == [[("b", 0)]]
        append(store.topic("b"), 0, 1)
        assert consumer.poll(timeout=5).offsets.tolist() == [1]
        fill(store, "a", partitions=2, records=1)  # another topic
        consumer.subscribe(["a", "b"])
        assert places(consumer) == [[("a", 0), ("a", 1), ("b", 0)]]
        assert [consumer.position(("a", index)) for index in range(2)] == [0, 0]
    assert committed == [None, None]


def test_closing_from_another_thread(store):
    """Ends a wait: the group is left, and the others go on."""
    fill(store)
    for ask in (lambda consumer: consumer.poll(), lambda consumer: next(iter(consumer), "stopped")):
        consumer = join(store)
        ended: list[Any] = []

        def wait(ask=ask, consumer=consumer, ended=ended) -> None:
            try:
                ended.append(ask(consumer))
            except BaseException as error:
                ended.append(type(error))

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda consumer=consumer: is_busy(consumer), "the wait")
        began = time.monotonic()
        consumer.close()
        thread.join(20)
        assert ended in ([ClosedError], ["stopped"])
        assert time.monotonic() - began < 0.5
        assert store.group("g").describe().members == ()


def is_busy(consumer: pystream.Consumer) -> bool:
    """Whether a thread is inside."""
    try:
        consumer._fetcher.remove(PartitionReader(consumer._store["t"].partition(0)._log(), 0))
    except RuntimeError:
        return True
    except ValueError:  # it was none of its own
        return False
    raise AssertionError


def test_a_consumer_that_is_collected(store):
    """Nobody closes it; the others take over, and what it had consumed is committed."""
    topic = fill(store, partitions=2, records=3)
    first, second = join(store), join(store)
    Company(store, "g", first, second).settle()
    mine = places(first)[0][0]
    append(topic, mine[1], 2)
    records = iter(first)
    assert [next(records).offset, next(records).offset] == [3, 4]
    del first, records
    gc.collect()
    company = Company(store, "g", second)
    assert company.settle() == [[("t", 0), ("t", 1)]]
    assert company.offsets(mine) == [4]  # it was in hand
    second.close()


def test_a_store_closes_its_members(store):
    fill(store, records=1)
    with pystream.open(store.path) as again:
        consumer = join(again)
        Company(again, "g", consumer).settle()
    assert consumer.closed
    description = store.group("g").describe()
    assert (description.state, description.members) == ("empty", ())
    assert [where.committed for where in description.partitions] == [1] * 4
