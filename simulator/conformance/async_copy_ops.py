"""cp.async (PTX ISA 9.7.9.25): per-thread copies, their groups, mbarriers that track them."""

from __future__ import annotations

from itertools import product
from types import ModuleType

import numpy as np

from simulator.conformance.asynchronous import Case, Program, tensor

# Every lane copies one piece; outputs shared memory before and after the wait.
COPY = """
__global__ void NAME_kernel(const uint8_t* in, const int* from, const unsigned* size,
                            const int* run, uint8_t* out) {
  constexpr int BYTES = SIZE;
  __shared__ alignas(16) uint8_t data[64 * BYTES];
  const int t = threadIdx.x;
  for (int i = 0; i < BYTES; i++) data[t * BYTES + i] = 0xee;
  if (run[t]) {
    asm volatile("{.reg .pred none; .reg .b64 policy; setp.eq.u32 none, %2, 0; mov.b64 policy, 0;"
                 "cp.async.TEXT; cp.async.commit_group;}"
                 : : "r"(smem(data + t * BYTES)), "l"(in + from[t]), "r"(size[t]) : "memory");
  }
  for (int i = 0; i < BYTES; i++) out[t * BYTES + i] = data[t * BYTES + i];
  asm volatile("cp.async.wait_group 0;" : : : "memory");
  for (int i = 0; i < BYTES; i++) out[(64 + t) * BYTES + i] = data[t * BYTES + i];
}
void NAME(const uint8_t* in, const int* from, const unsigned* size, const int* run, uint8_t* out) {
  NAME_kernel<<<1, 64>>>(in, from, size, run, out);
}
"""

FORMS = {  # launcher: bytes, form, additional operands
    "ca4": (4, "ca.shared.global", ""),
    "ca8": (8, "ca.shared::cta.global.L2::64B", ""),
    "ca16": (16, "ca.shared.global.L2::128B", ""),
    "cg16": (16, "cg.shared.global.L2::256B", ""),
    "cg_cta16": (16, "cg.shared::cta.global", ""),
    "ca_hint4": (4, "ca.shared.global.L2::cache_hint", ", policy"),
    "sized4": (4, "ca.shared.global", ", %2"),
    "sized8": (8, "ca.shared.global", ", %2"),
    "sized16": (16, "cg.shared.global", ", %2"),
    "sized_hint16": (16, "cg.shared.global.L2::cache_hint.L2::128B", ", %2, policy"),
    "ignored8": (8, "ca.shared.global", ", none"),
    "ignored16": (16, "cg.shared.global", ", none"),
}


def copy_kernel(name: str) -> str:
    size, form, more = FORMS[name]
    text = COPY.replace("TEXT", f"{form} [%0], [%1], {size}{more}")
    return text.replace("NAME", name).replace("SIZE", str(size))


GROUPS = """
// Three groups of two copies each, waited for in sequence; thread t commits group g only
// if bit g of its mask is set, so that lanes wait for different copies.
__global__ void groups_kernel(const int* in, const unsigned* masks, int* out) {
  __shared__ int data[6][32];
  const int t = threadIdx.x;
  for (int i = 0; i < 6; i++) data[i][t] = -1;
  for (int g = 0; g < 3; g++) {
    for (int i = 2 * g; i < 2 * g + 2; i++) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                   : : "r"(smem(&data[i][t])), "l"(in + i * 32 + t) : "memory");
    }
    if (masks[t] >> g & 1) asm volatile("cp.async.commit_group;" : : : "memory");
  }
#define SHOW(N) for (int i = 0; i < 6; i++) out[(N * 6 + i) * 32 + t] = data[i][t];
  asm volatile("cp.async.wait_group 2;" : : : "memory");
  SHOW(0)
  asm volatile("cp.async.wait_group 1;" : : : "memory");
  SHOW(1)
  asm volatile("cp.async.wait_group 0;" : : : "memory");
  SHOW(2)
  asm volatile("cp.async.wait_all;" : : : "memory");
  SHOW(3)
}
void groups(const int* in, const unsigned* masks, int* out) {
  groups_kernel<<<1, 32>>>(in, masks, out);
}

// A barrier that completes with the copies of all threads; with noinc the count includes them.
#define ARRIVE(FORM) \\
  asm volatile("cp.async.mbarrier." FORM ".b64 [%0];" : : "r"(smem(&bar)) : "memory");
template <bool NOINC>
__global__ void tracked_kernel(const int* in, int* out, int form) {
  __shared__ int data[2][64];
  __shared__ u64 bar;
  const int t = threadIdx.x;
  if (t == 0) make_barrier(&bar, NOINC ? 64 : 1);
  data[0][t] = data[1][t] = -1;
  __syncthreads();
  for (int round = 0; round < 2; round++) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                 : : "r"(smem(&data[round][t])), "l"(in + round * 64 + t) : "memory");
    switch (form + 3 * NOINC) {
      case 0: asm volatile("cp.async.mbarrier.arrive.b64 [%0];" : : "l"(&bar) : "memory"); break;
      case 1: ARRIVE("arrive.shared") break;
      case 2: ARRIVE("arrive.shared::cta") break;
      case 3: asm volatile("cp.async.mbarrier.arrive.noinc.b64 [%0];" : : "l"(&bar) : "memory");
              break;
      case 4: ARRIVE("arrive.noinc.shared") break;
      case 5: ARRIVE("arrive.noinc.shared::cta") break;
    }
    out[(round * 2) * 64 + t] = data[round][63 - t];
    __syncthreads();
    if (!NOINC && t == 0) arrive(&bar);
    wait(&bar, round);
    out[(round * 2 + 1) * 64 + t] = data[round][63 - t];
    __syncthreads();
  }
}
void tracked(const int* in, int* out, int noinc, int form) {
  if (noinc) tracked_kernel<true><<<1, 64>>>(in, out, form);
  else tracked_kernel<false><<<1, 64>>>(in, out, form);
}
"""

