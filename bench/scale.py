"""Many small things: python bench/scale.py [--quick]

A store of 10,000 partitions, each of which holds a little, and one partition of 100,000 segments. What an
operator and a program do to them is timed, each in a process of its own, and set beside the floor: one stat
of each file or directory that has to be looked at. Beside the time stand what the process came to keep of
memory of its own (RssAnon), descriptors and maps.

Prints a Markdown table and writes it, with every figure, to bench/results/scale.md and .json.
Environment: PYSTREAM_BENCH_DIR (build/; it should have 6 GB free).
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import pystream
from paths import disk_root

RESULTS = Path(__file__).parent / "results"
ROUNDS = 3
SEGMENT_BYTES = 64 << 10
# Of a batch: no second one fits the segment.
VALUE_BYTES = 33_000
START_NS = 1_600_000_000_000_000_000
PARTITIONS_A_TOPIC = 100
TOPIC = "topic-%04d"
LONG = "long"

NOTES = """\
Medians of {rounds} processes, each of which opens the store anew; the files are in the page cache. "Again" is
in a process that has done it before. The floor is one `stat` of each file or directory that has to be looked
at, from Python. The background spreads a look that finds nothing to do over time: it takes one part in 2,000
of what lies between two passes.
"""


def status(name: str) -> int:
    """Bytes, of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    return 0


def kept() -> tuple[int, int, int]:
    """RssAnon, descriptors, maps."""
    with open("/proc/self/maps", "rb") as maps:
        count = sum(1 for _ in maps)
    return status("RssAnon"), len(os.listdir("/proc/self/fd")), count


@dataclass(frozen=True)
class Work:
    """What is timed.

    begin: prepares it, off the clock, and returns what does it.
    floor: what of the store has a stat of its own; "": there is none.
    """

    key: str
    title: str
    store: str
    begin: Callable[[str, "Sizes"], Callable[[], Any]]
    floor: str = ""


@dataclass(frozen=True)
class Sizes:
    partitions: int
    segments: int


WORKS: list[Work] = []
_open: list[Any] = []


def opened(path: str, **options: Any) -> pystream.Store:
    """A store that is closed at the end of the process, off the clock."""
    store = pystream.open(path, **({"maintenance": False} | options))
    _open.append(store)
    return store


def work(
    title: str, store: str, floor: str = ""
) -> Callable[[Callable[[str, Sizes], Callable[[], Any]]], Callable[[str, Sizes], Callable[[], Any]]]:
    def enter(begin: Callable[[str, Sizes], Callable[[], Any]]) -> Callable[[str, Sizes], Callable[[], Any]]:
        WORKS.append(Work(begin.__name__, title, store, begin, floor))
        return begin

    return enter


def doing(does: Callable[[pystream.Store], Any], path: str, *, before: bool = False) -> Callable[[], Any]:
    store = opened(path)
    if before:
        does(store)
    return lambda: does(store)


# ---- many partitions --------------------------------------------------------------------------------------


@work("open the store", "many")
def open_many(path: str, sizes: Sizes) -> Callable[[], Any]:
    return lambda: opened(path)


@work("list its topics", "many", "topics")
def list_many(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: list(store.topics()), path)


@work("describe a topic of 100 partitions", "many")
def describe_many(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.topic(TOPIC % 0).stats(), path)


@work("`store.stats()`", "many", "partitions")
def stats_many(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.stats(), path)


@work("`store.stats()` again", "many", "partitions")
def stats_again(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.stats(), path, before=True)


@work("`store.maintain()`, nothing to do", "many", "partitions")
def maintain_many(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.maintain(), path)


@work("read the last record of every partition", "many", "partitions")
def read_many(path: str, sizes: Sizes) -> Callable[[], Any]:
    def read(store: pystream.Store) -> None:
        for topic in map(store.topic, store.topics()):
            for index in range(topic.partitions):
                assert len(list(topic.partition(index).tail(1))) == 1

    return doing(read, path)


@work("append to every partition", "many", "partitions")
def append_many(path: str, sizes: Sizes) -> Callable[[], Any]:
    def append(store: pystream.Store) -> None:
        for topic in map(store.topic, store.topics()):
            for index in range(topic.partitions):
                topic.partition(index).append([b"one more"])

    return doing(append, path)


# ---- many segments ----------------------------------------------------------------------------------------


@work("open the store", "long")
def open_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    return lambda: opened(path)


@work("open the partition, append", "long")
def append_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.topic(LONG).append([b"one more"]), path)


@work("its first record", "long")
def first_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.topic(LONG).partition(0)[0].value, path)


@work("the record in the middle", "long")
def middle_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.topic(LONG).partition(0)[sizes.segments // 2].value, path)


@work("the last record", "long")
def last_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: list(store.topic(LONG).partition(0).tail(1)), path)


@work("a record of every segment", "long", "segments")
def every_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    def read(store: pystream.Store) -> None:
        partition = store.topic(LONG).partition(0)
        for offset in range(0, sizes.segments, 10):
            partition[offset].value  # noqa: B018

    return doing(read, path)


@work("`store.stats()`", "long", "segments")
def stats_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.stats(), path)


@work("`store.maintain()`, nothing to do", "long", "segments")
def maintain_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    return doing(lambda store: store.maintain(), path)


@work("a segment more, kept to a bound", "long")
def roll_long(path: str, sizes: Sizes) -> Callable[[], Any]:
    """What retention does for each new segment, once it knows the others."""
    store = opened(path)
    topic = store.topic(LONG)
    topic.alter(retention_bytes=sizes.segments * VALUE_BYTES)
    store.maintain()

    def roll() -> None:
        topic.append([bytes(VALUE_BYTES)])
        store.maintain()

    roll()
    return roll


