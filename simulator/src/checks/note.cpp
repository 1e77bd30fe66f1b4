#include "checks/note.h"

#include <tuple>

#include "decode/place.h"

namespace wbsim {

std::vector<PlacedNote> placed(const Kernel& kernel, const Notes& notes) {
  std::map<std::tuple<std::string, int, char>, const Note*> by_line;
  for (auto& [key, note] : notes) {
    const Place place = report_place(*kernel.module, *kernel.info[key.first].source);
    const Note*& kept = by_line[{place.file, place.line, key.second}];
    if (!kept || (note.odd && !kept->odd)) {
      kept = &note;
    }
  }
  std::vector<PlacedNote> out;
  for (auto& [key, note] : by_line) {
    out.push_back({std::get<0>(key), std::get<1>(key), *note});
  }
  return out;
}

std::string to_text(const PlacedNote& placed) {
  std::string out = "note: " + placed.note.text;
  if (placed.line > 0) {
    out += "\n  at " + line_text(placed.file, placed.line);
  }
  return out;
}

std::string to_json(const std::vector<PlacedNote>& notes) {
  std::string out;
  for (const PlacedNote& placed : notes) {
    out += std::string(out.empty() ? "" : ",") + "{\"file\":" + json_quote(placed.file) +
           ",\"line\":" + std::to_string(placed.line) +
           ",\"text\":" + json_quote(placed.note.text) +
           ",\"odd\":" + (placed.note.odd ? "true" : "false") + "}";
  }
  return "[" + out + "]";
}

}  // namespace wbsim
