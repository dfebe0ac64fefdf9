"""The receiving side of a hand-over: peer.py FLOORS_MODULE STORE POST MODE COUNT.

Prints latencies in seconds as JSON.
"""

import importlib.util
import json
import mmap
import sys
import time

import pystream


def main() -> None:
    module, store_path, post_path, mode, count = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("floors", module)
    assert spec is not None and spec.loader is not None
    floors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(floors)
    spinning = mode == "spinning"
    now = time.monotonic_ns
    figure, floor = [], []
    with pystream.open(store_path) as store, open(post_path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 4096)
        post = floors.Post(memory)
        consumer = store.consumer("hand", start="latest", spin=1.0 if spinning else 0.0)
        assert consumer.poll(timeout=0) is None
        print("ready", flush=True)
        for number in range(1, int(count) + 1):
            batch = consumer.poll(timeout=10)
            seen = now()
            figure.append((seen - int.from_bytes(batch.values[0], "little")) / 1e9)
            floor.append(post.receive(number, spinning) / 1e9)
        consumer.close()
    print(json.dumps({"figure": figure[100:], "floor": floor[100:]}))


main()
