"""Streaming takes no more memory however much is streamed; the full form is bench/growth.py."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEMORY = Path(__file__).parent.parent / "bench/memory.py"
LIMIT_BYTES = 64 << 20
BUFFER_BYTES = 32 << 20


def stream(root: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(MEMORY), "--root", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("width", [1000, 100_000])
def test_a_gigabyte_goes_through_a_producer_and_a_consumer(tmp_path, width):
    found = stream(tmp_path, "--gb", "1", "--values", str(width))
    assert found["bytes"] == pytest.approx(1e9, rel=0.02)
    assert found["peak_bytes"] < LIMIT_BYTES
    course = [held for _, held in found["course"]]
    # And it does not grow slowly: the second half of the way needs what the first half did, but for the
    # producer's buffer, which may be full for the first time late on the way.
    first, second = course[: len(course) // 2], course[len(course) // 2 :]
    assert max(second) < max(*first, found["before_bytes"] + BUFFER_BYTES) + (4 << 20)
    assert not list(tmp_path.iterdir())


def test_memory_that_is_kept_is_seen(tmp_path):
    found = stream(tmp_path, "--gb", "0.1", "--keep")
    assert found["peak_bytes"] > LIMIT_BYTES
    assert found["peak_bytes"] - found["before_bytes"] > 90e6
