"""Packages import only from lower layers; heavy libraries are named in one module each."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import hvd_dqn
from tests.launching import clean_environment

PACKAGE = Path(hvd_dqn.__file__).parent
TABLE = (PACKAGE.parent / "ARCHITECTURE.md").read_text().partition("## Layers")[2]
LAYER = {
    name: int(row[1])
    for row in re.finditer(r"^\| (\d+) \| (.*) \|$", TABLE, re.MULTILINE)
    for name in re.findall(r"(?:^|· )`(\w+)`", row[2])
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["hvd_dqn", *parts])


def test_every_package_has_a_layer():
    packages = {package_of(own_name(path)) for path in modules()} - {"__init__"}
    assert packages == set(LAYER)


def test_packages_import_only_from_lower_layers():
    wrong = []
    for path in modules():
        own = package_of(own_name(path))
        for name in imports_of(path):
            other = package_of(name)
            if not name.startswith("hvd_dqn.") or other not in LAYER or own in (other, "__init__"):
                continue
            if LAYER[other] >= LAYER[own]:
                wrong.append(f"{own_name(path)} (layer {LAYER[own]}) imports {name}")
    assert wrong == []


def test_horovod_and_mpi_are_named_by_their_backends_and_the_tools_alone():
    namers = {"horovod": set(), "mpi4py": set()}
    for path in modules():
        for name in imports_of(path):
            top = name.partition(".")[0]
            if top in namers and not own_name(path).startswith("hvd_dqn.tools."):
                namers[top].add(own_name(path))
    assert namers == {
        "horovod": {"hvd_dqn.distributed.horovod"},
        "mpi4py": {"hvd_dqn.distributed.mpi"},
    }


def printed(code: str, *words: str) -> list[str]:
    """By a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_process_loads_neither_horovod_nor_mpi():
    code = (
        "import sys\n"
        "from hvd_dqn.distributed import connect\n"
        "import hvd_dqn.training\n"
        "assert connect('auto').backend == 'local'\n"
        "print(sorted({'horovod', 'mpi4py'} & set(sys.modules)))"
    )
    assert printed(code) == ["[]"]


def test_torchs_compiler_is_loaded_where_it_is_asked_for_alone(tmp_path):
    """It takes a second at every start, and torch's optimizers and decorators load it, too."""
    code = (
        "import pathlib, sys\n"
        "from hvd_dqn.distributed.communicator import LocalCommunicator\n"
        "from hvd_dqn.run.directory import RunDirectory\n"
        "from hvd_dqn.training import train\n"
        "from tests.distributed.workers import small_config\n"
        "config = small_config().changed({'total_env_steps': 400})\n"
        "train(config, LocalCommunicator(), RunDirectory(pathlib.Path(sys.argv[1])))\n"
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)))"
    )
    assert printed(code, str(tmp_path / "run"))[-1] == "[]"


def test_nothing_unpickles():
    for path in modules():
        text = path.read_text()
        assert "pickle" not in imports_of(path), path
        assert " torch.load" not in text.replace("(", " "), path
        assert "allow_pickle" not in text, path
        # mpi4py pickles in what it writes small
        small = r"\.(bcast|allgather|allreduce|scatter|alltoall|sendrecv)\("
        assert not re.search(small, text), path
