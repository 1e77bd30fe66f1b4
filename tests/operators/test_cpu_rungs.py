"""Rungs in C++ that run on the CPU: how they are chosen, called, listed and built."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch

from workbench import attention, rungs
from workbench.cli.main import main
from workbench.operators import builds
from workbench.toolchain import BuildError, extension, library


def heads(*sizes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 16, generator=generator) for n in sizes)
    return q, k, v


def test_a_ladder_of_their_own():
    cpu, cuda = rungs("attention", "cpu"), rungs("attention")
    assert [rung.on_cpu for rung in (*cpu, *cuda)] == [True] * len(cpu) + [False] * len(cuda)
    assert cpu[0].name == "cpu_naive"
    assert rungs("attention", "simulator") == cuda
    with pytest.raises(ValueError, match="target is 'tpu'; expected one of gpu, simulator, cpu"):
        rungs("attention", "tpu")


def test_called_by_name():
    q, k, v = heads(5, 9, 9)
    right = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.ones(5, 9, dtype=torch.bool).tril(4)
    )
    for rung in rungs("attention", "cpu"):
        out, lse = attention(q, k, v, causal=True, kernel=rung.name, return_lse=True)
        torch.testing.assert_close(out, right)
        assert lse.shape == (1, 2, 5)
    assert builds.scratch_bytes("cpu") > 0


def test_without_a_name_the_simulator_runs(monkeypatch):
    launched = []
    monkeypatch.setattr(builds, "launch", lambda target, *rest: launched.append((target, rest[-1])))
    attention(*heads(4, 4, 4))
    assert launched == [("simulator", "")]


def test_under_torch_compile():
    q, k, v = heads(8, 8, 8)
    compiled = torch.compile(lambda *qkv: attention(*qkv, kernel="cpu_simd"), fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), attention(q, k, v, kernel="cpu_naive"))


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"kernel": "cpu_fast"}, "there is no kernel 'cpu_fast'; the ladder has cpu_naive, "),
        ({"kernel": "cpu_naive", "br": 4}, "kernel 'cpu_naive' does not support br"),
        ({"kernel": "cpu_simd", "mask": torch.ones(4, 4, dtype=torch.bool)}, "support mask"),
    ],
)
def test_what_they_do_not_support(named, says):
    with pytest.raises(RuntimeError, match=re.escape(says)):
        attention(*heads(4, 4, 4), **named)


def test_the_checks_are_the_simulators():
    with pytest.raises(ValueError, match="'cpu_flash' is no CUDA kernel"):
        attention(*heads(4, 4, 4), kernel="cpu_flash", check="all")


def test_tensors_on_a_gpu_are_refused():
    class OnGpu:
        device = torch.device("cuda:0")

    with pytest.raises(RuntimeError, match=r"'cpu_flash' runs on the CPU; got tensors on cuda:0"):
        builds.launch("gpu", "attention", {"q": OnGpu()}, {}, "cpu_flash")


@pytest.mark.parametrize("name", ["cpu_x", "x"])
def test_their_names_begin_with_cpu(name, monkeypatch):
    target = "simulator" if name == "cpu_x" else "cpu"
    with pytest.raises(BuildError, match=f"a rung named '{name}'; those in C.., and only they"):
        builds._parse("attention", target, f"{name}\tfloat32\t\t1\t0\t\n".encode())


def test_as_many_threads_as_pytorch():
    """A row of scores per thread is all the scratch that cpu_fused_row needs."""
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            attention(*heads(64, 1000, 1000), kernel="cpu_fused_row")
            found.append(builds.scratch_bytes("cpu"))
    finally:
        torch.set_num_threads(before)
    assert found[1] == 2 * found[0] and found[2] == 3 * found[0]


def test_the_table(capsys):
    shape = ["--shape", "B=1,H=2,Nq=64,Nk=64,D=32", "B=1,H=2,Nq=30,Nk=64,D=32 causal"]
    assert main("attention", ["--target", "cpu", *shape]) == 0
    out = capsys.readouterr().out
    assert re.match(r"target: cpu \(.+, \d+ threads?\)\n", out)
    assert out.count("GFLOP/s") == 2 and "roof" not in out
    lines = [line.split() for line in out.splitlines() if line.startswith(("cpu_simd", "torch"))]
    # The second mask is not PyTorch's is_causal.
    assert [line[0] for line in lines] == ["cpu_simd", "torch", "cpu_simd"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gpu", "a100"], "estimates are for --target simulator"),
        (["--sample", "2"], "the CPU runs every block"),
        (["--check"], "--check runs on the simulator: omit --target cpu"),
        (["--kernel", "flash"], "attention has cpu_naive, "),
    ],
)
def test_options_without_a_meaning_there(words, says, capsys):
    assert main("attention", ["--target", "cpu", *words]) == 2
    assert says in capsys.readouterr().err


def test_an_operator_without_any(capsys):
    assert main("matmul", ["--target", "cpu"]) == 2
    assert "--target" in capsys.readouterr().err


def test_they_need_neither_cuda_nor_the_simulator(tmp_path, monkeypatch):
    def missing(*args: object) -> None:
        raise AssertionError("this should not be asked for")

    monkeypatch.setattr(extension.tools, "find_toolkit", missing)
    monkeypatch.setattr(extension, "process_simulator", missing)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "seven.cpp").write_text("int seven() { return 7; }\n")
    bindings = tmp_path / "bindings.cpp"
    bindings.write_text('int seven();\nextern "C" int answer() { return seven(); }\n')
    path = library.load_extension("cpu", tmp_path / "kernels", bindings)
    assert ctypes.CDLL(str(path)).answer() == 7
