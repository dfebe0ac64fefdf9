"""Seeded records: values, keys, and the calls that write them.

Values are distinct and lie in memory in the order in which they are used, as a program that makes one record
after the other has them; there are more of them than a cache holds, and they are used again from the first.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pystream.benchmark.plan import KEY_BYTES, KEY_COUNT, TICK_FIELDS, Plan

POOL_BYTES: Final = 32 << 20
POOL_RECORDS_MAX: Final = 1 << 17

_PAGES: Final = (b"home", b"cart", b"search", b"item", b"checkout", b"help", b"account", b"orders")
_AGENTS: Final = (
    b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0",
    b"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5",
)
# Of an event LZ4 keeps the hexadecimal digits, which repeat nothing, and about so much of the rest.
_KEPT_BYTES: Final = 29
_KEPT_IN: Final = 170  # and a byte more in so many
_HEX_DIGITS_MIN: Final = 8


def pool_records(plan: Plan) -> int:
    """How many records a process prepares: whole batches."""
    count = min(POOL_RECORDS_MAX, max(1, POOL_BYTES // plan.size))
    batch = plan.batch_records
    return max(batch, count // batch * batch)


def make_values(plan: Plan, count: int, part: int) -> Any:
    """`count` values of the plan's shape: a list of bytes, or an array where the topic has a width.

    The same seed and part make the same values.
    """
    rng = np.random.default_rng([plan.seed, part])
    if plan.shape == "ticks":
        return _ticks(rng, count)
    if plan.shape == "json":
        return _events(rng, count, plan.size)
    blob = rng.bytes(count * plan.size)
    if plan.fixed:
        return np.frombuffer(blob, np.dtype((np.void, plan.size)))
    return [blob[at : at + plan.size] for at in range(0, len(blob), plan.size)]


def _ticks(rng: np.random.Generator, count: int) -> npt.NDArray[np.void]:
    """Trades of one instrument: rising times, a price that wanders in steps of a cent."""
    rows = np.empty(count, np.dtype(list(TICK_FIELDS)))
    rows["ts"] = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1_000, 2_000_000, count))
    rows["px"] = 100 + np.cumsum(rng.integers(-1, 2, count)) / 100
    rows["qty"] = rng.integers(1, 100, count) * 100
    rows["side"] = rng.integers(0, 2, count)
    return rows


def _events(rng: np.random.Generator, count: int, size: int) -> list[bytes]:
    """JSON events of exactly `size` bytes, which LZ4 makes about a quarter of."""
    users, pages = rng.integers(0, 10**6, count), rng.integers(0, len(_PAGES), count)
    agents, spent = rng.integers(0, len(_AGENTS), count), rng.integers(0, 5000, count)
    step = max(_HEX_DIGITS_MIN, size // 4 - _KEPT_BYTES - size // _KEPT_IN)
    digits = rng.bytes(count * step // 2 + 1).hex().encode()
    events = []
    for i, (user, page, agent, ms) in enumerate(
        zip(users.tolist(), pages.tolist(), agents.tolist(), spent.tolist(), strict=True)
    ):
        head = b'{"event":"page_view","user":%d,"page":"/shop/%s","ms":%d,"trace":"%s","agent":"' % (
            user,
            _PAGES[page],
            ms,
            digits[i * step : (i + 1) * step],
        )
        text = _AGENTS[agent] * (size // 60 + 1)
        events.append(head + text[: size - len(head) - 2] + b'"}')
    return events


def make_keys(plan: Plan, count: int, part: int) -> list[bytes] | None:
    """`count` keys, of 10,000: each as likely ("uniform"), or by Zipf's law ("hot"): one has a tenth."""
    if plan.keys == "none":
        return None
    rng = np.random.default_rng([plan.seed, part, 1])
    if plan.keys == "uniform":
        picks = rng.integers(0, KEY_COUNT, count)
    else:
        weights = 1 / np.arange(1, KEY_COUNT + 1)
        picks = rng.choice(KEY_COUNT, count, p=weights / weights.sum())
    names = [b"user-%0*d" % (KEY_BYTES - 5, number) for number in range(KEY_COUNT)]
    return [names[pick] for pick in picks.tolist()]
