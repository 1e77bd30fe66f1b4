// pieces.h: what SharedShadow records about many pieces, tested and set at once.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "decode/program.h"

namespace wbsim {

// N = 1, 2, 4, 8 or 16 values; the compiler uses the vector instructions available.
template <uint32_t N>
struct ValuesOf {
  typedef uint32_t Type __attribute__((vector_size(4 * N), aligned(4), may_alias));
};
template <>
struct ValuesOf<1> {
  using Type = uint32_t;
};
template <uint32_t N>
using Values = typename ValuesOf<N>::Type;

template <uint32_t N>
inline Values<N>& values_at(uint32_t* first) {
  return *reinterpret_cast<Values<N>*>(first);
}
template <uint32_t N>
inline const Values<N>& values_at(const uint32_t* first) {
  return *reinterpret_cast<const Values<N>*>(first);
}

// Calls f(i, N) for values [i, i + N) that make up [0, n); N is a constant.
template <class F>
[[gnu::always_inline]] inline void in_parts(uint32_t n, F f) {
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16) {
    f(i, std::integral_constant<uint32_t, 16>{});
  }
  if (i == n) {
    return;
  }
  auto part = [&](auto size) {
    if (n & size) {
      f(i, size);
      i += size;
    }
  };
  part(std::integral_constant<uint32_t, 8>{});
  part(std::integral_constant<uint32_t, 4>{});
  part(std::integral_constant<uint32_t, 2>{});
  part(std::integral_constant<uint32_t, 1>{});
}

// Whether one of n values is outside [low, high].
inline bool any_outside(const uint32_t* values, uint32_t n, uint32_t low, uint32_t high) {
  bool outside = false;
  in_parts(n, [&](uint32_t i, auto size) {
    constexpr uint32_t N = size;
    const Values<N> above = values_at<N>(values + i) - low;
#if defined(__AVX512F__)
    if constexpr (N == 16) {
      outside |= _mm512_cmpgt_epu32_mask(reinterpret_cast<__m512i>(above),
                                         _mm512_set1_epi32(static_cast<int>(high - low))) != 0;
      return;
    }
#endif
    if constexpr (N == 1) {
      outside |= above > high - low;
    } else {
      const auto is_outside = above > high - low;
      uint64_t words[N / 2], any = 0;
      std::memcpy(words, &is_outside, sizeof words);
      for (uint64_t word : words) {
        any |= word;
      }
      outside |= any != 0;
    }
  });
  return outside;
}

inline bool any_above(const uint32_t* values, uint32_t n, uint32_t limit) {
  return any_outside(values, n, 0, limit);
}

inline void fill(uint32_t* values, uint32_t n, uint32_t value) {
  in_parts(n, [&](uint32_t i, auto size) {
    constexpr uint32_t N = size;
    values_at<N>(values + i) = Values<N>{} + value;
  });
}

// By piece, which of the lanes it belongs to: 0, 0, .., 1, 1, .. with 2^shift pieces each.
template <uint32_t N>
inline Values<N> lane_of(uint32_t first, int shift) {
  static constexpr uint32_t COUNT[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (values_at<N>(COUNT) + first) >> static_cast<uint32_t>(shift);
}

}  // namespace wbsim
