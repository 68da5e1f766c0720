"""Files that commands write: whole or not at all, where the user meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvd_dqn.commands import cli
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import absolute, read_bounded, replacing, require_writable
from tests.short_runs import run_of


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "new/result.json"
    with replacing(path) as file:
        assert file.suffix == ".json"
        file.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"

    def write_half():
        with replacing(path) as file:
            file.write_text("half of the sec")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere/file.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link) as file:
        file.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert require_writable(pipe) == pipe
    with replacing(pipe) as file:
        file.write_text("text")
    assert os.read(reader, 10) == b"text"
    assert pipe.is_fifo()
    os.close(reader)


def test_what_cannot_be_written_is_refused_early_and_nothing_is_left(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file/below", Path("/proc/nowhere/file")):
        with pytest.raises(UserError, match=r"is a directory|cannot be written"):
            require_writable(path)
    monkeypatch.chdir(tmp_path)
    assert require_writable(Path("new/file")) == tmp_path / "new/file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UserError, match="cannot be written"), replacing(tmp_path / "file/x"):
        pass


def test_a_working_directory_that_was_removed_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match="the working directory was removed"):
        absolute("runs/a")
    assert absolute("/runs/a") == Path("/runs/a")
    monkeypatch.chdir(tmp_path)


def test_a_link_is_read_only_if_it_may_be_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match="is a symbolic link: replace it by the file"):
        read_bounded(tmp_path / "link", 5)
    assert read_bounded(tmp_path / "link", 5, follow=True) == b"12345"
    with pytest.raises(UserError, match="larger than the limit of 4"):
        read_bounded(tmp_path / "link", 4, follow=True)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "RUN", "--network", "17", "--output", "OUT.json"],
        ["export", "RUN", "--network", "17", "--output", "OUT.onnx"],
        ["export", "RUN", "--format", "torch", "--network", "17", "--output", "OUT.pt2"],
        ["plot", "RUN", "--figures", "return", "--output", "OUT.xyz"],
        ["report", "RUN/networks", "--output", "OUT.html"],
        ["play", "RUN", "--network", "17", "--video", "OUT.gif"],
        ["play", "RUN", "--video", "OUT.gif"],
        ["slurm", "render", "--output", "OUT.sh", "--", "train", "cartpol"],
        ["bench", "train", "--json", "OUT.json", "--", "cartpol"],
    ],
)
def test_a_command_that_fails_leaves_no_file(tmp_path, command, monkeypatch, capsys):
    run = run_of(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "results").mkdir()
    names = {"RUN": str(run), "OUT": str(tmp_path / "results/out")}
    if command[-1] == "OUT.gif":

        def broken(envs):
            raise UserError("it cannot be drawn")

        monkeypatch.setattr("hvd_dqn.envs.VectorEnvironment.picture", broken)
    words = [word.replace("RUN", names["RUN"]).replace("OUT", names["OUT"]) for word in command]
    assert cli.run(words) == 2
    assert list((tmp_path / "results").iterdir()) == []
    (tmp_path / "results").rmdir()
    assert sorted(tmp_path.rglob("*")) == before
