"""csrc/FORMAT.md is enough to read a segment and a group: its worked example, and the files of a group at
work, are decoded by its own tables, with `struct` and the xxhash package, and by nothing of pystream. And the
tables are those of ps_format.h."""

import json
import os
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from xxhash import xxh3_64_intdigest

import pystream

CSRC = Path(__file__).resolve().parent.parent / "csrc"
DOCUMENT = (CSRC / "FORMAT.md").read_text(encoding="utf-8")
HEADER = (CSRC / "ps_format.h").read_text(encoding="utf-8")

# Heading of a table -> prefix of its constants, and the name of its size.
STRUCTURES = {
    "Segment header": ("PS_SEG", "PS_SEGMENT_HEADER_BYTES"),
    "Frame header": ("PS_FRAME", "PS_FRAME_HEADER_BYTES"),
    "Seal": ("PS_SEAL", "PS_SEAL_BYTES"),
    "Index header": ("PS_INDEX", "PS_INDEX_HEADER_BYTES"),
    "Index entry": ("PS_INDEX_ENTRY", "PS_INDEX_ENTRY_BYTES"),
    "Epoch entry": ("PS_EPOCH", "PS_EPOCH_ENTRY_BYTES"),
    "Head page": ("PS_HEAD", "PS_HEAD_BYTES"),
    "Log-end slot": ("PS_SLOT", "PS_SLOT_BYTES"),
    "Live file": ("PS_LIVE", "PS_LIVE_BYTES"),
    "Control page": ("PS_CONTROL", "PS_CONTROL_BYTES"),
    "Member file": ("PS_MEMBER", ""),
}
SPREAD = {"Head page", "Control page", "Member file"}
"""Their words stand on lines of their own."""
SCALARS = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q"}
MASK = (1 << 64) - 1


class Field(NamedTuple):
    at: int
    type: str
    name: str

    @property
    def format(self) -> str:
        if array := re.fullmatch(r"(?:u8|zero)\[(\d+)\]", self.type):
            return f"<{array[1]}s"
        return "<" + SCALARS[self.type]

    @property
    def end(self) -> int:
        return self.at + struct.calcsize(self.format)


