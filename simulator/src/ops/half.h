// half.h: f16 and bf16 as numbers: exact widening to f32, correctly rounded narrowing.
//
// Everything works on bits and without branches, so that a loop over the halves of a warp becomes
// vector code on any processor.
#pragma once

#include <bit>
#include <cstdint>

namespace wbsim {

constexpr uint16_t HALF_SIGN = 0x8000, HALF_MAGNITUDE = 0x7fff;
constexpr uint16_t HALF_NAN = 0x7fff;  // the canonical NaN of results, of f16 and of bf16

struct F16 {
  static constexpr uint16_t INFINITY_BITS = 0x7c00, ONE = 0x3c00, SMALLEST_NORMAL = 0x0400;

  static float widen(uint16_t h) {
    // The exponent moves by a multiplication, which also normalises subnormal numbers.
    uint32_t magnitude = static_cast<uint32_t>(h & HALF_MAGNITUDE) << 13;
    uint32_t bits = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
    bits |= magnitude >= uint32_t{INFINITY_BITS} << 13 ? 0x7f800000u : 0u;
    return std::bit_cast<float>(bits | static_cast<uint32_t>(h & HALF_SIGN) << 16);
  }

  static uint16_t narrow(float v) {
    uint32_t u = std::bit_cast<uint32_t>(v);
    uint32_t sign = (u >> 16) & HALF_SIGN;
    u &= 0x7fffffffu;
    // Adding 0.5 leaves the subnormal number, rounded, in the last bits of the sum.
    uint32_t tiny = std::bit_cast<uint32_t>(std::bit_cast<float>(u) + 0.5f) - 0x3f000000u;
    uint32_t normal = (u - (112u << 23) + 0xfffu + ((u >> 13) & 1)) >> 13;
    uint32_t r = u < 0x38800000u ? tiny : normal;
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

}  // namespace wbsim
