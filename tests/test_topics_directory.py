"""Who looks for changes of topics by the time of change of their directory misses none."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import pystream
from pystream.group.patterns import TopicsDirectory


@pytest.mark.parametrize("act", ["create", "alter", "rename", "delete"])
def test_who_looks_in_the_midst_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The kernel shows a directory's time of change a moment before what has changed in it."""
    rename, topics, looked = os.rename, tmp_path / "topics", []
    with pystream.open(tmp_path, maintenance=False) as store:
        topic = store.topic("t", create=True)
        seen = TopicsDirectory(store.path)

        def slow(source: str, target: str, **options: int) -> None:
            os.utime(topics)
            time.sleep(0.05)  # longer than a step of the kernel's clock
            shown = topics.stat().st_mtime_ns
            assert seen.has_changed()
            assert not seen.has_changed()
            rename(source, target, **options)
            os.utime(topics, ns=(shown, shown))
            looked.append(target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", slow)
            if act == "create":
                store.topic("u", create=True)
            elif act == "alter":
                topic.alter(retention="1d")
            elif act == "rename":
                store.rename_topic("t", "u")
            else:
                store.delete_topic("t")
        assert looked
        assert seen.has_changed()


def test_who_looks_and_then_waits_for_a_processor_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pystream.open(tmp_path, maintenance=False) as store:
        store.topic("t", create=True)
        seen, stat = TopicsDirectory(store.path), os.stat

        def late(path: str) -> os.stat_result:
            found = stat(path)
            time.sleep(0.05)  # in which more changes, in the same step of the kernel's clock
            return found

        time.sleep(0.05)
        assert seen.has_changed()
        os.utime(tmp_path / "topics")
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", late)
            assert seen.has_changed()
        assert seen.has_changed()
        assert not seen.has_changed()
