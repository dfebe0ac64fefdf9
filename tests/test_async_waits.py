"""Waits of event loops, in many tasks, threads and processes: few helper threads, none forgotten."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import async_lives
import pystream
from harness import Life, quick_directory
from loops import LOOPS, SOON_S, runner, until, waiting
from pystream import ForkedError
from pystream.inspection import read_head
from test_fork import in_child

THREADS_MAX = 8


def is_waited_for(partition: pystream.Partition) -> bool:
    """Whether the next append wakes somebody, or tries to."""
    return read_head(Path(partition._log().path) / "head").waited_for


def wakes(topic: pystream.Topic) -> int:
    """Calls of this process to wake somebody."""
    return sum(each.process.wakes for each in topic.stats().partitions if each.process is not None)


def watch_threads() -> list[Path]:
    tasks = Path("/proc/self/task").iterdir()
    return [task for task in tasks if (task / "comm").read_text() == "pystream-watch\n"]


def switches(thread: Path) -> int:
    """How often it went to sleep."""
    status = (thread / "status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.parametrize(("tasks", "partitions"), [(2_000, 500), (200, 127), (130, 128)])
def test_many_tasks_wait_for_another_process(tasks, partitions):
    """More partitions than one thread has words for, and than all have: each wakes its tasks."""
    with quick_directory() as path:
        with pystream.open(path / "s") as store:
            store.topic("t", create=True, partitions=partitions, segment_bytes="64KiB")
        waiter = Life(async_lives.waiter, path / "s", "t", tasks)
        before, during = waiter.receive()
        assert before + 1 <= during <= before + THREADS_MAX
        appender = Life(async_lives.appender, path / "s", "t")
        assert appender.receive() == "ready"
        for first in range(0, partitions, 50):
            appender.channel.send(list(range(first, min(first + 50, partitions))))
            assert appender.receive() == "done"
        appender.channel.send(None)
        got = waiter.receive()
        assert Counter(index for index, _ in got) == Counter(n % partitions for n in range(tasks))
        assert all(value == b"%d %d" % (index // 50, index) for index, value in got)
        assert appender.end() == waiter.end() == 0


def test_a_hundred_tasks_are_woken_by_one_call(run, store, topic):
    partition = topic.partition(0)

    async def main() -> None:
        consumers = [store.async_consumer("t") for _ in range(100)]
        tasks = [asyncio.create_task(consumer.poll()) for consumer in consumers]
        await until(waiting(*consumers))
        assert is_waited_for(partition)
        for task in tasks[:50]:
            task.cancel()
        await asyncio.wait(tasks[:50])
        before_append = wakes(topic)
        partition.append([b"x"])
        batches = await asyncio.gather(*tasks[50:])
        assert [batch[0].value for batch in batches] == [b"x"] * 50
        partition.append([b"y"])
        assert wakes(topic) == before_append + 1
        assert not is_waited_for(partition)
        await asyncio.sleep(0.05)
        before = {thread: switches(thread) for thread in watch_threads()}
        await asyncio.sleep(1.2)  # nobody waits: nobody wakes
        assert {thread: switches(thread) for thread in watch_threads()} == before
        assert 1 <= len(before) <= THREADS_MAX

    run(main())


def test_a_consumer_of_many_partitions(run, store):
    """One wait for more words than there are."""
    topic = store.topic("w", create=True, partitions=400, segment_bytes="64KiB")

    async def main() -> None:
        async with store.async_consumer("w") as consumer:
            for index in (0, 399, 126, 127, 381, 200):
                wait = asyncio.create_task(consumer.poll())
                await until(waiting(consumer))
                topic.partition(index).append([b"%d" % index])
                batch = await asyncio.wait_for(wait, SOON_S)
                assert batch is not None and batch.partition == index
        for _ in range(2):
            before = wakes(topic)
            for index in range(400):
                topic.partition(index).append([b"y"])
        assert wakes(topic) == before  # at the second time nobody is left

    run(main())


def test_a_store_that_is_only_read_is_looked_at(run, store, topic):
    topic.append([b"a"])

    async def main() -> None:
        with pystream.open(store.path, "r") as reading:
            async with reading.async_consumer("t", start="latest") as consumer:
                wait = asyncio.create_task(consumer.poll())
                await until(waiting(consumer))
                await asyncio.sleep(0.1)
                began = time.monotonic()
                topic.append([b"b"])
                batch = await wait
                assert batch is not None and batch[0].value == b"b"
                assert time.monotonic() - began < 0.9

    run(main())


def test_several_loops_in_several_threads(store):
    topic = store.topic("p", create=True, partitions=2)
    failed: list[BaseException] = []

    def echo(kind: str, mine: int, theirs: int, first: bool) -> None:
        async def main() -> None:
            async with store.async_consumer() as consumer:
                consumer.assign([("p", mine, 0)])
                if first:
                    topic.append([b"0"], partition=theirs)
                async for record in consumer:
                    number = int(record.value)
                    topic.append([b"%d" % (number + 1)], partition=theirs)
                    if number >= 400:
                        return

        try:
            runner(kind)(main())
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=echo, args=(LOOPS[0], 0, 1, True)),
        threading.Thread(target=echo, args=(LOOPS[-1], 1, 0, False)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S * 3)
        assert not thread.is_alive()
    assert failed == []
    assert sorted(int(r.value) for r in topic.records()) == list(range(403))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", LOOPS)
def test_fork_while_a_loop_waits(tmp_path, kind):
    store = pystream.open(tmp_path / "s")
    topic = store.topic("t", create=True)
    consumer = store.async_consumer("t", start="latest")
    producer = topic.async_producer(linger=60)
    got: list[bytes] = []
    ready = threading.Event()

    async def tail() -> None:
        wait = asyncio.create_task(consumer.poll())
        await until(waiting(consumer))
        ready.set()
        batch = await wait
        assert batch is not None
        got.extend(batch.values.to_pylist())

    def anew() -> list[bytes]:
        async def main() -> list[bytes]:
            with pystream.open(tmp_path / "s") as mine:
                async with mine.async_consumer("t", start="latest") as reader:
                    asyncio.get_running_loop().call_later(0.05, mine["t"].append, [b"child's"])
                    batch = await reader.poll(timeout=SOON_S)
                    assert batch is not None
                    return list(batch.values.to_pylist())

        return list(runner(kind)(main()))

    def inherited() -> str:
        said = ""
        for ask in (consumer.poll, producer.flush, lambda: producer.send(b"x")):
            try:
                asyncio.run(ask())
            except ForkedError:
                said += "forked "
        gc.collect()
        return said

    thread = threading.Thread(target=lambda: runner(kind)(tail()))
    thread.start()
    assert ready.wait(SOON_S)
    assert in_child(inherited) == repr("forked " * 3)
    assert is_waited_for(topic.partition(0))  # the child took nothing back
    assert in_child(anew) == repr([b"child's"])
    thread.join(SOON_S)
    assert got == [b"child's"]
    asyncio.run(producer.close())
    store.close()


def test_a_wait_that_is_forgotten_costs_one_call(store, topic):
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
    consumer = store.async_consumer("t")
    task = loop.create_task(consumer.poll())
    loop.run_until_complete(until(waiting(consumer)))
    assert is_waited_for(topic.partition(0))
    loop.close()
    del task, loop, consumer
    gc.collect()
    before = wakes(topic)
    for _ in range(10):
        topic.append([b"x"])
    assert wakes(topic) == before + 1


def test_asyncio_is_imported_by_those_who_use_it(tmp_path):
    code = (
        "import sys, pystream\n"
        "with pystream.open(sys.argv[1]) as store: store.topic('t', create=True).append([b'x'])\n"
        "assert 'asyncio' not in sys.modules\n"
        "assert pystream.AsyncConsumer and pystream.AsyncProducer and 'asyncio' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path / "s"], check=True, timeout=60)


def test_a_process_that_ends_while_it_waits_says_nothing(tmp_path):
    code = (
        "import asyncio, pystream, sys\n"
        "store = pystream.open(sys.argv[1])\n"
        "consumer = store.topic('t', create=True) and store.async_consumer('t')\n"
        "async def main():\n"
        "    asyncio.create_task(consumer.poll())\n"
        "    await asyncio.sleep(0.05)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, tmp_path / "s"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
