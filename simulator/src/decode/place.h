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

// The frame of the function that calls the helper which the instruction is in: the innermost one
// outside of the helper's header that no other call shares. Its chain also has "\n  inlined there:
// f.cuh:12" for every frame inside it.
Place call_of(const Module& module, const ptx::Instruction& inst);

// Whether it is a copy or a product (cp, wgmma): mostly inside a helper, and known by its call.
bool is_asynchronous(const ptx::Instruction& inst);

struct Finding;
// Places a finding at the call: copies, products and waits are mostly in helpers.
void name_call(Finding& finding, const Module& module, const ptx::Instruction& inst);
// Records the line of an instruction as the other side of a race; copies and products by their call.
void set_other(Finding& finding, const Module& module, const ptx::Instruction& inst);

// The path as a user would type it from here: relative if the file is below the working
// directory.
std::string shorten(const std::string& file);

}  // namespace wbsim
