"""Assignors: what Kafka's do; the sticky one's balance and few moves, against every assignment there is."""

import itertools
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystream.group.assignors import ASSIGNORS, assign

TOPICS = "abcd"


def everything(members, partitions):
    """Every partition that is to be assigned, with the members that may have it."""
    return {
        (topic, p): [member for member in sorted(members) if topic in members[member]]
        for topic in sorted(partitions)
        for p in range(partitions[topic])
        if any(topic in topics for topics in members.values())
    }


def loads(members, assigned):
    counts = Counter(assigned.values())
    return {member: counts[member] for member in members}


def unevenness(members, assigned):
    return sum(load * load for load in loads(members, assigned).values())


def moves(assigned, owned):
    return sum(owned.get(partition) != member for partition, member in assigned.items())


def improvable(members, assigned):
    """Whether a chain of moves leads from a member to one with two partitions fewer or more."""
    counts = loads(members, assigned)
    for start in members:
        reached, waiting = {start}, [start]
        while waiting:
            giver = waiting.pop()
            topics = {topic for (topic, _), member in assigned.items() if member == giver}
            for taker in members:
                if taker not in reached and topics & set(members[taker]):
                    reached.add(taker)
                    waiting.append(taker)
        if any(counts[end] <= counts[start] - 2 for end in reached):
            return True
    return False


def best(members, partitions, owned):
    """The least (unevenness, moves) of all assignments, by trying them all."""
    able = everything(members, partitions)
    return min(
        (unevenness(members, found), moves(found, owned))
        for choice in itertools.product(*able.values())
        for found in [dict(zip(able, choice, strict=True))]
    )


@st.composite
def groups(draw, topics=TOPICS, members_max=6, partitions_max=12):
    """Members and their topics, partitions of the topics, and owners that may be out of date."""
    names = [f"m{number}" for number in range(draw(st.integers(1, members_max)))]
    members = {name: draw(st.frozensets(st.sampled_from(topics))) for name in names}
    counts = {t: draw(st.integers(0, partitions_max)) for t in topics if draw(st.integers(0, 5))}
    owners = st.sampled_from([*names, "gone"])
    owned = {
        (topic, p): draw(owners) for topic in topics for p in range(partitions_max) if draw(st.booleans())
    }
    return members, counts, owned


@given(groups(), st.sampled_from(ASSIGNORS), st.randoms(use_true_random=False))
def test_every_partition_has_one_subscribed_owner_whatever_the_order(group, name, random):
    members, partitions, owned = group
    assigned = assign(name, members, partitions, owned)
    able = everything(members, partitions)
    assert assigned.keys() == able.keys()
    assert all(member in able[partition] for partition, member in assigned.items())

    def shuffled(mapping):
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    lists = {member: [*topics, *topics] for member, topics in members.items()}
    assert assign(name, shuffled(lists), shuffled(partitions), shuffled(owned)) == assigned


@given(groups())
def test_sticky_is_balanced_and_then_stays(group):
    members, partitions, owned = group
    assigned = assign("sticky", members, partitions, owned)
    assert not improvable(members, assigned)
    assert assign("sticky", members, partitions, assigned) == assigned


@settings(max_examples=300, deadline=None)
@given(groups(topics="abc", members_max=3, partitions_max=2))
def test_sticky_is_the_best_of_all_assignments(group):
    members, partitions, owned = group
    assigned = assign("sticky", members, partitions, owned)
    assert (unevenness(members, assigned), moves(assigned, owned)) == best(members, partitions, owned)


@settings(max_examples=60, deadline=None)
@given(groups(topics="abcde", members_max=5, partitions_max=1))
def test_sticky_is_the_best_where_every_topic_is_another_class(group):
    members, partitions, owned = group
    assigned = assign("sticky", members, partitions, owned)
    assert (unevenness(members, assigned), moves(assigned, owned)) == best(members, partitions, owned)


@given(groups(members_max=8))
def test_equal_subscriptions_differ_by_one_at_most(group):
    members, partitions, owned = group
    members = dict.fromkeys(members, frozenset(TOPICS))
    for name in ("sticky", "roundrobin"):
        counts = loads(members, assign(name, members, partitions, owned)).values()
        assert max(counts) - min(counts) <= 1
    stayed = assign("sticky", members, partitions, owned)
    held = Counter(owned[partition] for partition in stayed if owned.get(partition) in members)
    least, more = divmod(len(stayed), len(members))
    kept = sum(min(held[member], least) for member in members)
    kept += min(more, sum(held[member] > least for member in members))
    assert moves(stayed, owned) == len(stayed) - kept


@given(groups(members_max=8), st.data())
def test_a_member_that_leaves_moves_its_own_partitions_only(group, data):
    members, partitions, owned = group
    members = dict.fromkeys([*members, "another"], frozenset(TOPICS))
    before = assign("sticky", members, partitions, owned)
    gone = data.draw(st.sampled_from(sorted(members)))
    del members[gone]
    after = assign("sticky", members, partitions, before)
    assert {partition for partition in after if after[partition] != before[partition]} == {
        partition for partition, member in before.items() if member == gone
    }


