"""What MinAtar needs so that its episodes stand alone."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class ForgetLastAction(gym.Wrapper[Any, Any, Any, Any]):
    """MinAtar 1.0.15 keeps the last action over a reset: a sticky first step would repeat the last
    action of the episode before. Forgotten here, an episode depends on its seed alone.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode as a fresh environment does."""
        self.env.get_wrapper_attr("game").last_action = 0
        return super().reset(seed=seed, options=options)
