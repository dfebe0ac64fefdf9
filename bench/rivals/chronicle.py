"""Chronicle Queue: a Java program of ours that writes and reads one, in a JVM of its own."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import shapes
from rivals.base import BUILD, Contestant, Failed, Seen
from rivals.server import Server, java
from shapes import Scene

JARS = BUILD / "chronicle"
CLASS = "ChronicleBench"
# https://chronicle.software/chronicle-support-java-17/: what it needs to reach inside the JDK.
FLAGS = [
    *(
        f"--add-exports={name}=ALL-UNNAMED"
        for name in (
            "java.base/jdk.internal.ref",
            "java.base/sun.nio.ch",
            "jdk.unsupported/sun.misc",
            "jdk.compiler/com.sun.tools.javac.file",
        )
    ),
    *(
        f"--add-opens={name}=ALL-UNNAMED"
        for name in (
            "jdk.compiler/com.sun.tools.javac",
            "java.base/java.lang",
            "java.base/java.lang.reflect",
            "java.base/java.io",
            "java.base/java.util",
            "java.base/sun.nio.ch",
        )
    ),
]
# https://github.com/OpenHFT/Chronicle-Queue#readme: writingDocument for raw bytes; a larger block size maps
# less often; sync() for what must be on the disk; it lets the system write otherwise, as mapped memory is.
OPTIONS = (
    "-Xms1g",
    "-Xmx2g",
    "-Dchronicle.analytics.disable=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
)
WARM_BYTES = 20_000_000
WARM_RECORDS_MAX = 200_000


class Chronicle(Contestant):
    """writingDocument and readingDocument of each record, from Java."""

    key = "chronicle"
    label = "Chronicle Queue, Java"
    language = "Java"
    seconds_min = 1.0

    _server: Server | None = None

    @classmethod
    def available(cls) -> str | None:
        if not (JARS / f"{CLASS}.class").exists():
            return "the jars of Chronicle Queue and our class are not in build/rivals/chronicle"
        return None if java() else "there is no Java of 17 or newer"

    @classmethod
    def versions(cls) -> dict[str, str]:
        for path in JARS.glob("chronicle-queue-*.jar"):
            return {"Chronicle Queue": path.stem.rpartition("-")[2]}
        return {"Chronicle Queue": "absent"}

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        if scene.partitions > 1:
            return "a queue is one log"
        if scene.processes > 1:
            return "the harness is one JVM"
        return None

    @classmethod
    def durability(cls, scene: Scene) -> str:
        return (
            "syncMode SYNC, sync() after each block"
            if scene.durability == "synced"
            else "mapped memory, the default"
        )

    @classmethod
    def done(cls, scene: Scene) -> str:
        if scene.durability == "synced":
            return "the last sync() has returned"
        return "the context of the last record is closed: it is in the mapped file"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        return (
            "LARGE_DAILY, blockSize 256 MiB, warmed up off the clock; each record is acknowledged by itself, "
            "so that both forms are the same; values are byte[]; not compressed"
        )

    def prepare(self) -> None:
        command = [str(java()), *OPTIONS, *FLAGS, "-cp", f"{JARS}:{JARS}/*", CLASS]
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = Server(command, self.directory, **streams)
        self._hear("ready")
        shape, block = self.scene.shape, self.scene.block
        pool = self.directory / "pool"
        made = shapes.pool(shape, block)
        pool.write_bytes(b"".join(map(b"".join, made)))
        self._ask(f"pool {pool} {shape.width}")
        pool.unlink()
        # The compiler of the JVM has seen the loops when the clock starts.
        warm = self.directory / "warm"
        blocks = max(min(WARM_BYTES // shape.width, WARM_RECORDS_MAX) // block, 1)
        self._ask(f"write {warm} 1 {block} {blocks} false")
        self._ask(f"read {warm} 1")
        shutil.rmtree(warm, ignore_errors=True)

    def _hear(self, wanted: str) -> list[str]:
        assert self._server is not None and self._server.process.stdout is not None
        said: list[str] = self._server.process.stdout.readline().split()
        if not said or said[0] != wanted:
            raise Failed(f"{CLASS} said {' '.join(said)[:300]!r}; {self._server.words()}")
        return said[1:]

    def _ask(self, line: str) -> list[str]:
        if self._server is None:
            self.prepare()
        assert self._server is not None and self._server.process.stdin is not None
        self._server.process.stdin.write(f"{line}\n")
        self._server.process.stdin.flush()
        return self._hear("done")

    def _queue(self, form: str) -> Path:
        return self.directory / f"queue-{form}"

    def write(self, form: str, blocks: int) -> float:
        scene = self.scene
        each = max(blocks // scene.threads, 1)
        sync = "true" if scene.durability == "synced" else "false"
        (seconds,) = self._ask(f"write {self._queue(form)} {scene.threads} {scene.block} {each} {sync}")
        return float(seconds)

    def read(self, form: str) -> tuple[float, list[Seen]]:
        seconds, *told = self._ask(f"read {self._queue(form)} {self.scene.threads}")
        seen = [Seen(int(told[i]), bytes.fromhex(told[i + 1])) for i in range(0, len(told), 2)]
        return float(seconds), seen

    def kill(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._drop_pipes()

    def close(self) -> None:
        if self._server is not None:
            if self._server.process.stdin is not None:
                self._server.process.stdin.close()
            self._server.stop()
            self._drop_pipes()

    def _drop_pipes(self) -> None:
        assert self._server is not None
        for pipe in (self._server.process.stdin, self._server.process.stdout):
            if pipe is not None:
                pipe.close()
        self._server = None
