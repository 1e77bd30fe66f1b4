#include "decode/place.h"

#include "checks/finding.h"

#include <filesystem>

namespace wbsim {

bool is_system_file(const std::string& file) {
  for (const char* part : {"/targets/x86_64-linux/include/", "/targets/sbsa-linux/include/",
                           "/nvidia/cu1", "/include/cuda"}) {
    if (file.find(part) != std::string::npos) {
      return true;
    }
  }
  return file.starts_with("/usr/");
}

Place place_of(const Module& module, const ptx::Instruction& inst) {
  Place place;
  const ptx::Module& ptx = *module.ptx;
  int depth = 0;
  for (int i = inst.location; i >= 0 && depth < 32; i = ptx.locations[i].inlined_at, depth++) {
    const ptx::Location& at = ptx.locations[i];
    std::string file = at.file < static_cast<int>(ptx.files.size()) ? ptx.files[at.file] : "?";
    if (place.line == 0) {
      if (!is_system_file(file)) {
        place.file = file;
        place.line = at.line;
      }
    } else {
      place.chain += "\n  inlined at " + shorten(file) + ":" + std::to_string(at.line);
    }
  }
  return place;
}

void set_other(Finding& finding, const Module& module, const ptx::Instruction& inst) {
  const Place place = place_of(module, inst);
  finding.other_file = place.file;
  finding.other_line = place.line;
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
