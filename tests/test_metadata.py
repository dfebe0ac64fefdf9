"""store.json and topic.json: exact bytes, every flipped byte found, creation whole or not at all."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

import pystream
from pystream import CorruptLogError, FormatVersionError, StorageError, TopicOptions, metadata


def flips(data: bytes) -> list[bytes]:
    """`data` with one bit of one byte changed, for every byte."""
    return [data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :] for at in range(len(data))]


@pytest.mark.parametrize("name", ["store.json", "topics/t/topic.json"])
def test_any_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    with pystream.open(tmp_path / "s") as store:
        store.topic("t", create=True, dtype=[("a", "i4")], compression="lz4")
    file = tmp_path / "s" / name
    sound = file.read_bytes()
    for damaged in [*flips(sound), sound[:-1], sound + b"\n", b"", b"null", b"[" * 100_000]:
        file.write_bytes(damaged)
        with pytest.raises(CorruptLogError, match=str(file)) as caught:
            if name == "store.json":
                pystream.open(tmp_path / "s")
            else:
                with pystream.open(tmp_path / "s") as store:
                    store.topic("t")
        assert caught.value.path == str(file)
    file.write_bytes(sound)
    with pystream.open(tmp_path / "s") as store:
        assert store.topic("t").options.compression == "lz4"


def rewritten(file: Path, **changes: object) -> None:
    document = json.loads(file.read_bytes())
    file.write_bytes(metadata.encode({**document, **changes}))


def test_other_versions_and_features(tmp_path: Path) -> None:
    pystream.open(tmp_path / "s").close()
    file = tmp_path / "s" / "store.json"
    for version in (0, 2, "1", None):
        rewritten(file, version=version)
        with pytest.raises(FormatVersionError, match=r"store\.json"):
            pystream.open(tmp_path / "s")
    rewritten(file, version=1, incompatible=["tiers"])
    with pytest.raises(FormatVersionError, match="'tiers'"):
        pystream.open(tmp_path / "s")
    rewritten(file, incompatible=[], compatible=["hints"], more={"a": 1})
    pystream.open(tmp_path / "s").close()


@pytest.mark.parametrize(
    "changes",
    [{"uuid": "x"}, {"uuid": None}, {"created": 5}, {"options": {}}, {"options": None}, {"format": "x"}],
)
def test_sound_checksum_but_no_sense(store: pystream.Store, changes: dict[str, object]) -> None:
    store.topic("t", create=True)
    file = Path(store.path) / "topics/t/topic.json"
    rewritten(file, **changes)
    with pytest.raises(CorruptLogError, match=r"topic\.json"):
        store.topic("t")


def test_options_out_of_range_in_the_file(store: pystream.Store) -> None:
    store.topic("t", create=True)
    file = Path(store.path) / "topics/t/topic.json"
    options = json.loads(file.read_bytes())["options"]
    for name, value in (
        ("partitions", 0),
        ("compression", "zip"),
        ("dtype", "__import__('os')"),
        ("dtype", "["),
    ):
        rewritten(file, options={**options, name: value})
        with pytest.raises(CorruptLogError, match=r"topic\.json"):
            store.topic("t")


def test_written_form_is_fixed() -> None:
    assert (
        metadata.encode({"b": [1, "é"], "a": None})
        .decode("ascii")
        .startswith('{\n  "a": null,\n  "b": [\n    1,\n    "\\u00e9"\n  ],\n  "checksum": "')
    )


def test_unfinished_creations_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.mkdir()
    (path / ".tmp+0123456789abcdef").write_bytes(b"half")
    with pystream.open(path) as store:
        store.topic("t", create=True)
        (path / "topics" / ".tmp+0123456789abcdef").mkdir()
        (path / "topics" / "not-a-topic").mkdir()
        (path / "topics" / "file").write_bytes(b"")
        assert store.topics() == ["t"]
        assert "not-a-topic" not in store
        assert "file" not in store
        assert ".tmp+0123456789abcdef" not in store


def test_failed_creation_leaves_nothing(store: pystream.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.topic("first", create=True)
    before = sorted(p for p in Path(store.path).rglob("*"))
    for verb in ("fsync", "rename", "mkdir"):

        def fail(*args: object, verb: str = verb, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(metadata.os, verb, fail)
            with pytest.raises(StorageError, match="No space left") as caught:
                store.topic("t", create=True, partitions=3)
        assert caught.value.errno == 28
        assert isinstance(caught.value, OSError)
        assert sorted(p for p in Path(store.path).rglob("*")) == before
        assert store.topics() == ["first"]
    store.topic("t", create=True, partitions=3)


def test_names_as_long_as_allowed(store: pystream.Store) -> None:
    for length in (248, 249):
        assert store.topic("n" * length, create=True).name == "n" * length
    assert store.topics() == ["n" * 248, "n" * 249]


def test_directory_without_topic_file(store: pystream.Store) -> None:
    directory = Path(store.path) / "topics" / "t"
    directory.mkdir(parents=True)
    (directory / "something").write_bytes(b"")
    with pytest.raises(CorruptLogError, match=r"no topic\.json"):
        store.topic("t", create=True)
    assert [p.name for p in directory.iterdir()] == ["something"]


def race(path: str, barrier, queue) -> None:  # type: ignore[no-untyped-def]
    barrier.wait()
    with pystream.open(path) as store:
        topic = store.topic("t", create=True, partitions=2)
        queue.put((store.uuid, topic.uuid, topic.partition(1).append([b"x"])))


def test_one_creator_wins_between_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(4), context.Queue()
    racers = [context.Process(target=race, args=(str(tmp_path / "s"), barrier, queue)) for _ in range(4)]
    for racer in racers:
        racer.start()
    answers = [queue.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(60)
    assert len({(store, topic) for store, topic, _ in answers}) == 1
    assert sorted(offset for *_, offset in answers) == [0, 1, 2, 3]
    assert sorted(os.listdir(tmp_path / "s" / "topics")) == ["t"]


def test_defaults_in_topic_file(store: pystream.Store) -> None:
    assert store.topic("t", create=True).options == TopicOptions()


def test_a_topic_that_cannot_be_looked_at_is_there(tmp_path: Path) -> None:
    """It is not left out in silence, of a backup above all."""
    with pystream.open(tmp_path / "s", maintenance=False) as store:
        store.topic("good", create=True).append([b"x"])
        (tmp_path / "s" / "topics" / "loop").symlink_to("loop")
        assert store.topics() == ["good", "loop"] and "loop" in store and "x" * 300 not in store
        stats = store.stats()
        assert list(stats.topics) == ["good"]
        assert [problem.partition(":")[0] for problem in stats.problems] == ["loop"]
        for use in (lambda: store["loop"], lambda: store.backup(tmp_path / "b")):
            with pytest.raises(pystream.StorageError, match="symbolic links"):
                use()
        assert not (tmp_path / "b").exists()
