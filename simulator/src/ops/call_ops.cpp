// call_ops.cpp: calls of device functions, through names and through pointers, and returns.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> call_opcodes() { return {}; }

}  // namespace wbsim
