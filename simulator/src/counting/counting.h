// counting.h: counters of memory accesses, by instruction.
#pragma once

#include "../observe.h"

namespace wbsim {

// Adds one access of a warp instruction to the worker's counters.
void count_access(Warp& w, const Inst* in, const WarpAccess& access);

}  // namespace wbsim
