// half.cuh: the 16-bit floating-point types, for kernels that compute in fp32.
//
// fp16 and bf16 hold the bits of CUDA's __half and __nv_bfloat16 and convert with the same
// instructions. Those two come with 18,000 lines of 16-bit arithmetic that no kernel here uses and
// that would take about a quarter of a ladder file's compile time. For 16-bit arithmetic, include
// cuda_fp16.h or cuda_bf16.h instead.
#pragma once

#include <cstdint>

#include "ptx.cuh"

// 1 bit of sign, 5 of exponent, 10 of mantissa: up to 65504.
struct fp16 {
  uint16_t bits;

  fp16() = default;
  __device__ explicit fp16(float value) : bits(cvt_rn_f16(value)) {}
  __device__ explicit operator float() const { return cvt_f32_f16(bits); }
};

// The upper half of an fp32: its 8 bits of exponent, but only 7 of mantissa.
struct bf16 {
  uint16_t bits;

  bf16() = default;
  __device__ explicit bf16(float value) : bits(cvt_rn_bf16(value)) {}
  __device__ explicit operator float() const { return cvt_f32_bf16(bits); }
};
