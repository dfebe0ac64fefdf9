"""Consumer groups where others come in between at the worst moment, as when a process was stopped there."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import group_lives
import pystream
from group_lives import Company, append, fill, places, until
from harness import Life, quick_directory
from pystream import ClosedError, ForkedError, LockTimeoutError, StorageError, TopicDeletedError
from pystream._native.group import Peer, head_durable, watch_directory
from pystream.group import admin, shared, watcher
from pystream.group.documents import State
from pystream.group.membership import Membership
from pystream.group.shared import Gone, SharedGroup

P = ("t", 0)


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "s"


@pytest.fixture
def store(path: Path) -> Iterator[pystream.Store]:
    with pystream.open(path) as opened:
        yield opened


def join(store: pystream.Store, **options: Any) -> pystream.Consumer:
    return store.consumer("t", **{"group": "g", "timeout": 5} | options)


def open_group(store: pystream.Store) -> SharedGroup:
    return SharedGroup(store._handle, store.path, "g", create=False)


def put_out(store: pystream.Store, consumer: pystream.Consumer) -> None:
    """As another member does that finds it silent."""
    put_out_silently(store, consumer)
    open_group(store).control.notify()


def put_out_silently(store: pystream.Store, consumer: pystream.Consumer) -> None:
    """As one that is killed before it can say so."""
    group = open_group(store)
    Peer(group.control, group.member_file(consumer.member_id or "")).fence()


class Between:
    """A function in whose first call something else happens before it is done."""

    def __init__(self, function: Callable[..., Any], first: Callable[[], object]) -> None:
        self.function = function
        self.first: Callable[[], object] | None = first

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        first, self.first = self.first, None
        if first is not None:
            first()
        return self.function(*arguments, **options)


# ---- a member that is put out ---------------------------------------------------------------------


def looks(store: pystream.Store) -> int:
    return store.group("g").committed()[pystream.TopicPartition(*P)].offset


def put_out_slowly(
    store: pystream.Store, consumer: pystream.Consumer, meanwhile: Callable[[], object]
) -> int:
    """Put the member out; once its marks are read, something else happens. Returns how often they were."""
    group, times = open_group(store), 0

    def edit(state: State) -> bool:
        nonlocal times
        removed = group.remove_members(state, {consumer.member_id or ""})
        times += 1
        if times == 1:
            meanwhile()
        return removed

    group.change(edit)
    return times


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_what_was_seen_committed_stays_so(store, path, mode):
    """A commit that comes too late for who puts the member out is seen by nobody, or never taken back."""
    fill(store, partitions=1, records=10)
    seen = []
    with join(store, auto_commit=False) as consumer, pystream.open(path, mode=mode) as observing:
        assert consumer.poll() is not None
        consumer.commit({P: 3})
        assert looks(observing) == 3

        def commit_and_look() -> None:
            with pytest.raises(pystream.FencedMemberError):
                consumer.commit({P: 7})
            if mode == "rw":
                seen.append(looks(observing))
            else:
                reader.start()
                reader.join(0.02)

        reader = threading.Thread(target=lambda: seen.append(looks(observing)))
        assert put_out_slowly(store, consumer, commit_and_look) == (2 if mode == "rw" else 1)
        if mode == "r":
            reader.join()
        assert looks(store) == looks(observing) == seen[0]


def test_who_cannot_write_does_not_wait_for_ever(store, path):
    """Who puts the member out is dead: its marks are what the next one will take."""
    fill(store, partitions=1, records=10)
    with store.consumer(group="g") as consumer, pystream.open(path, mode="r") as observing:
        consumer.subscribe("t")
        consumer.poll()
        consumer.commit({P: 4})
        put_out_silently(store, consumer)
        began = time.monotonic()
        assert looks(observing) == 4
        assert time.monotonic() - began < 5


def test_a_full_disk_hides_no_offsets(store, monkeypatch):
    fill(store, partitions=1, records=10)
    with join(store, auto_commit=False) as consumer:
        consumer.poll()
        consumer.commit({P: 4})
        put_out_silently(store, consumer)

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "no space", "state")

        with monkeypatch.context() as patched:
            patched.setattr(shared.SharedGroup, "_new_file", full)
            assert looks(store) == 4


def test_a_group_that_is_just_being_made(store, path):
    """Its file is there, and nothing in it: who only looks finds no group yet."""
    fill(store, partitions=1, records=10)
    (path / "groups/g").mkdir(parents=True)
    (path / "groups/g/control").touch()
    with pystream.open(path, mode="r") as observing, pytest.raises(pystream.GroupNotFoundError):
        observing.group("g").committed()
    with join(store) as consumer:
        assert consumer.poll() is not None


# ---- files that are swept -------------------------------------------------------------------------


def test_a_member_that_joins_and_dies_beside_a_sweep(store, path, monkeypatch):
    """Its file is left until its marks are taken."""
    fill(store, partitions=1, records=10)
    with store.consumer(group="g"):
        pass

    def join_and_die() -> None:
        life = Life(group_lives.idler, str(path), {"auto_commit": False})
        life.receive()
        for _ in range(5):
            life.channel.send("ask")
            life.receive()
        life.channel.send("commit")
        assert life.receive() is None
        life.kill()
        life.end()

    with monkeypatch.context() as patched:
        patched.setattr(shared.os, "listdir", Between(os.listdir, join_and_die))
        open_group(store).sweep()
    with join(store) as heir:
        assert heir.position(P) == 5


def test_a_group_that_is_made_anew_beside_a_sweep(store, monkeypatch):
    """The sweeper leaves alone what is another group's."""
    fill(store, partitions=1, records=10)
    with join(store) as consumer:
        assert consumer.poll() is not None
    others = []

    def make_anew() -> None:
        store.group("g").delete()
        others.append(join(store))

    sweeper = open_group(store)
    with monkeypatch.context() as patched:
        patched.setattr(shared.os, "listdir", Between(os.listdir, make_anew))
        with pytest.raises(Gone):
            sweeper.sweep()
    assert store.group("g").describe().state == "stable"
    assert others[0].poll().offsets.tolist() == [0]
    others[0].close()


