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

// Whether the instruction comes from a file with this in its path.
bool is_inlined_from(const Module& module, const ptx::Instruction& inst, std::string_view path);

// Headers of the toolkit, its libraries and the host compiler are not where a learner looks.
bool is_system_file(const std::string& file);

// The frame of the function that calls the helper which the instruction is in: the innermost one
// outside of the helper's header that no other call shares. Its chain also has "\n  inlined there:
// f.cuh:12" for every frame inside it.
Place call_of(const Module& module, const ptx::Instruction& inst);

// A barrier for some of the block's threads: bar.sync with an id and a number of threads.
bool is_named_barrier(const ptx::Instruction& inst);

// Where a report shows an instruction: copies, products and what belongs to them are mostly in
// helpers, and known by their call.
Place report_place(const Module& module, const ptx::Instruction& inst);

struct Finding;
// Places a finding at the call, whatever the instruction is.
void name_call(Finding& finding, const Module& module, const ptx::Instruction& inst);
// Records the line of an instruction as the other side.
void set_other(Finding& finding, const Module& module, const ptx::Instruction& inst);

// The path as a user would type it from here: relative if the file is below the working
// directory.
std::string shorten(const std::string& file);

}  // namespace wbsim
