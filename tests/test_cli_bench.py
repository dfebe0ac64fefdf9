"""`pystream bench`: short runs of everything, what they say, what they refuse, what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import pystream
from commands import ENVIRONMENT, WAIT_S, altered, in_terminal, pystream_
from pystream.benchmark import plan as plans
from pystream.benchmark import scratch
from pystream.benchmark.machine import machine_facts
from pystream.benchmark.run import MEANINGS
from pystream.cli import cli

BRIEF = ("--duration", "100ms")


def bench(*arguments: object) -> dict:
    """A run as a program sees it."""
    result = pystream_("bench", *arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def refused(*arguments: object) -> tuple[int, str]:
    """Exit code and message of a run in this process, which must fail."""
    result = CliRunner().invoke(cli, ["bench", *map(str, arguments)])
    assert result.exit_code != 0
    assert result.stdout == ""
    return result.exit_code, result.stderr


def check(report: dict, mode: str) -> list[dict]:
    """What holds for every report; its results."""
    assert set(report) == {
        *("benchmark", "started", "options", "batch_records", "segment_bytes", "acknowledged_means"),
        *("machine", "versions", "results", "floors", "on_disk_seconds", "progress", "notes", "warnings"),
    }
    assert report["benchmark"] == mode
    assert report["acknowledged_means"] == MEANINGS[report["options"]["durability"]]
    assert report["versions"]["pystream"] == pystream.__version__
    assert report["versions"]["hdrhistogram"]
    assert {"processor", "cpus", "filesystem", "load_average", "load_average_after"} <= set(report["machine"])
    assert report["options"]["seed"] == plans.SEED_DEFAULT
    assert os.uname().nodename not in json.dumps(report["machine"])
    for result in report["results"]:
        assert result["records"] > 0 and result["seconds"] > 0
        assert result["records_per_second"] == pytest.approx(result["records"] / result["seconds"])
        assert result["bytes_per_second"] == pytest.approx(result["bytes"] / result["seconds"])
        assert result["stored_bytes_per_second"] == pytest.approx(result["stored_bytes"] / result["seconds"])
        latency = result["latency"]
        times = [latency[name] for name in ("p50_us", "p90_us", "p99_us", "p99_9_us", "max_us")]
        assert latency["count"] > 0 and times[0] > 0 and times == sorted(times)
        assert latency["max_us"] <= (result["seconds"] + 1) * 1e6
    for floor in report["floors"]:
        assert floor.get("bytes_per_second", floor.get("writes_per_second")) > 0
    seconds = [point["seconds"] for point in report["progress"]]
    assert seconds == sorted(seconds) and seconds
    return report["results"]


def picture(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


# ---- produce ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["append", "send", "send_many"])
@pytest.mark.parametrize("shape", ["random", "ticks"])
def test_produce_writes_what_it_was_told_to(tmp_path, call, shape):
    size = {"random": 100, "ticks": 24}[shape]
    report = bench("produce", tmp_path, "--call", call, "--shape", shape, "--bytes", 1000 * size)
    (result,) = check(report, "produce")
    assert (result["records"], result["bytes"]) == (1000, 1000 * size)
    assert result["latency"]["count"] == {"append": 1, "send": 10, "send_many": 1}[call]
    assert call in result["latency"]["of"]
    assert [floor["name"] for floor in report["floors"]] == ["xxh3, populate, copy", "xxh3, pwrite"]
    best = max(floor["bytes_per_second"] for floor in report["floors"])
    assert result["floor_ratio"] == pytest.approx(result["bytes_per_second"] / best)
    assert report["on_disk_seconds"] >= result["seconds"]
    assert list(tmp_path.iterdir()) == []


def test_produce_shares_work_between_threads_and_processes(tmp_path):
    options = ("--processes", 2, "--threads", 2, "--partitions", 3, "--keys", "hot", "--call", "send_many")
    report = bench("produce", tmp_path, *options, "--bytes", 80_000, "--batch", 50)
    (result,) = check(report, "produce")
    # Four threads of 200 records, each with a key of 13 bytes.
    assert (result["records"], result["bytes"]) == (800, 800 * 113)
    assert result["latency"]["count"] == 16
    assert report["options"]["processes"] == report["options"]["threads"] == 2
    assert report["batch_records"] == 50


def test_produce_ends_in_time_and_keeps_to_a_rate(tmp_path):
    report = bench("produce", tmp_path, "--duration", "500ms", "--rate", 4000, "--batch", 10)
    (result,) = check(report, "produce")
    # Due every 2.5 ms for half a second: as many, unless the machine stood still at the end.
    assert result["records"] == 2000 or (report["warnings"] and result["records"] < 2000)
    assert result["seconds"] >= 0.497
    assert result["floor_ratio"] is None
    assert result["latency"]["of"].endswith("from when it was due")


def test_produce_says_when_it_cannot_keep_up(tmp_path):
    result = pystream_("bench", "produce", tmp_path, *BRIEF, "--rate", plans.RATE_MAX, "--batch", 1)
    assert result.returncode == 0
    assert "fell behind: " in result.stderr and "instead of 10,000,000" in result.stderr


def test_json_events_compress_to_a_quarter(tmp_path):
    report = bench("produce", tmp_path, "--shape", "json", "--codec", "lz4", "--bytes", "4MB")
    (result,) = check(report, "produce")
    assert 3.5 < result["bytes"] / result["stored_bytes"] < 4.5


def test_a_run_that_would_write_too_much_ends_early_and_says_so(tmp_path):
    code = "from pystream.benchmark import scratch; scratch.SPACE_BYTES_MAX = 1_000_000"
    result = altered(code, "bench", "produce", tmp_path, "--duration", "60s", "--json")
    report = json.loads(result.stdout)
    (told,) = report["results"]
    assert 500_000 < told["stored_bytes"] <= 1_000_000
    assert report["warnings"] == ["ended early: the space set aside for it, 1,000,000 bytes, was used up"]


# ---- consume ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", ["records", "batches", "arrays"])
def test_consume_reads_all_of_it(tmp_path, reading):
    report = bench("consume", tmp_path, "--as", reading, "--bytes", 500_000, "--passes", 3, "--batch", 100)
    first, again = check(report, "consume")
    assert (first["name"], first["records"], first["bytes"]) == ("first pass", 5000, 500_000)
    assert (again["name"], again["records"], again["bytes"]) == ("again", 10_000, 1_000_000)
    assert first["latency"]["count"] == (5 if reading == "records" else 50)
    assert again["latency"]["count"] == 2 * first["latency"]["count"]
    (floor,) = report["floors"]
    assert first["floor_ratio"] == pytest.approx(first["stored_bytes_per_second"] / floor["bytes_per_second"])
    assert list(tmp_path.iterdir()) == []


def test_readers_share_out_the_partitions_or_read_all(tmp_path):
    common = ("consume", tmp_path, "--bytes", 300_000, "--processes", 2, "--as", "batches", "--batch", 100)
    (shared,) = check(bench(*common, "--partitions", 3), "consume")
    (all_,) = check(bench(*common, "--fan-out"), "consume")
    assert (shared["records"], all_["records"]) == (3000, 6000)


def test_consume_cold_says_what_that_is(tmp_path):
    report = bench("consume", tmp_path, "--bytes", 500_000, "--cold", "--keys", "uniform")
    if report["machine"]["filesystem"] != "tmpfs":
        check(report, "consume")
    assert any(note.startswith("cold: ") and "DONTNEED" in note for note in report["notes"])


def test_memory_is_never_cold(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pystream.benchmark.run.machine_facts", lambda path: machine_facts(path) | {"filesystem": "tmpfs"}
    )
    code, said = refused("consume", tmp_path, "--cold", "--bytes", 1000)
    assert code == 3 and "is on tmpfs, which has no disk to read from" in said
    assert list(tmp_path.iterdir()) == []


# ---- latency and durable ------------------------------------------------------------------------------


def test_latency_reaches_another_process(tmp_path):
    options = ("--duration", "300ms", "--warmup", "100ms", "--rate", 500, "--size", plans.STAMP_BYTES)
    report = bench("latency", tmp_path, *options)
    results = check(report, "latency")
    names = [(result["name"], result["latency"]["of"]) for result in results]
    ofs = ("from when it was due", "from the call")
    assert names == [(f"receiver {wait}s", of) for wait in ("spin", "block") for of in ofs]
    for result in results:
        # 0.4 s of records, of which a quarter is not counted; fewer only where the sender fell far behind.
        assert result["records"] == 200 or report["warnings"]
        assert result["latency"]["count"] == result["records"] - 50
        assert result["floor_ratio"] is None
    for due, called in (results[:2], results[2:]):
        assert due["latency"]["p50_us"] >= called["latency"]["p50_us"]
        assert due["latency"]["max_us"] >= called["latency"]["p50_us"]


def test_latency_of_one_way_to_wait(tmp_path):
    report = bench("latency", tmp_path, *BRIEF, "--warmup", 0, "--wait", "block", "--batch", 5)
    results = check(report, "latency")
    assert {result["name"] for result in results} == {"receiver blocks"}
    assert all(result["latency"]["count"] == result["records"] for result in results)


@pytest.mark.parametrize("by", ["sync", "flush"])
def test_durable_stands_beside_a_bare_loop(tmp_path, by):
    report = bench("durable", tmp_path, "--by", by, "--bytes", 2000, "--threads", 2)
    (result,) = check(report, "durable")
    assert (result["records"], result["latency"]["count"]) == (20, 20)
    assert report["options"]["durability"] == {"sync": "sync", "flush": "interval"}[by]
    (floor,) = report["floors"]
    assert floor["name"] == "pwrite, fdatasync" and floor["latency"]["count"] > 0
    calls = result["records_per_second"]
    assert result["floor_ratio"] == pytest.approx(calls / floor["writes_per_second"])
    assert any("2 writers share syncs" in note for note in report["notes"])


# ---- for people ---------------------------------------------------------------------------------------


def test_people_see_progress_and_then_tables(tmp_path):
    code, lines = in_terminal("bench", "produce", tmp_path, "--duration", "500ms", columns=120)
    assert code == 0
    text = "\n".join(lines)
    assert "floors" in text and "records/s" in text  # the bar
    for word in (
        "machine",
        "durability",
        "Records/s",
        "Of the floor",
        "p99.9",
        "append of 1,000",
        "the disk had",
    ):
        assert word in text, word


def test_quiet_runs_print_the_tables_alone(tmp_path):
    result = pystream_("bench", "durable", tmp_path, "--bytes", 300, "-q")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Latency" in result.stdout and "floor" in result.stdout


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("produce", ("--bytes", "1MB")),
        ("consume", ("--bytes", "1MB", "--passes", 2)),
        ("latency", (*BRIEF, "--warmup", 0, "--rate", 200)),
        ("durable", ("--bytes", 500)),
    ],
)
def test_plot(tmp_path, mode, options):
    path = tmp_path / f"{mode}.png"
    result = pystream_("bench", mode, tmp_path, *options, "--plot", path)
    assert result.returncode == 0
    assert result.stderr.splitlines()[-1] == f"wrote {path}"
    width, height = picture(path)
    assert width == 1500 and height == (1200 if mode in ("produce", "consume") else 750)
    assert list(tmp_path.iterdir()) == [path]


# ---- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["produce", "--size", "0"], "must be from 1 to 16777216 bytes"),
        (["produce", "--size", "16777217"], "must be from 1 to 16777216 bytes"),
        (["produce", "--size", "big"], "not a size"),
        (["produce", "--shape", "json", "--size", "159"], "JSON events have at least 160 bytes"),
        (["produce", "--shape", "ticks", "--size", "25"], "ticks have 24 bytes; leave --size out"),
        (["produce", "--shape", "text"], "'text' is not one of"),
        (["produce", "--keys", "some"], "'some' is not one of"),
        (["produce", "--codec", "zstd"], "'zstd' is not one of"),
        (["produce", "--durability", "maybe"], "'maybe' is not one of"),
        (["produce", "--call", "flush"], "'flush' is not one of"),
        (["produce", "--batch", "0"], "0 is not in the range"),
        (["produce", "--batch", str(plans.BATCH_MAX + 1)], "is not in the range"),
        (["produce", "--batch", "671000"], "a batch at most half of that: make it smaller"),
        (["produce", "--partitions", "0"], "must be from 1 to 65536"),
        (["produce", "--partitions", "65537"], "must be from 1 to 65536"),
        (["produce", "--threads", "0"], "0 is not in the range"),
        (["produce", "--threads", "257"], "257 is not in the range"),
        (["produce", "--processes", "257"], "257 is not in the range"),
        (["produce", "--threads", "16", "--processes", "17"], "is 272 threads in all; at most 256"),
        (["produce", "--duration", "49ms"], "must be from 0.05 to 86400 seconds"),
        (["produce", "--duration", "86401"], "must be from 0.05 to 86400 seconds"),
        (["produce", "--duration", "soon"], "not a duration"),
        (["produce", "--bytes", "0"], "must be from 1 to"),
        (["produce", "--bytes", "17TiB"], "must be from 1 to"),
        (["produce", "--bytes", "1GB", "--duration", "1s"], "--duration and --bytes: give one of them"),
        (["durable", "--bytes", "1GB", "--duration", "1s"], "--duration and --bytes: give one of them"),
        (["produce", "--rate", "0"], "is not in the range"),
        (["produce", "--rate", "nan"], "--rate nan: must be more than 0"),
        (["produce", "--rate", "10000001"], "is not in the range"),
        (["produce", "--seed", "-1"], "-1 is not in the range"),
        (["consume", "--as", "rows"], "'rows' is not one of"),
        (["consume", "--as", "arrays", "--shape", "json"], "JSON events are no arrays"),
        (["consume", "--threads", "2"], "2 readers of 1 partition: each reads partitions of its own"),
        (["consume", "--passes", "0"], "0 is not in the range"),
        (["consume", "--passes", "1001"], "1001 is not in the range"),
        (["consume", "--duration", "1s"], "No such option"),
        (["latency", "--size", "15"], "the records of latency carry 16 bytes of times"),
        (["latency", "--wait", "never"], "'never' is not one of"),
        (["latency", "--warmup", "-1"], "not a duration"),
        (["latency", "--threads", "2"], "No such option"),
        (["durable", "--by", "hope"], "'hope' is not one of"),
        (["durable", "--plot", "figures.svg"], "the picture is a PNG; give a name that ends with .png"),
        (["durable", "--plot", "nowhere/figures.png"], "there is no directory nowhere"),
        (["walk"], "no such command 'walk'"),
    ],
    ids=" ".join,
)
def test_bad_options_are_refused_before_anything_is_made(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, said = refused(*arguments)
    assert code == 2
    assert message in " ".join(said.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"size": 1},
        {"size": plans.SIZE_BYTES_MAX, "batch": 1},
        {"shape": "json", "size": plans.JSON_BYTES_MIN},
        {"threads": 16, "processes": 16},
        {"partitions": 65536},
        {"batch": 640_000},
        {"mode": "latency", "size": plans.STAMP_BYTES, "batch": 1},
        {"mode": "consume", "threads": 2, "partitions": 2},
        {"mode": "consume", "threads": 2, "fan_out": True},
    ],
    ids=str,
)
def test_limits_are_within(options):
    made = plans.Plan(**{"mode": "produce", "seconds": 1.0} | options).check()
    assert made.frame_bytes <= made.segment_bytes // 2


def test_a_directory_must_be_there(tmp_path):
    (tmp_path / "file").touch()
    assert refused("produce", tmp_path / "none") == (3, f"pystream: {tmp_path}/none: does not exist\n")
    assert refused("produce", tmp_path / "file") == (3, f"pystream: {tmp_path}/file: not a directory\n")


def test_a_disk_that_is_nearly_full_is_refused_beforehand(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)

    class Disk:
        f_frsize = real.f_frsize
        f_blocks = 0
        f_bavail = 0

    monkeypatch.setattr(scratch.os, "statvfs", lambda path: Disk)
    needed = 10 << 20
    most = needed + 5 + scratch.RESERVE_BYTES
    Disk.f_frsize, Disk.f_bavail = 1, most - 1
    monkeypatch.setattr(scratch, "SPACE_BYTES_LEAST", 1 << 20)
    with pytest.raises(Exception, match="bytes are free there; the run needs 10,485,765"):
        scratch.space_for(tmp_path / "x", needed, 5)
    Disk.f_bavail = most
    assert scratch.space_for(tmp_path / "x", needed, 5) == needed
    assert scratch.space_for(tmp_path / "x", 0, 5) == needed
    code, said = refused("produce", tmp_path, "--bytes", "1GiB")
    assert code == 3 and "give a smaller --bytes" in said
    assert list(tmp_path.iterdir()) == []


def test_the_extra_is_named_where_it_is_missing(tmp_path):
    for name, more in (("hdrh", ()), ("matplotlib", ("--plot", tmp_path / "p.png"))):
        code = (
            "import importlib.util as u; real = u.find_spec\n"
            f"u.find_spec = lambda n, *a: None if n == {name!r} else real(n, *a)"
        )
        result = altered(code, "bench", "durable", tmp_path, *more)
        assert result.returncode == 2
        assert name in result.stderr and "pip install 'pystream-log[bench]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


# ---- what is left behind ------------------------------------------------------------------------------


class Under:
    """A run that goes on, from when its workers write."""

    def __init__(self, directory: Path, *options: object) -> None:
        self.directory = directory
        command = [
            sys.executable,
            "-m",
            "pystream",
            "bench",
            "produce",
            directory,
            "--duration",
            "60s",
            *options,
        ]
        self.process = subprocess.Popen(
            list(map(str, command)),
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        end = time.monotonic() + WAIT_S
        while not self.segments() or max(path.stat().st_size for path in self.segments()) < 1 << 20:
            assert self.process.poll() is None and time.monotonic() < end
            time.sleep(0.02)

    def segments(self) -> list[Path]:
        return list(self.directory.glob(f"{scratch.PREFIX}*/store/topics/*/*/*.log"))

    def workers(self) -> list[int]:
        """The worker processes, by what the kernel says of children."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in listed.split()]

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, said


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)


