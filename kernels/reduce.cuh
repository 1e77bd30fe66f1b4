// reduce.cuh: maxima and sums over lanes, warps and blocks.
#pragma once

#include "common.cuh"

struct Max {
  template <class Number>
  __device__ Number operator()(Number a, Number b) const {
    return max(a, b);  // if one is NaN, the other one
  }
};

struct Add {
  template <class Number>
  __device__ Number operator()(Number a, Number b) const {
    return a + b;
  }
};

// ------------------------------------------------------------------------------------------------
// By shuffles

template <class Number>
__device__ Number shuffle_xor(Number value, int distance) {
  return __shfl_xor_sync(ALL_LANES, value, distance);
}

// Reduces the values of `lanes` neighbouring lanes, a power of two up to 32, by op. All get it.
//
//   distance 4   0 1 2 3 4 5 6 7     lane t reads lane t ^ 4: now 0 and 4 hold the same
//   distance 2   0 1 2 3
//   distance 1   0 1                 after log2(lanes) steps all lanes hold the result
template <class Value, class Op>
__device__ Value group_reduce(Value value, Op op, int lanes = 32) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value = op(value, shuffle_xor(value, distance));
  }
  return value;
}

// Reduces the values of all threads of the block by op. All get the result; `none` changes nothing.
// smem has room for a value per warp.
//
//   warp 0    32 lanes -> 1 value -> smem[0] \
//   warp 1    32 lanes -> 1 value -> smem[1]  > every warp reads all and reduces them once more
//   ...                              ...     /
//
// Two consecutive reductions need an smem each: a warp may reach the second one while another is
// still reading the results of the first.
template <class Value, class Op>
__device__ Value block_reduce_shuffles(Value value, Value* smem, Op op, Value none) {
  const int lane = threadIdx.x % 32;
  value = group_reduce(value, op);
  if (lane == 0) smem[threadIdx.x / 32] = value;
  __syncthreads();  // every warp's result is in smem
  return group_reduce(lane < blockDim.x / 32 ? smem[lane] : none, op);
}
