// half.h: f16, bf16 and fp8 as numbers: exact widening to f32, correctly rounded narrowing.
//
// Everything works on bits and without branches, so that a loop over the halves of a warp becomes
// vector code on any processor. Both sides of a ?: are computed before it: GCC does not make
// floating-point operations unconditional by itself.
#pragma once

#include <bit>
#include <cstdint>

namespace wbsim {

constexpr uint16_t HALF_SIGN = 0x8000, HALF_MAGNITUDE = 0x7fff;
constexpr uint16_t HALF_NAN = 0x7fff;  // the canonical NaN of results, of f16 and of bf16

// The bits of a finite, positive f32 as a number with fewer bits, rounded to nearest. A result
// above its largest number continues into the exponents beyond it.
template <int MANTISSA, int BIAS>
inline uint32_t round_bits(uint32_t u) {
  constexpr int CUT = 23 - MANTISSA;
  // The last bit of ALIGN is that of a subnormal result: adding it rounds what is below.
  constexpr uint32_t ALIGN = static_cast<uint32_t>(151 - BIAS - MANTISSA) << 23;
  uint32_t tiny = std::bit_cast<uint32_t>(std::bit_cast<float>(u) + std::bit_cast<float>(ALIGN));
  uint32_t normal = u - (static_cast<uint32_t>(127 - BIAS) << 23);
  normal = (normal + (1u << (CUT - 1)) - 1 + ((u >> CUT) & 1)) >> CUT;
  return u < static_cast<uint32_t>(128 - BIAS) << 23 ? tiny - ALIGN : normal;
}

struct F16 {
  static constexpr uint16_t INFINITY_BITS = 0x7c00, ONE = 0x3c00, SMALLEST_NORMAL = 0x0400;

  static float widen(uint16_t h) {
    // A multiplication adjusts the exponent, which also normalises subnormal numbers.
    uint32_t magnitude = static_cast<uint32_t>(h & HALF_MAGNITUDE) << 13;
    uint32_t bits = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
    bits |= magnitude >= uint32_t{INFINITY_BITS} << 13 ? 0x7f800000u : 0u;
    return std::bit_cast<float>(bits | static_cast<uint32_t>(h & HALF_SIGN) << 16);
  }

  static uint16_t narrow(float v) {
    uint32_t u = std::bit_cast<uint32_t>(v);
    uint32_t sign = (u >> 16) & HALF_SIGN;
    u &= 0x7fffffffu;
    uint32_t r = round_bits<10, 15>(u);
    r = u >= 0x47800000u ? INFINITY_BITS : r;
    return static_cast<uint16_t>(u > 0x7f800000u ? HALF_NAN : r | sign);
  }
};

struct BF16 {
  static constexpr uint16_t INFINITY_BITS = 0x7f80, ONE = 0x3f80, SMALLEST_NORMAL = 0x0080;

  static float widen(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

  static uint16_t narrow(float v) {
    uint32_t u = std::bit_cast<uint32_t>(v);
    uint32_t r = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? HALF_NAN : r);
  }
};

// fp8, saturated: no conversion to it gives an infinity.
template <int MANTISSA, int BIAS, uint32_t LARGEST>
struct FP8 {
  static uint8_t narrow(float v) {
    uint32_t u = std::bit_cast<uint32_t>(v), magnitude = u & 0x7fffffffu;
    uint32_t r = round_bits<MANTISSA, BIAS>(magnitude < LARGEST ? magnitude : LARGEST);
    return static_cast<uint8_t>(magnitude > 0x7f800000u ? 0x7f : r | (u >> 24 & 0x80));
  }
};
using E4M3 = FP8<3, 7, 0x43e00000>;   // up to 448
using E5M2 = FP8<2, 15, 0x47600000>;  // up to 57344

}  // namespace wbsim
