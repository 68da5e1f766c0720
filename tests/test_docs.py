"""Compare the documentation with the code."""

import ast
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

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "examples/README.md"]


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=clean_environment(NO_MKDOCS_2_WARNING="1", PYTHONPATH=str(ROOT)),
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


def test_the_overview_is_drawn_from_the_committed_results(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/overview.py", "--output", tmp_path / "overview.png"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "overview.png").stat().st_size > 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text()
    named = re.findall(r"`((?:hvd_dqn|tests|benchmarks|examples|docs|slurm)/[\w./-]*)`", text)
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert [link for link in links if not (page.parent / link).exists()] == []


def messages_of_the_package():
    """Return every string of the package's code, with `…` for what it formats, and the set-up."""
    found = [(ROOT / name).read_text() for name in ("Makefile", "scripts/install.sh")]
    for path in (ROOT / "hvd_dqn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_error_message_in_troubleshooting_exists():
    """Except in rows that name another program, such as `Slurm: …`."""
    messages = messages_of_the_package()
    rows = [line for line in (DOCS / "troubleshooting.md").read_text().splitlines() if "| " in line]
    cells = [row.split(" | ")[0] for row in rows if not re.match(r"\| (Open MPI|Slurm): ", row)]
    quoted = [span for cell in cells for span in re.findall(r"`([^`]+ [^`]+)`", cell)]
    assert len(quoted) > 20
    for quote in quoted:
        pattern = ".*".join(re.escape(part.strip()) for part in quote.split("…"))
        assert any(re.search(pattern, message) for message in messages), quote


def names_in(table):
    """Return the names in the first column; `_x` is the name before it with another ending."""
    names = []
    for line in table.splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                whole = names[-1].rpartition("_")[0] + name if name.startswith("_") else name
                names.append(whole)
    return names


def test_every_metric_is_documented_and_no_other(tmp_path):
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
    documented = names_in((DOCS / "metrics.md").read_text())
    assert len(documented) == len(set(documented))
    infos = {f"{section}info/KEY" for section in ("", "evaluation/", "closing/")}  # if named
    assert set(documented) == recorded | losses | infos
