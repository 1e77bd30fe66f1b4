#include "decode/place.h"

#include "checks/finding.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>
#include <vector>

namespace wbsim {

bool is_system_file(const std::string& file) {
  for (const char* part :
       {"/targets/x86_64-linux/include/", "/targets/sbsa-linux/include/", "/toolkit/gpu_",
        "/toolkit/simulator_",  // workbench/toolchain/toolkit.py
        "/nvidia/cu1", "/include/cuda", "/tmpxft_"}) {
    if (file.find(part) != std::string::npos) {
      return true;
    }
  }
  return file.starts_with("/usr/");
}

namespace {

// Calls f(file, line) for the frames of an instruction's inlining chain, from the inside out.
template <class F>
void each_frame(const Module& module, const ptx::Instruction& inst, F f) {
  const ptx::Module& ptx = *module.ptx;
  int depth = 0;
  for (int i = inst.location; i >= 0 && depth < 32; i = ptx.locations[i].inlined_at, depth++) {
    const ptx::Location& at = ptx.locations[i];
    f(at.file < static_cast<int>(ptx.files.size()) ? ptx.files[at.file] : "?", at.line);
  }
}

using Frame = std::pair<std::string, int>;  // file and line

std::string line_of(const Frame& frame) {
  return shorten(frame.first) + ":" + std::to_string(frame.second);
}

// The frames that are in the user's sources, from the inside out.
std::vector<Frame> user_frames(const Module& module, const ptx::Instruction& inst) {
  std::vector<Frame> frames;
  each_frame(module, inst, [&](const std::string& file, int line) {
    if (!is_system_file(file)) {
      frames.emplace_back(file, line);
    }
  });
  return frames;
}

// Whether the function of an instruction has a line inlined at several places.
bool has_several_callers(const Module& module, const ptx::Instruction& inst, const Frame& frame) {
  std::set<Frame> callers;
  for (auto& [name, function] : module.ptx->functions) {
    const auto& code = function.code;
    if (code.empty() || &inst < code.data() || &inst >= code.data() + code.size()) {
      continue;
    }
    for (const ptx::Instruction& other : code) {
      const std::vector<Frame> frames = user_frames(module, other);
      for (size_t i = 0; i + 1 < frames.size(); i++) {
        if (frames[i] == frame) {
          callers.insert(frames[i + 1]);
        }
      }
    }
  }
  return callers.size() > 1;
}

}  // namespace

Place place_of(const Module& module, const ptx::Instruction& inst) {
  const ptx::Module& ptx = *module.ptx;
  Place place;
  bool may_be_accessor = true;  // of one line so far, from the inside out
  int depth = 0;
  for (int i = inst.location; i >= 0 && depth < 32; i = ptx.locations[i].inlined_at, depth++) {
    const ptx::Location& at = ptx.locations[i];
    const std::string file =
        at.file < static_cast<int>(ptx.files.size()) ? ptx.files[at.file] : "?";
    may_be_accessor &= at.function >= 0 && ptx.inlined[at.function].one_line;
    if (place.line > 0) {
      place.chain += "\n  inlined at " + shorten(file) + ":" + std::to_string(at.line);
    } else if (!is_system_file(file)) {
      place.file = file;
      place.line = at.line;
    }
    if (place.line > 0 && may_be_accessor && at.inlined_at >= 0 &&
        ptx.inlined[at.function].accessor) {
      place = {};  // the line that calls it says more
    }
  }
  return place;
}

bool is_inlined_from(const Module& module, const ptx::Instruction& inst, std::string_view path) {
  const ptx::Module& ptx = *module.ptx;
  for (int i = inst.location, depth = 0; i >= 0 && depth < 32;
       i = ptx.locations[i].inlined_at, depth++) {
    const int file = ptx.locations[i].file;
    if (file < static_cast<int>(ptx.files.size()) &&
        ptx.files[file].find(path) != std::string::npos) {
      return true;
    }
  }
  return false;
}

Place call_of(const Module& module, const ptx::Instruction& inst) {
  const std::vector<Frame> frames = user_frames(module, inst);
  if (frames.empty()) {
    return {};
  }
  // Out of the file of the helper, unless the whole kernel is in it; then to where a function is
  // called from several places.
  size_t at = 0;
  const size_t outermost = frames.size() - 1;
  while (frames[0].first != frames[outermost].first && frames[at].first == frames[0].first) {
    at++;
  }
  while (at < outermost && has_several_callers(module, inst, frames[at])) {
    at++;
  }
  Place place{frames[at].first, frames[at].second, ""};
  for (size_t i = at; i-- > 0;) {
    place.chain += "\n  inlined there: " + line_of(frames[i]);
  }
  for (size_t i = at + 1; i < frames.size(); i++) {
    place.chain += "\n  inlined at " + line_of(frames[i]);
  }
  return place;
}

bool is_named_barrier(const ptx::Instruction& inst) {
  return (inst.opcode == "bar" || inst.opcode == "barrier") && inst.args.size() >= 2 &&
         std::find(inst.mods.begin(), inst.mods.end(), "red") == inst.mods.end();
}

namespace {

bool is_mostly_in_helpers(const ptx::Instruction& inst) {
  return inst.opcode == "cp" || inst.opcode == "wgmma" || inst.opcode == "mbarrier" ||
         inst.opcode == "setmaxnreg" || is_named_barrier(inst) ||
         std::find(inst.mods.begin(), inst.mods.end(), "async") != inst.mods.end();
}

}  // namespace

Place report_place(const Module& module, const ptx::Instruction& inst) {
  return is_mostly_in_helpers(inst) ? call_of(module, inst) : place_of(module, inst);
}

void name_call(Finding& finding, const Module& module, const ptx::Instruction& inst) {
  const Place place = call_of(module, inst);
  finding.file = place.file;
  finding.line = place.line;
  finding.chain = place.chain;
}

void set_other(Finding& finding, const Module& module, const ptx::Instruction& inst) {
  const Place place = report_place(module, inst);
  finding.other_file = place.file;
  finding.other_line = place.line;
  finding.other_chain = place.chain;
}

std::string shorten(const std::string& file) {
  std::error_code error;
  std::filesystem::path relative = std::filesystem::relative(file, error);
  if (!error && !relative.empty() && !relative.native().starts_with("..")) {
    return relative.native();
  }
  return std::filesystem::path(file).lexically_normal().native();  // without "build/../inline"
}

}  // namespace wbsim