def table(heading: str) -> list[Field]:
    """The fields of the table under a heading of FORMAT.md."""
    section = re.split(r"^#+ ", DOCUMENT.split(f"### {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (\d+) \| (\S+) \| `?(\w+)`? \|", section, flags=re.MULTILINE)
    return [Field(int(at), kind, name) for at, kind, name in rows]


def decode(heading: str, data: bytes) -> dict[str, object]:
    fields = {}
    for field in table(heading):
        (value,) = struct.unpack_from(field.format, data, field.at)
        if field.type.startswith("zero"):
            assert value == bytes(len(value)), f"{heading}: reserved bytes at {field.at}"
        else:
            fields[field.name] = value
    return fields


def constants() -> dict[str, int]:
    values: dict[str, int] = {}
    lines = re.findall(r"^#define (PS_\w+) (.+?)(?:/\*.*)?$", HEADER, flags=re.MULTILINE)
    for _ in range(3):  # a constant may stand on one that comes after it
        for name, expression in lines:
            plain = re.sub(r"\b(0x[0-9a-f]+|\d+)u?l{0,2}\b", r"\1", expression.strip())
            if re.fullmatch(r"[\w\s()+*<&~|-]+", plain):
                with suppress(NameError, SyntaxError):
                    values[name] = eval(plain, {"__builtins__": {}}, values)
    return values


CONSTANTS = constants()


@pytest.mark.parametrize("heading", STRUCTURES)
def test_fields_follow_one_another(heading: str) -> None:
    fields = table(heading)
    for field in fields:
        assert field.at % min(8, field.end - field.at) == 0 or field.type.startswith("zero"), field
    if heading not in SPREAD:
        assert [field.at for field in fields] == [0, *(field.end for field in fields[:-1])]
        assert fields[-1].end == CONSTANTS[STRUCTURES[heading][1]]


def test_tables_are_those_of_the_header() -> None:
    documented = {
        f"{prefix}_{field.name.upper()}_OFF": field.at
        for heading, (prefix, _) in STRUCTURES.items()
        for field in table(heading)
    }
    assert documented == {name: value for name, value in CONSTANTS.items() if name.endswith("_OFF")}


def test_attributes_are_those_of_the_header() -> None:
    rows = re.findall(r"^\| (\d+) \| ([a-z ]+) \|", DOCUMENT, flags=re.MULTILINE)
    attributes = [(1 << int(bit), "PS_ATTR_" + name.upper().replace(" ", "_")) for bit, name in rows]
    bits = {name: bit for bit, name in attributes if name in CONSTANTS}
    assert len(bits) == 11
    for name, bit in bits.items():
        assert CONSTANTS[name] == bit
    assert sum(bits.values()) | 0b111111 == CONSTANTS["PS_ATTR_KNOWN"]


def test_magics_are_those_of_the_header() -> None:
    named = re.findall(r"^\| 0 \| u\d+ \| `magic` \| `(\w+)`", DOCUMENT, flags=re.MULTILINE)
    known = {name: value for name, value in CONSTANTS.items() if re.fullmatch(r"PS_[A-Z]+_MAGIC(32)?", name)}
    assert {int.from_bytes(text.encode(), "little") for text in named} == set(known.values())


@pytest.fixture(scope="module")
def segment() -> bytes:
    dump = re.search(r"^```hexdump\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    assert dump
    data = b""
    for line in dump[1].splitlines():
        address, _, rest = line.partition(": ")
        assert int(address, 16) == len(data)
        data += bytes.fromhex(rest[:39])
    return data


def place_seed(salt: int, position: int) -> int:
    return salt ^ (position * 0x9E3779B97F4A7C15 & MASK)


def without(data: bytes, at: int) -> bytes:
    """The bytes with the checksum field at `at` as zero."""
    return data[:at] + bytes(8) + data[at + 8 :]


def aligned(n: int, to: int) -> int:
    return -(-n // to) * to


def is_valid(bitmap: bytes, i: int) -> bool:
    return bool(bitmap[i // 8] >> (i % 8) & 1)


class Body:
    """Columns, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = 0

    def take(self, size: int) -> bytes:
        if not size:
            return b""
        start = aligned(self.end, 8)
        assert self.data[self.end : start] == bytes(start - self.end)
        self.end = start + size
        return self.data[start : self.end]

    def integers(self, count: int, code: str) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code)))


def test_the_worked_example(segment: bytes) -> None:
    header = decode("Segment header", segment[:256])
    assert header["magic"] == int.from_bytes(b"PSLSEG01", "little")
    assert header["checksum"] == xxh3_64_intdigest(segment[:248])
    assert (header["version"], header["header_len"], header["incompat"], header["compat"]) == (1, 256, 0, 0)
    assert (header["base_offset"], header["epoch"], header["partition"]) == (1000, 3, 2)
    assert header["topic_uuid"] == bytes(range(0xA0, 0xB0))
    salt = header["salt"]
    assert salt == 0x1122334455667788

    frame = segment[256:]
    meta = decode("Frame header", frame[:192])
    assert meta["magic"] == int.from_bytes(b"PSFB", "little")
    assert meta["header_len"] == 192
    assert meta["header_checksum"] == xxh3_64_intdigest(without(frame[:192], 8), seed=place_seed(salt, 256))
    frame = frame[: meta["bytes"]]
    assert meta["body_checksum"] == xxh3_64_intdigest(frame[192:])
    assert len(frame) == meta["bytes"] == 192 + aligned(meta["stored_bytes"], 64)
    assert (meta["base_offset"], meta["count"], meta["last_delta"]) == (1000, 2, 1)
    assert meta["attributes"] == 1 << 12 | 1 << 13 | 1 << 15
    assert meta["durable_offset"] == 998
    unset = ("value_width", "key_width", "delete_horizon", "schema_id", "producer_id", "base_sequence")
    assert {meta[name] for name in unset} == {-1}

    n, h = meta["count"], meta["header_count"]
    body = Body(frame[192:])
    timestamps = body.integers(n, "q")
    key_validity = body.take(aligned(n, 8) // 8)
    key_offsets = body.integers(n + 1, "i")
    keys = body.take(meta["key_bytes"])
    value_offsets = body.integers(n + 1, "i")
    values = body.take(meta["value_bytes"])
    lists = body.integers(n + 1, "i")
    name_offsets = body.integers(h + 1, "i")
    names = body.take(meta["header_key_bytes"])
    content_offsets = body.integers(h + 1, "i")
    contents = body.take(meta["header_value_bytes"])
    assert body.end == meta["raw_bytes"] == meta["stored_bytes"]
    assert frame[192 + body.end :] == bytes(len(frame) - 192 - body.end)

    def headers(i: int) -> list[tuple[str, bytes]]:
        return [
            (
                names[name_offsets[j] : name_offsets[j + 1]].decode(),
                contents[content_offsets[j] : content_offsets[j + 1]],
            )
            for j in range(lists[i], lists[i + 1])
        ]

    records = [
        (
            meta["base_offset"] + i,
            timestamps[i],
            keys[key_offsets[i] : key_offsets[i + 1]] if is_valid(key_validity, i) else None,
            values[value_offsets[i] : value_offsets[i + 1]],
            headers(i),
        )
        for i in range(n)
    ]
    first = 1_357_016_400_000_000_000  # 2013-01-01T05:00:00Z
    assert records == [
        (1000, first, None, b"hello", []),
        (1001, first + 500, b"UA", b"world", [("origin", b"JFK")]),
    ]
    assert (meta["first_timestamp"], meta["max_timestamp"]) == (min(timestamps), max(timestamps))

    position = 256 + meta["bytes"]
    seal = decode("Seal", segment[position:])
    assert seal["magic"] == int.from_bytes(b"PSEL", "little")
    assert seal["len"] == 64
    assert seal["checksum"] == xxh3_64_intdigest(
        without(segment[position : position + 64], 8), seed=place_seed(salt, position)
    )
    assert (seal["end_offset"], seal["frames"], seal["max_timestamp"]) == (1002, 1, first + 500)
    assert len(segment) == position + 64


def ids(directory: Path, kind: str) -> list[str]:
    return [path.name.removeprefix(f"{kind}+") for path in directory.glob(f"{kind}+*")]


def document(path: Path) -> dict[str, Any]:
    head, _, body = path.read_bytes().partition(b"\n")
    assert head == f"pystream-group 1 {xxh3_64_intdigest(b'1' + bytes([10]) + body):016x}".encode()
    content = json.loads(body)
    assert body == json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    assert isinstance(content, dict)
    return content


def test_the_files_of_a_group(tmp_path: Path) -> None:
    """A group that is at work, read by the page alone."""
    directory = tmp_path / "s" / "groups" / "g"
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=2)
        topic.partition(1).append([b"a", b"b", b"c"])
        consumer = store.consumer("t", group="g", client="me", session_timeout=7)
        assert [next(iter(consumer)).offset for _ in range(3)] == [0, 1, 2]  # the last one is in hand
        page = (directory / "control").read_bytes()
        control = decode("Control page", page)
        (present,) = ids(directory, "state")
        (id,) = ids(directory, "member")
        member_file = (directory / f"member+{id}").read_bytes()
        state = document(directory / f"state+{present}")
        live = decode("Live file", (tmp_path / "s" / "live").read_bytes())
        consumer.close()

    assert len(page) == CONSTANTS["PS_CONTROL_BYTES"]
    assert (control["magic"], control["version"]) == (int.from_bytes(b"PSGROUP1", "little"), 1)
    assert control["checksum"] == xxh3_64_intdigest(page[:56])
    there = (directory / "control").stat()
    assert (control["device"], control["inode"]) == (there.st_dev, there.st_ino)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")
    assert (control["incarnation"], control["boot_id"]) == (live["incarnation"], bytes.fromhex(boot))
    assert control["state"] == int(present, 16)

    member = decode("Member file", member_file)
    assert (member["magic"], member["version"]) == (int.from_bytes(b"PSMEMBR1", "little"), 1)
    assert (f"{member['id']:016x}", member["fenced"]) == (id, 0)
    assert member["checksum"] == xxh3_64_intdigest(member_file[:24])
    assert member["beats"]
    marks = [mark for (mark,) in struct.iter_unpack("<q", member_file[table("Member file")[-1].at :])]
    assert len(marks) == 512

    uuid = topic.uuid.hex
    space = Path("/proc/self/ns/pid").stat().st_ino
    assert state["members"] == {id: [os.getpid(), space, "me", ["t"], 7 * 10**9, False]}
    assert (state["topics"], state["names"]) == ({"t": [uuid, 2]}, {uuid: "t"})
    assert (state["generation"], state["assignor"], state["deleted"]) == (1, "sticky", False)
    assert state["targets"] == [[uuid, 0, id], [uuid, 1, id]]
    claims = {partition: rest for topic_uuid, partition, *rest in state["claims"] if topic_uuid == uuid}
    assert {partition: [owner, *rest] for partition, (owner, _, *rest) in claims.items()} == {
        0: [id, 1, 0],
        1: [id, 1, 0],
    }
    assert marks[claims[0][1]] == 0 and marks[claims[1][1]] == 2
    assert sorted(marks) == [-1] * 510 + [0, 2]

    saved = document(directory / "committed")
    assert {(row[0], row[1]): tuple(row[2:5]) for row in saved["committed"]} == {
        (uuid, 0): (0, 0, ""),
        (uuid, 1): (3, 0, ""),
    }
    assert (saved["names"], saved["members"], saved["claims"], saved["targets"]) == ({uuid: "t"}, {}, [], [])
