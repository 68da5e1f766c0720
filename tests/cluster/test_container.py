"""The batch script for containers, in a runtime that clusters use and Debian has: Charliecloud.

tests/container/try.sh DIRECTORY        # makes the image, and leaves its files in DIRECTORY/tree
HVD_DQN_TEST_IMAGE=DIRECTORY/tree make cluster-test ARGS=tests/cluster/test_container.py
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from hvd_dqn.tools.slurm.site import Site
from tests.cluster.batch import Batch
from tests.cluster.hosts import skip_unless_possible
from tests.cluster.slurm import Slurm, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.long]

# As Apptainer does by itself: the image's own PATH, the directory that the job is in, no Python of
# the host's.
_RUN = """\
#!/bin/bash
image=$1
shift
export USER=${USER:-root}
exec ch-run --unset-env='PYTHON*' --set-env=PATH=/opt/hvd_dqn/bin:/usr/bin:/bin --cd="$PWD" \
  "$image" -- "$@"
"""


@pytest.mark.skipif(shutil.which("ch-run") is None, reason="Debian: charliecloud-runtime")
@pytest.mark.skipif("HVD_DQN_TEST_IMAGE" not in os.environ, reason="HVD_DQN_TEST_IMAGE is not set")
def test_two_nodes_in_a_container(tmp_path, tmp_path_factory):
    skip_unless_possible(why_not())
    run = tmp_path / "run-in-container"
    run.write_text(_RUN)
    run.chmod(0o755)
    base = tmp_path_factory.getbasetemp()
    image = os.environ["HVD_DQN_TEST_IMAGE"]
    with Slurm(tmp_path / "slurm", 2, base, Path(image)) as slurm:
        site = Site(container_command=str(run))
        batch = Batch(slurm, tmp_path / "job", env_steps=4800, container=image, site=site)
        batch.finish()
        facts = json.loads((batch.run_dir / "run.json").read_text())
    assert facts["hosts"] == ["node1", "node2"]
    assert facts["backend"] == "horovod"
    assert "/opt/hvd_dqn/" in facts["command"][0], "the image's, not this one"
    assert "greedy episodes" in batch.output
