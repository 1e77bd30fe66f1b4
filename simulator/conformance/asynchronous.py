"""Programs for asynchronous instructions: kernels compiled together, and cases that run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from simulator.conformance import micro

ALIGN = 128  # bytes

# Helpers for the kernels of these tests.
HELPERS = """
#include <cstdint>
using u64 = unsigned long long;
__device__ inline unsigned smem(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
// The same place in the shared memory of another block of the cluster.
__device__ inline unsigned peer(const void* p, unsigned rank) {
  unsigned out;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(out) : "r"(smem(p)), "r"(rank));
  return out;
}
__device__ inline void make_barrier(void* bar, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(smem(bar)), "r"(count) : "memory");
}
__device__ inline void arrive(void* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(smem(bar)) : "memory");
}
__device__ inline void expect(void* bar, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               : : "r"(smem(bar)), "r"(bytes) : "memory");
}
__device__ inline bool try_wait(void* bar, unsigned parity) {
  unsigned done;
  asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
               "selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(smem(bar)), "r"(parity) : "memory");
  return done;
}
__device__ inline void wait(void* bar, unsigned parity) {
  while (!try_wait(bar, parity)) {
  }
}
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" : : : "memory");
}
__device__ inline unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
"""


class Program(micro.Program):
    """CUDA source after HELPERS, and the launchers that it defines."""

    def __init__(
        self, name: str, source: str, functions: tuple[str, ...], alone: bool = False
    ) -> None:
        super().__init__(name, HELPERS + source, *functions, alone=alone)


@dataclass(frozen=True)
class Case:
    """Runs kernels of a program and compares what they computed with a model.

    run: takes the compiled module and the device of its tensors; raises AssertionError.
    """

    name: str
    program: Program
    run: Callable[[ModuleType, str], None]

    def __str__(self) -> str:
        return self.name

    def check(self, full: bool = False, target: str = "simulator") -> None:
        del full  # every case always runs in full
        self.run(self.program.module(target), "cpu" if target == "simulator" else "cuda")


def tensor(values: np.ndarray, device: str) -> torch.Tensor:
    """A separate tensor with these values, at an address valid for every instruction."""
    made = torch.from_numpy(np.ascontiguousarray(values).copy())
    room = torch.empty(made.numel() + ALIGN // made.element_size(), dtype=made.dtype, device=device)
    skip = -room.data_ptr() % ALIGN // made.element_size()
    return room[skip : skip + made.numel()].view(made.shape).copy_(made)
