"""Runs docs/first_kernel.ipynb and stores what its cells output.

``python -m docs.notebook`` rewrites the outputs that say something else (docs.alike); ``--dry-run``
writes nothing and exits with 1 if there are any.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from typing import Any

from docs.alike import same
from workbench.harness.terminal import progress
from workbench.toolchain import command
from workbench.toolchain.errors import Failure
from workbench.toolchain.paths import REPO

FILE = REPO / "docs" / "first_kernel.ipynb"
SECONDS = 600  # for a cell; the first that calls a kernel may have to build the simulator
# What differs from run to run.
_BUILT = re.compile(r"^(?:built .* in [\d.]+ s|building .* \.\.\.)\n", re.M)


def read() -> Any:
    """The notebook, as it is stored."""
    nbformat = _library("nbformat")
    return nbformat.read(FILE, as_version=4)


def execute(notebook: Any) -> None:
    """Run the cells of a notebook in the folder of FILE, by a kernel of their own.

    Raises:
        Failure: a package is missing, or a cell raises.
    """
    nbclient = _library("nbclient")
    _library("ipykernel")
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # not that it speaks to this process only
        timeout=SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(FILE.parent)}},
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with progress(len(code)) as step:
        client.on_cell_execute = lambda cell, cell_index: step(_title(cell))
        try:
            client.execute()
        except nbclient.exceptions.CellExecutionError as error:
            raise Failure(f"{FILE.relative_to(REPO)}: a cell raises\n{error}") from None
    for cell in code:
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in map(_kept, cell.outputs) if output is not None]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise Failure(f"{name} is not installed: pip install --group notebook") from None


def _title(cell: Any) -> str:
    return next((line for line in cell.source.splitlines() if line.strip()), "")[:60]


def _kept(output: Any) -> Any | None:
    """An output without what says how long builds took; None if there is nothing else."""
    if output.output_type != "stream":
        return output
    output.text = _BUILT.sub("", output.text)
    return output if output.text else None


def stale(stored: Any, now: Any) -> list[int]:
    """The positions of cells whose outputs are not those that are stored."""
    pairs = enumerate(zip(stored.cells, now.cells, strict=True))
    return [i for i, (a, b) in pairs if not same(_text(a), _text(b))]


def _text(cell: Any) -> str:
    return json.dumps(list(cell.get("outputs", ())), sort_keys=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebook and write the file, or with ``--dry-run`` say what is not up to date."""
    parser = command.Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    dry = parser.parse_args(arguments).dry_run
    nbformat = _library("nbformat")
    stored, now = read(), read()
    execute(now)
    changed = stale(stored, now)
    for i in changed:
        state = "not up to date" if dry else "updated"
        print(f"{FILE.relative_to(REPO)}: cell {i + 1} is {state}: {_title(now.cells[i])}")
    if dry:
        return int(bool(changed))
    for i, cell in enumerate(now.cells):
        if i not in changed and cell.cell_type == "code":
            cell.outputs = stored.cells[i].outputs
    now.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(now, FILE)
    return 0


if __name__ == "__main__":
    command.run(main)
