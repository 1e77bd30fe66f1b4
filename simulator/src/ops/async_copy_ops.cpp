// async_copy_ops.cpp: cp.async: copies of a thread that finish later, and their groups.

#include "dispatch.h"

namespace wbsim {

void finish_copies(Block&) {}

std::span<const Opcode> async_copy_opcodes() { return {}; }

}  // namespace wbsim
