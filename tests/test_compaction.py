"""Compaction against a list and a dict: of each key the last record stays, in its place, however it is
read."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import pystream
from harness import LONG, T0, Life, Row, batch_rows, quick_directory, rows
from pystream._native.compact import Compacted, Compactor, Stop, compact, compactable, sweep_leftovers
from pystream._native.log import LogHandle
from pystream._native.retention import delete_before

DAY = 24 * 3600 * 10**9


def log_of(topic: pystream.Topic, partition: int = 0) -> LogHandle:
    return topic.partition(partition)._log()


def run(topic: pystream.Topic, **given: Any) -> Compacted:
    topic.flush()
    return compact(log_of(topic), **{"now_ns": T0, **given})


def table_of(records: Any) -> dict[bytes, bytes]:
    """What a reader who keeps a table ends with."""
    table: dict[bytes, bytes] = {}
    for record in records:
        if record.key is not None and record.value is None:
            table.pop(record.key, None)
        elif record.key is not None:
            table[record.key] = record.value
    return table


def every_way(topic: pystream.Topic) -> list[Row]:
    """The records of partition 0, read in every way there is: all say the same."""
    partition = topic.partition(0)
    found = rows(partition.records())
    batches = list(partition.scan())
    assert [each for batch in batches for each in batch_rows(batch)] == found
    arrow = pa.table(topic)
    assert arrow.column("offset").to_pylist() == [each.offset for each in found]
    assert arrow.column("key").to_pylist() == [each.key for each in found]
    assert arrow.column("value").to_pylist() == [each.value for each in found]
    with topic._store.consumer(topic.name, timeout=0) as consumer:
        assert rows(consumer) == found
    return found


# ---- the model ------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """A topic and a list of all that was ever appended to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.path = self.stack.enter_context(quick_directory()) / "store"
        self.rows: list[Row] = []
        self.now = T0
        self.horizons: dict[int, int] = {}  # of tombstones that a pass has had: when they may go
        self.cleaned = 0
        self.start = 0
        self.tag = 0

    @initialize(compression=st.sampled_from(["none", "lz4"]), stamps=st.sampled_from(["create", "append"]))
    def begin(self, compression: str, stamps: str) -> None:
        self.stamps = stamps
        self.open(
            create=True,
            segment_bytes="64KiB",
            index_interval_bytes="4KiB",
            compression=compression,
            timestamp_type=stamps,
        )

    def open(self, **options: Any) -> None:
        self.store = pystream.open(self.path, maintenance=False)
        self.topic = self.store.topic("t", **options)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        self.stack.close()

    @rule(
        keys=st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=12),
        repeat=st.sampled_from([1, 1, 8, 60]),
        dead=st.integers(2, 9),
        heads=st.booleans(),
        size=st.sampled_from([0, 10, 150]),
    )
    def append(self, keys: list[int | None], repeat: int, dead: int, heads: bool, size: int) -> None:
        names = [None if key is None else b"key%d" % key for key in keys * repeat][:250]
        values: list[bytes | None] = []
        for name in names:
            self.tag += 1
            values.append(None if name and self.tag % dead == 0 else b"%d" % self.tag + b"." * size)
        headers = [[("n", b"%d" % i)] if i % 3 else None for i in range(len(names))] if heads else None
        stamps = None if self.stamps == "append" else np.arange(len(names)) + self.now
        first = self.topic.append(values, keys=names, headers=headers, timestamps=stamps)
        assert first == len(self.rows)
        at = self.topic.partition(0)[first].timestamp
        for i, name in enumerate(names):
            self.rows.append(
                Row(
                    first + i,
                    name,
                    values[i],
                    (("n", b"%d" % i),) if heads and i % 3 else (),
                    at if stamps is None else int(stamps[i]),
                )
            )
        self.now += 10_000

    @rule(
        keys=st.sampled_from([10_000, 32]),
        retention=st.sampled_from([0, 50_000]),
        most=st.sampled_from([0, 0, 30_000]),
        lag=st.sampled_from([0, 0, 40_000]),
    )
    def compact(self, keys: int, retention: int, most: int, lag: int) -> None:
        if self.stamps == "append":
            lag = 0
        self.topic.flush()
        done = run(
            self.topic,
            now_ns=self.now,
            map_bytes=32 * keys,
            delete_retention_ns=retention,
            max_bytes=most,
            lag_ns=lag,
        )
        assert done.cleaned_offset >= self.cleaned or done.cleaned_offset == 0
        assert not sweep_leftovers(log_of(self.topic))
        if done.ran:
            self.cleaned = max(self.cleaned, done.cleaned_offset)
        for each in self.rows[: self.cleaned]:
            if each.key is not None and each.value is None:
                self.horizons.setdefault(each.offset, self.now + retention)
        self.now += 30_000

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.open()

    @rule(part=st.floats(0, 1))
    def delete(self, part: float) -> None:
        self.start = max(self.start, int(len(self.rows) * part / 3))
        delete_before(log_of(self.topic), self.start)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "topic"):
            return
        found = every_way(self.topic)
        there = {each.offset for each in found}
        assert [each for each in self.rows if each.offset in there] == found  # in order, and what they were
        later: dict[bytes, int] = {}
        for each in reversed(self.rows[self.start :]):
            key, offset = each.key, each.offset
            superseded = key is not None and later.get(key, len(self.rows)) < self.cleaned
            expired = self.horizons.get(offset, self.now + 1) <= self.now
            if offset not in there:
                assert offset < self.cleaned, f"{each} went, and was not compacted"
                assert key is not None, f"{each} went, which has no key"
                assert superseded or expired, f"{each} went, and was the last of its key"
            elif offset < self.cleaned and superseded:
                pytest.fail(f"{each} stayed, and was superseded at {later[key or b'']}")
            if key is not None:
                later[key] = offset
        live = [each for each in self.rows if each.offset >= self.start]
        assert table_of(self.topic.records()) == table_of(live)
        assert dict(self.topic.latest().items()) == table_of(live)


TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=200 if LONG else 25,
    stateful_step_count=40 if LONG else 20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# ---- reading what has gaps ------------------------------------------------------------------------


@pytest.fixture
def gappy(store: pystream.Store) -> Iterator[pystream.Topic]:
    """Offsets 0 .. 2999 of 100 keys, of which the segments before the last one have been compacted."""
    topic = store.topic("gappy", create=True, segment_bytes="64KiB", index_interval_bytes="4KiB")
    for i in range(0, 3000, 50):
        names = [b"key%d" % (n * n % 101 % 100) for n in range(i, i + 50)]
        topic.append(
            [b"%06d" % n * 12 for n in range(i, i + 50)], keys=names, timestamps=np.arange(i, i + 50) + T0
        )
    done = run(topic)
    assert done.ran
    assert not done.more
    assert done.records_removed > 1000
    yield topic


def test_offsets_keep_their_places(gappy: pystream.Topic) -> None:
    partition = gappy.partition(0)
    found = every_way(gappy)
    offsets = [each.offset for each in found]
    assert partition.beginning_offset == 0
    assert partition.end_offset == 3000
    assert len(found) < 2000
    assert offsets == sorted(set(offsets))
    assert offsets[0] > 0  # the first record is gone; the log begins where it did
    for batch in partition.scan():
        assert batch.offsets.tolist() == [record.offset for record in batch]
        assert batch.values.to_pylist() == [b"%06d" % at * 12 for at in batch.offsets]


def test_every_offset_can_be_sought(gappy: pystream.Topic) -> None:
    partition = gappy.partition(0)
    offsets = [record.offset for record in partition.records()]
    for at in range(0, 3001, 13):
        expected = [each for each in offsets if each >= at]
        assert [record.offset for record in partition.records(start=at)] == expected
        assert [record.offset for record in partition.records(start=at, stop=at + 40)] == [
            each for each in expected if each < at + 40
        ]
    with gappy._store.consumer("gappy", timeout=0) as consumer:
        for at in (0, offsets[0], offsets[3] + 1, 1500, 2999, 3000):
            consumer.seek(("gappy", 0), at)
            assert consumer.position(("gappy", 0)) == at
            assert [record.offset for record in consumer] == [each for each in offsets if each >= at]
            assert consumer.position(("gappy", 0)) == 3000


def test_one_record_and_the_last_ones(gappy: pystream.Topic) -> None:
    partition = gappy.partition(0)
    offsets = [record.offset for record in partition.records()]
    gone = sorted(set(range(3000)) - set(offsets))
    assert partition[offsets[5]].value == b"%06d" % offsets[5] * 12
    with pytest.raises(pystream.OffsetOutOfRangeError, match="no longer there"):
        partition[gone[5]]
    for n in (0, 1, 7, len(offsets) - 1, len(offsets), len(offsets) + 1, 5000):
        assert [record.offset for record in partition.tail(n)] == (offsets[-n:] if n else [])


