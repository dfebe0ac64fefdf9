"""Each call of the operating system fails in turn, in whole processes; and what errors then say."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

import pystream
from faults import calls, scenes
from harness import LONG

SCENES = sorted(scenes.SCENES)


@pytest.mark.timeout(1200)
def test_every_call_once() -> None:
    """Every call of every scene, errnos, modes and ways of storing in turn."""
    found = calls.run_once()
    assert not found["failures"], "\n\n".join(found["failures"][:10])
    assert {scene for scene, *_ in found["counts"]} == set(SCENES)
    assert found["trials"] > found["wanted"] * 0.8  # closes are spared
    assert found["wanted"] > 1000


def test_seeds_go_through_everything() -> None:
    """A campaign goes on where it stopped, and comes to all there is."""
    chosen = {calls.trial_of(seed) for seed in range(3 * len(calls._WAYS))}
    assert {one.nth for one in chosen} == {1, 2, 3}
    assert {one.errno for one in chosen} == set(calls.ERRNOS)
    assert {one.scene for one in chosen} == set(SCENES)
    assert {(one.io, one.durability) for one in chosen} == set(calls.MODES)
    assert len(chosen) == 3 * len(calls._WAYS)
    found = calls.run(5 * len(calls._WAYS), 200 if LONG else 40)
    assert not found["failures"], "\n\n".join(found["failures"][:10])
    assert found["trials"] >= (200 if LONG else 40)
    assert found["total"] > 100 * len(calls._WAYS)


# ---- what errors say --------------------------------------------------------------------------------

TOLD = {
    errno.ENOSPC: "free some space and try again: nothing needs to be closed or reopened",
    errno.EDQUOT: "have the quota raised",
    errno.EMFILE: "`ulimit -n`",
    errno.ENFILE: "fs.file-max",
    errno.ENOMEM: "vm.max_map_count",
    errno.EROFS: "mounted read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "`pystream verify`",
}


@pytest.mark.parametrize("number", TOLD)
def test_what_errors_say(tmp_path: Path, number: int) -> None:
    """What failed, on which path, named once, and what to do; as OSError has it, and after pickling."""
    with pystream.open(tmp_path / "s") as store:
        partition = store.topic("t", create=True, segment_bytes="64KiB").partition(0)
        partition.append([b"x"])
        store._handle.arm(f"allocate:1:errno={number}:100")
        with pytest.raises(pystream.StorageError) as caught:
            for _ in range(100):
                partition.append([b"x" * 10_000])
        store._handle.arm(None)
        partition.append([b"y"])
    check_error(caught.value, number, "reserving space for a segment (topic 't' partition 0)")
    check_error(pickle.loads(pickle.dumps(caught.value)), number, "reserving space")


@pytest.mark.parametrize("number", TOLD)
def test_what_errors_of_files_say(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise where it was not the kernels that called."""
    with pystream.open(tmp_path / "s") as store:

        def refuse(*arguments: object, **options: object) -> None:
            raise OSError(number, os.strerror(number), arguments[0])

        with monkeypatch.context() as patch:
            patch.setattr(pystream.metadata.os, "mkdir", refuse)
            patch.setattr(pystream.metadata.os, "makedirs", refuse)
            with pytest.raises(pystream.StorageError) as caught:
                store.topic("t", create=True)
        check_error(caught.value, number, "")
        store.topic("t", create=True).append([b"x"])


def check_error(error: pystream.StorageError, number: int, what: str) -> None:
    text = str(error)
    assert error.errno == error.errno_ == number
    assert not isinstance(error, pystream.PoisonedError)
    assert os.strerror(number) in text and what in text
    assert error.filename == error.path and text.count(error.filename) == 1
    assert error.advice is not None and TOLD[number] in error.advice
    assert text.endswith(error.advice)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_a_failed_sync_says(tmp_path: Path, number: int) -> None:
    """The first error and all that follow: what to do is another thing than where nothing was lost."""
    with pystream.open(tmp_path / "s") as store:
        partition = store.topic("t", create=True).partition(0)
        partition.append([b"x"])
        store._handle.arm(f"sync:1:errno={number}")
        for attempt in (partition.flush, partition.flush, lambda: partition.append([b"y"])):
            with pytest.raises(pystream.PoisonedError) as caught:
                attempt()
            text = str(caught.value)
            assert caught.value.errno == number and os.strerror(number) in text
            assert text.count(str(caught.value.filename)) == 1
            assert text.endswith("open it again: what was not durable is then written anew")
        assert [record.value for record in partition.records()] == [b"x"]


def test_an_error_of_no_known_kind() -> None:
    error = pystream.StorageError(errno.EBUSY, "it is in use", "/a/path", path="/a/path", errno_=errno.EBUSY)
    assert error.advice is None
    assert str(error) == f"[Errno {errno.EBUSY}] it is in use: '/a/path'"
    assert str(pystream.StorageError("no more than a text")) == "no more than a text"
