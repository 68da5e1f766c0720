"""What a build of Horovod depends on, and what the installed one was built from."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hvd_dqn.tools.horovod.source import RECORD, changes_digest
from hvd_dqn.tools.probe import mpi_library_version

_OPTIONS = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITH_MPI": "1",
    "HOROVOD_WITHOUT_GLOO": "1",
}
_NAMES = {
    "patches": "patches",
    "options": "build options",
    "torch": "torch version",
    "mpi": "MPI",
    "python": "Python version",
}


class Recipe(NamedTuple):
    """What an installed Horovod must be built from, or it is rebuilt.

    NCCL and the GPUs' architectures are left out: a login node may not have them. Whether CUDA is
    built in is recorded too (`Toolchain.record`), and compared with `choose_cuda`.
    """

    patches: str
    options: dict[str, str]
    torch: str
    mpi: str
    python: str

    def differences(self, recorded: Mapping[str, object]) -> list[str]:
        """Name in words what has changed since `recorded`, the recipe of another build."""
        mine = self._asdict()
        return [words for name, words in _NAMES.items() if recorded.get(name) != mine[name]]


def current_recipe() -> Recipe:
    """The recipe of a build here and now. Raises `UserError` if mpi4py does not load."""
    import torch

    return Recipe(
        patches=changes_digest(),
        options=build_options(),
        torch=str(torch.__version__),
        mpi=mpi_library_version(),
        python=f"cp{sys.version_info.major}{sys.version_info.minor}",
    )


def build_options() -> dict[str, str]:
    """Environment variables that select what Horovod includes; values that the user set win."""
    return {name: os.environ.get(name, value) for name, value in _OPTIONS.items()}


def installed_recipe() -> dict[str, object] | None:
    """The recipe that the installed Horovod records, or None if it comes from elsewhere or if there
    is no Horovod.
    """
    package = importlib.util.find_spec("horovod")
    for directory in (package.submodule_search_locations if package else None) or ():
        try:
            recorded = json.loads((Path(directory) / "metadata.json").read_text())
        except (OSError, ValueError):
            continue
        recipe = recorded.get(RECORD) if isinstance(recorded, dict) else None
        return recipe if isinstance(recipe, dict) else None
    return None
