"""What the import contract of pyproject.toml cannot see."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("envs", "agents", "rewards", "models", "evaluation", "training")
SCRIPTS = {"train", "evaluate", "compare", "audit", "teach", "joke"}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_imports_the_scripts(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not SCRIPTS & set(imported(file)), file


@pytest.mark.parametrize(
    "module", ["envs", "evaluation.bias", "evaluation.render", "rewards.types", "rewards.protocols"]
)
def test_text_folders_come_without_torch(module):
    code = f"import sys, {module}; print(*{{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
