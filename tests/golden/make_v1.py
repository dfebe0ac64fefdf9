"""Writes v1.zip, a store of format version 1, and v1.json, what it holds. Run once; both are kept for ever.

    python tests/golden/make_v1.py [DIRECTORY]

Needs a C compiler for make_gaps.c, which writes what the library reads but does not write yet.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import pystream

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
sys.path.insert(0, str(HERE.parent))

from harness import T0  # noqa: E402
from test_golden import described  # noqa: E402

DTYPE = np.dtype([("id", "<i8"), ("px", "<f8"), ("tag", "S3"), ("pair", "<i2", (2,))])
SMALL: dict[str, Any] = {"create": True, "segment_bytes": "64KiB", "index_interval_bytes": "1KiB"}


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def fill(store: pystream.Store) -> None:
    for compression in ("none", "lz4"):
        topic = store.topic(f"variable.{compression}", compression=compression, **SMALL)
        partition = topic.partition(0)
        partition.append([b"one record"])
        partition.append(
            [b"value", None, b"", b"\0" * 300, "é".encode()],
            keys=[b"key", b"", None, b"k" * 100, b"\xff"],
            headers=[
                None,
                [("a", b"1"), ("a", None), ("", b"")],
                {"é": "ü".encode()},
                [],
                [("h", b"h" * 200)],
            ],
            timestamps=[T0 + 5, T0, T0 + 9, T0 + 9, T0 + 1],
        )
        partition.append([None, None], timestamps=T0)
        partition.append([b"no time"] * 3, timestamps=np.full(3, "NaT", "M8[ns]"))
        partition.append([b"some"] * 2, timestamps=np.array([np.iinfo("i8").min, T0 + 20]))
        partition.append([b"x" * (i % 50) for i in range(1000)], timestamps=np.arange(1000) * 1000 + T0)

        fixed = store.topic(
            f"fixed.{compression}", compression=compression, value_bytes=16, key_bytes=4, **SMALL
        )
        fixed.append([noise(16), None, bytes(16)], keys=[b"abcd", None, b"efgh"], timestamps=T0)
        fixed.append(np.frombuffer(noise(16 * 500), "V16"), timestamps=np.arange(500)[::-1] + T0)

        ticks = store.topic(f"dtype.{compression}", compression=compression, dtype=DTYPE, **SMALL)
        rows = np.zeros(2000, DTYPE)
        rows["id"], rows["px"], rows["tag"] = np.arange(2000), np.arange(2000) / 8, b"NYC"
        ticks.append(rows[:1500], keys=[b"k%d" % (i % 3) for i in range(1500)], timestamps=T0)
        ticks.append(rows[1500:], timestamps=np.arange(500) + T0)

        rolled = store.topic(f"rolled.{compression}", compression=compression, **SMALL)
        for i in range(16):
            rolled.append([noise(9000 + i)], timestamps=T0 + i * 10**9)
            rolled.append([b"between %d" % i] * 20, timestamps=T0 + i * 10**9 + 5)

    empty = store.topic("empty", value_bytes=0, key_bytes=0, **SMALL)
    empty.append([b"", None, b""], keys=[None, b"", b""], timestamps=T0)
    store.topic("nothing", partitions=2, **SMALL).partition(1).append([])
    store.topic("clock", timestamp_type="append", **SMALL).append([b"a", b"b"])
    store.topic("synced", durability="sync", **SMALL).append([b"a", b"b"], timestamps=T0)

    wide = store.topic("wide", partitions=3, compression="lz4", **SMALL)
    with wide.producer(batch_records=40) as producer:
        for i in range(300):
            producer.send(
                b"record %d" % i, b"key-%d" % (i % 17), headers=[("n", b"%d" % i)], timestamp=T0 + i
            )


def add_gaps(path: Path, uuid: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        program = f"{scratch}/make_gaps"
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "liblz4", "libxxhash"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        sources = [str(HERE / "make_gaps.c"), *map(str, CSRC.glob("*.c"))]
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = ["-std=gnu11", "-O1", "-pthread", f"-I{CSRC}", "-o", program, *sources, *flags]
        subprocess.run([*compiler, *command], check=True)
        subprocess.run([program, str(path), "gaps", uuid], check=True)


def tear(path: Path) -> None:
    """A tail that was torn and cut, with the epoch it began; a writer that died, which nobody has mended."""
    with pystream.open(path) as store:
        store.topic("cut", **SMALL).append([b"durable"], timestamps=T0)
        store.topic("died", **SMALL).append([b"durable"], timestamps=T0)
    die(path, "cut", [b"whole", b"torn"], None)
    (segment,) = (path / "topics/cut/0").glob("*.log")
    data = bytearray(segment.read_bytes())
    data[data.rindex(b"torn")] ^= 1
    segment.write_bytes(data)
    with pystream.open(path) as store:
        store.topic("cut").append([b"after the cut"], timestamps=T0)
        assert store.topic("cut").partition(0)[1].value == b"whole"
    die(path, "died", [b"acknowledged", b"whole, and not acknowledged"], "append.header:2:kill")


def die(path: Path, name: str, values: list[bytes], fault: str | None) -> None:
    pid = os.fork()
    if pid == 0:
        store = pystream.open(path)
        store._handle.arm(fault)
        for value in values:
            store.topic(name).append([value], timestamps=T0)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "v1"
        with pystream.open(path) as store:
            fill(store)
            uuid = store.topic("gaps", **SMALL).uuid.hex
        add_gaps(path, uuid)
        tear(path)
        with zipfile.ZipFile(target / "v1.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for file in sorted(path.rglob("*")):
                if file.is_dir():
                    archive.mkdir(f"{file.relative_to(path)}/")
                else:
                    archive.writestr(str(file.relative_to(path)), file.read_bytes())
        with pystream.open(path) as store:
            document = {name: described(store.topic(name)) for name in store.topics()}
    text = json.dumps(document, indent=1, sort_keys=True)
    (target / "v1.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
