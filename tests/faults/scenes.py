"""What whole processes do in the trials: each scene is prepared, acted by a process to which something
happens, and checked by another, which finds what was left.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pystream
from pystream import ingest as ingesting
from pystream.export import export

from . import administering
from .acting import (
    COUNT,
    T0,
    Do,
    Ground,
    Scene,
    batch,
    fill,
    goes_on,
    leftovers,
    number_of,
    numbers,
    value,
)
from .processes import Say, said_of

ROWS: Final = 200


# ---- the scenes -------------------------------------------------------------------------------------


def nothing(ground: Ground) -> None:
    """There is nothing to prepare."""


def act_create(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    topic = do("create", lambda: ground.make(store, partitions=2))
    offset = do("append", lambda: topic.append([value(0)], partition=1))
    if offset is not None:
        say("acked", offset)
    do("close", store.close)


def check_create(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        assert set(store.topics()) <= {"t"}
        topic = ground.make(store, partitions=2)
        found = numbers(topic.partition(1))
        assert found in ([0], [0] if said_of(said, "acked") else [])
    assert not leftovers(ground), leftovers(ground)
    goes_on(ground)


def prepare_append(ground: Ground) -> None:
    fill(ground, 3)


def act_append(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    partition = do("topic", lambda: store.topic("t")).partition(0)
    for begin in range(9, 9 + 9 * COUNT, COUNT):
        offset = do("append", lambda begin=begin: partition.append(batch(begin), timestamps=T0))
        if offset is not None:
            say("acked", (offset, begin))
        if begin == 9 + 4 * COUNT:
            do("flush", partition.flush)
    do("close", store.close)


def check_append(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        found = numbers(store.topic("t").partition(0))
    assert found[:9] == list(range(9))
    # Where a call before the sync fails for good, what was appended to a "sync" topic is there, though not
    # acknowledged, and is appended once more.
    once = list(dict.fromkeys(found))
    assert len(found) - len(once) <= (COUNT if ground.durability == "sync" else 0), f"twice there: {found}"
    assert once == sorted(once)
    for offset, begin in said_of(said, "acked"):
        assert found[offset : offset + COUNT] == list(range(begin, begin + COUNT)), (offset, begin, found)
    assert len(found) % COUNT == 0, "a torn batch"
    goes_on(ground)


def act_produce(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    topic = do("topic", lambda: store.topic("t"))
    producer = do("producer", lambda: topic.producer(linger=60, batch_bytes=9000))

    def delivered(error: BaseException | None, *about: Any) -> None:
        pass

    for number in range(9, 9 + 24):
        do("send", lambda number=number: producer.send(value(number), timestamp=T0))
        if number % 6 == 0:
            before = number + 1
            if do("flush", lambda: producer.flush() is None):
                say("flushed", before)
    tries: list[int] = []

    def close() -> bool:
        tries.append(0)
        producer.close()  # once: what did not go out, the first error has told of
        return len(tries) == 1

    if do("close producer", close):
        say("flushed", 9 + 24)
    do("close", store.close)


def check_produce(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        found = numbers(store.topic("t").partition(0))
    assert len(set(found)) == len(found), f"twice there: {found}"
    assert found == sorted(found)
    lost = said_of(said, "poisoned")
    for flushed in said_of(said, "flushed"):
        missing = set(range(flushed)) - set(found)
        assert not missing or lost, f"flush had returned: {sorted(missing)}"
    goes_on(ground)


def act_consume(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    consumer = do("consumer", lambda: store.consumer("t", timeout=0.01))
    expected = 0
    while (got := do("poll", lambda: consumer.poll(timeout=0) or "end")) not in ("end", None):
        assert got.offsets[0] == expected, f"{got.offsets[0]} came instead of {expected}"
        assert [number_of(one) for one in got.values.to_pylist()] == list(
            range(expected, expected + len(got))
        )
        expected += len(got)
    assert expected == 27, f"it ended after {expected} records"
    partition = do("topic", lambda: store.topic("t")).partition(0)
    assert do("get", lambda: number_of(partition[13].value)) == 13
    assert do("find", lambda: partition.offset_for_time(T0)) == 0
    do("close", store.close)


def act_read(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", lambda: ground.open("r"))
    partition = do("topic", lambda: store.topic("t")).partition(0)
    assert do("read", lambda: numbers(partition)) == list(range(27))
    do("close", store.close)


def prepare_long(ground: Ground) -> None:
    fill(ground, 9)


def check_whole(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        assert numbers(store.topic("t").partition(0)) == list(range(27))
    goes_on(ground)


def prepare_group(ground: Ground) -> None:
    fill(ground, 3, partitions=2)
    if os.fork() == 0:  # a member that dies with something in its hand
        consumer = ground.open().consumer("t", group="g", auto_commit=False)
        consumer.poll(timeout=1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()


def act_group(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    consumers: list[pystream.Consumer] = []
    for turn in range(10):
        if turn in (0, 2):
            one = do("consumer", lambda: store.consumer("t", group="g", auto_commit=False))
            consumers.append(one)
        for consumer in consumers:
            got = do("poll", lambda consumer=consumer: consumer.poll(timeout=0.002) or "none")
            if got not in ("none", None):
                say("given", (got.partition, int(got.offsets[0]), got.next_offset))
            before = do("position", lambda consumer=consumer: positions(consumer)) or []
            durable = turn % 3 == 2
            if do("commit", lambda consumer=consumer, durable=durable: commit(consumer, durable)):
                for place in before:
                    say("committed", place)
    for consumer in consumers:
        do("close consumer", consumer.close)
    do("close", store.close)


def positions(consumer: pystream.Consumer) -> list[tuple[int, int]]:
    return [(place[1], consumer.position(place)) for place in consumer.assignment()]


def commit(consumer: pystream.Consumer, durable: bool) -> bool:
    consumer.commit(durable=durable)
    return True


def check_group(ground: Ground, said: list[tuple[str, Any]]) -> None:
    committed = {0: 0, 1: 0}
    given = {0: 0, 1: 0}
    for partition, offset in said_of(said, "committed"):
        committed[partition] = max(committed[partition], offset)
    for partition, _, after in said_of(said, "given"):
        given[partition] = max(given[partition], after)
    with ground.open() as store, store.consumer("t", group="g", auto_commit=False, timeout=0.2) as heir:
        got: dict[int, list[int]] = {0: [], 1: []}
        first: dict[int, int] = {}
        while (batch_ := heir.poll(timeout=0.05)) is not None:
            first.setdefault(batch_.partition, int(batch_.offsets[0]))
            got[batch_.partition] += batch_.offsets.tolist()
        for partition in (0, 1):
            begin = first.get(partition, 9)
            assert committed[partition] <= begin, f"{begin} though {committed[partition]} was committed"
            # What was being given out when it died, nobody has heard of.
            assert begin <= given[partition] or begin <= given[partition] + 2 * COUNT, (begin, given)
            assert got[partition] == list(range(begin, 9)), (begin, got)
    goes_on(ground)


def prepare_delete(ground: Ground) -> None:
    fill(ground, 3, name="a", partitions=2)
    fill(ground, 3, name="b")


def act_delete(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    topic = do("topic", lambda: store.topic("a"))
    do("read", lambda: numbers(topic.partition(0)))

    def delete() -> bool:
        with suppress(pystream.TopicNotFoundError):  # the first try, which failed, had come so far
            store.delete_topic("a")
        return True

    if do("delete", delete):
        say("deleted", "a")
    do("close", store.close)


def check_delete(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        assert numbers(store.topic("b").partition(0)) == list(range(9))
        if "a" in store:
            assert not said_of(said, "deleted")
            for index in (0, 1):
                assert numbers(store.topic("a").partition(index)) == list(range(9))
            store.delete_topic("a")
        assert store.topics() == ["b"]
        assert not leftovers(ground), leftovers(ground)
        assert numbers(ground.make(store, "a").partition(0)) == []
    goes_on(ground, "a")


def act_verify(ground: Ground, do: Do, say: Say) -> None:
    report = do("verify", lambda: pystream.verify(ground.path))
    if report is not None and not report.sound:
        texts = [found.what for found in (*report.damage, *report.unchecked)]
        say("found", texts)


def check_verify(ground: Ground, said: list[tuple[str, Any]]) -> None:
    report = pystream.verify(ground.path)
    assert report.sound and not report.notes, report.findings
    check_whole(ground, said)


def prepare_repair(ground: Ground) -> None:
    fill(ground, 9)
    with ground.open() as store:  # else, without durability, what is damaged counts as torn, and is cut
        store.topic("t").partition(0).flush()
    first = min(Path(ground.path, "topics/t/0").glob("*.log"))
    data = bytearray(first.read_bytes())
    data[data.index(value(4)) + 100] ^= 1  # in the second batch, of 3 to 5
    with open(first, "r+b") as file:
        file.write(data)


def act_repair(ground: Ground, do: Do, say: Say) -> None:
    outcome = do("repair", lambda: pystream.repair(ground.path, execute=True))
    if outcome is not None and outcome.after is not None and outcome.after.sound:
        say("repaired", outcome.kept)


def check_repair(ground: Ground, said: list[tuple[str, Any]]) -> None:
    outcome = pystream.repair(ground.path, execute=True)
    assert outcome.after is not None and outcome.after.sound, outcome.after
    assert not (said_of(said, "repaired") and outcome.needed), outcome.actions
    with ground.open() as store:
        partition = store.topic("t").partition(0)
        found = [(record.offset, number_of(record.value)) for record in partition.records()]
        assert found == [(n, n) for n in range(27) if n not in (3, 4, 5)], found
        assert partition.end_offset == 27
    kept = [path.read_bytes() for path in Path(ground.path).rglob("*.damaged")]
    assert any(value(3) in data for data in kept), "what was there before is not kept"
    goes_on(ground)


def prepare_ingest(ground: Ground) -> None:
    with ground.open() as store:
        ground.make(store, partitions=2)
    rows = "".join(f"{n},{'x' * (n % 50)}\n" for n in range(ROWS))
    Path(ground.directory, "rows.csv").write_text("n,x\n" + rows)


def act_ingest(ground: Ground, do: Do, say: Say) -> None:
    store = do("open", ground.open)
    topic = do("topic", lambda: store.topic("t"))

    def take() -> bool:
        source = str(ground.directory / "rows.csv")
        try:
            ingesting.ingest(topic, source, key="n", checkpoint=0)
        except ingesting.JobExistsError:
            ingesting.ingest(topic, source, key="n", checkpoint=0, resume=True)
        return True

    if do("ingest", take):
        say("ingested", ROWS)
    do("close", store.close)


def check_ingest(ground: Ground, said: list[tuple[str, Any]]) -> None:
    with ground.open() as store:
        topic = store.topic("t")
        source = str(ground.directory / "rows.csv")
        try:
            ingesting.ingest(topic, source, key="n", checkpoint=0)
        except ingesting.JobExistsError:
            with suppress(pystream.OptionError):  # it had ended
                ingesting.ingest(topic, source, key="n", checkpoint=0, resume=True)
        for index in (0, 1):
            found = [json.loads(record.value or b"")["n"] for record in topic.partition(index).records()]
            assert found == sorted(set(found)), f"out of order, or twice: {found}"
        assert sum(partition.end_offset for partition in map(topic.partition, (0, 1))) == ROWS
    goes_on(ground)


def prepare_export(ground: Ground) -> None:
    prepare_long(ground)
    Path(ground.directory, "out").mkdir()


def act_export(ground: Ground, do: Do, say: Say) -> None:
    target = ground.directory / "out" / "records.jsonl"
    store = do("open", lambda: ground.open("r"))
    topic = do("topic", lambda: store.topic("t"))

    def write() -> bool:
        if not target.exists():  # else it had come so far, and is whole
            export(topic, target, value="hex")
        return True

    if do("export", write):
        say("exported", str(target))
    do("close", store.close)


def check_export(ground: Ground, said: list[tuple[str, Any]]) -> None:
    for target in said_of(said, "exported"):
        rows = [json.loads(line) for line in Path(target).read_text().splitlines()]
        assert [number_of(bytes.fromhex(row["value"])) for row in rows] == list(range(27))
        assert [path.name for path in Path(target).parent.iterdir()] == ["records.jsonl"]
    check_whole(ground, said)


SCENES: Final = {
    scene.name: scene
    for scene in (
        Scene("create", nothing, act_create, check_create),
        Scene("append", prepare_append, act_append, check_append),
        Scene("produce", prepare_append, act_produce, check_produce),
        Scene("consume", prepare_long, act_consume, check_whole),
        Scene("read", prepare_long, act_read, check_whole),
        Scene("group", prepare_group, act_group, check_group),
        Scene("delete", prepare_delete, act_delete, check_delete),
        Scene("verify", prepare_long, act_verify, check_verify),
        Scene("repair", prepare_repair, act_repair, check_repair),
        Scene("ingest", prepare_ingest, act_ingest, check_ingest),
        Scene("export", prepare_export, act_export, check_export),
        *administering.SCENES,
    )
}


def plainly(what: str, function: Callable[[], Any]) -> Any:
    """`do` of a process whose calls do not fail."""
    return function()