# ---- measuring --------------------------------------------------------------------------------------------


def measured(key: str, path: str, sizes: Sizes, out: Any) -> None:
    task = next(task for task in WORKS if task.key == key)
    do = task.begin(path, sizes)
    before = kept()
    began = time.perf_counter()
    do()
    seconds = time.perf_counter() - began
    out.send((seconds, [after - start for after, start in zip(kept(), before, strict=True)]))
    for store in _open:
        store.close()


def in_a_process(function: Callable[..., None], *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=function, args=(*arguments, there))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def floors(root: Path) -> dict[str, float]:
    """A stat of each, in seconds."""
    many, long = root / "many/topics", root / "long/topics" / LONG / "0"
    names = {
        "topics": [f"{many}/{topic}/topic.json" for topic in os.listdir(many)],
        "partitions": [
            f"{many}/{topic}/{entry}" for topic in os.listdir(many) for entry in os.listdir(many / topic)
        ],
        "segments": [f"{long}/{name}" for name in os.listdir(long) if name.endswith(".log")],
    }
    found = {}
    for key, paths in names.items():
        began = time.perf_counter()
        for path in paths:
            os.stat(path)
        found[key] = time.perf_counter() - began
    return found


def make(root: Path, sizes: Sizes) -> None:
    """The stores."""
    with pystream.open(root / "many", maintenance=False) as store:
        for number in range(sizes.partitions // PARTITIONS_A_TOPIC):
            topic = store.topic(
                TOPIC % number,
                create=True,
                partitions=PARTITIONS_A_TOPIC,
                segment_bytes=SEGMENT_BYTES,
                retention_bytes="1GiB",
                retention="9000d",
            )
            for index in range(PARTITIONS_A_TOPIC):
                topic.partition(index).append([b"a", b"b"])
    with pystream.open(root / "long", maintenance=False) as store:
        topic = store.topic(LONG, create=True, segment_bytes=SEGMENT_BYTES, retention="9000d")
        value = bytes(VALUE_BYTES)
        for _ in range(sizes.segments):
            topic.append([value], timestamps=START_NS)


def expire(root: Path, sizes: Sizes) -> dict[str, Any]:
    """All but the last segments are too old: the backlog is worked off in steps."""
    steps: list[float] = []
    with pystream.open(root / "long", maintenance=False) as store:
        store.topic(LONG).alter(retention="1h", retention_bytes=None)
        last = began = time.perf_counter()

        def note(_: object) -> None:
            nonlocal last
            now = time.perf_counter()
            steps.append(now - last)
            last = now

        report = store.maintain(progress=note)
        seconds = time.perf_counter() - began
    return {
        "segments": report.segments_removed,
        "seconds": seconds,
        "step_median": statistics.median(steps),
        "step_max": max(steps),
    }


def text(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.2f} s"
    return f"{seconds * 1e3:,.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.0f} µs"


def table(facts: dict[str, str], sizes: Sizes, rows: list[dict[str, Any]], backlog: dict[str, Any]) -> str:
    """Markdown."""
    out = "".join(f"- {key}: {value}\n" for key, value in facts.items())
    for store, title in (
        ("many", f"{sizes.partitions:,} partitions in {sizes.partitions // PARTITIONS_A_TOPIC:,} topics"),
        ("long", f"one partition of {sizes.segments:,} segments"),
    ):
        out += f"\n## {title[0].upper()}{title[1:]}\n\n"
        out += "| | time | floor | memory | descriptors | maps |\n|---|--:|--:|--:|--:|--:|\n"
        for row in rows:
            if row["store"] == store:
                floor = "" if row["floor"] is None else text(row["floor"])
                memory, descriptors, maps = row["kept"]
                out += (
                    f"| {row['title']} | {text(row['seconds'])} | {floor} | {memory / 2**20:.1f} MiB "
                    f"| {descriptors:,} | {maps:,} |\n"
                )
    out += (
        f"\nA backlog: {backlog['segments']:,} expired segments are gone after {text(backlog['seconds'])}, "
        f"in steps of {text(backlog['step_median'])} (median), {text(backlog['step_max'])} (longest).\n\n"
    )
    return out + NOTES.format(rounds=ROUNDS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a hundredth of everything")
    options = parser.parse_args()
    sizes = Sizes(200, 1000) if options.quick else Sizes(10_000, 100_000)
    root = Path(tempfile.mkdtemp(prefix="scale-", dir=disk_root()))
    try:
        make(root, sizes)
        floor = floors(root)
        floor = {key: min(floor[key], again) for key, again in floors(root).items()}
        rows = []
        for task in WORKS:
            found = [in_a_process(measured, task.key, str(root / task.store), sizes) for _ in range(ROUNDS)]
            found.sort()
            seconds, grown = found[len(found) // 2]
            rows.append(
                {
                    "key": task.key,
                    "title": task.title,
                    "store": task.store,
                    "seconds": seconds,
                    "all_seconds": [each[0] for each in found],
                    "floor": floor.get(task.floor),
                    "kept": grown,
                }
            )
        result = table(machine.facts(str(root)), sizes, rows, backlog := expire(root, sizes))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(result)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        document = {"sizes": vars(sizes), "rows": rows, "backlog": backlog}
        (RESULTS / "scale.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "scale.md").write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main()
