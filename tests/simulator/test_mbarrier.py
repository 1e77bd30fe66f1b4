"""mbarrier (PTX ISA 9.7.13.15): phases, arrivals, transaction counts, waits, misuse."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest

from simulator import SimulatorError, settings
from tests.simulator.async_programs import Case, Program, tensor

# One thread executes a list of operations, each in one of three forms: with a 32-bit shared::cta
# address, a generic address, and as for another block of the cluster, which gives no state.
SEQUENCE = """
#define STATE(NAME, TEXT)                                                                       \\
  case NAME * 3: asm volatile("mbarrier." TEXT ".shared::cta.b64 %0, [%1], %2;"                 \\
                              : "=l"(state) : "r"(smem(&bar)), "r"(value) : "memory"); break;   \\
  case NAME * 3 + 1: asm volatile("mbarrier." TEXT ".b64 %0, [%1], %2;"                         \\
                                  : "=l"(state) : "l"(&bar), "r"(value) : "memory"); break;
#define REMOTE(NAME, TEXT)                                                                      \\
  STATE(NAME, TEXT)                                                                             \\
  case NAME * 3 + 2: asm volatile("mbarrier." TEXT ".shared::cluster.b64 _, [%0], %1;"          \\
                                  : : "r"(smem(&bar)), "r"(value) : "memory"); break;
#define PLAIN(NAME, TEXT)                                                                       \\
  case NAME * 3: asm volatile("mbarrier." TEXT ".shared::cta.b64 [%0], %1;"                     \\
                              : : "r"(smem(&bar)), "r"(value) : "memory"); break;               \\
  case NAME * 3 + 1: asm volatile("mbarrier." TEXT ".b64 [%0], %1;"                             \\
                                  : : "l"(&bar), "r"(value) : "memory"); break;                 \\
  case NAME * 3 + 2: asm volatile("mbarrier." TEXT ".relaxed.cluster.shared::cluster.b64 "      \\
                                  "[%0], %1;" : : "r"(smem(&bar)), "r"(value) : "memory"); break;
#define TEST(OUT, TEXT, OPERAND)                                                                \\
  asm volatile("{.reg .pred p; mbarrier." TEXT "; selp.u32 %0, 1, 0, p;}"                       \\
               : "=r"(OUT) : "r"(smem(&bar)), OPERAND, "l"(&bar) : "memory");

__global__ void sequence(const unsigned* ops, const unsigned* values, unsigned* out, int n,
                         unsigned count) {
  __shared__ u64 bar;
  make_barrier(&bar, count);
  for (int i = 0; i < n; i++) {
    u64 state = 0;
    const unsigned value = values[i];
    switch (ops[i]) {
      REMOTE(0, "arrive.release.cta")
      REMOTE(1, "arrive.expect_tx.relaxed.cluster")
      REMOTE(2, "arrive_drop")
      REMOTE(3, "arrive_drop.expect_tx")
      STATE(4, "arrive.noComplete")
      STATE(5, "arrive_drop.noComplete.release.cta")
      PLAIN(6, "expect_tx")
      PLAIN(7, "complete_tx")
    }
    unsigned* o = out + 7 * i;
    TEST(o[0], "test_wait.parity.shared::cta.b64 p, [%1], %2", "r"(0))
    TEST(o[1], "test_wait.parity.relaxed.cluster.b64 p, [%3], %2", "r"(1))
    TEST(o[2], "try_wait.parity.shared.b64 p, [%1], %2, 100", "r"(0))
    TEST(o[3], "try_wait.parity.acquire.cluster.b64 p, [%3], %2", "r"(1))
    if (state == 0) continue;
    asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(o[4]) : "l"(state));
    TEST(o[5], "test_wait.shared::cta.b64 p, [%1], %2", "l"(state))
    TEST(o[6], "try_wait.relaxed.cta.b64 p, [%3], %2", "l"(state))
  }
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" : : "r"(smem(&bar)) : "memory");
}
void run_sequence(const unsigned* ops, const unsigned* values, unsigned* out, int n,
                  unsigned count) {
  sequence<<<1, 1>>>(ops, values, out, n, count);
}
"""

# A producer warp fills slots, consumer warps empty them: a ring over several phases.
RING = """
constexpr int SLOTS = 3;
__global__ void ring(const unsigned* in, unsigned* out, int steps, int consumers) {
  __shared__ u64 full[SLOTS], empty[SLOTS];
  __shared__ unsigned slot[SLOTS][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < SLOTS; s++) {
      make_barrier(&full[s], 32);
      make_barrier(&empty[s], consumers);
    }
  }
  __syncthreads();
  for (int i = 0; i < steps; i++) {
    const int s = i % SLOTS, phase = i / SLOTS % 2;
    if (warp == 0) {
      wait(&empty[s], phase ^ 1);
      slot[s][lane] = in[i * 32 + lane];
      arrive(&full[s]);
    } else {
      wait(&full[s], phase);
      out[((warp - 1) * steps + i) * 32 + lane] = slot[s][31 - lane];
      __syncwarp();
      if (lane == 0) arrive(&empty[s]);
    }
  }
}
void run_ring(const unsigned* in, unsigned* out, int steps, int consumers) {
  ring<<<2, 32 * (consumers + 1)>>>(in, out, steps, consumers);
}

