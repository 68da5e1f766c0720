"""Frames read by torch's operations, as on a GPU, against the host's compiled loop; and the memory
that a GPU copies samples from.
"""

import numpy as np
import pytest
import torch

from hvd_dqn.replay.batch_memory import BatchMemory
from hvd_dqn.replay.frame_store import FrameStore


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("size", [5, 6, 4, 8])  # bytes, and words of two, four and eight
@pytest.mark.parametrize(("count", "before"), [(1, 0), (3, 3), (5, 0), (7, 4)])
def test_stretches_on_a_gpu_are_those_on_the_host(monkeypatch, size, count, before, late):
    rng = np.random.default_rng(count)
    store = FrameStore(
        num_envs=2,
        rows=9,
        frame_shape=(1, size),
        dtype=np.dtype(np.uint8),
        span=7,
        device=torch.device("cpu"),
    )
    frames = rng.integers(1, 256, (9, 2, 1, size), dtype=np.uint8)
    columns = np.arange(2)
    for row in range(5):
        store.write(columns, np.full(2, row), frames[row])
    slot, steps = rng.integers(0, 18, 64), rng.integers(0, 4, 64) if late else None
    depth = rng.integers(max(0, before - count), 5, 64)
    on_host = store.new_memory(64, count, pinned=False)
    as_on_a_gpu = torch.empty_like(on_host)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_on_host", None)
        patch.setattr(store, "_sent", torch.from_numpy)
        for row in range(5, 9):
            store.write(columns, np.full(2, row), frames[row])
        store.read(slot, steps, depth, before, out=as_on_a_gpu)
    store.read(slot, steps, depth, before, out=on_host)
    assert on_host.any()
    assert torch.equal(as_on_a_gpu, on_host)


def test_memory_is_reused_only_after_a_gpu_has_copied_it():
    class Copied:
        """A CUDA event that lists its calls."""

        def __init__(self):
            self.asked = []

        def record(self):
            """Copies before this call are enqueued."""
            self.asked.append("record")

        def synchronize(self):
            """Those copies are done."""
            self.asked.append("synchronize")

    copied, host = Copied(), torch.device("cpu")
    images = [torch.zeros(4, frames, 1, 6) for frames in (3, 3, 5)]
    numbers = torch.zeros(4, dtype=torch.int64), torch.zeros(3, 4)
    memory = BatchMemory(*images, *numbers, device=host, copied=copied)
    for count in (2, 4, 2):
        part = memory.first(count)
        part.wait()
        part.weight[:] = count
        assert part.tensors(False).weight.tolist() == [count] * count
        assert part.tensors(True).obs.shape == (count, 3, 6)
        assert part._scalars.is_contiguous(), "what is not would go by way of pageable memory"
    assert copied.asked == ["synchronize", "record", "record"] * 2 + ["synchronize"]
