// attention.cuh: what the files of the attention ladder share: the problem as kernels see it, and
// which keys a query sees.
#pragma once

#include "attention.h"
#include "common.cuh"

// The strides of a [B, H, N, D] tensor: elements of a row are adjacent, other dimensions strided.
struct Strides {
  int64_t batch, head, row;
};

// The kernels' argument.
struct Attention {
  const float* Q;  // [B, H, Nq, D]
  const float* K;  // [B, H, Nk, D]
  const float* V;  // [B, H, Nk, D]
  float* O;        // [B, H, Nq, D]
  float* LSE;      // [B, H, Nq], contiguous
  int B, H, Nq, Nk, D;
  Strides q, k, v, o;
  bool causal;
  float scale;
};

inline Attention lowered(const AttentionProblem& p) {
  const auto strides = [](const View& view) {
    return Strides{.batch = view.stride[0], .head = view.stride[1], .row = view.stride[2]};
  };
  return {
      .Q = p.Q.as<const float>(),
      .K = p.K.as<const float>(),
      .V = p.V.as<const float>(),
      .O = p.O.as<float>(),
      .LSE = p.LSE.as<float>(),
      .B = static_cast<int>(p.Q.size[0]),
      .H = static_cast<int>(p.Q.size[1]),
      .Nq = static_cast<int>(p.Q.size[2]),
      .Nk = static_cast<int>(p.K.size[2]),
      .D = static_cast<int>(p.Q.size[3]),
      .q = strides(p.Q),
      .k = strides(p.K),
      .v = strides(p.V),
      .o = strides(p.O),
      .causal = p.causal,
      .scale = static_cast<float>(p.scale),
  };
}

// The causal mask is decided here: how many keys, counted from 0, query i sees.
__device__ inline int keys_seen(const Attention& p, int query) {
  if (!p.causal) return p.Nk;
  return min(p.Nk, max(0, p.Nk - (p.Nq - 1 - query)));
}

// What is subtracted in exponents: the maximum, or 0 while that is infinite (inf - inf is NaN).
__device__ inline float exponent_base(float m) { return isinf(m) ? 0.0f : m; }
