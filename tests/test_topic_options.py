"""The options that say how long records stay: limits, words, what is written down, what is shown."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pystream
from pystream import OptionError, TopicOptions, metadata
from pystream import options as opt
from pystream.topicoptions import ADDED_LATER, ALTERABLE, OPTIONS, STORED, UNLIMITED

MS, S, DAY = 10**6, 10**9, 86400 * 10**9
LONGEST = 2**63 - 1


def parsed(**given: object) -> dict[str, Any]:
    return TopicOptions.parse(given)


ACCEPTED: list[tuple[str, object, str, object]] = [
    ("retention", "1ms", "retention_ns", MS),
    ("retention", 0.001, "retention_ns", MS),
    ("retention", "7d", "retention_ns", 7 * DAY),
    ("retention", timedelta(hours=1), "retention_ns", 3600 * S),
    ("retention", f"{LONGEST}ns", "retention_ns", LONGEST),
    ("retention", "forever", "retention_ns", None),
    ("retention_bytes", 65536, "retention_bytes", 65536),
    ("retention_bytes", "64KiB", "retention_bytes", 65536),
    ("retention_bytes", 1 << 60, "retention_bytes", 1 << 60),
    ("retention_bytes", "unlimited", "retention_bytes", None),
    ("retention_topic_bytes", 65536, "retention_topic_bytes", 65536),
    ("retention_topic_bytes", 1 << 60, "retention_topic_bytes", 1 << 60),
    ("retention_topic_bytes", "unlimited", "retention_topic_bytes", None),
    ("cleanup", "delete", "cleanup", "delete"),
    ("cleanup", "compact", "cleanup", "compact"),
    ("cleanup", "compact,delete", "cleanup", "compact,delete"),
    ("cleanup", "delete, compact", "cleanup", "compact,delete"),
    ("cleanup", ["delete", "compact"], "cleanup", "compact,delete"),
    ("min_cleanable_dirty_ratio", 0, "min_cleanable_dirty_ratio", 0.0),
    ("min_cleanable_dirty_ratio", 1, "min_cleanable_dirty_ratio", 1.0),
    ("min_compaction_lag", 0, "min_compaction_lag_ns", 0),
    ("min_compaction_lag", f"{LONGEST}ns", "min_compaction_lag_ns", LONGEST),
    ("delete_retention", 0, "delete_retention_ns", 0),
    ("delete_retention", "36h", "delete_retention_ns", 36 * 3600 * S),
    ("segment_age", "1ms", "segment_age_ns", MS),
    ("segment_age", "never", "segment_age_ns", None),
    ("max_message_bytes", 1024, "max_message_bytes", 1024),
    ("max_message_bytes", 2**31 - 4096, "max_message_bytes", 2**31 - 4096),
    ("max_message_bytes", "unlimited", "max_message_bytes", None),
]


@pytest.mark.parametrize(("name", "value", "stored", "wanted"), ACCEPTED)
def test_accepted(name: str, value: object, stored: str, wanted: object) -> None:
    assert parsed(**{name: value}) == {stored: wanted}


REFUSED: list[tuple[str, object, str]] = [
    ("retention", "999999ns", r"from 0\.001 to 9\.22337e\+09 seconds, or 'forever'"),
    ("retention", 0, r"from 0\.001 to"),
    ("retention", -1, r"from 0\.001 to"),
    ("retention", f"{LONGEST + 1}ns", r"from 0\.001 to"),
    ("retention", "7 fortnights", "not a duration; .*, or 'forever'"),
    ("retention", "never", "not a duration"),
    ("retention_bytes", 65535, r"from 65536 to 1152921504606846976 bytes, or 'unlimited'|from 65536 to"),
    ("retention_bytes", (1 << 60) + 1, "from 65536 to 1152921504606846976"),
    ("retention_bytes", -1, "from 65536"),
    ("retention_bytes", "lots", "not a size; .*, or 'unlimited'"),
    ("retention_topic_bytes", 65535, "from 65536"),
    ("retention_topic_bytes", (1 << 60) + 1, "from 65536"),
    ("cleanup", "", "must be one of 'delete', 'compact', 'compact,delete'"),
    ("cleanup", "shrink", "must be one of"),
    ("cleanup", "delete,shrink", "must be one of"),
    ("cleanup", [], "must be one of"),
    ("min_cleanable_dirty_ratio", -0.001, "from 0 to 1"),
    ("min_cleanable_dirty_ratio", 1.001, "from 0 to 1"),
    ("min_cleanable_dirty_ratio", float("nan"), "from 0 to 1"),
    ("min_compaction_lag", -1, "from 0 to"),
    ("min_compaction_lag", f"{LONGEST + 1}ns", "from 0 to"),
    ("delete_retention", -0.1, "from 0 to"),
    ("segment_age", "999999ns", r"from 0\.001 to .*, or 'never'"),
    ("max_message_bytes", 1023, "from 1024 to 2147479552"),
    ("max_message_bytes", 2**31 - 4095, "from 1024 to 2147479552"),
]


@pytest.mark.parametrize(("name", "value", "why"), REFUSED)
def test_refused(store: pystream.Store, name: str, value: Any, why: str) -> None:
    with pytest.raises(OptionError, match=f"^{name}=.*(?:{why})"):
        store.topic("t", create=True, **{name: value})
    assert store.topics() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention", b"7d"),
        ("retention", True),
        ("retention_bytes", 1e9),
        ("retention_topic_bytes", [1]),
        ("cleanup", 5),
        ("cleanup", b"delete"),
        ("cleanup", [b"delete"]),
        ("min_cleanable_dirty_ratio", "0.5"),
        ("min_cleanable_dirty_ratio", True),
        ("min_compaction_lag", b""),
        ("max_message_bytes", 2000.0),
    ],
)
def test_types(store: pystream.Store, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        store.topic("t", create=True, **{name: value})
    assert store.topics() == []


def test_a_batch_of_one_record_must_fit() -> None:
    assert TopicOptions(value_bytes=1024 - 192, max_message_bytes=1024).max_message_bytes == 1024
    with pytest.raises(OptionError, match=r"too small for records of 833 bytes; .* 1025"):
        TopicOptions(value_bytes=1024 - 191, max_message_bytes=1024)


def test_defaults(store: pystream.Store) -> None:
    options = store.topic("t", create=True).options
    assert options.retention_ns is options.retention_bytes is options.retention_topic_bytes is None
    assert (options.cleanup, options.deletes, options.compacts) == ("delete", True, False)
    assert (options.min_cleanable_dirty_ratio, options.min_compaction_lag_ns) == (0.5, 0)
    assert (options.delete_retention_ns, options.segment_age_ns) == (DAY, 7 * DAY)
    assert options.max_message_bytes is None
    both = TopicOptions(cleanup="compact,delete")
    assert (both.deletes, both.compacts) == (True, True)
    assert not TopicOptions(cleanup="compact").deletes


def test_an_existing_topic_is_compared(store: pystream.Store) -> None:
    store.topic("t", create=True, retention="7d", retention_bytes="1GiB", cleanup=["delete", "compact"])
    store.topic("t", create=True, retention=7 * 86400, retention_bytes=1 << 30, cleanup="compact,delete")
    store.topic("t", segment_age="7d", max_message_bytes="unlimited")
    for name, value, words in (
        ("retention", "8d", "retention='8d': topic 't' exists with retention='7d'"),
        ("retention", "forever", "retention='forever': topic 't' exists with retention='7d'"),
        ("retention_bytes", 1 << 20, "retention_bytes='1MiB': topic 't' exists with retention_bytes='1GiB'"),
        ("segment_age", "never", "segment_age='never': topic 't' exists with segment_age='7d'"),
        ("cleanup", "delete", "cleanup='delete': topic 't' exists with cleanup='compact,delete'"),
        ("min_cleanable_dirty_ratio", 1, "min_cleanable_dirty_ratio=1.0: topic 't' exists with .*=0.5"),
    ):
        with pytest.raises(OptionError, match=rf"^{words}; alter_topic\(\) changes that"):
            store.topic("t", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"^partitions=2: .* partitions=1; add_partitions\(\) adds some"):
        store.topic("t", partitions=2)
    with pytest.raises(OptionError, match=r"^value_bytes=8: topic 't' exists with value_bytes='none'$"):
        store.topic("t", value_bytes=8)


def test_the_file_of_an_earlier_version(store: pystream.Store) -> None:
    """It has none of these options; they are as they are by default then, and the file is left as it is."""
    store.topic("t", create=True, compression="lz4")
    file = Path(store.path) / "topics/t/topic.json"
    document = json.loads(file.read_bytes())
    assert document["options"].keys() == {field.name for field in fields(TopicOptions)}
    document["options"] = {n: v for n, v in document["options"].items() if n not in ADDED_LATER}
    file.write_bytes(metadata.encode(document))
    before = file.read_bytes()
    assert store.topic("t").options == TopicOptions(compression="lz4")
    assert file.read_bytes() == before
    (change,) = store.topic("t").alter(retention="1d")
    assert str(change) == "retention: forever -> 1d, at once"
    assert json.loads(file.read_bytes())["options"]["retention_ns"] == DAY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention_ns", 0),
        ("retention_ns", "7d"),
        ("retention_ns", 1.5e9),
        ("retention_bytes", 1),
        ("cleanup", "shrink"),
        ("min_cleanable_dirty_ratio", 2),
        ("min_compaction_lag_ns", -1),
        ("max_message_bytes", 10),
    ],
)
def test_nonsense_in_the_file(store: pystream.Store, name: str, value: object) -> None:
    store.topic("t", create=True)
    file = Path(store.path) / "topics/t/topic.json"
    document = json.loads(file.read_bytes())
    file.write_bytes(metadata.encode({**document, "options": {**document["options"], name: value}}))
    with pytest.raises(pystream.CorruptLogError, match=name.removesuffix("_ns")):
        store.topic("t")


def test_the_table_knows_every_option() -> None:
    assert STORED.keys() == {field.name for field in fields(TopicOptions)}
    assert {name for name, option in OPTIONS.items() if option.acts is None} == {
        "partitions",
        "dtype",
        "value_bytes",
        "key_bytes",
    }
    assert set(ALTERABLE) == OPTIONS.keys() - {"partitions", "dtype", "value_bytes", "key_bytes"}
    acts = {option.acts for option in OPTIONS.values()}
    assert acts == {None, "at once", "from the next segment", "from the next producer"}
    assert UNLIMITED.keys() <= STORED.keys()
    hints = pystream.topicoptions.TopicChanges.__annotations__
    assert hints.keys() == set(ALTERABLE)


@given(st.integers(0, LONGEST))
def test_a_duration_is_read_as_it_is_shown(nanoseconds: int) -> None:
    assert opt.parse_duration("x", opt.duration_text(nanoseconds)) == nanoseconds


@given(st.integers(0, 1 << 60))
def test_a_size_is_read_as_it_is_shown(size: int) -> None:
    assert opt.parse_size("x", opt.size_text(size), minimum=0, maximum=1 << 60) == size


def test_how_they_are_shown() -> None:
    assert [opt.duration_text(n) for n in (0, 1, 1500, 90 * 60 * S, DAY, 36 * 3600 * S)] == [
        "0s",
        "1ns",
        "1500ns",
        "90min",
        "1d",
        "36h",
    ]
    assert [opt.size_text(n) for n in (0, 1000, 1 << 20, 3 << 29, 5 << 40)] == [
        "0B",
        "1000B",
        "1MiB",
        "1536MiB",
        "5TiB",
    ]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "retention_ns": st.none() | st.integers(MS, LONGEST),
            "retention_bytes": st.none() | st.integers(65536, 1 << 60),
            "retention_topic_bytes": st.none() | st.integers(65536, 1 << 60),
            "cleanup": st.sampled_from(["delete", "compact", "compact,delete"]),
            "min_cleanable_dirty_ratio": st.floats(0, 1),
            "min_compaction_lag_ns": st.integers(0, LONGEST),
            "delete_retention_ns": st.integers(0, LONGEST),
            "segment_age_ns": st.none() | st.integers(MS, LONGEST),
            "max_message_bytes": st.none() | st.integers(1024, 2**31 - 4096),
            "compression": st.sampled_from(["none", "lz4"]),
            "partitions": st.integers(1, 65536),
        },
    )
)
def test_written_and_read_back(chosen: dict[str, Any]) -> None:
    options = TopicOptions(**chosen)
    document = json.loads(json.dumps(options.to_json()))
    assert TopicOptions.from_json(document) == options
    for option in OPTIONS.values():
        value = getattr(options, option.stored)
        if value is not None or option.stored in UNLIMITED:
            assert option.read(option.text(value) if option.show is not str else value) == value
