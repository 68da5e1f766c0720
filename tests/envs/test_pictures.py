"""Whatever an environment renders becomes an RGB image, and a video keeps one size."""

from contextlib import closing

import numpy as np
import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.envs.pictures import Pictures
from hvd_dqn.reporting.videos import EpisodeRecorder
from tests.envs.awkward import Gallery

_COLOURS = np.array([[[10, 20, 30], [255, 0, 128]]], np.uint8)
_GREY = np.array([[0, 51, 255]], np.uint8)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (_COLOURS, _COLOURS),
        (_COLOURS.astype(np.int64), _COLOURS),
        (_COLOURS.tolist(), _COLOURS),
        (_COLOURS / 255, _COLOURS),
        ((_COLOURS / 255).astype(np.float32), _COLOURS),
        (_COLOURS.astype(np.float64), _COLOURS),
        (np.dstack([_COLOURS, np.full((1, 2), 255, np.uint8)]), _COLOURS),
        (_GREY, np.stack([_GREY] * 3, axis=2)),
        (_GREY[:, :, None], np.stack([_GREY] * 3, axis=2)),
        (_GREY / 255, np.stack([_GREY] * 3, axis=2)),
        (_GREY > 50, np.array([[[0] * 3, [255] * 3, [255] * 3]], np.uint8)),
    ],
)
def test_images_become_rgb(drawn, expected):
    picture = Pictures().rgb(drawn)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


def test_a_dark_image_of_an_environment_with_bright_ones_stays_dark():
    pictures = Pictures()
    pictures.rgb(np.array([[200.0]]))
    assert pictures.rgb(np.array([[1.0]])).max() == 1


@pytest.mark.parametrize(
    ("drawn", "found"),
    [
        (None, "renders nothing"),
        (np.zeros((2, 3, 5), np.uint8), "uint8 of shape (2, 3, 5)"),
        ("a map in letters", "of shape ()"),
    ],
)
def test_what_is_no_image_is_named(drawn, found):
    with pytest.raises(UserError) as caught:
        Pictures().rgb(drawn)
    assert found in str(caught.value)


class Roll:
    def __init__(self):
        self.frames = []

    def write(self, frame):
        self.frames.append(frame)
        return True


def test_a_video_keeps_the_size_of_its_first_frame(monkeypatch):
    pictures = [np.full((*size, 3), 200, np.uint8) for size in ((40, 60), (20, 60), (80, 10))]
    monkeypatch.setattr(Gallery, "pictures", pictures)
    config, roll = Config().changed({"env.id": "tests.envs.awkward:Gallery"}), Roll()
    with closing(EpisodeRecorder(config, seed=0)) as recorder:
        recorder.play(lambda obs: np.zeros((1, 2)), roll, max_steps=5)
    assert len({frame.shape for frame in roll.frames}) == 1
    scale = roll.frames[0].shape[0] // 40
    flat = roll.frames[1][: 40 * scale, : 60 * scale]
    assert (flat[10 * scale : 30 * scale] == 200).all(), "20 x 60 in the middle of 40 x 60"
    assert not flat[: 10 * scale].any(), "with black above"
