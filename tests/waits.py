"""Processes that wait, for the tests of waiting; to be run by Life (harness.py)."""

from __future__ import annotations

import ctypes
import platform
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pystream

MS = 1_000_000

# From linux/seccomp.h, linux/filter.h, linux/audit.h and the tables of system calls.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RETURN_ALLOW, RETURN_ERRNO, ENOSYS = 0x7FFF0000, 0x00050000, 38
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, OPERATION_AT = 0, 24  # of struct seccomp_data: nr; the low half of args[1]
FUTEX = {"x86_64": 202, "aarch64": 98}[platform.machine()]
FUTEX_WAITV, FUTEX_WAIT = 449, 0


def forbid(*names: str) -> None:
    """Have this process's futex_waitv ("many"), or a wait on one shared futex ("one"), answer ENOSYS."""
    program = [(LOAD, 0, 0, NUMBER_AT)]
    refuse = (RETURN, 0, 0, RETURN_ERRNO | ENOSYS)
    if "many" in names:
        program += [(EQUAL, 0, 1, FUTEX_WAITV), refuse]
    if "one" in names:  # the locks of the C library are private futexes, which have another bit
        program += [(EQUAL, 0, 3, FUTEX), (LOAD, 0, 0, OPERATION_AT), (EQUAL, 0, 1, FUTEX_WAIT), refuse]
    program.append((RETURN, 0, 0, RETURN_ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(head), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "prctl")


def switches() -> int:
    """How often this process's threads went to sleep."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        status = (task / "status").read_text()
        found += int(status.partition("voluntary_ctxt_switches:")[2].split()[0])
    return found


def idle(channel: Any, path: Path, topic: str, partitions: int | None, forbidden: tuple[str, ...]) -> None:
    """Wait for one record, with futexes or without; tell how often it slept in two seconds, and what came."""
    forbid(*forbidden)
    with (
        pystream.open(path, maintenance=False) as store,
        store.consumer(topic, start="latest") as consumer,
    ):
        if partitions is not None:
            consumer.assign([(topic, index) for index in range(partitions)])
        assert consumer.poll(timeout=0) is None
        got: list[Any] = []

        def wait() -> None:
            batch = consumer.poll()
            got.append((time.monotonic_ns(), None if batch is None else batch.partition))

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        before = switches()
        time.sleep(2)
        channel.send(switches() - before)
        thread.join()
        channel.send(got)


def crowd(channel: Any, path: Path, topic: str, index: int, consumers: int) -> None:
    """So many threads wait, each with a consumer of its own, for one record of one partition."""
    with pystream.open(path) as store:
        got: list[Any] = []

        def wait() -> None:
            with store.consumer(start="latest", spin=0) as consumer:
                consumer.assign([(topic, index)])
                batch = consumer.poll()
                assert batch is not None
                got.append(batch[0].value)

        threads = [threading.Thread(target=wait) for _ in range(consumers)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        channel.send("waiting")
        for thread in threads:
            thread.join()
        channel.send(got)


def waiter(channel: Any, path: Path, topic: str, how: str) -> None:
    """Wait for what never comes."""
    with pystream.open(path) as store:
        channel.send("waiting")
        if how == "wait":
            store[topic].partition(0).wait(10**9)
        else:
            with store.consumer(topic, start="latest", spin=0) as consumer:
                consumer.poll()


def lone_wait(channel: Any, path: Path, topic: str, forbidden: tuple[str, ...]) -> None:
    """Wait for the first record; tell whether it came, when, and the processor's time that took."""
    forbid(*forbidden)
    with pystream.open(path, maintenance=False) as store:
        partition = store[topic].partition(0)
        assert not partition.wait(0, timeout=0)
        channel.send("waiting")
        before = time.process_time()
        found = partition.wait(0)
        channel.send((found, time.monotonic_ns(), time.process_time() - before))
