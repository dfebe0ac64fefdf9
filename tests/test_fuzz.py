"""Fuzzing: the kept inputs, played by any compiler; new ones, where clang's libFuzzer is; and that a target
finds what it is there to find."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pystream
from fuzz import TARGETS, build, clang, runner, seeds

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
FUZZ = ROOT / "tests/fuzz"
CORPUS_BYTES_MAX = 1 << 20

# Every function of csrc/ that is given bytes which somebody else may have written, by the target that calls
# it, itself or through what it calls.
DECODERS = {
    "arrow": "ps_arrow_batch ps_arrow_binary ps_arrow_schema ps_arrow_binary_schema",
    "compact": "ps_peek_open ps_peek_open_index ps_rewrite_open ps_source_read ps_segment_read_ends "
    "ps_survey_partition",
    "cursor": "ps_cursor_seek ps_cursor_next ps_log_find_time ps_segment_open ps_view_open ps_view_refresh "
    "ps_table_at ps_table_holding ps_table_scan ps_log_open",
    "epochs": "ps_epochs_last ps_log_epoch_end ps_epochs_append ps_inspect_epoch",
    "fault": "ps_fault_parse",
    "frame": "ps_frame_decode_header ps_frame_body_ok ps_frame_decompress ps_frame_columns ps_columns_check "
    "ps_columns_find_offset ps_frame_prepare ps_lines_row ps_columns_keyed ps_columns_slice",
    "group": "ps_control_open ps_control_check ps_member_open",
    "head": "ps_head_check_identity ps_head_read_slot ps_head_log_start ps_head_durable_checked "
    "ps_inspect_head ps_group_head_durable ps_topic_mark_deleted",
    "index": "ps_index_open ps_index_find_offset ps_index_find_time ps_index_add ps_index_reset "
    "ps_inspect_index ps_inspect_index_entry ps_inspect_index_hit",
    "lines": "ps_lines_split ps_lines_split_keyed ps_lines_join",
    "live": "ps_live_enter ps_live_look ps_inspect_in_use",
    "recover": "ps_log_recover ps_log_mend ps_log_open_active",
    "repair": "ps_repair_segment ps_repair_index ps_repair_unsettle",
    "rows": "ps_rows_split ps_rows_gather ps_rows_partition ps_rows_to_json ps_rows_json_bound ps_murmur2",
    "segment": "ps_segment_decode_header ps_seal_decode ps_segment_parse_name ps_inspect_end",
    "walk": "ps_walk_begin ps_walk_next",
}
# Reached through a function beside them, which the target calls.
INDIRECT = {
    "ps_segment_open ps_view_open ps_view_refresh ps_table_at ps_table_holding ps_table_scan": "ps_log_open",
    "ps_log_recover": "ps_log_open",
    "ps_log_mend ps_log_open_active": "ps_log_append",
    "ps_murmur2": "ps_rows_partition",
    "ps_peek_open ps_peek_open_index": "ps_stats_measure",
    "ps_rewrite_open ps_source_read ps_segment_read_ends": "ps_compact_begin",
}
# What decoders are called. A function of such a name is one, or stands here with what it is given.
NAMES = re.compile(
    r"_(decode|decompress|parse|open|find|check|inspect|walk|next|seek|split|read|columns)(_|$)|recover"
)
OTHERS = {
    "ps_columns_raw_bytes": "columns of the caller's own",
    "ps_frame_next_offset": "a header that was decoded",
    "ps_log_check": "a handle",
    "ps_log_check_place": "names of files",
    "ps_log_check_writable": "a handle",
    "ps_log_is_read_only": "a handle",
    "ps_log_prepare_next": "a handle",
}


@pytest.fixture(scope="module")
def plain() -> Path:
    return build.build("plain")


def functions(text: str) -> set[str]:
    without = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return set(re.findall(r"\b(ps_[a-z0-9_]+)\(", without))


def test_every_decoder_has_a_target():
    assert set(DECODERS) == set(TARGETS)
    declared = set().union(*(functions(path.read_text()) for path in CSRC.glob("*.h")))
    known = {name for names in DECODERS.values() for name in names.split()}
    assert known <= declared, "no longer there"
    through = {name: by for names, by in INDIRECT.items() for name in names.split()}
    shared = functions((FUZZ / "partition.c").read_text()) | functions((FUZZ / "fuzz.c").read_text())
    for target, names in DECODERS.items():
        called = functions((FUZZ / f"fuzz_{target}.c").read_text()) | shared
        for name in names.split():
            assert through.get(name, name) in called, f"fuzz_{target}.c does not call {name}"


def test_no_decoder_is_forgotten():
    """What is named like one is in a list, this one or that."""
    known = {name for names in DECODERS.values() for name in names.split()} | set(OTHERS)
    prefixes = (
        "ps_keeper_",
        "ps_producer_",
        "ps_worker_",
        "ps_watch",
        "ps_builder_",
        "ps_pipe_",
        "ps_clock_",
        "ps_os_",
    )
    for path in sorted(CSRC.glob("*.h")):
        for name in sorted(functions(path.read_text())):
            if NAMES.search(name) and not name.startswith(prefixes):
                assert name in known, (
                    f"{path.name}: {name} decodes what others wrote, and has no fuzz target?"
                )


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs(target: str, plain: Path):
    kept = runner.CORPUS / target
    result = runner.call([str(plain / f"fuzz-{target}"), str(kept)], timeout=120)
    assert result.returncode == 0, result.stdout[-4000:]
    assert int(result.stdout.splitlines()[-1]) == len(list(kept.iterdir())) >= 3


def test_the_corpus_is_small():
    assert {path.name for path in runner.CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in runner.CORPUS.rglob("*") if path.is_file()) < CORPUS_BYTES_MAX


def test_inputs_made_of_real_stores(plain: Path, tmp_path: Path):
    """What the library writes now is taken by every target, and mostly as sound."""
    assert seeds.write(tmp_path) > 200
    assert {path.name for path in tmp_path.iterdir()} == set(TARGETS)
    for target in TARGETS:
        assert runner.play([tmp_path / target]) is None


def test_an_input_is_played_by_the_target_it_is_kept_for(tmp_path: Path):
    (tmp_path / "frame").mkdir()
    (tmp_path / "frame/x").write_bytes(b"\x03\0\0\0")
    assert runner.play([tmp_path / "frame/x", tmp_path / "frame"]) is None
    (tmp_path / "other").mkdir()
    assert "one of arrow, compact, cursor" in (runner.play([tmp_path / "other"]) or "")


def test_wrong_words():
    for words, said in {
        ("--target", "nobody"): "invalid choice: 'nobody'",
        ("--seconds", "soon"): "'soon' is not a time such as",
        ("--workers", "0"): "--workers must be at least 1",
    }.items():
        result = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *words], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 2 and said in result.stderr, words


def test_what_stops_a_worker_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that could not try anything has not passed."""
    begun: list[str] = []

    def full(place: Path, target: str, *rest: object) -> bool:
        begun.append(target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(runner, "build", lambda engine: tmp_path)
    monkeypatch.setattr(runner, "run_slice", full)
    with pytest.raises(OSError, match="No space left"):
        runner.run(60, work=tmp_path)
    assert 1 <= len(begun) <= 2


# Checks taken away, each of which a target has to miss within seconds: the file, what stands there, what does
# not stand there any more, and the target.
PLANTED = {
    "a frame longer than its file": (
        "ps_frame.c",
        "if (m->frame_bytes > limit || m->frame_bytes",
        "if (m->frame_bytes",
        "frame",
    ),
    "columns beyond the body": (
        "ps_frame.c",
        "if (l.end != raw_bytes || l.end != m->raw_bytes || !columns_are_sound(m)) return PS_CORRUPT;",
        "",
        "frame",
    ),
    "an index larger than its file": (
        "ps_index.c",
        "capacity * PS_INDEX_ENTRY_BYTES <= size",
        "size > 0",
        "index",
    ),
    "a tail that is not kept": (
        "ps_recover.c",
        "if (status == PS_OK && !whole) status = save_tail(log, w, epoch, err);",
        "",
        "recover",
    ),
    "a quote without an end": (
        "ps_rows.c",
        "if (!p || p + 1 == limit) return NULL;",
        "if (!p) return NULL;",
        "rows",
    ),
}


def test_planted_faults_are_where_they_are_looked_for():
    for file, before, _, target in PLANTED.values():
        assert (CSRC / file).read_text().count(before) == 1, before
        assert target in TARGETS


# Where there is no clang with libFuzzer, the kept inputs have to do.
if clang():

    @pytest.mark.parametrize("name", PLANTED)
    def test_a_planted_fault_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        file, before, after, target = PLANTED[name]
        shutil.copytree(CSRC, tmp_path / "csrc")
        source = tmp_path / "csrc" / file
        source.write_text(source.read_text().replace(before, after))
        monkeypatch.setattr(runner, "CRASHES", tmp_path / "crashes")
        outcome = runner.run(240, targets=[target], workers=1, work=tmp_path / "work", csrc=tmp_path / "csrc")
        (failure,) = outcome["failures"]
        assert failure.startswith(f"{target}: ")
        (kept,) = (tmp_path / "crashes" / target).iterdir()
        assert f"--play {kept}" in failure
        assert runner.play([kept]) is None, "it fails without the fault, too"

    def test_a_minute_of_fuzzing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(
            runner, "CRASHES", Path(os.environ.get("PYSTREAM_FUZZ_CRASHES", tmp_path / "crashes"))
        )
        told: list[str] = []
        outcome = runner.run(60, work=tmp_path / "work", progress=lambda target, _: told.append(target))
        assert outcome["failures"] == []
        assert set(outcome["executions"]) == set(told) == set(TARGETS)
        assert all(tried > 200 for tried in outcome["executions"].values()), outcome
        assert outcome["seconds"] < 120


# ---- Arrow arrays that others made ----------------------------------------------------------------------


def arrow_array(seeded: random.Random) -> pa.Array:
    """Any type that records are taken from, any slice of it, nulls or none, and buffers of honest sizes."""
    count = seeded.randrange(40)
    kind = seeded.choice([pa.binary(), pa.large_binary(), pa.string(), pa.large_string()])
    values = [
        None if seeded.random() < 0.2 else seeded.choice("ab\n") * seeded.randrange(9) for _ in range(count)
    ]
    array = pa.array(values, pa.string()).cast(kind)
    for _ in range(seeded.randrange(3)):
        start = seeded.randrange(len(array) + 1)
        array = array.slice(start, seeded.randrange(len(array) - start + 1))
    return array


def spoiled(array: pa.Array, seeded: random.Random) -> pa.Array:
    """The same with offsets that fall at a slot that is not null; perhaps to below zero."""
    wide = array.type in (pa.large_binary(), pa.large_string())
    offsets = np.frombuffer(array.buffers()[1], "<i8" if wide else "<i4").copy()
    at = array.offset + seeded.choice([i for i, value in enumerate(array) if value.is_valid])
    offsets[at + 1] = offsets[at] - 1 - seeded.randrange(1 << 20)
    buffers = [array.buffers()[0], pa.py_buffer(offsets.tobytes()), array.buffers()[2]]
    return pa.Array.from_buffers(array.type, len(array), buffers, offset=array.offset)


def test_arrow_arrays_of_any_shape(store: pystream.Store):
    seeded, topic = random.Random(6), store.topic("t", create=True)
    partition = topic.partition(0)
    refused = 0
    for _ in range(400):
        array = arrow_array(seeded)
        keys = arrow_array(seeded) if seeded.random() < 0.3 else None
        if array.null_count < len(array) and seeded.random() < 0.3:
            before = partition.end_offset
            with pytest.raises(ValueError, match="offsets"):
                partition.append(spoiled(array, seeded))
            assert partition.end_offset == before
            refused += 1
        if keys is not None and len(keys) != len(array):
            keys = None
        if not len(array):
            continue
        first = partition.append(array, keys=keys)
        wanted = array.cast(pa.large_binary()).to_pylist()
        got = list(partition.records(first))
        assert [record.value for record in got] == wanted
        if keys is not None:
            assert [record.key for record in got] == keys.cast(pa.large_binary()).to_pylist()
    assert refused > 30
