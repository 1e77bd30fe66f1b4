"""The compiler's report on a kernel, and what is read from its machine code."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import pytest

from workbench.estimate import GPUS, machine_code, resources
from workbench.estimate.machine_code import Op
from workbench.estimate.published import ladders
from workbench.toolchain import BuildError, kernels_dir

SGEMM, SOFTMAX = ladders()
FULL = pytest.mark.full
ARCHS = ["86", *(pytest.param(arch, marks=FULL) for arch in ("75", "80", "89", "90a"))]


def test_resources_of_a_ladder() -> None:
    found = resources.of_file(SGEMM.file, "86")
    kernel = found["tile_1d_kernel<64, 64, 8, 8>"]
    assert kernel.shared_bytes == 4 * (64 * 8 + 8 * 64)
    assert 32 <= kernel.registers <= 64
    assert kernel.spill_bytes == kernel.stack_bytes == 0
    assert "naive_kernel" in found and len(found) == 8


@pytest.mark.parametrize("arch", ARCHS)
def test_the_machine_code_of_a_tile(arch: str) -> None:
    """As in the source: 64 FMAs for a tile of 8 steps, 8 floats of B and 64 of A loaded."""
    kernel = resources.of_file(SGEMM.file, arch)["tile_1d_kernel<64, 64, 8, 8>"]
    (loop,) = (region for region in kernel.machine if region.depth == 1)
    names = Counter(op.name for op in loop.ops)
    assert names["FFMA"] == 64
    assert names["BAR"] == 2
    assert (names["LDG"], names["STS"]) == (2, 2)
    loads = [op for op in loop.ops if op.name == "LDS"]
    assert sum(op.width for op in loads) == 4 * (8 + 64)
    assert {op.width for op in loads} <= {4, 8, 16}
    assert loop.bytes == 4 * (2 + 2 + 8 + 64)
    assert all(1 <= op.stall <= 15 for op in loop.ops)
    # A load signals by one of six counters that it, and earlier ones, are done; an FMA waits.
    assert any(op.sets for op in loads)
    assert all(number < 6 for op in loop.ops for number in op.sets)
    assert any(op.waits for op in loop.ops if op.name == "FFMA")


@pytest.mark.parametrize("arch", ["75", "80", "86", "89", "90a"])
@pytest.mark.full
def test_the_ladders_compile_for_every_gpu(arch: str) -> None:
    for ladder in sorted(kernels_dir().glob("*.cu")):
        for name, kernel in resources.of_file(ladder, arch).items():
            assert kernel.machine and kernel.registers, name


def test_loops_are_sorted_by_depth() -> None:
    plain, inner, outer = Op("A", "alu"), Op("BRA", "control", target=1), Op("BRA", "control")
    ops = [plain, plain, inner, Op("BRA", "control", target=0), outer]
    found = {region.depth: len(region.ops) for region in machine_code.regions(ops)}
    assert found == {2: 2, 1: 2, 0: 1}


def test_what_unrolling_left_over_is_known() -> None:
    """A quarter of another loop's work is its remainder; the same loads for other sums are not."""
    load, sums, back = Op("LDS", "lsu", "shared", 4), Op("FFMA", "fma"), Op("BRA", "control")

    def looped(*ops: Op) -> list[Op]:
        return [*ops, dataclasses.replace(back, target=-1)]

    for other, rest in ((looped(load, sums), True), (looped(load, sums, sums), False)):
        code = looped(*[load, sums] * 4)
        code[-1] = dataclasses.replace(back, target=0)
        start = len(code)
        code += other
        code[-1] = dataclasses.replace(back, target=start)
        found = {len(region.ops): region.rest for region in machine_code.regions(code)}
        assert found == {9: False, len(other): rest}


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_Z12naive_kernelPKfS0_Pfiii", "naive_kernel"),
        ("_Z5tiledILi32EEvPKfi", "tiled<32>"),
        ("_ZN2ns5tiledILi32ELb1EEEiPKf", "ns::tiled<32, true>"),
        ("plain", "plain"),
        ("_ZN12_GLOBAL__N_11fEi", "(anonymous namespace)::f"),
    ],
)
def test_names_are_those_of_the_simulator(mangled: str, name: str) -> None:
    assert resources.display_name(mangled) == name


@pytest.mark.parametrize(
    ("gpu", "threads", "registers", "shared", "blocks", "limiter"),
    [
        ("h200", 1024, 32, 0, 2, "warps"),
        ("h200", 1024, 33, 0, 1, "registers"),
        ("h200", 32, 32, 0, 32, "blocks"),
        ("h200", 256, 32, 100 * 1024, 2, "shared memory"),
        ("h200", 128, 168, 226 * 1024, 1, "shared memory"),
        ("a100", 256, 64, 0, 4, "registers"),  # 65536 / (64 * 256)
        ("a6000", 1024, 36, 0, 1, "warps"),  # 1536 threads per SM
        ("a6000", 256, 109, 8192, 2, "registers"),  # 32 * 109 -> 3584: 4 warps per scheduler
        ("a6000", 256, 152, 8192, 1, "registers"),
        ("a6000", 128, 222, 16384, 2, "registers"),
        ("a6000", 512, 48, 4096, 2, "registers"),
        ("t4", 32, 29, 4, 16, "blocks"),
        ("t4", 1024, 23, 128, 1, "warps"),
        ("t4", 128, 32, 33 * 1024, 1, "shared memory"),
        ("t4", 128, 32, 65 * 1024, 0, "shared memory"),
    ],
)
def test_occupancy(
    gpu: str, threads: int, registers: int, shared: int, blocks: int, limiter: str
) -> None:
    held = resources.occupancy(GPUS[gpu], threads, registers, shared)
    assert (held.blocks, held.limiter) == (blocks, limiter)
    assert held.fraction == pytest.approx(blocks * -(-threads // 32) / GPUS[gpu].warps)


def test_the_cache_is_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "k.cu"
    source.write_text("__global__ void k(float* x) { x[threadIdx.x] *= 2; }\n")
    first = resources.of_file(source, "75")
    kept = tmp_path / "cache" / "estimate"
    assert len(list(kept.glob("k_75_*"))) == 1
    shutil.copyfile(source, tmp_path / "same.cu")
    assert resources.of_file(source, "75") == first
    assert len(list(kept.glob("k_75_*"))) == 1
    source.write_text(
        "__shared__ float s[64];\n"
        "__global__ void k(float* x) {\n"
        "  s[threadIdx.x] = x[1];\n  __syncthreads();\n  x[threadIdx.x] = s[63 - threadIdx.x];\n}\n"
    )
    assert resources.of_file(source, "75")["k"].shared_bytes == 256
    source.write_text("int no_kernel;\n")
    assert resources.of_file(source, "75") == {}
    source.write_text("__global__ void k(float* x) { x = y; }\n")
    with pytest.raises(BuildError, match="k.cu:1"):
        resources.of_file(source, "75")
