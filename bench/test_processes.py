"""Rows that need other processes: many partitions under a low limit of files, hand-over, import time."""

import json
import mmap
import os
import subprocess
import sys
import time

import pytest

import data
import pystream
from race import Row

PARTITIONS = data.scale("PARTITIONS", 1000)
HERE = os.path.dirname(__file__)

MANY = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
import pystream
began = time.perf_counter()
with pystream.open(sys.argv[1]) as store:
    topic = store["many"]
    partitions = [topic.partition(i) for i in range(topic.partitions)]
    ends = [partition.append([b"value"]) for partition in partitions]
    for partition, end in zip(partitions, ends):
        assert partition[end].value == b"value"
    print(time.perf_counter() - began)
"""

IMPORT = """
import time
import numpy
began = time.perf_counter()
import pystream
print(time.perf_counter() - began)
"""


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env=os.environ | environment,
    )
    if done.returncode:
        pytest.fail(done.stderr.strip())
    return json.loads(done.stdout)


@pytest.mark.parametrize("state", ["new", "old"])
def test_many_partitions(track, state):
    def make():
        path = track.path()
        with pystream.open(path) as store:
            store.topic("many", create=True, partitions=PARTITIONS, segment_bytes="64KiB")
        return path

    if state == "new":
        spent = [run(MANY, make()) for _ in range(3)]
    else:
        path = make()
        spent = [run(MANY, path) for _ in range(4)][1:]
    label, kind = {"new": ("make,", "none"), "old": ("open a store,", "below")}[state]
    row = Row(f"{label} append to and read {PARTITIONS:,} partitions with 1,024 descriptors", kind, 500, "ms")
    track.record(row, spent)


def test_import(track, tmp_path):
    # As an installed package is imported: its bytecode is there.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    run(IMPORT, **compiled)
    spent = [run(IMPORT, **compiled) for _ in range(11)]
    track.record(Row("`import pystream` after NumPy", "below", 30, "ms"), spent)


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
@pytest.mark.parametrize("mode", ["spinning", "blocking"])
def test_hand_over(track, floors, mode, held):
    """One process appends, another holds the batch; a bare word does the same in turn with it."""
    spinning = mode == "spinning"
    count = data.scale("HANDOVERS", 2000)
    store = track.opened(pystream.open(track.path()))
    partition = store.topic("hand", create=True).partition(0)
    partition.append([bytes(8)])
    hold = partition.exclusive() if held else None
    post_path = track.path()
    with open(post_path, "wb") as file:
        file.truncate(4096)
    with open(post_path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
        post = floors.Post(memory)
        command = [sys.executable, os.path.join(HERE, "peer.py"), floors.__file__]
        peer = subprocess.Popen(
            [*command, store.path, post_path, mode, str(count)], stdout=subprocess.PIPE, text=True
        )
        assert peer.stdout is not None
        assert peer.stdout.readline() == "ready\n"
        now = time.monotonic_ns
        append = partition.append
        for _ in range(count):
            pause(spinning)
            append([now().to_bytes(8, "little")])
            pause(spinning)
            post.send(not spinning)
        out, _ = peer.communicate(timeout=60)
        del post, hold
    assert peer.returncode == 0
    times = json.loads(out)
    work = "`append` to a consumer in another process" + ", partition held" * held
    if spinning:
        row = Row(f"{work}, spinning, p50", "below", 2, "us")
    else:
        row = Row(f"{work}, blocking, p99", "times", 1.5, "us", stat="p99")
    name = "a shared word, spinning" if spinning else "a bare futex"
    track.record(row, times["figure"], {name: times["floor"]})


def pause(spinning):
    """Long enough for the other side to wait again."""
    if not spinning:
        time.sleep(0.0005)
        return
    until = time.perf_counter() + 30e-6
    while time.perf_counter() < until:
        pass
