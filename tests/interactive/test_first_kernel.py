"""docs/first_kernel.ipynb, run by a Jupyter kernel; what notebooks show of printf and errors."""

from __future__ import annotations

import copy
import re
import subprocess
from importlib import util
from pathlib import Path

import pytest

from docs import notebook

NEEDED = "needs a Jupyter kernel: pip install --group notebook"
nbformat = pytest.importorskip("nbformat", reason=NEEDED)
pytest.importorskip("nbclient", reason=NEEDED)
pytest.importorskip("ipykernel", reason=NEEDED)

PRINTING = '''
source = """
#include <cstdio>
__global__ void say_kernel(float* x, int n) {
  printf("kernel %d\\\\n", n);
  x[n] = 1;
}
void say(float* x, int n) { puts("launcher"); say_kernel<<<1, 1>>>(x, n); }
"""
say = inline(source, "say").say
x = torch.zeros(4)
'''
# After the cells of the notebook, in the same process.
MORE = {
    "order": "print('a'); say(x, 1); print('b'); say(x, 2); print('c')",
    "crash": "print('before')\nsay(x, 5)",
    "check": "bool(say.check(x, 5))",
    "compiler": "inline(source.replace('puts', 'outs'), 'say')",
    "argument": "say(x.double(), 0)",
    "name": "inline(source, 'sai')",
}


@pytest.fixture(scope="module")
def ran():
    """The cells that ran: the notebook's, and by name those of MORE."""
    made = notebook.read()
    stored = copy.deepcopy(made)
    cells = [nbformat.v4.new_code_cell(PRINTING), *map(nbformat.v4.new_code_cell, MORE.values())]
    for cell in cells[1:]:
        cell.metadata.tags = ["raises-exception"]
    count = len(made.cells)
    made.cells += cells
    notebook.execute(made)
    more = dict(zip(MORE, made.cells[count + 1 :], strict=True))
    made.cells = made.cells[:count]
    return stored, made, more


def text_of(cell) -> str:
    """What a cell printed."""
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def error_of(cell) -> list[str]:
    """The lines of its error, without colours."""
    (error,) = (output for output in cell.outputs if output.output_type == "error")
    return [re.sub(r"\x1b\[\d+m", "", line) for line in error.traceback]


def test_stored_outputs_are_true(ran):
    stored, now, _ = ran
    assert notebook.stale(stored, now) == [], "run python -m docs.notebook"


def test_what_the_notebook_shows(ran):
    """The bug is found, the fixes hold, and a cell that fails would have stopped it."""
    _, now, _ = ran
    texts = [o.data["text/plain"] for c in now.cells for o in c.get("outputs", ()) if "data" in o]
    verdicts = [re.search(r": (a finding|no findings)", text) for text in texts]
    assert [v[1] for v in verdicts if v] == ["a finding", "no findings"] * 2
    assert (
        sum("text/html" in o.data for c in now.cells for o in c.get("outputs", ()) if "data" in o)
        == 8
    )
    code = [cell for cell in now.cells if cell.cell_type == "code"]
    assert not [
        c for c in code for o in c.outputs if o.output_type == "error" or o.get("name") == "stderr"
    ]
    assert not re.search(r"/tmp|/home|/work|/root", repr([c.outputs for c in code]))


def test_printf_comes_in_order(ran):
    say = ["launcher", "kernel 1", "b", "launcher", "kernel 2", "c"]
    assert text_of(ran[2]["order"]).splitlines() == ["a", *say]


def test_printf_before_a_crash(ran):
    cell = ran[2]["crash"]
    assert text_of(cell).splitlines() == ["before", "launcher", "kernel 5"]
    lines = error_of(cell)
    assert lines[0].startswith("SimulatorError: memcheck: out-of-bounds write of 4 bytes")
    assert lines[1].startswith("  at say.cu:5 ")
    assert lines[-1] == "  called in line 2: say(x, 5)"
    assert len(lines) < 10, "no traceback"


def test_check_prints_and_returns(ran):
    cell = ran[2]["check"]
    assert text_of(cell).splitlines() == ["launcher", "kernel 5"]
    assert cell.outputs[-1].data["text/plain"] == "False"


def test_errors_are_their_messages(ran):
    cells = ran[2]
    lines = error_of(cells["compiler"])
    assert lines[0] == 'say.cu:7: error: identifier "outs" is undefined'
    assert lines[2].strip() == "^" and "Traceback" not in "".join(lines)
    assert "\x1b[" in "".join(cells["compiler"].outputs[-1].traceback), "in colour"
    assert error_of(cells["argument"]) == [
        "TypeError: say: x is torch.float64; expected torch.float32 for float* x",
        "  called in line 1: say(x.double(), 0)",
    ]
    assert error_of(cells["name"])[0].startswith("ValueError: the source defines no function sai")


def test_stale_outputs_are_noticed(ran):
    stored, _, _ = ran
    changed = copy.deepcopy(stored)
    with_text = [
        i for i, c in enumerate(changed.cells) for o in c.get("outputs", ()) if "text" in o
    ]
    changed.cells[with_text[0]].outputs[0].text += "more"
    assert notebook.stale(stored, changed) == with_text[:1]


def test_the_first_cell_installs_only_where_there_is_nothing(tmp_path: Path, monkeypatch):
    """As in Colab, with nothing that really runs."""
    cell = next(c for c in notebook.read().cells if c.cell_type == "code").source
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: ran.append(words))
    monkeypatch.syspath_prepend(str(tmp_path))  # so that sys.path is restored
    monkeypatch.chdir(notebook.FILE.parent)
    exec(cell, {})
    monkeypatch.chdir(tmp_path)
    exec(cell, {})
    assert ran == [], "the package is there"
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    names: dict = {}
    exec(cell, names)
    assert ran[0][:2] == ["git", "clone"] and names["REPOSITORY"] in ran[0]
    assert ran[1][1:4] == ["-m", "pip", "install"]
    assert ran[1][-1] == str(tmp_path / "cuda-kernel-workbench" / "requirements.txt")
