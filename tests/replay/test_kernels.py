"""What the compiled loops refuse, before they have touched anything. What they compute is tested
where it is used, against plain logs and arrays.
"""

import numpy as np
import pytest

from hvd_dqn.replay import kernels

NO_SLOTS = np.zeros(0, dtype=np.int64)


def slots(*values):
    return np.array(values, dtype=np.int64)


def windows_of(slot, *, rows=5, cursor=(2, 2), count=None):
    count = len(slot) if count is None else count
    kernels.find_windows(
        np.zeros((2, 5), dtype=np.uint8),
        slots(*cursor),
        slots(2, 2),
        slot,
        rows,
        3,
        4,
        np.zeros(count, dtype=np.bool_),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.bool_),
        np.zeros(count, dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("index", "value", "error"),
    [
        (slots(0, 4), np.ones(2), IndexError),
        (slots(-1), np.ones(1), IndexError),
        (slots(0), np.ones(2), ValueError),
        (np.zeros(3, dtype=np.int32), np.ones(1), ValueError),
    ],
)
def test_leaves_that_are_not_there(index, value, error):
    tree = np.zeros(8)
    with pytest.raises(error):
        kernels.set_leaves(tree, index, value)
    assert not tree.any()


def test_nothing_can_be_found_in_a_tree_of_zeros():
    with pytest.raises(ValueError, match="greater than zero"):
        kernels.find_leaves(np.zeros(8), np.zeros(1), slots(0))
    with pytest.raises(ValueError, match="as many"):
        kernels.find_leaves(np.ones(8), np.zeros(2), slots(0))


@pytest.mark.parametrize("slot", [-1, 10])
def test_slots_that_are_not_there(slot):
    with pytest.raises(IndexError):
        windows_of(slots(0, slot))
    sums = np.zeros(1, dtype=np.float32)
    rewards = np.ones((2, 5), dtype=np.float32)
    with pytest.raises(IndexError):
        kernels.sum_rewards(rewards, slots(slot), slots(1), 5, np.ones(2), sums)
    assert not sums.any()


def test_arrays_that_do_not_fit():
    for wrong in ({"rows": 4}, {"rows": 0}, {"cursor": (2,)}, {"count": 3}):
        with pytest.raises(ValueError, match="fit"):
            windows_of(slots(0, 1), **wrong)
    sums = np.zeros(2, dtype=np.float32)
    with pytest.raises(ValueError, match="fit"):
        kernels.sum_rewards(np.ones(10, dtype=np.float32), slots(0), slots(1), 5, np.ones(2), sums)


@pytest.mark.parametrize(
    ("first", "missing", "error"),
    [
        (slots(7), slots(0), IndexError),  # ends beyond the source
        (slots(-1), slots(0), IndexError),
        (slots(0), slots(4), IndexError),
        (slots(0), slots(0, 0), ValueError),
        (slots(0, 1), slots(0, 0), ValueError),  # nine bytes are no two rows
    ],
)
def test_stretches_that_are_not_there(first, missing, error):
    out = np.zeros(9, dtype=np.uint8)
    with pytest.raises(error):
        kernels.copy_stretches(np.ones((9, 3), dtype=np.uint8), first, missing, 3, out)
    assert not out.any()


def test_a_batch_of_nothing():
    tree = np.arange(8.0)
    kernels.set_leaves(tree, NO_SLOTS, np.zeros(0))
    assert tree.tolist() == list(range(8)), "no sum is made anew"
    windows_of(NO_SLOTS)
    empty = np.zeros(0, dtype=np.uint8)
    kernels.copy_stretches(np.ones((9, 3), dtype=np.uint8), NO_SLOTS, NO_SLOTS, 3, empty)
    with pytest.raises(ValueError, match="fit"):  # one place too many for no stretch
        kernels.copy_stretches(np.ones(9, dtype=np.uint8), NO_SLOTS, NO_SLOTS, 3, np.zeros(1))


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"cursor": slots(0, 5)}, IndexError),
        ({"cursor": slots(-1, 0)}, IndexError),
        ({"filled": slots(0)}, ValueError),
        ({"kinds": np.zeros(9, dtype=np.uint8)}, ValueError),
        ({"rewards": np.zeros(10)}, ValueError),
        ({"action": np.zeros(2, dtype=np.int32)}, ValueError),
        ({"reward": np.zeros(2)}, ValueError),
        ({"truncated": np.zeros(3, dtype=np.bool_)}, ValueError),
    ],
)
def test_steps_of_no_such_ring(changed, error):
    arrays = {
        "actions": np.zeros((2, 5), dtype=np.int32),
        "rewards": np.zeros((2, 5), dtype=np.float32),
        "kinds": np.zeros((2, 5), dtype=np.uint8),
        "moved": slots(3, 3),
        "cursor": slots(3, 3),
        "filled": slots(3, 3),
        "action": slots(1, 1),
        "reward": np.ones(2, dtype=np.float32),
        "terminated": np.ones(2, dtype=np.bool_),
        "truncated": np.zeros(2, dtype=np.bool_),
    } | changed
    with pytest.raises(error):
        kernels.take_steps(*arrays.values())
    assert not arrays["actions"].any()
    assert arrays["moved"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("column", "row", "unit", "error"),
    [
        (slots(0, 2), slots(0, 0), 3, IndexError),
        (slots(0, 0), slots(0, 5), 3, IndexError),
        (slots(0, 0), slots(-1, 0), 3, IndexError),
        (slots(0, 0), slots(0), 3, ValueError),
        (slots(0, 0), slots(0, 0), 7, ValueError),  # longer than an observation
        (slots(0, 0, 0, 0), slots(0, 0, 0, 0), 3, ValueError),  # ten bytes are no four rows
        (slots(0, 0), slots(0, 0), 4, ValueError),  # the frames are no whole number of fours
    ],
)
def test_frames_of_no_such_rows(column, row, unit, error):
    frames = np.zeros((2, 5 + 2, 3), dtype=np.uint8)
    with pytest.raises(error):
        kernels.write_frames(frames, 5, 2, column, row, np.ones((2, 5), dtype=np.uint8), unit)
    assert not frames.any()
