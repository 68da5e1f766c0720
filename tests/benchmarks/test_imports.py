import ast
import importlib

import pytest

from tests.benchmarks import BENCHMARKS


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_what_a_script_imports_from_the_package_exists(script):
    """Scripts for other libraries cannot be imported here, and linters do not see such names."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hvd_dqn"):
            module = importlib.import_module(node.module)
            assert {name.name for name in node.names} <= set(dir(module)), node.module
