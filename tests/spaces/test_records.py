"""Records of observations: what is packed is what the network gets, by Gymnasium's own flatten."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces.utils import flatten
from hypothesis import given
from hypothesis import strategies as st

from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks.unpack import Unpack
from hvd_dqn.spaces.description import describe, observations_of
from hvd_dqn.spaces.records import TOKENS, VOCABULARY, RecordSpace, SpaceError
from tests.envs.toy import Composite

LEAVES = st.one_of(
    st.integers(2, 300).map(lambda n: gym.spaces.Discrete(n, start=n % 7 - 3)),
    st.lists(st.integers(2, 300), min_size=1, max_size=4).map(gym.spaces.MultiDiscrete),
    st.integers(1, 5).map(gym.spaces.MultiBinary),
    st.sampled_from([(), (1,), (5,), (2, 3), (2, 2, 2, 2)]).map(
        lambda shape: gym.spaces.Box(-3, 4, shape, np.float32)
    ),
    st.sampled_from([(7,), (1, 2)]).map(lambda shape: gym.spaces.Box(0, 1, shape, np.uint8)),
)
SPACES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(gym.spaces.Tuple),
        st.dictionaries(st.sampled_from("xyz"), parts, min_size=1).map(gym.spaces.Dict),
    ),
    max_leaves=6,
)


def unpacked(space, records):
    """The vectors that the network joins, [B, F]."""
    parts = Unpack(NetworkConfig(), space)(torch.from_numpy(records))
    return torch.cat([part.flatten(1) for part in parts], dim=1).numpy()


@given(source=SPACES, seed=st.integers(0, 99))
def test_the_network_gets_what_gymnasium_flattens(source, seed):
    source.seed(seed)
    observations = [source.sample() for _ in range(4)]
    space = RecordSpace(source)
    records = np.stack([space.pack(obs) for obs in observations])
    assert records.dtype == np.uint8
    assert records.shape[1:] == space.shape
    assert records.shape[1] % 4 == 0
    expected = np.stack([flatten(source, obs) for obs in observations])
    np.testing.assert_allclose(unpacked(space, records), expected, atol=1e-6)


@given(source=SPACES, seed=st.integers(0, 99), masked=st.none() | st.integers(1, 4))
def test_a_batch_has_the_records_of_its_observations(source, seed, masked):
    source.seed(seed)
    observations = [source.sample() for _ in range(3)]
    batch = gym.vector.utils.concatenate(
        source, observations, gym.vector.utils.create_empty_array(source, 3)
    )
    masks = None if masked is None else np.random.default_rng(seed).random((3, masked)) < 0.5
    space = RecordSpace(source, num_actions=masked)
    singles = [
        space.pack(obs, None if masks is None else masks[number])
        for number, obs in enumerate(observations)
    ]
    np.testing.assert_array_equal(space.pack_all(batch, 3, masks), np.stack(singles))


def test_discrete_values_of_very_many_choices_are_numbers():
    source = gym.spaces.Dict(
        {
            "time": gym.spaces.Discrete(10**9, start=5),
            "counts": gym.spaces.MultiDiscrete([[2**31 - 1, 2]], start=[[0, -1]]),
        }
    )
    space = RecordSpace(source)
    assert "1 numbers" in space.summary()
    assert all(field.dtype == np.float32 for field in space.fields)
    obs = {"time": np.int64(1_000_000), "counts": np.array([[7, -1]])}
    assert source.contains(obs)
    got = unpacked(space, space.pack(obs)[None])
    assert sorted(got[0].tolist()) == [-1, 7, 1_000_000]
    assert observations_of(describe(space)) == space


@given(source=SPACES, masked=st.none() | st.integers(1, 4))
def test_a_description_gives_the_same_space(source, masked):
    space = RecordSpace(source, num_actions=masked)
    again = observations_of(describe(space))
    assert again == space
    assert again.layout == space.layout


def test_a_stack_has_the_newest_last():
    source = gym.spaces.Dict({"a": gym.spaces.Discrete(3), "b": gym.spaces.Box(-1, 1, (2,))})
    space = RecordSpace(source)
    old, new = (space.pack({"a": a, "b": np.full(2, b)}) for a, b in ((2, 0.5), (1, -0.25)))
    (values,) = unpacked(space.stacked(2), np.concatenate([old, new])[None])
    np.testing.assert_allclose(values, [0, 0, 1, 0, 1, 0, 0.5, 0.5, -0.25, -0.25])


def test_images_and_grids_of_codes_have_their_channels_first():
    env = Composite()
    space = RecordSpace(env.observation_space, text="drop")
    env.observation_space.seed(3)
    obs = env.observation_space.sample()
    unpack = Unpack(NetworkConfig(), space.stacked(2))
    records = np.concatenate([space.pack(obs), space.pack(obs)])[None]
    parts = dict(zip(unpack.names, unpack(torch.from_numpy(records)), strict=True))
    picture = np.moveaxis(obs["picture"], 2, 0) / 255
    np.testing.assert_allclose(parts["picture"][0], np.concatenate([picture, picture]), rtol=1e-6)
    planes = [
        obs["grid"][..., channel] == code for channel, n in ((0, 4), (1, 2)) for code in range(n)
    ]
    np.testing.assert_array_equal(parts["grid"][0], np.stack(planes * 2))
    assert "words" not in parts


@pytest.mark.parametrize(("channels", "planes"), [("first", 8), ("last", 11)])
def test_the_option_says_which_axis_holds_the_channels(channels, planes):
    """Of (8, 9, 11), no guess can tell."""
    source = gym.spaces.Dict({"board": gym.spaces.Box(0, 255, (8, 9, 11), np.uint8)})
    assert RecordSpace(source).channels_of(RecordSpace(source).fields[0]) is None
    space = RecordSpace(source, channels=channels)
    assert f"channels {channels}" in space.summary()
    assert observations_of(describe(space)) == space
    board = source.sample()["board"]
    record = space.pack({"board": board})[None]
    (image,) = Unpack(NetworkConfig(), space)(torch.from_numpy(record))
    expected = board if channels == "first" else board.transpose(2, 0, 1)
    assert image.shape[1] == planes
    np.testing.assert_allclose(image[0], expected / 255, rtol=1e-6)


def test_words_are_hashed_tokens():
    source = gym.spaces.Dict({"mission": gym.spaces.Text(100), "x": gym.spaces.Discrete(2)})
    space = RecordSpace(source, text="tokens")
    records = [
        space.pack({"mission": text, "x": 0})
        for text in ("go to the Red ball", "go to the red, ball!", "go to the blue ball", "")
    ]
    tokens = [record.view(space.layout)["mission"][0] for record in records]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert (tokens[0] != tokens[2]).sum() == 1
    assert not tokens[3].any()
    assert all((found >= 0).all() and (found < VOCABULARY).all() for found in tokens)
    assert tokens[0].shape == (TOKENS,)
    embedded = Unpack(NetworkConfig(), space)(torch.from_numpy(np.stack(records)))[0]
    assert embedded.shape == (4, 64)
    torch.testing.assert_close(embedded[0], embedded[1])
    assert not torch.equal(embedded[0], embedded[2])


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (gym.spaces.Text(5), "--env.text drop leaves it out"),
        (
            gym.spaces.Sequence(gym.spaces.Discrete(2)),
            "a Sequence, which is not numbers of",
        ),
        (gym.spaces.Graph(gym.spaces.Discrete(2), None), "a Graph"),
        (gym.spaces.OneOf([gym.spaces.Discrete(2)]), "a OneOf"),
        (gym.spaces.Box(0, 1, (0, 3)), "no numbers"),
    ],
)
def test_what_a_record_cannot_hold_is_named_with_the_remedy(part, told):
    source = gym.spaces.Dict({"x": gym.spaces.Discrete(2), "in": gym.spaces.Dict({"side": part})})
    with pytest.raises(SpaceError, match=told) as error:
        RecordSpace(source)
    assert "'in.side'" in str(error.value)


def test_legal_actions_are_those_of_the_newest_record():
    space = RecordSpace(gym.spaces.Box(-1, 1, (3,)), num_actions=4)
    masks = np.array([[1, 0, 0, 1], [0, 1, 1, 0]], dtype=np.bool_)
    records = np.concatenate([space.pack(np.zeros(3), mask) for mask in masks])[None]
    stacked = space.stacked(2)
    np.testing.assert_array_equal(stacked.legal_actions(records), masks[1:])
    unpack = Unpack(NetworkConfig(), stacked)
    np.testing.assert_array_equal(unpack.legal(torch.from_numpy(records)), masks[1:])
