"""The sum tree compared with an array that is summed and searched naively."""

import bisect
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvd_dqn.replay.sum_tree import SumTree


class NaiveTree:
    def __init__(self, size: int) -> None:
        self.values = [0.0] * size

    def set(self, index, value) -> None:
        for i, v in zip(index, value, strict=True):
            self.values[i] = float(v)

    def draw(self, parts: list[float]) -> list[int]:
        sums = list(itertools.accumulate(self.values))
        shares = [(i + part) / len(parts) for i, part in enumerate(parts)]
        return [bisect.bisect_right(sums, share * sums[-1]) for share in shares]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.sampled_from([1, 2, 3, 64, 65, 1000, 5000, 20_000]))
def test_changes_and_draws_agree(data, size):
    tree, naive = SumTree(size), NaiveTree(size)
    index = st.integers(0, size - 1)
    for _ in range(data.draw(st.integers(1, 5))):
        places = data.draw(st.lists(index, min_size=1, max_size=30))
        # sums of eighths are exact in any order
        values = data.draw(
            st.lists(
                st.integers(0, 64).map(lambda v: v / 8), min_size=len(places), max_size=len(places)
            )
        )
        tree.set(np.array(places), np.array(values))
        naive.set(places, values)
        assert tree.leaves.tolist() == naive.values
        assert tree.total == sum(naive.values)
        if tree.total:
            parts = np.array(data.draw(st.lists(st.integers(0, 4095), min_size=1))) / 4096
            found, value = tree.draw(parts)
            assert found.tolist() == naive.draw(parts.tolist())
            assert value.tolist() == [naive.values[i] for i in found]


def test_a_million_changes_leave_no_drift():
    rng = np.random.default_rng(0)
    tree = SumTree(10_000)
    for _ in range(4000):
        tree.set(rng.integers(10_000, size=256), rng.random(256) * 10.0 ** rng.integers(-6, 6))
    assert tree.total == pytest.approx(tree.leaves.sum(), rel=1e-12)
    tree.set(np.arange(10_000), np.zeros(10_000))
    assert tree.total == 0.0


def test_leaves_of_zero_are_never_drawn():
    tree = SumTree(100_000)
    some = np.arange(0, 100_000, 7)
    tree.set(some, np.random.default_rng(0).random(len(some)) + 1e-3)
    found, _ = tree.draw(np.random.default_rng(1).random(200_000))
    assert np.isin(found, some).all()


def test_a_loaded_tree_is_the_same_tree():
    rng = np.random.default_rng(0)
    tree, other = SumTree(9_000), SumTree(9_000)
    for _ in range(50):
        tree.set(rng.integers(9_000, size=100), rng.random(100))
    other.load(tree.leaves.copy())
    assert tree.total == other.total
    parts = rng.random(1000)
    assert np.array_equal(tree.draw(parts), other.draw(parts))
