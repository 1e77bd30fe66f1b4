// spin_loop.h: loops that read a variable until another thread changes it.
#pragma once

#include "decode/program.h"

namespace wbsim {

// Whether the instruction is a plain read of one place in a loop that ends when another thread
// changes it.
bool is_plain_spin(const Kernel& kernel, uint32_t pc);
extern const char* const SPIN_HINT;

}  // namespace wbsim
