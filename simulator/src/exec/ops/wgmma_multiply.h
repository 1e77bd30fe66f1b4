// wgmma_multiply.h: what one warp of a warpgroup computes: 16 rows of D = A * B + D.
#pragma once

#include <cstdint>

#include "exec/ops/matrix.h"

namespace wbsim::wgmma {

constexpr int ROWS = 16;  // of A and D, per warp
constexpr int MAX_COLUMNS = 256;
constexpr int PANEL = 16;  // rows of A or columns of B that are handled together
constexpr int WORDS = 8;   // of 32 bits, hold K elements of any type: one such row or column

// 16 rows of A or columns of B, transposed: word w of all of them, then word w + 1. They are in the
// order of the columns in the accumulators: 0 2 4 6, 1 3 5 7, 8 10 12 14, 9 11 13 15.
struct alignas(64) Panel {
  uint32_t words[WORDS][PANEL];
};
constexpr int panel_row(int at) { return at / 8 * 8 + at % 4 * 2 + at / 4 % 2; }

struct Form {
  uint16_t columns = 0;  // N
  Element a = Element::None, b = Element::None, d = Element::None;
  bool negate = false;    // the product
  bool saturate = false;  // D, of integers
  bool accumulate = true;
};

// b: as many panels as hold N columns, twice as many if A is sparse: for the lower half of k, then
// for the upper one. places: of the elements that sparse A holds, else null. d: registers of a
// warp, in the layout of the PTX ISA, "Register Fragments for wgmma.mma_async": D[row][column] is
// in lane 4 (row % 8) + column / 2 % 4 of the element 4 (column / 8) + 2 (row / 8) + column % 2;
// two f16 elements share a register.
//
// Integers are exact modulo 2^32 or, with saturate, clamped once. Floating-point products are exact
// and are added to D one by one, in the order of k, in f32: with |D| for the value that D had,
// the result differs from the exact one by at most 1.01 K 2^-24 (|D| + sum |a| |b|), if no partial
// sum overflows. An f16 D is rounded once more, at the end. NaNs are canonical.
void multiply(const Form& form, const Panel& a, const Panel* b, const Places* places,
              uint32_t* const d[]);

}  // namespace wbsim::wgmma
