"""Members of a consumer group, who share out a topic, and whoever writes to it and looks at the group."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pystream

from .actors import Actor, Sight, Streams, append, label
from .values import LAST_STREAM, decode

TOPIC: Final = "shared"
PARTITIONS: Final = [(TOPIC, index) for index in range(4)]
GROUP: Final = "team"
SESSION_TIMEOUT_S: Final = 1.0
IDLE_S: Final = 0.1


def stop_seconds(rng: random.Random) -> float:
    """How long to stop a member: less than its session, more, or until about when it is fenced."""
    return rng.choice(
        (rng.uniform(0.02, 0.9), rng.uniform(0.95, 1.15) * SESSION_TIMEOUT_S, rng.uniform(1.2, 3))
    )


def create(path: str) -> None:
    with pystream.open(path) as store:
        store.topic(TOPIC, create=True, partitions=len(PARTITIONS), segment_bytes="64KiB")


class Membership(Sight):
    """A consumer in the group, which notes what it is given and what it gives up."""

    def __init__(self, actor: Actor, store: pystream.Store, *, auto_commit: bool) -> None:
        super().__init__(actor)
        self.store = store
        self.auto_commit = auto_commit
        self.places: dict[tuple[str, int], int] = {}  # behind what was handed out
        self.consumer = store.consumer(
            TOPIC,
            group=GROUP,
            session_timeout=SESSION_TIMEOUT_S,
            auto_commit=auto_commit,
            timeout=IDLE_S,
            client=actor.name,
            on_assigned=self.assigned,
            on_revoked=self.revoked,
            on_lost=self.lost,
        )

    def assigned(self, consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        self.consumer = consumer  # which may have to give up what it was just given, while it is being made
        self.reader = self.runs.reader = str(consumer.member_id)
        words: list[object] = []
        for where in partitions:
            place = self.places[where.topic, where.partition] = consumer.position(where)
            words += [label(where.topic, where.partition), place]
            self.open(label(where.topic, where.partition), place)
        how = "auto" if self.auto_commit else "manual"
        self.actor.history.note("assigned", self.reader, consumer.generation, how, *words)

    def revoked(self, consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        if not self.auto_commit:
            self.commit({(where.topic, where.partition) for where in partitions})
        self.leave("revoked", partitions)

    def lost(self, consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
        self.leave("lost", partitions)

    def leave(self, kind: str, partitions: list[pystream.TopicPartition]) -> None:
        keys = [(where.topic, where.partition) for where in partitions]
        for key in keys:
            del self.places[key]
        self.actor.history.note(kind, self.reader, *(label(*key) for key in keys))

    def commit(self, keys: set[tuple[str, int]] | None = None, durable: bool = False) -> None:
        """Commit what was handed out, of some partitions or of all."""
        places = {key: self.places[key] for key in (self.places if keys is None else keys)}
        member, began = self.reader, time.monotonic_ns()
        words = [word for key, place in places.items() for word in (label(*key), place)]
        try:
            self.consumer.commit(None if keys is None else dict(places), durable=durable)
        except pystream.FencedMemberError:
            self.actor.history.note("refused", member, *words)
            return
        if words:
            self.actor.history.note("commit", member, began, *words)

    def take(self, batch: pystream.Batch) -> None:
        self.batch(batch)
        self.runs.flush()
        self.places[batch.topic, batch.partition] = batch.next_offset

    def is_over(self) -> bool:
        """Whether all that will ever be written is committed."""
        return self.actor.over and all(self.is_done(index) for _, index in PARTITIONS)

    def is_done(self, index: int) -> bool:
        partition = self.store.topic(TOPIC).partition(index)
        last = [decode(record.value) for record in partition.tail(1)]
        if not last or last[0] is None or last[0][0] < LAST_STREAM:
            return False
        return self.consumer.committed((TOPIC, index)) == partition.end_offset


def auto(actor: Actor) -> None:
    """Record by record; each is committed when the next is asked for."""
    with pystream.open(actor.path) as store:
        member = Membership(actor, store, auto_commit=True)
        with member.consumer as consumer:
            while not member.is_over():
                for record in consumer:
                    member.record(label(record.topic, record.partition), record.offset, record.value)
                    member.runs.flush()
                    if actor.rng.random() < 0.002:
                        actor.pause(0.05)


def batches(actor: Actor) -> None:
    """Batch by batch; each is committed when the next is asked for."""
    with pystream.open(actor.path) as store:
        member = Membership(actor, store, auto_commit=True)
        with member.consumer as consumer:
            while not member.is_over():
                for batch in consumer.batches():
                    member.take(batch)
                    actor.pause(0.002)


def manual(actor: Actor) -> None:
    """Commits when it has done something with what it was given, which takes a while."""
    with pystream.open(actor.path) as store:
        member = Membership(actor, store, auto_commit=False)
        with member.consumer as consumer:
            while not member.is_over():
                batch = consumer.poll(timeout=IDLE_S)
                if batch is not None:
                    member.take(batch)
                if batch is None or actor.rng.random() < 0.5:
                    actor.pause(0.1)
                    keys = None if batch is None or actor.rng.random() < 0.5 else {(TOPIC, batch.partition)}
                    member.commit(keys, durable=actor.rng.random() < 0.05)


def feeder(actor: Actor) -> None:
    """Writes to the topic that the group shares."""
    with actor.open() as store:
        streams = Streams(actor)
        while not actor.over:
            append(store, streams.any(PARTITIONS), actor.rng.randint(1, 5))
            actor.pause(0.006)


def observer(actor: Actor) -> None:
    """Looks at the group, as who only reads; what is committed never goes back."""
    while not actor.over:
        # It may not be there yet, or not be whole.
        with pystream.open(actor.path, "r") as store, suppress(pystream.GroupNotFoundError):
            for _ in range(20):
                for found in store.group(GROUP).describe().partitions:
                    if found.committed is not None:
                        actor.history.note("observed", label(found.topic, found.partition), found.committed)
                actor.pause(0.05)
        actor.pause(0.05)


def committed(path: str) -> dict[str, int]:
    """The offsets that the group has committed."""
    with pystream.open(path) as store:
        if GROUP not in store.groups():
            return {}
        partitions = store.group(GROUP).describe().partitions
    return {label(p.topic, p.partition): p.committed for p in partitions if p.committed is not None}


WRITERS: Final[dict[str, Callable[[Actor], None]]] = {role.__name__: role for role in (feeder, observer)}
MEMBERS: Final[dict[str, Callable[[Actor], None]]] = {role.__name__: role for role in (auto, batches, manual)}
ROLES: Final = WRITERS | MEMBERS
