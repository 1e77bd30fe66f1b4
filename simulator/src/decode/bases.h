// bases.h: which variable or which pointer each address of a kernel is computed from, for checks
// that no access leaves it for the next one.
#pragma once

#include "decode/program.h"

namespace wbsim {

// Fills Kernel::bases and InstInfo::base, unless that is done.
void find_bases(Kernel& kernel);

}  // namespace wbsim
