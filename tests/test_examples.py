"""The examples, run as a reader would run them; what they say is checked against what went in."""

import csv
import re
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import pystream

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
    assert process.returncode == 0, err
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
