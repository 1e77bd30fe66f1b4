// finding.h: what stops a launch, with everything a report needs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace wbsim {

struct Inst;
struct Warp;

struct Finding {
  // "memcheck", "racecheck", "initcheck", "synccheck", "unsupported", "limit", "trap", "assert",
  // "launch" or "interrupted"
  std::string kind;
  std::string message;  // one sentence: what happened
  std::string kernel;
  std::string file;  // of the user's line; empty if the module has no line information
  int line = 0;
  std::string chain;  // "inlined at f.cu:12" lines, or empty
  std::string ptx;    // the instruction
  std::string hint;   // what to do, or empty
  std::array<uint32_t, 3> block{};
  std::array<uint32_t, 3> thread{};
  bool has_thread = false;
  // Of a race: the other side.
  bool has_other_thread = false;
  std::string other_what;  // "the read", "the copy"
  std::string other_file;
  int other_line = 0;
  std::string other_chain;
  std::array<uint32_t, 3> other_thread{};
  uint64_t address = 0;
  std::vector<std::string> history;  // what happened before: "allocated: f.cu:12    cudaMalloc(..."
  std::string waits;  // lines that say what threads wait for, each after "\n  "; or empty
};

// A finding at an instruction, with kernel, place, block and thread filled in. lane < 0: no single
// thread.
Finding finding_at(const Warp& w, const Inst* in, int lane, std::string kind, std::string message);

// The report as readable text: the message, then kernel, place and thread, one per line.
std::string to_text(const Finding& finding);
std::string to_json(const Finding& finding);
// "f.cu:12    x[i] = 0;", without the text if it cannot be read.
std::string line_text(const std::string& file, int line);
std::string triple_text(const std::array<uint32_t, 3>& v);  // "(1, 0, 0)"
std::string json_quote(const std::string& text);

}  // namespace wbsim
