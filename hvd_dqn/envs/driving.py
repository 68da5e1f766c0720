"""The family of highway-env."""

from __future__ import annotations

from hvd_dqn.envs.family import Family

_SCENES = "exit|highway|intersection|lane-keeping|merge|parking|racetrack|roundabout|two-way|u-turn"


class Driving(Family):
    """highway-env registers its ids when it is imported."""

    ids = rf"({_SCENES})(-[a-z-]+)?-v\d"
    package = "highway-env"
    module = "highway_env"
    extra = "driving"
    channels = "first"
