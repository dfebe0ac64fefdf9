"""What `pystream bench` stands on: histograms, data, loops, workers."""

import json
import threading
import time
from array import array
from collections import Counter

import numpy as np
import pytest

import pystream
from pystream.benchmark import BenchmarkError, data, floors
from pystream.benchmark.crew import Crew
from pystream.benchmark.histogram import HIGHEST_NS, Latencies, time_text
from pystream.benchmark.loops import TOPIC, Stretch, Tally, Worker
from pystream.benchmark.plan import KEY_BYTES, TICK_BYTES, Plan

# ---- histograms ---------------------------------------------------------------------------------------


def counted(values: list[int]) -> Latencies:
    made = Latencies()
    made.add(np.array(values, np.int64))
    return made


@pytest.mark.parametrize("scale", [1, 50, 10**6, 10**10])
def test_percentiles_are_within_a_thousandth(scale):
    values = np.sort((np.random.default_rng(1).lognormal(3, 1, 100_000) * scale).astype(np.int64))
    found = counted(values.tolist())
    assert found.count == len(values)
    assert found.max_ns == values[-1]
    for percentile, ns in zip((50.0, 90.0, 99.0, 99.9), found.percentiles_ns(), strict=True):
        true = int(values[round(len(values) * percentile / 100) - 1])
        assert true <= ns <= true * 1.001 + 1


def test_extreme_times_are_counted():
    found = counted([-5, 0, 1, 2047, 2048, HIGHEST_NS - 1, HIGHEST_NS, HIGHEST_NS + 10**12])
    assert found.count == 8
    assert found.percentiles_ns((0.0, 100.0)) == [0, HIGHEST_NS]
    assert counted([]).percentiles_ns() == [0, 0, 0, 0]
    assert counted([]).max_ns == 0


def test_histograms_of_workers_add_up():
    one, other = counted([1000] * 90), counted([5_000_000] * 10)
    again = Latencies.from_text(other.as_text(), other.max_ns)
    one.merge(again)
    assert one.count == 100
    assert one.max_ns == 5_000_000
    assert one.percentiles_ns((90.0, 91.0)) == [1000, 5_000_000]
    assert one.summary()["p50_us"] == pytest.approx(1.0)


def test_stamps_are_the_times_between_them():
    found = Latencies()
    found.add_stamps(array("q", [10, 15, 15, 1015]))
    assert (found.count, found.max_ns) == (3, 1000)
    assert found.percentiles_ns((0.0, 50.0)) == [0, 5]


def test_times_are_short():
    told = {1: "1 ns", 999: "999 ns", 999.6: "1 us", 1250: "1.25 us", 17_345_000: "17.3 ms", 2e9: "2 s"}
    assert {ns: time_text(ns) for ns in told} == told


# ---- data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["random", "json", "ticks"])
def test_a_seed_makes_the_same_records(shape):
    size = {"random": 100, "json": 256, "ticks": TICK_BYTES}[shape]

    def made(seed: int, part: int) -> list[bytes]:
        plan = Plan("produce", shape=shape, size=size, seed=seed)
        return [bytes(value) for value in data.make_values(plan, 500, part)]

    values = made(7, 0)
    assert {len(value) for value in values} == {size}
    assert len(set(values)) == 500
    assert values == made(7, 0)
    assert not set(values) & set(made(7, 1))
    assert not set(values) & set(made(8, 0))


@pytest.mark.parametrize("size", [160, 161, 256, 1000, 65536])
def test_events_are_json(size):
    plan = Plan("produce", shape="json", size=size)
    for value in data.make_values(plan, 50, 0):
        assert len(value) == size
        assert json.loads(value)["event"] == "page_view"


def test_keys_are_spread_as_they_say():
    def shares(keys: str) -> Counter[bytes]:
        made = data.make_keys(Plan("produce", keys=keys), 100_000, 0)
        assert {len(key) for key in made} == {KEY_BYTES}
        return Counter(made)

    assert data.make_keys(Plan("produce"), 10, 0) is None
    hot, uniform = shares("hot"), shares("uniform")
    assert 0.09 < hot.most_common(1)[0][1] / 100_000 < 0.115
    assert uniform.most_common(1)[0][1] < 40  # ten each, on average
    assert len(uniform) > 9_900


def test_a_pool_is_whole_batches_and_larger_than_a_cache():
    for size, batch in ((1, 1), (100, 1000), (100, 1 << 20), (16 << 20, 1), (100, 7)):
        count = data.pool_records(Plan("produce", size=size, batch=batch))
        assert count % batch == 0 and count >= batch
    assert data.pool_records(Plan("produce", size=1024)) * 1024 > 24 << 20


# ---- loops --------------------------------------------------------------------------------------------

STALL_S = 0.1


def with_a_stall(loop: str, **options: object) -> Stretch:
    """A second of calls that take no time, but for one."""
    worker = object.__new__(Worker)
    worker.plan = Plan("produce", seconds=0.5, batch=1, **options)
    worker.stop = threading.Event()
    number = iter(range(1 << 30))

    def call() -> None:
        if next(number) == 100:
            time.sleep(STALL_S)

    stretch = Stretch("test", time.monotonic_ns())
    getattr(worker, loop)(stretch, [call], 10**6, Tally(), (1, 100))
    return stretch


