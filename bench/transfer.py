"""Rates of ingest and export, beside pyarrow's on the same files: python bench/transfer.py

Seeded rows of about 100 bytes, PYSTREAM_BENCH_ROWS of them (1,000,000). Each figure is taken in turn with its
peer, round by round (PYSTREAM_BENCH_ROUNDS, 5), the first round left out, so that both meet the same machine.
Prints Markdown; writes bench/results/transfer.md and .json.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

import data
import machine
import pystream
from pystream.export import export
from pystream.ingest import ingest

ROWS = data.scale("ROWS", 1_000_000)
ROUNDS = data.scale("ROUNDS", 5)
ROOT = Path(os.environ.get("PYSTREAM_BENCH_DIR") or Path(__file__).parent.parent / "build")
RESULTS = Path(__file__).parent / "results"
START_NS = 1_700_000_000_000_000_000

LEGEND = """\
Rows a second, medians of the rounds, with the slowest and the fastest in brackets. Ratio: pystream's median
by the peer's; the peer reads into memory, or writes from memory, and keeps no log. Files lie in the page
cache; exports, and the files that peers write, are synced to the disk. pyarrow has no writer of JSON lines:
the peer is Python's `json`, row by row.
"""


class Row(NamedTuple):
    """One line: what is done, its peer, and both as functions."""

    work: str
    peer: str
    figure: Callable[[], object]
    other: Callable[[], object]


def table() -> pa.Table:
    """Rows as a shop's site would log them, about 100 bytes each as JSON."""
    pick = np.random.default_rng(data.SEED)
    pages = np.array(["/shop/home", "/shop/cart", "/shop/search", "/shop/item?id=17", "/shop/checkout"])
    return pa.table(
        {
            "id": np.arange(ROWS),
            "user": pa.array([f"user-{i}" for i in pick.integers(0, 100_000, ROWS)]),
            "page": pages[pick.integers(0, len(pages), ROWS)],
            "ms": pick.integers(0, 5000, ROWS),
            "px": np.round(pick.random(ROWS) * 100, 2),
            "ok": pick.random(ROWS) < 0.9,
        }
    )


def write_files(rows: pa.Table, shelf: Path) -> None:
    pa.csv.write_csv(rows, shelf / "a.csv")
    pa.parquet.write_table(rows, shelf / "a.parquet")
    with pa.ipc.new_file(shelf / "a.arrow", rows.schema) as writer:
        writer.write_table(rows, max_chunksize=1 << 16)
    with open(shelf / "a.jsonl", "w", encoding="utf-8") as text:
        text.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows.to_pylist())


# ---- pyarrow's own ----------------------------------------------------------------------------------------


def read_csv(path: Path) -> int:
    with pa.csv.open_csv(path) as reader:
        return sum(batch.num_rows for batch in reader)


def read_jsonl(path: Path) -> int:
    return pa.json.read_json(path).num_rows


def read_parquet(path: Path) -> int:
    with pa.parquet.ParquetFile(path) as file:
        return sum(batch.num_rows for batch in file.iter_batches())


def read_arrow(path: Path) -> int:
    with pa.OSFile(str(path)) as file:  # not mapped: the bytes are read
        reader = pa.ipc.open_file(file)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def synced(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_csv(rows: pa.Table, path: Path) -> None:
    pa.csv.write_csv(rows, path)
    synced(path)


def write_parquet(rows: pa.Table, path: Path) -> None:
    pa.parquet.write_table(rows, path)
    synced(path)


def write_arrow(rows: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=1 << 16)
    synced(path)


def write_jsonl(rows: pa.Table, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as text:
        for batch in rows.to_batches(max_chunksize=1 << 16):
            text.writelines(json.dumps(row, default=str) + "\n" for row in batch.to_pylist())
    synced(path)


READERS = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet, "arrow": read_arrow}
WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet, "arrow": write_arrow}
NAMES = {"csv": "CSV", "jsonl": "JSON lines", "parquet": "Parquet", "arrow": "Arrow"}


# ---- the lines --------------------------------------------------------------------------------------------


