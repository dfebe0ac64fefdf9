"""The guard against slowing down: that it counts and sees what has grown; and its short form."""

from __future__ import annotations

import copy
import ctypes
import mmap
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """bench/instructions.py, whose neighbours are found as they are when it is run."""
    sys.path.insert(0, str(BENCH))
    try:
        import instructions

        yield instructions
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def gauge(bench: ModuleType) -> ModuleType:
    module: ModuleType = bench.gauge
    module.build()
    return module


ENVIRONMENT = {"instrument": "callgrind", "compiler": "GCC: (X) 12.2.0", "python": "3.11.7"}


def found(bench: ModuleType, **changes: float) -> dict[str, Any]:
    """What a run finds: three paths, whose counts are multiplied by `changes`."""
    counts = {bench.REFERENCE: 500.0, "send": 400.0, "append": 11_000.0}
    for name, factor in changes.items():
        counts[bench.REFERENCE if name == "reference" else name] *= factor
    runs = [{"environment": dict(ENVIRONMENT), "counts": counts}] * 3
    made: dict[str, Any] = bench.recording(runs)
    return made


def grown(verdict: Any) -> list[str]:
    return [line.name for line in verdict.grown]


# ---- what it makes of counts ----------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "wrong"), [(1.06, ["send"]), (1.04, []), (1.0, []), (0.5, [])])
def test_a_path_that_takes_more_than_the_limit_has_grown(bench, factor, wrong):
    verdict = bench.compare(found(bench, send=factor), [found(bench)])
    assert grown(verdict) == wrong
    assert verdict.differs == ()
    assert {line.name: line.growth for line in verdict.lines}["send"] == pytest.approx(factor - 1)


def test_what_python_itself_takes_makes_no_allowance_where_nothing_else_has_changed(bench):
    """In an environment that is known, the growth of the reference is growth."""
    verdict = bench.compare(found(bench, reference=1.2, send=1.2), [found(bench)])
    assert grown(verdict) == [bench.REFERENCE, "send"]


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"send": 1.45}, []),
        ({"send": 1.55}, ["send"]),
        ({"reference": 1.4, "send": 1.9}, []),
        ({"reference": 1.4, "send": 2.2}, ["send"]),
        # Faster Python does not make the rest slow.
        ({"reference": 0.5, "send": 1.0}, []),
        ({"reference": 0.5, "send": 1.6}, ["send"]),
    ],
)
def test_another_environment_has_wider_limits(bench, changes, wrong):
    now = found(bench, **changes)
    now["environment"]["compiler"] = "clang version 16.0.0"
    verdict = bench.compare(now, [found(bench)])
    assert verdict.differs == ("compiler",)
    assert grown(verdict) == wrong


def test_the_most_alike_recording_is_taken(bench):
    other, far = found(bench, send=2.0), found(bench, send=3.0)
    other["environment"]["compiler"] = "another"
    far["environment"].update(compiler="another", python="3.13.0")
    now = found(bench)
    assert bench.compare(now, [far, other, found(bench)]).differs == ()
    assert bench.compare(now, [far, other]).differs == ("compiler",)
    assert bench.compare(now, [far]).differs == ("compiler", "python")


def test_counts_of_another_instrument_are_not_compared(bench):
    by_counter = found(bench)
    by_counter["environment"]["instrument"] = "perf"
    verdict = bench.compare(found(bench, send=9.0), [by_counter])
    assert verdict.differs is None
    assert not verdict.grown
    assert "--write" in bench.told(verdict, found(bench), {})


def test_paths_that_only_one_side_knows(bench):
    before, now = found(bench), found(bench)
    del before["counts"]["send"]
    del now["counts"]["append"]
    verdict = bench.compare(now, [before])
    assert not verdict.grown
    assert "Not recorded yet: send." in bench.told(verdict, now, {})


def test_the_table_shows_what_has_grown(bench):
    verdict = bench.compare(found(bench, append=1.25), [found(bench)])
    text = bench.table(verdict.lines, {"append": "record"})
    assert "| append | record | 11,000 | 13,750 | **+25.0%** | 0.00% | 5% |" in text.splitlines()
    assert "| send |  | 400 | 400 | +0.0% | 0.00% | 5% |" in text.splitlines()


def test_less_is_told_too(bench):
    now = found(bench, append=0.5)
    assert "1 take less" in bench.told(bench.compare(now, [found(bench)]), now, {})


def test_spread_is_that_of_the_repeats(bench):
    runs = [{"environment": ENVIRONMENT, "counts": {"send": count}} for count in (100.0, 103.0, 101.0)]
    made = bench.recording(runs)
    assert made["repeats"] == 3
    assert made["counts"]["send"] == {"instructions": 101.0, "spread": pytest.approx(3 / 101, abs=1e-5)}


# ---- its file --------------------------------------------------------------------------------------------


def real(bench: ModuleType, factor: float = 1.0) -> dict[str, Any]:
    counts = dict.fromkeys(bench.SHORT, 100.0 * factor)
    made: dict[str, Any] = bench.recording([{"environment": dict(ENVIRONMENT), "counts": counts}])
    return made


