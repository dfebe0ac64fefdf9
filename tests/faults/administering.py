"""The scenes of topic administration: altering, adding partitions, renaming, copying."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pystream

from .acting import COUNT, T0, Do, Ground, Scene, batch, fill, goes_on, leftovers, numbers
from .processes import Say, said_of

WHOLE = list(range(9))


def prepare(ground: Ground) -> None:
    fill(ground, 3, name="a", partitions=2)


def act_alter(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    topic = do("topic", lambda: store.topic("a"))
    do("read", lambda: numbers(topic.partition(0)))
    if (
        do("alter", lambda: topic.alter(retention="7d", segment_bytes="128KiB", compression="lz4"))
        is not None
    ):
        say("altered", "7d")
    if do("grow", lambda: topic.add_partitions(to=4)):
        say("grown", 4)
    if do("append", lambda: topic.append(batch(9), partition=0, timestamps=T0)) is not None:
        say("acked", 9)
    do("close", store.close)


def check_alter(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        topic = store.topic("a")
        options = topic.options
        new = (7 * 86400 * 10**9, 128 << 10, "lz4")
        old = (None, 64 << 10, "none")
        found = (options.retention_ns, options.segment_bytes, options.compression)
        assert found == new or (found == old and not said_of(said, "altered")), found
        assert options.partitions == 4 or (options.partitions == 2 and not said_of(said, "grown"))
        assert options.durability == ground.durability
        first = numbers(topic.partition(0))
        assert first in ([*WHOLE, *range(9, 9 + COUNT)], *([] if said_of(said, "acked") else [WHOLE]))
        assert numbers(topic.partition(1)) == WHOLE
        for index in range(2, options.partitions):
            assert numbers(topic.partition(index)) == []
        assert not leftovers(ground), leftovers(ground)
        assert topic.alter(retention="1h")[0].after == "1h"
        assert topic.add_partitions(1) == options.partitions + 1
        assert topic.append([b"x"], partition=options.partitions) == 0
        store.delete_topic("a")
    fill(ground, 3, name="a")
    goes_on(ground, "a")


def act_rename(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    topic = do("topic", lambda: store.topic("a"))
    do("read", lambda: numbers(topic.partition(0)))
    do("append", lambda: topic.append(batch(9), partition=1, timestamps=T0))

    def rename() -> bool:
        with suppress(pystream.TopicNotFoundError):  # the first try, which failed, had come so far
            store.rename_topic("a", "b")
        return True

    if do("rename", rename):
        say("renamed", "b")
    do("close", store.close)


def check_rename(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        (name,) = store.topics()
        assert name == "b" or (name == "a" and not said_of(said, "renamed")), name
        topic = store.topic(name)
        assert numbers(topic.partition(0)) == WHOLE
        assert numbers(topic.partition(1)) in (WHOLE, [*WHOLE, *range(9, 9 + COUNT)])
        assert not leftovers(ground), leftovers(ground)
        store.rename_topic(name, "c")
        assert numbers(ground.make(store, name).partition(0)) == []  # another one, which nobody disturbs
    goes_on(ground, "c")
    goes_on(ground, name)


def act_copy(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)

    def copy() -> bool:
        with suppress(pystream.TopicExistsError):  # the first try, which failed, had come so far
            store.copy_topic("a", store, "b", compression="lz4")
        return True

    if do("copy", copy):
        say("copied", "b")
    do("close", store.close)


def check_copy(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        assert set(store.topics()) <= {"a", "b"}
        assert "b" in store or not said_of(said, "copied")
        if "b" in store:
            copy = store.topic("b")
            assert copy.options.compression == "lz4"
            assert copy.options.durability == ground.durability
            for index in (0, 1):
                assert numbers(copy.partition(index)) == WHOLE
                assert [r.timestamp for r in copy.partition(index).records()] == [T0] * 9
        assert not leftovers(ground), leftovers(ground)
        assert not list(Path(ground.path).rglob("*+*"))
    goes_on(ground, "a")
    if "b" in pystream.metadata.list_topics(ground.path):
        goes_on(ground, "b")


SCENES = (
    Scene("alter", prepare, act_alter, check_alter),
    Scene("rename", prepare, act_rename, check_rename),
    Scene("copy", prepare, act_copy, check_copy),
)
