import json

import pytest

from tests.benchmarks import BENCHMARKS
from tests.launching import launch


@pytest.mark.long
def test_the_floor_of_an_update(tmp_path):
    file = tmp_path / "floor.json"
    words = ["--rounds", "1", "--records", "1", "--seconds", "0.01", "--json", str(file)]
    done = launch([str(BENCHMARKS / "floor.py"), *words], launcher="none", cwd=tmp_path)
    assert done.code == 0, done.output
    found = json.loads(file.read_text())["milliseconds"]
    assert list(found)[-2:] == ["hvd_dqn", "hvd_dqn, compiled"]
    assert all(len(times) == 1 and min(times) > 0 for times in found.values())
    assert "| together " in done.output
