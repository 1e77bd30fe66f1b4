// tensor_map.h: what the simulator keeps in the 128 opaque bytes of a CUtensorMap: written by
// cuTensorMapEncode* and tensormap.replace, read by cp.async.bulk.tensor.
#pragma once

#include <cstdint>

namespace wbsim {

struct alignas(64) TensorMap {
  static constexpr uint64_t MAGIC = 0x70614d726f736e54;
  static constexpr int MAX_RANK = 5;

  uint64_t magic;       // MAGIC, or the bytes are not a tensor map
  uint64_t address;     // of element 0 in global memory
  uint64_t strides[4];  // bytes between neighbours in dimension i + 1
  uint32_t sizes[5];    // elements minus one: a dimension holds up to 2^32
  uint16_t box[5];      // elements of a box; tiled mode
  uint8_t element_strides[5];
  uint8_t rank;        // 1 to 5
  uint8_t type;        // CUtensorMapDataType
  uint8_t interleave;  // CUtensorMapInterleave
  uint8_t swizzle;     // CUtensorMapSwizzle
  uint8_t fill;        // CUtensorMapFloatOOBfill
  uint8_t im2col;      // 1: im2col mode, with the fields below
  int16_t lower_corner[3], upper_corner[3];
  uint16_t channels_per_pixel, pixels_per_column;
};
static_assert(sizeof(TensorMap) <= 128);

}  // namespace wbsim
