// where.h: places in memory, in words.
#pragma once

#include <cstdint>
#include <string>

#include "decode/program.h"

namespace wbsim {

// An offset in shared memory: " 'tile' (byte 12)", or " (byte 12)" if no variable is there.
std::string in_shared(const Kernel& kernel, uint64_t offset);

}  // namespace wbsim
