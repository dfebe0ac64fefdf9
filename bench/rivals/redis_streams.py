"""Redis Streams: a server of its own with an append-only file, redis-py with hiredis, a Unix socket."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rivals.base import Optional, Seen, Session, package_version
from rivals.server import Served, Server, absent, find_program, program_version
from shapes import Scene

redis = Optional("redis")

# https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/: the append-only file is written
# before the replies of an event loop's turn are sent, so that with appendfsync=no what is acknowledged is in
# the page cache; with "always" it is synced, once for all commands of a turn.
# https://redis.io/docs/latest/develop/using-commands/pipelining/: many commands, one round trip.
# https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/latency/: Unix sockets.
APPENDFSYNC = {"cache": "no", "synced": "always"}
SOCKET_PATH_MAX = 100
PAGE = 1000


class RedisStreams(Served):
    """XADD in pipelines of a block, XRANGE of 1,000."""

    key = "redis"
    label = "Redis Streams"

    @classmethod
    def available(cls) -> str | None:
        return absent("redis-server") or (None if redis else "the package redis is not installed")

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {
            "Redis": program_version("redis-server").partition("v=")[2].partition(" ")[0],
            "redis-py": package_version("redis"),
            "hiredis": package_version("hiredis"),
        }

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        return "it keeps all records in memory" if temperature == "cold" else None

    @classmethod
    def durability(cls, scene: Scene) -> str:
        return f"appendonly yes, appendfsync {APPENDFSYNC[scene.durability]}"

    @classmethod
    def done(cls, scene: Scene) -> str:
        return "the last reply has come"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        pipeline = "no pipeline" if scene.acked else "a pipeline a block"
        return f"{pipeline}, Unix socket, hiredis, no snapshots or rewrites; both forms are the same code"

    def prepare(self) -> None:
        path = self.directory / "redis.socket"
        if len(str(path)) > SOCKET_PATH_MAX:
            path = Path(tempfile.mkdtemp()) / "redis.socket"
        self.state["socket"] = str(path)
        options = {
            "port": "0",
            "unixsocket": str(path),
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": APPENDFSYNC[self.scene.durability],
            "auto-aof-rewrite-percentage": "0",
            "save": "",
        }
        program = find_program("redis-server")
        command = [str(program), *(part for name, value in options.items() for part in (f"--{name}", value))]
        self._server = Server(command, self.directory)
        self._server.wait_until(lambda: bool(self._client().ping()))

    def _client(self) -> Any:
        return redis.Redis(unix_socket_path=self.state["socket"], socket_timeout=120)

    def session(self, form: str, op: str, index: int) -> Session:
        streams = [f"{form}-{partition}" for partition in range(self.scene.partitions)]
        return StreamSession(self._client(), streams, form)

    def close(self) -> None:
        super().close()
        socket = Path(self.state.get("socket", "/nowhere"))
        if socket.parent != self.directory and socket.parent.exists():
            socket.unlink(missing_ok=True)
            os.rmdir(socket.parent)


class StreamSession(Session):
    def __init__(self, client: Any, streams: list[str], form: str) -> None:
        self.client = client
        self.streams = streams
        self.form = form

    def write(self, blocks: Iterable[Any]) -> None:
        if self.form == "acked":
            command, stream = self.client.execute_command, self.streams[0]
            for (value,) in blocks:
                command("XADD", stream, "*", "v", value)
            return
        pipeline = self.client.pipeline(transaction=False)
        command = pipeline.execute_command
        for number, block in enumerate(blocks):
            stream = self.streams[number % len(self.streams)]
            for value in block:
                command("XADD", stream, "*", "v", value)
            pipeline.execute()

    def read(self) -> Seen:
        count, last = 0, b""
        for stream in self.streams:
            after = "-"
            while entries := self.client.xrange(stream, after, "+", PAGE):
                count += len(entries)
                if self.form != "batch":
                    for _, fields in entries:
                        last = fields[b"v"]
                else:
                    last = entries[-1][1][b"v"]
                after = f"({entries[-1][0].decode()}"
        return Seen(count, last)

    def close(self) -> None:
        self.client.close()
