"""No row twice and none lost, whenever a run is killed, whatever others write meanwhile."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pystream
from harness import LONG, Life, quick_directory
from ingests import Stop, stop_after
from pystream._native.limits import SEGMENT_BYTES_MIN
from pystream.ingest import BadRowError, JobBusyError, JobExistsError, SourceError, blocks, ingest, job

KILLS_MAX = 60 if LONG else 12
COMMAND = [sys.executable, "-m", "pystream", "ingest"]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: a checkpoint syncs files, and these tests make thousands."""
    with quick_directory() as path:
        yield path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pystream.Store]:
    with pystream.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(blocks, "TABLE_ROWS", 30)


def lines(count: int, start: int = 0) -> str:
    return "".join(f"{i},key-{i % 37},{'x' * (i % 23)}\n" for i in range(start, start + count))


def csv_file(path: Path, count: int) -> Path:
    path.write_text("n,k,text\n" + lines(count))
    return path


def numbers(topic: pystream.Topic, name: str = "n") -> list[int]:
    return [
        json.loads(record.value or b"")[name]
        for record in topic.records()
        if (record.value or b"")[:1] == b"{"
    ]


# ---- kill -9 ----------------------------------------------------------------------------------------------


def _others(channel: Any, path: str) -> None:
    """Another process that writes to the same topic, in batches and one by one, until told to stop."""
    with pystream.open(path) as store:
        topic = store["t"]
        channel.send("ready")
        count = 0
        while not channel.poll(0.001):
            topic.partition(count % topic.partitions).append(
                [b"other"] * (1 + count % 5), keys=[b"other"] * (1 + count % 5)
            )
            count += 1
        channel.send(sum(1 + i % 5 for i in range(count)))


