// registers.h: which registers may share a place in the frame.
//
// PTX names a new register for nearly every value: thousands in an unrolled kernel. Registers whose
// values are never needed at the same time share a slot, so that the frames of a block's warps stay
// in the cache.
#pragma once

#include <vector>

#include "ptx/ptx.h"

namespace wbsim {

struct SharedSlots {
  // For every register of the function, the number of its slot, counted from 0 among the registers
  // of the same width (predicates, 16, 32, 64, 128 bits). Special registers have none: -1.
  std::vector<int> slots;
  // Registers that may be read before anything is written to them.
  std::vector<int> unset;
};
SharedSlots share_slots(const ptx::Function& function);

// For every register of the function, whether it is an accumulator of wgmma, which is written not
// where the instruction is, but later.
std::vector<bool> accumulators_of(const ptx::Function& function);

// Whether the value that an instruction loads may decide where a thread goes, as a flag does that is
// polled. Follows it through registers; values that go to another function count.
bool may_decide_branch(const ptx::Function& function, const ptx::Instruction& load);

}  // namespace wbsim
