"""mbarrier (PTX ISA 9.7.13.15): phases, arrivals, transaction counts, waits, misuse."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from simulator.conformance.asynchronous import Case, Program, tensor

# One thread executes a list of operations, each in one of three forms: with a 32-bit shared::cta
# address, with a generic address, and as for another block of the cluster, which returns no
# state.
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

// Each lane of warp 0 waits for its own barrier; warp 1 completes them in another order.
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

// A loop around test_wait lets the other warps proceed.
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

// Every block of the cluster arrives at a barrier of block 0, with and without bytes.
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

# Every form of an operation on its own barrier, with what the surrounding ones show. VALUE is an
# operand with the form's number of arrivals or bytes.
EVERY = """
__device__ inline unsigned complete(u64* bar, unsigned parity) {
  unsigned done;
  asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2;"
               "selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(smem(bar)), "r"(parity) : "memory");
  return done;
}
// Whether the phase is complete after the form, after one more arrival, and after 16 bytes.
__global__ void every_kernel(unsigned* out) {
  __shared__ u64 bar;
  u64 state = 0;
  unsigned done = 0;
  BODY
}
void every(unsigned* out) { every_kernel<<<1, 1>>>(out); }
"""
ORDERS = ("", *(f".{o}.{s}" for o in ("release", "relaxed") for s in ("cta", "cluster")))
WAIT_ORDERS = ("", *(f".{o}.{s}" for o in ("acquire", "relaxed") for s in ("cta", "cluster")))
WINDOWS = ("", ".shared", ".shared::cta")


def change_forms() -> list[tuple[str, list[int]]]:
    """Instructions on a barrier for two arrivals, and whether its phase is then complete."""
    found = []
    for op in ("arrive", "arrive_drop"):
        for order in ORDERS:
            for window in (*WINDOWS, ".shared::cluster"):
                state = "_" if window == ".shared::cluster" else "%0"
                found.append((f"{op}{order}{window}.b64 {state}, [ADDRESS]", [0, 1, 1]))
                tx = f"{op}.expect_tx{order}{window}.b64 {state}, [ADDRESS], 16"
                found.append((tx, [0, 0, 1]))
        for order in ("", ".release.cta"):
            for window in WINDOWS:
                found.append((f"{op}.noComplete{order}{window}.b64 %0, [ADDRESS], 1", [0, 1, 1]))
    for scope in ("cta", "cluster"):
        for window in (".shared::cta", ".shared::cluster"):
            expect = f"expect_tx.relaxed.{scope}{window}.b64 [ADDRESS], 16"
            found.append((f"arrive.b64 _, [%1]; mbarrier.{expect}", [0, 0, 1]))
            undo = expect.replace("expect", "complete")
            found.append((f"arrive.expect_tx.b64 _, [%1], 16; mbarrier.{undo}", [0, 1, 1]))
    for window in WINDOWS:
        renewed = f"inval{window}.b64 [ADDRESS]; mbarrier.init{window}.b64 [ADDRESS], 1"
        found.append((renewed, [0, 1, 1]))
    return found


def wait_forms() -> list[str]:
    return [
        f"{op}{parity}{order}{window}.b64 p, [ADDRESS], {'0' if parity else '%3'}"
        for op in ("test_wait", "try_wait")
        for parity in ("", ".parity")
        for order in WAIT_ORDERS
        for window in WINDOWS
    ]


def addressed(form: str) -> str:
    """The form with the address in the register for its window."""
    return form.replace("ADDRESS", "%2" if "shared" in form else "%1")


def every_source() -> str:
    body = ""
    for i, (form, _) in enumerate(change_forms()):
        body += f"""
  make_barrier(&bar, 2);
  asm volatile("mbarrier.{addressed(form)};"
               : "+l"(state) : "l"(&bar), "r"(smem(&bar)) : "memory");
  out[{3 * i}] = complete(&bar, 0);
  arrive(&bar);
  out[{3 * i + 1}] = complete(&bar, 0);
  if (!out[{3 * i + 1}]) {{
    asm volatile("mbarrier.complete_tx.shared::cta.b64 [%0], 16;" : : "r"(smem(&bar)) : "memory");
  }}
  out[{3 * i + 2}] = complete(&bar, 0);"""
    first = 3 * len(change_forms())
    for i, form in enumerate(wait_forms()):
        wait = f"""asm volatile("{{.reg .pred p; mbarrier.{addressed(form)};"
               "selp.u32 %0, 1, 0, p;}}"
               : "+r"(done) : "l"(&bar), "r"(smem(&bar)), "l"(state) : "memory");"""
        body += f"""
  make_barrier(&bar, 2);
  asm volatile("mbarrier.arrive.b64 %0, [%1];" : "=l"(state) : "l"(&bar) : "memory");
  {wait}
  out[{first + 2 * i}] = done;
  arrive(&bar);
  {wait}
  out[{first + 2 * i + 1}] = done;"""
    return EVERY.replace("BODY", body)


FORMS = Program("mbarrier_forms", every_source(), ("every",))
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
        """A currently legal operation, and its value."""
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


def check_every(module: ModuleType, device: str) -> None:
    wanted = [x for _, done in change_forms() for x in done] + [0, 1] * len(wait_forms())
    out = tensor(np.full(len(wanted), 9, np.uint32), device)
    module.every(out)
    assert out.cpu().tolist() == wanted


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


CASES = [
    Case("every form", FORMS, check_every),
    Case("sequence", SEQUENCES, check_sequence),
    Case("ring", RINGS, check_ring),
    Case("lanes", RINGS, check_lanes),
    Case("spin", RINGS, check_ones("run_spin", 1)),
    Case("remote", RINGS, check_ones("run_remote", 7)),
    Case("cuda::barrier", LIBCUXX, check_rounds),
    Case("cuda::barrier with bytes", LIBCUXX, check_bytes),
]
