"""What a crash costs, and what may be lost: python bench/recovery.py

1. Time to open a partition, until it can be appended to: closed; after `kill -9` with tails of several sizes
   that no sync had covered; with the control page lost; each in a process of its own, files in memory and, as
   far as this process may have them dropped, from the disk. Beside it the floor: reading and hashing (xxh3)
   the bytes that have to be looked at.
2. The loss bound of "interval" topics: a writer at full speed, and how old the oldest record is that no sync
   has covered, sampled all the while, over 1, 100 and 1,000 partitions.
3. Group commit: one-record appends to a "sync" topic from threads and processes, beside one bare loop of
   pwrite and fdatasync into space that is reserved.
4. A backup of the same partition, first and again after a little more was appended, beside cp and sync.

Prints Markdown tables and writes them, with every figure, to bench/results/recovery.md and .json.

Environment: PYSTREAM_BENCH_RECOVERY_GB (10), PYSTREAM_BENCH_RECOVERY_SECONDS (10, of each writer),
PYSTREAM_BENCH_DIR (build/).
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import machine
import pystream
from pystream._native.hashing import xxh3_hex

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
GB = float(os.environ.get("PYSTREAM_BENCH_RECOVERY_GB", "10"))
SECONDS = float(os.environ.get("PYSTREAM_BENCH_RECOVERY_SECONDS", "10"))
ROUNDS = 5
WIDTH = 1000
BATCH = 1000
TAILS_MB = (0, 1, 16, 128, 1024)
NEVER = "1h"


def fork(work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` gives, run in a child that ends without any clean-up; and how it ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(said) if said else None, status


def drop_caches() -> bool:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def fill(path: Path, megabytes: float, *, synced: bool) -> None:
    """Append so much to the store's only topic, in a process that is killed when it is done."""
    rng = np.random.default_rng(7)
    block = rng.integers(0, 256, (BATCH, WIDTH), dtype=np.uint8).view(f"S{WIDTH}").ravel()

    def work() -> None:
        store = pystream.open(path, sync_interval=NEVER)
        partition = store.topic("t", create=True, value_bytes=WIDTH).partition(0)
        for number in range(round(megabytes * 1e6 / (WIDTH * BATCH))):
            partition.append(block)
            if synced and number % 500 == 0:
                partition.flush()
        if synced:
            partition.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    _, status = fork(work)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def time_open(path: Path) -> dict[str, float]:
    """Seconds until the partition knows its end, and until a record is appended."""

    def work() -> dict[str, float]:
        start = time.perf_counter()
        store = pystream.open(path, sync_interval=NEVER)
        partition = store.topic("t").partition(0)
        end = partition.end_offset
        opened = time.perf_counter() - start
        partition.append([bytes(WIDTH)])
        appended = time.perf_counter() - start
        assert partition.end_offset == end + 1
        store.close()
        return {"open": opened, "append": appended, "end": end}

    found, status = fork(work)
    assert status == 0 and found is not None
    return found


def time_hash(path: Path, megabytes: float) -> float:
    """Seconds to read and hash the last so many bytes of the log: what no recovery can do without."""
    left = round(megabytes * 1e6)
    start = time.perf_counter()
    for file in sorted((path / "topics/t/0").glob("*.log"), reverse=True):
        with file.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(size - left, 0))
            while chunk := log.read(1 << 20):
                xxh3_hex(chunk)
                left -= len(chunk)
        if left <= 0:
            break
    return time.perf_counter() - start


def recovery(directory: Path) -> list[dict[str, Any]]:
    rows = []
    for gigabytes in sorted({GB / 100, GB / 10, GB}):
        path = directory / "s"
        fill(path, gigabytes * 1000, synced=True)
        time_open(path)  # what killing the writer has left is seen to
        for cold in (False, True):
            for tail in TAILS_MB if gigabytes == GB else (0, 16):
                opens, hashes = [], []
                for _ in range(ROUNDS if tail < 1000 else 2):
                    if tail:
                        fill(path, tail, synced=False)
                    if cold and not drop_caches():
                        break
                    opens.append(time_open(path)["open"])
                    if cold:
                        drop_caches()
                    hashes.append(time_hash(path, tail) if tail else 0.0)
                if opens:
                    rows.append(
                        row(
                            gigabytes,
                            f"killed, {tail} MB not synced" if tail else "closed",
                            cold,
                            opens,
                            hashes,
                        )
                    )
        opens, hashes = [], []
        for _ in range(2):
            (path / "topics/t/0/head").unlink()
            opens.append(time_open(path)["open"])
            hashes.append(time_hash(path, gigabytes * 1000))
        rows.append(row(gigabytes, "control page lost", False, opens, hashes))
        if gigabytes < GB:
            shutil.rmtree(path)
    return rows