def wait_for(met) -> None:
    end = time.monotonic() + WAIT_S
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
def test_an_interrupted_run_leaves_nothing(tmp_path, number, code):
    run = Under(tmp_path, "--threads", 2)
    workers = run.workers()
    assert workers
    run.process.send_signal(number)
    assert run.end() == (code, "")
    assert list(tmp_path.iterdir()) == []
    assert gone(workers)


def test_workers_of_a_killed_run_clear_up(tmp_path):
    run = Under(tmp_path, "--processes", 2)
    workers = run.workers()
    run.process.kill()
    assert run.end()[0] == -signal.SIGKILL
    wait_for(lambda: gone(workers))
    assert list(tmp_path.iterdir()) == []


def test_what_was_killed_altogether_is_swept_up_by_the_next_run(tmp_path):
    run = Under(tmp_path)
    workers = run.workers()
    for pid in (*workers, run.process.pid):
        os.kill(pid, signal.SIGSTOP)  # so that none can hear of another's death
    for pid in (*workers, run.process.pid):
        os.kill(pid, signal.SIGKILL)
    run.end()
    wait_for(lambda: gone(workers))
    (left,) = tmp_path.iterdir()
    for name in ("other", f"{scratch.PREFIX}notes"):  # one of another name, one without a lock file
        (tmp_path / name).mkdir()
    bench("durable", tmp_path, "--bytes", 100)
    assert {path.name for path in tmp_path.iterdir()} == {"other", f"{scratch.PREFIX}notes"}
    assert not left.exists()


def test_a_run_leaves_another_that_goes_on_alone(tmp_path):
    run = Under(tmp_path)
    (theirs,) = tmp_path.iterdir()
    bench("durable", tmp_path, "--bytes", 100)
    assert list(tmp_path.iterdir()) == [theirs] and run.segments()
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 130


def test_a_worker_that_dies_makes_the_run_fail(tmp_path):
    run = Under(tmp_path, "--processes", 2)
    first, second = run.workers()
    os.kill(first, signal.SIGKILL)
    code, said = run.end()
    assert code == 3
    assert f"worker 0 (process {first}) was ended by SIGKILL" in said
    assert gone([first, second])
    assert list(tmp_path.iterdir()) == []


def test_the_topics_of_a_store_are_not_touched(events):
    def files() -> dict[str, tuple[int, int]]:
        found = [path for path in events.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    before = files()
    check(bench("produce", events, "--bytes", 100_000), "produce")
    assert files() == before
    with pystream.open(events, "r") as store:
        assert store.topics() == ["clicks", "ticks"]
