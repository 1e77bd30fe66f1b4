// wgmma_multiply.cpp: the product of one warp, computed in the layout of its accumulators.
//
// A register of D holds eight rows and every second of eight columns: lane l has row l / 4 and the
// column that is number l % 4 of those. So D is never rearranged. For each k, a register takes the
// column of A with every element four times (the same for all columns of D), times four elements of
// B, repeated for every row:
//
//   lane        0        1        2        3        4        5     ...
//   A         a(0,k)   a(0,k)   a(0,k)   a(0,k)   a(1,k)   a(1,k)  ...
//   B         b(k,0)   b(k,2)   b(k,4)   b(k,6)   b(k,0)   b(k,2)  ...     even columns
//
// Everything is computed in f32: it holds each type's elements, and the sums of 32 products of
// 8-bit integers, exactly. Bits are multiplied 32 at a time.

#include "wgmma_multiply.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "half.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace wbsim::wgmma {
namespace {

constexpr int PANEL = 16;                   // columns of D that are computed at a time
constexpr int QUADS = PANEL / 4;            // sets of four columns that share a register
constexpr int SUMS = PANEL * ROWS / LANES;  // registers of 32 bits that hold them
constexpr int MAX_K = 32;                   // steps

// ---- Vectors ------------------------------------------------------------------------------------

#if defined(__AVX512F__)
using Vector = __m512;
constexpr int QUADS_AT_ONCE = 4;  // 16 sums in registers
inline Vector load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, Vector v) { _mm512_store_ps(p, v); }
inline Vector repeat(const float* quad) { return _mm512_broadcast_f32x4(_mm_load_ps(quad)); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
using Vector = __m256;
constexpr int QUADS_AT_ONCE = 1;  // 8 sums in registers
inline Vector load(const float* p) { return _mm256_load_ps(p); }
inline void store(float* p, Vector v) { _mm256_store_ps(p, v); }
inline Vector repeat(const float* quad) {
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(quad));
}
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#else
struct Vector {
  float v[4];
};
constexpr int QUADS_AT_ONCE = 1;
inline Vector load(const float* p) { return {p[0], p[1], p[2], p[3]}; }
inline void store(float* p, Vector v) { std::copy(v.v, v.v + 4, p); }
inline Vector repeat(const float* quad) { return load(quad); }
inline Vector multiply_add(Vector a, Vector b, Vector c) {
  for (int i = 0; i < 4; i++) {
    c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
  }
  return c;
}
#endif
constexpr int WIDTH = sizeof(Vector) / sizeof(float);
constexpr int PARTS = 4 * ROWS / WIDTH;  // vectors for all rows and four columns

// ---- Operands as f32 ----------------------------------------------------------------------------

float widen_e4m3(uint8_t v) {
  // The fields of an f16 whose exponent has a bias that is 8 higher; the highest code is NaN.
  uint16_t half = static_cast<uint16_t>((v & 0x80) << 8 | (v & 0x7f) << 7);
  uint32_t nan = (v & 0x7f) == 0x7f ? 0x7fffffffu : 0;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(F16::widen(half) * 256.0f) | nan);
}

template <class T, class F>
void widen_each(const uint8_t* in, int rows, float* out, F f) {
  const T* from = reinterpret_cast<const T*>(in);
  for (int i = 0; i < rows * ROW_BYTES / static_cast<int>(sizeof(T)); i++) {
    out[i] = f(from[i]);
  }
}

