// swizzle.h: swizzled shared memory, as wgmma and tensor copies address it (PTX ISA, "Swizzling
// Modes" and "Asynchronous Warpgroup Level Matrix Shared Memory Layout").
//
// Rows of 32, 64 or 128 bytes would put a column of 16-byte units into few banks. So a unit's place
// in its row is XORed with the number of the 128-byte line that it is in. Only address bits are
// used: wherever a tile starts, the same address means the same place.
#pragma once

#include <cstdint>

namespace wbsim {

// The value is the mask of the address bits that are used, counted in 16-byte units.
enum class Swizzle : uint8_t { None = 0, Bytes32 = 1, Bytes64 = 3, Bytes128 = 7 };

// Where the byte is that an unswizzled layout would keep at `address`, and vice versa.
constexpr uint32_t swizzled(uint32_t address, Swizzle swizzle) {
  return address ^ ((address >> 7) & static_cast<uint32_t>(swizzle)) << 4;
}

}  // namespace wbsim
