"""The clock that records are judged by: it believes the wall clock, but not a jump forward."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from pystream.maintenance.clock import DRIFT, FILE, JUMP_NS, SAVE_NS, Clock, Reading, read_clocks

S = 10**9
HOUR = 3600 * S
YEAR = 365 * 24 * HOUR
WALL = 1_700_000_000 * S


class Machine:
    """Clocks that tests set."""

    def __init__(self) -> None:
        self.boot, self.boottime, self.wall = "boot-1", 1000 * S, WALL

    def __call__(self) -> Reading:
        return Reading(self.boot, self.boottime, self.wall)

    def run(self, ns: int) -> None:
        self.boottime += ns
        self.wall += ns

    def reboot(self, wall: int) -> None:
        self.boot, self.boottime, self.wall = self.boot + "+", 5 * S, wall


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_time_goes_on_with_the_wall_clock(tmp_path: Path, machine: Machine) -> None:
    clock = Clock(str(tmp_path), machine)
    assert clock.now() == WALL
    for ns in (1, 5 * S, HOUR, YEAR):
        machine.run(ns)
        assert clock.now() == machine.wall
        assert clock.behind_ns() == 0


def test_the_machines_own_clocks(tmp_path: Path) -> None:
    first, clock = read_clocks(), Clock(str(tmp_path))
    assert first.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert 0 <= clock.now() - first.wall_ns < 60 * S
    assert read_clocks().boottime_ns > first.boottime_ns > 0


@pytest.mark.parametrize("gone", [0, HOUR, 30 * 24 * HOUR])
def test_a_jump_forward_is_not_believed(
    tmp_path: Path, machine: Machine, gone: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(str(tmp_path), machine)
    clock.now()
    machine.run(gone)
    slack = JUMP_NS + gone // DRIFT
    machine.wall += slack
    assert clock.now() == machine.wall, "time services step a little"
    machine.wall += 1
    assert clock.now() == WALL + gone
    assert clock.behind_ns() == slack + 1
    machine.wall += YEAR
    machine.run(HOUR)
    assert clock.now() == WALL + gone + HOUR, "it goes on all the same"
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2, "once a jump"
    assert "--trust-clock" in caplog.text


def test_a_clock_put_right_is_believed_again(tmp_path: Path, machine: Machine) -> None:
    clock = Clock(str(tmp_path), machine)
    clock.now()
    machine.wall += YEAR
    assert clock.now() == WALL
    machine.run(HOUR)
    machine.wall -= YEAR
    assert clock.now() == WALL + HOUR == machine.wall
    assert clock.behind_ns() == 0


def test_a_jump_back_is_believed_and_so_is_the_way_back(tmp_path: Path, machine: Machine) -> None:
    clock = Clock(str(tmp_path), machine)
    clock.now()
    machine.run(HOUR)
    machine.wall -= YEAR
    assert clock.now() == machine.wall
    machine.run(HOUR)
    machine.wall += YEAR
    assert clock.now() == machine.wall == WALL + 2 * HOUR


def test_trust(tmp_path: Path, machine: Machine) -> None:
    clock, other = Clock(str(tmp_path), machine), Clock(str(tmp_path), machine)
    assert clock.now() == other.now() == WALL
    machine.wall += YEAR
    clock.trust()
    assert clock.now() == machine.wall
    assert other.now() == WALL, "it has not looked yet"
    other.refresh()
    assert other.now() == machine.wall
    assert Clock(str(tmp_path), machine).now() == machine.wall


def test_another_process_goes_by_the_same_line(tmp_path: Path, machine: Machine) -> None:
    Clock(str(tmp_path), machine).save()
    machine.run(HOUR)
    machine.wall += YEAR
    assert Clock(str(tmp_path), machine).now() == WALL + HOUR


def test_without_a_file_the_wall_clock_counts(tmp_path: Path, machine: Machine) -> None:
    Clock(str(tmp_path), machine).save()
    (tmp_path / FILE).unlink()
    machine.wall += YEAR
    assert Clock(str(tmp_path), machine).now() == machine.wall


@pytest.mark.parametrize("damage", ["flip", "empty", "other", "entry"])
def test_a_damaged_file_is_said_and_written_anew(
    tmp_path: Path, machine: Machine, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / FILE
    Clock(str(tmp_path), machine).save()
    data = file.read_bytes()
    if damage == "entry":
        from pystream import metadata

        document = json.loads(data)
        del document["wall_ns"]
        file.write_bytes(metadata.encode(document))
    else:
        file.write_bytes({"flip": data.replace(b"boot-1", b"boot-2"), "empty": b"", "other": b"{}\n"}[damage])
    machine.wall += YEAR
    clock = Clock(str(tmp_path), machine)
    assert clock.now() == machine.wall
    assert str(file) in caplog.text
    clock.save()
    assert Clock(str(tmp_path), machine).now() == machine.wall
    assert json.loads(file.read_bytes())["wall_ns"] == machine.wall


def test_after_a_reboot_the_wall_clock_is_believed(tmp_path: Path, machine: Machine) -> None:
    Clock(str(tmp_path), machine).save()
    machine.reboot(WALL + YEAR)
    clock = Clock(str(tmp_path), machine)
    assert clock.now() == WALL + YEAR
    machine.run(HOUR)
    machine.wall += YEAR
    assert clock.now() == WALL + YEAR + HOUR, "and from there on it is watched"


def test_a_machine_without_a_clock_of_its_own(tmp_path: Path, machine: Machine) -> None:
    """It starts in 1970, and learns the time from the net a moment later."""
    Clock(str(tmp_path), machine).save()
    machine.reboot(20 * S)
    clock = Clock(str(tmp_path), machine)
    assert clock.now() == 20 * S
    clock.save()
    machine.run(10 * S)
    machine.wall = WALL + 30 * S
    assert clock.now() == WALL + 30 * S, "little more than when it was last heard of"
    machine.wall = WALL + HOUR
    assert clock.now() == WALL + 10 * S, "what it slept through cannot be told from a jump"


def test_a_process_lives_through_a_boot_id_that_changes(tmp_path: Path, machine: Machine) -> None:
    """As in a container that is moved to another machine while it sleeps."""
    clock = Clock(str(tmp_path), machine)
    clock.save()
    machine.reboot(WALL + YEAR)
    assert clock.now() == WALL + YEAR


def test_saving(tmp_path: Path, machine: Machine) -> None:
    clock, file = Clock(str(tmp_path), machine), tmp_path / FILE
    clock.save()
    before = file.read_bytes()
    machine.run(SAVE_NS - 1)
    clock.save()
    assert file.read_bytes() == before, "not more often than it is of use"
    machine.run(1)
    clock.save()
    saved = json.loads(file.read_bytes())
    assert (saved["now_ns"], saved["wall_ns"]) == (WALL + SAVE_NS, WALL)
    assert sorted(os.listdir(tmp_path)) == [FILE]


def test_where_nothing_can_be_written(
    tmp_path: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "missing"
    clock = Clock(str(missing), machine)
    for _ in range(3):
        clock.save()
        machine.run(HOUR)
    assert caplog.text.count("cannot be written") == 1
    machine.wall += YEAR
    assert clock.now() == WALL + 3 * HOUR
