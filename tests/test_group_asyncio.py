"""Consumer groups under asyncio: members share partitions, are woken, hand over and take over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

import group_lives
import pystream
from group_lives import append, fill, owned
from harness import Life, quick_directory
from loops import until

T4 = [("t", index) for index in range(4)]


@pytest.fixture
def store() -> Iterator[pystream.Store]:
    with quick_directory() as directory, pystream.open(directory / "s") as opened:
        yield opened


def join(store: pystream.Store, **options: Any) -> pystream.AsyncConsumer:
    return store.async_consumer("t", group="g", **options)


async def read(consumer: pystream.AsyncConsumer, got: list[tuple[int, int]]) -> None:
    async for record in consumer:
        got.append((record.partition, record.offset))


def test_members_share_and_wake(run, store):
    topic = fill(store, records=2)

    async def main() -> None:
        got: list[list[tuple[int, int]]] = [[], []]
        async with join(store) as first, join(store) as second, asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(read(consumer, into))
                for consumer, into in zip((first, second), got, strict=True)
            ]
            await until(lambda: store.group("g").describe().state == "stable")
            await until(lambda: len(got[0] + got[1]) == 8)
            assert [len(consumer.assignment()) for consumer in (first, second)] == [2, 2]
            for index in range(4):
                append(topic, index, 1)
            await until(lambda: len(got[0] + got[1]) == 12)
            assert sorted(got[0] + got[1]) == [(index, offset) for index in range(4) for offset in range(3)]
            for into, consumer in zip(got, (first, second), strict=True):
                mine = {index for _, index, *_ in consumer.assignment()}
                assert {partition for partition, offset in into if offset == 2} == mine
            for task in running:
                task.cancel()
        assert store.group("g").describe().members == ()

    run(main())
    assert [entry.offset for entry in store.group("g").committed().values()] == [3] * 4


def test_a_cancelled_wait_gives_up_nothing(run, store):
    topic = fill(store, partitions=1)

    async def main() -> None:
        async with join(store) as consumer:
            for number in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await consumer.poll()
                append(topic, 0, 1)
                batch = await consumer.poll(timeout=5)
                assert batch is not None and batch.offsets.tolist() == [number]

    run(main())
    assert [entry.offset for entry in store.group("g").committed().values()] == [5]


def test_callbacks_are_called_in_the_loop(run, store):
    fill(store)
    calls: list[tuple[str, int]] = []

    def hear(name: str) -> Any:
        def called(consumer: pystream.Consumer, partitions: list[pystream.TopicPartition]) -> None:
            asyncio.get_running_loop()
            calls.append((name, len(partitions)))

        return called

    async def main() -> None:
        options = {"on_assigned": hear("assigned"), "on_revoked": hear("revoked")}
        async with join(store, **options) as first:
            wait = asyncio.create_task(first.poll())
            async with join(store) as second:
                assert await second.poll(timeout=0.05) is None
                await until(lambda: len(second.assignment()) == 2 or second._consumer.poll(timeout=0))
            await until(lambda: len(first.assignment()) == 4)
            wait.cancel()

    run(main())
    assert calls == [("assigned", 4), ("revoked", 2), ("assigned", 2), ("revoked", 4)]


def test_a_death_is_heard_of(run, store):
    """While the loop waits; and what the dead had consumed is not read again."""
    topic = fill(store)
    life = Life(group_lives.member, store.path, {})
    assert life.receive()[0] == "member"

    async def main() -> None:
        got: list[tuple[int, int]] = []
        async with join(store) as heir:
            reading = asyncio.create_task(read(heir, got))
            await until(lambda: len(heir.assignment()) == 2)
            await until(lambda: store.group("g").describe().state == "stable")
            life.kill()
            began = time.monotonic()
            await until(lambda: len(heir.assignment()) == 4)
            assert time.monotonic() - began < 2
            for index in range(4):
                append(topic, index, 1)
            await until(lambda: len(got) == 4)
            assert sorted(got) == [(index, 0) for index in range(4)]
            reading.cancel()

    run(main())
    life.end()


def test_a_waiting_member_is_not_silent(run, store):
    """Its wait is cut into slices: a short session_timeout does not put it out. A loop that hangs is."""
    fill(store)

    async def main() -> None:
        async with join(store, session_timeout=0.2) as member:
            wait = asyncio.create_task(member.poll())
            with store.consumer("t", group="g", session_timeout=0.2) as other:
                ended = time.monotonic() + 0.7
                while time.monotonic() < ended:
                    assert other.poll(timeout=0) is None
                    await asyncio.sleep(0.01)
                assert len(other.assignment()) == 2
                ended = time.monotonic() + 5
                while len(other.assignment()) < 4:  # the loop does not run
                    assert time.monotonic() < ended
                    assert other.poll(timeout=0.02) is None
                assert set(owned(store, "g").values()) == {other.member_id}
            await until(lambda: len(member.assignment()) == 4)  # it has joined again
            wait.cancel()

    run(main())


def test_closing_ends_a_wait(run, store):
    fill(store)

    async def main() -> None:
        consumer = join(store)
        wait = asyncio.create_task(consumer.poll())
        await until(lambda: consumer._fetcher.is_watched)
        await consumer.close()
        with pytest.raises(pystream.ClosedError):
            await wait
        assert store.group("g").describe().members == ()

    run(main())


@pytest.mark.parametrize("group", [None, "g"])
def test_a_topic_that_comes_is_read(run, store, group):
    async def main() -> None:
        options = {"group": group} if group else {}
        late = 0
        async with store.async_consumer("^a-.*", **options) as consumer:
            for number in range(3):
                wait = asyncio.create_task(consumer.poll())
                await until(lambda: consumer._fetcher.is_watched)
                began = time.monotonic()
                fill(store, f"a-{number}", partitions=1, records=1)
                batch = await asyncio.wait_for(wait, 5)
                late += time.monotonic() - began > 0.5
                assert batch.topic == f"a-{number}"
        assert late <= 1  # not after a slice of its wait

    run(main())