// Each lane of warp 0 waits for a barrier of its own, which warp 1 completes in another order.
__global__ void lanes(const int* order, unsigned* seen) {
  __shared__ u64 bars[32];
  __shared__ unsigned turn;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < 32) make_barrier(&bars[lane], 1);
  if (threadIdx.x == 0) turn = 0;
  __syncthreads();
  if (threadIdx.x < 32) {
    wait(&bars[lane], 0);
    seen[lane] = atomicAdd(&turn, 1);
  } else if (lane == 0) {
    for (int i = 0; i < 32; i++) {
      arrive(&bars[order[i]]);
      while (atomicAdd(&turn, 0) == i) {
      }
    }
  }
}
void run_lanes(const int* order, unsigned* seen) { lanes<<<1, 64>>>(order, seen); }

// A loop around test_wait lets the other warps go on.
__global__ void spin(unsigned* out) {
  __shared__ u64 bar;
  if (threadIdx.x == 0) make_barrier(&bar, 32);
  __syncthreads();
  if (threadIdx.x < 32) {
    unsigned done = 0;
    while (!done) {
      asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], 0;"
                   "selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(smem(&bar)) : "memory");
    }
    out[threadIdx.x] = 1;
  } else {
    arrive(&bar);
  }
}
void run_spin(unsigned* out) { spin<<<1, 64>>>(out); }

// Every block of the cluster arrives at a barrier of block 0, with bytes and without.
__global__ void __cluster_dims__(4) remote(unsigned* out) {
  __shared__ u64 bar;
  if (threadIdx.x == 0) make_barrier(&bar, 4 * 32);
  cluster_sync();
  const unsigned there = peer(&bar, 0);
  if (cluster_rank() == 2) {
    asm volatile("mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%0], 8;"
                 : : "r"(there) : "memory");
    asm volatile("mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%0], 8;"
                 : : "r"(there) : "memory");
  } else {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];"
                 : : "r"(there) : "memory");
  }
  if (cluster_rank() == 0) {
    wait(&bar, 0);
    out[threadIdx.x] = 7;
  }
  cluster_sync();
}
void run_remote(unsigned* out) { remote<<<4, 32>>>(out); }
"""

LIBRARY = """
#include <cuda/barrier>
#include <cuda/std/utility>
using Block = cuda::barrier<cuda::thread_scope_block>;

