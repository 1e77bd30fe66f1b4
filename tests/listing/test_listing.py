"""--ptx and --sass: what is printed."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.records import launch, line
from workbench import operators
from workbench.cli import main as cli
from workbench.cli import request
from workbench.estimate import GPUS
from workbench.explain.kernels import by_kernel
from workbench.harness.launched import Recorder
from workbench.listing import command, compiled, terminal
from workbench.operators.builds import rungs
from workbench.toolchain import BuildError, tools

SMALL = ("--shape", "M=64,N=64,K=64")
H200 = GPUS["h200"]
# 64 sums at once in at most 32 registers: most of them are spilled.
SPILLING = """\
__global__ __launch_bounds__(1024, 2) void spilling_kernel(float* out, const float* in, int n) {
  float sums[64] = {};
  for (int i = threadIdx.x; i < n; i += 1024) {
#pragma unroll
    for (int k = 0; k < 64; k++) sums[k] += in[i + k] * in[i];
  }
#pragma unroll
  for (int k = 0; k < 64; k++) out[64 * threadIdx.x + k] = sums[k];
}
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """Address and opcode of every instruction in a listing of machine code."""
    row = r"^[> ]* ?\|* +([0-9a-f]{4})\s+\d+  (?:@!?U?P\d+ )?([A-Z][\w.]*)"
    return re.findall(row, text, re.M)


def show(*words: str, capsys) -> str:
    assert cli.main("matmul", [*words, *SMALL]) == 0
    return capsys.readouterr().out


def test_machine_code_in_its_order_beside_the_source(capsys):
    out = show("--sass", "tiled", capsys=capsys)
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    found = instructions(out)
    assert [int(address, 16) for address, _ in found] == [*range(0, 16 * len(found), 16)]
    count = Counter(opcode.split(".")[0] for _, opcode in found)
    assert count["FFMA"] >= 32 and count["BAR"] == 2  # TILED_TILE steps; 2 __syncthreads()
    assert f"{len(found)} instructions: " in out
    assert "matmul_tiled_kernel<float, false, false>  sm_90a SASS" in out
    assert re.search(r"^>> \| .* FFMA .*$", out, re.M)  # in the loop, where most cycles go
    assert re.search(r" BAR\.SYNC\S* 0x0 +\d+  __syncthreads\(\);", out)
    assert re.search(r"waits: 2 BAR; at [0-9a-f]{4}, [0-9a-f]{4}$", out, re.M)
    assert re.search(r"loop at [0-9a-f]{4}, lines \d+-\d+: \d+ instructions: ", out)


def test_both_orders_have_the_same_instructions(capsys):
    one = show("--sass", "tiled", "--order", "code", capsys=capsys)
    other = show("--sass", "tiled", "--order", "source", capsys=capsys)
    assert max(map(len, other.splitlines())) <= 100
    assert sorted(instructions(other)) == instructions(one)
    # Each line, then what became of it.
    blocks = re.split(r"^(?=[> ]{2} [ \d]{3}\d  \S)", other, flags=re.M)
    (product,) = (b for b in blocks if re.match(r".*acc \+= A_smem\[ty\]\[k\]", b.split("\n")[0]))
    assert product.startswith(">>") and Counter(re.findall(r"FFMA ", product))["FFMA "] >= 32
    head = product.splitlines()[1]
    assert re.match(r" +\d+ instructions: .*\d+ FFMA", head)
    assert re.search(r"^ +inlined at \d+, \d+$", other, re.M)  # a helper's line


def test_ptx_of_a_rung(capsys):
    out = show("--ptx", "tiled", capsys=capsys)
    assert max(map(len, out.splitlines())) <= 100
    assert "matmul_tiled_kernel<float, false, false>  compute_90a PTX" in out
    assert len(re.findall(r"fma\.rn\.f32 %f", out)) >= 32
    assert re.search(r"bar\.sync 0 +\d+  __syncthreads\(\);", out)
    assert "_ZZ" not in out and "_param_" not in out  # names as in the source


def test_only_the_launched_instantiation_of_another_gpu(capsys):
    out = show("--sass", "naive", "--gpu", "a6000", "--layout", "nt", capsys=capsys)
    assert len(re.findall(r"sm_86 SASS", out)) == 1


def test_a_rung_gets_a_dtype_that_it_supports(capsys):
    operator = operators.get("matmul")
    (mma,) = (rung for rung in rungs("matmul") if rung.name == "mma")
    launched = Recorder(operator, operator.case(SMALL[1]), 1, any_dtype=True).of(mma)
    assert launched.case.dtype == "float16" and "fp16" in launched.launches[0].kernel
    out = show("--sass", "mma", "--dtype", "float32", capsys=capsys)
    assert "mma supports float16, " in out and "SASS" not in out


