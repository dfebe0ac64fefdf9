"""The examples, run as a reader would run them; what they say is checked against what went in."""

import csv
import os
import re
import signal
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import pystream
from group_lives import until

EXAMPLES = Path(__file__).parent.parent / "examples"


def start(name, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(name, *arguments, **options):
    process = start(
        name, *arguments, stdin=subprocess.PIPE, **{k: v for k, v in options.items() if k == "cwd"}
    )
    out, err = process.communicate(options.get("input", ""), timeout=90)
    assert (process.returncode, err) == (0, "")
    return out


def test_each_example_is_documented_and_tested_here():
    tested = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""') and f"examples/{path.name}" in text.split('"""')[1], path.name
        assert f'"{path.name}"' in tested, path.name


def test_pipe_tail_sees_lines_while_they_are_written(tmp_path):
    store = tmp_path / "logs.ps"
    writer = start("pipe_tail.py", "write", store, stdin=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write("before\n")
    writer.stdin.flush()
    with pystream.open(store) as opened:
        topic = opened.topic("lines", create=True, compression="lz4")
        assert topic.partition(0).wait(0, timeout=30)
        tails = [
            start("pipe_tail.py", "tail", store, "--idle", 4),
            start("pipe_tail.py", "tail", store, "--idle", 4, "--match", "ERROR"),
        ]
        for number in range(1000):
            writer.stdin.write(f"line {number} {'error' if number % 100 == 7 else 'fine'}\n")
        writer.stdin.close()
        writer.stdin = None
        _, err = writer.communicate(timeout=60)
        assert (writer.returncode, err) == (0, "1001 lines\n")
        assert topic.partition(0).end_offset == 1001
    every, errors = (tail.communicate(timeout=60)[0].splitlines() for tail in tails)
    assert all(tail.returncode == 0 for tail in tails)
    # A tail begins at most ten lines before the end as it was then.
    assert every[-1].endswith(f"[{writer.pid}] line 999 fine")
    numbers = [int(found) for found in re.findall(r"line (\d+)", "\n".join(every))]
    assert numbers == list(range(numbers[0], 1000)) and len(numbers) >= 10
    wrong = [int(found) for found in re.findall(r"line (\d+) error", "\n".join(errors))]
    assert wrong == list(range(wrong[0], 1000, 100)) if wrong else len(errors) == 0


def test_fan_out_reaches_everyone(tmp_path):
    out = run("fan_out.py", "--subscribers", 30, "--messages", 400, cwd=tmp_path)
    assert out.startswith("12,000 messages to 30 subscribers, 45 connections\nfast subscribers: ")
    process = start("fan_out.py", "--subscribers", 0, cwd=tmp_path)
    assert "at least 1 subscriber" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("name", "arguments", "topic"),
    [
        ("fan_out.py", ("--messages", 1_000_000), "news.ps/topics/news"),
        ("work_queue.py", ("--tasks", 100_000, "--workers", 1), "queue.ps/topics/journal"),
    ],
)
def test_an_example_that_is_interrupted_leaves_quietly(name, arguments, topic, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = start(name, *arguments, cwd=tmp_path, start_new_session=True, env=environment)
    until(lambda: any(tmp_path.glob(f"*/{topic}/0/*.index")), "the first record")
    (log,) = tmp_path.glob(f"*/{topic}")
    with pystream.open(log.parent.parent, mode="r") as store:
        until(lambda: store.topic(log.name).partition(0).end_offset, "the first record")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does it: all of its processes
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_ticks_numpy_gives_the_figures_of_the_whole_log(tmp_path):
    out = run("ticks_numpy.py", "--ticks", 60_001, "--seed", 3, cwd=tmp_path)
    assert "all 60,001 ticks" in out and out.endswith("the whole log gives the same figures\n")
    last = out[out.index("all 60,001 ticks") :]
    rows = re.findall(
        r"^(AAA|BBB|CCC) +([\d,]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", last, re.M
    )
    assert [row[0] for row in rows] == ["AAA", "BBB", "CCC"]
    assert sum(int(row[1].replace(",", "")) for row in rows) == 60_001
    for _, _, final, high, low, average, step in rows:
        assert float(low) <= float(final) <= float(high) and float(low) < float(average) < float(high)
        assert float(step) == pytest.approx((2 / 3) ** 0.5 / 100, rel=0.02)  # steps of -1, 0, 1 cents
    assert list(tmp_path.iterdir()) == []


def test_ticks_numpy_refuses_none(tmp_path):
    process = start("ticks_numpy.py", "--ticks", 0, cwd=tmp_path)
    assert "--ticks must be at least 1" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def png_size(path):
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:24])


def test_csv_report_adds_up(tmp_path):
    rows = [("2024-03-01T10:00:00Z", "north", "1.50"), ("2024-03-01T11:30:00Z", "south", "2.25")]
    rows += [(f"2024-03-{day:02}T09:00:00Z", "north", f"{day}.00") for day in range(2, 30)]
    source = tmp_path / "sales.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([("moment", "branch", "pounds"), *rows])
    arguments = [source, "--time", "moment", "--amount", "pounds", "--store", tmp_path / "s.ps"]
    out = run("csv_report.py", *arguments, "--chart", tmp_path / "chart.png")
    assert "30 rows" in out
    totals: dict[str, float] = defaultdict(float)
    for _, branch, pounds in rows:
        totals[branch] += float(pounds)
    for branch, amount in totals.items():
        assert re.search(rf"^{branch} .* {amount:,.2f} ", out, re.M), out
    assert re.search(r"^north .* 2024-03-29 \(29.00\)$", out, re.M)
    assert png_size(tmp_path / "chart.png") == (1500, 750)
    assert run("csv_report.py", *arguments, "--chart", tmp_path / "chart.png") == out  # nothing twice


def test_csv_report_invents_a_year(tmp_path):
    out = run("csv_report.py", cwd=tmp_path)
    assert re.findall(r"^(\w+) +\d+ ", out, re.M) == ["market", "harbour", "station"]
    assert png_size(tmp_path / "report.png") == (1500, 750)
    assert [path.name for path in tmp_path.iterdir()] == ["report.png"]


def test_ingest_pipeline_adds_up_though_a_consumer_is_killed(tmp_path):
    rows = [("JU"[i % 3 == 0], "NA" if i % 11 == 0 else i % 500) for i in range(20_000)]
    halves = tmp_path / "first.csv", tmp_path / "second.csv"
    for half, path in enumerate(halves):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("line", "miles"), *rows[half::2]])
    out = run("ingest_pipeline.py", *halves, "--key", "line", "--sum", "miles", "--kill", cwd=tmp_path)
    for line in "JU":
        total = sum(miles for key, miles in rows if key == line and miles != "NA")
        count = sum(key == line for key, _ in rows)
        assert re.search(rf"^ +{line} +{count:,} +{total:,}$", out, re.M), out
    assert re.search(r"^ +all +20,000 ", out, re.M)
    assert "3 producers, 3 consumers (1 killed)" in out
    assert out.endswith("the files say the same\n")


def test_ingest_pipeline_refuses_what_it_cannot_add_up(tmp_path):
    source = tmp_path / "some.csv"
    source.write_text("line,miles\nJ,7\n")
    tmp_path.joinpath("binary.csv").write_bytes(b"\xff\xfe")
    for arguments, said in (
        ([source, "--sum", "yards", "--key", "line"], "some.csv has no column 'yards'"),
        ([source, "--consumers", 1, "--kill"], "another one to inherit"),
        ([tmp_path / "none.csv"], "No such file"),
        ([tmp_path / "binary.csv"], "binary.csv: 'utf-8' codec can't decode"),
    ):
        process = start("ingest_pipeline.py", *arguments, cwd=tmp_path)
        assert said in process.communicate(timeout=60)[1]
        assert process.returncode == 2


def test_work_queue_does_every_task_though_workers_are_killed(tmp_path):
    out = run("work_queue.py", "--tasks", 60, "--workers", 2, "--kill", 2, cwd=tmp_path)
    assert out.startswith("60 tasks, 60 done; workers killed: 2\n")
    shares = re.findall(r"^  process (\d+) did (\d+)(, and was killed)?$", out, re.M)
    twice = re.findall(r"^  task \d+ was begun by (\d+) and by (\d+), and done (once|twice)$", out, re.M)
    killed = {pid for pid, _, died in shares if died} | {first for first, _, _ in twice}
    assert len(killed) <= 2
    assert len(twice) <= 2  # the task in the hand of each that was killed, and no other
    assert len({first for first, _, _ in twice}) == len(twice)
    assert sum(int(count) for _, count, _ in shares) == 60 + sum(times == "twice" for *_, times in twice)


def test_work_queue_refuses_more_kills_than_tasks(tmp_path):
    process = start("work_queue.py", "--tasks", 2, "--kill", 2, cwd=tmp_path)
    assert "fewer kills than tasks" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_prefork_loses_nothing_that_was_answered(tmp_path):
    out = run("prefork.py", "--requests", 60, "--workers", 2, cwd=tmp_path).splitlines()
    assert re.fullmatch(
        r"client: 60 requests answered, and all in the log; logged without an answer: [01]", out[0]
    )
    assert out[1:] == [
        "server: 1 worker killed",
        "pool by fork: 60 squares, each where the worker said",
        "pool by spawn: 60 squares, each where the worker said",
        "inherited handles: ForkedError in the child, and the parent's record written once",
    ]
