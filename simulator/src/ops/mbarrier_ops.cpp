// mbarrier_ops.cpp: mbarrier objects: arrivals, transaction counts, waits.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> mbarrier_opcodes() { return {}; }

}  // namespace wbsim
