"""`hvd-dqn build-horovod`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import parse
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.tools.horovod.build import build_horovod


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Build Horovod for the installed torch and MPI, and install it.

    An installed Horovod that works is kept, unless hvd-dqn built it from other patches, options or
    versions.
    """

    force: bool = False
    """Rebuild Horovod even if one is installed or cached."""
    cuda: bool = False
    """Build with CUDA and NCCL. Without this option and the next one, Horovod is built with them if
    this machine has an NVIDIA driver and the CUDA toolkit of torch.
    """
    no_cuda: bool = False
    """Build without CUDA."""


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(BuildOptions, arguments, program="hvd-dqn build-horovod")
    if options.cuda and options.no_cuda:
        raise UserError("build-horovod: --cuda and --no-cuda exclude each other", "choose one")
    chosen = options.cuda if options.cuda or options.no_cuda else None
    build_horovod(force=options.force, cuda=chosen)
    return EXIT_OK
