"""ALE's vector environment as we use it, against the bare emulator stepped frame by frame."""

import json
from functools import partial
from itertools import count
from pathlib import Path

import ale_py
import numpy as np
import pytest
from scipy import sparse

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import ConfigError, EnvConfig
from hvd_dqn.envs import make_vector_env


def area_weights(size: int, target: int) -> sparse.csr_array:
    """[target, size]: each target pixel is the mean of what it covers."""
    edges = np.arange(target + 1) * size / target
    pixel = np.arange(size)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return sparse.csr_array(np.clip(covered, 0, None) * target / size)


class Emulator:
    """One game by its definition: seed, ROM, no-ops; then `skip` frames a decision, the last two
    maximised, shrunk by area.
    """

    def __init__(self, game: str, *, sticky: float, seed: int, noops: int, skip: int = 4) -> None:
        from ale_py import roms

        self.ale = ale_py.ALEInterface()
        self.ale.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(roms.get_rom_path(game))
        self.ale.reset_game()
        for _ in range(noops):
            self.ale.act(ale_py.Action.NOOP)
        self.actions = self.ale.getMinimalActionSet()
        self.skip = skip
        height, width = self.ale.getScreenDims()
        self.rows, self.columns = area_weights(height, 84), area_weights(width, 84)

    def frame(self) -> np.ndarray:
        return self.shrink(self.ale.getScreenGrayscale())

    def shrink(self, screen: np.ndarray) -> np.ndarray:
        return (self.columns @ (self.rows @ screen.astype(np.float64)).T).T

    def step(self, action: int) -> tuple[np.ndarray, float, bool, int]:
        """The shrunk frame, the reward, whether the game is over, and the lives left."""
        reward, screens = 0.0, []
        for _ in range(self.skip):
            reward += self.ale.act(self.actions[action])
            screens.append(self.ale.getScreenGrayscale())
            if self.ale.game_over():
                break
        newest = np.maximum(*screens[-2:]) if len(screens) > 1 else screens[0]
        return self.shrink(newest), reward, self.ale.game_over(), self.ale.lives()


def make(game="Breakout", protocol="machado2018", num_envs=1, seed=None, **fields):
    kwargs = {name: fields.pop(name) for name in ("max_num_frames_per_episode",) if name in fields}
    limit, threads = fields.pop("max_episode_steps", None), fields.pop("threads", 1)
    config = EnvConfig(
        id=f"ALE/{game}-v5", atari_protocol=protocol, kwargs=json.dumps(kwargs), **fields
    )
    return make_vector_env(
        config,
        num_envs=num_envs,
        episode_seed=seed or (lambda copy, number: 1000 * copy + number),
        max_episode_steps=limit,
        threads=threads,
    )


def same_frame(stored: np.ndarray, exact: np.ndarray) -> bool:
    return bool(np.abs(stored.astype(np.float64) - exact).max() <= 1.0)  # OpenCV rounds


def play(envs, actions):
    """Every step of copy 0, the first one's observation before them."""
    first = envs.reset().copy()
    return first, [envs.step(np.full(envs.num_envs, action)) for action in actions]


def games_followed(emulator_of, first, steps, actions, *, life_loss):
    """How many games ended while the emulator did what the steps say; `None` where it did not."""
    emulator, games = emulator_of(), 0
    lives = emulator.ale.lives()
    if not same_frame(first, emulator.frame()):
        return None
    for action, step in zip(actions, steps, strict=True):
        frame, reward, over, lives_now = emulator.step(action)
        terminated = over or (life_loss and 0 < lives_now < lives)
        lives = lives_now
        if (step.reward[0], step.terminated[0], step.ended[0]) != (reward, terminated, over):
            return None
        if not over and not same_frame(step.next_obs[0, 0], frame):
            return None
        if over:  # the same seed again: the same game again
            games += 1
            emulator = emulator_of()
            lives = emulator.ale.lives()
            assert same_frame(step.obs[0, 0], emulator.frame())
    return games


@pytest.mark.parametrize(
    ("game", "rom", "least"), [("Pong", "pong", 0), ("Breakout", "breakout", 1)]
)
@pytest.mark.parametrize("protocol", ["machado2018", "mnih2015"])
def test_every_step_is_the_emulators(game, rom, least, protocol):
    envs = make(game, protocol, seed=lambda copy, number: 17)
    actions = np.random.default_rng(3).integers(envs.num_actions, size=400).tolist()
    first, steps = play(envs, actions)
    envs.close()
    sticky, noops = (0.25, [0]) if protocol == "machado2018" else (0.0, range(31))
    followed = (
        games_followed(
            partial(Emulator, rom, sticky=sticky, seed=17, noops=number),
            first[0, 0],
            steps,
            actions,
            life_loss=protocol == "mnih2015",
        )
        for number in noops
    )
    games = next((found for found in followed if found is not None), None)
    assert games is not None
    assert games >= least
    assert sum(abs(step.reward[0]) for step in steps) > 0
    if protocol == "mnih2015" and least:
        assert sum(step.terminated[0] for step in steps) > games