@given(groups(members_max=8))
def test_a_member_that_joins_is_the_only_one_to_get_any(group):
    members, partitions, owned = group
    members = dict.fromkeys(members, frozenset(TOPICS))
    before = assign("sticky", members, partitions, owned)
    members["joins"] = frozenset(TOPICS)
    after = assign("sticky", members, partitions, before)
    moved = [member for partition, member in after.items() if member != before[partition]]
    assert moved == ["joins"] * (len(after) // len(members))


def test_a_chain_of_moves_is_found():
    """Nobody but m1 may take what m0 has too many of, and only m2 can relieve m1."""
    members = {"m0": {"a"}, "m1": {"a", "b"}, "m2": {"b"}}
    owned = {("a", p): "m0" for p in range(4)} | {("b", p): "m1" for p in range(2)}
    assigned = assign("sticky", members, {"a": 4, "b": 2}, owned)
    assert loads(members, assigned) == {"m0": 2, "m1": 2, "m2": 2}
    assert moves(assigned, owned) == 4


def test_what_only_one_may_read_does_not_unbalance_the_others():
    members = {"loaded": {"own", "shared"}, "m1": {"shared"}, "m2": {"shared"}, "idle": set()}
    assigned = assign("sticky", members, {"own": 9, "shared": 7}, {})
    assert loads(members, assigned) == {"loaded": 9, "m1": 4, "m2": 3, "idle": 0}


def test_sticky_spreads_each_topic_when_it_starts_and_when_it_shares():
    partitions = {"a": 4, "b": 4}
    alone = assign("sticky", {"m0": "ab"}, partitions, {})
    for owned in ({}, alone):
        assigned = assign("sticky", {"m0": "ab", "m1": "ab"}, partitions, owned)
        topics = Counter((topic, member) for (topic, _), member in assigned.items())
        assert set(topics.values()) == {2}


def test_range_gives_neighbours_and_the_first_members_one_more():
    members = {"m2": ["t0", "t1"], "m1": ["t0", "t1"], "m3": ["t0"]}
    assigned = assign("range", members, {"t0": 7, "t1": 3, "unread": 4}, {("t0", 0): "m3"})
    assert [assigned["t0", p] for p in range(7)] == ["m1", "m1", "m1", "m2", "m2", "m3", "m3"]
    assert [assigned["t1", p] for p in range(3)] == ["m1", "m1", "m2"]
    assert len(assigned) == 10


def test_range_leaves_members_beyond_the_partitions_without():
    assert assign("range", dict.fromkeys("xyz", "t"), {"t": 2}, {}) == {("t", 0): "x", ("t", 1): "y"}


def test_roundrobin_deals_over_all_topics():
    members = {"m1": ["t0", "t1"], "m0": ["t1", "t0"]}
    assert assign("roundrobin", members, {"t1": 3, "t0": 3}, {("t0", 0): "m1"}) == {
        ("t0", 0): "m0",
        ("t0", 1): "m1",
        ("t0", 2): "m0",
        ("t1", 0): "m1",
        ("t1", 1): "m0",
        ("t1", 2): "m1",
    }


def test_roundrobin_passes_over_who_does_not_subscribe():
    """The example in the documentation of Kafka's RoundRobinAssignor."""
    members = {"C0": ["t0"], "C1": ["t0", "t1"], "C2": ["t0", "t1", "t2"]}
    assert assign("roundrobin", members, {"t0": 1, "t1": 2, "t2": 3}, {}) == {
        ("t0", 0): "C0",
        ("t1", 0): "C1",
        ("t1", 1): "C2",
        ("t2", 0): "C2",
        ("t2", 1): "C2",
        ("t2", 2): "C2",
    }


@pytest.mark.parametrize("name", ASSIGNORS)
def test_nothing_to_assign(name):
    assert assign(name, {}, {"t": 3}, {("t", 0): "gone"}) == {}
    assert assign(name, {"m": []}, {"t": 3}, {}) == {}
    assert assign(name, {"m": ["t", "missing"]}, {"t": 0}, {("t", 0): "m"}) == {}


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown assignor 'fair': use one of sticky, range, roundrobin"):
        assign("fair", {}, {}, {})
    with pytest.raises(ValueError, match="topic 't' cannot have -1 partitions"):
        assign("range", {"m": ["t"]}, {"t": -1}, {})


@pytest.mark.parametrize("mixed", [False, True], ids=["equal", "mixed"])
def test_a_large_group_is_no_effort(mixed):
    """10,000 partitions, nearly all of them moving, take 10 to 50 ms; there is room for slow machines."""
    partitions = {f"t{number}": 100 for number in range(100)}
    members = {
        f"m{m:02}": [topic for t, topic in enumerate(partitions) if not mixed or (m * t + m + t) % 3]
        for m in range(100)
    }
    owned = {(topic, p): "m00" for topic in partitions for p in range(100)}
    start = time.perf_counter()
    assigned = assign("sticky", members, partitions, owned)
    assert time.perf_counter() - start < 1.0
    assert sorted(loads(members, assigned).values()) == [100] * 100
