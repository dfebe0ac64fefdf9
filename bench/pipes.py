"""Lines through `pystream produce` and out of `pystream consume`, beside `cat`: python bench/pipes.py

For lines of several lengths, in turn, several rounds: `cat FILE | cat`, `cat FILE | pystream produce`,
`pystream consume | cat`. What comes out is compared byte by byte. Prints a Markdown table and writes it, with
every round, to bench/results/pipes.md and .json.

Environment: PYSTREAM_BENCH_PIPES_BYTES (1,000,000,000), PYSTREAM_BENCH_PIPES_ROUNDS (5), PYSTREAM_BENCH_DIR
(build/), where files and stores of twice that size are made, and deleted.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data
import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
TARGET = 1 / 3
LENGTHS = (16, 100, 1024)
BLOCK_BYTES = 8 << 20
PYSTREAM = [sys.executable, "-m", "pystream"]


def log_line(pick: random.Random, length: int) -> bytes:
    """A line as a web server would log it, of about `length` bytes with its newline."""
    if length < 40:
        return b"%d %s\n" % (
            pick.randrange(10**4),
            pick.choice((b"GET /a", b"PUT /index", b"GET /cart/item")),
        )
    head = b'10.%d.%d.%d [31/Jan/2026:12:%02d:%02d] "GET /shop/item/%d" %d ' % (
        *(pick.randrange(256) for _ in range(3)),
        pick.randrange(60),
        pick.randrange(60),
        pick.randrange(10**6),
        pick.choice((200, 200, 200, 304, 404, 500)),
    )
    rest = max(pick.randrange(length - length // 4, length + length // 4) - len(head) - 1, 0)
    return head + pick.randbytes(rest // 2 + 1).hex().encode()[:rest] + b"\n"


def write_lines(path: Path, length: int, size: int) -> int:
    """A file of at least `size` bytes of lines; how many."""
    pick = random.Random(data.SEED)
    block, lines, total = [], 0, 0
    while total < min(BLOCK_BYTES, size):
        block.append(log_line(pick, length))
        total += len(block[-1])
    text = b"".join(block)
    with open(path, "wb") as file:
        while file.tell() < size:
            file.write(text)
            lines += len(block)
    return lines


def seconds(*commands: list[str]) -> float:
    """How long a pipeline takes, its output thrown away."""
    began = time.perf_counter()
    source: Any = subprocess.DEVNULL
    running = []
    for i, command in enumerate(commands):
        last = i + 1 == len(commands)
        process = subprocess.Popen(
            command, stdin=source, stdout=subprocess.DEVNULL if last else subprocess.PIPE, cwd=ROOT
        )
        if source is not subprocess.DEVNULL:
            source.close()
        source = process.stdout
        running.append(process)
    for process in running:
        if process.wait() != 0:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
    return time.perf_counter() - began


def same_bytes(file: Path, store: Path) -> bool:
    with subprocess.Popen([*PYSTREAM, "consume", str(store), "lines"], stdout=subprocess.PIPE) as consumer:
        result = subprocess.run(["cmp", str(file), "-"], stdin=consumer.stdout, check=False)
    return result.returncode == 0 and consumer.returncode == 0


def measure(directory: Path, length: int, size: int, rounds: int) -> dict[str, Any]:
    file, store = directory / f"lines-{length}", directory / "store"
    lines = write_lines(file, length, size)
    produce = [*PYSTREAM, "produce", str(store), "lines", "--create"]
    consume = [*PYSTREAM, "consume", str(store), "lines"]
    cat_file = ["cat", str(file)]
    work: dict[str, Callable[[], float]] = {
        "cat": lambda: seconds(cat_file, ["cat"]),
        "produce": lambda: seconds(cat_file, produce),
        "consume": lambda: seconds(consume, ["cat"]),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        shutil.rmtree(store, ignore_errors=True)
        os.sync()  # what the last round left to write is not this one's
        for name, run in work.items():
            times[name].append(run())
    same = same_bytes(file, store)
    found = {
        "length": length,
        "lines": lines,
        "bytes": file.stat().st_size,
        "identical": same,
        "seconds": times,
    }
    shutil.rmtree(store)
    file.unlink()
    return found


def rate(result: dict[str, Any], name: str) -> float:
    """Median bytes a second."""
    return float(result["bytes"] / statistics.median(result["seconds"][name]))


def table(results: list[dict[str, Any]], start: float, facts: dict[str, str]) -> str:
    head = ("line", "lines", "work", "GB/s", "slowest .. fastest", "M lines/s", "of cat", "target", "met")
    names = {
        "cat": "cat to cat",
        "produce": "cat to pystream produce",
        "consume": "pystream consume to cat",
    }
    rows = [head]
    for result in results:
        for name, times in result["seconds"].items():
            speed = rate(result, name)
            ratio = speed / rate(result, "cat")
            spread = f"{result['bytes'] / max(times) / 1e9:.2f} .. {result['bytes'] / min(times) / 1e9:.2f}"
            goal = ("", "") if name == "cat" else (f"≥ {TARGET:.2f}", "yes" if ratio >= TARGET else "no")
            rows.append(
                (
                    f"{result['length']} B",
                    f"{result['lines'] / 1e6:.1f} M",
                    names[name],
                    f"{speed / 1e9:.2f}",
                    spread,
                    f"{result['lines'] / statistics.median(times) / 1e6:.1f}",
                    f"{ratio:.2f}",
                    *goal,
                )
            )
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    lines.insert(1, "|--:|--:|---|--:|--:|--:|--:|---|---|\n")
    identical = "yes" if all(result["identical"] for result in results) else "NO"
    said = "".join(f"- {name}: {fact}\n" for name, fact in facts.items())
    rounds = len(results[0]["seconds"]["cat"])
    return (
        f"{said}\n{''.join(lines)}\nRates are medians of the whole command in {rounds} rounds in turn, "
        f"of which the start of the interpreter and the opening of the store take {start:.2f} s. What came "
        f"out is byte for byte what went in: {identical}.\n"
    )


def main() -> None:
    size = data.scale("PIPES_BYTES", 10**9)
    rounds = data.scale("PIPES_ROUNDS", 5)
    scratch = Path(os.environ.get("PYSTREAM_BENCH_DIR") or ROOT / "build")
    scratch.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="pipes-", dir=scratch))
    try:
        results = [measure(directory, length, size, rounds) for length in LENGTHS]
        nothing = [*PYSTREAM, "produce", str(directory / "empty"), "lines", "--create"]
        start = statistics.median(seconds(nothing) for _ in range(rounds))
        facts = machine.facts(str(scratch))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = table(results, start, facts)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pipes.md").write_text(text, encoding="utf-8")
    report = {"machine": facts, "start_seconds": start, "results": results}
    (RESULTS / "pipes.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(text)
    if not all(result["identical"] for result in results):
        raise SystemExit("what came out is not what went in")


if __name__ == "__main__":
    main()
