"""What the tests of asyncio share: loops of each kind, and patience."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any

import pystream

Run = Callable[[Coroutine[Any, Any, Any]], Any]
LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
SOON_S = 20
"""Longer than anything here takes, however busy the machine."""


def runner(kind: str) -> Run:
    """A function that runs a coroutine in a new event loop of a kind, for two minutes at most."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(120):
                return await coroutine

        if kind == "uvloop":
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(limited())
        return asyncio.run(limited())

    return run


async def until(condition: Callable[[], object]) -> None:
    """Let others run until something holds."""
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.001)


def waiting(*consumers: pystream.AsyncConsumer) -> Callable[[], bool]:
    return lambda: all(consumer._fetcher.is_watched for consumer in consumers)