PIPELINES = """
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/pipeline>
#include <cuda_pipeline_primitives.h>
namespace cg = cooperative_groups;
#pragma nv_diag_suppress static_var_with_dynamic_init

// Two stages: the next tile is copied while this one is summed.
__global__ void block_pipeline(const int* in, int* out, int tiles) {
  constexpr int STAGES = 2, N = 64;
  __shared__ alignas(16) int data[STAGES][N];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
  auto block = cg::this_thread_block();
  auto pipe = cuda::make_pipeline(block, &state);
  int sum = 0;
  for (int compute = 0, fetch = 0; compute < tiles; compute++) {
    for (; fetch < tiles && fetch < compute + STAGES; fetch++) {
      pipe.producer_acquire();
      cuda::memcpy_async(block, data[fetch % STAGES], in + fetch * N,
                         cuda::aligned_size_t<16>(sizeof(int) * N), pipe);
      pipe.producer_commit();
    }
    pipe.consumer_wait();
    sum += data[compute % STAGES][N - 1 - threadIdx.x];
    pipe.consumer_release();
  }
  out[threadIdx.x] = sum;
}
// Warp 0 produces, the others consume.
__global__ void split_pipeline(const int* in, int* out, int tiles) {
  constexpr int STAGES = 3, N = 64;
  __shared__ alignas(16) int data[STAGES][N];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
  auto block = cg::this_thread_block();
  const auto role = threadIdx.x < 32 ? cuda::pipeline_role::producer
                                     : cuda::pipeline_role::consumer;
  auto pipe = cuda::make_pipeline(block, &state, role);
  auto warp = cg::tiled_partition<32>(block);
  int sum = 0;
  for (int i = 0; i < tiles; i++) {
    if (role == cuda::pipeline_role::producer) {
      pipe.producer_acquire();
      cuda::memcpy_async(warp, data[i % STAGES], in + i * N, sizeof(int) * N, pipe);
      pipe.producer_commit();
    } else {
      pipe.consumer_wait();
      sum += data[i % STAGES][threadIdx.x - 32];
      pipe.consumer_release();
    }
  }
  if (role == cuda::pipeline_role::consumer) out[threadIdx.x - 32] = sum;
}
__global__ void group_copy(const int* in, int* out) {
  __shared__ alignas(16) int data[64];
  auto block = cg::this_thread_block();
  cg::memcpy_async(block, data, in, sizeof(data));
  cg::wait(block);
  out[threadIdx.x] = data[63 - threadIdx.x];
}
__global__ void primitives(const int* in, int* out) {
  __shared__ alignas(16) int data[64][4];
  const int t = threadIdx.x;
  __pipeline_memcpy_async(data[t], in + 4 * t, 16, t % 4 * 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  for (int i = 0; i < 4; i++) out[4 * t + i] = data[t][i];
}
void run_block_pipeline(const int* in, int* out, int tiles) {
  block_pipeline<<<1, 64>>>(in, out, tiles);
}
void run_split_pipeline(const int* in, int* out, int tiles) {
  split_pipeline<<<1, 96>>>(in, out, tiles);
}
void run_group_copy(const int* in, int* out) { group_copy<<<1, 64>>>(in, out); }
void run_primitives(const int* in, int* out) { primitives<<<1, 64>>>(in, out); }
"""

SINGLE = Program(
    "async_copies",
    "".join(map(copy_kernel, FORMS)) + GROUPS,
    (*FORMS, "groups", "tracked"),
)
LIBRARY = Program(
    "async_pipelines",
    PIPELINES,
    ("run_block_pipeline", "run_split_pipeline", "run_group_copy", "run_primitives"),
    alone=True,  # the library's traps make the build look for calls of the host, unit by unit
)