def _kill_until_done(arguments: list[str], random_: random.Random, *, longest: float) -> int:
    """Run a command again and again, killed at a random moment each time, until it ends itself; the kills.

    The moments lie within `longest` seconds of when the job's file is written, a few before that.
    """
    kills, path = 0, Path(arguments[0])
    while True:
        before = _job_file(path)
        process = subprocess.Popen(
            [*COMMAND, *arguments, *(["--resume"] if before else [])], stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while random_.random() > 1e-4 and _job_file(path) == before and process.poll() is None:
            assert time.monotonic() < deadline, "the run does not begin"
            time.sleep(0.0005)
        time.sleep(random_.uniform(0, longest))
        if kills < KILLS_MAX:
            process.kill()
        _, said = process.communicate(timeout=120)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, said.decode()
            return kills
        kills += 1


def _job_file(path: Path) -> tuple[int, int] | None:
    """What tells whether the job's file was written anew."""
    for file in path.glob("ingest/*.json"):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        return status.st_ino, status.st_mtime_ns
    return None


@pytest.mark.parametrize("seed", range(8 if LONG else 2))
@pytest.mark.parametrize("with_others", [True, False], ids=["others", "alone"])
def test_killed_at_any_moment(tmp_path, seed, with_others):
    """CSV into four partitions by key, with bad rows skipped: each row is there once, keys in order."""
    random_ = random.Random(seed)
    source, rows, bad = tmp_path / "a.csv", 2100_000, 0
    with open(source, "w") as file:
        file.write("n,k,text\n")
        for i in range(rows):
            if random_.random() < 0.0001:
                file.write("one field too few\n")
                bad += 1
            file.write(
                f"{i},key-{random_.randrange(997)},{'some text of no great length to fill the row up'}\n"
            )
    path = tmp_path / "store"
    with pystream.open(path) as store:
        store.topic(
            "t", create=True, partitions=4, segment_bytes="4MiB", compression="lz4" if seed % 2 else "none"
        )
    life = Life(_others, str(path)) if with_others else None
    if life is not None:
        assert life.receive() == "ready"
    refused = tmp_path / "bad.jsonl"
    refused.write_text("what stood there before\n")
    options = [
        "--key",
        "k",
        "--bad-rows",
        "skip",
        "--bad-rows-to",
        str(refused),
        "--checkpoint-every",
        "0.05s",
        "-q",
    ]
    kills = _kill_until_done([str(path), "t", str(source), *options], random_, longest=0.1)
    written = 0
    if life is not None:
        life.channel.send("stop")
        written = life.receive()
        assert life.end() == 0
    assert kills >= 3
    with pystream.open(path) as store:
        last: dict[bytes, int] = defaultdict(lambda: -1)
        seen = bytearray(rows)
        others = 0
        for record in store["t"].records():
            if record.key == b"other":
                others += 1
                continue
            row = json.loads(record.value)
            assert last[record.key] < row["n"], "a key's rows are in the order of the source"
            last[record.key] = row["n"]
            assert row["k"].encode() == record.key
            seen[row["n"]] += 1
    assert seen == bytes([1]) * rows
    assert others == written
    noted = refused.read_text().splitlines()
    assert noted[0] == "what stood there before"
    assert len(noted) == bad + 1
    assert len({json.loads(line)["line"] for line in noted[1:]}) == bad


@pytest.mark.parametrize(
    "options",
    [["--value", "raw"], ["--value-column", "k"], ["--timestamp", "n", "--timestamp-unit", "s"], []],
    ids=["raw", "column", "times", "in-turn"],
)
def test_killed_with_several_sources(tmp_path, options):
    random_ = random.Random(repr(options))
    expected = []
    for name in range(3):
        with open(tmp_path / f"{name}.csv", "w") as file:
            file.write("n,k\n")
            for i in range(100_000):
                file.write(f"{i},source-{name}-row-{i}\n")
                expected.append(f"source-{name}-row-{i}")
    pattern = str(tmp_path / "*.csv")
    path = tmp_path / "store"
    arguments = [
        str(path),
        "t",
        pattern,
        *options,
        "--create",
        "--partitions",
        "5",
        "--checkpoint-every",
        "0",
    ]
    kills = _kill_until_done([*arguments, "-q"], random_, longest=0.04)
    with pystream.open(path) as store:
        found = [
            value.decode()
            if "--value-column" in options
            else value.split(b",")[1].decode()
            if "raw" in options
            else json.loads(value)["k"]
            for value in (record.value for record in store["t"].records())
        ]
        assert all(0.9 < end / (len(expected) / 5) < 1.1 for _, end in store["t"].offsets().values())
    assert kills >= 3
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    "name", ["append.begun", "append.body", "append.header", "append.indexed", "sync.durable"]
)
@pytest.mark.parametrize("nth", [1, 2, 7])
@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_killed_within_an_append(tmp_path, name, nth, durability):
    """While another process holds the store open, so that nobody recovers it in between."""
    source = csv_file(tmp_path / "a.csv", 1000)
    path = str(tmp_path / "store")
    with pystream.open(path) as store:
        topic = store.topic(
            "t", create=True, partitions=2, segment_bytes=SEGMENT_BYTES_MIN, durability=durability
        )
        life = Life(_ingest, path, str(source), False, fault=f"{name}:{nth}:kill")
        life.end()
        resumed = Life(_ingest, path, str(source), True)
        assert resumed.end() == 0
        assert sorted(numbers(topic)) == list(range(1000))


def _ingest(channel: Any, path: str, source: str, resume: bool) -> None:
    blocks.BLOCK_BYTES = 1000
    with pystream.open(path) as store:
        has_job = any(Path(path).glob("ingest/*.json"))
        ingest(store["t"], source, key="k", checkpoint=0, resume=resume and has_job)


