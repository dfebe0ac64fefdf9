"""The n-th call of the operating system fails, for n = 1, 2, ... until none does, with each errno; of whole
Python processes, through the interposed disk.

Seeds enumerate scenes, durability modes and ways of storing, errnos, whether only the one call fails or all
that follow, and the n-th call; what a process does there is in scenes.py. Whatever fails says so by an error
of pystream's that names the path and what to do; when the fault is gone, the same is done again, by the same
process, and must succeed; another process finds everything that was acknowledged.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pystream
from pystream.ingest.errors import SourceError

from . import acting, environment, processes, scenes

ERRNOS: Final = tuple(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENOMEM", "EROFS", "EACCES")
)
MODES: Final = (("mmap", "interval"), ("pwrite", "sync"), ("mmap", "none"), ("pwrite", "interval"))
SPARED: Final = ctypes.c_char_p(b"close")
CALLS_MAX: Final = 4000
"""A scene makes fewer."""


class Trial(NamedTuple):
    """What fails, in which scene."""

    scene: str
    io: str
    durability: str
    nth: int
    errno: int
    times: int
    """How many calls fail; -1: all from there on."""


# ---- the process that it happens to -----------------------------------------------------------------


@lru_cache
def _disk() -> ctypes.CDLL:
    """The interposed disk, which this process was started with."""
    disk = ctypes.CDLL(None)
    disk.ps_disk_calls.restype = ctypes.c_int64
    disk.ps_disk_failed.restype = ctypes.c_char_p
    disk.ps_disk_failed_path.restype = ctypes.c_char_p
    # Of local file systems none has a close that fails; network and user-space ones are refused.
    disk.ps_disk_spare(SPARED)
    return disk


class Failure(AssertionError):
    """What happened is not what was promised."""


def judge(error: BaseException, root: str, wanted: int, failed: str) -> None:
    """Raise unless an error says what failed, where, and what to do.

    Args:
        root: what its path is to be below.
        wanted: the errno of the failed call.
    """
    if isinstance(error, pystream.DeliveryError):
        if error.__cause__ is None:
            raise Failure(f"no cause: {error!r}")
        judge(error.__cause__, root, wanted, failed)
        return
    if isinstance(error, SourceError):
        assert error.errno_ == wanted and error.path, repr(error)
        return
    if not isinstance(error, pystream.StorageError):
        raise Failure(f"{failed}: {type(error).__name__}: {error}") from error
    text = str(error)
    path = os.fsdecode(error.filename or "")
    if not path.startswith(root):
        raise Failure(f"{failed}: no path, or another's: {text}") from error
    if text.count(path) != 1:
        raise Failure(f"{failed}: the path is not named once: {text}") from error
    if error.path != path or error.errno_ != error.errno:
        raise Failure(f"{failed}: attributes differ: {text}: {error.path}, {error.errno_}") from error
    if error.errno != wanted:
        raise Failure(f"{failed}: errno {error.errno} instead of {wanted}: {text}") from error
    if os.strerror(wanted) not in text or not error.advice or error.advice not in text:
        raise Failure(f"{failed}: it does not say what to do: {text}") from error


def is_poisoned(error: BaseException | None) -> bool:
    """Whether the partition takes no more until the store is opened again."""
    while error is not None:
        if isinstance(error, pystream.PoisonedError):
            return True
        error = error.__cause__
    return False


def act(trial: Trial, ground: acting.Ground, say: processes.Say) -> None:
    """The scene, with a call that fails."""
    disk = _disk()
    root = str(ground.directory)

    def do(what: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            call = (disk.ps_disk_failed() or b"", disk.ps_disk_failed_path() or b"")
            failed = f"{what} ({b' '.join(call).decode()})"
            judge(error, root, trial.errno, failed)
            say("error", f"{failed}: {error}")
            say("failed", what)
            if is_poisoned(error):
                say("poisoned", what)
                return None
        disk.ps_disk_disarm()
        for told in (False, True):
            try:
                return function()
            except Exception as error:
                if is_poisoned(error):
                    judge(error, root, trial.errno, failed)
                    say("poisoned", what)
                    return None
                if told or not isinstance(error, pystream.DeliveryError):
                    raise Failure(
                        f"{failed}: again, the fault being gone: {type(error).__name__}: {error}"
                    ) from error
                # The helper thread had tried again, just before the fault was gone.
                judge(error, root, trial.errno, failed)
        raise AssertionError("not come to")

    plan = f"fail:{trial.nth}:{trial.errno}:{trial.times}" if trial.nth else "count"
    if (code := disk.ps_disk_arm(root.encode(), plan.encode())) != 0:
        raise Failure(f"the disk cannot be armed: {os.strerror(code)}")
    try:
        scenes.SCENES[trial.scene].act(ground, do, say)
    finally:
        say("calls", disk.ps_disk_calls())
        if name := disk.ps_disk_failed():
            say("call", f"{name.decode()} {disk.ps_disk_failed_path().decode()}")
        disk.ps_disk_disarm()


# ---- trials -----------------------------------------------------------------------------------------


def play(trial: Trial) -> tuple[bool, str | None]:
    """One trial, in a process that was started with the disk: whether a call failed, and what went wrong."""
    scene = scenes.SCENES[trial.scene]
    with acting.ground(trial.io, trial.durability) as ground:
        prepared = processes.in_a_process(lambda say: scene.prepare(ground))
        acted = processes.in_a_process(lambda say: act(trial, ground, say))
        call = " ".join(processes.said_of(acted.said, "call"))
        text = prepared.failure or acted.failure
        if text is None:
            text = processes.in_a_process(lambda say: scene.check(ground, acted.said)).failure
            if text is not None:
                said = [f"{word}: {what}" for word, what in acted.said if word in ("error", "poisoned")]
                text = f"afterwards: {text}\n" + "\n".join(said)
    name = f"seed {seed_of(trial)}: {trial.scene} {trial.io} {trial.durability} call {trial.nth} ({call}) "
    return bool(call), None if text is None else f"{name}errno {trial.errno} times {trial.times}: {text}"


def count(trial: Trial) -> int:
    """How many calls a scene makes when none fails. Raises when it does not end well."""
    scene = scenes.SCENES[trial.scene]
    with acting.ground(trial.io, trial.durability) as ground:
        prepared = processes.in_a_process(lambda say: scene.prepare(ground))
        acted = processes.in_a_process(lambda say: act(trial, ground, say))
        checked = processes.in_a_process(lambda say: scene.check(ground, acted.said))
    for ended in (prepared, acted, checked):
        if ended.failure is not None:
            raise AssertionError(f"{trial.scene}: {ended.failure}")
    (calls,) = processes.said_of(acted.said, "calls")
    assert 0 < calls < CALLS_MAX
    return int(calls)


def play_all(trials: list[Trial]) -> list[tuple[bool, str | None]]:
    return [play(trial) for trial in trials]


def count_all(trials: list[Trial]) -> list[int]:
    return [count(trial) for trial in trials]


# ---- all of it --------------------------------------------------------------------------------------

_WAYS: Final = [
    (scene, io, durability, number, times)
    for number in ERRNOS
    for times in (1, -1)
    for io, durability in MODES
    for scene in scenes.SCENES
]
SLACK: Final = 8
"""Calls that a scene may make more than it did when it was counted: some wait for one another."""


def trial_of(seed: int) -> Trial:
    """The seeds go through all ways for the first call, then for the second, and so on."""
    scene, io, durability, number, times = _WAYS[seed % len(_WAYS)]
    return Trial(scene, io, durability, seed // len(_WAYS) + 1, number, times)


def seed_of(trial: Trial) -> int:
    """The first seed that plays this."""
    way = (trial.scene, trial.io, trial.durability, trial.errno, trial.times)
    return (trial.nth - 1) * len(_WAYS) + _WAYS.index(way)


Counts = dict[tuple[str, str, str], int]


def counts(pool: Callable[..., list[Any]], workers: int) -> Counts:
    """How many calls each scene makes, in each mode."""
    wanted = [Trial(scene, io, mode, 0, errno.EIO, 1) for io, mode in MODES for scene in scenes.SCENES]
    parts = [wanted[n::workers] for n in range(workers)]
    found: Counts = {}
    for part, answers in zip(parts, pool(count_all, parts), strict=True):
        found.update({(one.scene, one.io, one.durability): n for one, n in zip(part, answers, strict=True)})
    return found


def once(found: Counts) -> list[Trial]:
    """Each call of each scene, failing once; modes and errnos in turn."""
    trials = []
    for at, scene in enumerate(scenes.SCENES):
        most = max(n for (name, *_), n in found.items() if name == scene)
        for nth in range(1, most + 1):
            io, mode = MODES[(nth + at) % len(MODES)]
            if nth <= found[scene, io, mode]:
                times = 1 if nth // len(ERRNOS) % 2 else -1
                trials.append(Trial(scene, io, mode, nth, ERRNOS[nth % len(ERRNOS)], times))
    return trials


def run_trials(pool: Callable[..., list[Any]], trials: list[Trial], workers: int) -> tuple[int, list[str]]:
    """How many calls failed, and what went wrong."""
    parts = [trials[n::workers] for n in range(min(workers, len(trials)))]
    answers = [answer for part in pool(play_all, parts) for answer in part] if parts else []
    return sum(failed for failed, _ in answers), [text for _, text in answers if text is not None]


def run_once(workers: int = 2) -> dict[str, Any]:
    """`once`, and how many calls there are of each scene."""
    with processes.pool(workers, environment()) as pool:
        found = counts(pool, workers)
        trials = once(found)
        failed, failures = run_trials(pool, trials, workers)
    return {"trials": failed, "wanted": len(trials), "failures": failures, "counts": found}


def run(first_seed: int, trials: int, *, seconds: float | None = None, workers: int = 2) -> dict[str, Any]:
    """Play the seeds from `first_seed` on, until so many calls have failed, or for so long.

    Returns:
        trials (calls that failed), seeds (looked at), failures (texts), total (how many seeds make all).
    """
    end = None if seconds is None else time.monotonic() + seconds
    failed, at, failures = 0, first_seed, []
    with processes.pool(workers, environment()) as pool:
        found = counts(pool, workers)
        total = (max(found.values()) + SLACK) * len(_WAYS)
        while failed < trials and at < first_seed + total and (end is None or time.monotonic() < end):
            chosen: list[Trial] = []
            while len(chosen) < min(16 * workers, trials - failed) and at < first_seed + total:
                one = trial_of(at % total)
                at += 1
                if one.nth <= found[one.scene, one.io, one.durability] + SLACK:
                    chosen.append(one)
            more, texts = run_trials(pool, chosen, workers)
            failed += more
            failures += texts
    return {"trials": failed, "seeds": at - first_seed, "failures": failures, "total": total}
