"""What an estimate reads of a launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Counted(Protocol):
    """Fields of simulator.Launch; docs/counters.md defines them."""

    kernel: str
    block: tuple[int, int, int]
    shared_bytes: int
    num_blocks: int
    warp_instructions: int
    global_load_requests: int
    global_load_sectors: int
    global_load_lines: int
    global_store_requests: int
    global_store_sectors: int
    global_store_lines: int
    global_load_bytes: int
    global_store_bytes: int
    local_requests: int
    local_sectors: int
    shared_load_requests: int
    shared_load_wavefronts: int
    shared_load_bytes: int
    shared_store_requests: int
    shared_store_wavefronts: int
    shared_store_bytes: int
    atomic_requests: int
    atomic_sectors: int
    shared_atomic_requests: int
    shared_atomic_wavefronts: int
    l2_read_sectors: int
    l2_write_sectors: int
    l2_repeated_sectors: int
    dram_read_bytes: int
    dram_write_bytes: int
    barriers: int
    tensor_flops: int
    forms: Mapping[str, int]
