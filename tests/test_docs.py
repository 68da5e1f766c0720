"""The documents, against the code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hvd_dqn.config import Config, ObjectiveConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.methods.registry import method_of
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.launching import clean_environment

DOCS = Path(__file__).parents[1] / "docs"


def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=DOCS.parent,
        env=clean_environment(NO_MKDOCS_2_WARNING="1", PYTHONPATH=str(DOCS.parent)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "settings" / "index.html").read_text()
    for name in Config().flat():
        assert f"<code>{name}</code>" in settings
    assert "fonts.googleapis" not in settings
    assert not (tmp_path / "settings.py").exists()


def names_in(table):
    """Names of the first column; `_x` stands for the one before it with another ending."""
    names = []
    for line in table.splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                whole = names[-1].rpartition("_")[0] + name if name.startswith("_") else name
                names.append(whole)
    return names


def test_every_metric_is_explained_and_no_other(tmp_path):
    run_dir = RunDirectory(tmp_path / "run")
    train(small_config(), LocalCommunicator(), run_dir)
    lines = run_dir.metrics_file.read_text().splitlines()
    recorded = {name for line in lines for name in json.loads(line)}
    recorded -= {"env_steps", "updates", "seconds"}
    recorded = {name.replace("rank/waiting/0", "rank/waiting/R") for name in recorded}
    losses = {
        method_of(ObjectiveConfig(**options)).loss_name
        for options in (
            {"loss": "huber"},
            {"loss": "squared"},
            {"distribution": "categorical"},
            {"distribution": "quantile"},
        )
    }
    explained = names_in((DOCS / "metrics.md").read_text())
    assert len(explained) == len(set(explained))
    assert set(explained) == recorded | losses
