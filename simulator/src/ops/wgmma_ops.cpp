// wgmma_ops.cpp: wgmma: matrix products of four warps with operands in shared memory;
// setmaxnreg.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> wgmma_opcodes() { return {}; }

}  // namespace wbsim
