"""`pystream dump`: what it prints, for people and for programs, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import lives
import pystream
from harness import T0, Life, Snapshot, contents, quick_directory
from pystream import inspection
from pystream.inspected import Frame

pytest.importorskip("click")


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def dump(*arguments: object, columns: int = 80) -> Ran:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    result = subprocess.run(
        [sys.executable, "-m", "pystream", "dump", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**environment, "COLUMNS": str(columns), "TERM": "dumb"},
        check=False,
    )
    assert "Traceback" not in result.stderr
    return Ran(result.returncode, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        with pystream.open(directory / "s") as store:
            topic = store.topic(
                "clicks", create=True, partitions=2, segment_bytes=65536, index_interval_bytes=1024
            )
            for number in range(6):
                topic.append([b"v" * 5000] * 3, keys=[b"k", None, b""], timestamps=T0 + number, partition=0)
            topic.append([None, b"abc"], headers=[{"h": b"x"}, None], partition=1)
        yield directory / "s"


def frames_of(path: Path, partition: int = 0) -> list[Frame]:
    events = inspection.walk_partition(path / "topics/clicks" / str(partition))
    return [event for event in events if isinstance(event, Frame)]


@pytest.mark.parametrize("columns", [80, 100, 120, 160, 200])
def test_table(path: Path, columns: int) -> None:
    before = contents(path)
    ran = dump(path, "clicks", columns=columns)
    assert (ran.code, ran.err) == (0, "")
    assert contents(path) == before
    assert all(len(line) <= columns for line in ran.lines)
    assert ran.lines[0] == "topic clicks, partition 0"
    assert ran.lines[1].startswith("segment 00000000000000000000.log")
    titles = ran.lines[2].split()
    assert titles[:4] == ["position", "offset", "records", "codec"]
    assert ("durable" in titles) == (columns >= 140)
    assert ran.lines[3].split()[:5] == ["256", "0", "3", "none", f"{frames_of(path)[0].frame_bytes:,}"]
    assert "seal: 4 frames, ends at offset 12" in ran.out
    assert ran.lines[-1].startswith("3 segments, 7 frames, 20 records, ")
    assert ran.lines[-1].endswith("; no damage")
    assert "\x1b" not in ran.out


def test_records_of_a_range_are_those_within(path: Path) -> None:
    """Though the frame that holds them holds more."""
    ran = dump(path, "clicks", "-p", 0, "--json", "--records", "--from", 1, "--until", 2)
    assert [event["offset"] for event in ran.events if event["event"] == "record"] == [1]
    frames = [event for event in ran.events if event["event"] == "frame"]
    assert [(frame["base_offset"], frame["records"]) for frame in frames] == [(0, 3)]


def test_parts(path: Path) -> None:
    ran = dump(path, "clicks", "-p", 1, "--records")
    assert ran.code == 0
    assert "partition 0" not in ran.out
    assert [line.split("  ")[-1] for line in ran.lines[-5:-2]][1:] == [
        "key null, value null, 1 header",
        "key null, value 3 B",
    ]
    ran = dump(path, "clicks", "-p", 0, "--segment", 12, "--json")
    assert [event["base_offset"] for event in ran.events if event["event"] == "frame"] == [12, 15]
    ran = dump(path, "clicks", "-p", 0, "--from", 4, "--until", 7, "--json")
    assert [event["base_offset"] for event in ran.events if event["event"] == "frame"] == [3, 6]
    ran = dump(path, "clicks", "-p", 0, "--no-body", "--json")
    assert {event["body"] for event in ran.events if event["event"] == "frame"} == {"unchecked"}
    assert dump(path, "clicks", "-q").lines == dump(path, "clicks").lines[-1:]
    assert [event["event"] for event in dump(path, "clicks", "-q", "--json").events] == ["summary"]


def test_json(path: Path) -> None:
    ran = dump(path, "clicks", "--json", "--records", "--index", "--head")
    assert ran.code == 0
    kinds = [event["event"] for event in ran.events]
    assert set(kinds) == {
        *("segment", "frame", "record", "seal", "end", "head", "epoch", "index", "index_entry", "summary")
    }
    frames = [event for event in ran.events if event["event"] == "frame"]
    expected = [(0, frame) for frame in frames_of(path)] + [(1, frame) for frame in frames_of(path, 1)]
    assert [(event["partition"], event["position"], event["raw_bytes"]) for event in frames] == [
        (number, frame.position, frame.raw_bytes) for number, frame in expected
    ]
    assert all(event["topic"] == "clicks" for event in ran.events[:-1])
    assert all(event["sound"] for event in ran.events if "sound" in event)
    records = [event for event in ran.events if event["event"] == "record"]
    assert [record["offset"] for record in records] == [*range(18), 0, 1]
    assert [record["key_bytes"] for record in records[:3]] == [1, None, 0]
    assert ran.events[-1]["records"] == 20
    assert ran.events[-1]["damaged"] == 0


def test_damage(path: Path) -> None:
    snapshot = Snapshot(path)
    first, second, *_ = frames_of(path)
    name = "topics/clicks/0/00000000000000000000.log"
    snapshot.flip(name, first.position + 300)
    ran = dump(path, "clicks")
    assert ran.code == 1
    assert "BODY DAMAGED" in ran.lines[3]
    assert ran.lines[4] == "  ! offsets 0 to 2 cannot be read"
    assert ran.lines[-1].endswith("1 damaged place, 3 offsets that cannot be read")
    assert dump(path, "clicks", "--no-body").code == 0
    assert dump(path, "clicks", "-p", 1).code == 0
    quiet = dump(path, "clicks", "-q")
    assert quiet.lines == [ran.lines[3], ran.lines[4], ran.lines[-1]]
    snapshot.restore()
    snapshot.flip(name, second.position + 30)
    ran = dump(path, "clicks", "--json")
    assert ran.code == 1
    (damage,) = [event for event in ran.events if event["event"] == "damage"]
    assert damage == {
        "event": "damage",
        "topic": "clicks",
        "partition": 0,
        "segment": 0,
        "what": "no sound batch stands here",
        "position": second.position,
        "end": second.position + second.frame_bytes,
        "missing": [3, 6],
        "sound": False,
    }
    assert dump(path, "clicks").out.count("; offsets 3 to 5 cannot be read") == 1
    snapshot.restore()
    snapshot.flip("topics/clicks/0/00000000000000000000.index", 70)
    assert dump(path, "clicks").code == 0
    ran = dump(path, "clicks", "--index")
    assert ran.code == 1
    assert "! damaged" in ran.out
    snapshot.restore()
    snapshot.flip("topics/clicks/0/head", 10)
    ran = dump(path, "clicks", "--head")
    assert ran.code == 1
    assert "head  damaged" in ran.out
    snapshot.restore()


def test_files(path: Path) -> None:
    directory = path / "topics/clicks/0"
    ran = dump(directory / f"{0:020}.log")
    assert ran.code == 0
    assert ran.lines[-1].startswith("1 segment, 4 frames, 12 records")
    assert dump(directory / f"{0:020}.log", "--from", 3, "--until", 6, "--json").events[1]["base_offset"] == 3
    assert "head  sound" in dump(directory / "head").out
    assert "epoch 0  from offset 0" in dump(directory / "epochs").out
    assert "entries, one in 1.0 KiB" in dump(directory / f"{0:020}.index").out
    stranger = path.parent / "stranger"
    stranger.write_bytes(b"hello")
    ran = dump(stranger)
    assert ran.code == 1
    assert "its header is damaged" in ran.out
    assert dump(path / "store.json").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{s}/none", "clicks"], 3, "no pystream store there"),
        (["{s}"], 2, "which topic? {s} has: clicks"),
        (["{s}", "click"], 3, "no topic 'click' in {s}; it has: clicks"),
        (["{s}", "../topics"], 2, "topic name '../topics': '/' is not allowed"),
        (["{s}", "clicks", "-p", "2"], 2, "--partition 2: topic 'clicks' has partitions 0 to 1"),
        (["{s}", "clicks", "-p", "-1"], 2, "-1 is not in the range"),
        (["{s}", "clicks", "--segment", "5"], 2, "--segment 5: partition 0 has segments that begin at 0, 12"),
        (["{s}", "clicks", "--from", "7", "--until", "7"], 2, "--until 7 must be above --from 7"),
        (["{s}", "clicks", "--from", "x"], 2, "'x' is not a valid integer"),
        (["{s}", "clicks", "--records", "--no-body"], 2, "leave out --no-body"),
        (["{s}/store.json", "clicks"], 2, "is a file: a topic"),
        ([], 2, "Missing argument 'STORE|FILE'"),
    ],
)
def test_mistakes(path: Path, arguments: list[str], code: int, message: str) -> None:
    ran = dump(*(argument.format(s=path) for argument in arguments))
    assert ran.code == code
    assert message.format(s=path) in " ".join(ran.err.split())


def test_beside_a_writer(path: Path) -> None:
    with quick_directory() as directory:
        where = directory / "s"
        with lives.open_store(str(where), "mmap") as store:
            store.topic("t", create=True, segment_bytes=65536)
            life = Life(lives.append_for_ever, str(where), "mmap", 0, 0, 700, 3, 10**6)
            assert life.receive() == "ready"
            for _ in range(3):
                ran = dump(where, "t", "--head", "--index")
                assert ran.code == 0, ran.out
                assert ran.lines[-1].endswith("no damage; in use: up to the high watermark")
            life.kill()
            life.received()
            life.end()


def test_a_reader_that_goes_away(path: Path) -> None:
    command = f'"{sys.executable}" -m pystream dump "{path}" clicks --json --records | head -1'
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["event"] == "segment"
    assert result.stderr == ""
