"""horovodrun's cache of what it found out about hosts, in a home of any kind."""

import subprocess
import sys

import pytest

from hvd_dqn.tools.horovod.recipe import installed_recipe
from tests.launching import clean_environment, launcher_command

pytestmark = pytest.mark.multirank


@pytest.fixture
def make_cache():
    if installed_recipe() is None:
        pytest.skip("this Horovod comes from elsewhere")
    from horovod.runner.util.cache import Cache

    return lambda folder: Cache(str(folder), 60, "-np 2")


def test_what_one_launch_found_the_next_one_knows(make_cache, tmp_path):
    make_cache(tmp_path / "new" / ".horovod").put("ssh", True)
    assert make_cache(tmp_path / "new" / ".horovod").get("ssh") is True
    names = [path.name for path in (tmp_path / "new" / ".horovod").iterdir()]
    assert names == ["cache.bin"], "no partial files"


@pytest.mark.parametrize("home", ["/proc/none", "/dev/full", "~"])
def test_a_home_that_cannot_be_written_costs_the_cache(make_cache, tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    cache = make_cache(f"{home}/.horovod")
    cache.put("ssh", True)
    assert cache.get("ssh") is True
    assert list(tmp_path.iterdir()) == [], "a home that is not known is no directory here"


@pytest.mark.parametrize("content", [b"", b"(dp0\nVparameters_", b"I7\n."])
def test_a_damaged_cache_is_replaced(make_cache, tmp_path, content):
    (tmp_path / "cache.bin").write_bytes(content)
    cache = make_cache(tmp_path)
    assert cache.get("ssh") is None
    cache.put("ssh", True)
    assert make_cache(tmp_path).get("ssh") is True


def test_launches_that_start_together_share_a_home(make_cache, tmp_path):
    """A reader never meets a file that another launch is writing."""
    program = (
        "import sys\n"
        "from horovod.runner.util.cache import Cache\n"
        "for number in range(200):\n"
        "    cache = Cache(sys.argv[1], 60, str(number % 2))\n"
        "    cache.put('key', 'x' * 100_000)\n"
        "    assert Cache(sys.argv[1], 60, str(number % 2)).get('key') in (None, 'x' * 100_000)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / ".horovod")]
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, env=clean_environment(), text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[1] for process in processes] == [""] * 3


def test_horovodrun_starts_without_a_home(make_cache):
    environment = clean_environment(HOME="/proc/none")
    command = [*launcher_command("horovodrun", 1), "true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