def row(gigabytes: float, after: str, cold: bool, opens: list[float], hashes: list[float]) -> dict[str, Any]:
    return {
        "log_gb": gigabytes,
        "after": after,
        "cold": cold,
        "open_s": statistics.median(opens),
        "worst_s": max(opens),
        "floor_s": statistics.median(hashes),
    }


def loss(directory: Path, partitions: int, interval: float) -> dict[str, Any]:
    """How old, in seconds, the oldest record was that a power failure at that moment would have taken."""
    ages = []
    with pystream.open(directory / f"loss-{partitions}-{interval}", sync_interval=interval) as store:
        topic = store.topic("t", create=True, partitions=partitions, dtype="i8")
        logs = [topic.partition(index) for index in range(partitions)]
        for log in logs:
            log.append(np.array([time.monotonic_ns()]))
        topic.flush()
        appended: list[list[tuple[int, int]]] = [
            [] for _ in logs
        ]  # (end, when) of what is not known to be durable
        over = threading.Event()
        sent = 0

        def write() -> None:
            nonlocal sent
            count = 4096 if partitions == 1 else 64
            while not over.is_set():
                for index, log in enumerate(logs):
                    now = time.monotonic_ns()
                    first = log.append(np.full(count, now))
                    appended[index].append((first + count, now))
                    sent += count

        thread = threading.Thread(target=write)
        thread.start()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            oldest = time.monotonic_ns()
            for index, log in enumerate(logs):
                durable = log.durable_offset
                waiting = appended[index]
                while waiting and waiting[0][0] <= durable:
                    del waiting[0]
                if waiting:
                    oldest = min(oldest, waiting[0][1])
            ages.append((time.monotonic_ns() - oldest) / 1e9)
            time.sleep(0.002)
        over.set()
        thread.join()
        told = max(each.process.sync_lag_max_ns for each in topic.stats().partitions if each.process) / 1e9
        rate = sent / SECONDS
    return {
        "partitions": partitions,
        "interval_s": interval,
        "records_s": rate,
        "p50_s": float(np.quantile(ages, 0.5)),
        "p99_s": float(np.quantile(ages, 0.99)),
        "worst_s": max(ages),
        "sync_lag_max_s": told,
    }


def bare_syncs(directory: Path) -> float:
    descriptor = os.open(directory / "bare", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 64 << 20)
    os.fdatasync(descriptor)
    record, count, until = bytes(320), 0, time.monotonic() + SECONDS / 4
    while time.monotonic() < until:
        os.pwrite(descriptor, record, count * len(record) % (60 << 20))
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    os.unlink(directory / "bare")
    return count / (SECONDS / 4)


def synced_appends(path: Path, threads: int) -> int:
    counts = [0] * threads
    with pystream.open(path) as store:
        partition = store.topic("t", create=True, durability="sync").partition(0)
        until = time.monotonic() + SECONDS / 4

        def work(index: int) -> None:
            value = [bytes(100)]
            while time.monotonic() < until:
                partition.append(value)
                counts[index] += 1

        crew = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    return sum(counts)


def group_commit(directory: Path) -> list[dict[str, Any]]:
    rows = []
    for processes, threads in ((1, 1), (1, 2), (1, 4), (1, 16), (2, 1), (4, 1), (4, 4)):
        floors, rates = [], []
        for _ in range(3):
            floors.append(bare_syncs(directory))
            path = directory / "sync"
            with pystream.open(path) as store:
                store.topic("t", create=True, durability="sync").append([b""])
            if processes == 1:
                total = synced_appends(path, threads)
            else:
                pipes = []
                for _ in range(processes):
                    reading, writing = os.pipe()
                    if os.fork() == 0:
                        os.write(writing, str(synced_appends(path, threads)).encode())
                        os._exit(0)
                    os.close(writing)
                    pipes.append(reading)
                total = 0
                for reading in pipes:
                    with os.fdopen(reading) as pipe:
                        total += int(pipe.read())
                    os.wait()
            rates.append(total / (SECONDS / 4))
            shutil.rmtree(path)
        rows.append(
            {
                "processes": processes,
                "threads": threads,
                "appends_s": statistics.median(rates),
                "bare_s": statistics.median(floors),
                "ratio": statistics.median(rate / floor for rate, floor in zip(rates, floors, strict=True)),
            }
        )
    return rows


