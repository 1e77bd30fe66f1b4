"""wgmma: when a product takes effect, and the findings for misuse."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from simulator import SimulatorError
from simulator.conformance.micro import Program
from simulator.conformance.wgmma_ops import (
    BEHIND,
    GROUPS,
    PROLOGUE,
    THREADS,
    Form,
    Layout,
    operands,
    run,
)

SCENARIOS = (
    PROLOGUE
    + GROUPS
    + """
// d += A * B, m64n8k16; both matrices are K-major without a swizzle.
__device__ u64 descriptor(const void* p) {
  const u64 start = (static_cast<uint32_t>(__cvta_generic_to_shared(p)) & 0x3FFFF) >> 4;
  return start | u64{128 / 16} << 16 | u64{256 / 16} << 32;
}
__device__ void multiply(float (&d)[4], u64 a, u64 b, int scale_d = 1) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %6, 0;"
               "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p,"
               "1, 1, 0, 0;}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b), "r"(scale_d));
}
constexpr int A_BYTES = 64 * 32, B_BYTES = 8 * 32;
constexpr unsigned ONE = 0x3F803F80, TWO = 0x40004000;  // pairs of bf16

// Matrices of a constant: A, then three B.
__device__ unsigned* constant(int at, int bytes, unsigned value) {
  unsigned* p = reinterpret_cast<unsigned*>(shared) + at / 4;
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) p[i] = value;
  return p;
}
struct Tiles { unsigned *a, *b0, *b1, *b2; };
__device__ Tiles tiles() {
  Tiles t{constant(0, A_BYTES, ONE), constant(A_BYTES, B_BYTES, ONE),
          constant(A_BYTES + B_BYTES, B_BYTES, ONE), constant(A_BYTES + 2 * B_BYTES, B_BYTES, ONE)};
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  return t;
}

// In PTX: nvcc would copy the accumulators that are stored too early, and the copies wait.
#define PRODUCT(d, b) "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {" \\
  #d "0, " #d "1, " #d "2, " #d "3}, %1, " #b ", 1, 1, 1, 0, 0;"
#define COMMIT "wgmma.commit_group.sync.aligned;"
#define WAIT(n) "wgmma.wait_group.sync.aligned " #n ";"
#define STORE(at, r) "st.global.f32 [%0 + " #at "], " #r ";"
__global__ void groups(float* out) {
  const Tiles t = tiles();
  asm volatile("{.reg .f32 x<4>, y<4>, z<4>;"
               "mov.b32 x0, 0; mov.b32 x1, 0; mov.b32 x2, 0; mov.b32 x3, 0;"
               "mov.b32 y0, 0; mov.b32 y1, 0; mov.b32 y2, 0; mov.b32 y3, 0;"
               "mov.b32 z0, 0; mov.b32 z1, 0; mov.b32 z2, 0; mov.b32 z3, 0;"
               "wgmma.fence.sync.aligned;"
               PRODUCT(x, %2) PRODUCT(x, %2) COMMIT PRODUCT(y, %3) COMMIT PRODUCT(z, %4) COMMIT
               WAIT(2) STORE(0, x0) STORE(512, y0)
               WAIT(1) STORE(1024, y1) STORE(1536, z1)
               WAIT(0) STORE(2048, z2) "}"
               :: "l"(out + threadIdx.x), "l"(descriptor(t.a)), "l"(descriptor(t.b0)),
                  "l"(descriptor(t.b1)), "l"(descriptor(t.b2)) : "memory");
}
void run_groups(float* out) { groups<<<1, 128, 4096>>>(out); }

// Each stage of shared memory is refilled: before its product was waited for, and after.
__global__ void overwritten(float* out) {
  const Tiles t = tiles();
  float x[4] = {}, y[4] = {};
  arrive();
  multiply(x, descriptor(t.a), descriptor(t.b0));
  commit();
  constant(A_BYTES, B_BYTES, TWO);
  __syncthreads();
  wait<0>();
  out[threadIdx.x] = x[0];
  multiply(y, descriptor(t.a), descriptor(t.b1));
  commit();
  wait<0>();
  __syncthreads();
  constant(A_BYTES + B_BYTES, B_BYTES, TWO);
  __syncthreads();
  out[128 + threadIdx.x] = y[0];
}
void run_overwritten(float* out) { overwritten<<<1, 128, 4096>>>(out); }

// nvcc copies the accumulators of the first product, which is still in flight.
__global__ void copied(float* out, int two) {
  const Tiles t = tiles();
  float x[4] = {}, y[4];
  arrive();
  multiply(x, descriptor(t.a), descriptor(t.b0));
  for (int i = 0; i < 4; i++) asm volatile("mov.f32 %0, %1;" : "=f"(y[i]) : "f"(x[i]));
  multiply(x, descriptor(t.a), descriptor(t.b0));
  multiply(y, descriptor(t.a), descriptor(t.b0), two);
  multiply(y, descriptor(t.a), descriptor(t.b0), two);
  commit();
  wait<0>();
  out[threadIdx.x] = x[3];
  out[128 + threadIdx.x] = y[3];
}
void run_copied(float* out) { copied<<<1, 128, 4096>>>(out, 2); }

