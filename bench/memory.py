"""What streaming keeps in memory: python bench/memory.py [--gb 10] [--values 1000] [--keep]

Streams so many GB through a producer and a consumer of this process, and looks at RssAnon of
/proc/self/status all the while: memory of the process's own, so without the pages of files, which the kernel
takes back when it wants them. Prints its course as JSON. --keep holds on to every value that was read, to see
that it is noticed.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT_BYTES = 64 << 20
STEP_BYTES = 32 << 20
POOL_BYTES = 1 << 20
LOOK_S = 0.02


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no RssAnon")


class Watch:
    """Looks at it now and then, in a thread of its own. peak: the most there was, in bytes."""

    def __init__(self) -> None:
        self.peak = anonymous_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.peak = max(self.peak, anonymous_bytes())

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous_bytes())


def stream(root: Path, total: int, width: int, keep: bool) -> dict[str, Any]:
    """Send `total` bytes of values and read them, turn by turn."""
    import pystream

    blob = random.Random(1).randbytes(max(POOL_BYTES, width))
    pool = [blob[at : at + width] for at in range(0, len(blob) - width + 1, width)]
    passes = max(1, STEP_BYTES // (len(pool) * width))
    steps = max(1, round(total / (passes * len(pool) * width)))
    held, course, sent, seen = [], [], 0, 0
    before = anonymous_bytes()
    with (
        pystream.open(root / "store") as store,
        store.topic("memory", create=True).producer() as producer,
        store.consumer("memory") as consumer,
        Watch() as watch,
    ):
        send, records = producer.send, iter(consumer)
        began = time.perf_counter()
        for _ in range(steps):
            for _ in range(passes):
                for value in pool:
                    send(value)
            sent += passes * len(pool)
            producer.flush()
            for record in records:
                value = record.value
                if keep:
                    held.append(value)
                seen += 1
                if seen == sent:
                    break
            course.append([sent * width, anonymous_bytes()])
        seconds = time.perf_counter() - began
    del held
    return {
        "bytes": sent * width,
        "value_bytes": width,
        "seconds": seconds,
        "before_bytes": before,
        "peak_bytes": watch.peak,
        "limit_bytes": LIMIT_BYTES,
        "course": course,
    }


def measured(root: Path, gigabytes: float, width: int = 1000, *, keep: bool = False) -> dict[str, Any]:
    """What `stream` finds in a process of its own."""
    command = [sys.executable, str(HERE / "memory.py"), "--gb", str(gigabytes), "--values", str(width)]
    command += ["--root", str(root), *(["--keep"] if keep else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=10)
    parser.add_argument("--values", type=int, default=1000, metavar="BYTES")
    parser.add_argument("--root", type=Path, default=HERE.parent / "build")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    if arguments.gb <= 0 or arguments.values < 1:
        parser.error("--gb and --values are more than 0")
    arguments.root.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="memory-", dir=arguments.root))
    try:
        print(json.dumps(stream(root, round(arguments.gb * 1e9), arguments.values, arguments.keep)))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
