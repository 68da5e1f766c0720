"""The settings of a cluster, from a YAML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from hvd_dqn.common.errors import UserError, did_you_mean, one_line


@dataclass(frozen=True, kw_only=True)
class Site:
    """The settings of a cluster.

    The batch host loads `modules` and then runs `activate`; srun passes its environment to the
    other nodes. `mpi` is the argument of srun --mpi. MPI and NCCL use `network_interface`.
    `scratch` is a node-local directory. `options` are additional #SBATCH lines.
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
    """Read a site file. Raises `UserError` if it is not valid."""
    try:
        given = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from error
    fields = {field.name: field for field in dataclasses.fields(Site)}
    if not isinstance(given, dict):
        raise UserError(f"{path} must map names to values", f"a site has {', '.join(fields)}")
    values: dict[str, object] = {}
    for name, value in given.items():
        if name not in fields:
            raise UserError(f"{path}: unknown setting {name!r}", did_you_mean(str(name), fields))
        is_list = isinstance(fields[name].default, tuple)
        if is_list and isinstance(value, list) and all(isinstance(v, str) for v in value):
            values[name] = tuple(value)
        elif not is_list and isinstance(value, str):
            values[name] = value
        else:
            kind = "a list of strings" if is_list else "a string"
            raise UserError(f"{path}: {name} = {value!r}: must be {kind}")
    return Site(**values)  # type: ignore[arg-type]  # checked above
