"""Estimated times: what must hold for any kernel, and the published times of some."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import simulator
from tests import records
from workbench import estimate
from workbench.estimate import GPUS, gpus, model, resources, schedule, validate
from workbench.estimate.machine_code import Op, Region
from workbench.estimate.published import ladders
from workbench.estimate.resources import Resources
from workbench.harness import counters, inputs
from workbench.harness.results import Row
from workbench.toolchain import REPO
from workbench.toolchain.inline import inline

H200, T4 = GPUS["h200"], GPUS["t4"]
SECTORS = 1 << 20  # 32 MB


def launch(**counted: Any) -> simulator.Launch:
    """A launch with only these counters; 1320 blocks of 256 threads."""
    about = {"kernel": "k", "block": (256, 1, 1), "shared_bytes": 0, "num_blocks": 1320}
    return records.launch(**about | counted)


def machine(*ops: Op, rounds: int = 1) -> Resources:
    """A kernel with 32 registers and no loops."""
    return Resources(32, 0, machine=(Region(0, ops * rounds),))


def of(counted: simulator.Launch, resources: Resources, gpu=H200) -> model.Estimate:
    return estimate.estimate([counted], {"k": resources}, gpu)


FFMA = Op("FFMA", "fma")
LDG = Op("LDG", "lsu", "global", 4, sets=(0,))
USE = Op("FADD", "fma", waits=1)


def test_moved_bytes_take_the_memorys_time() -> None:
    streamed = launch(
        dram_read_bytes=SECTORS * 32, l2_read_sectors=SECTORS, warp_instructions=1320 * 8
    )
    found = of(streamed, machine(FFMA))
    least = 1e3 * SECTORS * 32 / (0.89 * 4800e9)
    assert found.limiter == "DRAM"
    assert least < found.time_ms - H200.launch_us / 1e3 < 1.5 * least
    assert of(streamed, machine(FFMA), T4).time_ms > 10 * found.time_ms


def test_fmas_take_the_pipes_time() -> None:
    """1320 blocks are 10 per SM; 8 warps of 1000 FMAs, 4 issued per clock."""
    busy = launch(warp_instructions=1320 * 8 * 1000)
    found = of(busy, machine(FFMA, rounds=1000))
    least = 1e3 * H200.seconds(10 * 8 * 1000 / 4)
    assert found.parts["FMA"] == pytest.approx(least)
    assert found.limiter in ("issue", "FMA")
    assert found.time_ms - H200.launch_us / 1e3 == pytest.approx(least, rel=0.01)


def test_a_last_wave_counts_whole() -> None:
    """One block more than the SMs hold takes as long as one more for each of them."""
    busy, code = launch(warp_instructions=10**9), machine(FFMA, rounds=4000)
    one = of(dataclasses.replace(busy, num_blocks=132), code).parts["FMA"]
    for blocks, rounds in ((131, 1), (132, 1), (133, 2), (264, 2), (265, 3), (8 * 132 + 1, 9)):
        found = of(dataclasses.replace(busy, num_blocks=blocks), code)
        assert found.parts["FMA"] == pytest.approx(rounds * one), blocks


def test_more_warps_hide_latency() -> None:
    """A chain of loads: a warp alone waits for each; 64 warps on an SM wait together."""
    chain = machine(LDG, USE, rounds=1000)
    few = launch(warp_instructions=132 * 2000, block=(32, 1, 1), num_blocks=132)
    alone = of(few, chain)
    assert alone.limiter == "latency"
    assert alone.time_ms == pytest.approx(1e3 * H200.seconds(1000 * H200.latency.l1), rel=0.5)
    many = launch(warp_instructions=264 * 32 * 2000, block=(1024, 1, 1), num_blocks=264)
    together = of(many, chain)
    assert together.time_ms < 2 * alone.time_ms  # 64 times the work
    assert together.occupancy.fraction == 1


def test_lanes_far_apart_cost_more() -> None:
    """32 lines per request instead of one."""
    near = launch(
        global_load_requests=10**6, global_load_sectors=4 * 10**6, global_load_lines=10**6,
        global_load_bytes=128 * 10**6, warp_instructions=10**6,
    )  # fmt: skip
    apart = {"global_load_sectors": 32 * 10**6, "global_load_lines": 32 * 10**6}
    far = dataclasses.replace(near, **apart)
    parts = [of(counted, machine(LDG)).parts["L1"] for counted in (near, far)]
    assert parts[1] > 10 * parts[0]


def test_bank_conflicts_cost_more() -> None:
    good = launch(
        shared_load_requests=10**6, shared_load_wavefronts=10**6, shared_load_bytes=128 * 10**6,
        warp_instructions=10**6,
    )  # fmt: skip
    bad = dataclasses.replace(good, shared_load_wavefronts=32 * 10**6)
    lds = machine(Op("LDS", "lsu", "shared", 4))
    parts = [of(counted, lds).parts["shared"] for counted in (good, bad)]
    assert parts[1] == pytest.approx(32 * parts[0])


def test_wider_machine_loads_are_fewer() -> None:
    """PTX loads 4 bytes per lane, the compiler merged four of them; no lane gets slower."""
    scalar = launch(
        shared_load_requests=10**6, shared_load_wavefronts=10**6, shared_load_bytes=128 * 10**6,
        warp_instructions=10**6,
    )  # fmt: skip
    one, four = (machine(Op("LDS", "lsu", "shared", width)) for width in (4, 16))
    assert of(scalar, one).parts["shared"] == pytest.approx(4 * of(scalar, four).parts["shared"])


@pytest.mark.parametrize(
    ("form", "rate"),
    [
        ("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16", 4096),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 0.63 * 2048),
        ("wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32", 0.63 * 4096),
        ("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", 0.63 * 8192),
        ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64", 256),
    ],
)
def test_tensor_cores_by_type(form: str, rate: float) -> None:
    busy = launch(tensor_flops=1320 * 10**6, forms={form: 10}, warp_instructions=10)
    expected = 1e3 * H200.seconds(10 * 10**6 / rate)
    assert of(busy, machine(FFMA)).parts["tensor"] == pytest.approx(expected)


def test_what_does_not_run_there() -> None:
    with pytest.raises(ValueError, match="no kernel was launched"):
        estimate.estimate([], {}, H200)
    with pytest.raises(ValueError, match="a block of k needs more shared memory than an SM has"):
        of(launch(shared_bytes=300_000), machine(FFMA))
    with pytest.raises(ValueError, match="k has no machine code"):
        of(launch(), Resources(32, 0))
    tf32 = launch(tensor_flops=1, forms={"mma.sync.tf32": 1}, warp_instructions=1)
    with pytest.raises(ValueError, match="the Tesla T4 has no tensor cores for"):
        of(tf32, machine(FFMA), T4)
    with pytest.raises(estimate.EstimateError, match="no source file has the kernel k"):
        estimate.estimate_launches([launch()], (), H200)


def test_launches_add_up() -> None:
    one = launch(dram_read_bytes=SECTORS * 32, warp_instructions=8)
    twice = estimate.estimate([one, one], {"k": machine(FFMA)}, H200)
    once = of(one, machine(FFMA))
    assert twice.time_ms == pytest.approx(2 * once.time_ms)
    assert twice.parts["DRAM"] == pytest.approx(2 * once.parts["DRAM"])


def test_data_that_l2_cannot_hold_comes_from_dram_again() -> None:
    """Every block moves its data twice. On a T4 the resident blocks together have 100 MB."""
    twice = launch(
        l2_read_sectors=4 * SECTORS, l2_repeated_sectors=2 * SECTORS,
        dram_read_bytes=2 * SECTORS * 32, num_blocks=160, warp_instructions=8,
    )  # fmt: skip
    once = dataclasses.replace(twice, l2_repeated_sectors=0)
    parts = [of(counted, machine(FFMA), T4).parts["DRAM"] for counted in (once, twice)]
    assert 1.8 < parts[1] / parts[0] < 2
    small = [dataclasses.replace(counted, num_blocks=10**6) for counted in (once, twice)]
    parts = [of(counted, machine(FFMA), T4).parts["DRAM"] for counted in small]
    assert parts[0] == parts[1]


def test_loops_run_as_often_as_bytes_and_barriers_tell() -> None:
    """64 rounds of a loop with 2 barriers, 8 rounds of an inner loop; a remainder never runs."""
    load = dataclasses.replace(LDG, width=16)
    lds, bar = Op("LDS", "lsu", "shared", 16), Op("BAR", "control")
    regions = (
        Region(0, (FFMA,)),
        Region(1, (load, bar, bar)),
        Region(2, (lds, FFMA)),
        Region(1, (LDG,), rest=True),
    )
    counted = launch(
        barriers=2 * 64, warp_instructions=10**6,
        forms={"ld.global.v4.f32": 64, "ld.shared.f32": 64 * 8 * 4},
    )  # fmt: skip
    assert schedule._trips(counted, regions, 1) == pytest.approx([1, 64, 64 * 8, 0])


GRADED = """
__global__ void near(const float* x, float* y, int n) {
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[blockIdx.x * n + i];
  y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
__global__ void far(const float* x, float* y, int n) {
  float sum = 0;
  for (int i = 0; i < n / blockDim.x; i++) {
    sum += x[blockIdx.x * n + threadIdx.x * (n / blockDim.x) + i];
  }
  y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
void run_near(const float* x, float* y, int rows, int n) { near<<<rows, 256>>>(x, y, n); }
void run_far(const float* x, float* y, int rows, int n) { far<<<rows, 256>>>(x, y, n); }
"""


def test_from_source_to_estimate(tmp_path) -> None:
    """Two kernels that read the same bytes in different orders."""
    kernels = inline(GRADED, ["run_near", "run_far"], target="simulator", name="graded")
    source = tmp_path / "graded.cu"
    source.write_text(GRADED)
    x, y = torch.ones(512, 8192), torch.empty(512, 256)
    recorded = [
        counters.record(lambda run=run: run(x, y, *x.shape))
        for run in (kernels.run_near, kernels.run_far)
    ]
    for gpu in (H200, T4):
        near, far = (estimate.estimate_launches(one, (source,), gpu) for one in recorded)
        assert near.gpu == far.gpu == gpu.name
        assert far.time_ms > 1.1 * near.time_ms, gpu.name


@pytest.mark.full
def test_a_sample_of_the_blocks_gives_the_same_estimate() -> None:
    _, ladder = ladders()
    run = validate.runner(ladder)
    times = []
    for blocks in (24, 0):
        with simulator.settings(sample_blocks=blocks):
            launches = counters.record(lambda: run("warp_shuffle"))
        found = estimate.estimate_launches(launches, (ladder.file,), T4)
        times.append(found.time_ms)
    assert times[0] == pytest.approx(times[1], rel=0.02)


def ahead() -> None:
    for ladder in ladders():
        validate.runner(ladder)
        resources.of_file(ladder.file, GPUS[ladder.gpu].arch)


@pytest.fixture(scope="module")
def comparisons() -> dict[str, validate.Comparison]:
    return {comparison.name: comparison for comparison in validate.published(sample_blocks=2)}


def test_published_ladders(comparisons: dict[str, validate.Comparison]) -> None:
    """Order and error, as stated in docs/estimate.md."""
    for comparison in comparisons.values():
        steps = comparison.steps
        assert validate.wrong_pairs(steps) == [], comparison
        assert validate.median_error(steps) < 0.25
        assert max(abs(step.error) for step in steps) < model.BAND


def test_the_kept_validation_is_the_code_s(comparisons: dict[str, validate.Comparison]) -> None:
    """docs/results/estimate-validation.json is from this model and these kernels."""
    kept = json.loads((REPO / "docs" / "results" / "estimate-validation.json").read_text())
    published = {ladder.name: ladder for ladder in ladders()}
    for ladder in kept["ladders"]:
        if ladder["name"] in published and ladder["source"] == published[ladder["name"]].source:
            steps = comparisons[ladder["name"]].steps
            estimates = {step.kernel: step.estimated_ms for step in steps}
            for step in ladder["steps"]:
                expected = pytest.approx(estimates[step["kernel"]], rel=0.02)
                assert step["estimated_ms"] == expected, step["kernel"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tensors_are_aligned_as_on_a_gpu(dtype: torch.dtype) -> None:
    """Otherwise a row would touch an extra line."""
    for elements in (0, 1, 1000, 1 << 20):
        placed = inputs.empty(elements, dtype, torch.device("cpu"))
        assert placed.numel() == elements
        assert placed.data_ptr() % 512 == 0


def steps(*pairs: tuple[float, float]) -> list[validate.Step]:
    return [validate.Step(str(i), m, e, "", 1.0, {}) for i, (m, e) in enumerate(pairs)]


def test_order_and_error() -> None:
    right = steps((3, 30), (2, 20), (1, 10))
    assert validate.rank_correlation(right) == 1
    assert validate.wrong_pairs(right) == []
    assert validate.median_error(right) == pytest.approx(9)
    turned = steps((3, 1), (2, 2), (1, 3))
    assert validate.rank_correlation(turned) == -1
    assert len(validate.wrong_pairs(turned)) == 3
    near = steps((1.0, 1.1), (1.01, 1.0))  # 1% apart is unordered
    assert validate.wrong_pairs(near) == []
    assert validate.median_error(near) == pytest.approx((0.1 + 0.01 / 1.01) / 2)


def write_results(file: Path, device: str, rows: Iterable[Row]) -> None:
    file.write_text(json.dumps({"device": device, "rows": [row.as_json() for row in rows]}))


def timed(op: str, kernel: str, shape: str, **more: Any) -> Row:
    """A row as in a GPU's results."""
    about = {"dtype": "float32", "target": "gpu", "checked": True, "time_ms": 0.01} | more
    return Row(op=op, kernel=kernel, shape=shape, **about)


def test_measured_files_are_found(tmp_path) -> None:
    """The timed rungs, for GPUs in the table."""
    row, names = functools.partial(timed, "matmul", shape="M=64,N=64,K=64"), ["naive", "coalesced"]
    rows = [row(kernel=name) for name in names]
    rows.append(row(kernel="tiled", checked=False, time_ms=None, refused="declines"))
    rows.append(row(kernel="cublas", baseline=True))
    for device in ("NVIDIA H200", "NVIDIA GeForce GTX 480"):
        write_results(tmp_path / f"{device.split()[-1]}-matmul.json", device, rows)
    (found,) = validate.measured(tmp_path)
    assert (found.gpu, found.source) == ("h200", "H200-matmul.json")
    assert [step.kernel for step in found.steps] == names


def test_what_is_too_large_to_be_run_is_told(tmp_path) -> None:
    for op in ("softmax", "softmax_backward"):
        row = timed(op, "cluster", "rows=1024,cols=1048576", dtype="bfloat16")
        write_results(tmp_path / f"h200-{op}.json", "NVIDIA H200", [row])
    assert list(validate.measured(tmp_path)) == []
    assert validate.left_out(tmp_path) == [
        f"{op} rows=1024,cols=1048576, bfloat16 on h200" for op in ("softmax", "softmax_backward")
    ]


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA RTX A6000", "a6000"),
        ("Tesla T4", "t4"),
        ("NVIDIA Tesla T4", "t4"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090 D", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(device: str, gpu: str | None) -> None:
    found = gpus.by_device(device)
    assert (found and found.name) == gpu