@pytest.mark.parametrize("protocol", ["machado2018", "mnih2015"])
def test_an_episode_depends_on_nothing_but_its_seed(protocol):
    """Copies with different pasts, in different companies, under the same actions."""
    one = make(protocol=protocol, num_envs=2, max_num_frames_per_episode=240)
    other = make(
        protocol=protocol,
        num_envs=1,
        max_num_frames_per_episode=240,
        seed=lambda copy, number: 1001 if number == 2 else 5,
    )
    one.reset()
    other.reset()
    rng = np.random.default_rng(0)
    while not one.step(rng.integers(4, size=2)).ended[1]:
        pass
    for _ in range(2):
        while not other.step(rng.integers(4, size=1)).ended[0]:
            pass
    # now copy 1's episode 1 (seed 1001) and the other's episode 2 (seed 1001)
    np.testing.assert_array_equal(one._obs[1], other._obs[0])
    compared, frames = 0, set()
    for t in count():
        action = t * 7 % 4
        a, b = one.step(np.array([(action + t) % 4, action])), other.step(np.array([action]))
        np.testing.assert_array_equal(a.next_obs[1], b.next_obs[0])
        assert a.reward[1] == b.reward[0]
        assert a.terminated[1] == b.terminated[0]
        assert a.ended[1] == b.ended[0]
        compared += 1
        frames.add(a.next_obs[1].tobytes())
        if a.ended[1]:
            break
    assert compared > 30
    assert len(frames) > 20
    one.close()
    other.close()


@pytest.mark.parametrize("protocol", ["machado2018", "mnih2015"])
def test_other_seeds_are_other_episodes(protocol):
    """Chance is there, and it comes from the seed: sticky actions, or the number of no-ops."""
    envs = make("Pong", protocol, num_envs=6)
    _, steps = play(envs, [2, 3, 3, 2, 2, 2, 3, 3] * 5)
    envs.close()
    games = {np.stack([step.obs[copy] for step in steps]).tobytes() for copy in range(6)}
    assert len(games) >= 4


def test_up_to_thirty_no_ops_of_one_frame():
    """ALE draws 0 … noop_max − 1: 31 is what gives the thirty of the protocol."""
    from hvd_dqn.envs.atari import PROTOCOLS

    assert PROTOCOLS["machado2018"].noop_max == 0
    envs = ale_py.AtariVectorEnv(
        "pong", 1, noop_max=PROTOCOLS["mnih2015"].noop_max, use_fire_reset=False, num_threads=1
    )
    envs.reset(seed=np.array([3]))
    drawn = {int(envs.reset()[1]["episode_frame_number"][0]) for _ in range(300)}
    assert drawn == set(range(31))


def test_a_truncated_game_shows_its_true_final_frame():
    envs = make("Pong", seed=lambda copy, number: 4, max_num_frames_per_episode=40, frame_stack=2)
    actions = [2, 3] * 5
    _, steps = play(envs, actions)
    envs.close()
    emulator = Emulator("pong", sticky=0.25, seed=4, noops=0)
    exact = [emulator.step(action)[0] for action in actions]
    assert [bool(step.truncated[0]) for step in steps] == [False] * 9 + [True]
    assert not any(step.terminated[0] for step in steps)
    assert steps[-1].ended[0]
    assert same_frame(steps[-1].next_obs[0, 1], exact[9])
    assert same_frame(steps[-1].next_obs[0, 0], exact[8])
    assert not same_frame(steps[-1].next_obs[0, 1], exact[8])
    assert not steps[-1].obs[0, 0].any()
    assert [episode.length for episode in steps[-1].episodes] == [10]


def test_a_limit_from_outside_truncates_as_well():
    envs = make("Pong", max_episode_steps=6, num_envs=2)
    _, steps = play(envs, [0] * 12)
    envs.close()
    assert [e.length for step in steps for e in step.episodes] == [6] * 4


def test_a_lost_life_is_terminal_and_the_game_goes_on():
    envs = make(protocol="mnih2015", frame_stack=4)
    envs.reset()
    rng = np.random.default_rng(0)
    rewards, lost = [], 0
    while True:
        step = envs.step(rng.integers(4, size=1))
        rewards.append(float(step.reward[0]))
        if step.ended[0]:
            break
        if step.terminated[0]:
            lost += 1
            assert all(step.obs[0, k].any() for k in range(4)) or len(rewards) < 4
            assert step.obs is step.next_obs
    envs.close()
    assert lost == 4  # five lives: four losses within the game, the last is its end
    assert step.terminated[0]
    assert [e[:2] for e in step.episodes] == [(sum(rewards), len(rewards))]


