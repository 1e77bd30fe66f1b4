// matrix.h: what the warp-level matrix instructions share: element types, fragment layouts and the
// product itself.
//
// All fragments are built from one block: 8 rows of 4 words. Lane l holds word l % 4 of row l / 4,
// so a register of a warp is such a block, row by row (PTX ISA, "Matrix Fragments for mma"). A word
// has 32 bits (64 for f64) and holds neighbours along k of A and of B transposed. A has blocks for
// rows 0-7 and 8-15, then those of the next words along k; B has one block per step along k. An
// accumulator of 32 or 64 bits takes two registers per block, for its even and its odd columns.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "checks/finding.h"
#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/float_mode.h"
#include "exec/ops/members.h"

namespace wbsim {

enum class Element : uint8_t {
  None,
  F16,
  BF16,
  TF32,
  E4M3,
  E5M2,
  S8,
  U8,
  S4,
  U4,
  B1,
  F64,
  F32,
  S32
};

constexpr int BLOCK_ROWS = 8, BLOCK_WORDS = 4;  // of a fragment's block
constexpr int TILE_ROWS = 16;                   // of A and C in one step of a product: two blocks

struct Shape {
  int m = 0, n = 0, k = 0;
};

// Takes ".m16n8k16".
Shape take_shape(Decode& d);
// Takes the next of the modifiers that name matrix element types, in the order written.
Element take_element(Decode& d);
Element take_element_if_any(Decode& d);  // None: there are no more
// Takes the next of .row and .col, in the order written; true for .row.
bool take_row_major(Decode& d);

int bits_of(Element type);
inline int word_bits(Element type) { return type == Element::F64 ? 64 : 32; }
inline int elements_per_word(Element type) { return word_bits(type) / bits_of(type); }
// Registers of a fragment of rows x columns elements, each held once.
inline int registers_of(Element type, int rows, int columns) {
  return rows * columns / LANES / elements_per_word(type);
}
// The registers of a vector operand, or of a single one.
std::vector<uint32_t> fragment(Decode& d, size_t arg, Element type, bool destination);

// D = A * B + C. Follows in Inst::list: this, then the slots of d, a, b and c at their places.
struct Product {
  Element a, b, c, d;
  bool half_tile = false;            // m is 8: the second blocks of A and C do not exist
  bool quads = false;                // mma.m8n8k4 with f16: four products, in special layouts
  bool a_row = true, b_row = false;  // their layouts, for quads
  bool saturate = false;             // .satfinite
  bool conjunction = false;          // .and.popc; otherwise .xor.popc
  bool sparse = false;               // half of A's elements are held; the metadata says which
  uint8_t selector = 0;              // of the lanes that hold the metadata
  Round round = Round::Nearest;      // f64
  int tiles_m = 1, tiles_n = 1;      // of 16 x 8
  int blocks_k = 1;                  // of 4 words, along k of A
  int a_at = 0, b_at = 0, c_at = 0;  // in the list; d is first
  uint32_t metadata = 0;             // slot
};

// Sparse A: where along k the elements are that 16 rows hold. Metadata is a register (PTX ISA,
// "Sparse matrix storage"); `selector` says whose lanes count; A has blocks_k blocks.
struct Places {
  uint8_t at[64][TILE_ROWS];  // [element][row]
};
void find_places(const uint32_t* metadata, Element type, int blocks_k, int selector,
                 Places& places);
// How many lanes in each group of four provide metadata.
inline int metadata_lanes(Element type, int blocks_k) {
  return bits_of(type) <= 8 ? 2 * blocks_k : blocks_k;
}

// Takes how to multiply elements of p's types: .satfinite, .xor.popc, .rz ...
void take_arithmetic(Decode& d, Product& p);
// Completes an instruction d, a, b, c that multiplies: its registers, handler and operations.
// Fragments with more registers than they need repeat their elements; the first ones are read.
void build_product(Decode& d, Product& p, const Shape& shape);

// Executes an instruction that all 32 lanes of a warp must reach together (.sync.aligned): f() once
// they are there. Inst::d holds the member mask, always full.
template <class F>
inline const Inst* with_whole_warp(Warp& w, const Inst* in, Mask m, F f) {
  if (m == ALL_LANES) [[likely]] {
    f();
    return next(in);
  }
  if (Mask skipping = w.mask & ~m) {
    throw finding_at(w, in, std::countr_zero(skipping), "synccheck",
                     "this instruction is for all 32 lanes of a warp, but the guard of lane " +
                         std::to_string(std::countr_zero(skipping)) + " is false");
  }
  return for_members(w, in, m, in->d, [&](Mask lanes) {
    if (lanes != ALL_LANES) {
      throw finding_at(w, in, std::countr_zero(lanes), "synccheck",
                       "this instruction is for all 32 lanes of a warp, but lane " +
                           std::to_string(std::countr_one(lanes)) + " has exited or never existed");
    }
    f();
  });
}

// Takes .sync.aligned and sets the member mask of with_whole_warp.
void take_sync_aligned(Decode& d);

}  // namespace wbsim
