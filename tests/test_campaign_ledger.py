"""The ledger of campaigns: what it counts and keeps, and which version of the code it names."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign import ledger, version
from campaign.ledger import FAILURES_MAX, LedgerError, Writer
from entries import CODE, OTHER, entry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


# ---- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "first", "last", "covered"),
    [
        ([], 1, 10, 0),
        ([(1, 10)], 1, 10, 10),
        ([(5, 7)], 1, 10, 3),
        ([(5, 7), (6, 8), (1, 2)], 1, 10, 6),
        ([(0, 4), (9, 20)], 1, 10, 6),
        ([(11, 20), (0, 0)], 1, 10, 0),
        ([(1, 100), (3, 4)], 1, 10, 10),
    ],
)
def test_seeds_that_were_tried_before(
    spans: list[tuple[int, int]], first: int, last: int, covered: int
) -> None:
    assert ledger.overlap(spans, first, last) == covered
    assert covered == len(set(range(first, last + 1)) & {n for a, b in spans for n in range(a, b + 1)})


def test_what_is_reached_adds_up_and_a_seed_counts_once_for_a_version() -> None:
    runs = [entry(first=1, last=100), entry(first=101, last=150)]
    assert ledger.reached(runs, "power") == 150
    assert ledger.reached(runs, "kill") == 0
    again = entry(first=51, last=200, run="again")
    assert ledger.reached([*runs, again], "power") == 200
    other = entry(first=51, last=200, digest=OTHER)
    assert ledger.reached([*runs, other], "power") == 300
    assert ledger.reached([*runs, other], "power", OTHER) == 150
    assert ledger.reached([*runs, other], "power", CODE.digest) == 150


def test_a_seed_may_stand_for_many_units() -> None:
    runs = [entry("kill", 1, 10, trials=1000), entry("kill", 6, 15, trials=2000, run="half of it again")]
    assert ledger.reached(runs, "kill") == 2000
    assert ledger.reached([entry("kill", 1, 0, trials=0)], "kill") == 0


def test_the_next_seed_is_behind_the_highest() -> None:
    assert ledger.next_seed([], "power") == 1
    runs = [entry(first=500, last=600), entry(first=1, last=100), entry("kill", 1, 9999)]
    assert ledger.next_seed(runs, "power") == 601
    assert ledger.is_known(runs, "power", CODE.digest, 600)
    assert not ledger.is_known(runs, "power", CODE.digest, 601)
    assert not ledger.is_known(runs, "power", OTHER, 600)


def test_details_add_up_but_for_maxima() -> None:
    into: dict[str, Any] = {}
    ledger.merge(
        into,
        {"cuts": 1, "deepest": 3, "moods": {"even": 1}, "mode": "a", "sure": True, "coverage": {"a": 2.5}},
    )
    ledger.merge(
        into,
        {
            "cuts": 2,
            "deepest": 2,
            "moods": {"even": 4, "all": 1},
            "mode": "b",
            "sure": True,
            "coverage": {"a": 2, "b": 1},
        },
    )
    assert into == {
        "cuts": 3,
        "deepest": 3,
        "moods": {"even": 5, "all": 1},
        "mode": "b",
        "sure": True,
        "coverage": {"a": 2.5, "b": 1},
    }


# ---- lines ----------------------------------------------------------------------------------------


def test_a_run_is_read_as_it_was_written(path: Path) -> None:
    runs = [entry(), entry("kill", 3, 7, failed=1, failures=[[5, "lost\u2026"]], details={"a": {"b": 1.5}})]
    path.write_text("".join(f"{each.as_line()}\n" for each in runs), encoding="utf-8")
    assert ledger.load(path) == runs
    assert ledger.load(path.with_name("none")) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.pop("seconds"), "missing or unknown: seconds"),
        (lambda data: data.update(colour="blue"), "missing or unknown: colour"),
        (lambda data: data.update(trials="12"), "trials is '12', of the wrong type"),
        (lambda data: data.update(trials=True), "trials is True, of the wrong type"),
        (lambda data: data.update(digest="xyz"), "digest is 'xyz'"),
        (lambda data: data.update(date="2026-01-31"), "date is '2026-01-31'"),
        (lambda data: data.update(machine=""), "machine is empty"),
        (lambda data: data.update(last=-1), "seeds 1 to -1 are no seeds"),
        (lambda data: data.update(last=0), "100 trials in 60.0 s with 0 seeds"),
        (lambda data: data.update(trials=-1), "-1 trials"),
        (lambda data: data.update(failed=1), "0 failures are listed of 1"),
        (lambda data: data.update(failed=1, failures=[["5", "x"]]), "is not a seed and a text"),
    ],
)
def test_a_malformed_line_is_refused(path: Path, spoil: Callable[[Any], Any], said: str) -> None:
    data = json.loads(entry().as_line())
    spoil(data)
    path.write_text(f"{entry(first=200, last=300).as_line()}\n{json.dumps(data)}\n")
    with pytest.raises(LedgerError, match=re.escape(f"{path}:2: ") + ".*" + re.escape(said)):
        ledger.load(path)


def test_a_ledger_that_was_cut_or_doubled_is_refused(path: Path) -> None:
    line = entry().as_line()
    for text, said in {
        line: "the last line is cut short",
        f"{line}\n{line}\n": "ledger.jsonl:2: run .* is there twice",
        f"{line[:50]}\n": "no JSON",
        "[]\n": "no JSON object",
    }.items():
        path.write_text(text)
        with pytest.raises(LedgerError, match=said):
            ledger.load(path)


def test_a_run_keeps_its_first_failures_and_counts_all() -> None:
    run = entry(last=0, trials=0)
    run.grow(30, 30, 1.0, [(seed, f"bad {'x' * 1000}") for seed in range(15)], {})
    run.grow(30, 30, 1.0, [(seed, "bad") for seed in range(15, 30)], {})
    assert (run.failed, len(run.failures), run.last, run.trials) == (30, FAILURES_MAX, 60, 60)
    assert len(run.failures[0][1]) == ledger.TEXT_MAX and run.failures[0][1].endswith("...")
    assert ledger.parse(run.as_line()) == run


# ---- writing --------------------------------------------------------------------------------------


def test_a_run_grows_in_its_place(path: Path) -> None:
    writer, run = Writer(path), entry("kill", 1, 5)
    writer.enter(run)
    writer.enter(entry())
    run.grow(5, 50, 60.0, [], {})
    writer.enter(run)
    assert [(each.test, each.last) for each in ledger.load(path)] == [("kill", 10), ("power", 100)]
    writer.close()


def write_for_ever(path: Path, name: str) -> None:
    writer, run = Writer(path), entry(name, 1, 1)
    while True:
        run.grow(1, 1, 0.1, [(run.last + 1, "x" * 200)], {})
        writer.enter(run)


def test_writers_that_are_killed_leave_a_whole_ledger(path: Path) -> None:
    """Two write at once; each death leaves whole lines, no lock, and all that the other one has entered."""
    context = multiprocessing.get_context("fork")
    last = {"a": 0, "b": 0}
    for _ in range(15):
        pair = [context.Process(target=write_for_ever, args=(path, name), daemon=True) for name in last]
        for process in pair:
            process.start()
        time.sleep(0.1)
        for process in pair:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        for each in ledger.load(path):
            last[each.test] = each.last
    assert min(last.values()) > 1
    assert {each.run for each in ledger.load(path)} == {entry("a", 1, 1).run, entry("b", 1, 1).run}


def test_a_malformed_ledger_is_not_written_over(path: Path) -> None:
    path.write_text("something else\n")
    writer = Writer(path)
    with pytest.raises(LedgerError, match="no JSON"):
        writer.enter(entry())
    with pytest.raises(LedgerError, match="is empty"):
        writer.enter(entry(command=""))
    assert path.read_text() == "something else\n"
    writer.close()


# ---- what was tried -------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one source of each kind, built."""
    for name in ("csrc/a.c", "csrc/a.h", "pyx/pystream/_native/log.pyx", "pystream/store.py", "docs/page.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1000, 1000))
    built = tmp_path / "pystream/_native/log.cpython-311-x86_64-linux-gnu.so"
    built.parent.mkdir()
    built.write_bytes(b"")
    return tmp_path


def test_the_digest_is_of_what_the_library_is_made_of(tree: Path) -> None:
    first = version.digest(tree)
    assert re.fullmatch(r"[0-9a-f]{12}", first)
    (tree / "docs/page.md").write_text("other words")
    assert version.digest(tree) == first
    (tree / "csrc/a.h").write_text("other")
    second = version.digest(tree)
    (tree / "csrc/a.h").rename(tree / "csrc/b.h")
    assert len({first, second, version.digest(tree)}) == 3


def test_sources_that_were_not_built_are_noticed(tree: Path) -> None:
    assert version.unbuilt(tree) == ""
    later = time.time() + 10
    os.utime(tree / "pystream/store.py", (later, later))
    assert version.unbuilt(tree) == "", "nothing is built of it"
    os.utime(tree / "csrc/a.h", (later, later))
    assert version.unbuilt(tree) == "csrc/a.h"
    (tree / "pyx/pystream/_native/new.pyx").write_text("")
    os.utime(tree / "csrc/a.h", (1000, 1000))
    assert version.unbuilt(tree) == "pyx/pystream/_native/new.pyx"


def test_version_and_machine_of_this_place(tree: Path) -> None:
    here = version.version()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", here.release)
    assert version.commit(tree) == "", "no repository of its own"
    assert version.filesystem("/proc") == "proc"
    assert re.fullmatch(r"Linux \S+, \w+, \d+ cores, \w+", version.machine(tree))
