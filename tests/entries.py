"""Entries of a campaign's ledger, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from campaign.ledger import Entry
from campaign.version import Version

CODE = Version("1.2.0", "0123456789ab", "abc123")
OTHER = "ba9876543210"


def entry(test: str = "power", first: int = 1, last: int = 100, **more: Any) -> Entry:
    """A run of 100 seeds."""
    made = Entry(
        run=more.pop("run", f"{test}-{first}-{more.get('digest', '')}-{more.get('date', '')}"),
        test=test,
        release="1.2.0",
        digest=CODE.digest,
        commit="abc123",
        date="2026-01-31T12:00:00Z",
        machine="Linux 6.18, x86_64, 2 cores, tmpfs",
        command="python -m tests.campaign power",
        first=first,
        last=last,
        seconds=60.0,
        trials=last - first + 1,
    )
    return replace(made, **more)