def test_an_open_loop_feels_a_stall_in_every_call_that_was_due():
    stretch = with_a_stall("_paced", rate=1000.0)
    assert stretch.calls == 500  # none is left out
    latencies = stretch.latencies
    assert latencies.count == 500
    # A hundred were due in the stall: the first waited for all of it, the last for none.
    assert latencies.max_ns >= STALL_S * 1e9
    assert latencies.percentiles_ns((100.0 - 100 * 80 / 500,))[0] > 10e6
    assert latencies.percentiles_ns((100.0 - 100 * 30 / 500,))[0] > 60e6


def test_a_closed_loop_counts_every_call_and_the_stall_once():
    stretch = with_a_stall("_flat_out")
    assert stretch.latencies.count == stretch.calls > 1000
    assert stretch.latencies.max_ns >= STALL_S * 1e9
    assert stretch.latencies.percentiles_ns((99.0,))[0] < 10e6


def test_loops_make_as_many_calls_as_they_may():
    worker = object.__new__(Worker)
    worker.plan = Plan("produce", seconds=100.0, batch=1, rate=1e6)
    worker.stop = threading.Event()
    for loop in (worker._paced, worker._flat_out):
        for most in (1, 2, 5000):
            stretch, tally = Stretch("test", time.monotonic_ns()), Tally()
            made = []
            loop(stretch, [lambda made=made: made.append(1)], most, tally, (3, 7))
            assert (len(made), stretch.calls, stretch.latencies.count) == (most, most, most)
            assert (tally.records, tally.size) == (most * 3, most * 7)


def test_the_clock_stops_when_all_is_acknowledged():
    worker = object.__new__(Worker)
    worker.plan = Plan("produce", size=100, batch=1, total_bytes=300, space=1 << 20)
    worker.stop = threading.Event()
    worker._calls = lambda number, values, keys: ([int], lambda: time.sleep(0.05))
    (stretch,) = worker._writer(0, Tally(), [], None)(time.monotonic_ns())
    assert (stretch.calls, stretch.records, stretch.size, stretch.ended_by) == (3, 3, 300, "bytes")
    assert stretch.end_ns - stretch.begin_ns >= 50e6


@pytest.mark.parametrize("call", ["append", "flush", "send", "send_many"])
def test_a_call_and_its_finish_acknowledge_a_batch(tmp_path, call):
    with pystream.open(tmp_path / "s") as store:
        store.topic(TOPIC, create=True)
    plan = Plan("produce", call=call, store=str(tmp_path / "s"), total_bytes=1, batch=100)
    worker = Worker(plan)
    calls, finish = worker._calls(0, data.make_values(plan, 500, 0), None)
    assert len(calls) == 5
    calls[0]()
    finish()
    partition = worker.topic.partition(0)
    assert partition.end_offset == 100
    if call == "flush":
        assert partition.durable_offset == 100
    worker.close()


# ---- plans and workers --------------------------------------------------------------------------------


def test_writers_share_bytes_and_space():
    plan = Plan("produce", size=100, batch=10, threads=2, processes=2, total_bytes=40_000, space=1 << 20)
    assert plan.calls_for_bytes == 10
    assert Plan("produce", size=100, batch=10, total_bytes=1).calls_for_bytes == 1
    assert plan.calls_for_space * plan.crew * plan.frame_bytes <= 1 << 20
    assert plan.space_needed >= 40_000 + 400 * 4
    assert Plan("produce", seconds=1.0).space_needed == 0


def test_floors_are_of_the_bytes_they_say(tmp_path):
    for floor in floors.write_floors(tmp_path, 1):
        assert floor.unit == "bytes" and 0 < floor.amount <= floors.FLOOR_BYTES_MAX
    (tmp_path / "a").write_bytes(bytes(300_000))
    (tmp_path / "b").write_bytes(b"")
    assert floors.read_floor([tmp_path / "a", tmp_path / "b"]).amount == 300_000
    sync = floors.sync_floor(tmp_path, 320, 0.05, 1)
    assert sync.latencies is not None and sync.latencies.count == sync.amount > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    twice = sync.better(floors.sync_floor(tmp_path, 320, 0.05, 1))
    assert twice.latencies is not None and twice.latencies.count > twice.amount


def test_a_worker_that_fails_says_why(tmp_path):
    plan = Plan("produce", seconds=1.0, store=str(tmp_path / "none"), scratch=str(tmp_path), part=0, space=1)
    with pytest.raises(BenchmarkError, match=r"worker 0 failed: StoreNotFoundError: .*none: does not exist"):
        Crew([("worker 0", plan)]).__enter__()


def test_a_worker_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("pystream.benchmark.crew._START", "raise SystemExit('no such luck')")
    plan = Plan("produce", seconds=1.0, store=str(tmp_path / "none"), scratch=str(tmp_path), part=0)
    with pytest.raises(BenchmarkError, match=r"ended with exit code 1:\nno such luck"):
        Crew([("worker 0", plan)]).__enter__()


def test_a_silent_worker_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("pystream.benchmark.crew._START", "import time; time.sleep(600)")
    monkeypatch.setattr("pystream.benchmark.crew.READY_SECONDS_MAX", 0.5)
    plan = Plan("produce", seconds=1.0, store=str(tmp_path / "none"), scratch=str(tmp_path), part=0)
    with pytest.raises(BenchmarkError, match="no worker said anything for"):
        Crew([("worker 0", plan)]).__enter__()
