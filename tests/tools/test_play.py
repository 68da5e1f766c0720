"""Rendered episodes: frames, files and errors."""

import shutil
import subprocess
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from hvd_dqn.common.errors import UserError
from hvd_dqn.policy import load_policy
from hvd_dqn.reporting.videos import EpisodeRecorder, PlayedStep, draw_frame
from hvd_dqn.tools import play as playing
from tests.launching import hvd_dqn
from tests.short_runs import run_of


class Roll:
    """Keeps frames, and stops after `most`."""

    def __init__(self, most=10_000):
        self.frames, self.most = [], most

    def write(self, frame):
        self.frames.append(frame)
        return len(self.frames) < self.most


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("played") / "run")


def played(policy, writer, **options):
    given = {"episodes": 2, "epsilon": 0.0, "max_steps": 500} | options
    with closing(EpisodeRecorder(policy.config, seed=3)) as recorder:
        return recorder.play(policy.values_of, writer, **given)


@pytest.mark.parametrize(
    "env_id",
    ["CartPole-v1", "MinAtar/Breakout-v1", "LunarLander-v3", "ALE/Pong-v5", "highway-fast-v0"],
)
def test_every_kind_of_environment_is_drawn(tmp_path, env_id):
    run_dir = run_of(tmp_path / "run", {"env.id": env_id, "env.num_envs": 2})
    roll = Roll(most=5)
    played(load_policy(run_dir), roll, epsilon=0.5)
    assert len(roll.frames) == 5
    assert len({frame.shape for frame in roll.frames}) == 1
    height, width, channels = roll.frames[0].shape
    assert min(height, width) >= 300
    assert channels == 3
    assert height % 2 == width % 2 == 0
    drawn = {frame[:, :-320].tobytes() for frame in roll.frames}
    assert len(drawn) > 1, "something moves"
    assert roll.frames[0][:, :-320].std() > 1, "and can be seen"


def test_the_returns_are_those_of_the_episodes(run_dir):
    policy, roll = load_policy(run_dir), Roll()
    returns = played(policy, roll)
    assert sum(returns) == len(roll.frames), "the reward is 1 per step"
    assert played(policy, Roll()) == returns
    assert played(policy, Roll(), episodes=1, max_steps=3) == [3.0]
    assert played(policy, Roll(most=4)) == [3.0], "the fourth step was not taken"


def test_the_chosen_action_is_marked():
    black = np.zeros((400, 400, 3), np.uint8)
    colours = []
    for action in (0, 1):
        step = PlayedStep(black, np.array([1.0, 2.0]), [action], 7.0, 3, 0)
        picture = draw_frame(step, ["left", "right"])
        rows = np.flatnonzero((picture == (0xF2, 0xA3, 0x3A)).all(axis=2).any(axis=1))
        colours.append(rows)
    assert colours[0].max() < colours[1].min(), "the second bar is below the first"
    many = PlayedStep(black, np.linspace(0, 1, 18), [17], 0.0, 0, 0)
    assert draw_frame(many, [str(n) for n in range(18)]).shape == (400, 720, 3)
    assert draw_frame(many._replace(q_values=np.zeros(200)), ["x"] * 200).shape == (400, 720, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_videos(run_dir, tmp_path, name):
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")
    file = tmp_path / "new" / name
    done = hvd_dqn("play", str(run_dir), "--video", str(file), "--fps", "25", launcher="none")
    assert done.code == 0, done.output
    steps = int(float(done.lines("return ")[0].split()[1]))
    if name.endswith("gif"):
        with Image.open(file) as video:
            assert video.n_frames == pytest.approx(steps, abs=2), "equal frames may be merged"
    else:
        import imageio_ffmpeg

        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(file))
        assert frames == steps
        assert seconds == pytest.approx(steps / 25, abs=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no display is available: write a file"),
        (["--video", "a.avi"], "must end in .mp4 or .gif"),
        (["--video", "/proc/x/a.gif"], "/proc/x/a.gif cannot be written"),
        (["--video", "a.gif", "--fps", "0"], "must be greater than 0"),
        (["--network", "7", "--video", "a.gif"], "has no network 7"),
    ],
)
def test_errors_are_one_line(run_dir, tmp_path, options, said):
    done = hvd_dqn("play", str(run_dir), *options, launcher="none", cwd=tmp_path, DISPLAY="")
    assert done.code == 2, done.output
    assert said in done.output.splitlines()[-1]


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"hvd_dqn\[video\]"):
        playing.Mp4Writer(tmp_path / "a.mp4", 30)
    monkeypatch.setitem(__import__("sys").modules, "pygame", None)
    monkeypatch.setenv("DISPLAY", ":7")
    with pytest.raises(UserError, match=r"hvd_dqn\[video\]"):
        playing.Window("", 30)


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs Xvfb")
def test_a_window(run_dir, monkeypatch):
    """On a virtual screen."""
    pytest.importorskip("pygame")
    with subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x800x24"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            number = server.stdout.readline().strip()
            done = hvd_dqn(
                *("play", str(run_dir), "--fps", "500", "--max-steps", "20"),
                launcher="none",
                DISPLAY=f":{number}",
            )
            assert done.code == 0, done.output
            assert "return " in done.output
        finally:
            server.terminate()