def test_a_group_that_is_made_anew_beside_a_save(store, monkeypatch):
    """Its offsets are not those of the one that was deleted."""
    fill(store, partitions=1, records=10)
    with join(store) as consumer:
        consumer.commit({P: 7})
    saver = open_group(store)

    def make_anew() -> None:
        store.group("g").delete()
        with store.consumer(group="g"):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(shared, "encode", Between(shared.encode, make_anew))
        with pytest.raises(Gone):
            saver.save()
    assert saver.saved() == {}
    assert open_group(store).saved() == {}


def test_a_group_that_is_deleted_beside_who_opens_it(store, monkeypatch):
    fill(store, partitions=1, records=10)

    def delete() -> None:
        store.group("g").delete()

    for create in (True, False):
        with join(store) as consumer:
            consumer.commit({P: 3})
        with monkeypatch.context() as patched:
            patched.setattr(shared, "Control", Between(shared.Control, delete))
            if create:
                with join(store) as consumer:
                    assert consumer.position(P) == 0
            else:
                with pytest.raises(pystream.GroupNotFoundError):
                    store.group("g")


def test_documents_that_were_not_saved_are_swept(store, path):
    """Not while somebody saves."""
    fill(store, partitions=1, records=10)
    with join(store):
        left = path / "groups/g/.tmp+0123456789abcdef"
        left.write_bytes(b"half of it")
        saver = open_group(store)
        assert saver.control.try_lock_save()
        join(store).close()
        assert left.exists()
        saver.control.unlock_save()
        join(store).close()
        assert not left.exists()


# ---- saving ---------------------------------------------------------------------------------------


def test_a_saver_that_is_stopped(store, monkeypatch):
    """Whoever wants offsets to be durable is told that they are not."""
    fill(store, partitions=1, records=10)
    with join(store, auto_commit=False) as consumer:
        stopped = open_group(store)
        assert stopped.control.try_lock_save()
        monkeypatch.setattr(Membership.save, "__defaults__", (0.05,))
        with pytest.raises(LockTimeoutError, match="'g': another process has been saving"):
            consumer.commit({P: 3}, durable=True)
        assert consumer.committed(P) == 3
        assert stopped.saved() == {}
        stopped.control.unlock_save()
        consumer.commit({P: 4}, durable=True)
        assert [entry.offset for entry in stopped.saved().values()] == [4]
    assert stopped.control.try_lock_save()
    monkeypatch.setattr(admin, "SAVE_PATIENCE_S", 0.05)
    with pytest.raises(LockTimeoutError):
        store.group("g").reset(2)
    assert store.group("g").committed()[(*P, None)].offset == 2
    stopped.control.unlock_save()


