"""Matplotlib in the environments of notebooks, of shells started from them, and of containers."""

import subprocess
import sys

import pytest

from tests.launching import clean_environment

PROGRAM = """\
from hvd_dqn.tools.drawing import load_matplotlib
load_matplotlib()
import os, matplotlib
from matplotlib.figure import Figure
Figure().savefig(os.devnull, format="png")
print(matplotlib.rcParams._get("backend") if os.environ["MPLBACKEND"] == "svg" else "drawn")
"""


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("module://a_notebook.backend_inline", "drawn"),
        ("TkAgg", "drawn"),
        ("", "drawn"),
        ("svg", "svg"),  # stays chosen, for code that uses pyplot
    ],
)
def test_the_backend_of_the_environment_never_keeps_a_figure_from_its_file(backend, said):
    environment = clean_environment(MPLBACKEND=backend, HOME="/proc/none", XDG_CACHE_HOME="")
    environment |= {"XDG_CONFIG_HOME": "", "MPLCONFIGDIR": ""}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (said, "")
