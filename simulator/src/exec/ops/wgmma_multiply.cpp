// wgmma_multiply.cpp: the product of one warp, computed in the layout of its accumulators.
//
// A register of D holds eight rows and every second of eight columns: lane l has row l / 4 and
// number l % 4 of those columns. So D is never rearranged. For each k, a register takes the column
// of A with every element four times (the same for all columns of D), times four elements of B,
// repeated for every row:
//
//   lane        0        1        2        3        4        5     ...
//   A         a(0,k)   a(0,k)   a(0,k)   a(0,k)   a(1,k)   a(1,k)  ...
//   B         b(k,0)   b(k,2)   b(k,4)   b(k,6)   b(k,0)   b(k,2)  ...     even columns
//
// Everything is computed in f32: it holds each type's elements, and the sums of 32 products of
// 8-bit integers, exactly. Bits are multiplied 32 at a time.

#include "exec/ops/wgmma_multiply.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "exec/ops/half.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace wbsim::wgmma {
namespace {

constexpr int QUADS = PANEL / 4;            // sets of four columns that share a register
constexpr int SUMS = PANEL * ROWS / LANES;  // registers of 32 bits that hold them
constexpr int MAX_K = 32;                   // steps

const float NAN_F32 = std::bit_cast<float>(0x7fffffffu);

// ---- Vectors ------------------------------------------------------------------------------------

#if defined(__AVX512F__)
using Vector = __m512;
constexpr int QUADS_AT_ONCE = 4;  // 16 sums in registers
inline Vector load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, Vector v) { _mm512_store_ps(p, v); }
inline Vector repeat(const float* quad) { return _mm512_broadcast_f32x4(_mm_load_ps(quad)); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector canonical(Vector v) {
  return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_ps(NAN_F32));
}
#elif defined(__AVX2__) && defined(__FMA__)
using Vector = __m256;
constexpr int QUADS_AT_ONCE = 1;  // 8 sums in registers
inline Vector load(const float* p) { return _mm256_load_ps(p); }
inline void store(float* p, Vector v) { _mm256_store_ps(p, v); }
inline Vector repeat(const float* quad) {
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(quad));
}
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector canonical(Vector v) {
  return _mm256_blendv_ps(v, _mm256_set1_ps(NAN_F32), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}
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
inline Vector canonical(Vector v) {
  for (float& x : v.v) {
    x = std::isnan(x) ? NAN_F32 : x;
  }
  return v;
}
#endif
constexpr int WIDTH = sizeof(Vector) / sizeof(float);
constexpr int PARTS = 4 * ROWS / WIDTH;  // vectors for all rows and four columns

// ---- Operands as f32 ----------------------------------------------------------------------------

float widen_e4m3(uint32_t v) {
  // The fields of an f16 whose exponent has a bias that is 8 higher; the highest code is NaN.
  uint16_t half = static_cast<uint16_t>((v & 0x80) << 8 | (v & 0x7f) << 7);
  uint32_t nan = (v & 0x7f) == 0x7f ? 0x7fffffffu : 0;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(F16::widen(half) * 256.0f) | nan);
}

// f(x), with the element in the lowest BITS bits of x, for all elements; returns how many per row.
template <int BITS, class F>
int widen_each(const Panel& in, float (*out)[PANEL], F f) {
  for (int w = 0; w < WORDS; w++) {
    for (int shift = 0; shift < 32; shift += BITS, out++) {
      for (int i = 0; i < PANEL; i++) {
        (*out)[i] = f(in.words[w][i] >> shift);
      }
    }
  }
  return WORDS * 32 / BITS;
}

// The elements as f32, or words of bits unchanged: out[k] is element k of the panel's rows.
// Returns how many a row has.
int widen(Element type, const Panel& in, float (*out)[PANEL]) {
  auto half = [](uint32_t v) { return F16::widen(static_cast<uint16_t>(v)); };
  auto e5m2 = [](uint32_t v) { return F16::widen(static_cast<uint16_t>(v << 8)); };
  switch (type) {
    case Element::F16:
      return widen_each<16>(in, out, half);
    case Element::BF16:
      return widen_each<16>(in, out, [](uint32_t v) { return std::bit_cast<float>(v << 16); });
    case Element::TF32:  // the lower 13 bits of a register are not part of the number
      return widen_each<32>(in, out,
                            [](uint32_t v) { return std::bit_cast<float>(v & 0xffffe000u); });
    case Element::E4M3:
      return widen_each<8>(in, out, widen_e4m3);
    case Element::E5M2:  // the upper half of an f16
      return widen_each<8>(in, out, e5m2);
    case Element::S8:
      return widen_each<8>(in, out,
                           [](uint32_t v) { return static_cast<float>(static_cast<int8_t>(v)); });
    case Element::U8:
      return widen_each<8>(in, out, [](uint32_t v) { return static_cast<float>(v & 0xff); });
    default:  // B1
      return widen_each<32>(in, out, [](uint32_t v) { return std::bit_cast<float>(v); });
  }
}

// out[k]: column k of A, each element four times.
int spread_a(const Form& form, const Panel& a, float (*out)[4 * ROWS]) {
  alignas(64) float wide[MAX_K][PANEL];
  int count = widen(form.a, a, wide);
  for (int k = 0; k < count; k++) {
    for (int i = 0; i < PANEL; i++) {
      float element = form.negate ? -wide[k][i] : wide[k][i];
      std::fill_n(&out[k][4 * panel_row(i)], 4, element);
    }
  }
  return count;
}

// ---- Products of a panel ------------------------------------------------------------------------

