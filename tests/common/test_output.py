"""Printing to a full disk, a closed descriptor, a reader that has gone, or in a narrow encoding."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import hvd_dqn
from hvd_dqn.common.errors import RunError
from hvd_dqn.common.output import TolerantStream, is_lost, print_data, tolerant, tolerant_output
from tests.distributed.workers import small_config
from tests.launching import clean_environment

COMMAND = [sys.executable, "-m", "hvd_dqn"]


def broken_pipe():
    """Return the writing end of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def hung_up_terminal():
    """Return a terminal whose window was closed."""
    master, slave = pty.openpty()
    os.close(master)
    return os.fdopen(slave, "w")


def full_disk():
    return os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")


def closed_file():
    file = full_disk()
    file.close()
    return file


@pytest.mark.parametrize("make", [broken_pipe, hung_up_terminal, closed_file])
def test_a_reader_that_has_gone_is_not_written_to_again(make):
    stream = tolerant(make())
    for _ in range(3):
        print("a line", file=stream, flush=True)
    assert is_lost(stream)
    assert not stream.isatty()


def test_a_full_disk_drops_lines_until_there_is_space(tmp_path):
    """The descriptor of a log on a full disk; then the same descriptor, with space."""
    log = tmp_path / "log"
    file = full_disk()
    stream = tolerant(file)
    print("lost", file=stream, flush=True)
    print("x" * 100_000, file=stream, flush=True)
    assert not is_lost(stream)
    with log.open("w") as space:
        os.dup2(space.fileno(), file.fileno())
    print("kept", file=stream, flush=True)
    assert log.read_text() == "kept\n"
    file.close()


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "ε · ±", b"? ? ?"),
        ("latin-1", "ε · ±", b"? \xb7 \xb1"),
        ("utf-8", "name-\udcff", b"name-?"),  # a file name that is not UTF-8
    ],
)
def test_letters_that_the_encoding_lacks_become_question_marks(encoding, text, shown):
    data = io.BytesIO()
    stream = TolerantStream(io.TextIOWrapper(data, encoding=encoding))
    stream.writelines([text])
    stream.flush()
    assert data.getvalue() == shown


def test_the_context_is_left_as_it_was_entered(capsys):
    before = sys.stdout, sys.stderr
    with tolerant_output(), tolerant_output():
        assert isinstance(sys.stdout, TolerantStream)
        print("seen")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "seen\n"


def test_data_that_is_lost_is_an_error_unless_the_reader_wants_no_more(monkeypatch):
    monkeypatch.setattr("sys.stdout", tolerant(broken_pipe()))
    print_data("{}")
    monkeypatch.setattr("sys.stdout", tolerant(full_disk()))
    with pytest.raises(RunError, match="No space left on device"):
        print_data("{}")


@pytest.mark.parametrize("make", [broken_pipe, hung_up_terminal, full_disk])
def test_a_run_from_python_ends_whatever_happens_to_its_output(make, tmp_path, monkeypatch):
    """A callback that prints is covered too."""
    with make() as output:
        monkeypatch.setattr("sys.stdout", output)
        monkeypatch.setattr("sys.stderr", output)
        run = hvd_dqn.train(small_config(), run_dir=tmp_path / "run", callbacks=[print])
        output.flush()  # nothing of the run is left in the buffer, to fail at the exit
        monkeypatch.undo()
    assert run.summary is not None
    assert "closing/return_mean" in (run.run_dir / "metrics.jsonl").read_text()


@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full >&2", ">&-", "<&- >&- 2>&-"])
def test_a_command_ends_with_its_exit_code(redirection):
    """Also where Python itself flushes the streams, at its exit."""
    line = f'"$@" {redirection}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, "presets"],
        env=clean_environment(PYTHONPATH=str(Path.cwd())),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pipe_that_is_closed_early_ends_a_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "train", "cartpole", "--help"],
        env=clean_environment(PYTHONPATH=str(Path.cwd())),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_descriptor_is_not_given_to_the_next_file(tmp_path):
    """Otherwise what a library prints would be written into the run's records."""
    code = (
        "import os, sys\n"
        "from hvd_dqn.common.output import make_output_tolerant\n"
        "make_output_tolerant()\n"
        "file = open(sys.argv[1], 'w')\n"
        "os.write(1, b'of a library'); os.write(2, b'of a library')\n"
        "print('seen by nobody'); print('seen by nobody', file=sys.stderr)\n"
        "file.write(str(file.fileno() > 2))"
    )
    subprocess.run(
        ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code, tmp_path / "file"],
        env=clean_environment(PYTHONPATH=str(Path.cwd())),
        timeout=60,
        check=True,
    )
    assert (tmp_path / "file").read_text() == "True"


def test_a_working_directory_that_was_removed_is_named(tmp_path):
    """As a job's scratch directory that was cleaned."""
    command, place = tmp_path / "command.py", tmp_path / "place"
    command.write_text(
        "import os; os.rmdir(os.getcwd()); from hvd_dqn.commands import cli; cli.main()"
    )
    place.mkdir()
    done = subprocess.run(
        [sys.executable, str(command)],
        env=clean_environment(PYTHONPATH=str(Path.cwd())),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "hvd-dqn: the working directory was removed: cd to another one\n"
