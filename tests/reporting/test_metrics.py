import json

import numpy as np
import pytest

from hvd_dqn.common.stages import STAGES, StageClock
from hvd_dqn.common.structs import Episode, Progress
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import LearnerStatistics
from hvd_dqn.reporting.loggers import Loggers
from hvd_dqn.reporting.metrics import Meter, ReplayStatistics, episode_metrics
from hvd_dqn.reporting.sinks import FileSink
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed.workers import small_config


class TwoRanks(LocalCommunicator):
    """Gathers a given value from the other rank."""

    world_size = 2

    def __init__(self, other):
        self.other = other

    def gather(self, value):
        return [value, self.other]


def test_episode_metrics_are_over_all_ranks():
    waited = dict.fromkeys(STAGES, 0.0) | {"averaging": 1.0}
    other = {
        "episodes": [[10.0, 3], [30.0, 5]],
        "shares": waited,
        "hidden_share": 0.5,
        "replay": [300, 30.0, 8, 2],
        "drift": 2.0,
    }
    meter = Meter(TwoRanks(other), StageClock(), loss_name="loss/td_huber")
    meter.add_episodes([Episode(20.0, 4)])
    statistics = LearnerStatistics(
        updates=4, agreed=4, loss=2.0, abs_td_error=8.0, value=40.0, grad_norm=1.0, drift=1.0
    )
    metrics = meter.record(
        Progress(env_steps=100, updates=4),
        statistics,
        epsilon=0.0,
        learning_rate=0.1,
        replay=ReplayStatistics(100, 10.0, 8, 2),
    )
    assert metrics["replay/transitions"] == 400
    assert metrics["replay/ratio"] == 4 * 16 / 100
    assert metrics["replay/age_env_steps"] == 20 * 4
    assert (metrics["rank/waiting/0"], metrics["rank/waiting/1"]) == (0, 1)
    assert metrics["episode/count"] == 3
    assert metrics["episode/return_mean"] == 20.0
    assert metrics["episode/return_std"] == pytest.approx(np.std([10, 20, 30]))
    assert (metrics["episode/return_min"], metrics["episode/return_max"]) == (10.0, 30.0)
    assert metrics["episode/length_mean"] == 4
    assert metrics["distributed/drift_max"] == 2.0
    assert metrics["loss/td_huber"] == 0.5
    assert metrics["td/abs_error_mean"] == 2.0
    assert metrics["q/taken_mean"] == 10.0
    assert metrics["exploration/epsilon"] == 0.0
    assert metrics["speed/env_steps_per_second"] > 0
    assert metrics["time/averaging"] == 0.5, "the mean over both ranks"
    assert metrics["distributed/transfer_share"] == 0, "one rank did not wait"
    assert metrics["distributed/hidden_share"] == 0.25
    assert metrics["time/envs"] == 0


def test_numbers_of_infos_are_averaged_over_the_episodes_of_all_ranks():
    other = {
        "episodes": [[10.0, 3, [1.0, 0.5]], [30.0, 5, [float("nan"), 0.0]]],
        "shares": dict.fromkeys(STAGES, 0.0),
        "hidden_share": 0.0,
        "replay": [300, 30.0, 8, 2],
        "drift": 0.0,
    }
    keys = ("distance", "success")
    meter = Meter(TwoRanks(other), StageClock(), loss_name="loss/td_huber", info_keys=keys)
    meter.add_episodes([Episode(20.0, 4, (4.0, 1.0))])
    again = Meter(TwoRanks(other), StageClock(), loss_name="loss/td_huber", info_keys=keys)
    again.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    for each in (meter, again):
        metrics = each.record(
            Progress(env_steps=100),
            LearnerStatistics(),
            epsilon=0.0,
            learning_rate=0.1,
            replay=ReplayStatistics(100, 10.0, 8, 2),
        )
        assert (metrics["info/distance"], metrics["info/success"]) == (2.5, 0.5)


def test_every_second_of_a_period_is_in_one_of_its_stages(tmp_path):
    run_dir = RunDirectory(tmp_path / "run")
    config = small_config().changed({"evaluation.episodes": 50})
    train(config, LocalCommunicator(), run_dir)
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    shares = [
        {stage: line[f"time/{stage}"] for stage in STAGES} for line in lines if "time/envs" in line
    ]
    for share in shares[2:]:  # the first periods include the evaluation's start, and no updates
        assert sum(share.values()) == pytest.approx(1)
        assert all(share[stage] > 0 for stage in STAGES)
        assert share["gradients"] > share["acting"], "many updates, few steps"


def test_a_period_without_episodes_or_updates_omits_their_metrics():
    metrics = Meter(LocalCommunicator(), StageClock(), loss_name="loss/td_huber").record(
        Progress(),
        LearnerStatistics(),
        epsilon=1.0,
        learning_rate=0.1,
        replay=ReplayStatistics(0, float("nan"), 8, 2),
    )
    assert not [name for name in metrics if name.startswith(("episode/", "loss/", "q/"))]


def test_a_record_is_a_line(tmp_path):
    sink = FileSink(tmp_path, Loggers({}))
    sink.write(Progress(env_steps=10, updates=2), 1.5, {"loss/td_huber": 0.25})
    sink.write(Progress(env_steps=20, updates=4), 3.0, {"loss/td_huber": 0.125})
    sink.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {
        "env_steps": 20,
        "updates": 4,
        "seconds": 3.0,
        "loss/td_huber": 0.125,
    }


def test_nan_and_infinity_are_null(tmp_path):
    sink = FileSink(tmp_path, Loggers({}))
    sink.write(Progress(), 0.0, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    sink.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (record["a"], record["b"], record["c"]) == (None, None, 1.0)


def test_percentiles():
    metrics = episode_metrics([Episode(float(r), 1) for r in range(101)])
    assert (metrics["episode/return_p10"], metrics["episode/return_median"]) == (10.0, 50.0)
