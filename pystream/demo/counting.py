"""The same file counted by other code: the measure that what comes out of the log is held to.

Nothing here is shared with the way in but the opening of the file: rows are kept as text, counted with
dictionaries, and put in order by comparing the text of their hours.
"""

import csv
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from pystream.demo.flights import open_csv


@dataclass
class Counted:
    """What the CSV says. Days and months are New York's."""

    flights: int = 0
    by_carrier: Counter[str] = field(default_factory=Counter)
    by_day: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)  # cells that are NA, by column
    delay_minutes: Counter[int] = field(default_factory=Counter)  # sum of departure delays, by month
    delay_flights: Counter[int] = field(default_factory=Counter)  # flights that have one, by month
    other_utc_day: int = 0  # flights whose day in UTC is not their day in New York
    hours: dict[str, list[str]] = field(default_factory=dict)  # carrier -> time_hour of each, sorted
    digests: dict[str, str] = field(default_factory=dict)  # carrier -> digest of its rows in time order


def row_text(cells: list[str]) -> bytes:
    """A row as the digest takes it."""
    return "\x1f".join(cells).encode() + b"\n"


def count_csv(path: Path) -> Counted:
    """One pass of the csv module."""
    counted = Counted()
    rows: dict[str, list[tuple[str, int, bytes]]] = {}
    with open_csv(path) as text:
        reader = csv.DictReader(text)
        for number, row in enumerate(reader):
            carrier, hour, month = row["carrier"], row["time_hour"], int(row["month"])
            day = int(row["year"]), month, int(row["day"])
            cells = list(row.values())
            counted.flights += 1
            counted.by_carrier[carrier] += 1
            counted.by_day[day] += 1
            if "NA" in cells:
                counted.missing.update(name for name, cell in row.items() if cell == "NA")
            if row["dep_delay"] != "NA":
                counted.delay_minutes[month] += int(row["dep_delay"])
                counted.delay_flights[month] += 1
            counted.other_utc_day += hour[:10] != "{:04}-{:02}-{:02}".format(*day)
            rows.setdefault(carrier, []).append((hour, number, row_text(cells)))
    for carrier, of_carrier in rows.items():
        of_carrier.sort()
        counted.hours[carrier] = [hour for hour, _, _ in of_carrier]
        digest = blake2b(digest_size=16)
        for _, _, line in of_carrier:
            digest.update(line)
        counted.digests[carrier] = digest.hexdigest()
    return counted