def test_every_requested_case_is_shown(capsys):
    out = show("--ptx", "tiled", "--dtype", "float32", "float64", capsys=capsys)
    kernels = re.findall(r"^matmul_tiled_kernel<(\w+), ", out, re.M)
    assert kernels == ["float", "double"]


def test_a_default_type_that_no_rung_supports_is_replaced():
    operator = operators.get("matmul")
    by_name = {rung.name: rung for rung in rungs("matmul")}
    cases = [operator.case("M=8,N=8,K=8"), operator.case("M=9,N=8,K=8")]
    made = request.supported(cases, [by_name["mma"]], chosen=False)
    assert [(case.dtype, case.shape["M"]) for case in made] == [("float16", 8), ("float16", 9)]
    assert request.supported(cases, [by_name["mma"]], chosen=True) == cases
    assert request.supported(cases, [by_name["mma"], by_name["naive"]], chosen=False) == cases
    assert request.supported([], [by_name["mma"]], chosen=False) == []


def test_what_a_gpu_cannot_run_is_not_shown(capsys):
    out = show("--sass", "mma", "--gpu", "t4", capsys=capsys)
    assert "mma needs compute capability 80; got 75" in out and "EXIT" not in out


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A record of SPILLING, as if it had run."""
    file = tmp_path_factory.mktemp("spilling") / "spilling.cu"
    file.write_text(SPILLING)
    (found,) = by_kernel([launch(line(file, 5), kernel="spilling_kernel")], H200)
    return found


def test_a_listing_for_a_terminal_is_as_wide_as_it(kernel, monkeypatch, capsys):
    listing = command.listing(kernel, "matmul", H200, machine=True)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    terminal.show(listing)
    assert 120 < max(map(len, capsys.readouterr().out.splitlines()))


def test_spills_are_seen(kernel, capsys):
    listing = command.listing(kernel, "matmul", H200, machine=True)
    terminal.show(listing)
    out = capsys.readouterr().out
    loads, stores = (len(re.findall(rf"  {name}(?:\.\w+)* ", out)) for name in ("LDL", "STL"))
    assert loads > 8 and stores > 8
    said = re.search(r"(\d+) bytes spill\s+stores, (\d+) bytes spill\s+loads", out)
    assert (int(said[1]), int(said[2])) == (4 * stores, 4 * loads)
    summary = " ".join(out.partition("addr live")[0].split())
    assert f"local memory: {loads} LDL, {stores} STL; at " in summary
    assert max(one.live for one in listing.code.instructions) <= 32


def test_a_kernel_that_no_file_has(kernel, monkeypatch):
    monkeypatch.setattr(command, "ladder_sources", lambda op: ())
    with pytest.raises(BuildError, match="no source file has the kernel other_kernel for sm_90a"):
        stranger = by_kernel([launch(line("/none", 1), kernel="other_kernel")], H200)[0]
        command.listing(stranger, "transpose", H200, machine=False)


def test_without_a_disassembler(monkeypatch, capsys):
    def missing():
        raise BuildError("NVIDIA's disassembler nvdisasm was not found: Install it with:\n  pip")

    monkeypatch.setattr(tools, "find_nvdisasm", missing)
    compiled.machine.cache_clear()
    assert cli.main("matmul", ["--sass", "tiled", *SMALL]) == 1
    captured = capsys.readouterr()
    assert "nvdisasm was not found" in captured.out and "Traceback" not in captured.err


def test_where_the_disassembler_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(tools, "find_toolkit", lambda: tools.Toolkit(tmp_path, "13", tmp_path, ()))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.path", [str(tmp_path / "wheels")])
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "own"))
    with pytest.raises(BuildError, match="nvidia-cuda-nvdisasm==13.2"):
        tools.find_nvdisasm()
    places = [
        "wheels/triton/backends/nvidia/bin",
        "own/nvidia/cu13/bin",
        "bin",
    ]
    for place in places:  # from the last resort to the first choice
        program = tmp_path / place / "nvdisasm"
        program.parent.mkdir(parents=True)
        program.touch(0o755)
        assert tools.find_nvdisasm() == program


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--order", "source"], "--order is for --ptx and --sass"),
        (["--order", "source", "--explain", "tiled"], "--order is for --ptx and --sass"),
        (["--sass", "fast"], "--sass fast: matmul has naive, "),
        (["--ptx", "tiled", "--sass", "tiled"], "--ptx and --sass show different things"),
        (["--ptx", "tiled", "--kernel", "tiled"], "--ptx names the rungs itself"),
        (["--sass", "tiled", "--json", "x.json"], "--json is for the table, which --sass"),
        (["--sass"], "--sass: expected at least one argument"),
        (["--sass", "tiled", "--gpu", "b200"], "--gpu: invalid choice"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, capsys):
    assert cli.main("matmul", [*SMALL, *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""
