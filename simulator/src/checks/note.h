// note.h: what a launch says about an instruction besides counters and findings.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace wbsim {

struct Kernel;

struct Note {
  std::string text;
  bool odd = false;  // probably a mistake, not just worth knowing
};

// By the instruction's index in Kernel::code, and what it is about: the name of an operand.
using Notes = std::map<std::pair<uint32_t, char>, Note>;

struct PlacedNote {
  std::string file;
  int line;
  Note note;
};

// The notes by source line: of each line and subject one, an odd one if there is any.
std::vector<PlacedNote> placed(const Kernel& kernel, const Notes& notes);

// "note: ...", and where.
std::string to_text(const PlacedNote& note);
std::string to_json(const std::vector<PlacedNote>& notes);

}  // namespace wbsim
