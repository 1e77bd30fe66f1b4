#include "checks/finding.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "decode/place.h"

namespace wbsim {
namespace {

// The text of one line of a source file, without its indentation; empty if it cannot be read.
std::string source_line(const std::string& file, int number) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) {
    return {};  // PTX may name anything, even an endless device
  }
  std::ifstream in(file);
  std::string text;
  for (int i = 0; i < number; i++) {
    if (!std::getline(in, text)) {
      return {};
    }
  }
  size_t from = text.find_first_not_of(" \t");
  return from == std::string::npos ? std::string() : text.substr(from);
}

}  // namespace

std::string line_text(const std::string& file, int line) {
  const std::string text = source_line(file, line);
  return shorten(file) + ":" + std::to_string(line) + (text.empty() ? "" : "    " + text);
}

std::string triple_text(const std::array<uint32_t, 3>& v) {
  return "(" + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " + std::to_string(v[2]) +
         ")";
}

std::string to_text(const Finding& f) {
  std::string out = f.kind + ": " + f.message;
  if (f.line > 0) {
    out += "\n  at " + line_text(f.file, f.line) + f.chain;
  }
  if (!f.kernel.empty()) {  // otherwise a call by the host
    out += "\n  in kernel " + f.kernel;
  }
  if (!f.ptx.empty()) {  // otherwise no block had started
    out += ", block " + triple_text(f.block);
  }
  if (f.has_thread) {
    out += ", thread " + triple_text(f.thread);
  }
  if (f.other_line > 0) {
    out += "\n  " + f.other_what + ": " + line_text(f.other_file, f.other_line) + f.other_chain;
  }
  for (const std::string& event : f.history) {
    out += "\n  " + event;
  }
  if (!f.ptx.empty()) {
    out += "\n  PTX: " + f.ptx;
  }
  out += f.waits;
  if (!f.hint.empty()) {
    out += "\n  " + f.hint;
  }
  return out;
}

std::string json_quote(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
      out += buffer;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

std::string to_json(const Finding& f) {
  auto triple = [](const std::array<uint32_t, 3>& v) {
    return "[" + std::to_string(v[0]) + "," + std::to_string(v[1]) + "," + std::to_string(v[2]) +
           "]";
  };
  return "{\"kind\":" + json_quote(f.kind) + ",\"message\":" + json_quote(f.message) +
         ",\"kernel\":" + json_quote(f.kernel) + ",\"file\":" + json_quote(f.file) +
         ",\"line\":" + std::to_string(f.line) + ",\"block\":" + triple(f.block) +
         ",\"thread\":" + (f.has_thread ? triple(f.thread) : std::string("null")) +
         ",\"other_file\":" + json_quote(f.other_file) +
         ",\"other_line\":" + std::to_string(f.other_line) + ",\"other_thread\":" +
         (f.has_other_thread ? triple(f.other_thread) : std::string("null")) +
         ",\"address\":" + std::to_string(f.address) + ",\"ptx\":" + json_quote(f.ptx) +
         ",\"text\":" + json_quote(to_text(f)) + "}";
}

}  // namespace wbsim
