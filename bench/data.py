"""Seeded data. Values are distinct and lie in memory in the order in which they are used, as a program that
makes records one after the other has them."""

import os
import random

import numpy as np
import numpy.typing as npt

SEED = 20130101
VALUE_BYTES = 100


def scale(name: str, default: int) -> int:
    """A size that the environment may change: PYSTREAM_BENCH_<NAME>."""
    return int(os.environ.get(f"PYSTREAM_BENCH_{name}", default))


def values(count: int, width: int = VALUE_BYTES) -> list[bytes]:
    """`count` distinct values of random bytes."""
    blob = random.Random(SEED).randbytes(count * width)
    return [blob[i : i + width] for i in range(0, len(blob), width)]


def texts(count: int, width: int = VALUE_BYTES) -> list[str]:
    """`count` distinct texts of `width` ASCII characters."""
    digits = random.Random(SEED).randbytes(count * width // 2).hex()
    return [digits[i : i + width] for i in range(0, len(digits), width)]


def words(count: int) -> list[bytes]:
    """`count` events as JSON, which compress about as text does."""
    pick = random.Random(SEED)
    pages = [b"/shop/" + name for name in (b"home", b"cart", b"search", b"item", b"checkout", b"help")]
    flags = (b"true", b"false")
    return [
        b'{"user":%d,"page":"%s","ms":%d,"ok":%s}'
        % (pick.randrange(10**6), pick.choice(pages), pick.randrange(5000), pick.choice(flags))
        for _ in range(count)
    ]


def numbers(total_bytes: int) -> npt.NDArray[np.int64]:
    """Random int64s, `total_bytes` of them."""
    return np.random.default_rng(SEED).integers(0, 2**62, total_bytes // 8, dtype=np.int64)