def test_a_head_that_cannot_be_read(store, path):
    """What is not known to be durable is not taken for it."""
    fill(store, partitions=1, records=10)
    with join(store, auto_commit=False) as consumer:
        consumer.commit({P: 3}, durable=True)
        group = open_group(store)
        consumer.commit({P: 5})
        store._handle.arm(f"openat:1:errno={errno.EMFILE}:1000")
        try:
            with pytest.raises(StorageError) as caught:
                group.save()
        finally:
            store._handle.arm(None)
        assert caught.value.errno == errno.EMFILE
        assert [entry.offset for entry in group.saved().values()] == [3]
    head = path / "other"
    assert head_durable(store._handle, str(head)) is None
    head.write_bytes(bytes(8192))
    with pytest.raises(OSError) as damaged:
        head_durable(store._handle, str(head))
    assert damaged.value.errno == errno.EINVAL


# ---- who reads ------------------------------------------------------------------------------------


def test_closed_by_another_thread_while_it_reads(store, monkeypatch):
    """Once others may read its partitions it gets no more; what it has in hand is given out again."""
    topic = store.topic("t", create=True)
    topic.append([b"%d" % number for number in range(10)])
    consumer = join(store)
    said: list[Any] = []
    asked, left, done = threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        records = iter(consumer)
        said.extend([next(records).offset, next(records).offset])
        asked.set()
        assert left.wait(20)
        try:
            said.append(next(records))
        except BaseException as error:
            said.append(type(error))
        done.set()

    def change(*arguments: Any) -> Any:
        state = real(*arguments)
        left.set()
        assert done.wait(20)
        return state

    thread = threading.Thread(target=read)
    thread.start()
    assert asked.wait(20)
    assert consumer._membership is not None
    real = consumer._membership._shared.change
    monkeypatch.setattr(consumer._membership._shared, "change", change)
    # It waits for us where it is told that the group has changed.
    monkeypatch.setattr(Membership, "notice", lambda *_: None)
    consumer.close()
    thread.join(20)
    monkeypatch.undo()
    assert said == [0, 1, ClosedError]
    heir = join(store)
    assert next(iter(heir)).offset == 1
    heir.close()


def test_closed_by_another_thread_after_it_has_read(store):
    """Who has ended has nothing in hand."""
    fill(store, partitions=1, records=3)
    consumer = join(store, timeout=0.1)
    thread = threading.Thread(target=lambda: next(iter(consumer)))
    thread.start()
    thread.join(20)
    consumer.close()
    assert store.group("g").committed()[(*P, None)].offset == 1


def test_a_forked_child_that_reads_on(store):
    """It is told so though records are at hand, and moves nothing of its parent's."""
    store.topic("t", create=True).append([b"%d" % number for number in range(10)])
    with join(store) as consumer:
        records = iter(consumer)
        assert next(records).offset == 0
        child = os.fork()
        if child == 0:
            status = 1
            with suppress(BaseException):
                try:
                    next(records)
                except ForkedError:
                    status = 0
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert consumer.committed(P) == 0
        assert next(records).offset == 1


# ---- who comes back -------------------------------------------------------------------------------


def test_who_cannot_join_anew_at_once_tries_again(store):
    """Put out while there is no room, it hears of it, and is a member again when there is."""
    fill(store, partitions=1, records=3)
    consumer = join(store)
    put_out(store, consumer)
    store._handle.arm(f"allocate:1:errno={errno.ENOSPC}:1000")
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            consumer.poll()
        assert caught.value.errno == errno.ENOSPC
        assert places(consumer) == [[]]
    store._handle.arm(None)
    assert consumer.poll().offsets.tolist() == [0]
    assert places(consumer) == [[P]]
    consumer.close()


def test_who_cannot_join_anew_may_be_closed(store):
    fill(store, partitions=1, records=3)
    consumer = join(store)
    put_out(store, consumer)
    store._handle.arm(f"allocate:1:errno={errno.ENOSPC}:1000")
    with pytest.raises(StorageError):
        consumer.poll()
    store._handle.arm(None)
    consumer.close()
    assert store.group("g").describe().members == ()


