"""The changes to Horovod's source. The set-up of every test run applies the real ones."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from hvd_dqn.common.errors import UserError
from hvd_dqn.tools.horovod import source as horovod_source
from hvd_dqn.tools.horovod.source import (
    apply_patches,
    change_source,
    changes_digest,
    cxx_standard,
    patch_files,
)

ROOT = Path(__file__).parents[3]
PATCH = """\
Why: {why}

--- a/text
+++ b/text
@@ -1,3 +1,3 @@
 one
-{old}
+{new}
 three
"""


def write_patch(directory, name, old, new):
    path = directory / name
    path.write_text(PATCH.format(why="a test", old=old, new=new))
    return path


@pytest.mark.parametrize(
    ("torch", "standard"),
    [("2.0.1", 14), ("2.1.0", 17), ("2.13.0+cpu", 17), ("2.14.0", 20), ("3.0.0.dev1", 20)],
)
def test_the_standard_that_torch_requires(torch, standard):
    assert cxx_standard(Version(torch)) == standard


@pytest.mark.parametrize("program", ["patch", "git"])
def test_patches_apply_one_after_the_other(tmp_path, monkeypatch, program):
    find = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: find(name) if name == program else None)
    source = tmp_path / "source"
    source.mkdir()
    (source / "text").write_text("one\ntwo\nthree\n")
    first = write_patch(tmp_path, "1.patch", "two", "2")
    second = write_patch(tmp_path, "2.patch", "2", "II")
    apply_patches(source, [first, second])
    assert (source / "text").read_text() == "one\nII\nthree\n"
    assert [path.name for path in source.iterdir()] == ["text"]


@pytest.mark.parametrize("program", ["patch", "git"])
@pytest.mark.parametrize("text", ["one\nII\nthree\n", "one\ntwo\n3\n", "one\n2\nthree\n"])
def test_a_patch_that_does_not_fit_exactly_is_refused(tmp_path, monkeypatch, text, program):
    find = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: find(name) if name == program else None)
    (tmp_path / "text").write_text(text)
    patch = write_patch(tmp_path, "1.patch", "two", "2")
    with pytest.raises(UserError, match=r"1\.patch does not fit .*not Horovod 0\.28\.1"):
        apply_patches(tmp_path, [patch])


def test_another_horovod_is_refused(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text("set(CMAKE_CXX_STANDARD 23)\n")
    with pytest.raises(UserError, match=r"not Horovod 0\.28\.1"):
        change_source(
            tmp_path,
            torch_version=Version("2.13"),
            with_cuda=False,
            extra_library_dirs=[],
            record={},
        )


def test_every_patch_says_why_what_was_measured_and_for_which_builds():
    patches = patch_files()
    assert patches
    for patch in patches:
        header = patch.read_text().partition("\n--- a/")[0]
        for word in ("\nWhy: ", "\nMeasured: ", "\nBuilds: "):
            assert word in header, patch.name


def test_the_digest_depends_on_every_patch(tmp_path, monkeypatch):
    monkeypatch.setattr(horovod_source, "PATCHES", tmp_path)
    write_patch(tmp_path, "1.patch", "two", "2")
    digests = {changes_digest()}
    last = write_patch(tmp_path, "2.patch", "2", "II")
    digests.add(changes_digest())
    last.write_text(last.read_text().replace("II", "zwei"))
    digests.add(changes_digest())
    assert len(digests) == 3


def test_a_wheel_of_this_package_holds_the_patches(tmp_path):
    """Built from a copy, so that nothing is left in the checkout."""
    copy = tmp_path / "copy"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "hvd_dqn", copy / "hvd_dqn", ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    (copy / "setup.py").write_text(
        "from setuptools import setup\n\nsetup()\n"
    )  # nothing to compile
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    held = {name for name in names if name.endswith(".patch")}
    assert held == {str(path.relative_to(ROOT)) for path in patch_files()}
