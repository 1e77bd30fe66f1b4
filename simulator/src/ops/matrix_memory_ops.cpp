// matrix_memory_ops.cpp: ldmatrix, stmatrix, movmatrix: 8x8 matrices between shared memory and
// the lanes of a warp.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> matrix_memory_opcodes() { return {}; }

}  // namespace wbsim