def ingests(shelf: Path) -> Iterator[Row]:
    def taken(format: str, **options: Any) -> Callable[[], object]:
        def work() -> None:
            path = Path(tempfile.mkdtemp(dir=shelf))
            with pystream.open(path) as store:
                topic = store.topic("t", create=True)
                assert ingest(topic, shelf / f"a.{format}", **options).rows == ROWS
            shutil.rmtree(path)

        return work

    for format, read in READERS.items():
        peer = "pyarrow reads it"
        yield Row(
            f"ingest {NAMES[format]}", peer, taken(format), lambda read=read, f=format: read(shelf / f"a.{f}")
        )
    yield Row(
        "ingest CSV, by key", "pyarrow reads it", taken("csv", key="user"), lambda: read_csv(shelf / "a.csv")
    )
    yield Row(
        "ingest CSV, raw lines",
        "pyarrow reads it",
        taken("csv", value="raw"),
        lambda: read_csv(shelf / "a.csv"),
    )


def exports(shelf: Path, topic: pystream.Topic, rows: pa.Table) -> Iterator[Row]:
    stored = pa.table(topic)
    texts = stored.drop_columns(["headers"])
    texts = texts.set_column(2, "key", texts["key"].cast(pa.string()))
    texts = texts.set_column(3, "value", texts["value"].cast(pa.string()))
    for format, write in WRITERS.items():
        made = shelf / f"made.{format}"
        peer = "Python's json writes it" if format == "jsonl" else "pyarrow writes it"
        options = {"columns": "offset,timestamp,key,value"} if format in ("csv", "jsonl") else {}
        given = texts if format in ("csv", "jsonl") else stored
        yield Row(
            f"export {NAMES[format]}, records as they are",
            peer,
            lambda made=made, options=options: export(topic, made, overwrite=True, **options),
            lambda made=made, write=write, given=given: write(given, made),
        )
        yield Row(
            f"export {NAMES[format]}, JSON values as " + ("lines" if format == "jsonl" else "columns"),
            f"pyarrow parses the JSON, {peer}",
            lambda made=made: export(topic, made, overwrite=True, value="json", columns="value"),
            # The like of it begins with the JSON too.
            lambda made=made, write=write: write(pa.json.read_json(shelf / "a.jsonl"), made),
        )


def timed(work: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(row: Row) -> dict[str, Any]:
    spent: dict[str, list[float]] = {"pystream": [], "peer": []}
    for _ in range(ROUNDS + 1):
        spent["peer"].append(timed(row.other))
        spent["pystream"].append(timed(row.figure))
    kept = {who: seconds[1:] for who, seconds in spent.items()}
    medians = {who: statistics.median(seconds) for who, seconds in kept.items()}
    return {
        "work": row.work,
        "peer": row.peer,
        "rows": ROWS,
        "seconds": kept,
        "ratio": medians["peer"] / medians["pystream"],
    }


def rate(seconds: list[float]) -> str:
    middle, low, high = (
        ROWS / each / 1e6 for each in (statistics.median(seconds), max(seconds), min(seconds))
    )
    return f"{middle:.2f} M/s ({low:.2f}-{high:.2f})"


def markdown(results: dict[str, Any]) -> str:
    facts = "".join(f"- {key}: {value}\n" for key, value in results["machine"].items())
    sizes = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in results["files"].items())
    lines = ["| work | pystream | peer | | ratio |", "|---|--:|--:|---|--:|"]
    for each in results["rows"]:
        seconds = each["seconds"]
        lines.append(
            f"| {each['work']} | {rate(seconds['pystream'])} | {rate(seconds['peer'])} | {each['peer']} "
            f"| {each['ratio']:.2f} |"
        )
    return f"{facts}- files of {ROWS:,} rows: {sizes}\n\n" + "\n".join(lines) + f"\n\n{LEGEND}"


def main() -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    shelf = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT))
    try:
        rows = table()
        write_files(rows, shelf)
        found = []
        with pystream.open(shelf / "store") as store:
            topic = store.topic("t", create=True)
            ingest(topic, shelf / "a.jsonl", key="user")
            for row in (*ingests(shelf), *exports(shelf, topic, rows)):
                found.append(measure(row))
                print(f"{row.work}: {rate(found[-1]['seconds']['pystream'])}", file=sys.stderr)
        results = {
            "machine": machine.facts(str(shelf)) | {"pyarrow": pa.__version__},
            "files": {NAMES[name]: (shelf / f"a.{name}").stat().st_size for name in READERS},
            "rows": found,
        }
    finally:
        shutil.rmtree(shelf, ignore_errors=True)
    text = markdown(results)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "transfer.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "transfer.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
