// wmma_ops.cpp: wmma.load, wmma.mma, wmma.store: matrix products of one warp with opaque
// fragments.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> wmma_opcodes() { return {}; }

}  // namespace wbsim
