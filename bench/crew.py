"""Runs the sessions of a contestant at once, in this thread, in threads or in processes, and times them.

The clock starts when all are ready and stops when the last is done. Processes share CLOCK_MONOTONIC.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import shapes

if TYPE_CHECKING:
    from rivals.base import Contestant, Seen, Session

READY_SECONDS_MAX = 120
RUN_SECONDS_MAX = 1800


def share(blocks: int, workers: int, index: int) -> int:
    """How many of `blocks` that worker writes."""
    return blocks // workers + (index < blocks % workers)


def job(
    contestant: Contestant, session: Session, form: str, op: str, blocks: int
) -> tuple[float, float, Seen | None]:
    """One worker's work: when it began, when it was done, what it saw."""
    if op == "write":
        arrays = contestant.arrays and form == "batch" and contestant.scene.shape.key == "ticks"
        parts = shapes.blocks(contestant.scene, blocks, arrays=arrays)
        began = time.monotonic()
        session.write(parts)
        return began, time.monotonic(), None
    began = time.monotonic()
    seen = session.read()
    return began, time.monotonic(), seen


def run(contestant: Contestant, form: str, op: str, blocks: int) -> tuple[float, list[Seen]]:
    """Seconds until all workers are done, and what each saw."""
    scene = contestant.scene
    if scene.processes > 1:
        return in_processes(contestant, form, op, blocks)
    shapes.pool(scene.shape, scene.block)
    sessions: list[Session] = []
    try:
        for index in range(scene.threads):
            sessions.append(contestant.session(form, op, index))
        gc.collect()
        gc.disable()
        if scene.threads == 1:
            told = [job(contestant, sessions[0], form, op, blocks)]
        else:
            told = in_threads(contestant, sessions, form, op, blocks)
    finally:
        gc.enable()
        for session in sessions:
            session.close()
    return summary(told)


def summary(told: list[tuple[float, float, Seen | None]]) -> tuple[float, list[Seen]]:
    spent = max(end for _, end, _ in told) - min(began for began, _, _ in told)
    return spent, [seen for _, _, seen in told if seen is not None]


def in_threads(contestant: Contestant, sessions: list[Session], form: str, op: str, blocks: int) -> list[Any]:
    told: list[Any] = [None] * len(sessions)
    errors: list[BaseException] = []
    gate = threading.Barrier(len(sessions))

    def work(index: int) -> None:
        try:
            gate.wait(READY_SECONDS_MAX)
            told[index] = job(contestant, sessions[index], form, op, share(blocks, len(sessions), index))
        except BaseException as error:  # raised again by the thread that asked
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return told


def in_processes(
    contestant: Contestant, form: str, op: str, blocks: int, *, workers: int = 0, die: bool = False
) -> tuple[float, list[Seen]]:
    """die: each process ends itself by SIGKILL as soon as it has told that it is done."""
    from rivals.base import Failed

    scene = contestant.scene
    workers = workers or scene.processes
    context = multiprocessing.get_context("spawn")
    running: list[tuple[Any, Connection]] = []
    try:
        for index in range(workers):
            ours, theirs = context.Pipe()
            order = (contestant.key, scene, contestant.directory, contestant.state, form, op, index,
                     share(blocks, workers, index), die)  # fmt: skip
            process = context.Process(target=child, args=(theirs, order), daemon=True)
            process.start()
            theirs.close()
            running.append((process, ours))

        def hear(pipe: Connection, seconds: float) -> Any:
            if not pipe.poll(seconds):
                raise Failed(f"a process said nothing for {seconds} s")
            try:
                kind, what = pipe.recv()
            except EOFError:
                raise Failed("a process ended without a word") from None
            if kind == "error":
                raise Failed(what)
            return what

        for _, pipe in running:
            hear(pipe, READY_SECONDS_MAX)
        for _, pipe in running:
            pipe.send("go")
        told = [hear(pipe, RUN_SECONDS_MAX) for _, pipe in running]
        for process, pipe in running:
            pipe.close()
            process.join(READY_SECONDS_MAX)
            if die and process.exitcode != -signal.SIGKILL:
                raise Failed(f"a process that was to be killed ended with {process.exitcode}")
    finally:
        for process, pipe in running:
            pipe.close()
            if process.is_alive():
                process.kill()
            process.join()
    return summary(told)


def child(pipe: Connection, order: tuple[Any, ...]) -> None:
    """A worker process."""
    import rivals

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and closes the pipe
    key, scene, directory, state, form, op, index, blocks, die = order
    try:
        contestant = rivals.ALL[key](scene, directory, state)
        contestant.attach()
        session = contestant.session(form, op, index)
        shapes.pool(scene.shape, scene.block)
        gc.collect()
        gc.disable()
        pipe.send(("ready", None))
        pipe.recv()
        told = job(contestant, session, form, op, blocks)
        pipe.send(("done", told))
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        session.close()
        contestant.close()
    except EOFError:
        pass  # the parent has gone or has given up
    except BaseException:
        pipe.send(("error", traceback.format_exc(limit=-3)))


# ---- what the kernel holds

_CACHESTAT = 451  # the same number on every architecture; Linux 6.5


def cached_pages(descriptor: int, size: int) -> int | None:
    """How many pages of a file are in the page cache; None where the kernel does not tell."""
    libc = ctypes.CDLL(None, use_errno=True)
    extent = (ctypes.c_uint64 * 2)(0, size)
    found = (ctypes.c_uint64 * 5)()
    if size and libc.syscall(_CACHESTAT, descriptor, ctypes.byref(extent), ctypes.byref(found), 0) != 0:
        return None
    return int(found[0])


def die_with_parent() -> None:
    """To be called in a child before exec: SIGKILL when the thread that started it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
