"""`store.json` and `topic.json` with one byte wrong, or with their end gone, put right.

The checksum that a document carries says, with 64 bits, which of the few thousand documents that are one byte
away was written. What differs in more than that is not guessed at.
"""

from __future__ import annotations

import re
from typing import Final

from pystream import metadata
from pystream._native.hashing import xxh3_hex
from pystream._native.limits import FORMAT_VERSION
from pystream.errors import PystreamError

BYTES_MAX: Final = 16 << 10
"""Longer documents are not tried: the search takes the square of it."""

_CHECKSUM: Final = re.compile(rb'  "checksum": "([0-9a-f]{16})",\n')
_ALPHABET: Final = bytes([10, *range(32, 127)])
_TAIL_BYTES_MAX: Final = 64


def mended(data: bytes, format: str) -> bytes | None:
    """The document that was written, or None where that is not certain.

    Args:
        data: what the file holds now.
        format: "pystream store" or "pystream topic".
    """
    if len(data) > BYTES_MAX:
        return None
    end = metadata.encode({"format": format, "version": FORMAT_VERSION, "uuid": "0" * 32})
    for count in range(min(len(end), _TAIL_BYTES_MAX)):  # its last bytes are always the same
        if _is_sound(whole := data + end[len(end) - count :], format):
            return whole
    for at in range(len(data)):
        before, after = data[:at], data[at + 1 :]
        for byte in _ALPHABET:
            whole = before + bytes((byte,)) + after
            if _is_sound(whole, format):
                return whole
    return None


def _is_sound(data: bytes, format: str) -> bool:
    found = _CHECKSUM.search(data, 0, 64)
    if found is None or xxh3_hex(data[: found.start()] + data[found.end() :]).encode() != found[1]:
        return False
    try:
        metadata.decode(data, format=format, path="")
    except PystreamError:
        return False
    return True
