"""Frames read by torch's operations, as on a GPU, against the host's compiled loop."""

import numpy as np
import pytest
import torch

from hvd_dqn.replay.frames import FrameStore


@pytest.mark.parametrize("size", [5, 6, 8])  # bytes, words of two and of eight
@pytest.mark.parametrize(("count", "before"), [(1, 0), (3, 3), (5, 0), (7, 4)])
def test_stretches_on_a_gpu_are_those_on_the_host(monkeypatch, size, count, before):
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
    slot, steps = rng.integers(0, 18, 64), rng.integers(0, 4, 64)
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
