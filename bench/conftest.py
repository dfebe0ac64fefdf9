"""What every benchmark has: the floors, a directory on a disk, machine facts without names."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import machine
from floors.build import load
from race import Track

ROOT = Path(__file__).parent.parent


def scratch_root() -> Path:
    """Where stores are made: PYSTREAM_BENCH_DIR, or build/; it should lie on a real disk."""
    root = Path(os.environ.get("PYSTREAM_BENCH_DIR") or ROOT / "build")
    root.mkdir(parents=True, exist_ok=True)
    return root


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.clear()
    machine_info.update(machine.facts(str(scratch_root())))


def pytest_benchmark_update_commit_info(config, commit_info):
    commit_info.clear()


@pytest.fixture(scope="session")
def floors():
    """The native module of the floors, built if need be."""
    return load()


@pytest.fixture(scope="session")
def shelf():
    """A directory for stores that several benchmarks read."""
    path = tempfile.mkdtemp(prefix="bench-", dir=scratch_root())
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def track(benchmark, floors):
    path = tempfile.mkdtemp(prefix="bench-", dir=scratch_root())
    track = Track(benchmark, floors, path)
    yield track
    track.end()
    shutil.rmtree(path, ignore_errors=True)
