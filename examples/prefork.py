"""A store in programs that fork: a server of the kind of gunicorn, and multiprocessing pools.

    python examples/prefork.py --requests 200 --workers 3

The rule is one: each process opens the store for itself, after the fork. Then fork, forkserver and spawn are
alike, and no process disturbs another. What was opened before the fork belongs to the parent: in a child it
raises `ForkedError`, at the first use, and harms nothing.

The server listens, forks its workers, and starts another one in place of each that dies. A worker appends
each request to a topic before it answers, so that what was answered is in the log. The client kills a worker
while it has a request in hand; where the answer does not come, it asks again. The pools square numbers into
another topic, by workers that were forked and by workers that were spawned.
"""

import argparse
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pystream

CLIENT_TIMEOUT_S = 30


def fork(child: Callable[[], int]) -> int:
    """Run `child` in a forked process, which ends with what it returns. The process's id."""
    sys.stdout.flush()  # or the child would print it, too
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = child()
            sys.stdout.flush()
        finally:
            os._exit(status)  # nothing of the parent's is cleaned up here
    return pid


# ---- the server ---------------------------------------------------------------------------------------


def serve(listener: socket.socket, store_path: Path) -> int:
    """A worker: says its id to who connects, then answers a line by its offset in the log. Until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    store = pystream.open(store_path)  # after the fork: in gunicorn, the hook `post_fork`
    partition = store.topic("requests").partition(0)
    while True:
        connection, _ = listener.accept()
        with suppress(ConnectionError), connection, connection.makefile("rb") as lines:
            connection.sendall(b"%d\n" % os.getpid())
            for line in lines:
                offset = partition.append([line.rstrip(b"\n")])  # acknowledged: it survives this process
                connection.sendall(b"%d\n" % offset)


def run_server(store_path: Path, workers: int, requests: int) -> None:
    """The master: keeps workers alive until the client has ended. It has no store open itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        alive = {fork(lambda: serve(listener, store_path)) for _ in range(workers)}
        client = fork(lambda: ask_all(port, store_path, requests))
        killed = 0
        while (ended := os.wait())[0] != client:
            alive.remove(ended[0])
            alive.add(fork(lambda: serve(listener, store_path)))
            killed += 1
        for pid in alive:
            os.kill(pid, signal.SIGTERM)
            killed += os.waitpid(pid, 0)[1] == signal.SIGKILL  # the client may be done before it is replaced
    if ended[1]:
        raise SystemExit("the client failed")
    print(f"server: {killed} worker killed")


def ask(port: int, text: bytes, kill: bool = False) -> int | None:
    """Send a request; perhaps kill the worker that has it. The offset it says; None: no answer came."""
    with (
        suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", port), CLIENT_TIMEOUT_S) as connection,
        connection.makefile("rb") as lines,
    ):
        worker = lines.readline()
        connection.sendall(text + b"\n")
        if kill and worker:
            os.kill(int(worker), signal.SIGKILL)
        answer = lines.readline()
        if answer.endswith(b"\n"):
            return int(answer)
    return None


def ask_all(port: int, store_path: Path, requests: int) -> int:
    """The client: asks until it is answered, then looks whether all that was answered is in the log."""
    answers: dict[bytes, int] = {}
    for number in range(requests):
        text = b"request %d" % number
        offset = ask(port, text, kill=number == requests // 2)
        while offset is None:
            offset = ask(port, text)
        answers[text] = offset
    with pystream.open(store_path) as store:
        partition = store.topic("requests").partition(0)
        for text, offset in answers.items():
            assert partition[offset].value == text
        unanswered = partition.end_offset - requests
    print(f"client: {requests} requests answered, and all in the log; logged without an answer: {unanswered}")
    return 0


# ---- pools --------------------------------------------------------------------------------------------

squares: pystream.Topic


def open_store(store_path: Path) -> None:
    """The initializer of a pool's worker: runs in the worker, whatever the start method."""
    global squares
    squares = pystream.open(store_path).topic("squares")


def square(number: int) -> int:
    """Append a square; the offset."""
    return squares.append([b"%d" % number**2])


def run_pools(store_path: Path, workers: int, numbers: int) -> None:
    """The same work by workers that were forked and by workers that were spawned."""
    for method in ("fork", "spawn"):
        with get_context(method).Pool(workers, initializer=open_store, initargs=(store_path,)) as pool:
            offsets = pool.map(square, range(numbers), chunksize=10)
        with pystream.open(store_path) as store:
            values = [store.topic("squares").partition(0)[offset].value for offset in offsets]
        assert values == [b"%d" % number**2 for number in range(numbers)]
        print(f"pool by {method}: {numbers} squares, each where the worker said")


# ---- what was opened before ---------------------------------------------------------------------------


def show_inherited(store_path: Path) -> None:
    """A child tries what its parent has open, and then opens the store itself."""
    with pystream.open(store_path) as store:
        topic = store.topic("inherited", create=True)
        producer = topic.producer(linger=10)
        producer.send(b"from the parent")  # still in the parent's hands

        def child() -> int:
            for use in (store.topics, lambda: topic.append([b"no"]), lambda: producer.send(b"no")):
                try:
                    use()
                except pystream.ForkedError:
                    continue
                return 1
            producer.close()  # gives up nothing of the parent's
            with pystream.open(store_path) as own:
                own.topic("inherited").append([b"from the child"])
            return 0

        status = os.waitstatus_to_exitcode(os.waitpid(fork(child), 0)[1])
        producer.close()
        values = [record.value for record in topic.records()]
    assert (status, values) == (0, [b"from the child", b"from the parent"])
    print("inherited handles: ForkedError in the child, and the parent's record written once")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="A store in programs that fork.")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200, help="and as many numbers for each pool")
    given = parser.parse_args()
    if given.workers < 1 or given.requests < 1:
        parser.error("at least 1 worker and 1 request")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "prefork.ps"
        with pystream.open(path) as store:  # made here, closed before anything forks
            store.topic("requests", create=True)
            store.topic("squares", create=True)
        run_server(path, given.workers, given.requests)
        run_pools(path, given.workers, given.requests)
        show_inherited(path)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
