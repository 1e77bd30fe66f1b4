// wgmma_multiply.h: what one warp of a warpgroup computes: 16 rows of D = A * B + D.
#pragma once

#include <cstdint>

#include "../program.h"

namespace wbsim::wgmma {

enum class Type : uint8_t { F16, BF16, TF32, E4M3, E5M2, S8, U8, B1, F32, S32 };

constexpr int ROWS = 16;       // of A and D, that belong to a warp
constexpr int ROW_BYTES = 32;  // K elements of any type: a row of A, a column of B
constexpr int MAX_COLUMNS = 256;

struct Form {
  uint16_t columns = 0;  // N
  Type a = Type::F16, b = Type::F16, d = Type::F32;
  bool negate = false;    // the product
  bool saturate = false;  // D, of integers
  bool accumulate = true;
};

// a: 16 rows; b: the columns of B. d: registers of a warp, in the layout of the PTX ISA, "Register
// Fragments for wgmma.mma_async": D[row][column] is in lane 4 (row % 8) + column / 2 % 4 of the
// element 4 (column / 8) + 2 (row / 8) + column % 2; two f16 elements share a register.
//
// Integers are exact modulo 2^32 or, with saturate, clamped once. Floating-point products are exact
// and are added to D one by one, in the order of k, in f32: with |D| for the value that D had,
// the result differs from the exact one by at most 1.01 K 2^-24 (|D| + sum |a| |b|), if no partial
// sum overflows. An f16 D is rounded once more, at the end. NaNs are canonical.
void multiply(const Form& form, const uint8_t (*a)[ROW_BYTES], const uint8_t (*b)[ROW_BYTES],
              uint32_t* const d[]);

}  // namespace wbsim::wgmma
