// functions.h: the parts of a kernel: the device functions it may call, and its memory.
#pragma once

#include "decode/program.h"

namespace wbsim {

// A device function's stack frame starts with the index of the call that it returns from.
constexpr uint32_t RETURN_BYTES = 4;

// Fills Kernel::functions with the kernel and everything it may call, lays out their stack frames,
// and determines how deep the stack gets.
void collect_functions(Kernel& kernel);
// Assigns addresses to the kernel's parameters and its shared variables.
void lay_out_memory(Kernel& kernel);

}  // namespace wbsim
