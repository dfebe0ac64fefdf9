"""`pystream backup`: what it prints, its exit codes, interrupts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pystream
from backups import backup_of, content, leftovers
from commands import altered, in_terminal, pystream_
from harness import quick_directory

pytest.importorskip("click")


@pytest.fixture
def here() -> Iterator[Path]:
    with quick_directory() as directory:
        with pystream.open(directory / "s") as store:
            clicks = store.topic("clicks", create=True, partitions=2)
            clicks.append([b"one", b"two"], partition=0)
            store.topic("ticks", create=True).append([b"tick"])
        yield directory


def test_made_and_made_again(here: Path) -> None:
    before = sorted(os.listdir(here / "s"))
    first = pystream_("backup", here / "s", here / "b")
    assert (first.returncode, first.stderr) == (0, "")
    lines = first.stdout.splitlines()
    assert lines[0] == "3 records in 3 partitions of 2 topics"
    assert lines[1].split(",")[0].endswith(" copied")
    assert lines[2] == f"to restore, open a copy of it: cp -r {here / 'b'} NEW-STORE"
    again = pystream_("backup", here / "s", here / "b")
    assert again.stdout.splitlines()[1].startswith("0 B copied, ")
    assert "linked from the last backup" in again.stdout
    assert sorted(os.listdir(here / "s")) == before
    with pystream.open(here / "s", "r") as store:
        assert backup_of(here / "b") == content(store)
    assert pystream_("verify", here / "b").stdout.splitlines()[-1].endswith("everything is sound")
    assert pystream_("consume", here / "b", "ticks").stdout == "tick\n"


def test_the_command_that_restores_can_be_pasted(here: Path) -> None:
    """Whatever the path is, what comes of it is a store of its own."""
    (here / "link").symlink_to("linked")
    for name in ("with space", "-dash", "link", "it's"):
        result = pystream_("backup", here / "s", "--", name, cwd=here)
        assert result.returncode == 0, result.stderr
        command = result.stdout.splitlines()[-1].partition(": ")[2].replace("NEW-STORE", "new")
        subprocess.run(command, shell=True, check=True, cwd=here)
        assert backup_of(here / "new") == backup_of(here / name) and not (here / "new").is_symlink()
        shutil.rmtree(here / "new")


def test_json_and_quiet(here: Path) -> None:
    result = pystream_("backup", here / "s", here / "b", "--json")
    found = json.loads(result.stdout)
    assert (found["path"], found["source"]) == (str(here / "b"), str(here / "s"))
    assert (found["records"], found["topics"], found["incremental"], found["left_out"]) == (3, 2, False, [])
    assert result.stderr == ""
    result = pystream_("backup", here / "s", here / "b", "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_refused(here: Path) -> None:
    for arguments, code, words in (
        ((here / "s", here / "s"), 2, "this is the store itself"),
        ((here / "s", here / "s/b"), 2, "is inside the store"),
        ((here / "none", here / "b"), 3, "does not exist"),
        ((here / "s", here / "none/b"), 3, "its parent directory"),
        ((here / "s",), 2, "Missing argument 'DEST'"),
        ((here / "s", ""), 2, "DEST': is empty"),
        (("", here / "b"), 2, "STORE': is empty"),
    ):
        result = pystream_("backup", *arguments)
        assert (result.returncode, result.stdout) == (code, ""), result.stderr
        assert words in result.stderr
    assert sorted(os.listdir(here)) == ["s"]
    log = here / "s/topics/clicks/0/00000000000000000000.log"
    data = bytearray(log.read_bytes())
    data[data.index(b"onetwo")] ^= 1
    log.write_bytes(data)
    result = pystream_("backup", here / "s", here / "b")
    assert result.returncode == 3 and "Traceback" not in result.stderr
    assert "`pystream verify` says what is damaged" in result.stderr or "clicks" in result.stderr
    assert sorted(os.listdir(here)) == ["s"]


def test_a_full_disk(here: Path) -> None:
    pystream_("backup", here / "s", here / "b")
    with pystream.open(here / "s") as store:
        store["ticks"].append([b"more"])
        environment = os.environ | {"PYSTREAM_FAULT": "pwrite:1:errno=28:99"}
        result = pystream_("backup", here / "s", here / "b", env=environment)
        assert result.returncode == 3
        assert "No space left on device" in result.stderr and str(here) in result.stderr
        assert leftovers(here) == []
        assert len(backup_of(here / "b")["ticks", 0]) == 1
        assert pystream_("backup", here / "s", here / "b").returncode == 0
        assert backup_of(here / "b") == content(store)


SLOWLY = """
import time
from pystream.backups import partitions
real = partitions.Copies._copy_part
def copy(self, part):
    print("begun\\n", end="", flush=True)
    while not self._stop: time.sleep(0.01)
    real(self, part)
partitions.Copies._copy_part = copy
"""


def test_interrupted(here: Path) -> None:
    pystream_("backup", here / "s", here / "b")
    script = f"{SLOWLY}\nfrom pystream.__main__ import main\nmain()"
    command = [sys.executable, "-c", script, "backup", str(here / "s"), str(here / "b")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert leftovers(here) == []
    with pystream.open(here / "s", "r") as store:
        assert backup_of(here / "b") == content(store)


def test_a_bar_in_a_terminal(here: Path) -> None:
    code, lines = in_terminal("backup", here / "s", here / "b")
    assert code == 0
    assert any("copying" in line for line in lines)
    assert any("3 records in 3 partitions" in line for line in lines)


def test_a_topic_that_is_deleted_meanwhile(here: Path) -> None:
    code = """
import pystream
from pystream.backups import partitions
real = partitions.Copies.run
def run(self):
    with pystream.open(self._store.path) as store:
        store.delete_topic("ticks")
    real(self)
partitions.Copies.run = run
"""
    result = altered(code, "backup", here / "s", here / "b")
    assert result.returncode == 0, result.stderr
    assert "left out: topic 'ticks', which was deleted meanwhile" in result.stdout