def test_a_recording_takes_the_place_of_the_last_of_its_environment(bench, tmp_path):
    path = tmp_path / "record.json"
    assert bench.read(path) == []
    bench.write(path, real(bench))
    elsewhere = copy.deepcopy(real(bench, 3.0))
    elsewhere["environment"]["compiler"] = "another"
    bench.write(path, elsewhere)
    part = real(bench, 2.0)
    for name in bench.SHORT[2:]:
        del part["counts"][name]
    bench.write(path, part)
    recordings = bench.read(path)
    assert len(recordings) == 2
    mine = next(one for one in recordings if one["environment"] == ENVIRONMENT)
    counts = {name: count["instructions"] for name, count in mine["counts"].items()}
    assert counts == dict.fromkeys(bench.SHORT, 100.0) | dict.fromkeys(bench.SHORT[:2], 200.0)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"recordings": [{"environment": {}}]}', '{"recordings": 3}']
)
def test_a_file_that_is_none_is_refused(bench, tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no recordings"):
        bench.read(path)


def test_every_path_is_recorded(bench):
    recordings = bench.read(bench.RECORD)
    assert recordings
    for one in recordings:
        assert one["counts"].keys() == bench.paths().keys()
        assert all(count["instructions"] > 0 for count in one["counts"].values())


# ---- counting itself --------------------------------------------------------------------------------------


def test_the_counter_of_the_system_counts_this_thread(gauge):
    """Of page faults, which every machine counts; it is the same call as for instructions."""
    counter = gauge.Counter(gauge.load(), faults=True)
    pages = 300
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    counter.begin()
    for page in range(pages):
        memory[page * mmap.PAGESIZE] = 1
    assert pages <= counter.end() < 2 * pages
    counter.begin()
    memory[0] = 2
    assert counter.end() < 50
    counter.close()
    with pytest.raises(OSError, match="could not be read"):
        counter.begin()


def test_who_has_no_counters_is_told(bench, gauge, monkeypatch):
    class Refusing:
        gauge_open: Callable[..., int] = staticmethod(lambda faults: -2)

    with pytest.raises(OSError, match="perf_event_open"):
        gauge.Counter(Refusing())
    monkeypatch.setattr(gauge, "load", Refusing)
    with pytest.raises(bench.CannotCount, match="the processor's counters cannot be had"):
        bench.instrument("perf")
    monkeypatch.setattr(bench.shutil, "which", lambda _: None)
    with pytest.raises(bench.CannotCount, match="apt-get install valgrind"):
        bench.instrument("auto")
    monkeypatch.setenv("CC", "/no/compiler")
    with pytest.raises(bench.CannotCount, match="/no/compiler"):
        bench.instrument("auto")


def test_a_program_that_valgrind_does_not_run_is_not_counted_by_it(gauge, tmp_path):
    assert isinstance(gauge.load(), ctypes.CDLL)
    with pytest.raises(OSError, match=r"valgrind/callgrind\.h"):
        gauge.gauge(tmp_path)


def test_unknown_paths_are_refused():
    done = subprocess.run(
        [sys.executable, str(BENCH / "instructions.py"), "no such path"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no path is called no such path; there are: a call" in done.stderr


def counts_here() -> bool:
    """Is there valgrind, or does the system lend its counters?"""
    if shutil.which("valgrind"):
        return True
    sys.path.insert(0, str(BENCH))
    try:
        import gauge

        gauge.Counter(gauge.load()).close()
    except OSError:
        return False
    finally:
        sys.path.remove(str(BENCH))
    return True


SLOWED = """
import counting, paths

class Slowed:  # what a careless layer would add
    def __init__(self, producer): self._producer = producer
    def send(self, value): return self._producer.send(value)

producer = paths.Site.producer
paths.Site.producer = lambda *a, **o: Slowed(producer(*a, **o))
counting.main()
"""


# Where neither the processor's counters nor valgrind can be had, there is nothing to count with.
if counts_here():

    def test_the_guard(bench, tmp_path, monkeypatch):
        """Nothing has grown since it was recorded. With `send` wrapped once more in Python it has, by more
        than is allowed in any environment."""
        how = bench.instrument("auto")
        before = bench.recording([bench.measure(how, bench.SHORT)])
        verdict = bench.compare(before, bench.read(bench.RECORD))
        units = {name: one.unit for name, one in bench.paths().items()}
        assert not verdict.grown, bench.told(verdict, before, units)

        # In the place of bench/counting.py, which it runs.
        (tmp_path / "counting.py").write_text(f"import sys\nsys.path[0] = {str(BENCH)!r}\n{SLOWED}")
        monkeypatch.setattr(bench, "HERE", tmp_path)
        after = bench.recording([bench.measure(how, [bench.REFERENCE, "`send`"])])
        assert after["environment"] == before["environment"]
        assert grown(bench.compare(after, [before])) == ["`send`"]
        before["environment"]["compiler"] = "another"
        assert grown(bench.compare(after, [before])) == ["`send`"]
