"""File systems without hard links, locks or directory sync (FUSE, CIFS, object stores, Lustre),
and NFS, which keeps files that somebody reads.
"""

import errno
import fcntl
import os
import stat

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import rename_to_new, sync_directory
from hvd_dqn.config import Config
from hvd_dqn.interface import train
from hvd_dqn.run.directory import RunDirectory
from tests.distributed.workers import small_config


def refuse(code):
    def call(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return call


@pytest.fixture
def poor(monkeypatch):
    """Replaces what such file systems refuse."""
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOSYS))
    monkeypatch.setattr(os, "rmdir", refuse(errno.ENOTEMPTY))
    really = os.fsync

    def sync_files_only(descriptor):
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        (refuse(errno.EINVAL) if is_directory else really)(descriptor)

    monkeypatch.setattr(os, "fsync", sync_files_only)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_rename_to_one_name_one_succeeds(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    rename_to_new(tmp_path / "a", tmp_path / "config.json")
    with pytest.raises(FileExistsError):
        rename_to_new(tmp_path / "b", tmp_path / "config.json")
    assert (tmp_path / "config.json").read_text() == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "config.json"]


def test_one_that_is_renaming_keeps_others_out(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse(errno.EOPNOTSUPP))
    (tmp_path / "a").write_text("a")
    (tmp_path / ".config.json.claim").touch()
    with pytest.raises(FileExistsError):
        rename_to_new(tmp_path / "a", tmp_path / "config.json")
    assert (tmp_path / "a").exists()


def test_a_directory_that_cannot_be_synced_is_told_from_a_broken_disk(tmp_path, monkeypatch):
    assert sync_directory(tmp_path) is True
    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    assert sync_directory(tmp_path) is False
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        sync_directory(tmp_path)


@pytest.mark.usefixtures("poor")
def test_a_run_trains_on_such_a_file_system_and_says_once_what_it_lacks(tmp_path, capfd):
    changes = {"total_env_steps": 400, "checkpoint.keep": 1, "evaluation.keep_networks": 1}
    changes |= {"evaluation.period_env_steps": 100, "checkpoint.period_env_steps": 100}
    done = train(small_config().changed(changes), run_dir=tmp_path / "run")
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("hvd-dqn:")]
    assert len(told) == 2, told
    assert "cannot be locked (Function not implemented): start no second run in it" in told[0]
    assert "directory sync" in told[1]
    assert done.summary is not None
    assert done.summary.progress.updates > 0
    assert list((tmp_path / "run").glob("checkpoints/*/manifest.json"))
    assert list((tmp_path / "run").glob("networks/*/manifest.json"))
    with pytest.raises(UserError, match="another run created"):
        RunDirectory(tmp_path / "run").create(Config(), {})
