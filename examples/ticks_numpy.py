"""Ticks into NumPy, with statistics while they come.

    python examples/ticks_numpy.py --ticks 2000000

A second process plays an exchange: it appends structured arrays of ticks, in bursts, to a topic whose
`dtype` they have. This process follows the topic. Each batch it gets is a NumPy array over the mapped file,
so that the statistics (count, last, high, low, volume-weighted average price, volatility) are made from
memory that nobody copied.

At the end the same figures are made once more from the whole log, and must be equal.
"""

import argparse
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

import pystream

SYMBOLS = np.array([b"AAA", b"BBB", b"CCC"], "S4")
TICK = np.dtype([("time", "M8[ns]"), ("symbol", "S4"), ("price", "f8"), ("size", "i4")])
OPENS_AT = np.datetime64("2024-05-02T13:30", "ns")
BURST = 5_000


def exchange(path: str, count: int, seed: int) -> None:
    """Append `count` ticks: each symbol's price is a random walk in whole cents."""
    random = np.random.default_rng(seed)
    cents = np.array([10_000, 25_000, 4_000])
    with pystream.open(path, create=False) as store:
        ticks = store.topic("ticks")
        for first in range(0, count, BURST):
            rows = np.zeros(min(BURST, count - first), TICK)
            which = random.integers(len(SYMBOLS), size=len(rows))
            rows["time"] = OPENS_AT + (first + np.arange(len(rows))) * 50_000
            rows["symbol"] = SYMBOLS[which]
            rows["size"] = random.integers(1, 500, len(rows))
            for index in range(len(SYMBOLS)):
                chosen = which == index
                walk = cents[index] + np.cumsum(random.integers(-1, 2, chosen.sum()))
                rows["price"][chosen] = walk / 100
                cents[index] = walk[-1] if len(walk) else cents[index]
            ticks.append(rows, timestamps=rows["time"])


class Statistics:
    """What is known of one symbol so far."""

    def __init__(self) -> None:
        self.count = self.shares = 0
        self.last = self.turnover = self.squares = 0.0
        self.high, self.low = -np.inf, np.inf

    def add(self, rows: npt.NDArray[np.void]) -> None:
        """Take ticks of this symbol into account, in order."""
        price, size = rows["price"], rows["size"]
        if not len(rows):
            return
        steps = np.diff(price, prepend=self.last if self.count else price[0])
        self.squares += float(steps @ steps)
        self.turnover += float(price @ size)
        self.shares += int(size.sum())
        self.high, self.low = max(self.high, float(price.max())), min(self.low, float(price.min()))
        self.last = float(price[-1])
        self.count += len(rows)

    def figures(self) -> tuple[int, float, float, float, float, float]:
        """Ticks, last, high, low, average price by volume, and the mean size of a step."""
        average = self.turnover / self.shares if self.shares else np.nan
        step = (self.squares / max(1, self.count - 1)) ** 0.5
        return self.count, self.last, self.high, self.low, average, step


def add_all(statistics: dict[bytes, Statistics], rows: npt.NDArray[np.void]) -> None:
    """Take a batch of ticks of all symbols into account."""
    for symbol, known in statistics.items():
        known.add(rows[rows["symbol"] == symbol])


def show(statistics: dict[bytes, Statistics], title: str) -> None:
    """Print a table."""
    print(f"{title}\n{'symbol':8}{'ticks':>10}{'last':>10}{'high':>10}{'low':>10}{'vwap':>11}{'step':>9}")
    for symbol, known in statistics.items():
        count, last, high, low, average, step = known.figures()
        name = symbol.decode()
        print(f"{name:8}{count:>10,}{last:>10.2f}{high:>10.2f}{low:>10.2f}{average:>11.4f}{step:>9.5f}")
    print(flush=True)


def follow(store: pystream.Store, count: int) -> dict[bytes, Statistics]:
    """Read `count` ticks as they come; every half second say where they stand."""
    statistics = {symbol: Statistics() for symbol in SYMBOLS.tolist()}
    seen, shown = 0, time.monotonic()
    with store.consumer("ticks", timeout=30) as consumer:
        for batch in consumer.batches():
            add_all(statistics, batch.array)
            seen += len(batch)
            if time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                show(statistics, f"after {seen:,} ticks, at {batch.array[-1]['time']}")
            if seen == count:
                break
    return statistics


def main() -> int:
    """Run both; 1 when the figures differ."""
    parser = argparse.ArgumentParser(description="Ticks into NumPy, with live statistics.")
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    if given.ticks < 1:
        parser.error("--ticks must be at least 1")
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "market.ps")
        with pystream.open(path) as store:
            ticks = store.topic("ticks", create=True, dtype=TICK)
            writer = get_context("spawn").Process(target=exchange, args=(path, given.ticks, given.seed))
            writer.start()
            live = follow(store, given.ticks)
            writer.join()
            show(live, f"all {given.ticks:,} ticks")
            again = {symbol: Statistics() for symbol in live}
            for rows in ticks.partition(0).arrays():
                add_all(again, rows)
    same = all(live[symbol].figures() == again[symbol].figures() for symbol in live)
    print("the whole log gives the same figures" if same else "the whole log gives OTHER figures")
    return not same or writer.exitcode != 0


if __name__ == "__main__":
    sys.exit(main())
