"""The tunables of the ladders: how they are found, and how their values are replaced."""

import re

import pytest

from workbench import operators
from workbench.operators import builds, tunables
from workbench.operators.builds import Rung
from workbench.operators.tunables import of_rung, parse, replaced
from workbench.toolchain import BuildError, kernels_dir

LADDERS = [
    (op, target)
    for op, operator in ((op, operators.get(op)) for op in operators.OPERATORS)
    for target in ("simulator", "cpu")
    if target in operator.defaults
]
# Tunables of several rungs, and one that is not named after its rung.
SHARED = {
    ("transpose", "TILE_ROWS"): {"naive", "tiled", "padded", "swizzled"},
    ("softmax", "CLUSTER_NUM_THREADS"): {"cluster", "cluster_pipelined"},
    ("softmax", "CLUSTER_SLICE_BYTES"): {"cluster", "cluster_pipelined"},
    ("softmax", "CLUSTER_BUSY_BLOCKS"): {"cluster", "cluster_pipelined"},
    ("attention", "SUMS"): {"cpu_fused_row"},
}


def found(op: str, target: str) -> dict[tuple[str, str], set[str]]:
    """(file, tunable) -> its rungs."""
    files = tunables.files(op, target)
    rungs: dict[tuple[str, str], set[str]] = {}
    for rung in builds.rungs(op, target):
        for tunable in of_rung(rung, target, files):
            rungs.setdefault((tunable.file, tunable.name), set()).add(rung.name)
    return rungs


def named_after(tunable: str, op: str, target: str) -> str:
    """The rung with the longest name whose end, in capitals, begins the tunable's name."""
    ends: dict[int, list[tuple[int, str]]] = {}
    for rung in builds.rungs(op, target):
        parts = rung.name.upper().split("_")
        for i in range(len(parts)):
            end = "_".join(parts[i:]) + "_"
            if tunable.startswith(end):
                ends.setdefault(len(end), []).append((i, rung.name))
    return min(ends[max(ends)])[1] if ends else ""


@pytest.mark.parametrize(("op", "where"), LADDERS)
def test_every_tunable_belongs_to_the_rungs_that_use_it(op, where):
    for (_, name), rungs in found(op, where).items():
        assert rungs == SHARED.get((op, name), {named_after(name, op, where)}), name


def test_no_tunable_is_left_out():
    every = {key for ladder in LADDERS for key in found(*ladder)}
    marked = re.compile(r"^\s*constexpr int (\w+) = .*//.*tunable: ", re.M)
    in_files = {
        (file.name, name)
        for file in kernels_dir().iterdir()
        for name in marked.findall(file.read_text())
    }
    assert every == in_files and len(every) > 100


def test_what_a_line_says():
    text = (
        "// a comment with a tunable in it\n"
        "constexpr int A = 32;  // tunable: 16, 32\n"
        "constexpr int B = -1;  // of a warp. tunable: -1, 0; not the block's\r\n"
        "static constexpr int C = 0;// tunable: 0"
    )
    a, b, c = parse("x.cu", text)
    assert (a.name, a.value, a.choices, a.line) == ("A", 32, (16, 32), 2)
    assert (b.name, b.value, b.choices, b.line) == ("B", -1, (-1, 0), 3)
    assert (c.name, c.value, c.choices, c.line) == ("C", 0, (0,), 4)
    assert [text[slice(*t.span)] for t in (a, b, c)] == ["32", "-1", "0"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("// tunable: 16, 32", "a tunable is one line"),
        ("constexpr int A = 32;  // tunable: 16,32", "a tunable is one line"),
        ("constexpr int A = 32;  // tunable: 16, 32, ...", "a tunable is one line"),
        ("constexpr int A = 32;  // tunable:", "a tunable is one line"),
        ("constexpr int A = 2 * 16;  // tunable: 16, 32", "a tunable is one line"),
        ("const int A = 32;  // tunable: 16, 32", "a tunable is one line"),
        (f"constexpr int A = {'9' * 12};  // tunable: {'9' * 12}", "a tunable is one line"),
        ("constexpr int A = 8;  // tunable: 16, 32", "A is 8, which its comment lacks"),
        ("constexpr int A = 16;  // tunable: 16, 32, 16", "A lists a value twice"),
    ],
)
def test_a_comment_that_cannot_be_read_is_an_error_with_its_place(line, words):
    with pytest.raises(BuildError, match=rf"matmul\.cu:3: {words}"):
        parse("matmul.cu", f"\n\n{line}\n")


FILES = {
    "softmax.cu": """#include "a.cuh"
// --------------------------------------------------------------------------------
// one
constexpr int ONE_TILE = 16;  // tunable: 16, 32
void softmax_one(const Problem& p, cudaStream_t stream) { run(ONE_TILE); }
// --------------------------------------------------------------------------------
// two, which mentions ONE_TILE
constexpr int COUNT = 2;  // tunable: 1, 2
static void launch_two(
    const Problem& p, cudaStream_t stream) { dot(COUNT); }
// --------------------------------------------------------------------------------
static constexpr Rung RUNGS[] = {{"one", softmax_one, ANY}, {"two",
    launch_two}};
""",
    "a.cuh": """#include "b.cuh"
constexpr int TOP = 5;  // tunable: 5, 6
""",
    "b.cuh": """template <class T>
float dot(int n) {
  constexpr int SUMS = 8;  // tunable: 8, 16
}
""",
    "c.cuh": "constexpr int NOBODYS = 1;  // tunable: 1, 2\n",
}


def names(rung: str, files: dict[str, str] = FILES) -> list[str]:
    rung_of = Rung("softmax", rung, ("float32",))
    return [tunable.name for tunable in of_rung(rung_of, "simulator", files)]


def test_a_rungs_tunables_are_those_its_section_names_and_of_its_headers():
    assert names("one") == ["ONE_TILE", "TOP"]
    assert names("two") == ["COUNT", "TOP", "SUMS"]


def test_two_tunables_of_one_name_are_an_error():
    twice = FILES | {"b.cuh": "constexpr int ONE_TILE = 8;  // tunable: 8, 16\n"}
    with pytest.raises(BuildError, match=r"b\.cuh:1: .*softmax\.cu:4 also has a ONE_TILE"):
        names("one", twice)
    assert names("two", twice) == ["COUNT", "TOP", "ONE_TILE"]


def test_a_rung_without_a_definition_is_an_error():
    without = FILES | {"softmax.cu": FILES["softmax.cu"].replace("softmax_one(", "other(")}
    with pytest.raises(BuildError, match="no file of the ladder defines softmax_one"):
        names("one", without)


def test_only_the_digits_change():
    text = (
        "caf\xe9 \udcff\r\n"
        "constexpr int A = 32;  // tunable: 8, 32\r\n"
        "constexpr int B = 1;  // tunable: 1, 22\n"
    )
    a, b = parse("x.cu", text)
    files = {"x.cu": text, "y.cu": "nothing"}
    changed = replaced(files, {a: 8, b: 22})
    assert changed == {
        "x.cu": text.replace("A = 32", "A = 8").replace("B = 1", "B = 22"),
    }
    assert tunables.text(tunables.content(changed["x.cu"])) == changed["x.cu"]
    assert replaced(files, {a: 32, b: 1}) == {}
