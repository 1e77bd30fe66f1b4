// tensor_copy.h: the boxes of a tensor that cp.async.bulk.tensor copies (PTX ISA, "Tensors").
//
// In shared memory a box is rows without gaps: dimension 0 is a row, the others count the rows,
// lower ones faster. In im2col mode a row is the channels of a pixel. Rows are copied whole.
#pragma once

#include <vector>

#include "exec/ops/reduction.h"
#include "exec/ops/shared_address.h"
#include "exec/ops/swizzle.h"
#include "exec/ops/tensor_map.h"

namespace wbsim {

// One box: a tensor map, and where the box begins.
struct TensorBox {
  TensorMap map;
  int32_t at[TensorMap::MAX_RANK] = {};
  uint16_t offsets[3] = {};  // im2col: of the pixels that are read from the pixels' positions

  uint32_t element_bytes() const;
  uint32_t row_bytes() const;
  uint64_t num_rows() const;
  Swizzle swizzle() const;
  uint64_t bytes() const { return num_rows() * row_bytes(); }
  // The bytes of shared memory from its start that contain the box: swizzles stay within their
  // 128-byte line.
  uint64_t shared_bytes() const;
  // The type of an element for reductions; bitwise ones work on bits.
  ptx::Type type(Reduce op) const;
};

// The tensor map at a generic address; reports one that is invalid, or where the unit cannot read.
TensorMap load_tensor_map(const Issuer& issuer, uint64_t address);

// Reports a box whose elements inside the tensor are outside the memory they should be in.
void check_box(const Issuer& issuer, const TensorBox& box, bool write, bool reduces = false);

// Where the 16-byte units of a box with elements inside the tensor are in shared memory, as offsets
// in the block's.
std::vector<uint32_t> units_inside(const TensorBox& box, SharedPlace at);

// global -> shared; what is outside the tensor is filled.
void load_box(const TensorBox& box, SharedPlace to);
// shared -> dense rows.
void read_box(const TensorBox& box, SharedPlace from, uint8_t* to);
// dense rows -> global; what is outside the tensor is left out. reduce: nullptr for a store.
void write_box(const TensorBox& box, const uint8_t* from, ReduceElements reduce);

}  // namespace wbsim
