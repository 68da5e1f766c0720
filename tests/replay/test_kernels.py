"""Arguments that the compiled loops reject before changing anything. What they compute is tested
where it is used, against plain logs and arrays.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvd_dqn.replay import kernels

NO_SLOTS = np.zeros(0, dtype=np.int64)


def slots(*values):
    return np.array(values, dtype=np.int64)


def windows_of(slot, *, rows=5, cursor=(2, 2), filled=(2, 2), count=None):
    count = len(slot) if count is None else count
    kernels.find_windows(
        np.zeros((2, 5), dtype=np.uint8),
        slots(*cursor),
        slots(*filled),
        slot,
        rows,
        3,
        4,
        np.zeros(count, dtype=np.bool_),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.bool_),
        np.zeros(count, dtype=np.int64),
    )


def steps_of(slot, *, rows=5, length=None, count=None, powers=np.ones(2)):  # noqa: B008
    count = len(slot) if count is None else count
    filled_in = [np.zeros(count, dtype=kind) for kind in (np.int64, np.float32, np.float32)]
    try:
        kernels.read_steps(
            np.ones((2, 5), dtype=np.int32),
            np.ones((2, 5), dtype=np.float32),
            slot,
            np.ones_like(slot) if length is None else length,
            np.zeros(len(slot), dtype=np.bool_),
            rows,
            powers,
            *filled_in,
        )
    except Exception:
        assert not any(values.any() for values in filled_in)
        raise


@pytest.mark.parametrize(
    ("index", "value", "error"),
    [
        (slots(0, 4), np.ones(2), IndexError),
        (slots(-1), np.ones(1), IndexError),
        (slots(0), np.ones(2), ValueError),
        (np.zeros(3, dtype=np.int32), np.ones(1), ValueError),
    ],
)
def test_invalid_leaves_are_rejected(index, value, error):
    tree = np.zeros(8)
    with pytest.raises(error):
        kernels.set_leaves(tree, index, value)
    assert not tree.any()


def test_trees_without_leaves_to_draw_are_rejected():
    with pytest.raises(ValueError, match="no binary tree"):
        kernels.draw_leaves(np.ones(6), np.zeros(1), slots(0), np.zeros(1))
    with pytest.raises(ValueError, match="no binary tree"):
        kernels.set_leaves(np.ones(6), slots(0), np.ones(1))
    with pytest.raises(ValueError, match="greater than zero"):
        kernels.draw_leaves(np.zeros(8), np.zeros(1), slots(0), np.zeros(1))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: kernels.draw_leaves(np.ones(8), np.zeros(2), slots(0), np.zeros(2)),
        lambda: kernels.draw_leaves(np.ones(8), np.zeros(2), slots(0, 0), np.zeros(1)),
        lambda: kernels.weigh_leaves(np.ones(2), 0.5, np.zeros(3, dtype=np.float32)),
        lambda: kernels.weigh_leaves(np.ones(0), 0.5, np.zeros(0, dtype=np.float32)),
        lambda: kernels.value_priorities(np.ones(2, dtype=np.float32), 0, 0.5, np.zeros(3)),
    ],
)
def test_as_many_numbers_as_draws(draw):
    with pytest.raises(ValueError, match="as many"):
        draw()


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
def test_weights_and_values_of_priorities(exponent):
    priority = np.random.default_rng(0).exponential(size=300).astype(np.float32)
    value, weight = np.empty(300), np.empty(300, dtype=np.float32)
    highest = kernels.value_priorities(priority, 1e-6, exponent, value)
    assert value == pytest.approx((priority.astype(np.float64) + 1e-6) ** exponent, rel=1e-14)
    assert highest == value.max()
    assert kernels.weigh_leaves(value, exponent, weight) == value.min()
    assert weight == pytest.approx((value.min() / value) ** exponent, rel=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.6])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_priority_that_is_not_finite(wrong, place, exponent):
    priority = np.ones(3, dtype=np.float32)
    priority[place] = wrong
    assert np.isnan(kernels.value_priorities(priority, 0.0, exponent, np.empty(3)))


@pytest.mark.parametrize("slot", [-1, 10])
def test_invalid_slots_are_rejected(slot):
    with pytest.raises(IndexError):
        windows_of(slots(0, slot))
    with pytest.raises(IndexError):
        steps_of(slots(0, slot))


def test_invalid_cursors_are_rejected():
    for wrong in ({"cursor": (2, 5)}, {"cursor": (-1, 2)}, {"filled": (10**12, 2)}):
        with pytest.raises(IndexError):
            windows_of(slots(0, 1), **wrong)


def test_arrays_of_other_sizes_are_rejected():
    for wrong in ({"rows": 4}, {"rows": 0}, {"cursor": (2,)}, {"count": 3}):
        with pytest.raises(ValueError, match="fit"):
            windows_of(slots(0, 1), **wrong)
    for wrong in ({"rows": 4}, {"rows": 0}, {"length": slots(1)}, {"count": 3}):
        with pytest.raises(ValueError, match="fit"):
            steps_of(slots(0, 1), **wrong)


@pytest.mark.parametrize("length", [-1, 2])
def test_windows_longer_than_there_are_powers(length):
    with pytest.raises(IndexError):
        steps_of(slots(0), length=slots(length))


def drawn(place, *, most=2, **changed):
    sizes = {"slot": most, "length": most, "terminated": most, "depth": most}
    out = {
        name: np.full(changed.pop(name, size), 1, dtype=bool if name == "terminated" else np.int64)
        for name, size in sizes.items()
    }
    ring = {
        "kinds": np.zeros((2, 5), dtype=np.uint8),
        "cursor": (3, 4),
        "filled": (3, 4),
        "rows": 5,
    }
    ring |= changed
    try:
        count = kernels.draw_windows(
            ring["kinds"],
            slots(*ring["cursor"]),
            slots(*ring["filled"]),
            place if isinstance(place, np.ndarray) else np.array(place, dtype=np.float64),
            ring["rows"],
            1,
            1,
            *out.values(),
        )
    except Exception:
        assert all((values == 1).all() for values in out.values())
        raise
    return out["slot"][:count]


@pytest.mark.parametrize(
    ("place", "changed", "error"),
    [
        ((0, 1), {}, IndexError),
        ((-0.1, 0), {}, IndexError),
        ((0, float("nan")), {}, IndexError),
        (np.zeros(3, dtype=np.float32), {}, ValueError),
        ((0, 0), {"rows": 0}, ValueError),
        ((0, 0), {"rows": 4}, ValueError),
        ((0, 0), {"cursor": (3,)}, ValueError),
        ((0, 0), {"filled": (3,)}, ValueError),
        ((0, 0), {"slot": 1}, ValueError),
        ((0, 0), {"length": 1}, ValueError),
        ((0, 0), {"terminated": 1}, ValueError),
        ((0, 0), {"depth": 1}, ValueError),
        ((0, 0), {"cursor": (3, 5)}, IndexError),
        ((0, 0), {"cursor": (-1, 4)}, IndexError),
        ((0, 0), {"filled": (3, 5)}, IndexError),
        ((0, 0), {"filled": (-1, 4)}, IndexError),
        (
            (0, 0),
            {
                "kinds": np.zeros((0, 5), dtype=np.uint8),
                "cursor": (0,) * 4,
                "filled": (1, 0, 0, 0),
                "rows": 2**62,
            },
            ValueError,
        ),
    ],
)
def test_invalid_places_are_rejected(place, changed, error):
    with pytest.raises(error):
        drawn(place, **changed)


def test_nothing_is_drawn_from_nothing():
    assert drawn((0, 0.5), filled=(0, 0)).tolist() == []
    assert drawn((0, 0.5), most=0).tolist() == []
    assert drawn(()).tolist() == []
    assert drawn((), cursor=(), filled=(), kinds=np.zeros((0, 5), dtype=np.uint8)).tolist() == []


@given(data=st.data(), rows=st.integers(2, 9), num_envs=st.integers(1, 9))
def test_every_valid_row_is_found_once_and_in_order(data, rows, num_envs):
    def each(most):
        return tuple(data.draw(st.integers(0, most)) for _ in range(num_envs))

    cursor, filled = each(rows - 1), each(rows - 1)
    every = [
        column * rows + (cursor[column] - age) % rows
        for column in range(num_envs)
        for age in range(filled[column], 0, -1)
    ]
    final = 4
    kinds = np.array([data.draw(st.sampled_from([0, final])) for _ in range(num_envs * rows)])
    expected = [slot for slot in every if kinds[slot] != final]
    before_one = np.nextafter(1.0, 0.0)
    ring = {"cursor": cursor, "filled": filled, "rows": rows, "kinds": kinds.astype(np.uint8)}
    for within in (1e-9, 0.5, 1 - 1e-9):
        place = np.minimum((np.arange(len(every)) + within) / max(len(every), 1), before_one)
        for most in (len(every), len(expected) // 2):
            assert drawn(place, most=most, **ring).tolist() == expected[:most]


@pytest.mark.parametrize(
    ("slot", "steps", "again", "size", "error"),
    [
        (slots(10), slots(0), 2, 9, IndexError),
        (slots(-1), slots(0), 2, 9, IndexError),
        (slots(0), slots(-2), 2, 9, IndexError),  # four frames of three are missing
        (slots(0), slots(0, 0), 2, 9, ValueError),
        (slots(0), slots(0), 2, 12, ValueError),  # four frames are not side by side everywhere
        (slots(0), slots(0), 3, 9, ValueError),  # the frames are no whole number of environments
        (slots(0, 1), slots(0, 0), 2, 9, ValueError),  # nine bytes are no two rows
    ],
)
def test_invalid_stretches_are_rejected(slot, steps, again, size, error):
    out = np.zeros(size, dtype=np.uint8)
    frames = np.ones((2, 5 + 2, 3), dtype=np.uint8)
    with pytest.raises(error):
        kernels.copy_stretches(frames, 5, again, 3, slot, steps, np.zeros_like(slot), 2, out)
    assert not out.any()


def test_more_rows_than_memory_can_have():
    frames = np.ones((2, 7, 3), dtype=np.uint8)
    for again in (0, 2):
        with pytest.raises(ValueError, match="fit"):
            kernels.write_frames(frames, 2**62, again, slots(0), slots(0), frames[0, :1], 4)
        with pytest.raises(ValueError, match="fit"):
            kernels.copy_stretches(
                frames, 2**62, again, 4, slots(0), None, slots(0), 0, np.zeros(4)
            )


@settings(deadline=None)
@given(
    data=st.data(),
    batch=st.integers(0, 11),
    count=st.integers(1, 5),
    size=st.sampled_from([1, 63, 64, 65, 127, 128, 255, 256, 257, 700]),
    before=st.integers(0, 4),
)
def test_stretches_are_copied_whole(data, batch, count, size, before):
    rows, again = 6, 4
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    once = rng.integers(1, 256, (2, rows, size), dtype=np.uint8)
    frames = np.concatenate((once, once[:, :again]), axis=1)
    slot, steps = rng.integers(0, 2 * rows, batch), rng.integers(0, 4, batch)
    depth = rng.integers(max(0, before - count), 5, batch)
    guarded = np.full((batch + 2, count, size), 7, dtype=np.uint8)
    kernels.copy_stretches(
        frames, rows, again, size, slot, steps, depth, before, guarded[1 : batch + 1]
    )
    assert (guarded[[0, -1]] == 7).all()
    for i, out in enumerate(guarded[1 : batch + 1]):
        for place, frame in enumerate(out):
            offset = steps[i] - before + place  # rows from the slot
            expected = (
                once[slot[i] // rows, (slot[i] + offset) % rows] if offset >= -depth[i] else 0
            )
            assert (frame == expected).all()


@pytest.mark.parametrize("offset", [0, 1, 16, 40])
@pytest.mark.parametrize("size", [7056, 7001, 4096, 700, 7])
def test_large_batches_are_copied_whole(size, offset):
    rows, again, count, before = 50, 6, 7, 3
    batch = -(-kernels.LARGE // (count * size))
    rng = np.random.default_rng(size + offset)
    once = rng.integers(1, 256, (2, rows, size), dtype=np.uint8)
    frames = np.concatenate((once, once[:, :again]), axis=1)
    slot, steps = rng.integers(0, 2 * rows, batch), rng.integers(0, 4, batch)
    depth = rng.integers(0, 4, batch)
    memory = np.full(batch * count * size + 128, 7, dtype=np.uint8)
    start = offset - memory.ctypes.data % 64 + 64
    out = memory[start : start + batch * count * size].reshape(batch, count, size)
    kernels.copy_stretches(frames, rows, again, size, slot, steps, depth, before, out)
    later = steps[:, None] - before + np.arange(count)
    expected = once[slot[:, None] // rows, (slot[:, None] + later) % rows]
    expected[later < -depth[:, None]] = 0
    assert np.array_equal(out, expected)
    assert (memory[:start] == 7).all()
    assert (memory[start + out.size :] == 7).all()


def test_a_batch_of_nothing():
    tree = np.arange(8.0)
    kernels.set_leaves(tree, NO_SLOTS, np.zeros(0))
    assert tree.tolist() == list(range(8)), "no sum is recomputed"
    kernels.draw_leaves(np.ones(8), np.zeros(0), NO_SLOTS, np.zeros(0))
    windows_of(NO_SLOTS)
    steps_of(NO_SLOTS)
    with pytest.raises(ValueError, match="another type"):
        steps_of(NO_SLOTS, powers=np.ones(7, dtype=np.uint8))
    empty = np.zeros(0, dtype=np.uint8)
    stretches = (np.ones((9, 3), dtype=np.uint8), 8, 1, 3, NO_SLOTS, NO_SLOTS, NO_SLOTS, 0)
    kernels.copy_stretches(*stretches, empty)
    with pytest.raises(ValueError, match="fit"):  # one place too many for no stretch
        kernels.copy_stretches(*stretches, np.zeros(1))


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
def test_invalid_steps_are_rejected(changed, error):
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
def test_invalid_rows_are_rejected(column, row, unit, error):
    frames = np.zeros((2, 5 + 2, 3), dtype=np.uint8)
    with pytest.raises(error):
        kernels.write_frames(frames, 5, 2, column, row, np.ones((2, 5), dtype=np.uint8), unit)
    assert not frames.any()
