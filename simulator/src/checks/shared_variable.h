// shared_variable.h: the names of a kernel's shared variables, for reports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "decode/program.h"

namespace wbsim {

// "tile" for the mangled name of a __shared__ variable of a kernel.
std::string source_name(const std::string& symbol);

struct SharedVariable {
  std::string name;     // "tile", as in the source
  uint64_t offset = 0;  // in the block's shared memory
  uint64_t bytes = 0;   // 0: an extern array
};

// The variable that an offset in shared memory belongs to: the last one that starts before it.
std::optional<SharedVariable> shared_variable(const Kernel& kernel, uint64_t offset);

// "'tile' (byte 12)", or "(byte 12)" without a variable.
std::string shared_place_text(const Kernel& kernel, uint64_t offset);

}  // namespace wbsim
