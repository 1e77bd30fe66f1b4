// shared_matrix.h: matrices in shared memory as wgmma reads them (PTX ISA, "Asynchronous Warpgroup
// Level Matrix Shared Memory Layout", "Strides", "Matrix Descriptor Format").
//
// Memory is read in units of 16 bytes, eight of which make a core matrix. K-major, a unit is half
// of the 32 bytes that a row of A, or a column of B, has along K; a column of B has 64 bytes if A
// is sparse. MN-major, which only 16-bit types may be, it is eight rows at one k.
// A swizzled row has as many units side by side as its swizzle is wide; without a swizzle it has
// one.
//
//            K-major: unit u of row r                    MN-major: rows 8u to 8u + 7 at k
//   none     16 (r % 8) + LBO u + SBO (r / 8)            16 (k % 8) + SBO u + LBO (k / 8)
//   W wide   16 W (r % 8) + 16 u + SBO (r / 8)           16 W (k % 8) + 16 (u % W) + LBO (u / W)
//                                                          + SBO (k / 8)
//
// LBO and SBO are the descriptor's leading and stride byte offsets. The swizzle is applied last.
#pragma once

#include <cstdint>

#include "exec/ops/swizzle.h"

namespace wbsim {

constexpr uint32_t UNIT_BYTES = 16;

class SharedMatrix {
 public:
  explicit SharedMatrix(uint64_t descriptor)
      : start_(field(descriptor)),
        leading_(field(descriptor >> 16)),
        stride_(field(descriptor >> 32)),
        base_(static_cast<uint32_t>(descriptor >> 49) & 7) {
    constexpr Swizzle SWIZZLES[] = {Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64,
                                    Swizzle::Bytes32};
    swizzle_ = SWIZZLES[descriptor >> 62];
    width_ = static_cast<uint32_t>(swizzle_) + 1;
  }

  Swizzle swizzle() const { return swizzle_; }
  uint32_t start() const { return start_; }
  uint32_t leading() const { return leading_; }
  uint32_t stride() const { return stride_; }
  uint32_t base_offset() const { return base_; }
  uint32_t width() const { return width_; }  // units side by side

  // The address that a unit would have without the swizzle. The base offset says how many 128-byte
  // lines after a multiple of its period the pattern starts.
  uint32_t unswizzled(uint32_t address) const {
    uint32_t shift = base_ << 7;
    return swizzled(address - shift, swizzle_) + shift;  // its own inverse
  }

  // The address in the block's shared window of a unit of a K-major matrix, in row 8 block + line.
  uint32_t row_unit(uint32_t block, uint32_t line, uint32_t unit) const {
    uint32_t across = swizzle_ == Swizzle::None ? leading_ : UNIT_BYTES;
    return place(UNIT_BYTES * width_ * line + across * unit + stride_ * block);
  }

  // The same for an MN-major matrix, at k = 8 block + line.
  uint32_t column_unit(uint32_t block, uint32_t line, uint32_t unit) const {
    bool plain = swizzle_ == Swizzle::None;
    return place(UNIT_BYTES * width_ * line + UNIT_BYTES * (unit % width_) +
                 (plain ? stride_ : leading_) * (unit / width_) +
                 (plain ? leading_ : stride_) * block);
  }

 private:
  // matrix-descriptor-encode(x) = (x & 0x3ffff) >> 4
  static uint32_t field(uint64_t bits) { return static_cast<uint32_t>(bits & 0x3fff) << 4; }

  uint32_t place(uint32_t offset) const { return unswizzled(start_ + offset); }

  uint32_t start_, leading_, stride_, base_;
  uint32_t width_;  // units
  Swizzle swizzle_;
};

}  // namespace wbsim
