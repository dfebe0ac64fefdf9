"""Apache Kafka driven by its own tools: ProducerPerformance and ConsumerPerformance, in JVMs of their own."""

import re
import subprocess
from pathlib import Path

import shapes
from rivals.base import Failed, Seen
from rivals.kafka import Broker, broker_version, class_path
from rivals.server import java
from shapes import Scene

# https://kafka.apache.org/documentation/#producerconfigs and the sources of confluent-kafka's options.
PRODUCER = {"linger.ms": 10, "batch.size": 200_000, "buffer.memory": 256 << 20, "max.request.size": 2_000_000}
FETCH_BYTES = 8 << 20
HEAP = ("-Xms512m", "-Xmx1g")
RUN_SECONDS_MAX = 600
WARM_SHARE = 4
"""One record in so many is sent before the tool's clock starts: connecting and compiling is not measured."""


class KafkaJava(Broker):
    """The tools send and poll records as fast as they can, and tell their own time."""

    key = "kafka-java"
    label = "Kafka, its Java tools"
    language = "Java"
    seconds_min = 3.0

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"Apache Kafka": broker_version()}

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        if scene.acked:
            return "the tool does not wait for each record"
        if scene.workers > 1:
            return "the tool is one thread of one process"
        if form == "batch":
            return "the tool sends and polls records: see that row"
        return None

    @classmethod
    def done(cls, scene: Scene) -> str:
        return "the tool has flushed: the broker has acknowledged every record"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        options = PRODUCER | {"acks": "all" if scene.durability == "synced" else 1}
        if scene.shape.codec != "none":
            options["compression.type"] = scene.shape.codec
        shown = ", ".join(f"{name}={value}" for name, value in options.items())
        return (
            f"{shown}; --fetch-size {FETCH_BYTES}; the time is the tool's own, writing without the first "
            "quarter, which warms it up"
        )

    def create(self, form: str) -> None:
        super().create(form)
        self.state[form] = 0

    def write(self, form: str, blocks: int) -> float:
        scene = self.scene
        count = blocks * scene.block
        options = PRODUCER | {"acks": self._acks}
        values = ["--record-size", str(scene.shape.width)]
        if scene.shape.codec != "none":
            options["compression.type"] = scene.shape.codec
            values = ["--payload-file", str(self._payload())]
        command = ["--topic", form, "--num-records", str(count), "--throughput", "-1", *values]
        command += ["--bootstrap-server", self.state["broker"], "--command-property"]
        command += [f"{name}={value}" for name, value in options.items()]
        command += ["--warmup-records", str(count // WARM_SHARE)]
        told = self._run("org.apache.kafka.tools.ProducerPerformance", command)
        found = re.search(r"^\d+ steady state records sent, ([\d.]+) records/sec", told, re.MULTILINE)
        if not found or f"\n{count} records sent" not in f"\n{told}":
            raise Failed(f"ProducerPerformance said {told[-300:]!r}")
        self.state[form] += count
        return count / float(found[1])

    def read(self, form: str) -> tuple[float, list[Seen]]:
        command = ["--topic", form, "--num-records", str(self.state[form]), "--timeout", "30000"]
        command += ["--bootstrap-server", self.state["broker"], "--fetch-size", str(FETCH_BYTES)]
        told = self._run("org.apache.kafka.tools.ConsumerPerformance", [*command, "--hide-header"])
        fields = [field.strip() for field in told.strip().splitlines()[-1].split(",")]
        if len(fields) < 10:
            raise Failed(f"ConsumerPerformance said {told[-300:]!r}")
        # start, end, MB, MB/s, records, records/s, ms of rebalancing, ms of fetching, ...
        return float(fields[7]) / 1000, [Seen(int(fields[4]), None)]

    def _payload(self) -> Path:
        path = self.directory / "payload"
        if not path.exists():
            made = shapes.pool(self.scene.shape, self.scene.block)
            path.write_bytes(b"\n".join(b"\n".join(block) for block in made))
        return path

    def _run(self, name: str, command: list[str]) -> str:
        run = [str(java()), *HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", class_path(), name]
        try:
            told = subprocess.run([*run, *command], capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} took more than {RUN_SECONDS_MAX} s") from None
        if told.returncode != 0:
            raise Failed(f"{name} ended with {told.returncode}: {(told.stderr or told.stdout)[-300:]!r}")
        return told.stdout
