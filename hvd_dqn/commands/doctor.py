"""`hvd-dqn doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.command_line import parse, switches
from hvd_dqn.errors import EXIT_FAILED, EXIT_OK
from hvd_dqn.tools.doctor import diagnose, print_checks


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check torch, MPI, Horovod, whether they fit each other, GPUs and threads; each line with its
    remedy.
    """

    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> int:
    """Check."""
    options = parse(DoctorOptions, switches(arguments, "json"), program="hvd-dqn doctor")
    checks = diagnose()
    if options.json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        print_checks(checks)
    return EXIT_FAILED if any(check.state == "fail" for check in checks) else EXIT_OK
