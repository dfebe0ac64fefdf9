"""asyncio: waits wake at once, lose nothing when they are cancelled, and end when they should."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import pystream
from loops import LOOPS, SOON_S, until, waiting
from pystream import ClosedError, OptionError, TopicDeletedError


@pytest.fixture
def partition(topic: pystream.Topic) -> pystream.Partition:
    return topic.partition(0)


# ---- reading --------------------------------------------------------------------------------------


def test_records_and_batches_come_as_they_are_appended(run, store, partition):
    async def reader() -> list[bytes]:
        async with store.async_consumer("t") as consumer:
            got = []
            async for record in consumer:
                got.append(record.value)
                assert consumer.position(("t", 0)) == record.offset  # until the next one is asked for
                if record.value == b"last":
                    return got
        return []

    async def batch_reader() -> list[list[bytes]]:
        async with store.async_consumer("t") as consumer:
            got = []
            async for batch in consumer.batches():
                got.append(batch.values.to_pylist())
                if got[-1][-1] == b"last":
                    return got
        return []

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            records, batches = group.create_task(reader()), group.create_task(batch_reader())
            for number in range(20):
                partition.append([b"%d" % number, b"and"])
                await asyncio.sleep(0.001 * (number % 3))
            partition.append([b"last"])
        expected = [[b"%d" % number, b"and"] for number in range(20)] + [[b"last"]]
        assert batches.result() == expected
        assert records.result() == [value for batch in expected for value in batch]

    run(main())


def test_poll_waits_as_long_as_it_is_told(run, store, partition):
    async def main() -> None:
        async with store.async_consumer("t") as consumer:
            assert await consumer.poll(timeout=0) is None
            began = time.monotonic()
            assert await consumer.poll(timeout="50ms") is None
            assert time.monotonic() - began >= 0.045
            asyncio.get_running_loop().call_later(0.02, partition.append, [b"x"])
            batch = await consumer.poll(timeout=10**9)
            assert batch is not None and batch[0].value == b"x"
            partition.append([b"y"])
            batch = await consumer.poll(timeout=0)
            assert batch is not None and batch[0].value == b"y"
            with pytest.raises(OptionError, match="timeout"):
                await consumer.poll(timeout=-1)
        with pytest.raises(ClosedError, match="the consumer is closed"):
            await consumer.poll()

    run(main())


def test_iteration_ends_after_its_idle_time_and_goes_on(run, store, partition):
    async def main() -> None:
        async with store.async_consumer("t", timeout=0.02) as consumer:
            assert [record async for record in consumer] == []
            partition.append([b"a", b"b", b"c"])
            stream = aiter(consumer)
            assert (await anext(stream)).value == b"a"
            assert [record.value async for record in consumer] == [b"b", b"c"]
            assert await anext(stream, None) is None
            partition.append([b"d"])
            assert [len(batch) async for batch in consumer.batches()] == [1]

    run(main())


def test_serializers_apply(run, store):
    async def main() -> None:
        topic = store.topic("j", create=True)
        async with topic.async_producer(value="json", key="utf8") as producer:
            await producer.send({"n": 1}, key="k")
            with pytest.raises(pystream.SerializationError):
                await producer.send(object())
        async with store.async_consumer("j", value="json", key="utf8", timeout=0.01) as consumer:
            assert [(r.key, r.value) async for r in consumer] == [("k", {"n": 1})]
            topic.append([b"{"])
            with pytest.raises(pystream.SerializationError):
                await anext(aiter(consumer))
            with pytest.raises(pystream.SerializationError):  # not consumed
                await anext(aiter(consumer))
            consumer.seek(("j", 0), 2)
            assert [record async for record in consumer] == []

    run(main())


def test_places_are_those_of_the_consumer(run, store, partition):
    async def main() -> None:
        partition.append([b"a", b"b", b"c"], timestamps=[10**18, 10**18 + 1, 10**18 + 2])
        place = pystream.TopicPartition("t", 0)
        async with store.async_consumer() as consumer:
            for ask in (consumer.poll, lambda: anext(aiter(consumer)), lambda: anext(consumer.batches())):
                with pytest.raises(OptionError, match="reads nothing yet"):
                    await ask()
            consumer.subscribe("t")
            assert consumer.assignment() == [place] and consumer.paused() == []
            assert consumer.beginning_offsets([place]) == {place: 0}
            assert consumer.end_offsets([place]) == {place: 3}
            found = consumer.offsets_for_times({place: 10**18 + 1})[place]
            assert found is not None and found.offset == 1
            consumer.seek_to_end(place)
            assert await consumer.poll(0) is None
            consumer.seek_to_beginning()
            assert (await anext(aiter(consumer))).offset == 0
            consumer.pause(place)
            assert consumer.paused() == [place] and await consumer.poll(0) is None
            assert repr(consumer) == "<pystream.AsyncConsumer of 't', 1 partition>"
        assert consumer.closed and "closed" in repr(consumer)
        await consumer.close()
        with pytest.raises(ClosedError):
            async with consumer:
                pass
        with pytest.raises(TypeError, match="spin"):
            store.async_consumer("t", spin=0)
        with pytest.raises(pystream.TopicNotFoundError):
            store.async_consumer("tt")

    run(main())


def test_another_task_may_change_what_is_read(run, store, partition):
    async def main() -> None:
        partition.append([b"a", b"b"])
        other = store.topic("u", create=True, partitions=2)
        async with store.async_consumer("t", start="latest") as consumer:
            changes: list[tuple[bytes, Callable[[], object]]] = [
                (b"b", lambda: consumer.seek(("t", 0), 1)),
                (b"a", consumer.seek_to_beginning),
                (b"u", lambda: (consumer.subscribe("u"), other.append([b"u"], partition=1))),
                (b"u", lambda: consumer.assign([("u", 1, 0)])),
                (b"v", lambda: consumer.resume(("u", 1))),
            ]
            for value, change in changes:
                if value == b"v":
                    consumer.pause(("u", 1))
                    other.append([b"v"], partition=1)
                wait = asyncio.create_task(consumer.poll())
                await until(waiting(consumer))
                change()
                batch = await wait
                assert batch is not None and batch[0].value == value
                consumer.seek_to_end()

    run(main())


def test_one_task_waits_and_a_second_is_told(run, store, partition):
    async def main() -> None:
        async with store.async_consumer("t") as consumer:
            first = asyncio.create_task(consumer.poll())
            await until(waiting(consumer))
            for ask in (consumer.poll, lambda: anext(aiter(consumer)), lambda: anext(consumer.batches())):
                with pytest.raises(RuntimeError, match="another task is waiting"):
                    await ask()
            assert await consumer.poll(timeout=0) is None  # does not wait
            partition.append([b"x"])
            batch = await first
            assert batch is not None and batch[0].value == b"x"

    run(main())


def test_the_loop_is_shared_though_records_never_end(run, store, partition):
    """A task that always finds something gives way: to a ticker, here, that has to keep up with the clock."""
    for _ in range(60):
        partition.append([b"x"] * 2_000)
        partition.append([b"y"])

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        async def endless(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
            nonlocal ticks
            began = time.thread_time()  # its own: on a busy machine others take theirs
            ticks = 0
            while time.thread_time() - began < 0.2:
                await work()
            assert ticks > 20, work

        ticker = asyncio.create_task(tick())
        async with store.async_consumer("t") as consumer, store["t"].async_producer() as producer:
            stream = aiter(consumer)

            async def again() -> None:
                async for record in stream:
                    if record.value == b"y":
                        break
                if consumer.position(("t", 0)) > 100_000:
                    consumer.seek_to_beginning()

            await endless(again)
            await endless(lambda: consumer.poll(0))  # none left, in the end
            await endless(lambda: producer.send(b"z"))
        ticker.cancel()

    run(main())


# ---- cancelling -----------------------------------------------------------------------------------


def test_a_wait_cancelled_after_it_was_woken_has_consumed_nothing(run, store, partition):
    async def main() -> None:
        async with store.async_consumer("t") as consumer:
            stream, batches = aiter(consumer), consumer.batches()
            for number, ask in enumerate([consumer.poll, lambda: anext(stream), lambda: anext(batches)]):
                wait = asyncio.ensure_future(_awaited(ask))
                await until(waiting(consumer))
                partition.append([b"%d" % number])
                time.sleep(0.05)  # the bell has rung, and the loop has not heard it
                wait.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await wait
                assert consumer.position(("t", 0)) == number
                batch = await consumer.poll(timeout=0)
                assert batch is not None and batch[0].value == b"%d" % number

    run(main())


async def _awaited(ask: Callable[[], Any]) -> Any:
    return await ask()


def test_what_is_thrown_away_before_it_is_awaited_has_taken_nothing(run, store, partition):
    async def main() -> None:
        partition.append([b"a", b"b", b"c"])
        async with store.async_consumer("t", timeout=0) as consumer:
            stream = aiter(consumer)
            assert (await anext(stream)).value == b"a"
            for _ in range(100):
                thrown = stream.__anext__()
                thrown.close()
                with pytest.raises(ZeroDivisionError):
                    stream.__anext__().throw(ZeroDivisionError())
            kept = [stream.__anext__() for _ in range(3)]  # of which two will find something
            assert (await kept[0]).value == b"b" and (await kept[1]).value == b"c"
            with pytest.raises(StopAsyncIteration):
                await kept[2]

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_cancellations_loses_and_repeats_nothing(run, store, topic, seed):
    chance = random.Random(seed)
    total = 3_000

    async def impatient(consumer: pystream.AsyncConsumer, got: list[bytes]) -> None:
        stream, batches = aiter(consumer), consumer.batches()

        async def take(how: int) -> None:
            if how == 0:
                batch = await consumer.poll(chance.choice([None, 0, 0.0005]))
                got.extend(batch.values.to_pylist() if batch is not None else [])
            elif how == 1:
                got.append((await anext(stream)).value)
            else:
                got.extend((await anext(batches)).values.to_pylist())

        while len(got) < total:
            how, patience = chance.randrange(3), chance.choice([0, 0.0001, 0.0005, 0.002])
            try:
                if chance.random() < 0.5:
                    async with asyncio.timeout(patience):
                        await take(how)
                else:
                    task = asyncio.create_task(take(how))
                    await asyncio.sleep(patience)
                    task.cancel()
                    await task
            except (TimeoutError, asyncio.CancelledError):
                pass

    async def main() -> None:
        async with store.async_consumer("t") as consumer:
            got: list[bytes] = []
            reader = asyncio.create_task(impatient(consumer, got))
            sent = 0
            while sent < total:
                count = min(chance.choice([1, 1, 2, 50]), total - sent)
                topic.append([b"%d" % number for number in range(sent, sent + count)])
                sent += count
                await asyncio.sleep(chance.choice([0, 0, 0.0003]))
            await reader
            assert got == [b"%d" % number for number in range(total)]

    run(main())


def test_wait_for_and_gather_and_task_groups(run, store, partition):
    async def main() -> None:
        async with store.async_consumer("t") as consumer:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(consumer.poll(), 0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(aiter(consumer)), 0.01)
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(consumer.poll())
                    group.create_task(_awaited(lambda: asyncio.sleep(0.01, 1 / 0)))
            partition.append([b"x"])
            batch = await asyncio.wait_for(consumer.poll(), SOON_S)
            assert batch is not None and batch[0].value == b"x"

    run(main())


# ---- ending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("closer", ["task", "thread", "store"])
def test_closing_ends_waits_at_once(run, tmp_path, closer):
    async def main() -> None:
        store = pystream.open(tmp_path / "s")
        store.topic("t", create=True)
        consumers = [store.async_consumer("t") for _ in range(3)]
        polled, iterated, batched = consumers

        async def iterate() -> int:
            return len([record async for record in iterated])

        async def batches() -> int:
            return len([batch async for batch in batched.batches()])

        tasks = [asyncio.create_task(work) for work in (polled.poll(), iterate(), batches())]
        await until(waiting(*consumers))
        began = time.monotonic()
        if closer == "task":
            for consumer in consumers:
                await consumer.close()
        elif closer == "thread":
            for consumer in consumers:
                threading.Thread(target=consumer._consumer.close).start()
        else:
            threading.Thread(target=store.close).start()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - began < 0.9  # no slice of a second
        assert isinstance(results[0], ClosedError) and results[1:] == [0, 0]
        store.close()
        with pytest.raises(ClosedError):
            await anext(aiter(iterated))

    run(main())


def test_a_deleted_topic_ends_a_wait(run, store, topic):
    async def main() -> None:
        async with store.async_consumer("t") as consumer:
            wait = asyncio.create_task(consumer.poll())
            await until(waiting(consumer))
            await asyncio.to_thread(store.delete_topic, "t")
            with pytest.raises(TopicDeletedError):
                await wait

    run(main())


def test_a_loop_closed_with_a_wait_in_it_leaves_the_consumer_usable(store, partition):
    for name in LOOPS:
        loop = asyncio.new_event_loop() if name == "asyncio" else __import__("uvloop").new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
        consumer = store.async_consumer("t", start="latest")
        task = loop.create_task(consumer.poll())
        loop.run_until_complete(until(waiting(consumer)))
        loop.close()
        partition.append([name.encode()])  # rings for nobody
        task.get_coro().close()
        del task, loop
        gc.collect()
        batch = asyncio.run(consumer.poll(timeout=SOON_S))
        assert batch is not None and batch[0].value == name.encode()


def test_interrupt_ends_the_loop(tmp_path):
    code = (
        "import asyncio, pystream, sys\n"
        "async def main():\n"
        "    asyncio.get_running_loop().slow_callback_duration = 60\n"
        "    with pystream.open(sys.argv[1]) as store:\n"
        "        store.topic('t', create=True)\n"
        "        async with store.async_consumer('t') as consumer:\n"
        "            print('waiting', flush=True)\n"
        "            async for record in consumer: print(record)\n"
        "try: asyncio.run(main())\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, tmp_path / "s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=SOON_S) == ("interrupted\n", "")
    assert process.returncode == 0
