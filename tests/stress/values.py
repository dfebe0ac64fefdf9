"""What the records hold: who wrote them as which, and a checksum, so that a torn or foreign one is known."""

from __future__ import annotations

import random
import struct
from zlib import crc32

HEAD = struct.Struct("<IIQ")  # checksum of what follows, stream, number in the stream
BODY_AT = 4
FILL_MAX = 32 << 10
_FILL = random.Random(0).randbytes(FILL_MAX + 4096)

LAST_STREAM = 0xFFFF0000
"""The stream of the record that ends a partition; its readers stop there."""


def encode(stream: int, number: int, fill: int = 0) -> bytes:
    """Record `number` of `stream`, with `fill` further bytes, at most FILL_MAX, other ones in each."""
    at = (stream * 31 + number * 7) % 4096
    body = HEAD.pack(0, stream, number)[BODY_AT:] + _FILL[at : at + fill]
    return crc32(body).to_bytes(4, "little") + body


def decode(value: bytes | None) -> tuple[int, int] | None:
    """Stream and number; None for what `encode` has not made."""
    if value is None or len(value) < HEAD.size:
        return None
    check, stream, number = HEAD.unpack_from(value)
    if check != crc32(memoryview(value)[BODY_AT:]):
        return None
    return stream, number
