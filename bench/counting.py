"""Counts the instructions of paths, each in a child of this process, and prints them as JSON:
python bench/counting.py [--out DIRECTORY] [NAME...]; bench/instructions.py starts it, mostly under callgrind.
"""

import argparse
import gc
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import gauge
import machine
from gauge import Gauge
from paths import PATHS, Path_, Site, store_root
from pystream._native import hashing


def compiler(module: Any) -> str:
    """Who compiled a native module, as its file tells."""
    found = re.search(rb"(GCC: \([^)]*\) [0-9.]+|clang version [0-9.]+)", Path(module.__file__).read_bytes())
    return found[1].decode() if found else "unknown"


def environment(instrument: str) -> dict[str, str]:
    """All that counts depend on, besides the code."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    libraries = sorted(set(re.findall(r"(?:libc|libc-|liblz4)\.so[.0-9]*", maps)))
    said = {
        "instrument": instrument,
        "compiler": compiler(hashing),
        "python": " ".join(sys.version.split()),
        "numpy": np.__version__,
        "libraries": " ".join([*libraries, *filter(None, os.confstr("CS_GNU_LIBC_VERSION").split()[1:])]),
        "checksum": hashing.variant(),
        "stores": machine._filesystem(os.path.realpath(store_root())),
    }
    if instrument == "perf":
        said["processor"] = machine._cpu()
    return said


def ballast() -> list[Any]:
    """Small objects in every second slot of Python's allocator, which gives back a pool when its last object
    goes, and takes it again for the next one: what a loop costs would depend on what ran before it."""
    made: list[Any] = [object() for _ in range(4000)]
    made += [float(number) for number in range(4000)]
    made += [bytes(size - 33) for size in range(48, 528, 16) for _ in range(800)]
    del made[::2]
    return made


def counted(meter: Gauge, chosen: Path_) -> float:
    """Instructions a unit: those of three times as much work less those of the work, so that what is done
    once is left out."""
    totals = []
    for count in (chosen.count * 3, chosen.count, chosen.count * 3):  # the first is not counted
        with Site(store_root()) as site:
            work = chosen.work(site, count)
            gc.collect()
            meter.begin()
            work()
            totals.append(meter.end())
    return (totals[2] - totals[1]) / (2 * chosen.count)


def alone(chosen: Path_, out: Path | None) -> dict[str, Any]:
    """Count a path in a child of this process: whatever is counted before it, it meets the same memory."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        failed = True
        try:
            meter = gauge.gauge(out)
            said = {"count": counted(meter, chosen), "environment": environment(meter.name)}
            os.write(writing, json.dumps(said).encode())
            failed = False
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(failed)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"counting {chosen.name} failed")
    found: dict[str, Any] = json.loads(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    kept = ballast()
    gc.disable()
    found = {name: alone(PATHS[name], arguments.out) for name in arguments.names or PATHS}
    counts = {name: one["count"] for name, one in found.items()}
    print(json.dumps({"environment": next(iter(found.values()))["environment"], "counts": counts}))
    del kept


if __name__ == "__main__":
    main()