// cuda::barrier: rounds of arrive and wait; threads that leave; expect_tx.
__global__ void rounds(int* out, int n) {
  __shared__ int sum;
  #pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Block bar;
  if (threadIdx.x == 0) {
    init(&bar, static_cast<ptrdiff_t>(blockDim.x));
    sum = 0;
  }
  __syncthreads();
  for (int i = 0; i < n; i++) {
    if (threadIdx.x == static_cast<unsigned>(i)) {
      bar.arrive_and_drop();
      return;
    }
    atomicAdd(&sum, 1);
    bar.wait(bar.arrive());
    out[i * blockDim.x + threadIdx.x] = sum;
    bar.arrive_and_wait();
  }
}
__global__ void bytes(const int* in, int* out) {
  __shared__ alignas(16) int data[64];
  #pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Block bar;
  if (threadIdx.x == 0) init(&bar, static_cast<ptrdiff_t>(blockDim.x));
  __syncthreads();
  Block::arrival_token token;
  if (threadIdx.x == 0) {
    cuda::device::memcpy_async_tx(data, in, cuda::aligned_size_t<16>(sizeof(data)), bar);
    token = cuda::device::barrier_arrive_tx(bar, 1, sizeof(data));
  } else {
    token = bar.arrive();
  }
  bar.wait(cuda::std::move(token));
  out[threadIdx.x] = data[threadIdx.x];
}
void run_rounds(int* out, int threads, int n) { rounds<<<1, threads>>>(out, n); }
void run_bytes(const int* in, int* out) { bytes<<<1, 64>>>(in, out); }
"""

SEQUENCES = Program("mbarrier_sequence", SEQUENCE, ("run_sequence",))
RINGS = Program("mbarrier_ring", RING, ("run_ring", "run_lanes", "run_spin", "run_remote"))
LIBCUXX = Program("mbarrier_library", LIBRARY, ("run_rounds", "run_bytes"))

ARRIVE, ARRIVE_TX, DROP, DROP_TX, NO_COMPLETE, DROP_NO_COMPLETE, EXPECT, COMPLETE = range(8)


@dataclass
class Model:
    """An mbarrier as the PTX ISA describes it."""

    expected: int

    def __post_init__(self) -> None:
        self.pending, self.tx, self.phase = self.expected, 0, 0

    def apply(self, op: int, value: int) -> None:
        self.tx += value if op in (ARRIVE_TX, DROP_TX, EXPECT) else 0
        self.tx -= value if op == COMPLETE else 0
        if op not in (EXPECT, COMPLETE):
            count = 1 if op in (ARRIVE_TX, DROP_TX) else value
            self.pending -= count
            self.expected -= count if op in (DROP, DROP_TX, DROP_NO_COMPLETE) else 0
        if self.pending == 0 and self.tx == 0:
            self.phase += 1
            self.pending = self.expected

    def choose(self, rng: random.Random) -> tuple[int, int]:
        """An operation that is allowed now, and its value."""
        if self.pending == 0:  # only bytes are missing
            return (COMPLETE, rng.randint(1, self.tx)) if self.tx > 0 else (EXPECT, -self.tx)
        op = rng.choice((ARRIVE, ARRIVE, ARRIVE_TX, NO_COMPLETE, EXPECT, COMPLETE, DROP, DROP_TX))
        if op in (DROP, DROP_TX) and (self.expected < 4 or rng.random() < 0.8):
            op = ARRIVE
        if op == NO_COMPLETE:
            if self.pending == 1:
                return ARRIVE, 1
            op = DROP_NO_COMPLETE if self.expected > 8 and rng.random() < 0.2 else op
            return op, rng.randint(1, min(3, self.pending - 1))
        if op in (ARRIVE, DROP):
            return op, rng.randint(1, min(3, self.pending, self.expected - (op == DROP)))
        if op == COMPLETE:  # may come before its expect_tx
            return op, rng.randint(1, 5000)
        return op, rng.choice((0, 1, 16, 4096, 100_000)) if self.tx < 400_000 else 1


def check_sequence(module: ModuleType, device: str) -> None:
    for seed, count in enumerate((1, 2, 5, 37, (1 << 20) - 1)):
        rng, model = random.Random(seed), Model(count)
        ops, values, wanted = [], [], []
        for _ in range(400):
            op, value = model.choose(rng)
            variant = rng.randrange(2 if op in (NO_COMPLETE, DROP_NO_COMPLETE) else 3)
            before, phase = model.pending, model.phase
            model.apply(op, value)
            done = [model.phase % 2 != 0, model.phase % 2 != 1]
            state = [before, model.phase > phase, model.phase > phase]
            has_state = op not in (EXPECT, COMPLETE) and variant < 2
            wanted.append([*done, *done, *(state if has_state else (99, 99, 99))])
            ops.append(op * 3 + variant)
            values.append(value)
        out = tensor(np.full((len(ops), 7), 99, np.uint32), device)
        arguments = (np.array(ops, np.uint32), np.array(values, np.uint32))
        module.run_sequence(*(tensor(a, device) for a in arguments), out, len(ops), count)
        assert np.array_equal(out.cpu().numpy(), np.array(wanted)), f"count {count}"


def check_ring(module: ModuleType, device: str) -> None:
    for steps, consumers in ((1, 1), (3, 2), (20, 3)):
        data = np.arange(steps * 32, dtype=np.uint32).reshape(steps, 32) * 3
        out = tensor(np.zeros((consumers, steps, 32), np.uint32), device)
        module.run_ring(tensor(data, device), out, steps, consumers)
        assert np.array_equal(out.cpu().numpy(), np.repeat(data[None, :, ::-1], consumers, 0))


def check_lanes(module: ModuleType, device: str) -> None:
    order = np.random.default_rng(1).permutation(32).astype(np.int32)
    seen = tensor(np.zeros(32, np.uint32), device)
    module.run_lanes(tensor(order, device), seen)
    assert np.array_equal(np.argsort(seen.cpu().numpy()), order)


def check_ones(launcher: str, value: int):
    def run(module: ModuleType, device: str) -> None:
        out = tensor(np.zeros(32, np.uint32), device)
        getattr(module, launcher)(out)
        assert out.cpu().tolist() == [value] * 32

    return run


def check_rounds(module: ModuleType, device: str) -> None:
    threads, n = 70, 9
    out = tensor(np.zeros((n, threads), np.int32), device)
    module.run_rounds(out, threads, n)
    left = np.arange(n)[:, None] + 1
    sums = np.cumsum(threads - np.arange(1, n + 1))[:, None]
    wanted = np.where(np.arange(threads) >= left, sums, 0)
    assert np.array_equal(out.cpu().numpy(), wanted)


def check_bytes(module: ModuleType, device: str) -> None:
    data = np.arange(64, dtype=np.int32) - 9
    out = tensor(np.zeros(64, np.int32), device)
    module.run_bytes(tensor(data, device), out)
    assert np.array_equal(out.cpu().numpy(), data)


def _forms(*names: str) -> tuple[str, ...]:
    return tuple(f"mbarrier.{name}.b64" for name in names)


CASES = [
    Case(
        "sequence",
        _forms(
            "init.shared::cta",
            "inval.shared::cta",
            "arrive.release.cta.shared::cta",
            "arrive.release.cta",
            "arrive.release.cta.shared::cluster",
            "arrive.expect_tx.relaxed.cluster.shared::cta",
            "arrive.expect_tx.relaxed.cluster",
            "arrive.expect_tx.relaxed.cluster.shared::cluster",
            "arrive_drop.shared::cta",
            "arrive_drop",
            "arrive_drop.shared::cluster",
            "arrive_drop.expect_tx.shared::cta",
            "arrive_drop.expect_tx",
            "arrive_drop.expect_tx.shared::cluster",
            "arrive.noComplete.shared::cta",
            "arrive.noComplete",
            "arrive_drop.noComplete.release.cta.shared::cta",
            "arrive_drop.noComplete.release.cta",
            "expect_tx.shared::cta",
            "expect_tx",
            "expect_tx.relaxed.cluster.shared::cluster",
            "complete_tx.shared::cta",
            "complete_tx",
            "complete_tx.relaxed.cluster.shared::cluster",
            "test_wait.parity.shared::cta",
            "test_wait.parity.relaxed.cluster",
            "try_wait.parity.shared",
            "try_wait.parity.acquire.cluster",
            "test_wait.shared::cta",
            "try_wait.relaxed.cta",
            "pending_count",
        ),
        SEQUENCES,
        check_sequence,
    ),
    Case(
        "ring",
        _forms("init.shared::cta", "arrive.shared::cta", "try_wait.parity.shared::cta"),
        RINGS,
        check_ring,
    ),
    Case("lanes", _forms("try_wait.parity.shared::cta"), RINGS, check_lanes),
    Case("spin", _forms("test_wait.parity.shared"), RINGS, check_ones("run_spin", 1)),
    Case(
        "remote",
        _forms(
            "arrive.expect_tx.release.cluster.shared::cluster",
            "arrive.release.cluster.shared::cluster",
            "complete_tx.relaxed.cluster.shared::cluster",
        ),
        RINGS,
        check_ones("run_remote", 7),
    ),
    Case("cuda::barrier", _forms("arrive.shared::cta", "arrive_drop"), LIBCUXX, check_rounds),
    Case("cuda::barrier with bytes", _forms("arrive.expect_tx"), LIBCUXX, check_bytes),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mbarrier(case: Case):
    case.check()


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_ring_in_any_order_of_warps(order: str):
    with settings(order=order, seed=3):
        check_ring(RINGS.module("simulator"), "cpu")
        check_lanes(RINGS.module("simulator"), "cpu")


# ---- Misuse --------------------------------------------------------------------------------------

# What thread 5 of 32 does with `bar` (2 arrivals), and what the report says.
MISUSE = {
    "count 0": ("make_barrier(&bar, 0);", "synccheck", "for 0 arrivals"),
    "count too large": ("make_barrier(&bar, 1 << 20);", "synccheck", "for 1048576 arrivals"),
    "one arrival too many": (
        'asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 3;" : : "r"(smem(&bar)));',
        "synccheck",
        "3 arrivals at an mbarrier whose phase expects 2 more",
    ),
    "no arrival": (
        'asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;"'
        ' : : "r"(smem(&bar)), "r"(out[1]));',
        "synccheck",
        "0 arrivals",
    ),
    "noComplete completes": (
        'asm volatile("{.reg .b64 s; mbarrier.arrive.noComplete.shared::cta.b64 s, [%0], 2;}"'
        ' : : "r"(smem(&bar)));',
        "synccheck",
        "noComplete",
    ),
    "too many bytes": ("expect(&bar, 1 << 20);", "synccheck", "tx-count"),
    "bytes add up": (
        "expect(&bar, 1 << 19); expect(&bar, 1 << 19);",
        "synccheck",
        "tx-count of the mbarrier becomes 1048576",
    ),
    "never initialised": ("arrive(&other);", "synccheck", "no mbarrier at shared address"),
    "overwritten": ("bar = 12345; arrive(&bar);", "synccheck", "no mbarrier at shared address"),
    "invalidated": (
        'asm volatile("mbarrier.inval.shared::cta.b64 [%0];" : : "r"(smem(&bar))); arrive(&bar);',
        "synccheck",
        "no mbarrier at shared address",
    ),
    "misaligned": (
        "make_barrier(reinterpret_cast<char*>(&bar) + 4, 1);",
        "memcheck",
        "multiple of 8",
    ),
    "outside": (
        "make_barrier(&bar + 1000, 1);",
        "memcheck",
        "outside of the block's shared memory",
    ),
    "in global memory": (
        'asm volatile("mbarrier.init.b64 [%0], 1;" : : "l"(out));',
        "memcheck",
        "does not lie in shared memory",
    ),
    "parity 2": ("try_wait(&bar, 2);", "synccheck", "0 or 1, not 2"),
    "no state": (
        'asm volatile("{.reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%0], 7;}"'
        ' : : "r"(smem(&bar)));',
        "synccheck",
        "none that an arrival returned",
    ),
    "nobody arrives": (
        "expect(&bar, 48); wait(&bar, 0);",
        "synccheck",
        r"deadlock: 1 thread waits for an mbarrier.*(?s:.)*still waits for 1 of 2 arrivals "
        "and 48 bytes",
    ),
}


def misuse_source() -> str:
    text = ""
    for i, (body, _, _) in enumerate(MISUSE.values()):
        text += f"""
__global__ void misuse_{i}(unsigned* out) {{
  __shared__ u64 bar, other;
  if (threadIdx.x == 0) make_barrier(&bar, 2);
  __syncthreads();
  if (threadIdx.x == 5) {{
    {body}
    out[0] = static_cast<unsigned>(bar + other);
  }}
}}
void run_{i}(unsigned* out) {{ misuse_{i}<<<1, 32>>>(out); }}
"""
    return text


MISUSES = Program("mbarrier_misuse", misuse_source(), tuple(f"run_{i}" for i in range(len(MISUSE))))


@pytest.mark.parametrize("which", MISUSE)
def test_misuse_is_reported(which: str):
    _, kind, message = MISUSE[which]
    launch = getattr(MISUSES.module("simulator"), f"run_{list(MISUSE).index(which)}")
    with pytest.raises(SimulatorError, match=message) as error:
        launch(tensor(np.zeros(4, np.uint32), "cpu"))
    assert error.value.kind == kind
    assert error.value.thread == (5, 0, 0)
