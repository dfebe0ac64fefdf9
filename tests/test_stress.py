"""A short stress of the library as it is, and one of a library that was broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import LONG
from stress.edits import MUTATIONS, Mutation
from stress.mutations import MutationError, edited

ROOT = Path(__file__).resolve().parent.parent


def stress(*words: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run it in a process that has no thread and no store of ours: it forks."""
    return subprocess.run(
        [sys.executable, "-m", "tests.stress", *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


def verdicts(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.returncode in (0, 1), result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.timeout(3600)
def test_two_hundred_kills_and_no_anomaly(tmp_path: Path) -> None:
    seconds, kills = (1200, 4000) if LONG else (50, 200)
    words = f"--seconds {seconds} --round 20 --kills {kills} --seed 7 --json --directory {tmp_path}"
    found = verdicts(stress(*words.split()))
    assert [(verdict["seed"], verdict["anomalies"]) for verdict in found if verdict["counts"]] == []
    done = {word: sum(verdict["done"].get(word, 0) for verdict in found) for word in found[0]["done"]}
    for word, least in {
        "kill": kills,
        "stop": 10,
        "forked": 20,
        "hold": 10,
        "assigned": 10,
        "commit": 50,
        "tidied": 10,
        "removed": 1000,
        "processes": 30,
        "records": 2000,
        "acknowledged": 2000,
        "read": 2000,
        "segments": 50,
    }.items():
        assert done[word] >= least, f"hardly anything happened: {done}"
    assert list(tmp_path.iterdir()) == []


def test_a_broken_library_is_found_out(tmp_path: Path) -> None:
    """The whole way, from an edit to the verdict, with an edit that needs no compiler."""
    (mutation,) = [mutation for mutation in MUTATIONS if mutation.name == "forget-marks"]
    shutil.copytree(ROOT / "pystream", tmp_path / "pystream")
    shutil.copytree(ROOT / "tests/stress", tmp_path / "tests/stress")
    for edit in mutation.edits:
        (tmp_path / edit.file).write_text(edited(ROOT / edit.file, edit), encoding="utf-8")
    words = f"--seconds 60 --round 8 --seed 1 --cast {mutation.cast} --first --json --directory {tmp_path}"
    *sound, broken = verdicts(stress(*words.split(), root=tmp_path))
    assert all(verdict["counts"] == {} for verdict in sound)
    assert Path(broken["library"]).is_relative_to(tmp_path)
    assert broken["counts"].keys() & mutation.kinds
    assert any(kind in mutation.kinds for kind, _ in broken["anomalies"])
    assert len(list(tmp_path.glob("pystream-stress-*/histories/*.history"))) > 5, "what shows it is kept"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutations_have_their_place_in_the_sources(mutation: Mutation) -> None:
    for edit in mutation.edits:
        assert edited(ROOT / edit.file, edit) != (ROOT / edit.file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("times", "text"), [(0, "one\n"), (2, "two\ntwo\n")])
def test_a_mutation_that_has_no_single_place_is_refused(tmp_path: Path, times: int, text: str) -> None:
    (tmp_path / "source").write_text(text)
    edit = MUTATIONS[0].edits[0]._replace(old="two\n", new="")
    with pytest.raises(MutationError, match=f"{times} times, not once"):
        edited(tmp_path / "source", edit)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--cast nobody", "'nobody' is nobody; there are log, race, groups, upkeep, appender=N"),
        ("--cast log=2", "'log=2' is nobody"),
        ("--seconds soon", "'soon' is not a time such as 90, 90s, 10m or 2h"),
    ],
)
def test_what_cannot_be_run_is_refused(words: str, said: str) -> None:
    result = stress(*words.split())
    assert result.returncode == 2
    assert said in result.stderr
