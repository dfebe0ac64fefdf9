"""A work queue: tasks are done by several worker processes, each at least once, whoever dies.

    python examples/work_queue.py --tasks 300 --workers 3 --kill 2

Tasks are records of a topic, workers are members of a consumer group. A worker takes a task, does it, and
then commits, so that the task of a worker that died is given to another one. `--kill` kills so many workers
(SIGKILL) while they work, one after the other, and starts others in their place. A journal tells what
happened: a worker that is killed has one task in hand, and that one, at most, is begun twice. When it died
after the work and before the commit, it is even done twice: so what a task does must bear repetition.

Here a task is to find the prime factors of a number. Within a partition tasks are done one after the other;
several partitions for each worker let the work spread.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pystream

PROCESSES = get_context("spawn")
GROUP = "workers"
PARTITIONS_PER_WORKER = 4


def factors(number: int) -> list[int]:
    """The prime factors of a number: something that takes a while."""
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found + [number] * (number > 1)


def work(store_path: Path) -> None:
    """Do tasks, as a member of the group, until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then ends this process
    with pystream.open(store_path) as store:
        journal = store.topic("journal")

        def note(task: int, **what: object) -> None:
            journal.append([json.dumps({"task": task, "worker": os.getpid(), **what}).encode()])

        with store.consumer("tasks", group=GROUP, auto_commit=False, value="json") as consumer:
            for record in consumer:
                task = record.value["task"]
                note(task, event="begun")
                note(task, event="done", factors=factors(record.value["number"]))
                consumer.commit()  # this task, and nothing else, is what a death here would repeat


def start(store_path: Path) -> BaseProcess:
    """A worker process."""
    process = PROCESSES.Process(target=work, args=(store_path,))
    process.start()
    return process


def supervise(store: pystream.Store, tasks: int, workers: list[BaseProcess], kills: int) -> list[int]:
    """Until all tasks are done. Kills workers at even intervals, and replaces them; their pids."""
    killed: list[int] = []
    done: set[int] = set()
    with store.consumer("journal", value="json") as consumer:
        for record in consumer:
            entry = record.value
            if entry["event"] == "done":
                done.add(entry["task"])
            elif len(killed) < kills and len(done) >= tasks * (len(killed) + 1) // (kills + 2):
                # It has just begun this task.
                index = next((i for i, worker in enumerate(workers) if worker.pid == entry["worker"]), None)
                if index is not None:
                    workers[index].kill()
                    workers[index].join()
                    killed.append(entry["worker"])
                    workers[index] = start(Path(store.path))
            if len(done) == tasks:
                break
    while any(partition.lag for partition in store.group(GROUP).describe().partitions):
        time.sleep(0.01)  # the last of them are not committed yet
    return killed


def tell(store: pystream.Store, numbers: list[int], killed: list[int]) -> None:
    """Print what the journal says, and check the results."""
    begun: dict[int, list[int]] = defaultdict(list)
    done: dict[int, list[int]] = defaultdict(list)
    share: dict[int, int] = defaultdict(int)
    for record in store.topic("journal").records():
        entry = json.loads(record.value or b"")
        task, worker = entry["task"], entry["worker"]
        if entry["event"] == "begun":
            begun[task].append(worker)
            continue
        done[task].append(worker)
        share[worker] += 1
        assert entry["factors"] == factors(numbers[task])
    print(f"{len(numbers)} tasks, {len(done)} done; workers killed: {len(killed)}")
    for worker, count in sorted(share.items()):
        print(f"  process {worker} did {count}{', and was killed' * (worker in killed)}")
    for task, by in sorted(begun.items()):
        if len(by) > 1:
            twice = "done twice" if len(done[task]) > 1 else "done once"
            print(f"  task {task} was begun by {' and by '.join(map(str, by))}, and {twice}")


def run(store_path: Path, given: argparse.Namespace) -> None:
    """Queue the tasks, have them done, tell about it."""
    pick = random.Random(given.seed)
    numbers = [pick.randrange(10**10, 10**11) for _ in range(given.tasks)]
    with pystream.open(store_path) as store:
        queue = store.topic("tasks", create=True, partitions=PARTITIONS_PER_WORKER * given.workers)
        store.topic("journal", create=True)
        with queue.producer(value="json") as producer:
            for task, number in enumerate(numbers):
                producer.send({"task": task, "number": number}, partition=task % queue.partitions)
        began = time.perf_counter()
        workers = [start(store_path) for _ in range(given.workers)]
        try:
            killed = supervise(store, given.tasks, workers, given.kill)
        finally:
            for worker in workers:
                worker.terminate()
                worker.join()
        tell(store, numbers, killed)
        print(f"in {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="A work queue with workers that may die.")
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kill", type=int, default=1, help="workers to kill in the middle")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.tasks < 1 or given.workers < 1 or not 0 <= given.kill < given.tasks:
        parser.error("at least 1 task and 1 worker, and fewer kills than tasks")
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory) / "queue.ps", given)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
