"""bench/compare.py: contestants that need nothing, what is told of those that are absent, tables, plots."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
NAMES = ("shapes", "crew", "report", "rivals", "compare")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The modules of the benchmark, which are scripts beside each other."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    try:
        found = SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
        found.shapes.POOL_BYTES = 4 << 20  # enough here
        yield found
    finally:
        sys.path.remove(str(BENCH))
        for name in set(sys.modules) - before:
            if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


@pytest.fixture(autouse=True)
def unsettled(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is taken here, and to sync all that others write takes its time."""
    monkeypatch.setattr(bench.compare, "settle", lambda: None)


@pytest.fixture(scope="module")
def kinds(bench: SimpleNamespace) -> dict[str, Any]:
    """Those that need nothing that is not here."""
    return {key: bench.rivals.ALL[key] for key in ("pystream", "pystream-columns", "sqlite", "floor")}


def scene(bench: SimpleNamespace, shape: str, durability: str = "cache", **more: Any) -> Any:
    return bench.shapes.Scene(bench.shapes.SHAPES[shape], durability, **more)


# ---- the data


@pytest.mark.parametrize("shape", ["16B", "100B", "1KiB", "64KiB", "json", "ticks"])
def test_values_are_of_one_width_and_distinct(bench, shape):
    shape = bench.shapes.SHAPES[shape]
    blocks = bench.shapes.pool(shape, shape.block)
    assert {len(block) for block in blocks} == {shape.block}
    values = [value for block in blocks[:20] for value in block]
    assert {len(value) for value in values} == {shape.width}
    assert len(set(values)) == len(values)


def test_events_are_json_and_become_about_a_quarter(bench, tmp_path):
    import pystream

    shape = bench.shapes.SHAPES["json"]
    (block, *_) = bench.shapes.pool(shape, shape.block)
    assert json.loads(block[17])["event"] == "page_view"
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, compression="lz4")
        topic.append(block)
        (batch,) = topic.batches()
        assert 3.3 < batch.raw_bytes / batch.stored_bytes < 4.7


def test_blocks_come_again_when_the_pool_is_used_up(bench):
    setting = scene(bench, "64KiB")
    made = bench.shapes.pool(setting.shape, setting.block)
    found = list(bench.shapes.blocks(setting, len(made) + 2))
    assert found[-1] is made[1]
    assert bench.shapes.value_at(setting, (len(made) + 1) * setting.block + 3) == made[1][3]


def test_scenes_have_names_of_their_own_and_one_kind_of_workers(bench):
    found = bench.shapes.scenes()
    assert len({each.key for each in found}) == len(found)
    assert all(min(each.threads, each.processes) == 1 for each in found)
    assert {each.durability for each in found} == {"cache", "synced"}


# ---- the interface


@pytest.mark.parametrize("key", ["pystream", "pystream-columns", "sqlite", "floor", "floor-populate"])
@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ("100B", {}),
        ("json", {}),
        ("ticks", {}),
        ("64KiB", {}),
        ("100B", {"partitions": 3}),
        ("100B", {"durability": "synced"}),
        ("100B", {"threads": 3}),
        ("100B", {"acked": True}),
        ("100B", {"acked": True, "durability": "synced", "threads": 2}),
    ],
)
def test_what_is_written_is_read(bench, tmp_path, key, shape, more):
    setting = scene(bench, shape, **more)
    kind = bench.rivals.ALL[key]
    blocks = dict.fromkeys(bench.compare.forms_of(setting), 2 * setting.workers)
    told = bench.compare.passage(tmp_path, kind, setting, blocks)
    able = [row for row, why_not in bench.compare.possible(kind, setting).items() if why_not is None]
    assert list(told) == able
    for (op, _, temperature), cell in told.items():
        readers = setting.workers if op == "read" else 1
        assert cell["records"] == 2 * setting.workers * setting.block * readers
        assert cell["seconds"] > 0
        assert ("left_in_cache" in cell) == (temperature == "cold")
    assert list(tmp_path.iterdir()) == [], "its directory is still there"
    assert kind.durability(setting) and kind.done(setting) and kind.settings(setting)


@pytest.mark.parametrize("key", ["pystream", "sqlite"])
def test_values_come_back_as_they_were(bench, tmp_path, key):
    setting = scene(bench, "100B")
    with bench.compare.place(tmp_path, bench.rivals.ALL[key], setting) as contestant:
        for form in ("batch", "record"):
            contestant.create(form)
            contestant.write(form, 2)
            contestant.write(form, 1)  # goes on, from the first block
            _, (seen,) = contestant.read(form)
            assert seen.records == 3 * setting.block
            assert seen.last == bench.shapes.value_at(setting, setting.block - 1)


