"""What other processes do in test_asyncio.py: see harness.Life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pystream


def appender(channel: Any, path: Path, topic: str) -> None:
    """Append one record, b"N P", to each partition P of a list, once told to, for N = 0, 1, 2 ..."""
    with pystream.open(path) as store:
        partitions = [store[topic].partition(i) for i in range(store[topic].partitions)]
        channel.send("ready")
        number = 0
        while (wanted := channel.recv()) is not None:
            for index in wanted:
                partitions[index].append([b"%d %d" % (number, index)])
            number += 1
            channel.send("done")


def holder(channel: Any, path: Path, topic: str) -> None:
    """Hold partition 0 for exclusive writing until told to let go."""
    with pystream.open(path) as store, store[topic].partition(0).exclusive():
        channel.send("held")
        channel.recv()
    channel.send("let go")


def waiter(channel: Any, path: Path, topic: str, tasks: int) -> None:
    """Have many tasks wait for their partitions; tell threads before and while, and what each task got."""
    import asyncio
    import os

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    async def one(store: pystream.Store, index: int) -> tuple[int, bytes]:
        async with store.async_consumer() as consumer:
            consumer.assign([(topic, index)])
            batch = await consumer.poll()
            assert batch is not None and len(batch) == 1
            return index, bytes(batch.values[0])

    async def main() -> None:
        with pystream.open(path) as store:
            partitions = store[topic].partitions
            before = threads()
            waits = [asyncio.create_task(one(store, number % partitions)) for number in range(tasks)]
            await asyncio.sleep(0)
            await asyncio.sleep(0.2)  # the threads have had the time to start, and sleep
            assert not any(task.done() for task in waits)
            channel.send((before, threads()))
            channel.send(await asyncio.gather(*waits))

    asyncio.run(main())
