"""The source of the Horovod that we build: 0.28.1 with the changes in `patches/`, and with the few
that depend on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.version import Version

from hvd_dqn.common.errors import UserError

HOROVOD_VERSION = "0.28.1"
PATCHES = Path(__file__).with_name("patches")
RECORD = "hvd_dqn"
"""Key in Horovod's metadata.json that holds the recipe of the build."""


def changes_digest() -> str:
    """A digest of all changes to Horovod: the patches and this module."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for patch in patch_files():
        digest.update(patch.read_bytes())
    return digest.hexdigest()[:12]


def patch_files() -> list[Path]:
    """The patches in the order in which they apply."""
    return sorted(PATCHES.glob("*.patch"))


def change_source(
    source: Path,
    *,
    torch_version: Version,
    with_cuda: bool,
    extra_library_dirs: Sequence[Path],
    record: Mapping[str, object],
) -> None:
    """Change Horovod's unpacked source distribution in place.

    The installed package keeps `record` in its metadata.json. Raises `UserError` if `source` is not
    Horovod 0.28.1.
    """
    apply_patches(source, patch_files())
    standard = cxx_standard(torch_version)
    for name in ("CMakeLists.txt", "horovod/torch/CMakeLists.txt"):
        replace(source / name, "set(CMAKE_CXX_STANDARD 14)", f"set(CMAKE_CXX_STANDARD {standard})")

    # Run paths relative to the library let one wheel serve any virtual environment: torch and NCCL
    # are beside it in site-packages, MPI is in the environment's lib, four directories up.
    run_path = [
        "$ORIGIN/../../torch/lib",
        "$ORIGIN/../../nvidia/nccl/lib",
        "$ORIGIN/../../../..",
        *map(str, extra_library_dirs),
    ]
    replace(
        source / "CMakeLists.txt",
        "project(horovod CXX)\n",
        "project(horovod CXX)\nset(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\n"
        f'set(CMAKE_INSTALL_RPATH "{";".join(run_path)}")\n',
    )
    if not with_cuda:
        # A torch with CUDA would require a toolkit, which is missing or differs from torch's.
        replace(
            source / "horovod/torch/CMakeLists.txt",
            "elseif (Pytorch_CUDA AND NOT HAVE_CUDA)\n    add_cuda()\nendif()",
            "endif()",
        )
    replace(
        source / "CMakeLists.txt",
        r'metadata.json" "\"dummy\": \"none\"\n}")',
        f'metadata.json" [==["{RECORD}": {json.dumps(record)}\n}}]==])',
    )


def apply_patches(source: Path, patches: Sequence[Path]) -> None:
    """Apply `patches` with `patch`, or with `git apply` if there is only git.

    Raises `UserError` if one does not fit exactly.
    """
    command = ["git", "apply"]
    if shutil.which("patch"):
        command = ["patch", "-p1", "--fuzz=0", "--force", "--silent", "-i"]
    # Within a repository, git would apply only what concerns it.
    outside_of_a_repository = {"GIT_CEILING_DIRECTORIES": str(source.resolve().parent)}
    for patch in patches:
        done = subprocess.run(
            [*command, str(patch)],
            cwd=source,
            env=os.environ | outside_of_a_repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            reason = " ".join(done.stdout.split())
            raise UserError(
                f"{patch.name} does not fit {source.name}, which is not Horovod "
                f"{HOROVOD_VERSION} ({reason})"
            )


def cxx_standard(torch_version: Version) -> int:
    """The C++ standard that torch's headers require."""
    if torch_version.release >= (2, 14):
        return 20
    return 17 if torch_version.release >= (2, 1) else 14


def replace(path: Path, old: str, new: str) -> None:
    """Replace `old` by `new` in a file. Raises `UserError` if the file does not contain `old`."""
    text = path.read_text()
    if old not in text:
        raise UserError(
            f"{path} is not from Horovod {HOROVOD_VERSION}: it does not contain {old!r}"
        )
    path.write_text(text.replace(old, new))
