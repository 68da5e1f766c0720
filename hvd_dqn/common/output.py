"""Standard output and error that cannot end a run: they may be full, closed, in an encoding without
some letters, or have a reader that has gone.
"""

from __future__ import annotations

import errno
import os
import sys
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from hvd_dqn.common.errors import RunError, one_line

_FOR_GOOD = {errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ESTALE, errno.ECONNRESET}
"""Errors after which nothing can be written any more: the reader, or the terminal, has gone."""


class TolerantStream:
    """Writes to a text stream without raising an error. Other attributes are those of the stream.

    A character that the stream's encoding lacks becomes `?`. Text that cannot be written is
    dropped. If a disk is full, later text is tried again; if the reader has gone, it is not.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None
        """The first error of the stream."""
        self.is_lost = False
        """Whether nothing can be written any more."""

    def write(self, text: str) -> int:
        """Write the text. Returns its length, whatever happens to it."""
        if not self.is_lost:
            try:
                self._write(text)
            except (OSError, ValueError) as error:  # ValueError: the stream was closed
                self._drop(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what the stream holds back, or drop it."""
        if not self.is_lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._drop(error)

    def isatty(self) -> bool:
        """Return whether a terminal is open."""
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "replace").decode(encoding))

    def _drop(self, error: OSError | ValueError) -> None:
        """Keep the error, and empty the stream's buffer, which would raise it again at exit."""
        self.error = self.error or error
        self.is_lost = not isinstance(error, OSError) or error.errno in _FOR_GOOD
        with suppress(OSError, ValueError), _nowhere(self._stream.fileno()):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_output_tolerant() -> None:
    """Let no error of standard output or standard error be raised by `print` or any other code that
    looks up `sys.stdout` or `sys.stderr`.

    Descriptors 0 to 2, if the parent process closed them, are opened on /dev/null: otherwise the
    next file that is opened would receive what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)
            os.set_inheritable(number, True)
    sys.stdout, sys.stderr = tolerant(sys.stdout), tolerant(sys.stderr)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Within this context, `make_output_tolerant`. Contexts may be nested."""
    before = sys.stdout, sys.stderr
    make_output_tolerant()
    inside = sys.stdout, sys.stderr
    try:
        yield
    finally:
        for stream in inside:
            stream.flush()
        if (sys.stdout, sys.stderr) == inside:
            sys.stdout, sys.stderr = before


def tolerant(stream: TextIO | None) -> TextIO:
    """Return a `TolerantStream` of `stream`, which is `None` for a closed one."""
    if stream is None:
        stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open until the exit
    if isinstance(stream, TolerantStream):
        return typing.cast(TextIO, stream)
    return typing.cast(TextIO, TolerantStream(stream))


def is_lost(stream: TextIO) -> bool:
    """Return whether nothing can be written to this tolerant stream any more."""
    return isinstance(stream, TolerantStream) and stream.is_lost


def print_data(text: str) -> None:
    """Print what another program reads, such as JSON.

    Raises `RunError` if it cannot be written, unless its reader wants no more.
    """
    print(text, flush=True)
    error = sys.stdout.error if isinstance(sys.stdout, TolerantStream) else None
    if error is not None and not isinstance(error, BrokenPipeError):
        raise RunError(f"standard output cannot be written: {one_line(error)}")


@contextmanager
def _nowhere(descriptor: int) -> Iterator[None]:
    """Within this context, what is written to `descriptor` goes to /dev/null."""
    kept, null = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(null)