def test_moments_are_found(gappy: pystream.Topic) -> None:
    partition = gappy.partition(0)
    offsets = [record.offset for record in partition.records()]
    for at in range(0, 3000, 17):
        assert partition.offset_for_time(T0 + at) == next((each for each in offsets if each >= at), None)
    assert partition.offset_for_time(T0 + 3000) is None


def test_commits_are_those_of_the_offsets(gappy: pystream.Topic) -> None:
    offsets = [record.offset for record in gappy.partition(0).records()]
    with gappy._store.consumer("gappy", group="g", timeout=0) as consumer:
        first = [record.offset for _, record in zip(range(5), consumer, strict=False)]
        assert first == offsets[:5]
    with gappy._store.consumer("gappy", group="g", timeout=0) as consumer:
        assert [record.offset for record in consumer] == offsets[5:]
        consumer.commit()
        assert consumer.committed(("gappy", 0)) == 3000


def test_arrays_of_a_dtype(store: pystream.Store) -> None:
    topic = store.topic("a", create=True, dtype=[("n", "i8")], key_bytes=4, segment_bytes="64KiB")
    for i in range(0, 20_000, 500):
        values = np.array([(n,) for n in range(i, i + 500)], topic.options.dtype)
        topic.append(values, keys=[b"%04d" % (n % 700) for n in range(i, i + 500)])
    assert run(topic).records_removed > 5000
    partition = topic.partition(0)
    found = np.concatenate(list(partition.arrays()))["n"]
    assert found.tolist() == [record.offset for record in partition.records()]
    assert table_of(topic.records()).keys() == {b"%04d" % n for n in range(700)}


# ---- through life ---------------------------------------------------------------------------------


def fill(topic: pystream.Topic, first: int, count: int, keys: int = 50) -> None:
    for i in range(first, first + count, 40):
        topic.append(
            [b"%08d" % n * 20 for n in range(i, i + 40)], keys=[b"%d" % (n % keys) for n in range(i, i + 40)]
        )


def test_readers_elsewhere_go_on(tmp_path: Path) -> None:
    """Processes that read while segments are swapped and merged under them see, in order, what there was."""
    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        fill(topic, 0, 400)
        lives = [
            Life(reads, str(tmp_path / "store"), how) for how in ("records", "batches", "view", "latest")
        ]
        for life in lives:
            assert life.receive() == "reading"
        for i in range(25):
            fill(topic, 400 + i * 400, 400)
            done = run(topic, now_ns=T0 + i * DAY)
            assert done.ran
            assert not done.more
        topic.append([b"end"], keys=[b"end"])
        for life in lives:
            assert life.receive() == {b"%d" % n for n in range(50)} | {b"end"}
            assert life.end() == 0


def reads(channel: Any, path: str, how: str) -> None:
    seen: dict[bytes, int] = {}
    channel.send("reading")
    with pystream.open(path, mode="r" if how == "view" else "rw", create=False, maintenance=False) as store:
        if how == "latest":
            table = store.topic("t").latest()
            while b"end" not in table:
                table.wait(0.05)
            channel.send(set(table))
            return
        while b"end" not in seen:  # again and again from the beginning, and on to the end
            seen.clear()
            last = -1
            with store.consumer("t", timeout=0) as consumer:
                for item in consumer.batches() if how == "batches" else consumer:
                    for record in item if how == "batches" else (item,):
                        assert record.offset > last
                        last = record.offset
                        if record.key != b"end":
                            assert record.value == b"%08d" % last * 20
                            assert record.key == b"%d" % (last % 50)
                        seen[record.key] = last
        channel.send(set(seen))


