"""Hardware roofs: peak compute and memory rates, from data sheets and device properties."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

# fp32 lanes per multiprocessor by compute capability; CUDA C++ Programming Guide,
# "Throughput of Native Arithmetic Instructions".
FP32_LANES = {
    (7, 0): 64,
    (7, 2): 64,
    (7, 5): 64,
    (8, 0): 64,
    (8, 6): 128,
    (8, 7): 128,
    (8, 9): 128,
    (9, 0): 128,
    (10, 0): 128,
    (10, 3): 128,
    (12, 0): 128,
}

# Memory bandwidth in GB/s by device name (a pattern for all of it after "NVIDIA" and the brand: an
# RTX 4090 is not an RTX 4090 D), from NVIDIA's data sheets.
MEMORY_GBPS = {
    "H200": 4800.0,
    "GH200 480GB": 4000.0,
    "H100 80GB HBM3": 3350.0,
    "H100 PCIe": 2000.0,
    "A100-SXM4-80GB": 2039.0,
    "A100 80GB PCIe": 1935.0,
    "A100-SXM4-40GB": 1555.0,
    "A100-PCIE-40GB": 1555.0,
    "L40S": 864.0,
    "RTX 4090": 1008.0,
    "RTX 3090": 936.0,
    "A10": 600.0,
    "L4": 300.0,
    "T4": 320.0,
    "V100-(SXM2|PCIE)-(16|32)GB": 900.0,
}


@dataclass(frozen=True)
class Roofs:
    """Peak rates of a device; None where unknown."""

    tflops: float | None
    gbps: float | None

    def of(self, unit: str) -> float | None:
        """The peak in "tflops" or "gbps"."""
        return self.tflops if unit == "tflops" else self.gbps


def fp32_tflops(sms: int, lanes: int, clock_khz: float) -> float:
    """Two operations (one FMA) per lane and clock."""
    return sms * lanes * 2 * clock_khz * 1e3 / 1e12


def memory_gbps(name: str, clock_khz: float, bus_bits: int) -> float | None:
    """Two transfers per memory clock if that is known, else by name; None if unknown."""
    if clock_khz and bus_bits:
        return 2 * clock_khz * 1e3 * bus_bits / 8 / 1e9
    for pattern, gbps in MEMORY_GBPS.items():
        if re.fullmatch(rf"(NVIDIA )?(GeForce |Tesla )?{pattern}", name):
            return gbps
    return None


def device_roofs(device: torch.device, max_sm_mhz: float | None) -> Roofs:
    """The roofs of a CUDA device.

    Args:
        device: a CUDA device.
        max_sm_mhz: its highest clock, used if torch's properties do not include it.
    """
    properties = torch.cuda.get_device_properties(device)
    clock_khz = getattr(properties, "clock_rate", 0) or 1e3 * (max_sm_mhz or 0)
    lanes = FP32_LANES.get((properties.major, properties.minor))
    tflops = None
    if lanes and clock_khz:
        tflops = fp32_tflops(properties.multi_processor_count, lanes, clock_khz)
    memory_khz = getattr(properties, "memory_clock_rate", 0)
    bus_bits = getattr(properties, "memory_bus_width", 0)
    return Roofs(tflops, memory_gbps(properties.name, memory_khz, bus_bits))