// `rows` rows of elements as f32, or as words of 32 bits; returns how many each has.
int widen(Type type, const uint8_t* in, int rows, float* out) {
  switch (type) {
    case Type::F16:
      widen_each<uint16_t>(in, rows, out, F16::widen);
      return 16;
    case Type::BF16:
      widen_each<uint16_t>(in, rows, out, BF16::widen);
      return 16;
    case Type::TF32:  // the lower 13 bits of a register do not belong to the number
      widen_each<uint32_t>(in, rows, out,
                           [](uint32_t v) { return std::bit_cast<float>(v & 0xffffe000u); });
      return 8;
    case Type::E4M3:
      widen_each<uint8_t>(in, rows, out, widen_e4m3);
      return 32;
    case Type::E5M2:  // the upper half of an f16
      widen_each<uint8_t>(in, rows, out,
                          [](uint8_t v) { return F16::widen(static_cast<uint16_t>(v << 8)); });
      return 32;
    case Type::S8:
      widen_each<int8_t>(in, rows, out, [](int8_t v) { return static_cast<float>(v); });
      return 32;
    case Type::U8:
      widen_each<uint8_t>(in, rows, out, [](uint8_t v) { return static_cast<float>(v); });
      return 32;
    default:  // B1
      std::memcpy(out, in, rows * ROW_BYTES);
      return 8;
  }
}

// out[k]: column k of A, each element four times.
int spread_a(const Form& form, const uint8_t (*a)[ROW_BYTES], float (*out)[4 * ROWS]) {
  alignas(64) float wide[ROWS * MAX_K];
  int count = widen(form.a, a[0], ROWS, wide);
  for (int i = 0; form.negate && i < ROWS * count; i++) {
    wide[i] = -wide[i];
  }
  for (int row = 0; row < ROWS; row++) {
    for (int k = 0; k < count; k++) {
      std::fill_n(&out[k][4 * row], 4, wide[row * count + k]);
    }
  }
  return count;
}

using Quad = float __attribute__((vector_size(16)));

