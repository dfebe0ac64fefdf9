"""Fan out a topic to many subscribers on one event loop, fast ones and slow ones.

    python examples/fan_out.py --subscribers 200 --messages 2000

A publisher appends messages; a server sends them to everyone who connects to its port, a line each. Each
subscriber has a consumer, and so a place, of its own: a slow one holds up nobody, and the server keeps
nothing for it in memory, since what it has not got yet is in the topic. One that lost its connection names
the next offset it wants when it comes back, as half of them do here, and misses nothing.

A web-socket server does the same: write to the socket where this writes to the stream.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import pystream

TOPIC = "news"
SLOW_S = 0.002


class Server:
    """Sends the topic, from the offset that a client asks for, to each that connects."""

    def __init__(self, store: pystream.Store) -> None:
        self.store = store
        self.clients = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the client goes."""
        self.clients += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        start = int(await reader.readline() or 0)  # nothing: it has gone already
        async with (
            self.store.async_consumer(TOPIC, start={(TOPIC, 0): start}) as consumer,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self.hang_up(reader, consumer))
            with suppress(ConnectionError):
                async for batch in consumer.batches():
                    writer.writelines(b"%d %b\n" % (record.offset, record.value) for record in batch)
                    await writer.drain()  # waits for a slow client, and for this one only
            writer.close()

    async def hang_up(self, reader: asyncio.StreamReader, consumer: pystream.AsyncConsumer) -> None:
        """End the consumer's iteration when the client goes, though no record comes for it any more."""
        with suppress(ConnectionError):
            await reader.read()
        await consumer.close()


async def subscribe(port: int, messages: int, is_slow: bool, breaks: bool) -> float:
    """Read all messages, each once and in order; perhaps lose the connection half-way. Returns seconds."""
    began = time.perf_counter()
    wanted = 0
    while wanted < messages:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            writer.write(b"%d\n" % wanted)
            until = messages // 2 if breaks and wanted == 0 else messages
            while wanted < until:
                offset, _, text = (await reader.readline()).partition(b" ")
                assert int(offset) == wanted and text == b"message %d\n" % wanted
                wanted += 1
                if is_slow and wanted % 10 == 0:
                    await asyncio.sleep(SLOW_S)
        with suppress(ConnectionError):
            await writer.wait_closed()
    return time.perf_counter() - began


async def publish(topic: pystream.Topic, messages: int) -> None:
    """Send messages in bursts."""
    async with topic.async_producer(linger=0.001) as producer:
        for number in range(messages):
            await producer.send(b"message %d" % number)
            if number % 100 == 99:
                await asyncio.sleep(0.001)


async def run(path: Path, subscribers: int, messages: int) -> None:
    """Serve, publish and subscribe, all on this loop, and tell how long it took."""
    with pystream.open(path) as store:
        topic = store.topic(TOPIC, create=True)
        server = Server(store)
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(subscribe(port, messages, number % 4 == 0, number % 2 == 0))
                    for number in range(subscribers)
                ]
                group.create_task(publish(topic, messages))
        finally:
            listener.close()
            await asyncio.gather(*server.tasks)  # they end, since their clients have gone
        took = [task.result() for task in tasks]
    total = subscribers * messages
    print(f"{total:,} messages to {subscribers:,} subscribers, {server.clients:,} connections")
    fast = [seconds for number, seconds in enumerate(took) if number % 4]
    slow = took[::4]
    if fast:
        print(f"fast subscribers: {max(fast):.2f} s at most; slow ones: {max(slow):.2f} s")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Fan out a topic to many subscribers.")
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--messages", type=int, default=1000)
    given = parser.parse_args()
    if given.subscribers < 1 or given.messages < 2:
        parser.error("at least 1 subscriber and 2 messages")
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory) / "news.ps", given.subscribers, given.messages))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