def backups(directory: Path) -> list[dict[str, Any]]:
    rows = []
    path, copy, target = directory / "s", directory / "cp", directory / "backup"

    def measured(what: str, work: Callable[[], Any], floor: str | None = None) -> float:
        os.sync()
        start = time.perf_counter()
        work()
        took = time.perf_counter() - start
        rows.append({"what": what, "seconds": took, "of": floor})
        return took

    def cp() -> None:
        subprocess.run(["cp", "-r", path, copy], check=True)
        subprocess.run(["sync", "-f", copy], check=True)

    measured(f"cp -r of {GB:g} GB, and sync", cp)
    shutil.rmtree(copy)
    with pystream.open(path) as store:
        measured(f"first backup of {GB:g} GB", lambda: store.backup(target))
        store.topic("t").partition(0).append([bytes(WIDTH)] * 10000)
        measured("again, 10 MB later", lambda: store.backup(target))
        measured("again, nothing later", lambda: store.backup(target))
    shutil.rmtree(target)
    return rows


def tables(facts: dict[str, str], figures: dict[str, list[dict[str, Any]]]) -> str:
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    lines += [
        "",
        "| log | after | files | open, median | worst | floor: read and xxh3 |",
        "|--:|---|---|--:|--:|--:|",
    ]
    for r in figures["recovery"]:
        floor = f"{r['floor_s'] * 1e3:.1f} ms" if r["floor_s"] else ""
        lines.append(
            f"| {r['log_gb']:g} GB | {r['after']} | {'from disk' if r['cold'] else 'in memory'} "
            f"| {r['open_s'] * 1e3:.1f} ms | {r['worst_s'] * 1e3:.1f} ms | {floor} |"
        )
    lines += [
        "",
        "| partitions | interval | records/s | oldest not synced, p50 | p99 | worst | `sync_lag_max_ns` |",
    ]
    lines += ["|--:|--:|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {r['partitions']:,} | {r['interval_s']:g} s | {r['records_s'] / 1e6:.2f} M | {r['p50_s']:.3f} s "
        f"| {r['p99_s']:.3f} s | {r['worst_s']:.3f} s | {r['sync_lag_max_s']:.3f} s |"
        for r in figures["loss"]
    ]
    lines += [
        "",
        "| processes | threads each | durable appends/s | bare pwrite + fdatasync, one loop | ratio |",
    ]
    lines += ["|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {r['processes']} | {r['threads']} | {r['appends_s']:,.0f} | {r['bare_s']:,.0f} "
        f"| {r['ratio']:.2f} |"
        for r in figures["group_commit"]
    ]
    lines += ["", "| copies | seconds |", "|---|--:|"]
    lines += [f"| {r['what']} | {r['seconds']:.3f} |" for r in figures["backups"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    place = os.environ.get("PYSTREAM_BENCH_DIR", str(ROOT / "build"))
    os.makedirs(place, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="recovery-") as name:
        directory = Path(name)
        figures = {
            "group_commit": group_commit(directory),
            "loss": [
                loss(directory, partitions, interval)
                for partitions, interval in ((1, 1.0), (1, 0.1), (100, 1.0), (100, 0.1), (1000, 1.0))
            ],
            "recovery": recovery(directory),
            "backups": backups(directory),
        }
        facts = machine.facts(place)
    text = tables(facts, figures)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "recovery.md").write_text(text, encoding="utf-8")
    (RESULTS / "recovery.json").write_text(
        json.dumps({"machine": facts, **figures}, indent=1) + "\n", encoding="utf-8"
    )
    print(text)


if __name__ == "__main__":
    main()