def operands(launcher: str, seed: int) -> list[np.ndarray]:
    """Source, offsets in it, sizes and which threads copy; empty pieces are anywhere."""
    rng = np.random.default_rng(seed)
    n = FORMS[launcher][0]
    data = rng.integers(0, 256, 4096).astype(np.uint8)
    start = rng.integers(0, 4096 // n, 64) * n if seed else np.arange(64) * n
    size = rng.integers(0, n + 1, 64) if seed else np.full(64, n)
    run = rng.integers(0, 2, 64) if seed > 1 else np.ones(64)
    empty = (size == 0) & (launcher[:2] not in ("ca", "cg"))
    start[empty] += 1 << 20  # not read, so not out of bounds
    return [data, start.astype(np.int32), size.astype(np.uint32), run.astype(np.int32)]


def check_copy(launcher: str):
    def run(module: ModuleType, device: str) -> None:
        n = FORMS[launcher][0]
        for seed in range(4):
            data, start, size, active = operands(launcher, seed)
            out = tensor(np.zeros((2, 64, n), np.uint8), device)
            arguments = [tensor(a, device) for a in (data, start, size, active)]
            getattr(module, launcher)(*arguments, out)
            wanted = np.full((2, 64, n), 0xEE, np.uint8)
            for t in np.flatnonzero(active):
                read = n
                if launcher.startswith("sized"):
                    read = size[t]
                elif launcher.startswith("ignored"):
                    read = n if size[t] else 0
                wanted[1, t] = 0
                wanted[1, t, :read] = data[start[t] : start[t] + read]
            got = out.cpu().numpy()
            assert np.array_equal(got[1], wanted[1]), f"seed {seed}"
            if device == "cpu":  # as late as PTX allows
                assert np.array_equal(got[0], wanted[0]), f"seed {seed}, before the wait"

    return run


def check_groups(module: ModuleType, device: str) -> None:
    data = np.arange(6 * 32, dtype=np.int32).reshape(6, 32)
    masks = np.arange(32, dtype=np.uint32) % 8
    out = tensor(np.zeros((4, 6, 32), np.int32), device)
    module.groups(tensor(data, device), tensor(masks, device), out)
    wanted = np.full((4, 6, 32), -1, np.int32)
    for t in range(32):
        groups, open_ = [], []
        for g in range(3):
            open_ += [2 * g, 2 * g + 1]
            if masks[t] >> g & 1:
                groups.append(open_)
                open_ = []
        for show, still in enumerate((2, 1, 0)):
            for i in sum(groups[: max(0, len(groups) - still)], []):
                wanted[show, i, t] = data[i, t]
        wanted[3, :, t] = data[:, t]
    got = out.cpu().numpy()
    if device == "cpu":
        assert np.array_equal(got, wanted)
    else:
        done = wanted != -1
        assert np.array_equal(got[done], wanted[done])


def check_tracked(module: ModuleType, device: str) -> None:
    data = np.arange(128, dtype=np.int32).reshape(2, 64)
    for noinc, form in product((0, 1), (0, 1, 2)):
        out = tensor(np.zeros((2, 2, 64), np.int32), device)
        module.tracked(tensor(data, device), out, noinc, form)
        got = out.cpu().numpy()
        assert np.array_equal(got[:, 1], data[:, ::-1])
        if device == "cpu":
            assert (got[:, 0] == -1).all()


def check_library(launcher: str):
    def run(module: ModuleType, device: str) -> None:
        for tiles in (1, 2, 7):
            data = np.random.default_rng(tiles).integers(-99, 99, (tiles, 64)).astype(np.int32)
            out = tensor(np.zeros(64, np.int32), device)
            if launcher == "run_group_copy":
                module.run_group_copy(tensor(data[0], device), out)
                wanted = data[0, ::-1]
            else:
                getattr(module, launcher)(tensor(data, device), out, tiles)
                wanted = data.sum(0)[:: -1 if "block" in launcher else 1]
            assert np.array_equal(out.cpu().numpy(), wanted), tiles

    return run


def check_primitives(module: ModuleType, device: str) -> None:
    data = np.arange(1, 257, dtype=np.int32).reshape(64, 4)
    out = tensor(np.zeros((64, 4), np.int32), device)
    module.run_primitives(tensor(data, device), out)
    kept = np.arange(4)[None, :] < 4 - np.arange(64)[:, None] % 4
    assert np.array_equal(out.cpu().numpy(), np.where(kept, data, 0))


CASES = [
    *(Case(name, SINGLE, check_copy(name)) for name in FORMS),
    Case("groups", SINGLE, check_groups),
    Case("tracked by an mbarrier", SINGLE, check_tracked),
    Case("pipeline of a block", LIBRARY, check_library("run_block_pipeline")),
    Case("pipeline of two roles", LIBRARY, check_library("run_split_pipeline")),
    Case("cooperative groups", LIBRARY, check_library("run_group_copy")),
    Case("primitives", LIBRARY, check_primitives),
]
