// sum.cuh: which type sums have, for the ladders that multiply.
#pragma once

#include "half.cuh"

// The type that products of Ts are summed in: fp32, but fp64 for fp64.
template <class T>
struct SumOf {
  using Type = T;
};
template <>
struct SumOf<fp16> {
  using Type = float;
};
template <>
struct SumOf<bf16> {
  using Type = float;
};
template <class T>
using Sum = typename SumOf<T>::Type;
