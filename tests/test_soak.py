"""The soak, for a few seconds: what is written at full speed to a topic of bounded size takes no more."""

from __future__ import annotations

import soak
from harness import LONG, quick_directory

SECONDS = 300 if LONG else 10


def test_a_bound_holds_at_full_speed() -> None:
    with quick_directory() as directory:
        verdict = soak.run(str(directory / "store"), SECONDS, bound=32 << 20, segment=4 << 20)
        assert verdict.is_sound, verdict
        assert verdict.written_bytes > 4 * verdict.used_bound


def test_a_bound_that_is_not_kept_is_noticed() -> None:
    with quick_directory() as directory:
        verdict = soak.run(str(directory / "store"), 1, bound=8 << 20, segment=1 << 20, maintained=False)
        assert any("the records of a partition took" in anomaly for anomaly in verdict.anomalies), verdict
