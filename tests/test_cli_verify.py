"""`pystream verify` and `pystream repair`: what they print, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import pystream
from commands import in_terminal, pystream_
from harness import T0, quick_directory

pytest.importorskip("click")


@pytest.fixture
def path() -> Iterator[Path]:
    """Two topics; the first partition of one of them has three batches."""
    with quick_directory() as directory:
        with pystream.open(directory / "s") as store:
            clicks = store.topic("clicks", create=True, partitions=2, index_interval_bytes=1024)
            for word in (b"one", b"two", b"three"):
                clicks.append([word * 100], timestamps=T0, partition=0)
            store.topic("ticks", create=True).append([b"tick"])
        yield directory / "s"


SEGMENT = "topics/clicks/0/00000000000000000000.log"


def flip(file: Path, word: bytes) -> None:
    """Turn over one bit where the word stands."""
    data = bytearray(file.read_bytes())
    data[data.index(word)] ^= 1
    file.write_bytes(data)


def test_sound(path: Path) -> None:
    result = pystream_("verify", path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:3] == [
        "clicks/0: 1 segment, 3 batches, 3 records, 256.0 KiB",
        "clicks/1: 0 segments, 0 batches, 0 records, 0 B",
        "ticks/0: 1 segment, 1 batch, 1 record, 256.0 KiB",
    ]
    assert result.stdout.splitlines()[-1].endswith("everything is sound")
    assert pystream_("verify", path, "-q").stdout == ""
    assert pystream_("verify", path, "ticks").stdout.startswith("ticks/0: 1 segment")
    assert "clicks/0" not in pystream_("verify", path, "clicks", "-p", 1).stdout


def test_damage_and_its_mending(path: Path) -> None:
    flip(path / SEGMENT, b"twotwo")
    result = pystream_("verify", path)
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[1] == (
        f"  damage: clicks/0, {SEGMENT}, 768 to 1,280: the body of a batch is damaged; offset 1 cannot be "
        "read; pystream repair mends it"
    )
    assert lines[2] == "  sound: 0, 2"
    assert lines[-1].endswith("damaged in 1 place")
    assert pystream_("verify", path, "-q").stdout.splitlines() == lines[1:3]
    assert pystream_("verify", path, "ticks").returncode == 0

    dry = pystream_("repair", path)
    assert (dry.returncode, dry.stderr) == (1, "")
    assert dry.stdout.splitlines() == [
        f"{SEGMENT}: write it anew from its sound batches; 1 offset becomes a gap",
        "nothing was done: --execute does it",
    ]
    assert pystream_("verify", path).returncode == 1
    done = pystream_("repair", path, "--execute")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"kept {SEGMENT}.1.damaged" in done.stdout
    assert "written down in repairs/" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("everything is sound")
    assert pystream_("consume", path, "clicks").stdout.split() == [b"one".decode() * 100, "three" * 100]
    dump = pystream_("dump", path, "clicks")
    assert (dump.returncode, dump.stdout.count("sound")) == (0, 3), dump.stdout
    again = pystream_("repair", path, "--execute")
    assert (again.returncode, again.stdout) == (0, "nothing to mend\n")
    assert pystream_("repair", path, "-q").stdout == ""


def test_for_programs(path: Path) -> None:
    flip(path / SEGMENT, b"twotwo")
    result = pystream_("verify", path, "clicks", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 1 and document["counts"]["damage"] == 1
    assert document["findings"][0]["offsets"] == [1, 2]
    assert document["partitions"][0]["sound"] == [[0, 1], [2, 3]]
    result = pystream_("repair", path, "--execute", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 0 and document["executed"] is True
    assert [one["kind"] for one in document["actions"]] == ["segment"]
    assert document["after"]["sound"] is True and document["before"]["sound"] is False


def test_what_cannot_be_mended(path: Path) -> None:
    flip(path / "topics/ticks/topic.json", b"uuid")
    flip(path / "topics/ticks/topic.json", b"version")
    result = pystream_("verify", path)
    assert result.returncode == 1 and "bring the file back from a copy" in result.stdout
    result = pystream_("repair", path, "--execute")
    assert result.returncode == 1
    assert result.stdout.startswith("cannot mend topics/ticks/topic.json: it is not what was written")


def test_what_cannot_be_checked(path: Path) -> None:
    from pystream import metadata

    file = path / "topics/ticks/topic.json"
    document = metadata.decode(file.read_bytes(), format="pystream topic", path="")
    file.write_bytes(metadata.encode({**document, "version": 9}))
    result = pystream_("verify", path)
    assert result.returncode == 3
    assert "unchecked: ticks, topics/ticks/topic.json: written in format version 9" in result.stdout
    assert result.stderr == "pystream: 1 file could not be checked\n"


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_refused(path: Path, command: str, tmp_path: Path) -> None:
    for arguments, code, words in (
        ([tmp_path], 3, "no pystream store there"),
        ([path, "clocks"], 3, "no topic 'clocks'"),
        ([path, "clicks", "-p", "2"], 2, "has partitions 0 to 1"),
        ([path, "-p", "0"], 2, "--partition needs a topic"),
        ([path, "a/b"], 2, "a/b"),
        ([], 2, "Missing argument 'STORE'"),
    ):
        result = pystream_(command, *arguments)
        assert (result.returncode, words in result.stderr) == (code, True), (arguments, result.stderr)
        assert result.stdout == ""
    assert pystream_("verify", path, "--threads", 0).returncode == 2


def test_in_use(path: Path) -> None:
    flip(path / SEGMENT, b"twotwo")
    with pystream.open(path):
        result = pystream_("verify", path)
        assert result.returncode == 1
        assert result.stdout.splitlines()[-1].endswith("in use: up to what had been published")
        result = pystream_("repair", path, "--execute")
        assert result.returncode == 3 and "the store is open in process" in result.stderr
    assert pystream_("repair", path, "--execute").returncode == 0


def test_in_a_terminal(path: Path) -> None:
    """With a bar that is gone in the end, and damage in red."""
    flip(path / SEGMENT, b"twotwo")
    code, lines = in_terminal("verify", path, columns=200)
    assert code == 1
    assert any("\x1b[31m" in line and "cannot be read" in line for line in lines)
