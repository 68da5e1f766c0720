"""Which settings a person may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_OTHER_NAMES = {
    "total-env-steps": "timesteps steps max-steps num-steps frames budget epochs iterations",
    "learning-starts-env-steps": "learning-starts warmup warmup-steps min-replay-size",
    "vector-steps-per-iteration": "train-freq train-frequency update-every",
    "updates-per-iteration": "gradient-steps utd num-updates",
    "target-period-updates": "target-update-interval target-update-freq target-network-frequency",
    "target-step": "tau polyak",
    "time-limit-minutes": "time-limit walltime max-time",
    "seed": "random-seed rng",
    "device": "gpu cuda accelerator",
    "env.id": "env env-id environment game task env-name",
    "env.num-envs": "n-envs envs num-environments",
    "env.vectorization": "async vec-env",
    "env.frame-stack": "num-stack stack frame-stacking",
    "env.frame-skip": "action-repeat",
    "env.reward-clip": "clip-reward clip-rewards",
    "network.hidden-sizes": "hidden hidden-size hidden-dim net-arch layers units",
    "network.torso": "policy cnn model network architecture",
    "replay.capacity": "buffer buffer-size memory memory-size replay-size replay-buffer-size",
    "replay.batch-size": "batch minibatch-size",
    "replay.sampling": "per prioritized prioritized-replay",
    "replay.n-step": "n-steps multi-step",
    "objective.gamma": "discount discount-factor",
    "objective.double": "ddqn double-dqn double-q",
    "objective.distribution": "c51 qr-dqn iqn distributional algorithm algo method",
    "optimizer.learning-rate": "lr step-size",
    "optimizer.name": "optim optimizer",
    "optimizer.max-grad-norm": "clip grad-clip gradient-clip clip-grad-norm",
    "exploration.epsilon-final": "epsilon eps epsilon-end end-e exploration-final-eps",
    "exploration.epsilon-initial": "epsilon-start start-e exploration-initial-eps",
    "exploration.epsilon-decay-env-steps": "exploration-fraction epsilon-decay eps-decay",
    "distributed.threads-per-rank": "threads num-threads",
    "distributed.hang-seconds": "timeout",
    "evaluation.period-env-steps": "eval-freq eval-interval eval-every evaluation-interval",
    "evaluation.episodes": "eval-episodes n-eval-episodes num-eval-episodes",
    "checkpoint.period-env-steps": "save-freq save-every save-interval checkpoint-interval",
    "checkpoint.directory": "checkpoint-dir",
    "logging.period-env-steps": "log-freq log-interval log-every",
    "logging.loggers": "wandb track tensorboard mlflow logger",
    "logging.video": "capture-video record-video",
    "run-dir": "output out output-dir logdir log-dir save-dir dir name run-name exp-name",
    "dry-run": "check validate",
}
"""Settings, and the words for them in other libraries and elsewhere."""
_MOST = 3
_SIMILAR = 0.6


def closest_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the names among `known`, at most three, that `name` most likely means; none if it
    resembles nothing. Names may have sections, `optimizer.learning-rate`; upper and lower case,
    hyphens and underscores make no difference.

    The same field in another section comes first, then what other libraries call it, then what is
    spelled alike.
    """
    names = list(known)
    wanted, field = _plain(name), _plain(name.rpartition(".")[2])
    same = [n for n in names if _plain(n) == wanted] or [n for n in names if _field(n) == field]
    if same:
        return same[:_MOST]
    meant = {
        _plain(target)
        for target, others in _OTHER_NAMES.items()
        if {field, wanted} & set(map(_plain, others.split()))
    }
    translated = [n for n in names if _plain(n) in meant]
    if translated:
        return translated[:_MOST]
    likeness = {n: max(_likeness(wanted, _plain(n)), _likeness(field, _field(n))) for n in names}
    best = max(likeness.values(), default=0.0)
    return [n for n in names if likeness[n] >= max(best, _SIMILAR)][:_MOST]


def _plain(name: str) -> str:
    """Return only the letters and digits of a name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _field(name: str) -> str:
    return _plain(name.rpartition(".")[2])


def _likeness(one: str, other: str) -> float:
    """Return 0 to 1: the share of letters in the same order. A beginning of several letters, such
    as `eval`, is as good as the whole.
    """
    if len(one) > 2 and other.startswith(one):
        return 0.9
    return difflib.SequenceMatcher(None, one, other).ratio()
