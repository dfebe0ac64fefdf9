"""Stores and topics: opening, creating, sharing, refusing."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

import pystream
from pystream import (
    ClosedError,
    CorruptLogError,
    OptionError,
    StoreNotFoundError,
    TopicNotFoundError,
    UnsafeFileSystemError,
    UnsupportedError,
)


def everything(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


# ---- paths ----------------------------------------------------------------------------------------


def test_opens_again(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        uuid = store.uuid
        assert store.path == str(tmp_path / "s")
        assert store.topics() == []
    with pystream.open(str(tmp_path / "s"), create=False) as store:
        assert store.uuid == uuid
        assert not store.closed
    assert store.closed


def test_mistyped_path(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="does not exist") as caught:
        pystream.open(tmp_path / "nowhere", create=False)
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(StoreNotFoundError, match="parent directory"):
        pystream.open(tmp_path / "no" / "where")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreNotFoundError, match="not a pystream store"):
        pystream.open(tmp_path / "empty", create=False)
    assert everything(tmp_path) == ["empty"]


def test_file_or_other_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    before = everything(tmp_path)
    for create in (True, False):
        for name in ("file", "dangling", "file/below"):
            with pytest.raises(StoreNotFoundError):
                pystream.open(tmp_path / name, create=create)
        with pytest.raises(StoreNotFoundError, match="not a pystream store"):
            pystream.open(tmp_path / "home", create=create)
    assert everything(tmp_path) == before


def test_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with pystream.open(tmp_path) as store:
        store.topic("t", create=True)
        assert store.topics() == ["t"]


def test_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pystream.open(tmp_path / "link") as one, pystream.open(tmp_path / "real") as two:
        assert one.uuid == two.uuid
        one.topic("t", create=True).append([b"x"])
        assert two["t"].partition(0)[0].value == b"x"


@pytest.mark.parametrize("path", [None, 1, b"bytes", ["list"]])
def test_path_of_wrong_type(path: object) -> None:
    with pytest.raises(TypeError, match="path"):
        pystream.open(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_path_refused(path: str) -> None:
    with pytest.raises(OptionError, match="path"):
        pystream.open(path)


# ---- options of open ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "always"},
        {"durability": ""},
        {"io": "direct"},
        {"sync_interval": 0},
        {"sync_interval": "999us"},
        {"sync_interval": 3601},
        {"sync_interval": "soon"},
    ],
)
def test_open_refuses_values(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        pystream.open(tmp_path / "s", **options)  # type: ignore[arg-type]
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"durability": 1},
        {"io": None},
        {"sync_interval": b"1s"},
        {"sink": 1},
        {"sync_interval": True},
        {"create": "no"},
        {"force": 1},
    ],
)
def test_open_refuses_types(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        pystream.open(tmp_path / "s", **options)  # type: ignore[arg-type]
    assert everything(tmp_path) == []


@pytest.mark.parametrize("value", ["1ms", 0.002, 1, 3600, "1h"])
def test_sync_interval_limits(tmp_path: Path, value: object) -> None:
    pystream.open(tmp_path / "s", sync_interval=value).close()  # type: ignore[arg-type]


def test_opening_twice_shares(tmp_path: Path) -> None:
    one = pystream.open(tmp_path / "s", sync_interval="2s", durability="sync")
    two = pystream.open(tmp_path / "s")
    three = pystream.open(tmp_path / "s", sync_interval=2, durability="sync", io=one.io)
    assert two.sync_interval == three.sync_interval == 2.0
    assert two.durability == "sync"
    for option, value in (
        ("sync_interval", 1),
        ("durability", "none"),
        ("io", {"mmap": "pwrite"}.get(one.io, "mmap")),
    ):
        with pytest.raises(OptionError, match=f"{option}=.*already open.*{option}="):
            pystream.open(tmp_path / "s", force=True, **{option: value})  # type: ignore[arg-type]
    one.topic("t", create=True).append([b"x"])
    one.close()
    two.close()
    assert three["t"].partition(0)[0].value == b"x"
    three.close()
    with pystream.open(tmp_path / "s", durability="none", sync_interval=1) as again:
        assert again.durability == "none"
        assert again["t"].options.durability == "sync"


def test_io_is_honoured(tmp_path: Path, any_io: str) -> None:
    with pystream.open(tmp_path / "s", io=any_io, force=True) as store:
        assert store.io == any_io
        assert store.topic("t", create=True).append([b"a", b"b"]) == 0
    with pystream.open(tmp_path / "s") as store:
        assert [record.value for record in store["t"].records()] == [b"a", b"b"]


def test_unsafe_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pystream.opening.choose_io", lambda path: ("refused", "nfs"))
    with pytest.raises(UnsafeFileSystemError, match="nfs") as caught:
        pystream.open(tmp_path / "s")
    assert isinstance(caught.value, OSError)
    assert everything(tmp_path) == []
    with pystream.open(tmp_path / "s", force=True) as store:
        assert (store.io, store.filesystem) == ("pwrite", "nfs")


def test_maps_where_they_are_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pystream.opening.choose_io", lambda path: ("pwrite", "btrfs"))
    with pytest.raises(UnsafeFileSystemError, match="mmap"):
        pystream.open(tmp_path / "s", io="mmap")
    assert everything(tmp_path) == []
    with pystream.open(tmp_path / "s") as store:
        assert store.io == "pwrite"


# ---- topics ---------------------------------------------------------------------------------------


def test_topic_options_are_kept(store: pystream.Store) -> None:
    dtype = np.dtype([("ts", "<i8"), ("px", ">f8"), ("name", "S3")])
    made = store.topic(
        "ticks",
        create=True,
        partitions=3,
        compression="lz4",
        durability="sync",
        dtype=dtype,
        key_bytes=8,
        segment_bytes=100_000,
        index_interval_bytes="4KiB",
        timestamp_type="append",
    )
    for topic in (made, store.topic("ticks"), store["ticks"]):
        assert topic.uuid == made.uuid
        assert topic.partitions == 3
        assert topic.options == made.options
        assert topic.options.dtype == dtype
        assert topic.options.segment_bytes == 102_400
        assert topic.options.value_width == 19
    assert "ticks" in store
    assert "other" not in store
    assert 5 not in store
    assert "../store" not in store
    assert list(store) == ["ticks"]


def test_topic_that_is_not_there(store: pystream.Store) -> None:
    store.topic("clicks", create=True)
    with pytest.raises(TopicNotFoundError, match="did you mean 'clicks'"):
        store.topic("click")
    with pytest.raises(LookupError, match="create=True"):
        store["zzz"]
    assert store.topics() == ["clicks"]


def test_conflicting_topic_options(store: pystream.Store) -> None:
    store.topic("t", create=True, partitions=2, compression="lz4")
    for create in (True, False):
        store.topic("t", create=create)
        store.topic("t", create=create, partitions=2, segment_bytes="128MiB")
        for option, value in (
            ("partitions", 3),
            ("compression", "none"),
            ("durability", "sync"),
            ("dtype", "f8"),
            ("value_bytes", 8),
            ("key_bytes", 0),
            ("segment_bytes", "1MiB"),
            ("index_interval_bytes", "1MiB"),
            ("timestamp_type", "append"),
        ):
            with pytest.raises(OptionError, match=f"{option}=.*'t' exists with {option}="):
                store.topic("t", create=create, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../evil", "", ".", "..", "a/b", "ü", "x" * 250, "__x"])
def test_topic_names(store: pystream.Store, name: str) -> None:
    before = everything(Path(store.path))
    for create in (True, False):
        with pytest.raises(OptionError, match="topic name"):
            store.topic(name, create=create)
    assert everything(Path(store.path)) == before


@pytest.mark.parametrize(
    "options",
    [
        {"partitions": 0},
        {"partitions": 65537},
        {"compression": "gzip"},
        {"durability": "async"},
        {"dtype": object},
        {"value_bytes": -1},
        {"key_bytes": "17MiB"},
        {"segment_bytes": "63KiB"},
        {"index_interval_bytes": 1},
        {"timestamp_type": "log"},
        {"dtype": "f8", "value_bytes": 8},
        {"segment_bytes": "64KiB", "value_bytes": "64KiB"},
    ],
)
def test_topic_refuses_values(store: pystream.Store, options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        store.topic("t", create=True, **options)  # type: ignore[arg-type]
    assert store.topics() == []


@pytest.mark.parametrize(
    "options",
    [{"partitions": 1.0}, {"compression": 4}, {"segment_bytes": 1e6}, {"color": "red"}, {"value_bytes": b""}],
)
def test_topic_refuses_types(store: pystream.Store, options: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        store.topic("t", create=True, **options)  # type: ignore[arg-type]
    assert store.topics() == []


@pytest.mark.parametrize("option", ["transactional_id", "isolation"])
def test_topic_options_of_later_versions(store: pystream.Store, option: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{option}=.*not available in this version"):
        store.topic("t", create=True, **{option: "a"})  # type: ignore[arg-type]
    assert store.topics() == []


def test_partitions_of_a_topic(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=3)
    assert topic.partition(2).index == 2
    assert topic.partition(2) is topic.partition(2)
    for index in (-1, 3, 10**30):
        with pytest.raises(OptionError, match=f"partition={index}: topic 't' has partitions 0 to 2"):
            topic.partition(index)
    with pytest.raises(OptionError, match="only partition 0"):
        store.topic("one", create=True).partition(1)
    with pytest.raises(TypeError, match="partition"):
        topic.partition("1")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="3 partitions"):
        topic.append([b"x"])
    assert topic.append([b"x"], partition=1) == 0
    assert topic.offsets() == {0: (0, 0), 1: (0, 1), 2: (0, 0)}


def test_most_partitions(tmp_path: Path) -> None:
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, partitions=65_536)
        assert topic.partition(65_535).append([b"x"]) == 0
        with pytest.raises(OptionError, match="65535"):
            topic.partition(65_536)


def test_damaged_directory(store: pystream.Store) -> None:
    store.topic("t", create=True, partitions=2)
    os.rmdir(Path(store.path) / "topics/t/1")
    topic = store["t"]
    assert topic.partition(0).append([b"x"]) == 0
    with pytest.raises((CorruptLogError, OSError)):
        topic.partition(1).append([b"x"])


# ---- closing --------------------------------------------------------------------------------------


def test_closed_handles(tmp_path: Path) -> None:
    store = pystream.open(tmp_path / "s")
    topic = store.topic("t", create=True)
    partition = topic.partition(0)
    partition.append([b"x"])
    record, batch = partition[0], next(partition.scan())
    consumer, producer = store.consumer("t"), topic.producer()
    store.close()
    store.close()
    with pytest.raises(ClosedError):
        store.__enter__()
    for use in (
        store.topics,
        lambda: store.topic("t"),
        lambda: store["t"],
        lambda: "t" in store,
        lambda: store.consumer("t"),
        lambda: topic.append([b"y"]),
        topic.producer,
        topic.records,
        topic.batches,
        topic.offsets,
        topic.__arrow_c_stream__,
        lambda: partition.append([b"y"]),
        lambda: partition[0],
        partition.tail,
        partition.scan,
        partition.records,
        lambda: partition.end_offset,
        lambda: partition.beginning_offset,
        lambda: partition.durable_offset,
        lambda: partition.wait(5, 0),
        partition.flush,
        lambda: consumer.poll(0),
        lambda: iter(consumer),
        lambda: consumer.position(("t", 0)),
        lambda: consumer.subscribe("t"),
        lambda: producer.send(b"y"),
    ):
        with pytest.raises(ClosedError):
            use()
    assert isinstance(ClosedError("x"), ValueError)
    consumer.close()
    producer.close()
    assert record.value == b"x"
    assert bytes(batch.values[0]) == b"x"
    for thing in (store, topic, partition, consumer):
        assert "t" in repr(thing)


def test_with_closes_on_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), pystream.open(tmp_path / "s") as store:
        _ = 1 / 0
    assert store.closed


def test_store_is_shared_by_threads(store: pystream.Store) -> None:
    topic = store.topic("t", create=True, partitions=2)
    failures: list[BaseException] = []

    def work(partition: int) -> None:
        try:
            for _ in range(200):
                topic.append([b"x"], partition=partition)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index % 2,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert topic.offsets() == {0: (0, 400), 1: (0, 400)}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_is_told(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    topic.append([b"x"])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                store.topics()
            except pystream.ForkedError:
                try:
                    topic.append([b"y"])
                except pystream.ForkedError:
                    store.close()
                    status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert topic.append([b"z"]) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_child_opens_again(store: pystream.Store) -> None:
    topic = store.topic("t", create=True)
    topic.append([b"x"])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pystream.open(store.path) as again:
                status = 0 if again["t"].append([b"y"]) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [record.value for record in topic.records()] == [b"x", b"y"]


# ---- the package ----------------------------------------------------------------------------------


def test_exports() -> None:
    assert sorted(pystream.__all__) == pystream.__all__
    for name in pystream.__all__:
        assert getattr(pystream, name) is not None
    assert pystream.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="nonesuch"):
        pystream.nonesuch  # noqa: B018


def test_every_error_is_a_natural_builtin() -> None:
    from pystream import errors

    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, pystream.PystreamError)
        if kind is not pystream.PystreamError:
            assert issubclass(kind, (ValueError, LookupError, OSError, RuntimeError))


def test_topic_is_an_arrow_stream(store: pystream.Store) -> None:
    import pyarrow

    topic = store.topic("t", create=True, partitions=2)
    empty = pyarrow.table(topic)
    assert empty.num_rows == 0
    topic.append([b"a", None], keys=[b"k", None], partition=0)
    topic.append([b"c"], partition=1)
    table = pyarrow.table(topic)
    assert table.schema == empty.schema == pyarrow.schema(topic)
    assert table.column_names == ["offset", "timestamp", "key", "value", "headers"]
    assert table["value"].to_pylist() == [b"a", None, b"c"]
    assert table["key"].to_pylist() == [b"k", None, None]
    assert table["offset"].to_pylist() == [0, 1, 0]
    assert pyarrow.table(topic.partition(0)).equals(table.slice(0, 2))
    assert pyarrow.table(topic.partition(1)).equals(table.slice(2))


def test_sync_topics_are_written_where_others_are_mapped(tmp_path: Path) -> None:
    for io in ("auto", "mmap", "pwrite"):
        with pystream.open(tmp_path / io, io=io, force=True) as store:
            for durability in ("sync", "interval", "none"):
                topic = store.topic(durability, create=True, durability=durability)
                assert topic.append([b"a"]) == 0
                assert topic.partition(0)[0].value == b"a"
