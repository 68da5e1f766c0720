"""The guarantees of the distributed update, tested on several ranks by real launchers."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hvd_dqn.common.files import publish
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.presets import PRESETS
from tests.distributed import workers
from tests.launching import TIMEOUT_SECONDS, started, wait_until

pytestmark = pytest.mark.multirank


class Standing:
    """Ranks that run one job after the other, because starting them takes longer than most jobs."""

    def __init__(self, directory, *, ranks, launcher, backend, **environment):
        self.directory, self.ranks, self.orders = directory, ranks, 0
        arguments = ["-m", "tests.distributed.workers", str(directory), backend]
        self.launch = started(arguments, ranks=ranks, launcher=launcher, **environment)
        self.job = self.launch.__enter__()

    def run(self, job, options):
        """Run `job` and return the ranks' results, in the order of ranks."""
        number, self.orders = self.orders, self.orders + 1
        self.order(number, job, options)
        results = [self.directory / f"{number}-rank-{rank}.json" for rank in range(self.ranks)]
        try:
            wait_until(
                lambda: self.job.process.poll() is not None or all(r.exists() for r in results),
                what=job,
                seconds=TIMEOUT_SECONDS,
            )
            assert self.job.process.poll() is None, self.job.wait().output
        except BaseException:
            self.launch.__exit__(None, None, None)
            raise
        return [json.loads(result.read_text()) for result in results]

    def order(self, number, job, options):
        publish(self.directory / f"{number}.json", json.dumps([job, options]).encode())

    def dismiss(self):
        """Tell the ranks to exit."""
        self.order(self.orders, None, {})

    def end(self):
        """Check that the ranks exit by themselves."""
        try:
            done = self.job.wait()
            assert done.code == 0, done.output
            closings = [self.directory / f"closing-rank-{rank}.json" for rank in range(self.ranks)]
            for closing in closings:
                assert json.loads(closing.read_text())[1] == 0, "shared memory is given back"
        finally:
            self.launch.__exit__(None, None, None)


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """Return the ranks of a launcher, a number of ranks and a backend."""
    jobs = {}

    def get(launcher, ranks, backend):
        key = launcher, ranks, backend
        if key not in jobs or jobs[key].job.process.poll() is not None:
            directory = tmp_path_factory.mktemp(f"{launcher}-{ranks}-{backend}")
            jobs[key] = Standing(directory, ranks=ranks, launcher=launcher, backend=backend)
        return jobs[key]

    yield get
    for job in jobs.values():
        job.dismiss()
    for job in jobs.values():
        job.end()


@pytest.fixture
def run_job(tmp_path, standing):
    """Run one of the jobs in `workers`."""

    def run(job, *, ranks=2, launcher="horovodrun", backend="horovod", **options):
        directory = tmp_path / f"{launcher}-{backend}"
        options = {"run_dir": str(directory)} | options
        return standing(launcher, ranks, backend).run(job, options)

    return run


