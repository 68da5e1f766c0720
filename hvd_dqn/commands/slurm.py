"""`hvd-dqn slurm`."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvd_dqn.command_line import parse
from hvd_dqn.errors import EXIT_OK, UserError
from hvd_dqn.tools.slurm.job import Job
from hvd_dqn.tools.slurm.script import render
from hvd_dqn.tools.slurm.site import Site, read_site


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Write a batch script for Slurm, or hand it in: hvd-dqn slurm submit --nodes 2 --gpus-per-node
    4 -- train atari-dqn
    """

    nodes: int = 1
    """Nodes."""
    min_nodes: int = 0
    """Go on with so few where nodes fail; 0: only with all, and else on others from the queue."""
    gpus_per_node: int = 0
    """GPUs of a node, a rank on each; 0: train on cores."""
    ranks_per_node: int = 0
    """Ranks on a node; 0: one for each GPU, or one."""
    cpus_per_rank: int = 1
    """Cores of a rank."""
    time: str = "04:00:00"
    """The time limit, after which the job goes back to the queue."""
    warning_seconds: int = 300
    """How long before the limit the ranks save a checkpoint."""
    launcher: str = "srun"
    """What starts the ranks: srun, mpirun, or horovodrun, which needs ssh between nodes."""
    array_seeds: str = ""
    """Seeds, each a job of its own: 0-4, or 0,3,7, or 0-9%2 for two at a time."""
    container: str = ""
    """An Apptainer image that holds hvd-dqn."""
    stage: str = ""
    """A tar file of the virtual environment (tar -C .venv -cf venv.tar .), for every node to
    unpack.
    """
    name: str = ""
    """The job's name; by default the preset's."""
    account: str = ""
    """Slurm account."""
    partition: str = ""
    """Slurm partition."""
    max_restarts: int = 3
    """Attempts within the job after the first."""
    max_requeues: int = 20
    """How often the job may come back."""
    site: Path | None = None
    """A YAML file with what is particular to the cluster."""
    output: Path | None = None
    """Where the script is written; by default `render` prints it and `submit` names it by the job.
    """


def run(arguments: Sequence[str]) -> int:
    """Render, or submit."""
    if not arguments or arguments[0] not in ("render", "submit"):
        if arguments[:1] not in (["-h"], ["--help"]):
            wanted = f" {arguments[0]}" if arguments else ""
            raise UserError(
                f"hvd-dqn slurm{wanted}", "write hvd-dqn slurm render or hvd-dqn slurm submit"
            )
        parse(SlurmOptions, ["--help"], program="hvd-dqn slurm {render,submit}")
    action, rest = arguments[0], list(arguments[1:])
    split = rest.index("--") if "--" in rest else len(rest)
    options = parse(SlurmOptions, rest[:split], program=f"hvd-dqn slurm {action}")
    given = dataclasses.asdict(options)
    site = read_site(options.site) if options.site else Site()
    job = Job(
        command=tuple(rest[split + 1 :]),
        **{k: v for k, v in given.items() if k not in ("site", "output")},
    )
    written_by = shlex.join(["hvd-dqn", "slurm", "render", *rest])
    script = render(job, site, written_by)
    if action == "submit":
        path = options.output or Path(f"{job.job_name}.sh")
        _write(path, script, anew=options.output is None)
        return _submit(job, path)
    if options.output is None:
        print(script, end="")
    else:
        _write(options.output, script, anew=False)
    return EXIT_OK


def _write(path: Path, script: str, *, anew: bool) -> None:
    """`anew`: another script of this name, which somebody may have changed, is not overwritten."""
    try:
        if anew and path.exists() and path.read_text() != script:
            raise UserError(f"{path} is there and differs", "name another with --output")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _submit(job: Job, path: Path) -> int:
    """Let Slurm look at the script, say what it will do, and hand it in."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no sbatch here", "submit from the cluster's login node, or render"
        )
    tested = _sbatch("--test-only", str(path))
    if tested.returncode != 0:
        raise UserError(f"Slurm would not take {path}: {_last_line(tested.stderr)}")
    done = _sbatch("--parsable", str(path))
    if done.returncode != 0:
        raise UserError(f"Slurm did not take {path}: {_last_line(done.stderr)}")
    number = done.stdout.strip().partition(";")[0]
    total = job.nodes * job.ranks
    print(
        f"job {number}: {total} ranks on {job.nodes} nodes, {job.time} at a time, at most "
        f"{job.max_requeues + 1} times · {path} · squeue -j {number}"
    )
    return EXIT_OK


def _sbatch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sbatch", *arguments], capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    lines = [line.removeprefix("sbatch: error: ") for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
