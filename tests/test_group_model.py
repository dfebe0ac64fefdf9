"""A seeded machine of random operations compares a consumer group with plain dictionaries."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pystream
from harness import LONG, quick_directory

Place = tuple[str, int]
TOPICS = {"a": 3, "b": 2, "c": 1}
MEMBERS_MAX = 4


class Groups(RuleBasedStateMachine):
    """Members in one process, asked by one thread."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.members: list[pystream.Consumer] = []
        self.ends: dict[Place, int] = {}
        self.next: dict[Place, int] = {}  # the next offset that the present owner is to be given
        self.delivered: dict[Place, int] = {}  # up to where records were given out, by anybody
        self.done: dict[Place, int] = {}  # up to where it must be committed
        self.owner: dict[Place, tuple[str, int]] = {}  # member, and at which of its assignments

    @initialize(auto=st.booleans(), assignor=st.sampled_from(["sticky", "sticky", "range", "roundrobin"]))
    def begin(self, auto: bool, assignor: str) -> None:
        directory = self.stack.enter_context(quick_directory())
        self.store = self.stack.enter_context(pystream.open(directory / "s"))
        self.auto, self.assignor = auto, assignor
        for name, partitions in TOPICS.items():
            self.store.topic(name, create=True, partitions=partitions, segment_bytes="64KiB")
            self.ends |= {(name, index): 0 for index in range(partitions)}
        self.delivered = dict.fromkeys(self.ends, 0)
        self.done = dict.fromkeys(self.ends, 0)

    def teardown(self) -> None:
        for member in self.members:
            member.close()
        self.stack.close()

    # ---- what happens

    def assigned(self, consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        for where in partitions:
            place = tuple(where[:2])
            assert place not in self.owner, "two owners at once"
            self.owner[place] = consumer.member_id
            begins = consumer.position(where)
            assert begins >= self.done[place], "what was committed is given out again"
            assert begins <= self.delivered[place], "records are passed over"
            self.next[place] = begins

    def revoked(self, consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        for where in partitions:
            assert self.owner.pop(tuple(where[:2])) == consumer.member_id

    @precondition(lambda self: len(self.members) < MEMBERS_MAX)
    @rule(topics=st.sets(st.sampled_from(sorted(TOPICS)), min_size=1))
    def join(self, topics: set[str]) -> None:
        options: dict[str, Any] = {"on_assigned": self.assigned, "on_revoked": self.revoked}
        self.members.append(
            self.store.consumer(
                *sorted(topics), group="g", auto_commit=self.auto, assignor=self.assignor, **options
            )
        )

    @precondition(lambda self: self.members)
    @rule(data=st.data(), topics=st.sets(st.sampled_from(sorted(TOPICS)), min_size=1))
    def subscribe(self, data: st.DataObject, topics: set[str]) -> None:
        data.draw(st.sampled_from(self.members)).subscribe(sorted(topics))

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Cleanly: all that it was given is done."""
        member = self.members.pop(data.draw(st.integers(0, len(self.members) - 1)))
        if self.auto:
            for where in member.assignment():
                self.done[tuple(where[:2])] = self.next[tuple(where[:2])]
        member.close()

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """What was committed is done, and nothing else."""
        member = self.members.pop(data.draw(st.integers(0, len(self.members) - 1)))
        for where in member.assignment():
            del self.owner[tuple(where[:2])]
        member._membership.abandon()
        member.close()

    @precondition(lambda self: self.members)
    @rule(data=st.data(), times=st.integers(1, 4))
    def poll(self, data: st.DataObject, times: int) -> None:
        member = data.draw(st.sampled_from(self.members))
        for _ in range(times):
            if self.auto:
                for where in member.assignment():
                    self.done[tuple(where[:2])] = self.next[tuple(where[:2])]
            batch = member.poll(timeout=0)
            if batch is None:
                return
            place = (batch.topic, batch.partition)
            assert self.owner[place] == member.member_id, "given out by who does not own it"
            assert batch.offsets.tolist() == list(range(self.next[place], batch.next_offset))
            self.next[place] = batch.next_offset
            self.delivered[place] = max(self.delivered[place], batch.next_offset)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), back=st.integers(0, 2), text=st.none() | st.text(max_size=5))
    def commit(self, data: st.DataObject, back: int, text: str | None) -> None:
        member = data.draw(st.sampled_from(self.members))
        for where in member.assignment():
            place = tuple(where[:2])
            offset = self.next[place] if self.auto else max(self.next[place] - back, 0)
            member.commit({where: offset if text is None else pystream.OffsetAndMetadata(offset, text)})
            self.done[place] = offset
            assert member.committed(where) == offset
            if text is not None:
                assert member.committed(where, metadata=True).metadata == text

    @rule(
        place=st.sampled_from([(name, index) for name in TOPICS for index in range(TOPICS[name])]),
        count=st.integers(1, 5),
    )
    def append(self, place: Place, count: int) -> None:
        assert self.store[place[0]].append([b"x"] * count, partition=place[1]) == self.ends[place]
        self.ends[place] += count

    @precondition(lambda self: self.members)
    @rule()
    def settle(self) -> None:
        """Asked long enough, each has its share, and everything is read."""
        for _ in range(60):
            for member in self.members:
                before = len(self.members)
                self.ask(member)
                assert before == len(self.members)
            if self.store.group("g").describe().state == "stable":
                break
        description = self.store.group("g").describe()
        assert description.state == "stable", description
        subscribed = {name for member in description.members for name in member.topics}
        assert self.owner.keys() == {place for place in self.ends if place[0] in subscribed}
        for place in self.owner:
            assert self.next[place] == self.ends[place]
        if self.assignor == "sticky" and len({member.topics for member in description.members}) == 1:
            counts = [len(member.partitions) for member in description.members]
            assert max(counts) - min(counts) <= 1

    def ask(self, member: pystream.Consumer) -> None:
        while True:
            if self.auto:
                for where in member.assignment():
                    self.done[tuple(where[:2])] = self.next[tuple(where[:2])]
            batch = member.poll(timeout=0)
            if batch is None:
                return
            place = (batch.topic, batch.partition)
            assert batch.offsets.tolist() == list(range(self.next[place], batch.next_offset))
            self.next[place] = batch.next_offset
            self.delivered[place] = max(self.delivered[place], batch.next_offset)

    # ---- what is always so

    @invariant()
    def nobody_reads_what_another_does(self) -> None:
        read = [tuple(where[:2]) for member in self.members for where in member.assignment()]
        assert len(read) == len(set(read))
        assert self.owner == {
            tuple(where[:2]): member.member_id for member in self.members for where in member.assignment()
        }

    @invariant()
    def committed_is_what_was_given_out_and_done(self) -> None:
        if not self.ends or "g" not in self.store.groups():
            return
        committed = {
            tuple(where[:2]): entry.offset for where, entry in self.store.group("g").committed().items()
        }
        for place, offset in committed.items():
            assert offset <= self.delivered[place]
        for place, offset in self.done.items():
            assert committed.get(place, 0) == offset or (self.auto and committed[place] >= offset)


TestGroups = Groups.TestCase
TestGroups.settings = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than reading
    max_examples=400 if LONG else 25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
