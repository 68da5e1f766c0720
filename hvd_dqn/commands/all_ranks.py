"""What every rank of a launch runs, and how it ends where one of them breaks."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from hvd_dqn.common.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    AgreedError,
    LostContactError,
    RunError,
    StoppedError,
)
from hvd_dqn.distributed.communicator import Communicator, hostname
from hvd_dqn.run.directory import RunDirectory

_CODES: dict[type[Exception], int] = {AgreedError: EXIT_BAD_INPUT, StoppedError: EXIT_STOPPED}


class LoneError(Exception):
    """Something broke on this rank alone, within a run."""

    def __init__(self, run_dir: RunDirectory, cause: Exception) -> None:
        super().__init__(str(cause))
        self.run_dir = run_dir
        self.cause = cause


def run_on_all_ranks(comm: Communicator, work: Callable[[], None]) -> int:
    """Run what every rank runs. What all raise alike, the root says; a rank that breaks alone says
    so and ends the others, which may be waiting for it.
    """
    try:
        work()
        code = EXIT_OK
    except (AgreedError, RunError, StoppedError) as error:
        code = _CODES.get(type(error), EXIT_FAILED)
        if comm.is_root:
            print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if comm.is_root:
            print("hvd-dqn: interrupted", file=sys.stderr, flush=True)
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    except LostContactError as error:
        if error.told is not None:
            print(f"hvd-dqn: {error.told}", file=sys.stderr, flush=True)
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    except BaseException as error:
        cause = error.cause if isinstance(error, LoneError) else error
        where = f"rank {comm.rank} on {hostname()}: " if comm.world_size > 1 else ""
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        log = _keep_traceback(error, comm.rank)
        print(f"hvd-dqn: {where}{text} ({log})", file=sys.stderr, flush=True)
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    comm.close()
    return code


def _keep_traceback(error: BaseException, rank: int) -> str:
    """Write the traceback beside the run, or print it where no run has begun; which of the two."""
    cause = error.cause if isinstance(error, LoneError) else error
    if isinstance(error, LoneError) and error.run_dir.path.is_dir():
        path = error.run_dir.crash_file(rank)
        try:
            path.write_text("".join(traceback.format_exception(cause)))
            return f"traceback in {path}"
        except OSError:
            pass  # the traceback goes to standard error instead
    traceback.print_exception(cause)
    return "traceback above"
