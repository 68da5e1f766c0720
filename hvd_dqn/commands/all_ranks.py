"""Run a command's work on every rank, and end all ranks if one of them fails."""

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
    LoneError,
    LostContactError,
    RunError,
    StoppedError,
    UserError,
    typed_line,
)
from hvd_dqn.common.imports import explain
from hvd_dqn.distributed.communicator import Communicator, hostname

_CODES: dict[type[Exception], int] = {AgreedError: EXIT_BAD_INPUT, StoppedError: EXIT_STOPPED}


def run_on_all_ranks(comm: Communicator, work: Callable[[], None]) -> int:
    """Call `work` and return the exit code. Every rank calls this.

    If all ranks raise the same error, the root prints it. A rank that fails alone prints its error
    and aborts the others, which may be waiting for it; a `UserError` needs no traceback.
    """
    try:
        work()
        code = EXIT_OK
    except (AgreedError, RunError, StoppedError) as error:
        code = _CODES.get(type(error), EXIT_FAILED)
        if comm.is_root:
            _tell(str(error))
    except UserError as error:  # an environment may show late that it is at fault
        rank = f"rank {comm.rank} on {hostname()}: " if comm.world_size > 1 else ""
        _tell(f"{rank}{error}")
        comm.abort(EXIT_BAD_INPUT)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        if comm.is_root:
            _tell("interrupted")
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    except LostContactError as error:
        if error.told is not None:
            _tell(error.told)
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    except BaseException as error:
        cause, file = (error.cause, error.file) if isinstance(error, LoneError) else (error, None)
        rank = f"rank {comm.rank} on {hostname()}: " if comm.world_size > 1 else ""
        explained = explain(cause) if isinstance(cause, Exception) else None
        if explained is not None:
            _tell(f"{rank}{explained}")
            comm.abort(EXIT_BAD_INPUT)
            return EXIT_BAD_INPUT
        if file is None:
            traceback.print_exception(cause)
        place = "above" if file is None else f"in {file}"
        _tell(f"{rank}{typed_line(cause)} (traceback {place})")
        comm.abort(EXIT_FAILED)
        return EXIT_FAILED
    try:
        comm.close()
    except Exception as error:  # the work is done
        _tell(f"rank {comm.rank} on {hostname()}: disconnecting failed: {typed_line(error)}")
    return code


def _tell(text: str) -> None:
    print(f"hvd-dqn: {text}", file=sys.stderr, flush=True)
