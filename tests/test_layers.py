"""The packages of workbench/ are layers, and only the lowest two know operators by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.operators import OPERATORS
from workbench.toolchain import REPO

ROOT = REPO / "workbench"
# Bottom to top.
LAYERS = (
    *("toolchain", "operators", "harness", "estimate", "explain"),
    *("interactive", "listing", "plots", "history", "cli"),
)
FILES = sorted(file for layer in LAYERS for file in (ROOT / layer).rglob("*.py"))


def layer_of(file: Path) -> int:
    """The layer of a file; a command line counts as cli, whatever its package."""
    return LAYERS.index("cli" if file.name == "__main__.py" else file.relative_to(ROOT).parts[0])


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, including inside functions, by full name."""
    package = file.relative_to(REPO).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [*base, *(node.module.split(".") if node.module else ())]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def layers_imported(file: Path) -> Iterator[str]:
    """The packages that a file imports from; a public function belongs to its operator."""
    for name in imported(file):
        top, *inside = name.split(".")
        if top == "workbench":
            yield inside[0] if inside[:1] and inside[0] in LAYERS else "operators"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down(file):
    above = [layer for layer in layers_imported(file) if LAYERS.index(layer) > layer_of(file)]
    assert not above, f"{file} imports {', '.join(sorted(set(above)))}"


def test_imports_are_found():
    """Each kind of import: absolute, relative, of the package itself, in a function."""
    found = set(imported(ROOT / "operators" / "softmax.py"))
    assert {"workbench.operators.builds", "workbench.operators.softmax_backward"} <= found
    assert "workbench.operators" in set(imported(ROOT / "cli" / "main.py"))
    assert "estimate" in set(layers_imported(ROOT / "cli" / "main.py"))


def test_only_operators_are_asked_for_by_name():
    """In no other layer above the toolchain, including comments, so that grep shows it, too."""
    for layer in LAYERS[2:]:
        for file in (ROOT / layer).rglob("*.py"):
            text = file.read_text().lower()
            named = [operator for operator in OPERATORS if operator in text]
            assert not named, f"{file} names {', '.join(named)}"
