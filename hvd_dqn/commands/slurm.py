"""`hvd-dqn slurm`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hvd_dqn.commands.options import OptionalFile, parse, parse_train
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.common.files import replacing
from hvd_dqn.tools.slurm.job import Job, Work
from hvd_dqn.tools.slurm.script import render
from hvd_dqn.tools.slurm.site import Site, read_site

_EXAMPLES = (
    "hvd-dqn slurm render --nodes 2 --gpus-per-node 4 -- train rainbow",
    "hvd-dqn slurm submit --site cluster.yaml --array-seeds 0-4 -- train cartpole",
)


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Write a Slurm batch script (render), or write and submit it (submit)."""

    job: Annotated[Job, tyro.conf.arg(name="")]
    site: OptionalFile = None
    """A YAML file with the settings of the cluster: modules, account, network interface."""
    output: OptionalFile = None
    """The script to write. Default: `render` prints it, `submit` names it after the job."""


def run(arguments: Sequence[str]) -> int:
    """Render the script, and submit it if asked to."""
    if not arguments or arguments[0] not in ("render", "submit"):
        if arguments[:1] not in (["-h"], ["--help"]):
            wanted = f"unknown action {arguments[0]!r}" if arguments else "no action given"
            raise UserError(
                f"slurm: {wanted}", "write hvd-dqn slurm render or hvd-dqn slurm submit"
            )
        parse(SlurmOptions, ["--help"], program="hvd-dqn slurm {render,submit}", examples=_EXAMPLES)
    action, rest = arguments[0], list(arguments[1:])
    split = rest.index("--") if "--" in rest else len(rest)
    options = parse(
        SlurmOptions, rest[:split], program=f"hvd-dqn slurm {action}", examples=_EXAMPLES
    )
    job, words = options.job, rest[split + 1 :]
    if words[:1] != ["train"]:
        raise UserError("slurm: no command given", "put it after --, as in -- train cartpole")
    work = parse_work(words, job)
    site = read_site(options.site) if options.site else Site()
    script = render(job, work, site, shlex.join(["hvd-dqn", "slurm", "render", *rest]))
    if action == "submit":
        if shutil.which("sbatch") is None:
            raise UserError(
                "sbatch is not on PATH", "submit from a login node, or use hvd-dqn slurm render"
            )
        path = options.output or Path(f"{work.name}.sh")
        _write(path, script, overwrite=options.output is not None)
        return _submit(job, work, path)
    if options.output is None:
        print(script, end="")
    else:
        _write(options.output, script, overwrite=True)
    return EXIT_OK


def parse_work(words: list[str], job: Job) -> Work:
    """Parse the command of a job's ranks, `train PRESET …`. Raises `UserError` for an option that
    the batch script sets, and as `parse_train` and `Work` do.
    """
    train = parse_train(words[1:])
    if job.ranks_per_env and not train.config.env.ranks_per_env:
        words = [*words, "--env.ranks-per-env", str(job.ranks_per_env)]
        train = parse_train(words[1:])
    given = {"--run-dir": train.run_dir is not None, "--resume": train.resume != "auto"}
    if job.array_seeds:
        named = 3 if words[1] == "--config" else 2  # whose seed the script may replace
        given["--seed"] = parse_train(words[1:named]).config.seed != train.config.seed
    for option in (option for option, is_given in given.items() if is_given):
        raise UserError(f"{option} is set by the batch script", "leave it out after --")
    return Work(words, train.config, job)


def _write(path: Path, script: str, *, overwrite: bool) -> None:
    """Write the script. Raises `UserError` if that fails, or if a different file exists and may not
    be overwritten.
    """
    try:
        if not overwrite and path.exists() and path.read_text() != script:
            raise UserError(f"{path} exists and differs", "choose another file with --output")
        with replacing(path) as file:
            file.write_text(script)
            file.chmod(0o755)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _submit(job: Job, work: Work, path: Path) -> int:
    """Let Slurm validate the script, submit it, and print the job."""
    tested = _sbatch("--test-only", str(path))
    if tested.returncode != 0:
        raise UserError(f"Slurm rejects {path}: {_last_line(tested.stderr)}")
    done = _sbatch("--parsable", str(path))
    if done.returncode != 0:
        raise UserError(f"Slurm did not accept {path}: {_last_line(done.stderr)}")
    number = done.stdout.strip().partition(";")[0]
    total = job.nodes * work.tasks
    print(
        f"job {number}: {total} ranks on {job.nodes} nodes, time limit {job.time}, up to "
        f"{job.max_requeues} requeues · {path} · squeue -j {number}"
    )
    return EXIT_OK


def _sbatch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sbatch", *arguments], capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    lines = [line.removeprefix("sbatch: error: ") for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
