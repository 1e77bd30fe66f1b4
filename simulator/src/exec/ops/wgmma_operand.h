// wgmma_operand.h: an operand of wgmma in shared memory, as its descriptor describes it, and that in
// words. It may not be what was meant: the strides exchanged, another swizzle than that of the copy
// that wrote the matrix, a start that the swizzle does not expect.
#pragma once

#include <string>
#include <vector>

#include "checks/checker.h"
#include "checks/note.h"
#include "exec/ops/shared_matrix.h"

namespace wbsim {

struct SharedOperand {
  SharedOperand(char name, uint64_t descriptor, bool columns, uint32_t blocks, uint32_t units)
      : name(name),
        descriptor(descriptor),
        matrix(descriptor),
        columns(columns),
        blocks(blocks),
        units(units) {}

  char name;  // 'A' or 'B'
  uint64_t descriptor;
  SharedMatrix matrix;
  bool columns;     // MN-major
  uint32_t blocks;  // of eight rows of A, or columns of B
  uint32_t units;   // of 16 bytes along K: half as many groups of eight k if it is MN-major

  // Where the units of some blocks are in the block's shared memory, as offsets.
  std::vector<uint32_t> offsets(uint32_t first, uint32_t count) const;
  std::vector<uint32_t> offsets() const { return offsets(0, blocks); }
  SharedOperand exchanged() const;  // LBO and SBO
};

// Where the matrix begins, how far apart its parts are, and what it covers: two lines.
std::string geometry(const SharedOperand& operand, const Block& block);

// What a finding about an operand adds to its hint: its geometry, and whether LBO and SBO exchanged
// would keep it in memory that exists and is written.
std::string operand_hint(const SharedOperand& operand, const Block& block);

// A product is about to read some blocks of an operand: reports races, unwritten memory, and tiles
// that tensor copies swizzled differently.
void check_operand(Checker& checker, const Issuer& issuer, const SharedOperand& operand,
                   uint32_t first, uint32_t count);

// Notes the geometry of an operand of an instruction, and what is odd about it.
void note_operand(Notes& notes, uint32_t pc, const SharedOperand& operand, const Block& block);

}  // namespace wbsim
