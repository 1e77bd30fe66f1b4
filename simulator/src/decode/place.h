// place.h: the source line that an instruction belongs to.
#pragma once

#include <string>

#include "checks/finding.h"
#include "decode/program.h"

namespace wbsim {

struct Place {
  std::string file;  // empty: the module has no line information
  int line = 0;
  std::string chain;  // "\n  inlined at f.cu:12" for every enclosing frame
};

// The innermost frame in the user's own sources of the instruction's inlining chain.
Place place_of(const Module& module, const ptx::Instruction& inst);

// Headers of the toolkit, its libraries and the host compiler are not where a learner looks.
bool is_system_file(const std::string& file);

struct Finding;
// Records the line of an instruction as the other side of a race.
void set_other(Finding& finding, const Module& module, const ptx::Instruction& inst);

// The path as a user would type it from here: relative if the file is below the working
// directory.
std::string shorten(const std::string& file);

}  // namespace wbsim
