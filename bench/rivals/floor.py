"""The least work that any log must do for the same result: see floors/floors.h. Nothing here is a log."""

import gc
import marshal
import os
import struct
import time
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import shapes
from floors.build import load
from rivals.base import Contestant, Seen, drop
from shapes import Scene

BATCH_BYTES = 256 << 10
SYNC_STRIDE = 512
ROOM_BYTES = 1 << 20
OFFSET_BYTES = 4
ACKED_BYTES = 4096


@cache
def floors() -> ModuleType:
    return load()


class Floor(Contestant):
    """Writing: call, gather, offsets, xxh3, store. Reading: xxh3, make objects."""

    key = "floor"
    label = "floor: pwrite; struct"
    kind = "floor"
    way = "PWRITE"
    way_name = "pwrite"

    _files: dict[str, Any]
    _stored: dict[str, str]  # by form: the file to be read
    _is_cold = False

    @classmethod
    def available(cls) -> str | None:
        try:
            floors()
        except Exception as error:  # whatever the compiler says
            return f"the floors could not be built: {error}"
        return None

    @classmethod
    def cannot(cls, scene: Scene, op: str, form: str, temperature: str) -> str | None:
        if scene.workers > 1:
            return "floors are of one thread"
        return None

    @classmethod
    def durability(cls, scene: Scene) -> str:
        return "fdatasync" if scene.durability == "synced" else "the page cache"

    @classmethod
    def done(cls, scene: Scene) -> str:
        return "the last byte is stored, and synced block by block where the others sync"

    @classmethod
    def settings(cls, scene: Scene) -> str:
        work = "LZ4, xxh3" if scene.shape.codec == "lz4" else "gather, offsets, xxh3"
        return (
            f"writing: {work}, {cls.way_name} into reserved space, in record form a no-op call a record "
            "before that; reading: xxh3 of mapped pages, objects made in C from memory"
        )

    def prepare(self) -> None:
        self._files = {}
        self._stored = {}

    def write(self, form: str, blocks: int) -> float:
        scene = self.scene
        raw = blocks * scene.block * (scene.shape.width + OFFSET_BYTES)
        room = max(raw, blocks * SYNC_STRIDE * scene.acked) + raw // 64 + ROOM_BYTES
        if form in self._files:
            self._files.pop(form).close()
        file = floors().File.make(str(self.directory / f"{form}.floor"), room)
        self._files[form] = file
        self.state[form] = blocks
        way = getattr(floors(), self.way)
        parts = list(shapes.blocks(scene, blocks))
        joined = b""
        if scene.shape.codec == "lz4":
            joined = b"".join(map(b"".join, parts))
        gc.collect()
        gc.disable()
        began = time.monotonic()
        if form == "record":
            send = floors().Sink().send
            for part in parts:
                for value in part:
                    send(value)
        synced = scene.durability == "synced"
        if scene.acked and synced:
            file.sync_loop(parts[0][0], SYNC_STRIDE, blocks)
        elif joined and not synced:
            file.compress_blocks(joined, BATCH_BYTES, way)
        else:
            room = ACKED_BYTES if scene.acked else max(BATCH_BYTES, 2 * scene.shape.width)
            for part in parts:
                file.gather(part, room, way)
                if synced:
                    file.sync()
        spent = time.monotonic() - began
        gc.enable()
        os.truncate(file.path, file.end)
        self._stored[form] = file.path
        return spent

    def chill(self) -> float | None:
        if not self._is_cold:
            for form, path in self._stored.items():
                self._stored[form] = f"{path}.cold"
                os.link(path, self._stored[form])  # closing removes the other
        self.close()
        self._is_cold = True
        return drop(self.directory)

    def read(self, form: str) -> tuple[float, list[Seen]]:
        scene = self.scene
        view = floors().File.view(self._stored[form])
        width, block = scene.shape.width, scene.block
        made = shapes.pool(scene.shape, block)
        make = self._maker(made)
        blocks = self.state[form]
        count, last = 0, b""
        if not self._is_cold:
            view.hash_pass(BATCH_BYTES, True)  # what is warm is mapped, too
        gc.collect()
        gc.disable()
        began = time.monotonic()
        view.hash_pass(BATCH_BYTES, False)
        for number in range(blocks):
            values = make(number % len(made))
            if form == "batch":
                count += len(values)
                last = values[-1]
            else:
                for last in values:
                    count += len(last)
        spent = time.monotonic() - began
        gc.enable()
        view.close()
        return spent, [Seen(count if form == "batch" else count // width, last)]

    def _maker(self, made: list[list[bytes]]) -> Callable[[int], Sequence[bytes]]:
        """What makes the objects of a block anew, in one call of C."""
        raw = b"".join(map(b"".join, made))
        whole = struct.Struct(f"{self.scene.shape.width}s" * self.scene.block)
        return lambda number: whole.unpack_from(raw, number * whole.size)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}


class FloorPopulate(Floor):
    """The same by other ways of storing and of making objects, since none is always the fastest."""

    key = "floor-populate"
    label = "floor: mapped; marshal"
    way = "POPULATE"
    way_name = "populate and memcpy"

    def _maker(self, made: list[list[bytes]]) -> Callable[[int], Sequence[bytes]]:
        stored = [marshal.dumps(block, 2) for block in made]  # version 2 keeps no references
        return lambda number: marshal.loads(stored[number])