def test_returns_are_the_games_own_and_rewards_are_clipped():
    clipped = make("SpaceInvaders", reward_clip=1.0, max_num_frames_per_episode=1600)
    true = make("SpaceInvaders", max_num_frames_per_episode=1600)
    actions = np.random.default_rng(2).integers(6, size=400).tolist()
    a, b = play(clipped, actions)[1], play(true, actions)[1]
    np.testing.assert_array_equal(
        [step.reward for step in a], np.clip([step.reward for step in b], -1, 1)
    )
    assert max(step.reward[0] for step in b) >= 5
    episodes = [e for step in a for e in step.episodes]
    assert episodes == [e for step in b for e in step.episodes]
    assert episodes[0].episode_return >= 5
    clipped.close()
    true.close()


def test_the_frame_skip_is_the_configs():
    envs = make("Pong", frame_skip=2, max_num_frames_per_episode=12)
    _, steps = play(envs, [0] * 6)
    envs.close()
    assert steps[-1].episodes[0].length == 6
    assert EnvConfig(id="ALE/Pong-v5", frame_skip=2).frames_per_env_step == 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(("threads", "num_envs", "started"), [(1, 3, 1), (2, 3, 2), (9, 1, 1)])
def test_no_more_threads_than_given_and_none_left_over(threads, num_envs, started):
    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = running()
    envs = make("Pong", num_envs=num_envs, threads=threads)
    envs.reset()
    assert running() - before == started
    envs.close()
    assert running() == before


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("ALE/NoSuchGame-v5", {}, ["NoSuchGame"]),
        ("ALE/Pong-v9", {}, ["Pong", "v5"]),
        ("ALE/Pong-v5", {"stack_num": 4}, ["stack_num", "env.frame_stack", "full_action_space"]),
        ("ALE/Pong-v5", {"mode": 1}, ["bare Atari game", "obs_type ram"]),
        ("ALE/Pong-v5", {"img_height": "tall"}, ["img_height", "TypeError"]),
        ("ALE/Pong-v5", {"max_num_frames_per_episode": 0}, ["max_num_frames", "greater than 0"]),
    ],
)
def test_bad_games_are_told_in_one_line(env_id, kwargs, words):
    config = EnvConfig(id=env_id, kwargs=json.dumps(kwargs))
    with pytest.raises(UserError) as caught:
        make_vector_env(config, num_envs=1, episode_seed=lambda copy, number: 0)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message


def test_the_action_set_is_minimal_unless_asked_for():
    envs = make("Pong")
    assert envs.num_actions == 6
    envs.close()
    config = EnvConfig(id="ALE/Pong-v5", kwargs='{"full_action_space": true}')
    envs = make_vector_env(config, num_envs=1, episode_seed=lambda copy, number: 0)
    assert envs.num_actions == 18
    envs.close()


@pytest.mark.parametrize("action", [-1, 6])
def test_an_action_that_ale_does_not_know_is_refused(action):
    """ALE's thread would end in silence, and the step never return."""
    envs = make("Pong", num_envs=2)
    envs.reset()
    with pytest.raises(ValueError, match="not all in 0 … 5"):
        envs.step(np.array([0, action]))
    assert not envs.step(np.array([0, 5])).ended.any()
    envs.close()


SINGLE = {
    "ram": ({"obs_type": "ram"}, (), (128,)),
    "mode": ({"obs_type": "grayscale", "mode": 1, "difficulty": 1}, (), (1, 210, 160)),
    "own wrappers": (
        {"frameskip": 1},
        ('gymnasium.wrappers:GrayscaleObservation={"keep_dim": false}',),
        (1, 210, 160),
    ),
}


@pytest.mark.parametrize("name", SINGLE)
def test_what_the_vector_environment_lacks_is_played_by_single_ones(name):
    kwargs, wrappers, shape = SINGLE[name]
    config = EnvConfig(id="ALE/Pong-v5", kwargs=json.dumps(kwargs), wrappers=wrappers)
    envs = make_vector_env(config, num_envs=1, episode_seed=lambda copy, number: number)
    assert envs.reset().shape == (1, *shape)
    assert envs.step(np.zeros(1, np.int64)).next_obs.shape == (1, *shape)
    envs.close()


def test_the_protocol_is_for_the_vector_environment():
    with pytest.raises(ConfigError, match=r"no env\.wrappers and no difficulty.*set it to none"):
        EnvConfig(id="ALE/Pong-v5", atari_protocol="mnih2015", kwargs='{"obs_type": "ram"}')


def test_sticky_actions_can_be_chosen():
    """Without them, an episode does not depend on its seed (Pong draws nothing else)."""
    frames = []
    for probability in (0.0, 0.5):
        config = EnvConfig(
            id="ALE/Pong-v5", kwargs=json.dumps({"repeat_action_probability": probability})
        )
        envs = make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: copy)
        envs.reset()
        for step in range(40):
            obs = envs.step(np.full(2, 2 + step % 2)).next_obs
        frames.append(obs)
        envs.close()
    assert (frames[0][0] == frames[0][1]).all()
    assert (frames[1][0] != frames[1][1]).any()
