"""Inputs to begin with, made of real stores: `python -m tests.fuzz --seeds` puts them into the corpus.

Each is what a store holds, in the form its target takes (see the head of each fuzz_NAME.c): a byte that says
how checksums are to be taken, options, then the bytes of a file or several.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import pystream

RAW, SEALED, FITTED = 0, 1, 3
"""Checksums as they are, made right, and sizes made right as well: FUZZ_SEALED and FUZZ_FITTED in fuzz.h."""

HEAD, EPOCHS, SEGMENT, INDEX, CUT, TEMPORARY, FOREIGN, LIVE = range(8)
ZEROS_64, ZEROS_4096, ZEROS_SEGMENT = 2 << 3, 4 << 3, 6 << 3
"""How many zeros follow the bytes of a file: zeros_behind in partition.c."""

T0 = 1_700_000_000_000_000_000
FRAMES = 256
SEAL = b"PSEL" + bytes(60)


def fill(topic: pystream.Topic) -> None:
    """Batches of every kind there is."""
    topic.append([b"a", b"", b"ccc"], timestamps=T0)
    topic.append(
        [b"value" * 5, None, b"x"],
        keys=[b"k1", None, b""],
        headers=[[("a", b"1"), ("b", None)], None, [("", b"")]],
        timestamps=[T0 + 5, T0 - 5, T0],
    )
    topic.append([b"no time"])
    topic.append([bytes(200)] * 3, keys=[b"same"] * 3, timestamps=T0 + 100)


def partitions() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The files of a partition, by name: raw, compressed, of fixed width, with gaps, and never used."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s"
        with pystream.open(path) as store:
            for name, options in {
                "none": {},
                "lz4": {"compression": "lz4"},
                "fixed": {"dtype": [("t", "i8"), ("x", "f4"), ("b", "?")]},
            }.items():
                topic = store.topic(
                    name, create=True, segment_bytes=65536, index_interval_bytes=1024, **options
                )
                if name == "fixed":
                    rows = np.zeros(4, [("t", "<i8"), ("x", "<f4"), ("b", "?")])
                    for _ in range(3):
                        topic.append(rows, timestamps=T0)
                else:
                    fill(topic)
            store.topic("empty", create=True).append([b"x"])
        for topic_path in sorted((path / "topics").iterdir()):
            files = {file.name: file.read_bytes() for file in (topic_path / "0").iterdir()}
            files["live"] = (path / "live").read_bytes()
            yield topic_path.name, files


def frames(segment: bytes) -> list[bytes]:
    found, at = [], FRAMES
    while segment[at : at + 4] == b"PSFB":
        size = int.from_bytes(segment[at + 24 : at + 28], "little")
        found.append(segment[at : at + size])
        at += size
    return found


def used(segment: bytes) -> bytes:
    return segment[: FRAMES + sum(map(len, frames(segment)))]


def moved(segment: bytes, base: int) -> bytes:
    """The segment as if it began at offset `base`; its checksums have to be made right."""
    out = bytearray(segment)
    out[32:40] = base.to_bytes(8, "little")
    at = FRAMES
    for frame in frames(segment):
        before = int.from_bytes(frame[32:40], "little")
        out[at + 32 : at + 40] = (before + base).to_bytes(8, "little")
        at += len(frame)
    return bytes(out)


def end_of(segment: bytes) -> int:
    last = frames(segment)[-1]
    return int.from_bytes(last[32:40], "little") + int.from_bytes(last[44:48], "little") + 1


def chunk(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(2, "little") + data


def several(files: dict[str, bytes]) -> tuple[bytes, bytes, dict[str, bytes]]:
    """A partition of three segments, one of one, and their small files."""
    segment = used(next(data for name, data in files.items() if name.endswith(".log")))
    index = next(data for name, data in files.items() if name.endswith(".index"))[: 64 + 32 * 4]
    head = files["head"].rstrip(b"\0")
    small = {
        "segment": segment,
        "index": index,
        "head": head,
        "epochs": files["epochs"],
        "live": files["live"],
    }
    end = end_of(segment)
    one = chunk(SEGMENT | ZEROS_4096, segment) + chunk(INDEX, index)
    three = (
        chunk(SEGMENT, segment + SEAL)
        + chunk(INDEX, index)
        + chunk(SEGMENT, moved(segment, end) + SEAL)
        + chunk(SEGMENT | ZEROS_SEGMENT, moved(segment, 2 * end))
    )
    return one, three, small


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Target, name and bytes of each."""
    for name, files in partitions():
        one, three, small = several(files)
        segment, end = small["segment"], end_of(small["segment"])
        for i, frame in enumerate(frames(segment)):
            yield "frame", f"{name}-{i}", bytes([FITTED, 0, 4, 0, 1, 0, 0, 0]) + frame
            yield "frame", f"{name}-{i}-sealed", bytes([SEALED, 0, 4, 0, 1, 0, 0, 0]) + frame
            yield "frame", f"{name}-{i}-packed", bytes([FITTED, 1, 4, 0, 1, 0, 0, 0]) + frame
            yield "arrow", f"{name}-{i}", bytes([i & 1, 0, 9, 3, 5, 0, 4, 1, 3, 2, 0, 0]) + frame
        for how in (RAW, SEALED, FITTED):
            yield "segment", f"{name}-{how}", bytes([how, 0, 0, 0]) + segment[:256]
            whole = segment[:256] + b"PSEL\x40\0\0\0" + bytes(8) + end.to_bytes(8, "little") + bytes(40)
            yield "segment", f"{name}-{how}-end", bytes([how, 0, 0, 0]) + whole
            yield "segment", f"{name}-{how}-seal", bytes([how, 1, 9, 0]) + b"PSEL\x40\0\0\0" + bytes(56)
            yield "walk", f"{name}-{how}", bytes([how, 1, 0, 0]) + segment + SEAL
            yield "walk", f"{name}-{how}-salt", bytes([how, 25, 0, 0]) + segment
            yield "repair", f"{name}-{how}", bytes([how, 3, 0, 0, end, 0]) + segment + SEAL
            yield "repair", f"{name}-{how}-last", bytes([how, 6, 0, 0, end, 0]) + segment
            yield "index", f"{name}-{how}", bytes([how, how, *range(24)]) + small["index"]
            yield "head", f"{name}-{how}", bytes([how, 0]) + small["head"]
            yield "epochs", f"{name}-{how}", bytes([how, 0, 0, 0, 0]) + small["epochs"] * 2
            yield "live", f"{name}-{how}", bytes([how]) + small["live"]
            questions = bytes([1, 0, 3, 0, 9, 0, 40, 0]) + (T0 + 50).to_bytes(8, "little")
            place = (len(segment) - FRAMES) // 64
            for count, chunks in (1, one), (3, three):
                for options in (0, 2, 6):  # who may write, who may not, who follows a writer
                    at = bytes([how, options, count * end, 0, 0, place, 0])
                    yield "cursor", f"{name}-{how}-{count}-{options}", at + questions + chunks
                head = chunk(HEAD | ZEROS_4096, small["head"]) + chunk(EPOCHS, small["epochs"])
                for options in (4, 11):
                    begin = bytes([how, options])
                    yield "recover", f"{name}-{how}-{count}-{options}", begin + head + chunks
                    yield "recover", f"{name}-{how}-{count}-{options}-bare", begin + chunks
                    for at in (0, end):  # where the log is to start afterwards
                        begin = bytes([how, 16 * options, at, 0])
                        yield "compact", f"{name}-{how}-{count}-{options}-{at}", begin + head + chunks
                torn = chunk(CUT, b"cut") + chunk(TEMPORARY, b"t") + chunk(FOREIGN, b"?")
                yield "recover", f"{name}-{how}-{count}-torn", bytes([how, 4]) + head + chunks[:-9] + torn
    control = bytearray(64)
    control[:12] = b"PSGROUP1\1\0\0\0"
    member = b"PSMEMBR1\1\0\0\0" + bytes(244)
    for how in (RAW, SEALED, FITTED):
        yield "group", f"control-{how}", bytes([how, 3, 0, 0, 0, 0]) + bytes(control).ljust(128, b"\0")
        yield "group", f"control-{how}-whole", bytes([how, 1, 0, 0, 0, 0]) + bytes(control).ljust(4096, b"\0")
        yield "group", f"member-{how}", bytes([how, 2, 1, 0, 0, 32]) + member
    text = b"key=value\r\nplain\n\n=x\na=b=c\nNULL\n"
    for options in (0, 16, 17, 16 + 32 + 64 + 12, 255):
        limits = bytes([options, 10, 255, 1, 4, 200, 30, 0])
        yield "lines", f"{options}", limits + b"=NULL"[: 1 + (options & 3)] + b"NULL" + text * 4
    for options in (0, 2, 4, 6):
        yield "rows", f"split-{options}", bytes([options, 44, 34, 9]) + b'a,"b\n""c",d\r\ne,f\n\n"x' * 3
    cells = b'text"\\\n\xc3\xa9 12.5 -.5e3 True NaN 00 +7 {"a":1}inf '
    for kind in range(6):
        column = bytes([kind, 1, 2, 3, 4, 0, 7, 5, 6, 5, 9, 3])
        yield "rows", f"json-{kind}", bytes([1, 2, 6, 0, 9]) + column + column + cells
    for text in (b"append.body:3:kill", b"*:1:errno=28", b"pwrite:2:errno=5:9", b"sync:0:kill", b"x"):
        yield "fault", text.decode().replace(":", "-").replace("*", "any"), text


def write(directory: Path) -> int:
    """Put all of them below `directory`; how many there are."""
    count = 0
    for target, name, data in seeds():
        place = directory / target
        place.mkdir(parents=True, exist_ok=True)
        (place / f"seed-{name}").write_bytes(data)
        count += 1
    return count
