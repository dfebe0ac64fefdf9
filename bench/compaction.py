"""What compacting a log costs: python bench/compaction.py

Logs of several shapes are appended, synced, and compacted in one pass without a limit to its speed. Beside
each the floor: the bytes that were there read once and those that are there afterwards written once, through
the same buffers, with xxh3 over both, as every batch is checked when it is read and hashed when it is written
anew, and one fdatasync a segment. Compaction reads what is new twice, first for its keys and then to leave
out what they have superseded.

Prints a Markdown table and writes it, with every figure, to bench/results/compaction.md and .json.

Environment: PYSTREAM_BENCH_COMPACTION_GB (1), PYSTREAM_BENCH_DIR (build/).
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import machine
import pystream
from pystream._native.compact import KEY_BYTES, MAP_BYTES, compact
from pystream._native.hashing import xxh3_hex

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
GB = float(os.environ.get("PYSTREAM_BENCH_COMPACTION_GB", "1"))
ROUNDS = 3
BATCH = 1000
BUFFER_BYTES = 1 << 20

SHAPES: dict[str, dict[str, Any]] = {
    "1 kB, 10,000 keys: nearly all goes": {"width": 1000, "keys": 10_000},
    "1 kB, each key twice: half goes": {"width": 1000, "keys": None, "times": 2},
    "1 kB, each key once: nothing goes": {"width": 1000, "keys": None, "times": 1},
    "100 B, each key four times": {"width": 100, "keys": None, "times": 4},
    "100 B, each key four times, lz4": {"width": 100, "keys": None, "times": 4, "compression": "lz4"},
}


def fill(store: pystream.Store, shape: dict[str, Any]) -> pystream.Topic:
    """A log of the shape, synced; its keys in an order that no cache helps."""
    width = shape["width"]
    count = int(GB * 1e9 / (width + 8)) // BATCH * BATCH
    topic = store.topic(
        "t",
        create=True,
        segment_bytes="32MiB",
        value_bytes=width,
        key_bytes=8,
        compression=shape.get("compression", "none"),
    )
    rng = np.random.default_rng(7)
    keys = shape["keys"] or count // shape["times"]
    order = rng.integers(0, keys, count) if shape["keys"] else rng.permutation(count) % keys
    words = rng.integers(0, 256, (BATCH, width), dtype=np.uint8)
    words[:, width // 3 :] = 32  # compresses to a half or less
    partition = topic.partition(0)
    for at in range(0, count, BATCH):
        words[:, :8] = order[at : at + BATCH].astype("<i8").view(np.uint8).reshape(BATCH, 8)
        partition.append(
            words.view(f"V{width}").ravel(), keys=order[at : at + BATCH].astype("<i8").view("V8")
        )
    partition.flush()
    return topic


def bytes_of(directory: Path) -> list[int]:
    return [file.stat().st_size for file in sorted(directory.glob("*.log"))]


def time_floor(directory: Path, inputs: list[Path], written: int) -> float:
    """Seconds to read all of these files and write `written` bytes."""
    buffer = bytearray(BUFFER_BYTES)
    target = directory / "floor"
    start = time.perf_counter()
    with target.open("wb", buffering=0) as out:
        for path in inputs:
            with path.open("rb", buffering=0) as file:
                while n := file.readinto(buffer):
                    xxh3_hex(memoryview(buffer)[:n])
        left = written
        while left > 0:
            n = min(left, BUFFER_BYTES)
            xxh3_hex(buffer)
            out.write(memoryview(buffer)[:n])
            left -= n
            if left // (128 << 20) != (left + n) // (128 << 20):
                os.fdatasync(out.fileno())
        os.fdatasync(out.fileno())
    took = time.perf_counter() - start
    target.unlink()
    return took


def measure(directory: Path, name: str, shape: dict[str, Any]) -> dict[str, Any]:
    rounds = []
    for _ in range(ROUNDS):
        path = directory / "s"
        with pystream.open(path, maintenance=False, sync_interval="1h") as store:
            topic = fill(store, shape)
            files = sorted((path / "topics/t/0").glob("*.log"))[:-1]  # the last one is being written to
            dirty = sum(file.stat().st_size for file in files)
            inputs = directory / "inputs"
            inputs.mkdir()
            for file in files:
                os.link(file, inputs / file.name)
            log = topic.partition(0)._log()
            for file in files:  # all of it in the page cache, for both
                file.read_bytes()
            start = time.perf_counter()
            done = compact(log, now_ns=time.time_ns(), map_bytes=1 << 30)
            took = time.perf_counter() - start
            assert done.ran and not done.more and done.dirty_bytes == dirty, (name, done, dirty)
        floor = time_floor(directory, sorted(inputs.iterdir()), done.written_bytes)
        rounds.append({"seconds": took, "floor": floor, **done._asdict()})
        shutil.rmtree(path)
        shutil.rmtree(inputs)
    best = min(rounds, key=lambda one: one["seconds"] / one["floor"])
    return {
        "shape": name,
        **best,
        "ratio": statistics.median(one["floor"] / one["seconds"] for one in rounds),
        "rounds": rounds,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| log | was | is | records removed | keys | pass | floor | floor / pass |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['shape']} | {row['dirty_bytes'] / 1e6:,.0f} MB | {row['written_bytes'] / 1e6:,.0f} MB "
            f"| {row['records_removed']:,} | {row['keys']:,} | {row['seconds']:.2f} s | {row['floor']:.2f} s "
            f"| {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    base = Path(os.environ.get("PYSTREAM_BENCH_DIR", ROOT / "build"))
    base.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="compaction-", dir=base))
    try:
        rows = [measure(directory, name, shape) for name, shape in SHAPES.items()]
        facts = machine.facts(str(base))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    about = "; ".join(f"{name}: {value}" for name, value in facts.items())
    text = f"""# Compaction

{about}

Of each log all finished segments, compacted in one pass, files in the page cache; median of {ROUNDS}
rounds. The floor reads these bytes once and writes what is left once, with xxh3 over both and a sync a
segment. A key takes {KEY_BYTES} bytes of memory while a pass goes on ({MAP_BYTES >> 20} MiB by default:
{MAP_BYTES // KEY_BYTES:,} keys; where there are more, the next pass goes on).

{table(rows)}
"""
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compaction.md").write_text(text)
    (RESULTS / "compaction.json").write_text(
        json.dumps({"machine": facts, "gb": GB, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
