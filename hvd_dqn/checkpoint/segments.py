"""A ring's frames on their way to files and back: only what is new is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hvd_dqn.checkpoint.manifest import Segment
from hvd_dqn.checkpoint.store import CHUNK, DamageError, Store
from hvd_dqn.replay import Ring


class Stretch:
    """The rows of a ring that a new segment is to hold: number `start` [N] to before `stop` [N]."""

    def __init__(self, ring: Ring, saved: list[Segment]) -> None:
        self._ring = ring
        self.stop = ring.moved + 1
        self.start = ring.oldest.copy()
        if saved:
            # The row at the cursor once more: a resumed run may have put another frame there.
            self.start = np.maximum(self.start, np.array(saved[-1].stop) - 1)

    def chunks(self) -> Iterator[memoryview]:
        """The frames' bytes, from the ring's own memory. `DamageError` where one is not finite: a
        run that goes on from it would end as this one is about to.
        """
        for column, (start, stop) in enumerate(zip(self.start, self.stop, strict=True)):
            for frames in self._ring.frames(column, int(start), int(stop)):
                if frames.dtype.kind == "f" and not np.isfinite(frames).all():
                    raise DamageError("the replay holds an observation that is not finite")
                yield frames.data.cast("B")

    def is_safe(self, steps: int) -> bool:
        """Whether so many more steps leave all of its rows in the ring; an episode's end takes a
        row besides, and so does an environment that breaks.
        """
        return bool((self._ring.moved + 3 * steps < self.start + self._ring.rows).all())


def still_needed(segments: list[Segment], ring: Ring) -> list[Segment]:
    """Those that hold rows which the ring still has."""
    return [s for s in segments if (np.array(s.stop) > ring.oldest).any()]


def read_rows(
    store: Store, segments: list[Segment], column: int, start: int, stop: int, frame: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """This environment's rows number `start` to before `stop`, some at a time, each with the
    number of its first; later segments come after earlier ones. `frame` [size] says what one is.

    `DamageError` where rows are missing.
    """
    have = start
    for segment in segments:
        first, last = segment.start[column], segment.stop[column]
        begin, end = max(start, first), min(stop, last)
        if begin >= end:
            continue
        if begin > have:
            break
        have = max(have, end)
        before = sum(b - a for a, b in zip(segment.start[:column], segment.stop, strict=False))
        rows = max(1, CHUNK // frame.nbytes)
        with store.open(segment.file.name) as file:
            file.seek((before + begin - first) * frame.nbytes)
            for row in range(begin, end, rows):
                count = min(rows, end - row)
                data = file.read(count * frame.nbytes)
                if len(data) != count * frame.nbytes:
                    raise DamageError(f"{segment.file.name} ends early")
                yield (
                    row,
                    np.frombuffer(bytearray(data), dtype=frame.dtype).reshape(count, frame.size),
                )
    if have < stop:
        raise DamageError(f"no file holds row {have} of environment {column}")


def load_ring(store: Store, segments: list[Segment], ring: Ring, touch: Callable[[], None]) -> None:
    """Put the frames back into a ring whose other state is there already; `touch` is called as it
    gets on.
    """
    for column in range(len(ring.moved)):
        start, stop = int(ring.oldest[column]), int(ring.moved[column]) + 1
        for row, frames in read_rows(store, segments, column, start, stop, ring.frame):
            ring.put_frames(column, row, frames)
            touch()
