"""The batch script of a job on a cluster: bash that can be read, copied and changed."""

from __future__ import annotations

import shlex
from pathlib import Path

import jinja2

from hvd_dqn.tools.slurm.job import Job
from hvd_dqn.tools.slurm.site import Site

_TEMPLATE = Path(__file__).with_name("job.sh.j2")


def render(job: Job, site: Site, written_by: str) -> str:
    """The whole script; `written_by` is the command that writes it again."""
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        comment_start_string="<#",  # bash counts by {#
        comment_end_string="#>",
    )
    environment.filters["quote"] = shlex.quote
    return environment.from_string(_TEMPLATE.read_text()).render(
        job=job,
        site=site,
        account=job.account or site.account,
        partition=job.partition or site.partition,
        written_by=written_by,
        summary=_summary(job),
        program=_program(job, site),
        check=_check(job, site),
        command=_command(job),
    )


def _summary(job: Job) -> str:
    ranks = f"{job.ranks} ranks" if job.ranks > 1 else "a rank"
    nodes = f"{ranks} on each of {job.nodes} nodes" if job.nodes > 1 else f"{ranks} on one node"
    unit = "with GPUs" if job.gpus_per_node else "with cores alone"
    how = {"srun": "srun and PMIx", "mpirun": "mpirun", "horovodrun": "horovodrun over ssh"}
    parts = [nodes, unit, f"by {how[job.launcher]}"]
    if job.container:
        parts.append("in a container")
    if job.array_seeds:
        parts.append("for several seeds")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _program(job: Job, site: Site) -> str:
    if job.container:
        return f"{site.container_command} {shlex.quote(job.container)} hvd-dqn"
    return '"$STAGE/bin/python" -m hvd_dqn' if job.stage else "hvd-dqn"


def _check(job: Job, site: Site) -> str:
    """What every node does to find out whether it is well; within single quotes."""
    unpack = (
        f'[ -x "$STAGE/bin/python" ] || {{ mkdir -p "$STAGE" && tar -xf {shlex.quote(job.stage)} '
        '-C "$STAGE"; } && '
    )
    words = [
        *((unpack + _program(job, site)) if job.stage else _program(job, site),),
        "doctor --node",
        *([f"--gpus {job.gpus_per_node}"] if job.gpus_per_node else []),
        *([f"--backend {job.backend}"] if job.backend != "horovod" else []),
    ]
    return " ".join(words).replace("'", "'\\''")


def _command(job: Job) -> str:
    seed = '--seed "$SLURM_ARRAY_TASK_ID" ' if job.array_seeds else ""
    return f'{shlex.join(job.command)} {seed}--run-dir "$RUN_DIR"'