// out[k]: 16 columns of B at k; those that share a register, as 0, 2, 4 and 6, side by side.
void spread_b(Type type, const uint8_t (*b)[ROW_BYTES], float (*out)[PANEL]) {
  alignas(64) float wide[PANEL * MAX_K];
  int count = widen(type, b[0], PANEL, wide);
  for (int quad = 0; quad < QUADS; quad++) {
    const float* first = wide + (8 * (quad / 2) + quad % 2) * count;
    for (int k = 0; k < count; k += 4) {
      Quad in[4];
      for (int i = 0; i < 4; i++) {
        std::memcpy(&in[i], first + 2 * i * count + k, sizeof(Quad));
      }
      Quad low01 = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
      Quad low23 = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
      Quad high01 = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
      Quad high23 = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
      const Quad across[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                              __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                              __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                              __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
      for (int i = 0; i < 4; i++) {
        std::memcpy(&out[k + i][4 * quad], &across[i], sizeof(Quad));
      }
    }
  }
}

// ---- Products of a panel ------------------------------------------------------------------------

// Where a vector of the rows of four columns lies in the sums, which are in the order of D.
constexpr int sum_at(int quad, int part) {
  int at = part * WIDTH;
  return (4 * (quad / 2) + 2 * (at / LANES) + quad % 2) * LANES + at % LANES;
}

void add_products(const float (*a)[4 * ROWS], const float (*b)[PANEL], int count, float* sums) {
  for (int first = 0; first < QUADS; first += QUADS_AT_ONCE) {
    Vector sum[QUADS_AT_ONCE][PARTS];
    for (int q = 0; q < QUADS_AT_ONCE; q++) {
      for (int p = 0; p < PARTS; p++) {
        sum[q][p] = load(sums + sum_at(first + q, p));
      }
    }
    for (int k = 0; k < count; k++) {
      for (int q = 0; q < QUADS_AT_ONCE; q++) {
        Vector repeated = repeat(&b[k][4 * (first + q)]);
        for (int p = 0; p < PARTS; p++) {
          sum[q][p] = multiply_add(load(&a[k][p * WIDTH]), repeated, sum[q][p]);
        }
      }
    }
    for (int q = 0; q < QUADS_AT_ONCE; q++) {
      for (int p = 0; p < PARTS; p++) {
        store(sums + sum_at(first + q, p), sum[q][p]);
      }
    }
  }
}

// The same for bits: .and.popc.
void add_bits(const float (*a)[4 * ROWS], const float (*b)[PANEL], int count, float* sums) {
  for (int k = 0; k < count; k++) {
    for (int i = 0; i < SUMS * LANES; i++) {
      int reg = i / LANES, row = i % LANES / 4 + 8 * (reg / 2 % 2);
      int column = 4 * (2 * (reg / 4) + reg % 2) + i % 4;
      uint32_t both =
          std::bit_cast<uint32_t>(a[k][4 * row]) & std::bit_cast<uint32_t>(b[k][column]);
      sums[i] += static_cast<float>(std::popcount(both));
    }
  }
}

// ---- Accumulators -------------------------------------------------------------------------------

// Elements of D before the product; integers are added at the end.
void load_sums(const Form& form, uint32_t* const d[], int registers, float (*sums)[LANES]) {
  if (!form.accumulate || form.d == Type::S32) {
    std::memset(sums, 0, sizeof(float) * SUMS * LANES);
  } else if (form.d == Type::F32) {
    for (int r = 0; r < registers; r++) {
      std::memcpy(sums[r], d[r], sizeof sums[r]);
    }
  } else {
    for (int r = 0; r < registers; r += 2) {
      for (int l = 0; l < LANES; l++) {
        sums[r][l] = F16::widen(static_cast<uint16_t>(d[r / 2][l]));
        sums[r + 1][l] = F16::widen(static_cast<uint16_t>(d[r / 2][l] >> 16));
      }
    }
  }
}

int32_t add_saturated(int32_t a, int32_t b) {
  constexpr int64_t LOW = std::numeric_limits<int32_t>::min(),
                    HIGH = std::numeric_limits<int32_t>::max();
  return static_cast<int32_t>(std::clamp(int64_t{a} + b, LOW, HIGH));
}

void store_sums(const Form& form, const float (*sums)[LANES], int registers, uint32_t* const d[]) {
  for (int r = 0; r < registers; r++) {
    uint32_t* to = d[r];
    switch (form.d) {
      case Type::F32:
        for (int l = 0; l < LANES; l++) {
          to[l] = std::isnan(sums[r][l]) ? 0x7fffffffu : std::bit_cast<uint32_t>(sums[r][l]);
        }
        break;
      case Type::F16:
        if (r % 2 == 0) {
          for (int l = 0; l < LANES; l++) {
            d[r / 2][l] =
                F16::narrow(sums[r][l]) | static_cast<uint32_t>(F16::narrow(sums[r + 1][l])) << 16;
          }
        }
        break;
      default:
        for (int l = 0; l < LANES; l++) {
          int32_t sum = static_cast<int32_t>(sums[r][l]);
          uint32_t before = form.accumulate ? to[l] : 0;
          to[l] = form.saturate
                      ? static_cast<uint32_t>(add_saturated(static_cast<int32_t>(before), sum))
                      : before + static_cast<uint32_t>(sum);
        }
    }
  }
}

}  // namespace

void multiply(const Form& form, const uint8_t (*a)[ROW_BYTES], const uint8_t (*b)[ROW_BYTES],
              uint32_t* const d[]) {
  alignas(64) float spread[MAX_K][4 * ROWS];
  int count = spread_a(form, a, spread);
  for (int column = 0; column < form.columns; column += PANEL) {
    alignas(64) float panel[MAX_K][PANEL], sums[SUMS][LANES];
    int columns = std::min<int>(PANEL, form.columns - column);
    int registers = columns * ROWS / LANES;  // elements of a lane
    uint32_t* const* to = d + column * ROWS / LANES / (form.d == Type::F16 ? 2 : 1);
    spread_b(form.b, b + column, panel);  // b ends with a whole panel
    load_sums(form, to, registers, sums);
    (form.b == Type::B1 ? add_bits : add_products)(spread, panel, count, sums[0]);
    store_sums(form, sums, registers, to);
  }
}

}  // namespace wbsim::wgmma
