"""Apache Kafka: a broker of its own, one node in KRaft mode, driven through confluent-kafka."""

import functools
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Any

from rivals.base import BUILD, Failed, Optional, Seen, Session, package_version
from rivals.server import Served, Server, free_ports, java
from shapes import Scene

confluent = Optional("confluent_kafka")
admin = Optional("confluent_kafka.admin")

# https://docs.confluent.io/cloud/current/client-apps/optimizing/throughput.html: batch.size 100,000 to
# 200,000, linger.ms 10 to 100, acks=1, fetch.min.bytes ~100,000, lz4 where it compresses.
# https://github.com/confluentinc/librdkafka/blob/master/INTRODUCTION.md#high-throughput and CONFIGURATION.md:
# queue.buffering.max.*, queued.min.messages.
# https://kafka.apache.org/documentation/#topicconfigs_flush.messages: with 1, synced after every batch of
# records before it is acknowledged; otherwise the broker leaves syncing to the system.
# https://kafka.apache.org/documentation/#brokerconfigs and bin/kafka-server-start.sh: heap of 1 GB, G1.
PRODUCER = {
    "linger.ms": 10,
    "batch.size": 200_000,
    "batch.num.messages": 100_000,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1 << 20,
    "message.max.bytes": 2_000_000,
}
CONSUMER = {
    "fetch.min.bytes": 100_000,
    "fetch.wait.max.ms": 50,
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 1 << 19,
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": False,
    "check.crcs": True,
}
HEAP = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC")
PAGE = 1000
WARM_TOPIC = "warm"
WARM_SECONDS = 1.5
WARM_BYTES = 1_000_000
"""A broker that has just started interprets its code: what it does in this time is in no figure."""
IDLE_SECONDS_MAX = 30
JARS = BUILD / "kafka"


def class_path() -> str:
    return f"{JARS}/*"


def broker_version() -> str:
    for path in JARS.glob("kafka_2.13-*.jar"):
        return path.stem.rpartition("-")[2]
    return "absent"


