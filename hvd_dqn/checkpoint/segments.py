"""Saves a ring's frames in segments, each with only the rows that are new since the one before, and
loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hvd_dqn.checkpoint.manifest import Segment
from hvd_dqn.checkpoint.store import CHUNK, DamageError, Store
from hvd_dqn.replay import Ring


class PendingSegment:
    """The rows of a ring that the next segment is to hold: from number `start` [N] up to, not
    including, `stop` [N].
    """

    def __init__(self, ring: Ring, saved: list[Segment]) -> None:
        self._ring = ring
        self.stop = ring.moved + 1
        self.start = ring.oldest.copy()
        if saved:
            # The row at the cursor again: a resumed run may have written another frame there.
            self.start = np.maximum(self.start, np.array(saved[-1].stop) - 1)

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes of the frames, straight from the ring's memory.

        Raises `DamageError` if a frame is not finite: a run resumed from it would fail as this one
        is about to.
        """
        for column, (start, stop) in enumerate(zip(self.start, self.stop, strict=True)):
            for frames in self._ring.frames(column, int(start), int(stop)):
                if frames.dtype.kind == "f" and not np.isfinite(frames).all():
                    raise DamageError("the replay holds an observation that is not finite")
                yield frames.data.cast("B")

    def survives(self, steps: int) -> bool:
        """Whether the rows stay in the ring for `steps` more steps. A step takes up to three rows
        of an environment: its own, one for the end of an episode, and one if the environment
        breaks.
        """
        return bool((self._ring.moved + 3 * steps < self.start + self._ring.rows).all())


def still_needed(segments: list[Segment], ring: Ring) -> list[Segment]:
    """Return the segments with rows that are still in the ring."""
    return [s for s in segments if (np.array(s.stop) > ring.oldest).any()]


def read_rows(
    store: Store, segments: list[Segment], column: int, start: int, stop: int, frame: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of one environment (`column`) from number `start` up to, not including,
    `stop`: pairs of a row number and the frames [W, size] from it on. `frame` [size] gives size and
    type of a frame. A row that several segments hold is yielded once for each, and the last one
    counts.

    Raises `DamageError` if rows are missing.
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


def load_ring(
    store: Store, segments: list[Segment], ring: Ring, on_progress: Callable[[], None]
) -> None:
    """Load the frames into a ring whose other state is restored already. Calls `on_progress` after
    every chunk.
    """
    for column in range(len(ring.moved)):
        start, stop = int(ring.oldest[column]), int(ring.moved[column]) + 1
        for row, frames in read_rows(store, segments, column, start, stop, ring.frame):
            ring.put_frames(column, row, frames)
            on_progress()
