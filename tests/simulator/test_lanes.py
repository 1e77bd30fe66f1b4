"""Undefined values of lanes, and volatile exchanges in a warp: found where used, else silent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import simulator
from simulator.compare import wrong
from simulator.compare.wrong import Wrong
from simulator.conformance.micro import Program

ORDERS = ("ascending", "descending", "random")
KINDS = {"lanes": "initcheck", "volatile": "racecheck"}  # by file
PROGRAMS = [Program(file, wrong.source(file), *wrong.launchers(file)) for file in KINDS]
MODULES = dict(zip(KINDS, PROGRAMS, strict=True))
KERNELS = [kernel for file in KINDS for kernel in wrong.kernels(file)]


ORDERED = [pytest.param(o, marks=[pytest.mark.full] if o != ORDERS[0] else []) for o in ORDERS]


@pytest.mark.parametrize("order", ORDERED)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_found_where_it_is_used(kernel: Wrong, order: str) -> None:
    settings = simulator.settings(checks=["all"], order=order, seed=1)
    with settings, pytest.raises(simulator.SimulatorError) as caught:
        wrong.launch(MODULES[kernel.check].module("simulator"), kernel, "wrong")
    error = caught.value
    text = str(error)
    assert error.kind == KINDS[kernel.check], text
    assert error.line in kernel.wrong, text
    assert {error.other_line} == (kernel.other or {0}), text
    for says in SAYS.get(kernel.name, ()):
        assert says in text, text


@pytest.mark.parametrize("order", ORDERED)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_right_one_is_silent(kernel: Wrong, order: str) -> None:
    with simulator.settings(checks=["all"], order=order, seed=1):
        got = wrong.launch(MODULES[kernel.check].module("simulator"), kernel, "right")
    want = REFERENCES[kernel.name](wrong.inputs(kernel))
    np.testing.assert_array_equal(got, np.broadcast_to(want, kernel.sizes[1]))


NO_LANE = ("a shuffle that read lane", "which does not exist", "neutral value")
SAYS = {
    "partial_warp": ("atomic update with an undefined value", "the warp has 16 threads", "lane 16"),
    "early_exit": ("write of an undefined value to global memory", "which has exited"),
    "other_half": ("read lane 16, which is not in its member mask", "the shuffle: "),
    "neighbour": ("a branch depends on an undefined value", *NO_LANE),
    "index_of": ("read at an undefined address", *NO_LANE),
    "through_shared": ("write of an undefined value to global memory", "has 16 threads", *NO_LANE),
    "counted": ("vote.sync with an undefined operand", *NO_LANE),
    "no_zero": ("a variable has no value on the way", "where it is declared"),
    "local_sums": ("a local array that the thread has not written", "the read: "),
    "fragments": ("mma.sync with an undefined operand",),
    "last_warp_sum": ("a write by thread", "volatile orders nothing between lanes", "__syncwarp()"),
}


def next_in_warp(x: np.ndarray, last: float) -> np.ndarray:
    """The element of the next thread: the last lane keeps its own, the last thread has `last`."""
    out = np.append(x[1:], last).astype(x.dtype)
    out[31] = x[31]
    return out


def index_of(x: np.ndarray) -> np.ndarray:
    i = np.append(x[4:], [0] * 4)
    i[28:32] = x[28:32]
    return x[i]


REFERENCES = {
    "partial_warp": lambda x: x.sum(),
    "early_exit": lambda x: x.max(),
    "other_half": lambda x: x.reshape(-1, 2)[:, ::-1].reshape(-1),
    "neighbour": lambda x: np.where(next_in_warp(x, -1) > x, 2, 0),
    "index_of": index_of,
    "through_shared": lambda x: [x[:32].sum(), x[32:].sum()],
    "counted": lambda x: (next_in_warp(x, -1) > x).sum(),
    "double_sum": lambda x: x[32:].sum(),
    "half_pairs": lambda x: 2 * x + np.where(np.arange(40) < 39, next_in_warp(x, 0) + x, 0),
    "called": lambda x: 2 * next_in_warp(x, 0),
    "no_zero": lambda x: np.append(x, [0] * 28).reshape(4, 32).sum(0),
    "some_paths": lambda x: np.append(2 * x, [0] * 12),
    "local_sums": lambda x: 2 * x,
    "fragments": lambda x: fragments(x),
    "last_warp_sum": lambda x: x.sum(),
    "neighbours": lambda x: 2 * np.roll(x, -1),
    "looped": lambda x: x.sum(),
}


def fragments(x: np.ndarray) -> np.ndarray:
    """The accumulators of an m16n8k16 product: lane l has rows l / 4 (twice), columns 2 (l % 4)."""
    a = x.reshape(8, 4)  # one nonzero byte per register
    c = a @ a.T
    lanes = np.arange(32)
    pair = [c[lanes // 4, 2 * (lanes % 4) + i] for i in range(2)]
    return np.concatenate(pair + pair)


# Kernels that handle undefined values and use none, each for one block of `threads` threads that
# adds up 32 results. They would give 0 for the input n = 5.
DISCARDS = {
    # Only `valid` lanes look at what they got.
    "and": "int o = __shfl_down_sync(~0u, t, 1); bool valid = t < 39; if (valid && o > 100) r = 1;",
    "or": "int o = __shfl_down_sync(~0u, t, 1); bool last = t == 39; if (last || o < 100) r = 0;",
    "select": "float o = __shfl_down_sync(~0u, 1.f * t, 2); r = t < 38 ? o * 0 : 0;",
    "zero": "int o = __shfl_down_sync(~0u, t, 1); r = o * (n - 5);",
    "mask": "int o = __shfl_down_sync(~0u, t, 1); r = o & (n - 5);",
    "never": "for (int d = 16; d > 0; d /= 2) w += __shfl_down_sync(~0u, w, d);",
    "lane 0": "for (int d = 16; d > 0; d /= 2) w += __shfl_down_sync(~0u, w, d); if (n > 5) r = w;",
    "top half": "unsigned o = __shfl_down_sync(~0u, t, 1); o = __byte_perm(t, o, 0x5410);"
    " r = (o & 0xffff) - t;",
    "shift": "unsigned o = __shfl_down_sync(~0u, t, 1); r = ((o << 16) & 0xffff);",
    "funnel": "unsigned o = __shfl_down_sync(~0u, t, 1); r = __funnelshift_r(t, o, 0) - t;",
    "halves": "__half h = __shfl_down_sync(~0u, __float2half(1.f), 1);"
    " __half2 p = __halves2half2(__float2half(0.f), h); p = __hadd2(p, p); r = __low2float(p);",
    "shared": "__shared__ float s[64]; float o = __shfl_down_sync(~0u, 0.f, 1); s[t] = o;"
    " __syncthreads(); r = t < 39 ? s[t] : 0;",
    "later": "int v; if (t < n) v = t; if (t < n) r = v - t;",
    "loop": "float v; for (int i = 0; i < n; i++) { if (i) v += i - i; else v = 0; } r = v;",
    "exited": "if (t >= n) return; int o = __shfl_down_sync(~0u, t, 1);"
    " if (t + 1 < n) r = o - t - 1;",
    "padding": "Padded p[4]; for (int i = 0; i < 4; i++) { p[i].c = 0; p[i].d = i; p[i].i = 0; }"
    " padded[t] = p[n % 4]; r = padded[t].c + padded[t].i;",
    "vector": "Wide p; p.x = p.y = p.z = 0; wide[t] = p; __syncthreads();"
    " Wide q = wide[63 - t - 24]; wide[t + 64] = q; r = q.x + q.z;",
    "call": "float o = __shfl_down_sync(~0u, 1.f, 1); r = pick(t < 39, o, 1.f) - 1;",
    "recursive": "int o = __shfl_down_sync(~0u, t, 1); r = down(t < 39 ? o : 0, n) * 0;",
    "partly": "Two two; two.a = 0; r = first(two, n);",
    "array": "float v[8]; for (int i = 0; i < n; i++) v[i] = 0; float x = v[t & 7];"
    " r = (t & 7) < n ? x : 0;",
    # A lane that waits for another one through volatile memory.
    "poll": "__shared__ volatile int flag[1]; __shared__ int data[1]; if (t == 0) *flag = 0;"
    " __syncthreads(); if (t == 1) { data[0] = 7; __threadfence_block(); *flag = 1; }"
    " if (t == 2) { while (*flag == 0) {} __threadfence_block(); r = data[0] - 7; }",
    "look": "__shared__ volatile int stop; if (t == 0) stop = 0; __syncthreads();"
    " if (t == 3) stop = 1; for (int i = 0; i < 100 && !stop; i++) w += i;",
    "own": "__shared__ volatile int s[64]; s[t] = t; s[t] += 1; r = s[t] - t - 1;",
}
SOURCE = """
#include <cuda_fp16.h>
struct Padded { char c; double d; int i; };
struct alignas(16) Wide { float x, y, z; };
struct Two { float a, b; };
__device__ Padded padded[64];
__device__ Wide wide_of_all[128];
__device__ __noinline__ float pick(bool first, float a, float b) { return first ? a : b; }
__device__ __noinline__ int down(int x, int n) { return n <= 0 ? x : down(x, n - 1) + n; }
__device__ __noinline__ float first(Two two, int n) { return n > 5 ? two.b : two.a; }
""" + "".join(
    f"""
__global__ void discards_{i}(float* out, int n) {{
  __shared__ Wide wide[128];
  const int t = threadIdx.x;
  [[maybe_unused]] float r = 0, w = t;
  {code}
  out[t] = r;
  if (n < 0) wide_of_all[t] = wide[t];
}}
void run_{i}(float* out, int n) {{ discards_{i}<<<1, 40>>>(out, n); }}
"""
    for i, code in enumerate(DISCARDS.values())
)
DISCARDING = Program("discards", SOURCE, *(f"run_{i}" for i in range(len(DISCARDS))))
PROGRAMS.append(DISCARDING)


@pytest.mark.parametrize("order", ORDERED)
@pytest.mark.parametrize("name", DISCARDS)
def test_discarded_values_are_no_mistake(name: str, order: str) -> None:
    out = torch.zeros(40)
    with simulator.settings(checks=["all"], order=order, seed=1):
        getattr(DISCARDING.module("simulator"), f"run_{list(DISCARDS).index(name)}")(out, 5)
    assert torch.equal(out, torch.zeros(40))
