"""NATS JetStream: a server of its own with a stream in files, nats-py."""

import asyncio
import re
from collections.abc import Coroutine, Iterable
from typing import Any

from rivals.base import Optional, Seen, Session, package_version
from rivals.server import Served, Server, absent, find_program, free_ports, listens, program_version
from shapes import Scene

nats = Optional("nats")
api = Optional("nats.js.api")

# https://docs.nats.io/nats-concepts/jetstream/streams: file storage, one replica.
# https://docs.nats.io/using-nats/developer/develop_jetstream/model_deep_dive: asynchronous publishing for
# throughput, each message acknowledged by the server when it is stored; pull consumers, fetched in batches.
# https://docs.nats.io/running-a-nats-service/configuration: max_outstanding and sync_interval, which is two
# minutes; `always` came with version 2.10.
PENDING_MAX = 4000
PAGE = 1000
STORE_BYTES_MAX = 64 << 30


class JetStream(Served):
    """A stream with a subject a partition."""

    key = "nats"
    label = "NATS JetStream"

    @classmethod
    def available(cls) -> str | None:
        return absent("nats-server") or (None if nats else "the package nats-py is not installed")

    @classmethod
    def versions(cls) -> dict[str, str]:
        told = program_version("nats-server")
        return {"nats-server": told.rpartition("v")[2], "nats-py": package_version("nats-py")}

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        if scene.durability == "synced" and not cls._syncs_always():
            return "sync_interval: always needs nats-server 2.10"
        return None

    @classmethod
    def _syncs_always(cls) -> bool:
        numbers = re.findall(r"\d+", cls.versions()["nats-server"])
        return tuple(map(int, numbers[:2])) >= (2, 10)

    @classmethod
    def durability(cls, scene: Scene) -> str:
        interval = "always" if scene.durability == "synced" else "2 min, the default"
        return f"file storage, one replica, sync_interval {interval}"

    @classmethod
    def done(cls, scene: Scene) -> str:
        return "the acknowledgement of the last message has come, and none was an error"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        if scene.acked:
            return "await js.publish(), loopback"
        return (
            f"publish_async with up to {PENDING_MAX:,} pending, pull consumer without acknowledgements, "
            f"fetch({PAGE:,}), loopback; both forms write by the same code"
        )

    def prepare(self) -> None:
        (port,) = free_ports(1)
        self.state["port"] = port
        always = "sync_interval: always\n" if self.scene.durability == "synced" else ""
        config = self.directory / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{\n store_dir: "{self.directory}"\n max_file_store: {STORE_BYTES_MAX}\n {always}}}\n'
        )
        self._server = Server([str(find_program("nats-server")), "-c", str(config)], self.directory)

        async def there() -> bool:
            client = await nats.connect(self._url(), allow_reconnect=False)
            await client.jetstream().account_info()
            await client.close()
            return True

        self._server.wait_until(lambda: listens(port))
        self._server.wait_until(lambda: asyncio.run(there()))

    def _url(self) -> str:
        return f"nats://127.0.0.1:{self.state['port']}"

    def create(self, form: str) -> None:
        async def make() -> None:
            client = await nats.connect(self._url())
            await client.jetstream().add_stream(name=form, subjects=[f"{form}.*"], storage="file")
            await client.close()

        asyncio.run(make())

    def session(self, form: str, op: str, index: int) -> Session:
        return JetSession(self._url(), form, op, self.scene)


class JetSession(Session):
    def __init__(self, url: str, form: str, op: str, scene: Scene) -> None:
        self.form = form
        self.scene = scene
        self.loop = asyncio.new_event_loop()
        self.client: Any = None
        self._run(self._open(url, op))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _open(self, url: str, op: str) -> None:
        self.client = await nats.connect(url, allow_reconnect=False)
        self.stream = self.client.jetstream(timeout=120, publish_async_max_pending=PENDING_MAX)
        if op == "read":
            policy = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE)
            self.end = (await self.stream.stream_info(self.form)).state.messages
            self.pull = await self.stream.pull_subscribe(f"{self.form}.*", stream=self.form, config=policy)

    def write(self, blocks: Iterable[Any]) -> None:
        self._run(self._write_each(blocks) if self.form == "acked" else self._write(blocks))

    async def _write_each(self, blocks: Iterable[Any]) -> None:
        publish, subject = self.stream.publish, f"{self.form}.0"
        for (value,) in blocks:
            await publish(subject, value)

    async def _write(self, blocks: Iterable[Any]) -> None:
        publish = self.stream.publish_async
        subjects = [f"{self.form}.{partition}" for partition in range(self.scene.partitions)]
        waiting: list[Any] = []
        for number, block in enumerate(blocks):
            subject = subjects[number % len(subjects)]
            done = waiting
            waiting = [await publish(subject, value) for value in block]
            await asyncio.gather(*done)
        await asyncio.gather(*waiting)

    def read(self) -> Seen:
        seen: Seen = self._run(self._read())
        return seen

    async def _read(self) -> Seen:
        count, last = 0, b""
        while count < self.end:
            messages = await self.pull.fetch(min(PAGE, self.end - count), timeout=30)
            count += len(messages)
            if self.form == "batch":
                last = messages[-1].data
            else:
                for message in messages:
                    last = message.data
        return Seen(count, last)

    def close(self) -> None:
        if self.client is not None:
            self._run(self.client.close())
        self.loop.close()