# ---- stopped by exceptions: every block, every place -------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz"])
@pytest.mark.parametrize("checkpoint", [0, 3600])
def test_stopped_after_each_block(tmp_path, name, checkpoint):
    table = pa.table({"n": range(400), "k": [f"key-{i % 37}" for i in range(400)]})
    if "csv" in name:
        text = ("n,k\n" + "".join(f"{i},key-{i % 37}\n" for i in range(400))).encode()
        with pa.output_stream(tmp_path / name) as out:
            out.write(text)
    elif "jsonl" in name:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        pq.write_table(table, tmp_path / name, row_group_size=100)
    with pystream.open(tmp_path / "store") as store:
        for keyed in (True, False):
            options: dict[str, Any] = {"key": "k"} if keyed else {}
            topic = store.topic(f"t{keyed}", create=True, partitions=3)
            step, resume = 1, False
            while True:
                try:
                    ingest(
                        topic,
                        tmp_path / name,
                        on_progress=stop_after(step),
                        checkpoint=checkpoint,
                        resume=resume,
                        **options,
                    )
                    break
                except Stop:
                    step, resume = step + 1, True
                    topic.partition(1).append([b"other"])
            assert sorted(numbers(topic)) == list(range(400))


def test_numbers_wrap(store, tmp_path, monkeypatch):
    """Sequence numbers are modulo 2^31; here modulo 64."""
    monkeypatch.setattr(job, "SEQUENCES", 64)
    monkeypatch.setattr("pystream.ingest.run.SEQUENCES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    source = csv_file(tmp_path / "a.csv", 500)
    topic = store.topic("t", create=True)
    resume = False
    for _ in range(200):
        try:
            ingest(topic, source, on_progress=stop_after(3), checkpoint=0, resume=resume)
            break
        except Stop:
            resume = True
    assert numbers(topic) == list(range(500))


def test_a_state_is_never_ahead_of_the_disk(store, tmp_path):
    """When a state is saved, what it counts is durable."""
    topic = store.topic("t", create=True, partitions=2)
    seen = []
    save = job.Job.save

    def checked(self: job.Job, state: job.State, *, done: bool = False) -> None:
        seen.append(sum(state.written))
        for index, (written, end) in enumerate(zip(state.written, state.ends, strict=True)):
            assert not written or topic.partition(index).durable_offset >= end
        save(self, state, done=done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Job, "save", checked)
        ingest(topic, csv_file(tmp_path / "a.csv", 1000), key="k", checkpoint=0)
    assert len(set(seen)) > 10
    assert seen[-1] == 1000


def test_a_log_that_lost_its_end(store, tmp_path):
    """What a state counts may be gone all the same, on a disk that lies: then what is there is counted."""
    source = csv_file(tmp_path / "a.csv", 1000)
    topic = store.topic("t", create=True, partitions=2)
    with pytest.raises(Stop):
        ingest(topic, source, on_progress=stop_after(8), checkpoint=0)
    (file,) = Path(store.path).glob("ingest/*.json")
    document = json.loads(file.read_text())
    document["state"]["ends"] = [end + 1000 for end in document["state"]["ends"]]
    file.write_bytes(job.metadata.encode(document))
    ingest(topic, source, resume=True)
    assert sorted(numbers(topic)) == list(range(1000))


def test_rows_missing_between_others_are_found(store, tmp_path):
    source = csv_file(tmp_path / "a.csv", 1000)
    topic = store.topic("t", create=True)
    with pytest.raises(Stop):
        ingest(topic, source, on_progress=stop_after(8), checkpoint=3600)
    (file,) = Path(store.path).glob("ingest/*.json")
    document = json.loads(file.read_text())
    document["state"]["ends"] = [100]
    file.write_bytes(job.metadata.encode(document))
    with pytest.raises(pystream.CorruptLogError, match="where 0 is due; records of the job are missing"):
        ingest(topic, source, resume=True)


# ---- jobs ------------------------------------------------------------------------------------------------


def test_the_same_sources_again(store, tmp_path):
    source = csv_file(tmp_path / "a.csv", 100)
    topic = store.topic("t", create=True)
    assert ingest(topic, source).rows == 100
    with pytest.raises(
        JobExistsError,
        match=r"went into topic 't' before \(100 rows, begun 20.*restart=True takes everything",
    ):
        ingest(topic, source)
    again = ingest(topic, source, resume=True)
    assert (again.rows, again.complete_before) == (0, True)
    assert ingest(topic, source, restart=True).rows == 100
    assert numbers(topic) == [*range(100), *range(100)]
    # Another way of taking it in, or another topic, is another job.
    assert ingest(topic, source, key="k").rows == 100
    assert ingest(store.topic("u", create=True), source).rows == 100


def test_an_unfinished_job_is_not_begun_again_by_accident(store, tmp_path):
    source = csv_file(tmp_path / "a.csv", 1000)
    topic = store.topic("t", create=True)
    with pytest.raises(Stop):
        ingest(topic, source, on_progress=stop_after(3))
    with pytest.raises(
        JobExistsError, match=r"is not complete .*; resume=True goes on with it, restart=True begins anew"
    ):
        ingest(topic, source)
    result = ingest(topic, source, resume=True)
    assert result.resumed
    assert result.rows_total == 1000 > result.rows
    assert numbers(topic) == list(range(1000))


def test_resume_of_what_was_never_begun_begins_it(store, tmp_path):
    topic = store.topic("t", create=True)
    result = ingest(topic, csv_file(tmp_path / "a.csv", 10), resume=True)
    assert (result.rows, result.resumed) == (10, False)


def test_a_file_that_has_grown(store, tmp_path):
    source = csv_file(tmp_path / "a.csv", 100)
    topic = store.topic("t", create=True, partitions=2)
    ingest(topic, source)
    for size in (3, 500, 1):
        with open(source, "a") as file:
            file.write(lines(size, start=len(numbers(topic))))
        with pytest.raises(
            JobExistsError, match=r"resume=True takes in the [0-9,]+ bytes that were added since"
        ):
            ingest(topic, source)
        assert ingest(topic, source, resume=True).rows == size
    assert sorted(numbers(topic)) == list(range(604))


def test_rows_appended_while_it_runs_belong_to_the_next_run(store, tmp_path):
    source = csv_file(tmp_path / "a.csv", 1000)
    topic = store.topic("t", create=True)
    with pytest.raises(Stop):
        ingest(topic, source, on_progress=stop_after(3))
    with open(source, "a") as file:
        file.write(lines(10, start=1000))
    assert ingest(topic, source, resume=True).rows_total == 1000
    assert ingest(topic, source, resume=True).rows == 10
    assert numbers(topic) == list(range(1010))


def test_a_last_row_without_an_end(store, tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("n\n1\n2")
    topic = store.topic("t", create=True)
    ingest(topic, source)
    source.write_text("n\n1\n2\n3")
    assert ingest(topic, source, resume=True).rows == 1
    source.write_text("n\n1\n2\n34\n")
    with pytest.raises(
        SourceError, match=r"a\.csv: its last row had no end when it was read, and has been continued"
    ):
        ingest(topic, source, resume=True)
    assert numbers(topic) == [1, 2, 3]


@pytest.mark.parametrize("done", [True, False])
def test_a_source_that_has_changed(store, tmp_path, done):
    source = csv_file(tmp_path / "a.csv", 1000)
    topic = store.topic("t", create=True)
    if done:
        ingest(topic, source)
    else:
        with pytest.raises(Stop):
            ingest(topic, source, on_progress=stop_after(3))
    for change, message in (
        (lambda data: data[:-1], "fewer than the"),
        (lambda data: b"x" + data[1:], "its content is not what it was"),
        (lambda data: data[:-2] + b"y\n", "its content is not what it was"),
    ):
        original = source.read_bytes()
        source.write_bytes(change(original))
        with pytest.raises(SourceError, match=message):
            ingest(topic, source, resume=True)
        if not done:
            with pytest.raises(JobExistsError, match="restart=True begins anew"):
                ingest(topic, source)
        source.write_bytes(original)
    if done:  # other data under an old name: a job of its own
        csv_file(source, 7)
        assert ingest(topic, source).rows == 7
    else:
        ingest(topic, source, resume=True)
        assert numbers(topic) == list(range(1000))


def test_only_the_last_source_can_grow(store, tmp_path):
    sources = [csv_file(tmp_path / name, 10) for name in ("a.csv", "b.csv")]
    topic = store.topic("t", create=True)
    ingest(topic, sources)
    with open(sources[0], "a") as file:
        file.write(lines(1))
    with pytest.raises(SourceError, match=r"a\.csv: has grown, but rows of .*b\.csv came after it"):
        ingest(topic, sources, resume=True)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "c.parquet")
    ingest(topic, tmp_path / "c.parquet")
    pq.write_table(pa.table({"a": range(100)}), tmp_path / "c.parquet")
    with pytest.raises(SourceError, match="more than the"):
        ingest(topic, tmp_path / "c.parquet", resume=True)


def test_one_run_at_a_time(store, tmp_path):
    source = csv_file(tmp_path / "a.csv", 1000)
    topic = store.topic("t", create=True)

    def meanwhile(progress: object) -> None:
        for options in ({}, {"resume": True}, {"restart": True}):
            with pytest.raises(
                JobBusyError, match="another process is taking the same sources into topic 't'"
            ):
                ingest(topic, source, **options)
        raise Stop

    with pytest.raises(Stop):
        ingest(topic, source, on_progress=meanwhile)
    ingest(topic, source, resume=True)
    (lock,) = Path(store.path).glob("ingest/*.lock")
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go
    assert numbers(topic) == list(range(1000))


def test_bad_rows_stop_a_job_that_can_go_on(store, tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("n,k,text\n" + lines(500) + "bad\n" + lines(500, start=500))
    topic = store.topic("t", create=True)
    with pytest.raises(BadRowError) as raised:
        ingest(topic, source)
    assert raised.value.row.number == 502
    before = len(numbers(topic))
    assert 0 < before <= 500
    result = ingest(topic, source, resume=True, bad_rows="skip")
    assert (result.rows, result.rows_total, result.bad_rows) == (1000 - before, 1000, 1)
    assert numbers(topic) == list(range(1000))


def test_a_damaged_job_file_is_refused(store, tmp_path):
    source = csv_file(tmp_path / "a.csv", 10)
    topic = store.topic("t", create=True)
    ingest(topic, source)
    (file,) = Path(store.path).glob("ingest/*.json")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(pystream.CorruptLogError, match=r"damaged.*restart=True begins the job anew"):
        ingest(topic, source, resume=True)
    assert ingest(topic, source, restart=True).rows == 10


def test_a_topic_made_anew_is_another(store, tmp_path):
    """Jobs belong to the topic's uuid, and a store that has jobs is a store like any other."""
    source = csv_file(tmp_path / "a.csv", 10)
    ingest(store.topic("t", create=True), source)
    assert store.topics() == ["t"]
    with pystream.open(tmp_path / "other") as other:
        assert ingest(other.topic("t", create=True), source).rows == 10


def test_interrupted_by_a_signal(tmp_path):
    source = tmp_path / "a.jsonl"
    with open(source, "w") as file:
        for i in range(300_000):
            file.write(f'{{"n":{i},"more":"to make the row a little longer than it would be"}}\n')
    path = tmp_path / "store"
    process = subprocess.Popen(
        [*COMMAND, str(path), "t", str(source), "--create"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(path.glob("topics/t/0/*.log")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.fail("it was done before it could be interrupted")
    # `python -m` ends by the signal itself where that came upon an exec(), as of a dataclass: 130 to a shell
    assert process.returncode in (130, -signal.SIGINT), said
    assert "pystream: interrupted; " in said
    assert "--resume goes on from there" in said
    assert (
        subprocess.run([*COMMAND, str(path), "t", str(source), "--resume", "-q"], check=False).returncode == 0
    )
    with pystream.open(path) as store:
        assert numbers(store["t"]) == list(range(300_000))
