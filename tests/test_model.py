"""A seeded machine of random operations compares a partition with a plain list."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import lives
import pystream
from harness import LONG, T0, Life, Row, batch_rows, quick_directory, row, rows

SEGMENT_BYTES = 65536
DTYPE = np.dtype([("id", "i8"), ("px", "f4"), ("tag", "S3"), ("side", "?")])
SCHEMAS: dict[str, dict[str, Any]] = {
    "variable": {},
    "values fixed": {"value_bytes": 13},
    "keys fixed": {"key_bytes": 4},
    "both fixed": {"value_bytes": 8, "key_bytes": 1},
    "empty values": {"value_bytes": 0},
    "dtype": {"dtype": DTYPE},
}


def value_of(draw: Any, width: int | None, nulls: bool = True) -> bytes | None:
    """A value or key: null, empty, small, or large; by chance compressible."""
    kind = draw(st.sampled_from(["null", "empty", "small", "small", "medium", "large"]))
    if kind == "null" and nulls:
        return None
    if width is not None:
        return draw(st.binary(min_size=width, max_size=width))
    if kind == "empty":
        return b""
    if kind in ("small", "null"):
        return draw(st.binary(max_size=24))
    size = draw(st.integers(25, 700) if kind == "medium" else st.integers(5_000, 30_000))
    if draw(st.booleans()):
        return bytes([draw(st.integers(0, 255))]) * size
    return np.random.default_rng(draw(st.integers(0, 999))).bytes(size)


header_lists = st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=12)), max_size=3)
moments = st.integers(-30, 30).map(lambda i: T0 + i * 1000)


@st.composite
def batches(draw: Any, schema: str) -> dict[str, Any]:
    """Arguments of an append: what is left out varies too."""
    options = SCHEMAS[schema]
    n = draw(st.integers(0, 6) | st.integers(0, 6) | st.integers(20, 60))
    few = n <= 6
    batch: dict[str, Any] = {}
    if schema == "dtype":
        numbers = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n))
        batch["values"] = np.array([(i, i % 977 / 8, b"%d" % (i % 50), i % 2) for i in numbers], DTYPE)
    else:
        width = options.get("value_bytes")
        one = draw(st.integers(0, 2))  # a long batch repeats a few values
        pool = [value_of(draw, width) for _ in range(n if few else one + 1)]
        values = [pool[i % len(pool)] for i in range(n)]
        batch["values"] = values if few else [v and v[:200] for v in values]
        if width is not None:
            batch["values"] = [v if v is None else v.ljust(width, b"!") for v in batch["values"]]
    if draw(st.booleans()):
        pool = [value_of(draw, options.get("key_bytes")) for _ in range(min(n, 3))]
        batch["keys"] = [pool[i % len(pool)] and pool[i % len(pool)][:300] for i in range(n)]
    if draw(st.integers(0, 3)) == 0:
        batch["headers"] = [draw(st.none() | header_lists) if few else None for _ in range(n)]
    stamps = draw(st.sampled_from(["one", "each", "none", "mixed"]))
    if stamps == "one":
        batch["timestamps"] = draw(moments)
    elif stamps == "each":
        batch["timestamps"] = np.array([draw(moments) if few else T0 + i * 37 % 1000 for i in range(n)], "i8")
    elif stamps == "none":
        batch["timestamps"] = np.full(n, "NaT", "M8[ns]")
    else:
        batch["timestamps"] = np.array(
            [draw(moments) if i % 2 else np.iinfo("i8").min for i in range(n)], "i8"
        )
    return batch


def expected(batch: dict[str, Any], first: int) -> list[Row]:
    """What a plain list would hold."""
    values = batch["values"]
    n = len(values)
    keys = batch.get("keys") or [None] * n
    headers = batch.get("headers") or [None] * n
    stamps = np.broadcast_to(batch["timestamps"], n).astype("i8") if n else []
    return [
        Row(
            first + i,
            keys[i],
            values[i].tobytes() if isinstance(values, np.ndarray) else values[i],
            tuple(headers[i] or ()),
            None if stamps[i] == np.iinfo("i8").min else int(stamps[i]),
        )
        for i in range(n)
    ]


class Log(RuleBasedStateMachine):
    """One partition beside a list of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = ExitStack()
        self.path = self.directory.enter_context(quick_directory())
        self.rows: list[Row] = []

    @initialize(
        schema=st.sampled_from(sorted(SCHEMAS)),
        codec=st.sampled_from(["none", "lz4"]),
        io=st.sampled_from(["mmap", "pwrite"]),
        durability=st.sampled_from(["interval", "none", "none", "sync"]),
    )
    def create(self, schema: str, codec: str, io: str, durability: str) -> None:
        self.schema, self.codec, self.io = schema, codec, io
        self.open()
        self.topic = self.store.topic(
            "t",
            create=True,
            compression=codec,
            durability=durability,
            segment_bytes=SEGMENT_BYTES,
            index_interval_bytes=1024,
            **SCHEMAS[schema],
        )
        self.partition = self.topic.partition(0)

    def open(self) -> None:
        self.store = lives.open_store(str(self.path / "s"), self.io)

    def open_again(self) -> None:
        self.open()
        self.topic = self.store.topic("t")
        self.partition = self.topic.partition(0)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.partition_agrees()
            self.store.close()
            self.open_again()
            self.partition_agrees()
            self.store.close()
        self.directory.close()

    # ---- writing

    def added(self, batch: dict[str, Any]) -> None:
        self.rows += expected(batch, len(self.rows))

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        batch = data.draw(batches(self.schema))
        assert self.partition.append(**batch) == len(self.rows)
        self.added(batch)

    @rule(over=st.integers(0, 200_000), records=st.integers(1, 3))
    def append_too_much(self, over: int, records: int) -> None:
        width = SCHEMAS[self.schema].get("value_bytes", -1)
        noise = np.random.default_rng(over).bytes  # what compression does not make fit
        if self.schema == "dtype":
            size = DTYPE.itemsize
            values: Any = np.frombuffer(noise((SEGMENT_BYTES // size + over % 100) * size), DTYPE)
        elif width == 0:
            return
        elif width > 0:
            values = [noise(width) for _ in range(SEGMENT_BYTES // width + over % 100)]
        else:
            values = [noise((SEGMENT_BYTES + over) // records) for _ in range(records)] + [b"x"]
        with pytest.raises(pystream.RecordTooLargeError):
            self.partition.append(values, timestamps=T0)

    @rule(
        data=st.data(), many=st.booleans(), codec=st.sampled_from([None, "none", "lz4"]), close=st.booleans()
    )
    def produce(self, data: st.DataObject, many: bool, codec: str | None, close: bool) -> None:
        linger = data.draw(st.sampled_from([0, 0.001, 60]))
        batch_bytes = data.draw(st.sampled_from([1, 500, 20_000, "256KiB"]))
        batch_records = data.draw(st.sampled_from([None, 1, 5]))
        # What draws may raise, where there is nothing left to draw from: so each is closed by leaving it.
        with self.topic.producer(
            linger=linger, batch_bytes=batch_bytes, batch_records=batch_records, compression=codec
        ) as producer:
            for _ in range(data.draw(st.integers(1, 3))):
                self.send(producer, data.draw(batches(self.schema)), many)
            if not close:
                producer.flush()
                assert self.partition.end_offset == len(self.rows)
        assert self.partition.end_offset == len(self.rows)

    def send(self, producer: pystream.Producer, batch: dict[str, Any], many: bool) -> None:
        if many:
            producer.send_many(**batch)
            self.added(batch)
            return
        for one in expected(batch, len(self.rows)):
            sent = one._replace(timestamp=T0 if one.timestamp is None else one.timestamp)
            producer.send(
                np.frombuffer(sent.value or b"", DTYPE)[0] if self.schema == "dtype" else sent.value,
                sent.key,
                headers=list(sent.headers) or None,
                timestamp=sent.timestamp,
            )
            self.rows.append(sent)

    @rule(durable=st.booleans())
    def flush(self, durable: bool) -> None:
        self.partition.flush(durable=durable)
        if durable:
            assert self.partition.durable_offset == len(self.rows)

    # ---- lives and deaths

    @rule(io=st.sampled_from(["mmap", "pwrite"]))
    def reopen(self, io: str) -> None:
        self.store.close()
        self.io = io
        self.open_again()

    @rule(data=st.data(), here=st.booleans(), midst=st.booleans())
    def writer_dies(self, data: st.DataObject, here: bool, midst: bool) -> None:
        """Another process appends and is killed, while this one has the store open or not."""
        drawn = data.draw(st.lists(batches(self.schema), min_size=0, max_size=2))
        torn = data.draw(batches(self.schema)) if midst else None
        if torn is not None and not len(torn["values"]):
            torn = None
        if not here:
            self.store.close()
        life = Life(lives.append_and_die, str(self.path / "s"), self.io, "t", drawn, torn)
        said = life.received()
        assert life.end() == -signal.SIGKILL
        for first, batch in zip(said, drawn, strict=True):
            assert first == len(self.rows)
            self.added(batch)
        if not here:
            self.open_again()
        if torn is not None:
            # It was never acknowledged: all of it is there, or nothing, and the next writer settles which.
            self.partition.append([], timestamps=T0)
            mark = {"values": self.a_value(), "timestamps": T0}
            first = self.partition.append(**mark)
            assert first - len(self.rows) in (0, len(torn["values"]))
            if first > len(self.rows):
                self.added(torn)
            self.added(mark)

    def a_value(self) -> Any:
        if self.schema == "dtype":
            return np.ones(1, DTYPE)
        return [b"m" * SCHEMAS[self.schema].get("value_bytes", 4)]

    # ---- reading

    @rule()
    def partition_agrees(self) -> None:
        assert (self.partition.beginning_offset, self.partition.end_offset) == (0, len(self.rows))
        assert rows(self.topic.records()) == self.rows
        assert [one for batch in self.partition.scan() for one in batch_rows(batch)] == self.rows

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def read_ranges(self, data: st.DataObject) -> None:
        end = len(self.rows)
        start = data.draw(st.integers(0, end))
        stop = data.draw(st.none() | st.integers(0, end + 3))
        wanted = self.rows[start:stop]
        assert rows(self.partition.records(start, stop)) == wanted
        assert [one for batch in self.partition.scan(start, stop) for one in batch_rows(batch)] == wanted
        if self.schema == "dtype":
            arrays = list(self.partition.arrays(start, stop))
            assert [one.tobytes() for array in arrays for one in array] == [one.value for one in wanted]
            assert all(array.dtype == DTYPE for array in arrays)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def read_points(self, data: st.DataObject) -> None:
        end = len(self.rows)
        offset = data.draw(st.integers(0, end - 1))
        assert row(self.partition[offset]) == self.rows[offset]
        n = data.draw(st.integers(0, end + 2))
        assert rows(self.partition.tail(n)) == self.rows[max(0, end - n) :]
        with pytest.raises(pystream.OffsetOutOfRangeError):
            self.partition[end + data.draw(st.integers(0, 2))]

    @rule(data=st.data())
    def find_time(self, data: st.DataObject) -> None:
        moment = data.draw(st.integers(-31, 31).map(lambda i: T0 + i * 1000 - i % 2))
        hits = [one.offset for one in self.rows if one.timestamp is not None and one.timestamp >= moment]
        assert self.partition.offset_for_time(moment) == (hits[0] if hits else None)
        from_there = self.rows[hits[0] :] if hits else []
        assert rows(self.partition.records(np.datetime64(moment, "ns"))) == from_there

    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        end = len(self.rows)
        with self.store.consumer("t", timeout=0) as consumer:
            consumer.seek(("t", 0), offset := data.draw(st.integers(0, end)))
            asked = data.draw(st.integers(0, 5))
            got = rows(islice(consumer, asked))
            assert got == self.rows[offset : offset + asked]
            in_hand = 0 < len(got) == asked  # consumed when the next thing is asked for
            assert consumer.position(("t", 0)) == offset + len(got) - in_hand
            rest = [one for batch in consumer.batches() for one in batch_rows(batch)]
            assert rest == self.rows[offset + len(got) :]
            assert consumer.position(("t", 0)) == end
            assert consumer.poll(0) is None

    @invariant()
    def offsets_agree(self) -> None:
        if hasattr(self, "store"):
            assert self.partition.end_offset == len(self.rows)
            assert self.partition.durable_offset <= len(self.rows)


Log.TestCase.settings = settings(
    max_examples=1500 if LONG else 100,
    stateful_step_count=40 if LONG else 25,
    deadline=None,
    derandomize=not LONG,
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestLog = pytest.mark.timeout(0 if LONG else 240)(Log.TestCase)