@pytest.mark.parametrize("key", ["pystream", "sqlite"])
def test_processes_share_a_log(bench, tmp_path, key):
    setting = scene(bench, "100B", processes=2)
    told = bench.compare.passage(tmp_path, bench.rivals.ALL[key], setting, {"batch": 3, "record": 3})
    assert told["write", "batch", ""]["records"] == 3 * setting.block
    assert told["read", "record", "warm"]["records"] == 2 * 3 * setting.block


@pytest.mark.parametrize("key", ["pystream", "sqlite"])
def test_what_a_killed_writer_had_acknowledged_is_there(bench, capsys, monkeypatch, tmp_path, key):
    monkeypatch.setattr(
        bench.compare, "PROOF_SCENES", [scene(bench, "100B"), scene(bench, "100B", acked=True)]
    )
    assert bench.compare.prove(tmp_path, [bench.rivals.ALL[key]]) == 0
    told = capsys.readouterr().out
    assert told.count("20,000 of 20,000 acknowledged records are there") == 2
    assert told.count("200 of 200 acknowledged records are there") == 1


def test_a_proof_fails_when_records_are_missing(bench, capsys, monkeypatch, tmp_path):
    class Forgets(bench.rivals.ALL["sqlite"]):
        def read(self, form):
            seconds, (seen,) = super().read(form)
            return seconds, [type(seen)(seen.records - 1, seen.last)]

    monkeypatch.setattr(bench.compare, "PROOF_SCENES", [scene(bench, "100B", acked=True)])
    assert bench.compare.prove(tmp_path, [Forgets]) == 1
    assert "199 of 200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "last", "message"),
    [
        (1999, None, "2,000 records of form batch were written, and 1,999 read"),
        (2000, b"x", "not the one written"),
    ],
)
def test_a_run_that_loses_or_mixes_records_is_no_figure(bench, records, last, message):
    seen = [bench.rivals.base.Seen(records, last)]
    with pytest.raises(bench.rivals.base.Failed, match=message):
        bench.compare.check(scene(bench, "100B"), "batch", 2, seen)


def test_a_probe_asks_for_as_much_as_takes_the_time(bench, tmp_path):
    written = []

    class Even(bench.rivals.ALL["sqlite"]):
        """A millisecond a block."""

        def write(self, form, blocks):
            written.append(blocks)
            return blocks / 1000

    setting = scene(bench, "100B")
    found = bench.compare.probe(tmp_path, Even, setting, 0.5, gb=1.0)
    assert found == {"batch": 500, "record": 500}
    assert max(written) < 500
    assert bench.compare.probe(tmp_path, Even, setting, 0.5, gb=0.01) == {"batch": 100, "record": 100}


def test_servers_end_with_whoever_started_them(bench, tmp_path):
    server = bench.rivals.server.Server(["sleep", "600"], tmp_path)
    server.stop()
    assert server.process.returncode is not None
    told = bench.rivals.server.Server(["sh", "-c", "echo cannot, really >&2; exit 3"], tmp_path / "other")
    with pytest.raises(bench.rivals.base.Failed, match="ended with 3: cannot, really"):
        told.wait_until(lambda: False)
    code = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
        "from pathlib import Path\nfrom rivals.server import Server\n"
        f"print(Server(['sleep', '600'], Path({str(tmp_path)!r})).process.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    for _ in range(500):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        bench.compare.time.sleep(0.01)
    else:
        pytest.fail("the server lives on")


# ---- who cannot take part


def test_what_is_absent_is_told_in_a_line(bench, capsys, monkeypatch):
    for module, name in (("rocks", "rocksdict"), ("lightning", "lmdb"), ("disk_cache", "diskcache")):
        monkeypatch.setattr(importlib.import_module(f"rivals.{module}"), name, None)
    monkeypatch.setattr(bench.rivals.kafka, "JARS", ROOT / "nowhere")
    monkeypatch.setattr(bench.rivals.chronicle, "JARS", ROOT / "nowhere")
    for module in ("redis_streams", "jetstream"):
        monkeypatch.setattr(
            importlib.import_module(f"rivals.{module}"), "absent", lambda name: f"{name} is not installed"
        )
    able, told = bench.compare.contestants([])
    assert [kind.key for kind in able] == [
        "floor",
        "floor-populate",
        "pystream",
        "pystream-columns",
        "sqlite",
    ]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bench.rivals.ALL) - len(able)
    assert "without RocksDB: the package rocksdict is not installed (tools/rivals.sh" in lines[0]
    assert told["nats"]["why_not"] == "nats-server is not installed" and told["nats"]["versions"] == {}