class Broker(Served):
    """The broker, whatever drives it."""

    seconds_min = 1.0

    @classmethod
    def available(cls) -> str | None:
        if broker_version() == "absent":
            return "the jars of Apache Kafka are not in build/rivals/kafka"
        if java() is None:
            return "there is no Java of 17 or newer"
        return None

    @classmethod
    def durability(cls, scene: Scene) -> str:
        if scene.durability == "synced":
            return "one replica, flush.messages=1"
        return "one replica, flush left to the system, the default"

    @functools.cached_property
    def _acks(self) -> str:
        return "all" if self.scene.durability == "synced" else "1"

    def prepare(self) -> None:
        port, controller = free_ports(2)
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.directory / "logs",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
            "message.max.bytes": PRODUCER["message.max.bytes"],
        }
        config = self.directory / "server.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        run = [str(java()), "-cp", class_path()]
        if not (self.directory / "logs" / "meta.properties").exists():
            name = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            format_ = [*run, "kafka.tools.StorageTool", "format", f"--cluster-id={name}", "-c", str(config)]
            told = subprocess.run(format_, capture_output=True, text=True, cwd=self.directory)
            if told.returncode != 0:
                raise Failed(f"the directory of the broker could not be made: {told.stdout}{told.stderr}")
        self.state["broker"] = f"127.0.0.1:{port}"
        command = [*run[:1], *HEAP, *run[1:], "kafka.Kafka", str(config)]
        self._server = Server(command, self.directory)
        self._server.wait_until(lambda: bool(self._admin().list_topics(timeout=1).brokers))

    def _admin(self) -> Any:
        return admin.AdminClient({"bootstrap.servers": self.state["broker"], "log_level": 0})

    def warm_up(self) -> None:
        self.create(WARM_TOPIC)
        until = time.monotonic() + WARM_SECONDS
        while time.monotonic() < until:
            self.write(WARM_TOPIC, self._warm_blocks())
        self.read(WARM_TOPIC)

    def _warm_blocks(self) -> int:
        return max(WARM_BYTES // (self.scene.block * self.scene.shape.width), 1) * self.scene.workers

    def create(self, form: str) -> None:
        config = {"flush.messages": "1"} if self.scene.durability == "synced" else {}
        topic = admin.NewTopic(form, self.scene.partitions, 1, config=config)
        client = self._admin()
        client.create_topics([topic])[form].result(60)


class Kafka(Broker):
    """produce and consume of librdkafka."""

    key = "kafka"
    label = "Kafka, confluent-kafka"

    @classmethod
    def available(cls) -> str | None:
        if not confluent:
            return "the package confluent-kafka is not installed"
        return super().available()

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {
            "Apache Kafka": broker_version(),
            "confluent-kafka": package_version("confluent-kafka"),
            "librdkafka": confluent.libversion()[0],
        }

    @classmethod
    def done(cls, scene: Scene) -> str:
        if scene.acked:
            return "the delivery report of each record has come: the broker has acknowledged it"
        return "`flush` has returned: the broker has acknowledged every record"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        if scene.acked:
            return f"linger.ms=0, acks={'all' if scene.durability == 'synced' else 1}"
        options = PRODUCER | {"acks": "all" if scene.durability == "synced" else 1}
        if scene.shape.codec != "none":
            options["compression.type"] = scene.shape.codec
        shown = ", ".join(f"{name}={options[name]}" for name in options if not name.endswith("max.bytes"))
        reading = ", ".join(f"{name}={CONSUMER[name]}" for name in list(CONSUMER)[:4])
        return f"{shown}; {reading}; produce_batch and consume({PAGE:,}), or produce and poll a record"

    def session(self, form: str, op: str, index: int) -> Session:
        connect = {"bootstrap.servers": self.state["broker"], "log_level": 0}
        if op == "read":
            consumer = confluent.Consumer({**connect, **CONSUMER, "group.id": f"{form}-{index}"})
            return KafkaReader(consumer, form, self.scene.partitions)
        options = PRODUCER | {"acks": self._acks}
        if self.scene.shape.codec != "none":
            options["compression.type"] = self.scene.shape.codec
        if self.scene.acked:
            options["linger.ms"] = 0
        producer = confluent.Producer({**connect, **options})
        producer.list_topics(form, timeout=30)  # connected, off the clock
        return KafkaWriter(producer, form, self.scene.partitions)


class KafkaWriter(Session):
    def __init__(self, producer: Any, form: str, partitions: int) -> None:
        self.producer = producer
        self.form = form
        self.partitions = partitions

    def write(self, blocks: Iterable[Any]) -> None:
        {"acked": self._each, "batch": self._batches}.get(self.form, self._records)(blocks)
        left = self.producer.flush(120)
        if left:
            raise Failed(f"{left} records were not acknowledged in 120 s")

    def _each(self, blocks: Iterable[Any]) -> None:
        # A delivery report by `poll` comes at once; `flush` of one record looks for it only every so often.
        told: list[Any] = []

        def report(error: Any, _: Any) -> None:
            told.append(error)

        produce, poll = self.producer.produce, self.producer.poll
        for (value,) in blocks:
            produce(self.form, value, partition=0, on_delivery=report)
            while not told:
                poll(1)
            error = told.pop()
            if error is not None:
                raise Failed(f"a record was not acknowledged: {error}")

    def _records(self, blocks: Iterable[Any]) -> None:
        produce, poll, form = self.producer.produce, self.producer.poll, self.form
        for number, block in enumerate(blocks):
            partition = number % self.partitions
            for value in block:
                while True:
                    try:
                        produce(form, value, partition=partition)
                        break
                    except BufferError:
                        poll(0.01)
            poll(0)

    def _batches(self, blocks: Iterable[Any]) -> None:
        produce, poll = self.producer.produce_batch, self.producer.poll
        for number, block in enumerate(blocks):
            messages = [{"value": value} for value in block]
            while produce(self.form, messages, partition=number % self.partitions) < len(messages):
                # What did not fit carries an error.
                messages = [{"value": m["value"]} for m in messages if m.get("_error") is not None]
                poll(0.01)
            poll(0)


class KafkaReader(Session):
    def __init__(self, consumer: Any, form: str, partitions: int) -> None:
        self.consumer = consumer
        self.form = form
        ends = [
            consumer.get_watermark_offsets(confluent.TopicPartition(form, partition), timeout=30)
            for partition in range(partitions)
        ]
        self.count = sum(high - low for low, high in ends)
        self.parts = [
            confluent.TopicPartition(form, partition, confluent.OFFSET_BEGINNING)
            for partition in range(partitions)
        ]

    def read(self) -> Seen:
        consumer, wanted = self.consumer, self.count
        consumer.assign(self.parts)
        count = 0
        last: Any = None
        if self.form == "batch":
            consume = consumer.consume
            while count < wanted:
                messages = consume(min(PAGE, wanted - count), IDLE_SECONDS_MAX)
                self._check(messages[-1] if messages else None)
                count += len(messages)
                last = messages[-1]
        else:
            poll = consumer.poll
            while count < wanted:
                last = poll(IDLE_SECONDS_MAX)
                if last is None or last.error() is not None:
                    self._check(last)
                last.value()
                count += 1
        return Seen(count, last.value() if last is not None else None)

    @staticmethod
    def _check(message: Any) -> None:
        if message is None:
            raise Failed(f"no record came for {IDLE_SECONDS_MAX} s")
        if message.error() is not None:
            raise Failed(str(message.error()))

    def close(self) -> None:
        self.consumer.close()
