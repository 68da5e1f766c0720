"""Batch scripts: their geometry, rejected options, and that slurm/ holds what the tool writes."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hvd_dqn.commands.cli import run
from hvd_dqn.commands.slurm import parse_work
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.tools.slurm.job import Job
from hvd_dqn.tools.slurm.script import render
from hvd_dqn.tools.slurm.site import Site, read_site

ALL = sorted((Path(__file__).parents[2] / "slurm").glob("*.sh"))
SCRIPTS = [path for path in ALL if path.name != "interactive.sh"]
TRAIN = ("train", "cartpole")


def rendered(*, words=TRAIN, site=None, **geometry):
    job = Job(**geometry)
    return render(job, parse_work(list(words), job), site or Site(), "")


def directives(script):
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)


def test_there_are_scripts():
    assert len(SCRIPTS) >= 7


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_what_its_own_command_writes(path, capsys):
    (command,) = re.findall(r"^#   hvd-dqn (slurm render .*)$", path.read_text(), re.MULTILINE)
    assert run(shlex.split(command)) == 0
    assert capsys.readouterr().out == path.read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is missing")
def test_shellcheck_finds_nothing():
    scripts = [*ALL, *ALL[0].parents[1].glob("tests/container/*.sh")]
    done = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_geometry():
    told = directives(rendered(nodes=4, gpus_per_node=8, cpus_per_rank=6, time="1-02:00:00"))
    assert told["nodes"] == "4"
    assert told["ntasks-per-node"] == told["gpus-per-node"] == "8"
    assert told["cpus-per-task"] == "6"
    assert told["time"] == "1-02:00:00"
    assert Job(time="1-02:00:00").seconds == 26 * 3600
    on_cores = directives(rendered(ranks_per_node=3))
    assert on_cores["ntasks-per-node"] == "3"
    assert "gpus-per-node" not in on_cores


def test_solver_ranks_are_started_beside_the_rank_that_learns():
    words = (*TRAIN, "--env.num-envs", "3")
    script = rendered(words=words, nodes=2, ranks_per_node=2, ranks_per_env=4)
    assert directives(script)["ntasks-per-node"] == str(2 * (1 + 3 * 4))
    assert "--distribution=block" in script, "a learner and its groups are consecutive ranks"
    assert "train cartpole --env.num-envs 3 --env.ranks-per-env 4 --run-dir" in script
    assert "doctor --num-envs 3 --ranks-per-env 4 --shared" in script
    assert "2 ranks on each of 2 nodes, on CPU cores, started by srun" in script
    assert "each beside 4 solver ranks for each of 3 environments" in script
    alone = rendered(words=(*words, "--env.ranks-per-env", "4"), ranks_per_env=4)
    assert "doctor --backend mpi --num-envs 3" in alone, "one learner needs no Horovod"
    with pytest.raises(UserError, match=r"--ranks-per-env = 0, but .* env.ranks-per-env = 4"):
        rendered(words=(*words, "--env.ranks-per-env", "4"))
    assert "--distribution" not in rendered()


def test_a_saved_config_can_be_run(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(Config().to_json())
    words = ("train", "--config", str(path))
    assert directives(rendered(words=words))["job-name"] == "hvd-dqn"
    assert directives(rendered(words=words, name="own.2"))["job-name"] == "own.2"


def test_an_array_replaces_the_seed_of_a_config_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(Config(seed=7).to_json())
    words = ("train", "--config", str(path))
    assert '--seed "$SLURM_ARRAY_TASK_ID"' in rendered(words=words, array_seeds="0-4")
    with pytest.raises(UserError, match="--seed is set by the batch script"):
        rendered(words=(*words, "--seed", "8"), array_seeds="0-4")
    kept = json.loads(Config().to_json())
    kept["checkpoint"]["directory"] = str(tmp_path)
    path.write_text(json.dumps(kept))
    rendered(words=words)
    with pytest.raises(UserError, match="would overwrite each other's checkpoints"):
        rendered(words=words, array_seeds="0-4")


def test_a_method_of_the_users_own_may_exist_on_the_nodes_only():
    script = rendered(words=(*TRAIN, "--objective.distribution", "only_there:method"))
    assert "--objective.distribution only_there:method" in script


def test_a_site_file_is_applied(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "modules: [gcc/12, cuda/13]\nactivate: conda activate rl\naccount: deep\nmpi: pmix_v4\n"
        "network_interface: ib0\noptions: ['--constraint=a100']\n"
    )
    script = rendered(site=read_site(path))
    told = directives(script)
    assert told["account"] == "deep"
    assert told["constraint"] == "a100"
    for line in ("module load cuda/13", "conda activate rl", "--mpi=pmix_v4"):
        assert line in script
    assert "\nexport HVD_DQN_NETWORK_INTERFACE=ib0\n" in script
    by_mpirun = rendered(site=read_site(path), launcher="mpirun")
    assert by_mpirun.count("-x HVD_DQN_NETWORK_INTERFACE") == 2, "mpirun passes few variables on"
    assert "HVD_DQN" not in rendered(launcher="mpirun")
    assert directives(rendered(site=read_site(path), account="own"))["account"] == "own"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nodes": 0}, "--nodes = 0: must be greater than 0"),
        ({"nodes": 2, "min_nodes": 3}, "--min-nodes = 3: must be at most --nodes = 2"),
        ({"name": "a b"}, "--name = 'a b': must be letters"),
        ({"gpus_per_node": 2, "ranks_per_node": 4}, "4 ranks per node, but 2 GPUs"),
        ({"time": "soon"}, "--time = 'soon': must be HH:MM:SS"),
        ({"time": "00:04:00"}, "must be longer than --warning-seconds = 300"),
        ({"array_seeds": "1..3"}, "--array-seeds = '1..3': must be such as 0-4"),
        ({"container": "a.sif", "stage": "a.tar"}, "leave one of them out"),
        ({"container": "a.sif", "launcher": "horovodrun"}, "needs --launcher srun"),
        ({"words": ()}, "no preset given"),
        ({"words": ("train", "nothing")}, "unknown preset"),
        ({"words": (*TRAIN, "--run-dir", "x")}, "is set by the batch script"),
        ({"words": (*TRAIN, "--run_dir=x")}, "--run-dir is set by the batch script"),
        ({"words": (*TRAIN, "--resume", "never")}, "--resume is set by the batch script"),
        ({"words": (*TRAIN, "--seed=1"), "array_seeds": "0-4"}, "is set by the batch script"),
        (
            {"words": (*TRAIN, "--checkpoint.directory", "x"), "array_seeds": "0-4"},
            "checkpoint.directory = 'x': the jobs of an array",
        ),
        (
            {"words": (*TRAIN, "--objective.distribution", "c52")},
            "must be one of expected, categorical",
        ),
        ({"words": (*TRAIN, "--exploration.kind", "boltzman")}, "exploration.kind = 'boltzman'"),
        ({"words": (*TRAIN, "--network.torso", "natur")}, "must be one of auto, mlp"),
        ({"words": (*TRAIN, "--distributed.backend", "nccl")}, "distributed.backend = 'nccl'"),
    ],
)
def test_bad_geometry_and_options_are_rejected(given, words):
    with pytest.raises(UserError, match=re.escape(words)):
        rendered(**given)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("moduls: [a]", "unknown setting 'moduls': did you mean 'modules'?"),
        ("modules: gcc", "must be a list of strings"),
        ("mpi: [1]", "mpi = [1]: must be a string"),
        ("[", "is not YAML"),
        ("- a", "must map names to values"),
    ],
)
def test_a_bad_site_file_is_rejected(tmp_path, text, words):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        read_site(path)


def test_errors_of_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["slurm"]) == 2
    assert "write hvd-dqn slurm render" in capsys.readouterr().err
    assert run(["slurm", "render", "--", "train", "cartpole", "--seed", "x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run(["slurm", "render", "--site", str(tmp_path / "none.yaml"), "--", *TRAIN]) == 2
    assert run(["slurm", "render", "--launcher", "mpiexec", "--", *TRAIN]) == 2
    assert "--launcher" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["slurm", "submit", "--", *TRAIN]) == 2
    assert "sbatch is not on PATH" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