def test_a_rival_that_fails_is_told_and_the_others_go_on(bench, kinds, tmp_path, capsys):
    class Breaks(kinds["sqlite"]):
        key = "breaks"
        label = "Breaks"

        def write(self, form, blocks):
            raise OSError("no such luck")

    options = SimpleNamespace(rounds=2, seconds=0.01, gb=0.001, cold=True)
    found = bench.compare.run_scene(tmp_path, scene(bench, "100B"), [kinds["pystream"], Breaks], options)
    assert "Breaks: FAILED: no such luck" in capsys.readouterr().err
    for row in found["rows"]:
        assert row["cells"]["breaks"] == {"failed": "no such luck"}
        assert len(row["cells"]["pystream"]["seconds"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "oracle"], "--only: there is no 'oracle'; there are chronicle, diskcache, kafka"),
        (["--scenes", "100B,7B"], "--scenes: there is no '7B'; there are 100B, 100B-100-partitions"),
        (["--rounds", "0"], "--rounds 0: give a number above 0"),
        (["--seconds", "nan"], "--seconds nan: give a number above 0"),
        (["--gb", "-1"], "--gb -1.0: give a number above 0"),
    ],
)
def test_bad_options_are_refused(bench, capsys, arguments, message):
    with pytest.raises(SystemExit):
        bench.compare.parse(arguments)
    assert message in capsys.readouterr().err


def test_cold_reading_can_be_left_out(bench, tmp_path):
    setting = scene(bench, "100B")
    assert ("read", "batch", "cold") in bench.compare.rows_of(setting)
    told = bench.compare.passage(
        tmp_path, bench.rivals.ALL["sqlite"], setting, {"batch": 1, "record": 1}, False
    )
    assert {temperature for _, _, temperature in told} == {"", "warm"}
    assert bench.compare.parse([]).cold and not bench.compare.parse(["--quick"]).cold


def test_only_a_full_run_replaces_the_full_results(bench):
    parse = bench.compare.parse
    assert parse([]).name == parse(["--rounds", "3"]).name == "compare"
    for part in (["--quick"], ["--only", "sqlite"], ["--scenes", "100B"], ["--warm"]):
        assert parse(part).name == "last"
    assert parse(["--only", "sqlite", "--name", "mine"]).name == "mine"


# ---- tables, plots, pages


def fixed_results(bench: SimpleNamespace) -> dict[str, Any]:
    """What a run of two rounds would have found."""

    def who(label: str, kind: str, language: str = "Python", why_not: str | None = None) -> dict[str, Any]:
        versions = {} if why_not else {label: "1.2"}
        return {"label": label, "kind": kind, "language": language, "versions": versions, "why_not": why_not}

    people = {
        "floor": who("floor", "floor"),
        "pystream": who("pystream", "pystream"),
        "slow": who("Slow", "rival"),
        "fast": who("Fast", "rival"),
        "java": who("Beans", "rival", "Java"),
        "gone": who("Gone", "rival", why_not="the package gone is not installed"),
    }

    def cell(*seconds: float) -> dict[str, Any]:
        return {"records": 1_000_000, "seconds": list(seconds)}

    write = {
        "floor": cell(0.1, 0.1),
        "pystream": cell(0.2, 0.2),
        "slow": cell(8.0, 8.0),
        "fast": cell(2.0, 1.0),
        "java": cell(0.4, 0.4),
    }
    read = {
        "floor": {"why_not": "floors read from memory"},
        "pystream": cell(0.25, 0.25) | {"left_in_cache": 0.0},
        "slow": {"why_not": "it keeps all in memory"},
        "fast": cell(0.5, 0.5) | {"left_in_cache": 0.031},
        "java": {"failed": "no\nsuch luck"},
    }
    kinds = {key: SimpleNamespace(**each) for key, each in people.items()}
    rows = [
        {"op": "write", "form": "batch", "temperature": "", "cells": write},
        {"op": "read", "form": "record", "temperature": "cold", "cells": read},
    ]
    promise = {"durability": "kept", "done": "acknowledged", "settings": "as it comes"}
    found = {
        "key": "100B",
        "title": "Values",
        "value_bytes": 100,
        "block": 1000,
        "durability": "cache",
        "promises": dict.fromkeys(write, promise),
        "rows": [bench.report.judged(row, kinds) for row in rows],
    }
    return {
        "options": {"rounds": 2, "seconds": 1.0, "gb": 1.0, "seed": 7},
        "contestants": people,
        "scenes": [found],
        "machine": {"processor": "some, 2 cores"},
    }


