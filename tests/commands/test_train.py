"""`hvd-dqn train`: the end of a complete run."""

import os
import subprocess
import sys
from pathlib import Path

from tests.launching import clean_environment

REPORT = """
from pathlib import Path
from types import SimpleNamespace as Fake
from hvd_dqn.commands.train import _report
from hvd_dqn.common.output import make_output_tolerant

make_output_tolerant()
score = Fake(mean=1.0, std=0.0, returns=(1.0,))
summary = Fake(progress=Fake(env_steps=100, updates=10), score=score, seconds=1.0)
_report("cartpole", Path("no-such-run"), summary)
"""


def test_neither_a_failed_plot_nor_a_closed_pipe_fails_a_complete_run(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", REPORT],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=clean_environment(MPLBACKEND="no-such-backend", PYTHONPATH=str(Path.cwd())),
        timeout=120,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("hvd-dqn: the learning curve was not drawn: ")