def test_a_process_that_dies_leaves_a_log(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pystream.open(path, maintenance=False) as store:
        fill(store.topic("t", create=True, segment_bytes="64KiB"), 0, 2000)
    for point in ("compact.renamed", "compact.dirsynced", "compact.unlinking"):
        life = Life(compacts, str(path), fault=f"{point}:1:kill")
        assert life.end() == -9
        report = pystream.verify(path)
        assert report.sound, [each.text for each in report.findings]
        with pystream.open(path, maintenance=False) as store:
            topic = store.topic("t")
            assert table_of(topic.records()).keys() == {b"%d" % n for n in range(50)}
            run(topic)
            fill(topic, topic.partition(0).end_offset, 2000)
    with pystream.open(path, maintenance=False) as store:
        run(store.topic("t"))
        assert not list(Path(path).rglob("compact.*"))
    assert pystream.verify(path).sound


def compacts(channel: Any, path: str) -> None:
    with pystream.open(path, maintenance=False) as store:
        run(store.topic("t"))


def test_a_backup_beside_it(tmp_path: Path) -> None:
    """What is backed up while segments are swapped is of one moment: nothing that was deleted comes back."""
    over, lock = threading.Event(), threading.Lock()
    model: list[tuple[bytes, bytes | None]] = []

    with pystream.open(tmp_path / "store", maintenance=False) as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB", cleanup="compact")

        def append(rows: list[tuple[bytes, bytes | None]]) -> None:
            with lock:
                topic.append([value for _, value in rows], keys=[key for key, _ in rows])
                model.extend(rows)

        def keep_compacting() -> None:
            turn = 0
            while not over.is_set():
                turn += 1
                for at in range(0, 400, 40):
                    append([(b"%d" % (n % 50), b"%d-%d" % (turn, n) * 20) for n in range(at, at + 40)])
                append([(b"%d" % ((key + turn) % 50), None) for key in range(25)])
                run(topic, now_ns=T0 + turn, delete_retention_ns=0)

        thread = threading.Thread(target=keep_compacting)
        thread.start()
        try:
            while len(model) < 5000:
                time.sleep(0.01)
            for turn in range(8):
                path = tmp_path / f"backup{turn % 2}"
                store.backup(path)  # the second time, on top of the one before
                with lock, pystream.open(path, mode="r") as copy:
                    table = copy.topic("t").latest().snapshot()
                    expected: dict[bytes, bytes] = {}
                    for key, value in model[: copy.topic("t").partition(0).end_offset]:
                        expected.pop(key, None)
                        if value is not None:
                            expected[key] = value
                assert table == expected
                assert pystream.verify(path).sound
        finally:
            over.set()
            thread.join()


def test_lent_batches_stay(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    fill(topic, 0, 2000)
    before = list(topic.batches())
    values = [batch.values.to_pylist() for batch in before]
    assert run(topic).records_removed > 1000
    assert [batch.values.to_pylist() for batch in before] == values
    assert sum(len(batch) for batch in before) == 2000


def test_producers_go_on(store: pystream.Store) -> None:
    """A producer and a compaction of the same partition, at once, in one process."""
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    over = threading.Event()
    passes = []

    def keep_compacting() -> None:
        while not over.is_set():
            passes.append(run(topic))
            time.sleep(0.002)

    thread = threading.Thread(target=keep_compacting)
    thread.start()
    try:
        with topic.producer() as producer:
            for n in range(60_000):
                producer.send(b"%d" % n, key=b"%d" % (n % 100))
    finally:
        over.set()
        thread.join()
    run(topic)
    assert sum(done.records_removed for done in passes) > 0
    last = {b"%d" % (n % 100): b"%d" % n for n in range(60_000)}
    assert table_of(topic.records()) == last


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "seals-lost"])
def test_what_a_merge_has_left_is_no_damage(tmp_path: Path, sealed: bool) -> None:
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        topic = store.topic("t", create=True, segment_bytes="64KiB")
        fill(topic, 0, 2000)
        topic.flush()
        directory = tmp_path / "s" / "topics" / "t" / "0"
        shutil.copytree(directory, tmp_path / "before")
        assert run(topic).segments_after < len(list((tmp_path / "before").glob("*.log")))
        expected = every_way(topic)
        end = topic.partition(0).end_offset
    # Whoever merged was killed, or power failed, before it could remove what it had taken in.
    back = [path for path in (tmp_path / "before").glob("*.log") if not (directory / path.name).exists()]
    assert len(back) >= 2
    for path in back:
        data = path.read_bytes()
        (directory / path.name).write_bytes(data if sealed else data[:-64] + bytes(64))
    report = pystream.verify(tmp_path / "s")
    assert report.sound, report.findings
    assert report.records == len(expected)
    assert report.partitions[0].end_offset == end
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        topic = store.topic("t")
        assert every_way(topic) == expected
        assert sweep_leftovers(log_of(topic)) == len(back)
        assert every_way(topic) == expected
    assert not any((directory / path.name).exists() for path in back)


# ---- what it is asked -----------------------------------------------------------------------------


