// pieces.h: what SharedShadow records about many pieces, tested and set at once.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "decode/program.h"

namespace wbsim {

// How many values fit into a vector register.
#if defined(__AVX512F__)
constexpr uint32_t WIDEST = 16;
#else
constexpr uint32_t WIDEST = 8;
#endif

// N values, a power of two up to WIDEST.
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
  for (; i + WIDEST <= n; i += WIDEST) {
    f(i, std::integral_constant<uint32_t, WIDEST>{});
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
  if constexpr (WIDEST > 8) {
    part(std::integral_constant<uint32_t, 8>{});
  }
  part(std::integral_constant<uint32_t, 4>{});
  part(std::integral_constant<uint32_t, 2>{});
  part(std::integral_constant<uint32_t, 1>{});
}

// Whether one of n values is outside [low, high].
inline bool any_outside(const uint32_t* values, uint32_t n, uint32_t low, uint32_t high) {
  bool outside = false;
  uint32_t i = 0;
#if defined(__AVX512F__)
  const __m512i low_wide = _mm512_set1_epi32(static_cast<int>(low));
  const __m512i range_wide = _mm512_set1_epi32(static_cast<int>(high - low));
  for (; i + 16 <= n; i += 16) {
    const __m512i above = _mm512_sub_epi32(_mm512_loadu_si512(values + i), low_wide);
    outside |= _mm512_cmpgt_epu32_mask(above, range_wide) != 0;
  }
#endif
#if defined(__AVX2__)
  const __m256i lowest = _mm256_set1_epi32(static_cast<int>(low));
  const __m256i range = _mm256_set1_epi32(static_cast<int>(high - low));
  __m256i most = range;  // of the range and what lies above `low`
  for (; i + 8 <= n; i += 8) {
    const auto* at = reinterpret_cast<const __m256i*>(values + i);
    most = _mm256_max_epu32(most, _mm256_sub_epi32(_mm256_loadu_si256(at), lowest));
  }
  outside |= _mm256_movemask_epi8(_mm256_cmpeq_epi32(most, range)) != -1;
#endif
  for (; i < n; i++) {
    outside |= values[i] - low > high - low;
  }
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
  static constexpr uint32_t COUNT[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (values_at<N>(COUNT) + first) >> static_cast<uint32_t>(shift);
}

}  // namespace wbsim
