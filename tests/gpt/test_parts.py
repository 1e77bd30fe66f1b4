"""Attention alone: the source's inputs, its gate and reports; elements by their address."""

from __future__ import annotations

import re

import pytest
import torch

from gpt import access, parts
from gpt.attend import PARTS, Rung, by_torch, choose
from gpt.cli import main
from workbench.toolchain import command


def test_inputs_are_linear_and_scores_grow():
    q, k, v = parts.inputs(1024)
    assert q.shape == k.shape == v.shape == (1, 4, 1024, 32)
    i, j = 700, 13
    assert float(q[0, 3, i, j]) == pytest.approx(2e-4 * i + 1e-4 * j)
    assert float(k[0, 0, i, j]) == pytest.approx(6e-4 * i + 3e-4 * j)
    assert float(v[0, 2, i, j]) == pytest.approx(1.5e-4 * i + 8e-4 * j)
    assert float((q[0, 0, -1] * k[0, 0, -1]).sum()) == pytest.approx(4.1, abs=0.05)
    q, k, _ = parts.inputs(8192)
    assert float((q[0, 0, -1] * k[0, 0, -1]).sum()) == pytest.approx(258, abs=1)


def report(capsys, *words: str) -> tuple[int, str]:
    status = command.status(lambda: main(words))
    return status, capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "title"),
    [
        ("part1", "NAIVE ATTENTION"),
        ("part2", r"BLOCKED MATMUL \+ UNFUSED SOFTMAX"),
        ("part3", "FUSED ATTENTION"),
        ("part4", "FLASH ATTENTION"),
        ("cpu_simd", "SIMD"),
    ],
)
def test_a_part_reports_the_reference_and_itself(part, title, capsys):
    status, out = report(capsys, part, "-N", "100")
    assert status == 0
    assert "attention equals the reference: True (largest difference" in out
    order = rf"REFERENCE - {title} statistics\ncpu time: .* ms\nmem usage: \d+ bytes\n"
    order += rf"(.|\n)*YOUR - {title} statistics\ncpu time: .* ms\nmem usage: \d+ bytes\n"
    assert re.search(order + r"of which scratch: \d+ bytes", out)
    tables = re.findall(r"^operator .*memory.*\n((?:.*B\n)+)", out, re.M)
    assert [1 <= table.count("\n") <= parts.ROWS for table in tables] == [True, True]
    assert "::launch" in tables[1]


def test_part0_is_a_profile_of_pytorch_alone(capsys):
    status, out = report(capsys, "part0", "-N", "64")
    assert status == 0
    assert "REFERENCE - PYTORCH ATTENTION statistics" in out
    assert "YOUR" not in out and "equals" not in out


@pytest.mark.parametrize("rung", ["naive", "flash"])
def test_a_part_on_the_simulator_is_estimated(rung, capsys):
    status, out = report(capsys, rung, "-N", "40", "--target", "simulator")
    assert status == 0
    assert f"{rung} (simulator): B=1 H=4 N=40 D=32" in out
    assert re.search(r"estimate for an H200 SXM: [\d.]+ us", out)


def test_memory_is_the_peak_of_the_whole_call(capsys):
    """N^2 floats of scores, threads * N, tiles: the scratch is counted wherever it is allocated."""
    n, threads = 512, torch.get_num_threads()
    out_bytes = 4 * 4 * n * 32 + 4 * 4 * n  # O and LSE
    found = {}
    for part in ("part1", "part3", "part4"):
        tiles = ["-br", "32", "-bc", "16"] if part == "part4" else []
        _, out = report(capsys, part, "-N", str(n), *tiles)
        own = out[out.index("YOUR") :]
        peak, scratch = (int(text) for text in re.findall(r"(\d+) bytes", own)[:2])
        assert peak == pytest.approx(out_bytes + scratch, abs=128)
        found[part] = scratch
    assert found["part1"] == 4 * n * n
    assert 4 * threads * n <= found["part3"] <= 4 * threads * (n + 64) + 128
    assert found["part4"] == 4 * threads * (32 * (32 + 32 + 2) + 16 * (32 + 1))


def test_conversions_are_not_the_rungs(capsys):
    """A rung in 16 bits gets its inputs so: O is half as large, and nothing else is allocated."""
    status, out = report(capsys, "flash_mma", "-N", "64", "--target", "simulator")
    assert status == 0
    peak, scratch = (int(text) for text in re.findall(r"(\d+) bytes", out[out.index("YOUR") :])[:2])
    assert (peak, scratch) == (2 * 4 * 64 * 32 + 4 * 4 * 64, 0)


def test_the_peak_of_pytorch_is_two_matrices_of_scores():
    n = 256
    q, k, v = parts.inputs(n)
    measured = parts.measure(lambda: by_torch(q, k, v, causal=False, scale=1.0), "reference")
    assert measured.peak_bytes == pytest.approx(2 * 4 * 4 * n * n, rel=0.1)


def test_a_wrong_result_is_reported(capsys, monkeypatch):
    monkeypatch.setattr(Rung, "run", lambda self, q, k, v, **named: 2 * by_torch(q, k, v))
    status, out = report(capsys, "part4", "-N", "64")
    assert status == 1
    assert "attention equals the reference: False" in out
    assert "YOUR ATTENTION GAVE INCORRECT RESULTS" in out


def test_a_result_that_is_not_a_number_is_wrong():
    out = torch.tensor([1.0, torch.nan])
    assert parts.compared(out, torch.ones(2), Rung("x", "cpu"))[1] is False


def test_scores_that_overflow_without_the_maximum(capsys):
    """exp(258) is infinite in float32: every part subtracts the row's maximum first."""
    q, k, v = (x[:, :1, ::8] for x in parts.inputs(8192))
    assert not by_unsafe(q, k, v).isfinite().all()
    right = by_torch(q.double(), k.double(), v.double(), causal=False, scale=1.0).float()
    for part in list(PARTS)[1:]:
        own = choose(part, "cpu")(q.contiguous(), k.contiguous(), v.contiguous(), causal=False,
                                  scale=1.0)  # fmt: skip
        torch.testing.assert_close(own, right, atol=1e-4, rtol=1e-4)


def by_unsafe(q, k, v):
    e = torch.exp(q @ k.mT)
    return e / e.sum(-1, keepdim=True) @ v


# Elements by their address.


def test_elements_by_their_address(capsys):
    for seed in range(20):
        text, right = access.check(seed)
        assert right, text
    assert main(["4Daccess"]) == 0
    assert capsys.readouterr().out.endswith("all are equal\n")


def test_a_wrong_offset_is_noticed(capsys, monkeypatch):
    right = access.offset
    monkeypatch.setattr(access, "offset", lambda i, s: right(i, s[::-1]))
    assert not all(access.check(seed)[1] for seed in range(20))
    assert "WRONG" in "".join(access.check(seed)[0] for seed in range(20))


def test_row_major_strides():
    assert access.row_major((1, 2, 4, 4)) == [32, 16, 4, 1]
    assert access.row_major((4, 3)) == [3, 1]
    x = torch.empty(2, 3, 5, 7)
    assert access.row_major(x.shape) == list(x.stride())
    assert access.offset((1, 2, 3, 4), x.stride()) == x[1, 2, 3, 4].storage_offset()
