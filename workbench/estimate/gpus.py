"""The GPUs that times are estimated for: the rates of their units, from published figures.

Sources, named after the figures:

    [H100] [A100] [GA102] [AD102] [TU102]  NVIDIA's architecture whitepapers
    [guide]  CUDA C++ Programming Guide: "Arithmetic Instructions", "Technical Specifications"
    [luo]    Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture through
             Microbenchmarking, arXiv:2402.13499: latencies of A100, H100 and RTX 4090, rounded
    [jia]    Jia et al., Dissecting the NVidia Turing T4 GPU via Microbenchmarking, arXiv:1903.07486
    [chips]  Chips and Cheese, measurements of L2 bandwidth, rounded
    [fast]   fast.cu, a published GEMM for the H100
    [here]   measured with this workbench

No latencies are published for the A6000; those of the RTX 4090, with similar caches, are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Latencies:
    """Cycles from an instruction to the use of its result."""

    dram: int
    l2: int
    l1: int
    shared: int
    alu: int = 4  # [jia]: 4 since Volta
    special: int = 20  # ex2, rcp, ..., conversions; [jia] 17 to 23
    shuffle: int = 23  # [jia] 22 to 24
    barrier: int = 25  # once all warps have arrived; our guess from [jia]'s figures for one warp
    tensor: int = 33  # mma.sync m16n8k16; [luo] 32.6


@dataclass(frozen=True)
class Gpu:
    """The rates of a GPU's units, per clock and multiprocessor (SM) unless noted.

    Attributes:
        name: its name for --gpu.
        title: its product name.
        device: a pattern for CUDA's full name of it, without the leading "NVIDIA".
        arch: as in sm_90a.
        sms: multiprocessors.
        clock_ghz: boost clock.
        dram_gbps: peak memory bandwidth, GB/s.
        dram_reach: share of that peak that a plain copy reaches.
        l2_bytes: size of the L2 cache.
        l2_gbps: bandwidth of the L2 cache, GB/s.
        shared_bytes: maximum shared memory of an SM.
        shared_reserved: shared memory that the system reserves per block.
        shared_unit: granularity of shared memory allocation.
        lsu_lanes: lane addresses that the load-store unit accepts per clock.
        fp32, fp64: fused multiply-adds.
        fp16: fused multiply-adds of half precision, outside the tensor cores.
        tensor: FLOP of the tensor cores by input type; unsupported types are absent.
        mma_sync: share of that rate that mma.sync reaches, except for fp64.
        alu: lanes of integer, logic and compare instructions.
        special: lanes of the special-function units.
        warps, blocks: maximum resident on an SM.
        registers, register_unit: of an SM, and the unit in which a warp is given them.
        issue: warp instructions that an SM starts per clock.
        latency: in cycles.
        launch_us: duration of a kernel that does next to nothing.
    """

    name: str
    title: str
    device: str
    arch: str
    sms: int
    clock_ghz: float
    dram_gbps: float
    dram_reach: float
    l2_bytes: int
    l2_gbps: float
    shared_bytes: int
    shared_reserved: int
    lsu_lanes: int
    fp32: int
    fp64: int
    fp16: int
    tensor: Mapping[str, int]
    warps: int
    blocks: int
    latency: Latencies
    shared_unit: int = 128
    mma_sync: float = 1.0
    alu: int = 64  # [guide]
    special: int = 16  # [guide]
    registers: int = 65536  # [guide]
    register_unit: int = 256  # of a warp; [guide]
    issue: int = 4  # one warp instruction per scheduler, of which there are four
    launch_us: float = 4.0  # [here], H100: what copies take beyond their bytes, 3.7 to 4.3 us

    @property
    def capability(self) -> int:
        """Its compute capability, as 10 * major + minor."""
        return int(self.arch.rstrip("a"))

    def seconds(self, cycles: float) -> float:
        """The time that a number of clocks takes."""
        return cycles / (self.clock_ghz * 1e9)

    def cycles(self, seconds: float) -> float:
        """The number of clocks in a time."""
        return seconds * self.clock_ghz * 1e9


KB, MB = 1024, 1024 * 1024

HOPPER: dict[str, Any] = {
    "arch": "90a",
    "sms": 132,  # [H100], SXM5
    "clock_ghz": 1.98,  # [H100]
    "l2_bytes": 50 * MB,  # [H100]
    # [fast]: 128 x 256 tiles without multicast reach 704 TFLOP/s at 4096: 8.2 TB/s. [chips]: 5.5
    # TB/s by plain loads on an H100 PCIe, with 114 SMs at 1.755 GHz.
    "l2_gbps": 8000.0,
    "shared_bytes": 228 * KB,  # [guide]
    "shared_reserved": KB,  # [guide]
    "lsu_lanes": 32,  # [H100]: 8 load-store units in each quarter
    "fp32": 128,  # [guide]
    "fp64": 64,  # [guide]
    "fp16": 256,  # [guide]
    # [H100]: 989 TFLOP/s fp16, 495 tf32, 1979 fp8, 67 fp64
    "tensor": {"fp16": 4096, "tf32": 2048, "fp8": 8192, "int8": 8192, "fp64": 256},
    "mma_sync": 0.63,  # [luo]: 62.9% of what wgmma reaches
    "warps": 64,  # [guide]
    "blocks": 32,  # [guide]
    "latency": Latencies(dram=479, l2=263, l1=41, shared=29),  # [luo]
}

GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        # 4272 GB/s copied [here]
        Gpu("h200", "H200 SXM", "H200", dram_gbps=4800.0, dram_reach=0.89, **HOPPER),
        Gpu("h100", "H100 SXM", "H100 80GB HBM3", dram_gbps=3350.0, dram_reach=0.89, **HOPPER),
        Gpu(
            name="a100",
            title="A100 SXM 80 GB",
            device="A100-SXM4-80GB",
            arch="80",
            sms=108,  # [A100]
            clock_ghz=1.41,  # [A100]
            dram_gbps=2039.0,  # data sheet
            dram_reach=0.88,
            l2_bytes=40 * MB,  # [A100]
            l2_gbps=4000.0,  # [chips], [luo]; 7.2 TB/s on paper [A100]
            shared_bytes=164 * KB,  # [guide]
            shared_reserved=KB,  # [guide]
            lsu_lanes=32,  # [A100]: 8 in each quarter
            fp32=64,  # [guide]
            fp64=32,  # [guide]
            fp16=256,  # [guide]
            # [A100]: 312 TFLOP/s fp16, 156 tf32, 624 int8, 19.5 fp64
            tensor={"fp16": 2048, "tf32": 1024, "int8": 4096, "fp64": 128},
            warps=64,  # [guide]
            blocks=32,  # [guide]
            latency=Latencies(dram=466, l2=262, l1=38, shared=29),  # [luo]
        ),
        Gpu(
            name="rtx4090",
            title="GeForce RTX 4090",
            device="GeForce RTX 4090",
            arch="89",
            sms=128,  # [AD102]
            clock_ghz=2.52,  # [AD102]
            dram_gbps=1008.0,  # [AD102]
            dram_reach=0.92,  # [luo]: 930 GB/s
            l2_bytes=72 * MB,  # [AD102]
            l2_gbps=4600.0,  # [chips]: 5 TB/s, [luo]: 1.6 to 1.7 KB a clock
            shared_bytes=100 * KB,  # [guide]
            shared_reserved=KB,  # [guide]
            lsu_lanes=16,  # [AD102]: 4 in each quarter
            fp32=128,  # [guide]
            fp64=2,  # [guide]
            fp16=128,  # [guide]
            # [AD102]: 165 TFLOP/s fp16 with fp32 sums, 83 tf32, 330 fp8, 661 int8
            tensor={"fp16": 512, "tf32": 256, "fp8": 1024, "int8": 2048},
            warps=48,  # [guide]
            blocks=24,  # [guide]
            latency=Latencies(dram=542, l2=273, l1=43, shared=30),  # [luo]
        ),
        Gpu(
            name="a6000",
            title="RTX A6000",
            device="RTX A6000",
            arch="86",
            sms=84,  # [GA102]
            clock_ghz=1.80,  # data sheet
            dram_gbps=768.0,  # data sheet
            dram_reach=0.88,
            l2_bytes=6 * MB,  # [GA102]
            l2_gbps=2300.0,  # [chips], of an RTX 3090
            shared_bytes=100 * KB,  # [guide]
            shared_reserved=KB,  # [guide]
            lsu_lanes=16,  # [GA102]: 4 in each quarter
            fp32=128,  # [guide]
            fp64=2,  # [guide]
            fp16=128,  # [guide]
            # [GA102]: 155 TFLOP/s fp16, 77 tf32, 310 int8
            tensor={"fp16": 1024, "tf32": 512, "int8": 2048},
            warps=48,  # [guide]
            blocks=16,  # [guide]
            latency=Latencies(dram=542, l2=273, l1=43, shared=30),  # of an RTX 4090 [luo]
        ),
        Gpu(
            name="t4",
            title="Tesla T4",
            device="(Tesla )?T4",
            arch="75",
            sms=40,  # data sheet
            clock_ghz=1.59,  # data sheet
            dram_gbps=320.0,  # data sheet
            dram_reach=0.74,  # [jia]: 220 GiB/s read, with ECC
            l2_bytes=4 * MB,  # [jia]
            l2_gbps=1270.0,  # [jia]
            shared_bytes=64 * KB,  # [guide]
            shared_reserved=0,  # [guide]
            shared_unit=256,  # [guide]
            lsu_lanes=16,  # [TU102]: 4 in each quarter
            fp32=64,  # [guide]
            fp64=2,  # [guide]
            fp16=128,  # [guide]
            tensor={"fp16": 1024, "int8": 2048},  # data sheet: 65 TFLOP/s fp16, 130 int8
            warps=32,  # [guide]
            blocks=16,  # [guide]
            latency=Latencies(dram=434, l2=188, l1=32, shared=19),  # [jia]
        ),
    )
}
DEFAULT_GPU = "h200"


def by_device(name: str) -> Gpu | None:
    """The GPU with that CUDA name, such as ``NVIDIA H200``; None if it is not in the table."""
    matching = (gpu for gpu in GPUS.values() if re.fullmatch(f"(NVIDIA )?{gpu.device}", name))
    return next(matching, None)
