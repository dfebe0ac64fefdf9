"""The README's tour runs as it is written."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_tour_runs_as_written(tmp_path):
    (tour,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(tour.splitlines()) <= 24
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", tour], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    printed = [line.split() for line in result.stdout.splitlines()]
    assert sorted(value for *_, value in printed) == ["b'/a'", "b'/b'", "b'/home'", "b'x'", "b'y'"]
    assert (tmp_path / "events.ps" / "store.json").is_file()


def test_the_files_it_names_exist():
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / name).exists(), name
