"""The batch script of a job on a cluster: bash that can be read, copied and changed."""

from __future__ import annotations

import shlex
from pathlib import Path

import jinja2

from hvd_dqn.tools.slurm.job import Job, Work
from hvd_dqn.tools.slurm.site import Site

_TEMPLATE = Path(__file__).with_name("job.sh.j2")


def render(job: Job, work: Work, site: Site, written_by: str) -> str:
    """The whole script; `written_by` is the command that writes it again."""
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        comment_start_string="<#",  # bash counts by {#
        comment_end_string="#>",
    )
    program = _program(job, site)
    return environment.from_string(_TEMPLATE.read_text()).render(
        job=job,
        site=site,
        name=work.name,
        account=job.account or site.account,
        partition=job.partition or site.partition,
        written_by=written_by,
        summary=_summary(job),
        program=program,
        unpack=_unpack(job),
        check=_check(job, work, program),
        doctor=_doctor(work, program),
        command=_command(job, work),
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


def _check(job: Job, work: Work, program: str) -> str:
    """What every node does to find out whether it is well; within single quotes."""
    parts = [program, "doctor --node"]
    if job.gpus_per_node:
        parts.append(f"--gpus {job.gpus_per_node}")
    if work.backend != "horovod":
        parts.append(f"--backend {work.backend}")
    return " ".join(parts).replace("'", "'\\''")


def _doctor(work: Work, program: str) -> str:
    """What all ranks do to find out whether they are well together."""
    return f"{program} doctor" + ("" if work.backend == "horovod" else f" --backend {work.backend}")


def _unpack(job: Job) -> str:
    """What every node does to have its copy, whole or not at all; a word for the shell."""
    tar = f'mkdir -p "$STAGE.part" && tar -xf {shlex.quote(job.stage)} -C "$STAGE.part"'
    return shlex.quote(f'[ -d "$STAGE" ] || {{ {tar} && mv "$STAGE.part" "$STAGE"; }}')


def _command(job: Job, work: Work) -> str:
    seed = '--seed "$SLURM_ARRAY_TASK_ID" ' if job.array_seeds else ""
    return f'{shlex.join(work.words)} {seed}--run-dir "$RUN_DIR"'
