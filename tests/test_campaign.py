"""Campaigns: what the ledger counts and keeps, how runs go on, and that the page says what it says."""

from __future__ import annotations

import inspect
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from campaign import __main__ as command
from campaign import ledger, table, version
from campaign.kinds import KINDS, Blocks, Elsewhere, Kind, KindError, failures_of, seeds_of
from campaign.ledger import LedgerError, Writer
from campaign.runs import Limits, RunError, Runner
from entries import CODE, OTHER, entry
from faults.mutants import MUTANTS


class Stub:
    """A test that only counts: `rate` seeds a call, of `units` units each."""

    def __init__(self, name: str = "stub", *, target: int = 1000, rate: int = 10, units: int = 1) -> None:
        self.rate, self.units = rate, units
        self.calls: list[tuple[int, int]] = []
        self.bad: dict[int, str] = {}
        self.total: int | None = None
        self.kind = Kind(name, "a stub", "trials", "1", target, self.run, place="/")

    def run(self, first: int, trials: int, *, seconds: float | None, workers: int) -> dict[str, Any]:
        assert trials > 0 and workers == 2 and seconds is not None and 0 < seconds <= 60
        self.calls.append((first, trials))
        seeds = min(self.rate, -(-trials // self.units))
        tried = range(first, first + seeds)
        failures = [f"seed {seed}: {text}" for seed, text in self.bad.items() if seed in tried]
        answer = {"trials": seeds * self.units, "seeds": seeds, "failures": failures, "deepest": first}
        return answer | ({} if self.total is None else {"total": self.total})

    def enumerated(self, total: int) -> Stub:
        self.total, self.kind = total, replace(self.kind, enumerates=True)
        return self


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


class Clock:
    """In place of the module `time`: the seconds are as many as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("runs", "kinds"):
        monkeypatch.setattr(f"campaign.{module}.time", made)
    return made


@pytest.fixture
def runner(path: Path) -> Any:
    said: list[str] = []
    made = Runner(Writer(path), CODE, "a command", say=said.append, digest_now=lambda: CODE.digest)
    made.said = said  # type: ignore[attr-defined]
    yield made
    made.writer.close()


# ---- the ledger of this repository ----------------------------------------------------------------


def test_the_ledger_is_whole_and_of_tests_that_there_are() -> None:
    for each in ledger.load():
        assert each.test in {kind.name for kind in KINDS}, each.run
        assert each.as_line() in ledger.LEDGER.read_text(encoding="utf-8"), (
            f"{each.run}: not as it is written"
        )


def test_the_page_says_what_the_ledger_says() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert page == table.expected(page, table.markdown(KINDS, ledger.load())), (
        "run: python -m tests.campaign --table --write"
    )


def test_the_page_tells_of_every_broken_promise() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    for mutant in MUTANTS:
        assert f"| {mutant.promise} | " in page, f"{mutant.name} has no row in the table of broken promises"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_campaign_calls_is_there(kind: Kind) -> None:
    assert isinstance(kind.run, Elsewhere)
    signature = inspect.signature(kind.run.find())
    if kind.name == "fuzz":
        signature.bind(60.0, workers=2)
    else:
        signature.bind(1, 100, seconds=60.0, workers=2)


# ---- runs -----------------------------------------------------------------------------------------


def test_a_run_goes_on_where_the_last_one_stopped(path: Path, runner: Any) -> None:
    stub = Stub(rate=10)
    runner.run(stub.kind, Limits(trials=25))
    assert stub.calls == [(1, 25), (11, 15), (21, 5)]
    runner.run(stub.kind, Limits(trials=5))
    assert stub.calls[3:] == [(26, 5)]
    first, second = ledger.load(path)
    assert (first.first, first.last, first.trials) == (1, 25, 25)
    assert (second.first, second.last, second.trials) == (26, 30, 5)
    assert first.details == {"deepest": 21}
    assert (first.version, first.command) == ("1.2.0-0123456789ab", "a command")
    assert ledger.reached(ledger.load(path), "stub") == 30


def test_what_was_done_is_in_the_ledger_when_the_run_is_killed(path: Path, runner: Any) -> None:
    stub = Stub(rate=10)
    usual = stub.run

    def killed_in_the_third(*words: Any, **more: Any) -> dict[str, Any]:
        if len(stub.calls) == 2:
            raise KeyboardInterrupt
        return usual(*words, **more)

    with pytest.raises(KeyboardInterrupt):
        runner.run(replace(stub.kind, run=killed_in_the_third), Limits(trials=100))
    assert [(each.last, each.trials) for each in ledger.load(path)] == [(20, 20)]
    runner.run(stub.kind, Limits(trials=1))
    assert stub.calls[-1] == (21, 1)


def test_without_a_limit_a_run_ends_at_its_target(path: Path, runner: Any) -> None:
    stub = Stub(target=95, rate=10, units=3)
    runner.run(stub.kind, Limits())
    assert ledger.reached(ledger.load(path), "stub") == 96, "the last seed has three"
    calls = len(stub.calls)
    runner.run(stub.kind, Limits())
    assert len(stub.calls) == calls
    runner.run(stub.kind, Limits(trials=3))
    assert len(stub.calls) == calls + 1


def test_a_test_that_enumerates_wants_all_so_many_times(path: Path, runner: Any) -> None:
    stub = Stub(target=3, rate=10).enumerated(17)
    runner.run(stub.kind, Limits())
    (run,) = ledger.load(path)
    assert (run.last, run.details["total"]) == (51, 17)
    assert "| all, 3 times: 51 trials | 51 | 51 by 1.2.0-0123456789ab |" in table.markdown([stub.kind], [run])
    more = Stub(target=3, rate=10).enumerated(20)  # the sources have changed: there are more
    runner.run(more.kind, Limits(trials=2))
    runner.run(more.kind, Limits())
    assert [each.last for each in ledger.load(path)] == [51, 53, 60]
    with pytest.raises(RunError, match="how many seeds make all"):
        runner.run(replace(Stub().kind, enumerates=True), Limits(trials=5))


def test_all_may_be_counted_in_seeds_of_which_not_every_one_makes_a_unit(path: Path, runner: Any) -> None:
    stub = Stub(target=1).enumerated(40)

    def three_of_ten(*words: Any, **more: Any) -> dict[str, Any]:
        return stub.run(*words, **more) | {"seeds": 10, "trials": 3}

    kind = replace(stub.kind, by_seeds=True, run=three_of_ten)
    runner.run(kind, Limits(trials=6))
    assert kind.progress(ledger.load(path)) == "6 (50 %)"
    runner.run(kind, Limits())
    assert kind.progress(ledger.load(path)) == "12 (all)"
    assert kind.goal(40) == "all" and kind.missing(ledger.load(path)) == 0
    assert kind.missing(ledger.load(path), OTHER) == 40


def test_the_time_is_kept(runner: Any, clock: Clock) -> None:
    stub = Stub(target=1, rate=1)

    def slow(*words: Any, **more: Any) -> dict[str, Any]:
        clock.now += 40
        return stub.run(*words, **more)

    runner.run(replace(stub.kind, run=slow), Limits(seconds=100))
    assert len(stub.calls) == 3, "the time counts, not the target"


def test_blocks_leave_no_seed_out_when_the_time_is_over(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []

    def run(first: int, trials: int, *, seconds: float | None, workers: int) -> dict[str, Any]:
        assert seconds is None and workers == 2
        calls.append((first, trials))
        clock.now += 2
        return {
            "trials": trials,
            "failures": [f"seed {first}"],
            "details": {"cuts": trials, "deepest": trials},
        }

    monkeypatch.setattr(Elsewhere, "find", lambda self: run)
    answer = Blocks("any")(5, 1000, seconds=9, workers=2)
    assert calls == [(5, 16), (21, 40), (61, 100), (161, 150), (311, 75)]
    assert [first for first, _ in calls[1:]] == [first + trials for first, trials in calls[:-1]]
    assert answer["trials"] == sum(trials for _, trials in calls) <= 1000
    assert len(answer["failures"]) == len(calls)
    assert answer["details"] == {"cuts": answer["trials"], "deepest": max(trials for _, trials in calls)}
    assert Blocks("any")(5, 3, seconds=None, workers=2)["trials"] == 3
    assert Blocks("any")(5, 1000, seconds=1e-9, workers=2)["trials"] == 16, "a block at least"


def test_a_failure_is_reported_with_the_command_that_plays_it_again(path: Path, runner: Any) -> None:
    stub = Stub(rate=10)
    stub.bad = {7: "a record is lost", 14: "it is torn"}
    runner.run(stub.kind, Limits(trials=20))
    assert runner.failed == 2
    assert "stub: FAILED: seed 7: a record is lost" in runner.said
    assert "  play it again: python -m tests.campaign stub --seed 14 --trials 1" in runner.said
    (run,) = ledger.load(path)
    assert run.failures == [[7, "seed 7: a record is lost"], [14, "seed 14: it is torn"]]
    assert (run.trials, run.failed) == (20, 2)

    runner.run(stub.kind, Limits(seed=14, trials=1))
    assert stub.calls[-1] == (14, 1) and runner.failed == 3
    assert [each.run for each in ledger.load(path)] == [run.run], "what was tried before adds nothing"
    assert "stub: the ledger has seed 14 already: nothing is added to it" in runner.said
    runner.run(stub.kind, Limits(seed=1000, trials=10))
    assert ledger.next_seed(ledger.load(path), "stub") == 1010


def test_a_run_in_which_everything_fails_ends_soon(path: Path, runner: Any) -> None:
    stub = Stub(rate=10)
    stub.bad = dict.fromkeys(range(1, 1000), "bad")
    runner.run(stub.kind, Limits(trials=1000))
    assert ledger.load(path)[0].failed == 20


def test_a_test_that_is_broken_itself_is_no_failure_of_the_library(path: Path, runner: Any) -> None:
    def broken(*words: Any, **more: Any) -> dict[str, Any]:
        raise ValueError("no compiler")

    with pytest.raises(RunError, match="broken at seed 1: ValueError: no compiler"):
        runner.run(replace(Stub().kind, run=broken), Limits(trials=5))
    with pytest.raises(RunError, match="no seed was tried"):
        runner.run(Stub(rate=0).kind, Limits(trials=5))
    assert runner.failed == 0 and ledger.load(path) == []


def test_trials_while_sources_are_edited_do_not_count(path: Path, runner: Any) -> None:
    stub = Stub(rate=10)
    stub.bad = {15: "bad"}
    runner.digest_now = lambda: CODE.digest if len(stub.calls) < 2 else OTHER
    with pytest.raises(RunError, match="sources of the library were edited meanwhile"):
        runner.run(stub.kind, Limits(trials=50))
    (run,) = ledger.load(path)
    assert (run.last, run.trials, run.failures) == (10, 10, [[15, "seed 15: bad"]])


def test_time_is_shared_among_those_below_their_target(runner: Any, clock: Clock) -> None:
    done, small, large = Stub("done", target=5), Stub("small", target=20), Stub("large", target=10**9)
    runner.run(done.kind, Limits())

    def slow(*words: Any, **more: Any) -> dict[str, Any]:
        clock.now += 50
        return large.run(*words, **more)

    kinds = [done.kind, small.kind, replace(large.kind, run=slow)]
    runner.share(kinds, 400)
    assert clock.now == 400
    assert (len(done.calls), len(small.calls)) == (1, 2)
    assert len(large.calls) == 8, "what small leaves goes to it"
    runner.share(kinds[:2], None)
    assert (len(done.calls), len(small.calls)) == (1, 2), "all have reached it"


def test_one_that_fails_or_is_broken_does_not_keep_the_others_from_it(path: Path, runner: Any) -> None:
    bad, broken, good = Stub("bad", target=40), Stub("broken", rate=0), Stub("good", target=40)
    bad.bad = {3: "lost"}
    with pytest.raises(RunError, match=r"could not run .*broken"):
        runner.share([bad.kind, broken.kind, good.kind], None)
    assert runner.failed == 1
    assert ledger.reached(ledger.load(path), "good") == 40


@pytest.mark.parametrize("this_version", [False, True])
def test_the_target_is_of_all_versions_or_of_this_one(path: Path, runner: Any, this_version: bool) -> None:
    writer = Writer(path)
    writer.enter(entry("stub", 1, 90, digest=OTHER))
    writer.close()
    runner.counted = CODE.digest if this_version else None
    runner.run(Stub(target=100).kind, Limits())
    assert ledger.reached(ledger.load(path), "stub", CODE.digest) == (100 if this_version else 10)


def test_what_a_test_may_answer() -> None:
    answer = {"trials": 5, "failures": ["trial of seed=12: x", "no number", (7, "y"), [8, "z"]]}
    assert failures_of(answer, 3) == [(12, "trial of seed=12: x"), (3, "no number"), (7, "y"), (8, "z")]
    assert seeds_of(answer) == 5 and seeds_of({"trials": 90, "seeds": 2}) == 2
    for wrong in ({"failures": [5]}, {"failures": [{"seed": 1, "text": "x", "more": 2}]}):
        with pytest.raises(KindError, match="a failure is"):
            failures_of(wrong, 1)
    for trials in (None, -1, "5", 1.5):
        with pytest.raises(KindError, match="were done"):
            seeds_of({"trials": trials})


def hold(path: Path, said: Any) -> None:
    with Writer(path).running("stub"):
        said.set()
        time.sleep(60)


def test_one_process_at_a_time_runs_a_test(path: Path, runner: Any) -> None:
    context = multiprocessing.get_context("fork")
    said = context.Event()
    process = context.Process(target=hold, args=(path, said), daemon=True)
    process.start()
    assert said.wait(60)
    with pytest.raises(LedgerError, match="another process runs stub"):
        runner.run(Stub().kind, Limits(trials=1))
    assert runner.run(Stub("other").kind, Limits(trials=1)).trials == 1
    process.kill()
    process.join()
    assert runner.run(Stub().kind, Limits(trials=1)).trials == 1, "its lock went with it"


# ---- the table ------------------------------------------------------------------------------------


def test_the_table_of_a_fixed_ledger() -> None:
    power = Kind("power", "power goes", "power failures", "20", 1_000_000, Stub().run)
    fuzzing = Kind("fuzz", "anything", "time", "60 s", 8 * 3600, Stub().run)
    damage = Kind("damage", "every byte", "damages", "a sample", 1, Stub().run, enumerates=True)
    runs = [
        entry(first=1, last=250_000, failed=1, failures=[[7, "x"]], date="2026-01-01T00:00:00Z"),
        entry("fuzz", 1, 5400, date="2026-01-02T00:00:00Z"),
        entry(first=250_001, last=260_000, digest=OTHER, date="2026-01-03T00:00:00Z", machine="another"),
    ]
    assert table.markdown([power, fuzzing, damage], runs) == (
        "| test | each CI run | wanted | reached | by the latest version | failures | last run | command |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| **power**: power goes | 20 | 1,000,000 power failures | 260,000 | 10,000 by 1.2.0-ba9876543210 | "
        "0 (earlier versions: 1) | 2026-01-03 | `make campaign TEST=power` |\n"
        "| **fuzz**: anything | 60 s | 8.0 h | 1.5 h | 1.5 h by 1.2.0-0123456789ab | 0 | 2026-01-02 | "
        "`make campaign TEST=fuzz` |\n"
        "| **damage**: every byte | a sample | all | not run |  |  |  | `make campaign TEST=damage` |\n"
        "\nMachines of these runs:\n\n- Linux 6.18, x86_64, 2 cores, tmpfs\n- another\n"
    )


def test_the_table_goes_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{table.BEGIN}\nold\n{table.END}\n\nafter\n")
    assert table.write(page, "new\n") and not table.write(page, "new\n")
    assert page.read_text() == f"before\n\n{table.BEGIN}\n\nnew\n\n{table.END}\n\nafter\n"
    for text in ("nothing", f"{table.END}\n{table.BEGIN}\n", f"{table.BEGIN}\n" * 2 + table.END):
        page.write_text(text)
        with pytest.raises(table.PageError, match="must have these two lines"):
            table.write(page, "new\n")
        assert page.read_text() == text


# ---- the command ----------------------------------------------------------------------------------


@pytest.fixture
def campaign(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(command, "unbuilt", lambda: "")
    code = version.version()
    monkeypatch.setattr(command, "version", lambda: code)
    monkeypatch.setattr("campaign.runs.Runner._check_sources", lambda self: None)
    monkeypatch.setattr(
        Runner.__init__,
        "__kwdefaults__",
        {**Runner.__init__.__kwdefaults__, "digest_now": lambda: code.digest},
    )
    return lambda words, *stubs: command.main(
        [*words.split(), "--ledger", str(path)], [stub.kind for stub in stubs]
    )


def test_exit_codes_and_what_is_printed(campaign: Any, path: Path, capsys: Any) -> None:
    good, bad = Stub("good", target=20), Stub("bad")
    bad.bad = {5: "a record is lost"}
    assert campaign("good --trials 20", good, bad) == 0
    assert "good: seeds 1 to 20: 20 in 0 s, 0 failed; in all 20, wanted 20 trials" in capsys.readouterr().out
    assert campaign("bad --trials 20", good, bad) == 1
    out = capsys.readouterr().out
    assert "bad: FAILED: seed 5: a record is lost" in out and "bad --seed 5 --trials 1" in out
    assert campaign("bad --seed 5", good, bad) == 1
    assert bad.calls[-1] == (5, 1)
    assert campaign("good", good, bad) == 0
    assert "each has reached its target" in capsys.readouterr().out
    assert campaign("all --time 3", good) == 0
    assert "each has reached its target" in capsys.readouterr().out
    assert campaign("--list", good, bad) == 0
    out = capsys.readouterr().out
    assert "20 (wanted: 20 trials, reached); 20 with the sources as they are" in out
    path.write_text("nonsense\n")
    assert campaign("good --trials 1", good) == 1
    assert "campaign: " in capsys.readouterr().err


def test_the_table_is_printed_and_written(campaign: Any, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    assert campaign("--table", Stub()) == 0
    printed = capsys.readouterr().out
    assert "| **stub**: a stub | 1 | 1,000 trials | not run |" in printed
    assert campaign(f"--table --write --page {page}", Stub()) == 0
    assert printed in page.read_text()
    assert campaign(f"--table --write --page {page}", Stub()) == 0
    assert "it is up to date" in capsys.readouterr().out


def test_interrupted(campaign: Any, path: Path, capsys: Any) -> None:
    def interrupt(*words: Any, **more: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    stub = Stub()
    stub.kind = replace(stub.kind, run=interrupt)
    assert campaign("stub --trials 5", stub) == 130
    assert "is in the ledger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "say which test, or all, or --list, or --table"),
        ("nonsense", "there is no test 'nonsense'; there are kill, points, power, power-stores"),
        ("power --time soon", "'soon' is not a time such as 90, 90s, 10m or 2h"),
        ("power --time 0", "'0' is not a time"),
        ("power --time nan", "'nan' is not a time"),
        ("power --time inf", "'inf' is not a time"),
        ("power --trials 0", "'0' is not a number from 1 on"),
        ("power --seed -1", "'-1' is not a number from 1 on"),
        ("power --workers 0", "'0' is not a number from 1 on"),
        ("all --seed 7", "--seed and --trials are for one test"),
        ("power kill --trials 7", "--seed and --trials are for one test"),
        ("power --table", "--list and --table run nothing"),
        ("power --write", "--write goes with --table"),
    ],
)
def test_what_cannot_be_run_is_refused(words: str, said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5m", 90), ("2h", 7200), ("30s", 30), ("1d", 86400)]
)
def test_times(text: str, seconds: float) -> None:
    assert command.duration(text) == seconds