// sums: the registers of D, of f32.
void add_products(const float (*a)[4 * ROWS], const float (*b)[PANEL], int count,
                  float* const sums[]) {
  for (int first = 0; first < QUADS; first += QUADS_AT_ONCE) {
    // A vector of the rows, for four columns.
    auto sum_at = [&](int q, int part) {
      int quad = first + q, at = part * WIDTH;
      return sums[4 * (quad / 2) + 2 * (at / LANES) + quad % 2] + at % LANES;
    };
    Vector sum[QUADS_AT_ONCE][PARTS];
    for (int q = 0; q < QUADS_AT_ONCE; q++) {
      for (int p = 0; p < PARTS; p++) {
        sum[q][p] = load(sum_at(q, p));
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
        store(sum_at(q, p), canonical(sum[q][p]));
      }
    }
  }
}

// The same for sparse A, every row of which holds elements at its own places. Elements of B that a
// row does not select are not multiplied, even if they are infinite.
void add_held_products(const float (*a)[4 * ROWS], const float (*b)[PANEL], const Places& places,
                       int count, float* const sums[]) {
  for (int r = 0; r < SUMS; r++) {
    const int rows = 8 * (r / 2 % 2), quad = 2 * (r / 4) + r % 2;
    for (int row = 0; row < LANES / 4; row++) {
      float* sum = sums[r] + 4 * row;
      for (int k = 0; k < count; k++) {
        const float* chosen = &b[places.at[k][rows + row]][4 * quad];
        for (int i = 0; i < 4; i++) {
          sum[i] = std::fma(a[k][4 * (rows + row)], chosen[i], sum[i]);
        }
      }
      std::replace_if(sum, sum + 4, [](float x) { return std::isnan(x); }, NAN_F32);
    }
  }
}

// The same for bits: .and.popc.
void add_bits(const float (*a)[4 * ROWS], const float (*b)[PANEL], int count, float* const sums[]) {
  for (int r = 0; r < SUMS; r++) {
    int rows = 8 * (r / 2 % 2), quad = 2 * (r / 4) + r % 2;
    for (int k = 0; k < count; k++) {
      for (int l = 0; l < LANES; l++) {
        uint32_t both = std::bit_cast<uint32_t>(a[k][4 * rows + l]) &
                        std::bit_cast<uint32_t>(b[k][4 * quad + l % 4]);
        sums[r][l] += static_cast<float>(std::popcount(both));
      }
    }
  }
}

// ---- Accumulators -------------------------------------------------------------------------------

// f32 elements are summed in their registers, others separately.
void load_sums(const Form& form, uint32_t* const d[], int registers, float* const sums[]) {
  if (!form.accumulate || form.d == Element::S32) {  // integers are added at the end
    for (int r = 0; r < SUMS; r++) {
      std::fill_n(sums[r], LANES, 0.0f);
    }
  } else if (form.d == Element::F16) {
    for (int r = 0; r < registers; r++) {
      for (int l = 0; l < LANES; l++) {
        sums[r][l] = F16::widen(static_cast<uint16_t>(d[r / 2][l] >> (16 * (r % 2))));
      }
    }
  }
}

int32_t add_saturated(int32_t a, int32_t b) {
  constexpr int64_t LOW = std::numeric_limits<int32_t>::min(),
                    HIGH = std::numeric_limits<int32_t>::max();
  return static_cast<int32_t>(std::clamp(int64_t{a} + b, LOW, HIGH));
}

void store_sums(const Form& form, float* const sums[], int registers, uint32_t* const d[]) {
  for (int r = 0; r < registers && form.d == Element::S32; r++) {
    for (int l = 0; l < LANES; l++) {
      int32_t sum = static_cast<int32_t>(sums[r][l]);
      uint32_t before = form.accumulate ? d[r][l] : 0;
      d[r][l] = form.saturate
                    ? static_cast<uint32_t>(add_saturated(static_cast<int32_t>(before), sum))
                    : before + static_cast<uint32_t>(sum);
    }
  }
  for (int r = 0; r < registers && form.d == Element::F16; r += 2) {
    for (int l = 0; l < LANES; l++) {
      d[r / 2][l] = F16::narrow(sums[r][l]) | static_cast<uint32_t>(F16::narrow(sums[r + 1][l]))
                                                  << 16;
    }
  }
}

}  // namespace

void multiply(const Form& form, const Panel& a, const Panel* b, const Places* places,
              uint32_t* const d[]) {
  alignas(64) float spread[MAX_K][4 * ROWS], wide[2 * MAX_K][PANEL], beside[SUMS][LANES];
  int count = spread_a(form, a, spread);
  for (int column = 0; column < form.columns; column += PANEL) {
    int columns = std::min<int>(PANEL, form.columns - column);
    int registers = columns * ROWS / LANES;  // elements of a lane
    uint32_t* const* to = d + column * ROWS / LANES / (form.d == Element::F16 ? 2 : 1);
    float* sums[SUMS];
    for (int r = 0; r < SUMS; r++) {
      bool in_place = form.d == Element::F32 && r < registers;
      sums[r] = in_place ? reinterpret_cast<float*>(to[r]) : beside[r];
    }
    widen(form.b, *b++, wide);
    load_sums(form, to, registers, sums);
    if (places) {
      widen(form.b, *b++, wide + count);
      add_held_products(spread, wide, *places, count, sums);
    } else {
      (form.b == Element::B1 ? add_bits : add_products)(spread, wide, count, sums);
    }
    store_sums(form, sums, registers, to);
  }
}

}  // namespace wbsim::wgmma
