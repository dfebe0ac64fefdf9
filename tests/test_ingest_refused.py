"""What ingest refuses before it begins: options and sources of the wrong type, quotes never closed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pystream
from pystream.ingest import BadRow, BadRowError, SourceError, blocks, ingest

ROWS = 3
TEXT = "id,name\n1,a\n2,b\n3,c\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pystream.Store]:
    with pystream.open(tmp_path / "store") as opened:
        yield opened


def topic_of(store: pystream.Store) -> pystream.Topic:
    return store.topic("t", create=True)


def values(topic: pystream.Topic) -> list[bytes | None]:
    return [record.value for record in topic.records()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": 3}, "key= must be a str, not int"),
        ({"timestamp": 3}, "timestamp= must be a str, not int"),
        ({"value_column": 3}, "value_column= must be a str, not int"),
        ({"delimiter": 3}, "delimiter= must be a str, not int"),
        ({"format": 3}, "format= must be a str, not int"),
        ({"columns": 3}, "columns= must be a list of names"),
        ({"columns": ["a", 2]}, "columns= must hold names, not int"),
        ({"types": ["id"]}, "types= must be a dict"),
        ({"types": {3: "string"}}, "types= must have names of columns, not int"),
        ({"timestamp": "id", "timezone": None}, "timezone= must be a str, not NoneType"),
        ({"timestamp": "id", "timestamp_format": 3}, "timestamp_format= must be a str, not int"),
        ({"on_progress": 3}, "on_progress= must be a function, not int"),
        ({"on_bad_row": 3}, "on_bad_row= must be a function, not int"),
        ({"bad_rows": "skip", "bad_rows_to": 3}, "bad_rows_to= must be a path, not int"),
    ],
)
def test_options_of_the_wrong_type(store, tmp_path, options: dict[str, Any], message):
    (tmp_path / "a.csv").write_text(TEXT)
    topic = topic_of(store)
    with pytest.raises(TypeError, match=message):
        ingest(topic, tmp_path / "a.csv", **options)
    assert values(topic) == []
    assert ingest(topic, tmp_path / "a.csv").rows == ROWS  # no job was begun


@pytest.mark.parametrize("sources", [3, b"a.csv", [3], None])
def test_sources_of_the_wrong_type(store, sources):
    with pytest.raises(TypeError, match="sources must be"):
        ingest(topic_of(store), sources)


def test_what_is_no_topic(tmp_path):
    with pytest.raises(TypeError, match=re.escape("topic must be a pystream.Topic, not str")):
        ingest("t", tmp_path / "a.csv")


def test_a_topic_that_was_deleted(store, tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.csv")
    store.delete_topic(topic.name)
    with pytest.raises(pystream.TopicDeletedError):
        ingest(topic, tmp_path / "a.csv")


def test_columns_as_text(store, tmp_path):
    (tmp_path / "a.csv").write_text("1,x\n")
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.csv", columns="n, s")
    assert values(topic) == [b'{"n":1,"s":"x"}']


def test_bad_rows_never_go_into_a_source(store, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n2,3\n")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(pystream.OptionError, match="is one of the sources"):
        ingest(topic_of(store), path, bad_rows="skip", bad_rows_to=tmp_path / "link")
    assert path.read_text() == "a\n1\n2,3\n"


def test_bad_rows_that_cannot_be_kept_begin_no_job(store, tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    topic = topic_of(store)
    with pytest.raises(pystream.StorageError, match="no/file"):
        ingest(topic, tmp_path / "a.csv", bad_rows="skip", bad_rows_to=tmp_path / "no" / "file")
    assert ingest(topic, tmp_path / "a.csv").rows == ROWS


@pytest.mark.parametrize("block", [8, 4 << 20])
def test_a_quote_that_is_never_closed(store, tmp_path, monkeypatch, block):
    """What it would swallow is no row, however long; what is before it is, and its types are as ever."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    path = tmp_path / "a.csv"
    path.write_text('n,s\n1,"x\ny"\n2,"never\n3,x\n4,y\n')
    topic = topic_of(store)
    with pytest.raises(BadRowError, match=r"a\.csv:4: a quote is opened here and never closed"):
        ingest(topic, path)
    refused: list[BadRow] = []
    ingest(topic, path, bad_rows="skip", on_bad_row=refused.append, resume=True)
    assert values(topic) == [b'{"n":1,"s":"x\\ny"}']
    assert [(row.number, row.text) for row in refused] == [(4, b'2,"never\n3,x\n4,y\n')]


@pytest.mark.parametrize(
    ("end", "count"), [('"y"', 2), ('"y', 1), ('"y""', 1), ('"y"""', 2), ('"', 1), ('""', 2), ('y"', 2)]
)
def test_a_quote_at_the_end_of_a_file(store, tmp_path, end, count):
    path = tmp_path / "a.csv"
    path.write_text(f"n,s\n1,x\n2,{end}")
    assert ingest(topic_of(store), path, bad_rows="skip").rows == count


def test_a_header_that_is_never_closed(store, tmp_path):
    (tmp_path / "a.csv").write_text('"n,s\n1,x\n')
    with pytest.raises(SourceError, match=r"a\.csv:1: the header: a quote is opened here and never closed"):
        ingest(topic_of(store), tmp_path / "a.csv")


def test_a_quote_without_quoting(store, tmp_path):
    (tmp_path / "a.csv").write_text('n,s\n1,"x\n')
    topic = topic_of(store)
    ingest(topic, tmp_path / "a.csv", quote=None)
    assert values(topic) == [b'{"n":1,"s":"\\"x"}']
