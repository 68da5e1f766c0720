import json

from tests.benchmarks import BENCHMARKS
from tests.launching import launch

SCRIPT = str(BENCHMARKS / "replay.py")


def test_our_replay(tmp_path):
    file = tmp_path / "replay.json"
    words = ["--capacity", "2000", "--rounds", "3", "--json", str(file)]
    done = launch([SCRIPT, *words], launcher="none")
    assert done.code == 0, done.output
    rows = json.loads(file.read_text())["rows"]
    assert [(row["capacity"], row["prioritized"]) for row in rows] == [(2000, False), (2000, True)]
    assert all(row["sample_ms"] > 0 and row["copy_ms"] > 0 for row in rows)
    assert rows[0]["update_ms"] is None
    assert rows[1]["update_ms"] > 0
    assert done.output.count("| 2,000 |") == 2


def test_a_capacity_beyond_memory_is_a_remark():
    done = launch([SCRIPT, "--capacity", "900000000", "--rounds", "1"], launcher="none")
    assert done.code == 0, done.output
    assert done.output.count("needs 6350 GB of ") == 2


def test_a_capacity_that_is_too_small_is_rejected():
    done = launch([SCRIPT, "--capacity", "10"], launcher="none")
    assert done.code == 2, done.output
    assert "10 is less than 1000" in done.output.splitlines()[-1]
