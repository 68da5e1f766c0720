"""A job on the virtual Slurm, in a directory of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from hvd_dqn.tools.slurm.job import Job, Work
from hvd_dqn.tools.slurm.script import render
from hvd_dqn.tools.slurm.site import Site
from tests.checkpoints import everything
from tests.cluster.slurm import Slurm
from tests.distributed.workers import small_config


class Batch:
    """A submitted job, in a directory of its own."""

    def __init__(
        self,
        slurm: Slurm,
        place: Path,
        *options: str,
        env_steps=1200,
        programs="",
        changes=None,
        site=None,
        **job,
    ) -> None:
        self.slurm = slurm
        place.mkdir()
        config = small_config().changed(
            {"total_env_steps": env_steps, "checkpoint.period_env_steps": 300} | (changes or {})
        )
        (place / "config.json").write_text(config.to_json())
        geometry = Job(**{"nodes": 2, "time": "00:10:00"} | job)
        words = ["train", "--config", str(place / "config.json")]
        work = Work(words, config, geometry)
        own = Site(activate=f"export PATH={programs}:{Path(sys.executable).parent}:$PATH")
        (place / "job.sh").write_text(render(geometry, work, site or own, "a test"))
        self.place = place
        said = slurm.run(
            "sbatch", "--parsable", f"--chdir={place}", *options, str(place / "job.sh")
        )
        self.number = said.splitlines()[-1]

    @property
    def run_dir(self) -> Path:
        return self.place / "runs" / f"hvd-dqn-{self.number}"

    @property
    def output(self) -> str:
        return "".join(path.read_text() for path in self.place.glob("*.out"))

    def finish(self) -> None:
        state = self.slurm.wait(self.number)
        assert state == "COMPLETED", f"{state}: {self.output}"

    def is_training(self) -> bool:
        return bool(list(self.run_dir.glob("checkpoints/step-*/manifest.json")))

    def come_back(self) -> None:
        """Wait until the job is requeued, and let it start at once."""
        self.slurm.wait(self.number, "PENDING")
        self.slurm.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")

    def checkpoints(self):
        return everything(self.run_dir / "checkpoints")
