"""The producer for asyncio: what it sends arrives, what waits is awaited, cancelling loses nothing."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

import async_lives
import pystream
from harness import Life
from loops import SOON_S
from pystream import ClosedError, DeliveryError, LockTimeoutError, OptionError, TopicDeletedError


def values(topic: pystream.Topic) -> list[bytes | None]:
    return [record.value for record in topic.records()]


@pytest.fixture
def held(store, topic):
    """Another process holds the topic's partition."""
    life = Life(async_lives.holder, store.path, "t")
    assert life.receive() == "held"
    yield life
    if life.process.is_alive():
        life.kill()
        life.end()


async def let_go(life: Life) -> None:
    life.channel.send("go")
    assert await asyncio.to_thread(life.receive) == "let go"
    assert await asyncio.to_thread(life.end) == 0


def test_what_is_flushed_is_there(run, topic):
    async def main() -> None:
        async with topic.async_producer(linger=60) as producer:
            assert repr(producer) == "<pystream.AsyncProducer of 't'>" and producer.topic == "t"
            await producer.flush()  # of nothing
            await producer.send(b"a", b"k", headers={"h": b"1"}, timestamp=10**18)
            assert values(topic) == []
            await producer.flush()
            (record,) = topic.records()
            assert (record.key, record.value, record.timestamp) == (b"k", b"a", 10**18)
            await producer.send_many([b"b", b"c"])
            assert values(topic) == [b"a", b"b", b"c"]
            await producer.send(b"d")
            await producer.flush(durable=True)
            assert topic.partition(0)._log().durable_offset == 4
            assert producer.stats().records == 4
            await producer.send(b"e")
        assert producer.closed and values(topic)[-1] == b"e"
        await producer.close()
        for ask in (lambda: producer.send(b"f"), producer.flush, lambda: producer.send_many([b"f"])):
            with pytest.raises(ClosedError):
                await ask()

    run(main())


def test_options_are_those_of_the_producer(store, topic):
    with pytest.raises(TypeError, match="acks"):
        topic.async_producer(acks=1)
    with pytest.raises(OptionError, match="linger"):
        topic.async_producer(linger=-1)
    with pytest.raises(TypeError, match="value"):
        asyncio.run(_send_str(topic))


async def _send_str(topic: pystream.Topic) -> None:
    async with topic.async_producer() as producer:
        await producer.send("text")


def test_callbacks_run_in_the_loop(run, topic):
    async def main() -> None:
        heard = []
        async with topic.async_producer(
            on_delivery=lambda error, where: heard.append((error, where.offset, threading.get_ident()))
        ) as producer:
            for number in range(3):
                await producer.send(b"%d" % number)
            await producer.flush()
            assert heard == [(None, number, threading.get_ident()) for number in range(3)]
            await producer.send(b"3", on_delivery=lambda error, where: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await producer.flush()
            await producer.flush()

    run(main())


def test_many_tasks_send_and_flush(run, store):
    topic = store.topic("m", create=True, partitions=3)

    async def main() -> None:
        async with topic.async_producer(batch_bytes=2_000, buffer_bytes=8_000) as producer:

            async def one(task: int) -> None:
                for number in range(300):
                    await producer.send(b"%d %d" % (task, number), key=b"%d" % task)
                    if number % 50 == 49:
                        await producer.flush()
                        assert len([v for v in values(topic) if v.startswith(b"%d " % task)]) == number + 1

            async with asyncio.TaskGroup() as group:
                for task in range(20):
                    group.create_task(one(task))
        for task in range(20):
            mine = [value for value in values(topic) if value.startswith(b"%d " % task)]
            assert mine == [b"%d %d" % (task, number) for number in range(300)]

    run(main())


def test_a_flush_waits_without_blocking_and_may_be_cancelled(run, topic, held):
    async def main() -> None:
        async with topic.async_producer() as producer:
            await producer.send(b"a")
            with pytest.raises(LockTimeoutError, match="1 records of topic 't' were not delivered in time"):
                await producer.flush(timeout=0.05)
            with pytest.raises(LockTimeoutError):
                await producer.flush(timeout=0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await producer.flush()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await producer.close()
            assert not producer.closed
            await producer.send(b"b")
            flush = asyncio.create_task(producer.flush())
            await asyncio.sleep(0.02)
            assert not flush.done() and values(topic) == []
            await let_go(held)
            async with asyncio.timeout(SOON_S):
                await flush
            assert values(topic) == [b"a", b"b"]

    run(main())


def test_a_cancelled_flush_goes_on(run, topic, held):
    async def main() -> None:
        async with topic.async_producer(linger=3600) as producer:
            await producer.send(b"a")
            flush = asyncio.create_task(producer.flush())
            await asyncio.sleep(0.02)
            flush.cancel()
            await asyncio.wait([flush])
            assert flush.cancelled()
            await let_go(held)
            assert await asyncio.to_thread(topic.partition(0).wait, 0, SOON_S)

    run(main())


def test_send_waits_for_room_and_takes_nothing_when_cancelled(run, topic, held):
    async def main() -> None:
        async with topic.async_producer(batch_bytes=1_000, buffer_bytes=4_000) as producer:
            sent = 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    while True:
                        await producer.send(b"%05d" % sent * 20)
                        sent += 1
            assert 10 < sent < 100
            wait = asyncio.create_task(producer.send(b"last"))
            await asyncio.sleep(0.02)
            assert not wait.done()
            await let_go(held)
            async with asyncio.timeout(SOON_S):
                await wait
        assert values(topic) == [b"%05d" % number * 20 for number in range(sent)] + [b"last"]

    run(main())


def test_closing_gives_up_in_time(run, topic, held):
    async def main() -> None:
        producer = topic.async_producer()
        await producer.send(b"a")
        with pytest.raises(DeliveryError, match="1 record"):
            await producer.close(timeout=0.05)
        assert producer.closed
        await let_go(held)
        assert values(topic) == []

    run(main())


def test_a_full_disk_is_told_and_passes(run, store, topic):
    async def main() -> None:
        async with topic.async_producer(batch_bytes=2_000) as producer:
            await producer.send(b"first")
            await producer.flush()
            store._handle.arm(f"allocate:1:errno={errno.ENOSPC}:1000000")
            sent = 0
            with pytest.raises(DeliveryError) as caught:
                for number in range(1_000):
                    await producer.send(b"%05d" % number * 40)
                    sent += 1
                await producer.flush()
            assert (
                isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
            )
            store._handle.arm(None)
            await producer.flush()
            assert values(topic) == [b"first"] + [b"%05d" % number * 40 for number in range(sent)]

    run(main())


def test_a_deleted_topic_and_a_closed_store(run, tmp_path):
    async def main() -> None:
        with pystream.open(tmp_path / "s") as store:
            producer = store.topic("t", create=True).async_producer(linger=60)
            await producer.send(b"a")
            store.delete_topic("t")
            with pytest.raises(DeliveryError) as caught:
                await producer.flush()
            assert isinstance(caught.value.__cause__, TopicDeletedError)
            await producer.close()
            other = store.topic("u", create=True).async_producer(linger=60)
            await other.send(b"kept")
        assert other.closed
        with pytest.raises(ClosedError):
            await other.flush()
        with pystream.open(tmp_path / "s") as store:
            assert values(store["u"]) == [b"kept"]

    run(main())