def test_ratios_are_to_the_best_of_each_kind(bench):
    write, read = fixed_results(bench)["scenes"][0]["rows"]
    assert write["ratios"]["floor"] == {"best": "floor", "times": pytest.approx(0.5)}
    assert write["ratios"]["rival"] == {"best": "fast", "times": pytest.approx(5e6 / 750_000)}
    assert write["ratios"]["any_rival"] == {"best": "java", "times": pytest.approx(2.0)}
    assert write["cells"]["fast"]["iqr"] == pytest.approx(250_000)
    assert read["ratios"] == {
        "rival": {"best": "fast", "times": pytest.approx(2.0)},
        "any_rival": {"best": "fast", "times": pytest.approx(2.0)},
    }


def test_the_table_of_fixed_results(bench):
    lines = bench.report.tables(fixed_results(bench)).splitlines()
    for line in (
        "- without Gone: the package gone is not installed",
        "- versions: floor 1.2, pystream 1.2, Slow 1.2, Fast 1.2, Beans 1.2",
        "| contestant | write, batches | read records, cold | durability | done when |",
        "| floor | 10.0 M ±0% | - | kept | acknowledged |",
        "| **pystream** | 5.00 M ±0% | 4.00 M ±0% | kept | acknowledged |",
        "| Fast | 750 k ±33% | 2.00 M ±0% | kept | acknowledged |",
        "| Beans | 2.50 M ±0% | failed | kept | acknowledged |",
        "| *pystream by the floor* | 0.50 |  |  |  |",
        "| *pystream by the best Python rival* | 6.67 x Fast | 2.00 x Fast |  |  |",
        "- Slow: it keeps all in memory (read records, cold)",
        "- Beans: failed: no such luck (read records, cold)",
        "- Pages that the kernel did not drop before cold reading: Fast 3.1 %",
        "| Fast | as it comes | all |",
    ):
        assert line in lines, line


def test_the_summary_of_fixed_results(bench):
    assert bench.report.summary_table(fixed_results(bench)).splitlines()[2:] == [
        "| Values | write, batches | 5.00 M | 0.50 | Fast, 750 k | 6.67 | Beans, 2.50 M | 2.00 |",
        "| Values | read records, cold | 4.00 M |  | Fast, 2.00 M | 2.00 | Fast, 2.00 M | 2.00 |",
    ]


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.4, "0"), (999, "999"), (1000, "1.00 k"), (99_940, "99.9 k"), (123_456, "123 k"), (2.5e9, "2.50 G")],
)
def test_rates_have_three_digits(bench, rate, text):
    assert bench.report.short(rate) == text


def test_plots_are_made_and_those_of_before_go(bench, tmp_path):
    (tmp_path / "gone.png").write_bytes(b"")
    (path,) = bench.report.plots(fixed_results(bench), tmp_path)
    assert path.name == "100B.png" and path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_is_filled_between_its_markers(bench, tmp_path):
    results = tmp_path / "compare.json"
    results.write_text(json.dumps(fixed_results(bench)))
    page = tmp_path / "performance.md"
    before = (
        "a\n<!-- compare: summary -->\nformer\n<!-- /compare -->\n"
        "b\n<!-- compare: plots -->\n<!-- /compare -->\nc\n"
    )
    page.write_text(before)
    bench.report.write_docs(results, tmp_path)
    text = page.read_text()
    assert "former" not in text and "| Values | write, batches | 5.00 M |" in text
    assert "![Values](images/compare/100B.png)" in text
    assert (tmp_path / "images/compare/100B.png").stat().st_size > 5000
    bench.report.write_docs(results, tmp_path)
    assert page.read_text() == text, "filling twice is filling once"
    with pytest.raises(ValueError, match="nothing fills the marker 'other'"):
        bench.report.filled(
            before + "<!-- compare: other -->\n<!-- /compare -->\n", {"summary": "", "plots": ""}
        )
    with pytest.raises(ValueError, match="no marker for plots"):
        bench.report.filled(before.replace("plots", "summary"), {"summary": "", "plots": ""})


def test_the_page_says_what_the_results_say(bench):
    """Whoever runs `make bench` runs `python bench/compare.py --write-docs` after it."""
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    path = BENCH / "results/compare.json"
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        assert bench.report.filled(page, bench.report.parts_of(results)) == page
        assert (BENCH / "results/compare.md").read_text(encoding="utf-8") == bench.report.tables(results)
        for scene in results["scenes"]:
            assert (ROOT / "docs/images/compare" / f"{scene['key']}.png").exists()
    else:
        assert [name for _, name, _ in bench.report.MARKED.findall(page)] == ["summary", "plots"]
