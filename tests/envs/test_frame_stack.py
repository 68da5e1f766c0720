"""Stacks against a log that keeps every episode apart; layouts against plain transposes."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.envs.frame_stack import FrameStack
from tests.envs.scripted import ScriptedSimulators, bytes_space

SPACES = {
    "vector": gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "kinematics": gym.spaces.Box(-np.inf, np.inf, (5, 4), np.float64),
    "grey": bytes_space(4, 5),
    "channels last": bytes_space(5, 4, 3),
    "channels first": bytes_space(2, 4, 5),
    "booleans": gym.spaces.Box(0.0, 1.0, (3, 3, 3), dtype=bool),
}


def by_hand(kind, frame):
    """A raw frame as stored, spelt out for each kind of space."""
    if kind == "grey":
        return frame.reshape(1, *frame.shape)
    if kind in ("channels last", "booleans"):
        return np.stack([frame[:, :, c] for c in range(frame.shape[2])])
    return frame


def stack_by_hand(kind, episode, time, length):
    """The newest `length` frames of an episode up to `time`, zeros before its first."""
    frames = [by_hand(kind, frame) for frame in episode]
    zeros = np.zeros_like(frames[0])
    return np.concatenate(
        [frames[t] if t >= 0 else zeros for t in range(time - length + 1, time + 1)]
    )


ENDS = st.sampled_from([None, None, None, "life", "terminated", "truncated"])


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(sorted(SPACES)),
    length=st.integers(1, 5),
    ends=st.integers(1, 3).flatmap(
        lambda n: st.lists(st.lists(ENDS, min_size=n, max_size=n), min_size=1, max_size=25)
    ),
)
def test_a_stack_is_the_newest_frames_of_its_own_episode(kind, length, ends):
    simulators = ScriptedSimulators(SPACES[kind], ends)
    envs = VectorEnvironment(
        simulators,
        episode_seed=lambda copy, number: 100 * copy + number,
        frame_stack=length,
        channels="last" if kind in ("booleans", "channels last") else "auto",
    )
    obs = envs.reset()
    checked = 0
    for now in ends:
        for copy, log in enumerate(simulators.log):
            expected = stack_by_hand(kind, log[-1], len(log[-1]) - 1, length)
            np.testing.assert_array_equal(obs[copy], expected.astype(envs.obs_dtype))
        before = obs.copy()
        step = envs.step(np.zeros(envs.num_envs, dtype=np.int64))
        np.testing.assert_array_equal(obs, before)
        assert step.next_obs.dtype == envs.obs_dtype
        for copy, (end, log) in enumerate(zip(now, simulators.log, strict=True)):
            ended = end in ("terminated", "truncated")
            episode = log[-2] if ended else log[-1]
            expected = stack_by_hand(kind, episode, len(episode) - 1, length)
            np.testing.assert_array_equal(step.next_obs[copy], expected.astype(envs.obs_dtype))
            assert step.ended[copy] == ended
            assert step.terminated[copy] == (end in ("terminated", "life"))
            assert step.truncated[copy] == (end == "truncated")
            newest = step.obs[copy, -envs.frame_shape[0] :]
            np.testing.assert_array_equal(newest, by_hand(kind, log[-1][-1]).astype(envs.obs_dtype))
            checked += 1
        obs = step.obs
    assert checked == len(ends) * envs.num_envs
    for copy, seeds in enumerate(simulators.seeds):
        assert seeds == [100 * copy + number for number in range(len(simulators.log[copy]))]


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (bytes_space(84, 84), (1, 84, 84), np.uint8),
        (bytes_space(210, 160, 3), (3, 210, 160), np.uint8),
        (bytes_space(3, 64, 64), (3, 64, 64), np.uint8),
        (bytes_space(128), (128,), np.uint8),
        (gym.spaces.Box(0.0, 1.0, (10, 10, 10), dtype=bool), (10, 10, 10), np.uint8),
        (gym.spaces.Box(0.0, 1.0, (10, 10, 4), dtype=bool), (4, 10, 10), np.uint8),
        (gym.spaces.Box(-1, 1, (5, 5), np.float32), (5, 5), np.float32),
        (gym.spaces.Box(-1, 1, (7, 11, 11), np.float32), (7, 11, 11), np.float32),
        (gym.spaces.Box(0, 9, (6,), np.int64), (6,), np.float32),
    ],
)
def test_shapes_and_types_as_stored(space, shape, dtype):
    stack = FrameStack(space, 3)
    assert stack.frame_shape == shape
    assert stack.dtype == dtype
    assert stack.obs_space.shape == (3 * shape[0], *shape[1:])
    assert stack.obs_space.dtype == dtype
    for bound in (stack.obs_space.low, FrameStack(space, 1).obs_space.high):
        assert bound.flags.c_contiguous  # a network that keeps it as a buffer is to be saved
    assert FrameStack(space, 1).obs_space.shape == shape


@pytest.mark.parametrize("channels", ["first", "last"])
def test_three_equal_sides_are_read_as_told(channels):
    """MinAtar's Seaquest is 10×10×10, and nothing in that says where the channels are."""
    space = gym.spaces.Box(0.0, 1.0, (10, 10, 10), dtype=bool)
    assert FrameStack(space, 1).channels is None
    raw = np.random.default_rng(0).random((1, 10, 10, 10)) < 0.5
    stack = FrameStack(space, 1, channels)
    assert stack.channels == channels
    for channel in range(10):
        plane = raw[0, channel] if channels == "first" else raw[0, :, :, channel]
        np.testing.assert_array_equal(stack.first(raw)[0, channel], plane)


def test_the_stacked_space_holds_the_zeros_before_an_episode():
    space = gym.spaces.Box(np.array([2.0, -5.0]), np.array([3.0, -4.0]), dtype=np.float64)
    stack = FrameStack(space, 2)
    assert stack.obs_space.contains(stack.first(np.array([[2.5, -4.5]]))[0])
    np.testing.assert_array_equal(stack.obs_space.low, [0, -5, 2, -5])
    np.testing.assert_array_equal(stack.obs_space.high, [3, 0, 3, -4])
    one = FrameStack(space, 1)
    np.testing.assert_array_equal(one.obs_space.low, space.low)
