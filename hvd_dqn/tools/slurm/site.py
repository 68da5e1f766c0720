"""What is particular to a cluster, from a YAML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from hvd_dqn.common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Site:
    """A cluster's own ways.

    `modules` are loaded, then `activate` is run, on the batch host; srun passes the environment on.
    `mpi` is what srun --mpi takes; `network_interface` is what NCCL and Open MPI talk over;
    `scratch` is a directory that every node has for itself; `options` are further #SBATCH lines.
    """

    modules: tuple[str, ...] = ()
    activate: str = "source .venv/bin/activate"
    account: str = ""
    partition: str = ""
    mpi: str = "pmix"
    network_interface: str = ""
    scratch: str = "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
    container_command: str = "apptainer exec --nv"
    options: tuple[str, ...] = ()


def read_site(path: Path) -> Site:
    """`UserError` where it is no site file."""
    try:
        given = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no YAML ({reason})") from error
    fields = {field.name: field for field in dataclasses.fields(Site)}
    if not isinstance(given, dict) or set(given) - set(fields):
        unknown = sorted(set(given) - set(fields)) if isinstance(given, dict) else given
        raise UserError(f"{path}: {unknown} unknown", f"a site has {', '.join(fields)}")
    values: dict[str, object] = {}
    for name, value in given.items():
        is_list = isinstance(fields[name].default, tuple)
        if is_list and isinstance(value, list) and all(isinstance(v, str) for v in value):
            values[name] = tuple(value)
        elif not is_list and isinstance(value, str):
            values[name] = value
        else:
            raise UserError(f"{path}: {name} is {value!r}", "a list of text" if is_list else "text")
    return Site(**values)  # type: ignore[arg-type]  # checked above