@pytest.mark.parametrize("again", [False, True])
def test_by_hand_where_the_topic_went_meanwhile(store, again):
    """It is told so when it comes back, and does not look for it for ever."""
    fill(store, partitions=2, records=3)
    consumer = store.consumer(group="g")
    consumer.assign([P])
    store.delete_topic("t")
    if again:
        fill(store, partitions=2, records=3)
    put_out(store, consumer)
    with pytest.raises(TopicDeletedError, match="'t' was deleted; subscribe or assign anew"):
        consumer.poll(timeout=1)
    fill(store, "u", partitions=1, records=3)
    consumer.assign([("u", 0)])
    assert consumer.poll(timeout=5) is not None
    consumer.close()


def test_a_topic_of_the_same_name_that_was_never_read(store):
    """The one that is there now is read by who knew another one only by name."""
    fill(store, partitions=1, records=3)
    with join(store) as owner, join(store) as other:
        assert places(owner, other) == [[P], []]
        store.delete_topic("t")
        fill(store, partitions=1, records=2)
        Company(store, "g", owner, other).settle()
        assert sorted(places(owner, other)) == [[], [P]]
        if places(other) == [[]]:
            owner.close()
        else:
            other.close()
        rest = other if owner.closed else owner
        Company(store, "g", rest).settle()
        assert places(rest) == [[P]]


def test_one_partition_of_several_that_cannot_be_read(store, monkeypatch):
    """Of the others it is told that they are assigned."""
    fill(store, partitions=3, records=2)
    told: list[list[int]] = []
    real = pystream.Consumer._make_reader

    def make_reader(self: pystream.Consumer, key: tuple[str, int], place: int) -> Any:
        if key[1] == 1:
            raise OSError(errno.EIO, "no")
        return real(self, key, place)

    consumer = join(store, on_assigned=lambda _, new: told.append([where.partition for where in new]))
    assert told == [[0, 1, 2]]
    put_out(store, consumer)
    with monkeypatch.context() as patched:
        patched.setattr(pystream.Consumer, "_make_reader", make_reader)
        with pytest.raises(OSError, match="no"):
            consumer.poll(timeout=0)
    assert told[-1] == [0]
    assert consumer.poll(timeout=0) is not None
    assert told[-1] == [1, 2]
    consumer.close()


def test_marks_of_claims_that_failed_are_used_again(store):
    """However often it fails, the member's file does not grow."""
    fill(store, partitions=4, records=2)
    first = join(store)
    with join(store) as second:
        page = second._membership._page
        first.close()
        before = page.take_slot()
        page.give_back(before)
        with pytest.MonkeyPatch.context() as patched:

            def fail(edit: Callable[[State], bool]) -> None:
                edit(open_group(store).load().copy())
                raise StorageError(errno.ENOSPC, "full")

            patched.setattr(second._membership._shared, "change", fail)
            for _ in range(300):
                with pytest.raises(StorageError):
                    second.poll(timeout=0)
        assert page.slots == 512
        assert second.poll(timeout=5) is not None
        assert len(places(second)[0]) == 4


# ---- descriptors ----------------------------------------------------------------------------------


class Slow:
    """Has the watcher's thread busy with what it heard."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor
        self.heard, self.may_go = threading.Event(), threading.Event()

    def interval_ns(self) -> int:
        return 10**9

    def wanted_processes(self) -> tuple[int, ...]:
        return ()

    def wanted_directory(self) -> int | None:
        return self.descriptor

    def look_again(self) -> None:
        self.heard.set()
        assert self.may_go.wait(20)


def test_a_descriptor_is_not_closed_while_it_is_polled(tmp_path):
    """Its number would be another file's, of which something would be read."""
    descriptor = watch_directory(str(tmp_path))
    slow = Slow(descriptor)
    watcher.get_watcher().add(slow)
    (tmp_path / "a").write_text("")
    (tmp_path / "a").rename(tmp_path / "b")
    assert slow.heard.wait(20)
    slow.descriptor = None
    watcher.retire(descriptor)
    os.fstat(descriptor)
    slow.may_go.set()

    def is_closed() -> bool:
        try:
            os.fstat(descriptor)
        except OSError as error:
            return error.errno == errno.EBADF
        return False

    until(is_closed, "its end")
    watcher.get_watcher().remove(slow)


def test_readers_come_and_go(store):
    """Nothing is left open."""
    topic = fill(store, partitions=1, records=1)
    with join(store) as consumer:
        assert consumer.poll() is not None
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            store.consumer("^t", group="other").close()
            store.consumer("^t").close()
        gc.collect()
        until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the end of the last of them")
        append(topic, 0, 1)
        assert consumer.poll(timeout=5) is not None
