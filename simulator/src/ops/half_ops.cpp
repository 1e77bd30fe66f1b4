// half_ops.cpp: arithmetic and comparisons of f16, bf16, f16x2 and bf16x2 (PTX ISA, half-
// precision instructions).

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> half_opcodes() { return {}; }

}  // namespace wbsim
