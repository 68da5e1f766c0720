"""Several ranks, real launchers: what the distributed update promises."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.presets import PRESETS
from tests.distributed import workers
from tests.launching import launch

pytestmark = pytest.mark.multirank


def run_job(tmp_path, job, *, ranks=2, launcher="horovodrun", **options):
    """Run one of `workers`; every rank's result, in order of rank."""
    directory = tmp_path / f"{job}-{launcher}-{ranks}-{options.get('backend', 'auto')}"
    directory.mkdir()
    options.setdefault("run_dir", str(directory / "run"))
    arguments = ["-m", "tests.distributed.workers", job, str(directory), json.dumps(options)]
    done = launch(arguments, ranks=ranks, launcher=launcher)
    assert done.code == 0, done.output
    return [json.loads((directory / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize("average", ["gradients", "delayed_gradients"])
@pytest.mark.parametrize(("ranks", "backend"), [(2, "horovod"), (3, "horovod"), (2, "mpi")])
def test_n_ranks_on_b_equal_one_rank_on_n_times_b(tmp_path, ranks, backend, average):
    size, updates = 16, 60
    how = {"average": average}
    results = run_job(
        *(tmp_path, "equivalence"), ranks=ranks, backend=backend, size=size, updates=updates,
        distributed=how,
    )  # fmt: skip
    single = workers.make_learner(LocalCommunicator(), seed=0, distributed=how)
    start = single.online_parameters.values.clone()
    for batch in workers.batches(updates, size * ranks):
        single.start(batch)
        single.finish()
    moved = (single.online_parameters.values - start).abs().max().item()
    assert moved > 0.01, "the updates must have done something"
    for result in results:
        assert result["parameters"] == results[0]["parameters"], "bit for bit across ranks"
        assert result["drift"] == 0
        assert result["loss"] == pytest.approx(single.statistics.loss, rel=1e-4)
        torch.testing.assert_close(
            torch.tensor(result["parameters"]),
            single.online_parameters.values,
            rtol=1e-3,
            atol=2e-5,
        )


@pytest.mark.parametrize("ranks", [2, 3])
def test_prioritised_ranks_weigh_as_much_as_their_replays(tmp_path, ranks):
    """Against one rank whose samples carry the weights that one replay would give them."""
    size, updates = 16, 40
    results = run_job(
        tmp_path, "equivalence", ranks=ranks, size=size, updates=updates, prioritized=True
    )
    shares = [workers.share_of(rank) for rank in range(ranks)]
    mass = sum(share.mass for share in shares)
    floor = min(share.weight_floor for share in shares)
    factors = [ranks * s.mass / mass * floor / s.weight_floor for s in shares]
    weight = torch.tensor(factors).repeat_interleave(size)
    assert weight.max() > 4 * weight.min(), "ranks must differ for this to show anything"
    single = workers.make_learner(LocalCommunicator(), seed=0)
    for batch in workers.batches(updates, size * ranks):
        single.start(batch._replace(weight=weight))
        single.finish()
    for result in results:
        assert result["parameters"] == results[0]["parameters"], "bit for bit across ranks"
        torch.testing.assert_close(
            torch.tensor(result["parameters"]),
            single.online_parameters.values,
            rtol=1e-3,
            atol=2e-5,
        )


@pytest.mark.parametrize("backend", ["horovod", "mpi"])
@pytest.mark.parametrize("state", ["average", "keep", "reset"])
def test_parameter_averaging_is_local_steps_and_means(tmp_path, backend, state):
    size, updates, period, ranks = 16, 34, 5, 2
    distributed = {
        "average": "parameters",
        "average_period_updates": period,
        "average_optimizer_state": state,
    }
    results = run_job(
        tmp_path, "equivalence", backend=backend, size=size, updates=updates,
        distributed=distributed,
    )  # fmt: skip
    alone = [workers.make_learner(LocalCommunicator(), seed=0) for _ in range(ranks)]
    for number, batch in enumerate(workers.batches(updates, size * ranks), start=1):
        for rank, learner in enumerate(alone):
            learner.start(workers.part(batch, rank, size))
            learner.finish()
        if number % period == 0:
            average(alone, state)
    for rank, result in enumerate(results):
        for name, values in (
            ("parameters", alone[rank].online_parameters.values),
            ("target", alone[rank].target_parameters.values),
            ("shared", sum(learner.online_parameters.values for learner in alone) / ranks),
        ):
            torch.testing.assert_close(torch.tensor(result[name]), values, rtol=1e-3, atol=2e-5)
        assert result["drift"] == 0
    assert results[0]["parameters"] != results[1]["parameters"], "four updates since the average"
    assert results[0]["shared"] == results[1]["shared"]
    assert results[0]["target"] == results[1]["target"]


def average(learners, state):
    """Parameters' and, if so, moments' plain means, written into each learner."""
    groups = [[learner.online_parameters.values for learner in learners]]
    moments = [next(iter(learner._optimizer.state.values())) for learner in learners]
    if state == "average":
        groups += [[m[name] for m in moments] for name in ("exp_avg", "exp_avg_sq")]
    for group in groups:
        mean = torch.stack(group).mean(dim=0)
        for values in group:
            values.copy_(mean)
    if state == "reset":
        for m in moments:
            for value in m.values():
                value.zero_()
    for learner in learners:
        if learner.updates % 10 == 0:
            learner.target_parameters.values.copy_(learner.online_parameters.values)


@pytest.mark.parametrize("backend", ["horovod", "mpi"])
def test_one_ranks_bad_first_number_ends_all_at_the_first_average(tmp_path, backend):
    for result in run_job(tmp_path, "bad_start", backend=backend):
        assert result["updates"] == 10
        assert "on rank 1 at update 10 " in result["said"]


def test_prioritised_ranks_with_noise_stay_bit_equal(tmp_path):
    changes = {
        "replay.sampling": "prioritized",
        "network.noisy": True,
        "network.dueling": True,
        "objective.distribution": "categorical",
    }
    ours, theirs = run_job(tmp_path, "whole_run", changes=changes)
    assert ours["shares"] == theirs["shares"] == 4, "two places for each of two ranks"
    for name in ("online", "target", "optimizer", "updates", "score"):
        assert ours[name] == theirs[name], name
    assert ours["updates"] > 300


def test_every_preset_makes_real_updates_on_two_ranks(tmp_path):
    results = run_job(tmp_path, "presets", names=list(PRESETS))
    for name in PRESETS:
        ours, theirs = (result[name] for result in results)
        assert ours["updates"] == theirs["updates"] >= 3, name
        assert ours["score"] == theirs["score"], name
        assert ours["drift"] == 0, name
        assert ours["losses"], name
        assert all(math.isfinite(loss) and loss > 0 for loss in ours["losses"]), name


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_stay_bit_equal_while_episodes_end_at_different_times(tmp_path, ranks):
    results = run_job(tmp_path, "whole_run", ranks=ranks)
    first = results[0]
    assert first["updates"] >= 360 if ranks == 2 else first["updates"] >= 250
    for result in results:
        for name in ("online", "target", "optimizer", "updates", "env_steps", "score"):
            assert result[name] == first[name], name
        assert len(result["episodes"]) > 10
    ends = [tuple(map(tuple, result["episodes"])) for result in results]
    assert len(set(ends)) == ranks, "each rank lives through episodes of its own"


def test_backends_agree_bit_for_bit_on_one_rank(tmp_path):
    runs = [
        run_job(tmp_path, "whole_run", ranks=1, launcher=launcher, backend=backend)[0]
        for launcher, backend in (("none", "local"), ("horovodrun", "horovod"), ("mpirun", "mpi"))
    ]
    assert runs[0]["updates"] > 500
    assert runs[0] == runs[1] == runs[2]


def test_horovod_and_mpi_agree_bit_for_bit_on_two_ranks(tmp_path):
    runs = [
        run_job(tmp_path, "whole_run", launcher="mpirun", backend=name)
        for name in ("horovod", "mpi")
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("target_period", "drift_at", "healed_at"), [(10, 31, 32), (1000, 24, 24)])
def test_a_rank_that_drifts_is_noticed_healed_and_reported(
    tmp_path, target_period, drift_at, healed_at
):
    results = run_job(tmp_path, "drift", ranks=3, target_period=target_period, drift_at=drift_at)
    digests = [result["digests"] for result in results]
    for number, (one, two, three) in enumerate(zip(*digests, strict=True)):
        assert (one == two == three) == (not drift_at <= number < healed_at)
    assert [result["resyncs"] for result in results] == [1, 1, 1]
    assert results[0]["drift"] == results[1]["drift"] == 0
    assert results[2]["drift"] == pytest.approx(1e-3, rel=0.05)


def test_a_sum_wakes_horovods_thread(tmp_path):
    """At a cycle of 5 s, 60 updates would take longer than the launch may."""
    sleepy = {"HOROVOD_CYCLE_TIME": "5000", "HOROVOD_IDLE_CYCLE_TIME": "5000"}
    results = run_job(
        *(tmp_path, "equivalence"), size=16, updates=60, environment=sleepy, backend="horovod"
    )  # fmt: skip
    assert len(results) == 2
    assert results[0]["parameters"] == results[1]["parameters"]


@pytest.mark.parametrize("backend", ["horovod", "mpi"])
def test_collectives(tmp_path, backend):
    results = run_job(tmp_path, "gathering", ranks=3, backend=backend)
    for rank, result in enumerate(results):
        assert result["backend"] == backend
        assert result["gathered"] == results[0]["gathered"]
        assert result["gathered"][rank]["rank"] == rank
        assert result["gathered"][2]["text"] == "ü" * 2000
        assert result["sum"] == [6.0, 6.0]
        assert result["broadcast"] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert result["local_rank"] == rank