def test_what_it_says(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    assert compactable(log_of(topic), now_ns=T0) == (0, 0, 0.0, False)
    fill(topic, 0, 2000)
    topic.flush()
    look = compactable(log_of(topic), now_ns=T0)
    assert look.dirty_bytes > 300_000
    assert (look.clean_bytes, look.ratio, look.due) == (0, 1.0, False)
    done = compact(log_of(topic), now_ns=T0)
    assert done.ran
    assert not done.more
    assert done.dirty_bytes == look.dirty_bytes
    assert done.keys == 50
    assert done.read_bytes > done.written_bytes > 0
    assert done.segments_after < done.segments_before
    assert done.next_horizon == 0
    after = compactable(log_of(topic), now_ns=T0)
    assert after.dirty_bytes == 0
    assert 0 < after.clean_bytes <= done.written_bytes
    assert not compact(log_of(topic), now_ns=T0).ran
    fill(topic, 2000, 800)
    topic.flush()
    ratio = compactable(log_of(topic), now_ns=T0).ratio
    assert 0 < ratio < 1
    assert not compact(log_of(topic), now_ns=T0, min_dirty_ratio=min(1, ratio + 1e-6)).ran
    assert compact(log_of(topic), now_ns=T0, min_dirty_ratio=ratio).ran


def test_a_compactor_step_by_step(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    fill(topic, 0, 2000)
    topic.flush()
    compactor = Compactor(log_of(topic), now_ns=T0)
    with pytest.raises(pystream.PartitionHeldError, match="under way in this process"):
        compact(log_of(topic), now_ns=T0)
    steps = 0
    while compactor.step(10_000):
        steps += 1
    assert steps > 20
    assert compactor.result.ran
    assert not compactor.result.more
    compactor.close()
    compactor.close()
    assert compactor.result.keys == 50
    assert not compact(log_of(topic), now_ns=T0).ran

    fill(topic, 2000, 2000)
    topic.flush()
    with pytest.raises(ValueError, match="map_bytes=1023 must be 1024 at least"):
        Compactor(log_of(topic), now_ns=T0, map_bytes=1023)
    with pytest.raises(ValueError, match=r"min_dirty_ratio=1\.01 must lie in 0 \.\. 1"):
        Compactor(log_of(topic), now_ns=T0, min_dirty_ratio=1.01)
    with pytest.raises(ValueError, match="must not be negative"):
        Compactor(log_of(topic), now_ns=T0, lag_ns=-1)
    left = Compactor(log_of(topic), now_ns=T0, map_bytes=1024)
    left.step(1)
    del left  # as good as closed
    stop = Stop()
    stop.set()
    done = compact(log_of(topic), now_ns=T0, stop=stop)
    assert done.ran
    assert done.more
    stop.clear()
    assert not compact(log_of(topic), now_ns=T0, stop=stop).more


def test_it_is_throttled(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="1MiB")
    fill(topic, 0, 20_000)
    topic.flush()
    begun = time.monotonic()
    done = compact(log_of(topic), now_ns=T0, bytes_per_second=16 << 20)
    took = time.monotonic() - begun
    assert took >= (done.read_bytes + done.written_bytes - (2 << 20)) / (16 << 20)


def test_stopped_from_another_thread(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="1MiB")
    fill(topic, 0, 20_000)
    topic.flush()
    stop = Stop()
    threading.Timer(0.2, stop.set).start()
    begun = time.monotonic()
    done = compact(log_of(topic), now_ns=T0, bytes_per_second=1 << 20, stop=stop)
    assert time.monotonic() - begun < 5  # of about 8
    assert done.more
    assert not [name for name in os.listdir(log_of(topic).path) if name.startswith("compact.")]


def test_readers_only_do_not_compact(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        fill(store.topic("t", create=True, segment_bytes="64KiB"), 0, 2000)
    with pystream.open(tmp_path / "s", mode="r") as store:
        log = log_of(store.topic("t"))
        assert compactable(log, now_ns=T0).dirty_bytes > 0
        with pytest.raises(pystream.ReadOnlyError):
            compact(log, now_ns=T0)


def test_of_a_topic_that_is_deleted(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, segment_bytes="64KiB")
    fill(topic, 0, 2000)
    topic.flush()
    compactor = Compactor(log_of(topic), now_ns=T0)
    compactor.step(1)
    store.delete_topic("t")
    with pytest.raises(pystream.TopicDeletedError):
        while compactor.step():
            pass
    compactor.close()
