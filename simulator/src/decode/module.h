// module.h: from PTX text to a module whose variables have memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "decode/program.h"
#include "exec/memory.h"

namespace wbsim {

// Parses PTX and gives its variables memory and their initial values. Appends what the memory
// check needs to know to `regions`. Throws ptx::ParseError.
std::unique_ptr<Module> load_module(std::string ptx, std::vector<Region>& regions);

}  // namespace wbsim
