"""Render the batch script of a job. The script is bash that users can read, copy and edit."""

from __future__ import annotations

import shlex
from pathlib import Path

import jinja2

from hvd_dqn.tools.slurm.job import Job, Work
from hvd_dqn.tools.slurm.site import Site

_TEMPLATE = Path(__file__).with_name("job.sh.j2")


def render(job: Job, work: Work, site: Site, written_by: str) -> str:
    """Return the script. `written_by` is the command that renders it, which a comment states."""
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        comment_start_string="<#",  # bash uses {# for lengths
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
        summary=_summary(job, work),
        tasks=work.tasks,
        program=program,
        unpack=_unpack(job),
        check=_check(job, work, program),
        doctor=_doctor(job, work, program),
        command=_command(job, work),
    )


def _summary(job: Job, work: Work) -> str:
    ranks = f"{job.ranks} ranks" if job.ranks > 1 else "One rank"
    nodes = f"on each of {job.nodes} nodes" if job.nodes > 1 else "on one node"
    unit = "with GPUs" if job.gpus_per_node else "on CPU cores"
    how = {"srun": "srun with PMIx", "mpirun": "mpirun", "horovodrun": "horovodrun over ssh"}
    parts = [f"{ranks} {nodes}", unit, f"started by {how[job.launcher]}"]
    if job.ranks_per_env:
        envs = f"{work.num_envs} environments" if work.num_envs > 1 else "its environment"
        parts.append(f"each beside {job.ranks_per_env} solver ranks for each of {envs}")
    if job.container:
        parts.append("in a container")
    if job.array_seeds:
        parts.append("one job per seed")
    return f"{', '.join(parts)}."


def _program(job: Job, site: Site) -> str:
    if job.container:
        return f"{site.container_command} {shlex.quote(job.container)} hvd-dqn"
    return '"$STAGE/bin/python" -m hvd_dqn' if job.stage else "hvd-dqn"


def _check(job: Job, work: Work, program: str) -> str:
    """Return the health check of one node, for use within single quotes."""
    parts = [program, "doctor --node"]
    if job.gpus_per_node:
        parts.append(f"--gpus {job.gpus_per_node}")
    if work.backend != "horovod":
        parts.append(f"--backend {work.backend}")
    return " ".join(parts).replace("'", "'\\''")


def _doctor(job: Job, work: Work, program: str) -> str:
    """Return the command that checks all ranks together."""
    parts = [program, "doctor"]
    if work.backend != "horovod":
        parts.append(f"--backend {work.backend}")
    if job.ranks_per_env:
        parts.append(f"--num-envs {work.num_envs} --ranks-per-env {job.ranks_per_env}")
    return " ".join(parts)


def _unpack(job: Job) -> str:
    """Return the command, as one shell word, that unpacks the environment on a node atomically."""
    tar = f'mkdir -p "$STAGE.part" && tar -xf {shlex.quote(job.stage)} -C "$STAGE.part"'
    return shlex.quote(f'[ -d "$STAGE" ] || {{ {tar} && mv "$STAGE.part" "$STAGE"; }}')


def _command(job: Job, work: Work) -> str:
    seed = '--seed "$SLURM_ARRAY_TASK_ID" ' if job.array_seeds else ""
    return f'{shlex.join(work.words)} {seed}--run-dir "$RUN_DIR"'
