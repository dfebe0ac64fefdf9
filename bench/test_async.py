"""Rows about asyncio: beside the same work without it, and the bare way to wake a loop."""

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest

import data
import pystream
from race import Row

RECORDS = data.scale("RECORDS", 1_000_000)
HANDOVERS = data.scale("HANDOVERS", 2000)
PAUSE_S = 0.0005


@pytest.fixture
def topic(track):
    """Large batches with all records, or a batch each of a fifth of them."""

    def make(size):
        topic = track.keep(pystream.open(track.path())).topic(size, create=True)
        if size == "large":
            with topic.producer() as producer:
                producer.send_many(data.values(RECORDS))
        else:
            for value in data.values(RECORDS // 5):
                topic.append([value])
        return topic

    return make


async def drain(stream):
    async for _ in stream:
        pass


@pytest.mark.parametrize("what", ["records", "batches"])
def test_reading(track, topic, what):
    """What the loop's protocol adds to each item."""
    is_records = what == "records"
    source = topic("large" if is_records else "small")
    for _ in source.records():
        pass

    def plain():
        consumer = track.opened(source._store.consumer(source.name, timeout=0))

        def work():
            for _ in consumer if is_records else consumer.batches():
                pass

        return work

    def awaited():
        consumer = source._store.async_consumer(source.name, timeout=0)
        track.opened(consumer._consumer)
        return lambda: asyncio.run(drain(consumer if is_records else consumer.batches()))

    amount = RECORDS if is_records else RECORDS // 5
    work = "`async for record in consumer`" if is_records else "`async for` batches of one record"
    row = Row(work, "ratio", 0.3, "M/s", amount)
    track.race(row, awaited, {"the same without asyncio": plain})


def test_hand_over(track):
    """A thread appends, a task holds the batch; a thread writes to a descriptor that the loop polls."""
    store = track.opened(pystream.open(track.path()))
    partition = store.topic("hand", create=True).partition(0)
    times: dict[str, list[float]] = {"figure": [], "floor": []}

    async def main():
        loop = asyncio.get_running_loop()
        bell = os.eventfd(0, os.EFD_NONBLOCK)
        rung = [loop.create_future()]

        def answer():
            os.eventfd_read(bell)
            rung[0].set_result(None)

        async def bare():
            await rung[0]
            rung[0] = loop.create_future()

        loop.add_reader(bell, answer)
        async with store.async_consumer("hand", start="latest") as consumer:
            for name, post, wait in (
                ("figure", lambda: partition.append([b"x"]), consumer.poll),
                ("floor", lambda: os.eventfd_write(bell, 1), bare),
            ):
                await hand_over(post, wait, times[name])
        loop.remove_reader(bell)
        os.close(bell)

    asyncio.run(main())
    row = Row("`append` to `await poll()` in a loop of the same process, p50", "times", 3, "us")
    track.record(row, times["figure"][100:], {"a bare eventfd": times["floor"][100:]})


async def hand_over(post: Callable[[], object], wait: Callable, times: list[float]) -> None:
    turn = threading.Semaphore(0)
    sent = [0.0]

    def work():
        for _ in range(HANDOVERS):
            turn.acquire()
            time.sleep(PAUSE_S)  # the loop sleeps by now
            sent[0] = time.perf_counter()
            post()

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(HANDOVERS):
        turn.release()
        await wait()
        times.append(time.perf_counter() - sent[0])
    thread.join()
