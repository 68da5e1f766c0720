"""On a GPU: the same update, and ranks that own one or share one."""

import json

import pytest
import torch

from hvd_dqn.distributed.communicator import LocalCommunicator
from tests.distributed import workers
from tests.distributed.test_command import SMALL
from tests.launching import hvd_dqn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


def test_the_update_is_the_cpus_to_float_tolerance():
    learners = [
        workers.make_learner(LocalCommunicator(), seed=0, device=torch.device(name))
        for name in ("cpu", "cuda")
    ]
    for batch in workers.batches(50, 32):
        for learner in learners:
            device = learner.online_parameters.values.device
            moved = [v.to(device) for v in batch if isinstance(v, torch.Tensor)]
            learner.start(workers.Batch(*moved, batch.slot, batch.share))
            learner.finish()
    on_cpu, on_gpu = (learner.online_parameters.values.cpu() for learner in learners)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.multirank
@pytest.mark.parametrize("backend", ["horovod", "mpi"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_train_on_gpus_shared_or_not(tmp_path, ranks, backend):
    run_dir = tmp_path / "run"
    options = ["--device", "cuda", "--distributed.backend", backend, "--run-dir", str(run_dir)]
    done = hvd_dqn("train", "cartpole", *SMALL, *options, ranks=ranks)
    assert done.code == 0, done.output
    facts = json.loads((run_dir / "run.json").read_text())
    assert facts["device"].startswith("cuda")
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    logged = [record for record in records if "speed/env_steps_per_second" in record]
    assert logged[-1]["updates"] > 0
    assert all(r["distributed/drift_max"] == 0 == r["distributed/resyncs"] for r in logged)
