"""Vector environments of Gymnasium's interface, in their three autoreset modes."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import ConfigError, EnvConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.envs.adapting import BatchAdapter
from hvd_dqn.envs.batched import VectorSimulators
from hvd_dqn.envs.interface import EnvironmentFailedError, InterfaceError
from hvd_dqn.replay import ReplayBuffer, Ring, UniformSampler
from tests.envs.vectors import LENGTHS, Vector
from tests.short_runs import run_of

OURS = "tests.envs.vectors"


def make(mode, info_keys=(), **changes):
    config = EnvConfig(
        id=f"{OURS}:Vector",
        vectorization="vector",
        kwargs=json.dumps({"mode": mode}),
        **changes,
    )
    return make_vector_env(
        config, num_envs=3, episode_seed=lambda copy, k: 10 * copy + k, info_keys=info_keys
    )


@pytest.mark.parametrize("mode", ["DISABLED", "SAME_STEP", "NEXT_STEP"])
def test_no_step_leads_from_one_episode_into_the_next_and_none_is_lost(mode):
    envs = make(mode, ("steps",))
    before = envs.reset()
    steps = {copy: [] for copy in range(3)}
    for _ in range(40):
        step = envs.step(np.zeros(3, np.int64))
        for copy in range(3):
            if step.skipped is not None and step.skipped[copy]:
                assert mode == "NEXT_STEP"
                assert not step.ended[copy]
                assert step.next_obs[copy, 1] == 0
            else:
                steps[copy].append((before[copy].copy(), step.next_obs[copy].copy()))
                ends = step.next_obs[copy, 1] == LENGTHS[copy]
                assert step.terminated[copy] == (ends and copy != 1)
                assert step.truncated[copy] == (ends and copy == 1)
                assert step.reward[copy] == 1
        for episode, copy in zip(step.episodes, np.flatnonzero(step.ended), strict=True):
            assert episode == (LENGTHS[copy], LENGTHS[copy], (LENGTHS[copy],))
        before = step.obs
    for copy, length in enumerate(LENGTHS):
        for number, (first, second) in enumerate(steps[copy]):
            assert first.tolist() == [1 + number // length, number % length]
            assert second.tolist() == [1 + number // length, 1 + number % length]
        skipped = 40 - len(steps[copy])
        assert skipped == (40 // (length + 1) if mode == "NEXT_STEP" else 0)


def test_the_replay_never_yields_a_step_that_started_an_episode():
    envs = make("NEXT_STEP")
    ring = Ring(
        capacity=300,
        num_envs=3,
        frame_shape=(2,),
        obs_dtype=np.dtype(np.float32),
        frame_stack=1,
        n_step=2,
        device=torch.device("cpu"),
    )
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(
        ring,
        UniformSampler(ring, rng),
        gamma=0.5,
        n_step=2,
        batch_size=256,
        rng=rng,
        device=torch.device("cpu"),
    )
    replay.start(envs.reset())
    for _ in range(60):
        action = np.zeros(3, np.int64)
        replay.add(action, envs.step(action))
    batch = replay.sample()
    episode, place = batch.obs.T
    assert len(batch.obs.unique(dim=0)) > 30
    for copy_length in range(256):
        reward, discount = batch.reward[copy_length], batch.discount[copy_length]
        if discount > 0:
            assert batch.next_obs[copy_length, 0] == episode[copy_length]
            moved = batch.next_obs[copy_length, 1] - place[copy_length]
            assert (reward, discount) == ((1.5, 0.25) if moved == 2 else (1.0, 0.5))
    assert (place < max(LENGTHS)).all()


def test_copies_are_seeded_where_the_environment_allows():
    disabled, others = make("DISABLED"), make("SAME_STEP")
    for envs in (disabled, others):
        envs.reset()
        for _ in range(3):
            envs.step(np.zeros(3, np.int64))
    inner = [e._shared.simulators._envs.seeds for e in (disabled, others)]
    assert inner[0] == [[0, 10, 20], [1, None, None], [None, 11, None]]
    assert inner[1] == [0], "once, for all"


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP"])
def test_episodes_without_seeds_are_lost_when_a_run_resumes(mode):
    first, second = make(mode), make(mode)
    for envs in (first, second):
        envs.reset()
    first.step(np.zeros(3, np.int64))
    assert second.load_state_dict(first.state_dict()).all()
    assert (second.obs[:, 1] == 0).all()
    assert second.step(np.zeros(3, np.int64)).next_obs[:, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("Acrobot-v1", ["vector_entry_point", "leave it sync"]),
        (f"{OURS}:Silent", ["does not say how it resets", "autoreset_mode"]),
        (f"{OURS}:two", ["returned 2 copies, not 3"]),
        (f"{OURS}:single", ["gymnasium.vector.VectorEnv"]),
        (f"{OURS}:Nothing", ["no 'Nothing'"]),
    ],
)
def test_what_is_no_vector_environment_is_told_in_one_line(env_id, words):
    config = EnvConfig(id=env_id, vectorization="vector")
    with pytest.raises(UserError) as caught:
        make_vector_env(config, num_envs=3, episode_seed=lambda copy, number: 0)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_wrappers_are_for_single_environments():
    with pytest.raises(ConfigError, match=r"wrappers.*single environments"):
        make("DISABLED", wrappers=("gymnasium.wrappers:FlattenObservation",))


def steps_of(envs, choose, count):
    """Return, for each copy, what its transitions were."""
    obs = envs.reset()
    seen = {copy: [] for copy in range(envs.num_envs)}
    while min(map(len, seen.values())) < count:
        legal = envs.legal_actions(obs)
        actions = np.array(
            [
                choose(len(seen[copy]), None if legal is None else legal[copy])
                for copy in range(envs.num_envs)
            ]
        )
        step = envs.step(actions)
        for copy in range(envs.num_envs):
            if step.skipped is None or not step.skipped[copy]:
                ends = bool(step.terminated[copy]), bool(step.truncated[copy])
                frames = obs[copy].tobytes(), step.next_obs[copy].tobytes()
                seen[copy].append((*frames, float(step.reward[copy]), *ends))
        obs = step.obs
    return {copy: steps[:count] for copy, steps in seen.items()}


@pytest.mark.parametrize("mode", ["DISABLED", "SAME_STEP", "NEXT_STEP"])
@pytest.mark.parametrize(
    ("kwargs", "action_mask"),
    [
        ({"mask": "observation"}, "auto"),
        ({"mask": "info"}, "info"),
        ({"mask": "none", "moves": "box"}, "auto"),
        ({"mask": "none", "moves": "tuple"}, "auto"),
    ],
)
def test_records_masks_and_actions_are_those_of_single_environments(mode, kwargs, action_mask):
    def choose(number, legal):
        if legal is None:
            return (5 * number + number // 4) % (6 if kwargs["moves"] == "tuple" else 3)
        return np.flatnonzero(legal)[(number + number // 3) % legal.sum()]

    def made(env_id, vectorization, **more):
        config = EnvConfig(
            id=f"{OURS}:{env_id}",
            vectorization=vectorization,
            kwargs=json.dumps(kwargs | more),
            action_mask=action_mask,
        )
        return make_vector_env(config, num_envs=3, episode_seed=lambda copy, k: 10 * copy + k)

    single = steps_of(made("errand", "sync", copy="{copy}"), choose, 40)
    assert steps_of(made("errands", "vector", mode=mode), choose, 40) == single
    ends = [(terminated, truncated) for *_, terminated, truncated in single[0]]
    assert {(True, False), (False, True)} <= set(ends) or kwargs["mask"] == "none"


def test_a_vector_environment_that_returns_another_form_is_told():
    class Broken(Vector):
        def __init__(self, num_envs):
            super().__init__(num_envs)
            self.single_observation_space = gym.spaces.Dict(
                {"a": gym.spaces.Discrete(3), "b": gym.spaces.Box(0, 1, (2,))}
            )

    envs = Broken(2)
    config = EnvConfig(id="Broken")
    adapter = BatchAdapter(config, envs.single_observation_space, envs.single_action_space)
    simulators = VectorSimulators(envs, adapter)
    with pytest.raises(EnvironmentFailedError, match=r"2 copies of Dict.* of another form"):
        simulators.reset(np.ones(2, np.bool_), [0, 1])


def test_a_mask_that_is_missing_from_the_info_is_told():
    space = gym.spaces.Box(0, 1, (2,), np.float32)
    adapter = BatchAdapter(EnvConfig(action_mask="info"), space, gym.spaces.Discrete(3))
    with pytest.raises(InterfaceError, match="its info contains no action_mask"):
        adapter.encode(np.zeros((2, 2)), {}, np.zeros(2, np.bool_))


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_a_run_trains_and_evaluates_in_them(mode, tmp_path, capsys):
    changes = {
        "env.id": f"{OURS}:Vector",
        "env.vectorization": "vector",
        "env.num_envs": 2,
        "env.kwargs": {"mode": mode},
        "evaluation.final_episodes": 4,
    }
    run = run_of(tmp_path / "run", changes)
    final = json.loads((run / "final.json").read_text())
    assert sorted(final["returns"]) == [2, 2, 3, 3]
    said = "take seeds only when all are reset" in capsys.readouterr().out
    assert said == (mode != "DISABLED")


ACTIONS = gym.spaces.Discrete(3)
SHAPED = np.array([[True, False, True], [False, True, True]])


@pytest.mark.parametrize(
    "masks",
    [SHAPED, SHAPED.astype(np.int8), SHAPED.tolist(), np.array([*SHAPED, None], dtype=object)[:2]],
)
def test_masks_of_all_copies_are_read_in_any_form(masks):
    adapter = BatchAdapter(EnvConfig(action_mask="info"), gym.spaces.Box(0, 1, (2,)), ACTIONS)
    obs, running = np.zeros((2, 2), np.float32), np.zeros(2, np.bool_)
    encoded = adapter.encode(obs, {"action_mask": masks}, running)
    np.testing.assert_array_equal(adapter.observations.legal_actions(encoded), SHAPED)


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (SHAPED.T, "contains 3 action masks for 2 copies"),
        (SHAPED.reshape(-1), "contains 6 action masks for 2 copies"),
        (SHAPED[:, :2], "has 2 entries, and there are 3 actions"),
        (np.array([[True] * 3, [False] * 3]), "allows no action in a state that is not terminated"),
        (["a", "b"], "has 1 entries|contains no action mask"),
    ],
)
def test_masks_of_another_form_are_refused(masks, said):
    adapter = BatchAdapter(EnvConfig(action_mask="info"), gym.spaces.Box(0, 1, (2,)), ACTIONS)
    obs = np.zeros((2, 2), np.float32)
    with pytest.raises(InterfaceError, match=said):
        adapter.encode(obs, {"action_mask": masks}, np.zeros(2, np.bool_))


def test_after_the_last_step_all_actions_are_legal():
    adapter = BatchAdapter(EnvConfig(action_mask="info"), gym.spaces.Box(0, 1, (2,)), ACTIONS)
    masks = np.array([[True, False, False], [False] * 3])
    ended = np.array([False, True])
    encoded = adapter.encode(np.zeros((2, 2), np.float32), {"action_mask": masks}, ended)
    expected = [[True, False, False], [True] * 3]
    np.testing.assert_array_equal(adapter.observations.legal_actions(encoded), expected)