// A in registers that are reused immediately; nobody waits for the last product.
__global__ void captured(float* out) {
  const Tiles t = tiles();
  float x[4] = {}, y[4] = {};
  arrive();
  asm volatile("{.reg .b32 r<4>; mov.b32 r0, %5; mov.b32 r1, %5; mov.b32 r2, %5; mov.b32 r3, %5;"
               "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3},"
               "{r0, r1, r2, r3}, %4, 1, 1, 1, 0; mov.b32 r0, 0; mov.b32 r1, 0;}"
               : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
               : "l"(descriptor(t.b0)), "r"(TWO));
  commit();
  multiply(y, descriptor(t.a), descriptor(t.b1));
  wait<0>();
  asm volatile("st.global.f32 [%0], %1;" :: "l"(out + threadIdx.x), "f"(x[2]) : "memory");
  asm volatile("st.global.f32 [%0], %1;" :: "l"(out + 128 + threadIdx.x), "f"(y[2]) : "memory");
}
void run_captured(float* out) { captured<<<1, 128, 4096>>>(out); }

// ---- Mistakes ----
__global__ void mistaken(int how, float* out) {
  float x[4] = {};
  u64 a = descriptor(shared), b = a;
  if (how == 1) b += (4096 - 256) / 16;      // fits exactly
  if (how == 2) b += (4096 - 256) / 16 + 1;  // the last unit does not
  if (how == 3) b = b - 1;                   // before shared memory
  if (how == 4) a += u64{64} << 32;          // a stride that is too long, for A
  if (how == 5 && threadIdx.x == 37) return;
  if (how == 6 && threadIdx.x % 32 >= 16) {
    asm volatile("nanosleep.u32 1;");
    multiply(x, a, b);
  } else {
    multiply(x, a, b);  // how 6: the lanes never meet
  }
  commit();
  wait<0>();
  out[threadIdx.x] = x[0];
}
void run_mistaken(int how, int threads, float* out) { mistaken<<<1, threads, 4096>>>(how, out); }
__global__ void guarded(float* out) {
  float x[4] = {};
  asm volatile("{.reg .pred p; .reg .b32 r; mov.u32 r, %%laneid; setp.lt.u32 p, r, 9;"
               "@p wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %4,"
               "1, 1, 1, 0, 0;}"
               : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3]) : "l"(descriptor(shared)));
  out[threadIdx.x] = x[0];
}
void run_guarded(float* out) { guarded<<<1, 128, 4096>>>(out); }
"""
)


NAMES = ("groups", "overwritten", "copied", "captured", "mistaken", "guarded")
PROGRAM = Program("wgmma_scenarios", SCENARIOS, *(f"run_{name}" for name in NAMES))


def scenarios() -> ModuleType:
    return PROGRAM.module("simulator")


def output(name: str, rows: int) -> list[set[float]]:
    """The distinct values in each row of 128 that a scenario writes."""
    out = torch.zeros(rows, THREADS)
    getattr(scenarios(), f"run_{name}")(out)
    return [set(row.tolist()) for row in out]


@pytest.mark.checks("memcheck")  # reads accumulators before their wait
def test_groups_complete_in_order():
    # One product is 16. Each wait leaves the newest groups with their old values.
    assert output("groups", 5) == [{32.0}, {0.0}, {16.0}, {0.0}, {16.0}]


@pytest.mark.checks("memcheck")  # overwrites it before the wait
def test_shared_memory_is_read_when_the_product_takes_effect():
    # The first stage was overwritten with twos before its wait.
    assert output("overwritten", 2) == [{32.0}, {16.0}]


def test_a_copy_of_accumulators_waits_for_their_product():
    assert output("copied", 2) == [{32.0}, {48.0}]


@pytest.mark.checks("memcheck")  # nobody waits
def test_operands_in_registers_are_captured_and_nobody_waits():
    assert output("captured", 2) == [{32.0}, {0.0}]


# ---- Findings -----------------------------------------------------------------------------------


def finding(name: str, *arguments: object) -> SimulatorError:
    with pytest.raises(SimulatorError) as error:
        getattr(scenarios(), f"run_{name}")(*arguments)
    return error.value


@pytest.mark.checks("memcheck")  # nobody has written the operands
def test_operands_outside_of_shared_memory_are_found():
    out = torch.zeros(THREADS)
    scenarios().run_mistaken(1, THREADS, out)
    for how, text in (
        (2, "matrix B leads out of bounds: a read of 16 bytes ends 16 bytes past the end"),
        (3, "matrix B leads out of bounds: a read of 16 bytes ends 16 bytes before the start"),
        (4, "matrix A leads out of bounds"),
    ):
        found = finding("mistaken", how, THREADS, out)
        assert found.kind == "memcheck" and text in str(found), str(found)
        assert "wgmma.mma_async" in str(found), "at the product, not at the wait"


@pytest.mark.checks("memcheck")  # nobody has written the operands
def test_all_lanes_take_part():
    out = torch.zeros(THREADS)
    found = finding("mistaken", 5, THREADS, out)
    assert found.kind == "synccheck" and "lane 5 has exited" in str(found), str(found)
    assert finding("mistaken", 6, THREADS, out).kind == "synccheck"
    found = finding("guarded", out)
    assert found.kind == "synccheck" and "the guard of lane 9 is false" in str(found), str(found)


@pytest.mark.checks("memcheck")  # nobody has written the operands
def test_a_warpgroup_is_complete():
    for threads, text in ((96, "warpgroup 0"), (120, "warpgroup 0"), (160, "warpgroup 1")):
        found = finding("mistaken", 0, threads, torch.zeros(threads))
        assert found.kind == "synccheck" and text in str(found), str(found)


def test_rows_of_32_bytes_are_too_narrow_for_a_sparse_product():
    form = Form("f32", "bf16", "bf16", 24, sparse=True)
    with pytest.raises(SimulatorError, match="swizzles rows of 32 bytes"):
        run("simulator", form, operands(form, 0), Layout(), Layout(32, at=BEHIND))
    run("simulator", form, operands(form, 0), Layout(32), Layout(64, at=BEHIND))
