"""Every command and every Python block of README, docs and examples, run as it stands.

A command runs in a sandbox for its page, in the page's order; only the presets are of toy size.
What needs more than this machine has (a cluster, Docker) names the test that runs it, and is
parsed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hvd_dqn import presets
from hvd_dqn.commands import cli
from hvd_dqn.commands.options import parse_train
from tests.launching import clean_environment
from tests.presets.toy_presets import shrink

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples/README.md"]
SECONDS = 120
ELSEWHERE = {
    r"git clone|cd hvd_dqn|source .venv|make (train|test|setup)$|pip install -e": ".ci/run",
    r"salloc |srun |module load|squeue|tail -f rainbow": "tests/cluster/test_slurm.py",
    r"hvd-dqn summary runs/rainbow-\*": "tests/cluster/test_slurm.py",
    r".* -H a:\d,b:\d": "tests/cluster/test_ssh.py",
    r"docker |mkdir -p -m 1777 runs": "tests/container/try.sh",
    r"ssh-keygen|cp keys|printf 'Port|sudo chown|mkdir -m 700 keys": "tests/cluster/ssh.py",
    r"hvd-dqn bench (scaling|compare)": "tests/tools/test_bench.py",
    r"hvd-dqn train dqn --env.id ALE/Pong-v5": "tests/test_examples.py",
    r"(horovodrun -np 2 )?python examples/inventory": "tests/test_examples.py",
    r"sbatch examples/sweep|hvd-dqn report runs/sweep": "tests/test_examples.py",
}


def blocks(page):
    """Language, title and text of every fenced block."""
    found = re.findall(r"^```(.*?)\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    for heading, text in found:
        title = re.search(r'title="(.*?)"', heading)
        yield heading.split(" ")[0], title and title.group(1), text


def commands(text):
    """Of a block for a shell: joined, without comments, one at a time."""
    for line in text.replace("\\\n", " ").splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).strip()
        yield from (part.strip() for part in words.split(" && ") if part.strip())


def every_command():
    for page in PAGES:
        for language, _, text in blocks(page):
            if language == "bash":
                yield from ((page, command) for command in commands(text))


def test_every_block_says_what_it_is():
    for page in PAGES:
        for language, _, text in blocks(page):
            assert language in ("bash", "python", "yaml"), f"{page.name}: {text}"


def test_what_is_run_elsewhere_is_there():
    everything = [command for _, command in every_command()]
    for pattern, test in ELSEWHERE.items():
        assert (ROOT / test).exists(), test
        assert any(re.match(pattern, command) for command in everything), f"{pattern} is not used"
    assert len(everything) > 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as `hvd-dqn train cartpole` makes it, at toy size."""
    place = tmp_path_factory.mktemp("trained")
    with _toy_presets():
        assert cli.run(["train", "cartpole", "--run-dir", str(place / "run")]) == 0
    return place / "run"


@contextlib.contextmanager
def _toy_presets():
    before = dict(presets.PRESETS)
    shrink()
    try:
        yield
    finally:
        presets.PRESETS.update(before)


@pytest.fixture
def sandbox(tmp_path, monkeypatch, trained, page):
    """A directory whose Python knows presets of toy size, with the runs that the page looks at and
    does not train.
    """
    text = page.read_text()
    for name in ("a", "seed-0", "seed-1"):
        if f"runs/{name}" in text and f"train cartpole --run-dir runs/{name}" not in text:
            shutil.copytree(trained, tmp_path / "runs" / name)
    programs = tmp_path / "site"
    programs.mkdir()
    (programs / "sitecustomize.py").write_text(
        "from tests.presets.toy_presets import shrink\nshrink()\n"
    )
    command = programs / "hvd-dqn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hvd_dqn "$@"\n')
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    before = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.multirank
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of(page, sandbox):
    if "wandb mlflow" in page.read_text():
        pytest.importorskip("wandb")
        pytest.importorskip("mlflow")
    ran = 0
    with _toy_presets():
        for language, title, text in blocks(page):
            if title is not None:
                (sandbox / title).write_text(text)
            elif language == "python":
                exec(compile(text, page.name, "exec"), {})
            elif language == "bash":
                for command in commands(text):
                    print(f"$ {command}")
                    ran += _run(command, sandbox)
    assert ran or not any(language == "bash" for language, _, _ in blocks(page))


_asked: set[str] = set()
"""Commands that only look, whatever page they stand on: once is enough."""


def _run(command, sandbox):
    """Whether it could be run here."""
    if command in _asked:
        return True
    if command.startswith(("hvd-dqn doctor", "hvd-dqn presets")):
        _asked.add(command)
    words = shlex.split(command)
    if "train" in words and words[0] != "make":  # whatever launches it
        parse_train(words[words.index("train") + 1 :])
    if words[:3] == ["hvd-dqn", "slurm", "submit"]:
        assert cli.run(["slurm", "render", *words[3:]]) == 0
        return True
    if any(re.match(pattern, command) for pattern in ELSEWHERE):
        return False
    if words[0] == "hvd-dqn" and words[1] not in ("launch", "bench"):
        assert cli.run(words[1:]) == 0
        return True
    if words[0] == "tensorboard":  # it serves until it is ended
        words = ["tensorboard", "--inspect", *words[1:]]
    environment = clean_environment(PYTHONPATH=f"{sandbox / 'site'}{os.pathsep}{ROOT}")
    environment["PATH"] = f"{sandbox / 'site'}{os.pathsep}{environment['PATH']}"
    with subprocess.Popen(
        words,
        env=environment,
        cwd=sandbox,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    assert process.returncode == 0, f"{command}\n{output}"
    return True
