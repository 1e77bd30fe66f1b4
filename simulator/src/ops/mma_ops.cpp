// mma_ops.cpp: mma.sync: matrix products of one warp, operands in registers.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> mma_opcodes() { return {}; }

}  // namespace wbsim