@pytest.mark.parametrize("average", ["gradients", "delayed_gradients"])
@pytest.mark.parametrize(
    ("ranks", "backend", "recorded"),
    [(2, "horovod", False), (3, "horovod", False), (2, "mpi", False), (2, "horovod", True)],
)
def test_n_ranks_on_b_equal_one_rank_on_n_times_b(run_job, ranks, backend, recorded, average):
    size, updates = 16, 60
    how = {"average": average}
    results = run_job("equivalence", ranks=ranks, backend=backend, size=size, updates=updates,
        distributed=how, optimizer={"cuda_graph": recorded},
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


@pytest.mark.parametrize(("ranks", "backend"), [(2, "horovod"), (3, "mpi")])
def test_running_statistics_are_those_of_all_ranks(run_job, ranks, backend):
    size, updates = 16, 60
    results = run_job("equivalence", ranks=ranks, backend=backend, size=size, updates=updates,
        normalized=True,
    )  # fmt: skip
    single = workers.make_learner(LocalCommunicator(), seed=0, normalized=True)
    for batch in workers.batches(updates, size * ranks):
        single.start(batch)
        single.finish()
    statistics = workers.statistics_of(single)
    assert statistics["scaling.samples"] == [(updates - 1) * size * ranks]
    assert statistics["samples"] == [updates * size * ranks]
    for result in results:
        assert result["parameters"] == results[0]["parameters"], "bit for bit across ranks"
        assert result["statistics"] == results[0]["statistics"]
        assert result["statistics"].keys() == statistics.keys()
        for name, value in statistics.items():
            assert result["statistics"][name] == pytest.approx(value, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(
            torch.tensor(result["parameters"]),
            single.online_parameters.values,
            rtol=1e-3,
            atol=2e-5,
        )


@pytest.mark.parametrize(("ranks", "recorded"), [(2, False), (3, False), (2, True)])
def test_prioritised_ranks_weigh_as_much_as_their_replays(run_job, ranks, recorded):
    """Compare with one rank whose samples have the weights that one replay would give them."""
    size, updates = 16, 40
    results = run_job("equivalence", ranks=ranks, size=size, updates=updates, prioritized=True,
        optimizer={"cuda_graph": recorded},
    )  # fmt: skip
    shares = [workers.share_of(rank) for rank in range(ranks)]
    mass = sum(share.mass for share in shares)
    # One replay draws more than a batch from the first rank, a fifth or a quarter of one from the
    # second, a fortieth from the third.
    floor = {2: min(0.01, 0.02 / 3), 3: min(0.01, 0.02 / 3, 0.04 / 9)}[ranks]
    factors = [ranks * s.mass / mass * floor / s.weight_floor for s in shares]
    weight = torch.tensor(factors).repeat_interleave(size)
    assert weight.max() > 3 * weight.min(), "ranks must differ for this to show anything"
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


@pytest.mark.parametrize(
    ("backend", "recorded"), [("horovod", False), ("mpi", False), ("horovod", True)]
)
@pytest.mark.parametrize("state", ["average", "keep", "reset"])
def test_parameter_averaging_is_local_steps_and_means(run_job, backend, recorded, state):
    size, updates, period, ranks = 16, 34, 5, 2
    distributed = {
        "average": "parameters",
        "average_period_updates": period,
        "average_optimizer_state": state,
    }
    results = run_job("equivalence", backend=backend, size=size, updates=updates,
        distributed=distributed, optimizer={"cuda_graph": recorded},
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
    """Write the mean parameters, and the mean moments if `state` is "average", to each learner."""
    groups = [[learner.online_parameters.values for learner in learners]]
    moments = [learner._optimizer.state for learner in learners]
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


@pytest.mark.parametrize(
    ("backend", "recorded"), [("horovod", False), ("mpi", False), ("horovod", True)]
)
def test_one_ranks_bad_first_number_ends_all_at_the_first_average(run_job, backend, recorded):
    results = run_job(
        "bad_start", backend=backend, average="parameters", bad_at=0, recorded=recorded
    )
    for result in results:
        assert result["updates"] == 10
        assert "on rank 1 at update 10 " in result["said"]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("bad_at", [0, 4, 9])
def test_one_ranks_bad_number_ends_all_at_that_update(run_job, bad_at, recorded):
    """Parameters are those before that update, also if the step was recorded."""
    results = run_job("bad_start", average="gradients", bad_at=bad_at, recorded=recorded)
    for result in results:
        assert result["updates"] == bad_at
        assert f"on rank 1 at update {bad_at} " in result["said"]
        assert result["digests"][-1] == result["digests"][bad_at] == results[0]["digests"][bad_at]


def test_prioritised_ranks_with_noise_stay_bit_equal(run_job):
    changes = {
        "replay.sampling": "prioritized",
        "network.noisy": True,
        "network.dueling": True,
        "objective.distribution": "categorical",
    }
    ours, theirs = run_job("whole_run", changes=changes)
    assert ours["shares"] == theirs["shares"] == 18, "a mass and eight floors for each of two ranks"
    for name in ("online", "target", "optimizer", "updates", "score"):
        assert ours[name] == theirs[name], name
    assert ours["updates"] > 300


@pytest.mark.parametrize("part", range(3))
def test_every_preset_makes_real_updates_on_two_ranks(run_job, part):
    names = list(PRESETS)[part::3]
    results = run_job("presets", names=names)
    for name in names:
        ours, theirs = (result[name] for result in results)
        assert ours["updates"] == theirs["updates"] >= 3, name
        assert ours["score"] == theirs["score"], name
        assert ours["drift"] == 0, name
        assert ours["losses"], name
        assert all(math.isfinite(loss) and loss > 0 for loss in ours["losses"]), name


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_stay_bit_equal_while_episodes_end_at_different_times(run_job, ranks):
    results = run_job("whole_run", ranks=ranks)
    first = results[0]
    assert first["updates"] >= 360 if ranks == 2 else first["updates"] >= 250
    for result in results:
        for name in ("online", "target", "optimizer", "updates", "env_steps", "score"):
            assert result[name] == first[name], name
        assert len(result["episodes"]) > 10
    ends = [json.dumps(result["episodes"]) for result in results]
    assert len(set(ends)) == ranks, "each rank lives through episodes of its own"


def test_backends_agree_bit_for_bit_on_one_rank(run_job):
    runs = [
        run_job("whole_run", ranks=1, launcher=launcher, backend=backend)[0]
        for launcher, backend in (("none", "local"), ("horovodrun", "horovod"), ("mpirun", "mpi"))
    ]
    assert runs[0]["updates"] > 500
    assert runs[0] == runs[1] == runs[2]


def test_horovod_and_mpi_agree_bit_for_bit_on_two_ranks(run_job):
    runs = [run_job("whole_run", launcher="mpirun", backend=name) for name in ("horovod", "mpi")]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("target_period", "drift_at", "healed_at", "recorded"),
    [(10, 31, 32, False), (1000, 24, 24, False), (1000, 24, 25, True)],
)
def test_a_rank_that_drifts_is_noticed_healed_and_reported(
    run_job, target_period, drift_at, healed_at, recorded
):
    results = run_job(
        "drift", ranks=3, target_period=target_period, drift_at=drift_at, recorded=recorded
    )
    digests = [result["digests"] for result in results]
    for number, (one, two, three) in enumerate(zip(*digests, strict=True)):
        assert (one == two == three) == (not drift_at <= number < healed_at)
    assert [result["resyncs"] for result in results] == [1, 1, 1]
    assert results[0]["drift"] == results[1]["drift"] == 0
    assert results[2]["drift"] == pytest.approx(1e-3, rel=0.05)


def test_sums_and_the_end_wait_for_no_cycle_of_horovods_thread(tmp_path):
    """If updates waited for cycles, which take 20 s here, 60 updates would exceed the timeout."""
    sleepy = {"HOROVOD_CYCLE_TIME": "20000", "HOROVOD_IDLE_CYCLE_TIME": "20000"}
    ranks = Standing(tmp_path, ranks=2, launcher="horovodrun", backend="horovod", **sleepy)
    results = ranks.run("equivalence", {"size": 16, "updates": 60})
    ranks.dismiss()
    ranks.end()
    assert len(results) == 2
    for rank in range(2):
        closing = tmp_path / f"closing-rank-{rank}.json"
        assert json.loads(closing.read_text())[0] < 10
    assert results[0]["parameters"] == results[1]["parameters"]


@pytest.mark.parametrize("backend", ["horovod", "mpi"])
def test_a_sum_that_is_abandoned_ends_before_the_next_one_begins(run_job, backend):
    for result in run_job("abandoned", backend=backend):
        assert result["sums"] == [3.0, 23.0]


@pytest.mark.parametrize("backend", ["horovod", "mpi"])
def test_collectives(run_job, backend):
    results = run_job("gathering", ranks=3, backend=backend)
    for rank, result in enumerate(results):
        assert result["backend"] == backend
        assert result["gathered"] == results[0]["gathered"]
        assert result["gathered"][rank]["rank"] == rank
        assert result["gathered"][2]["text"] == "ü" * 2000
        assert result["sum"] == [6.0, 6.0]
        assert result["broadcast"] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert result["local_rank"] == rank


@pytest.mark.parametrize(
    ("ranks", "what", "rank", "size", "by"),
    [
        (2, "nothing", 0, 300_001, "WholeSum"),
        (3, "nothing", 0, 90_001, "WholeSum"),
        (3, "nothing", 0, 190_005, "PartedSum"),
        (3, "create", 0, 90_002, "NoneType"),
        (3, "open", 2, 90_003, "NoneType"),
        (3, "find", 1, 90_004, "NoneType"),
    ],
)
def test_ranks_that_cannot_share_memory_sum_by_messages(run_job, ranks, what, rank, size, by):
    total = ranks * (ranks + 1) / 2
    for result in run_job("refusing", ranks=ranks, backend="mpi", what=what, rank=rank, size=size):
        assert result == {"sums": [[total * factor] * 2 for factor in (1, 10, 100)], "by": by}
