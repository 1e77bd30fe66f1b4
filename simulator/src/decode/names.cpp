// names.cpp: the C++ names of symbols.

#include "decode/names.h"

#include <cxxabi.h>

#include <cstdlib>

namespace wbsim {
namespace {

// A mangled name refers back to its parts: S_, S1_, T_. Two references can double what it stands
// for, so a short name may stand for gigabytes.
constexpr int MAX_REFERENCES = 36;

int references_in(const std::string& symbol) {
  int count = 0;
  for (size_t i = 0; i < symbol.size(); i++) {
    if (symbol[i] == 'S' || symbol[i] == 'T') {
      size_t end = symbol.find_first_not_of("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", i + 1);
      count += end != std::string::npos && symbol[end] == '_';
    }
  }
  return count;
}

}  // namespace

std::string demangled(const std::string& symbol) {
  if (references_in(symbol) > MAX_REFERENCES) {
    return symbol;
  }
  int status = 0;
  char* text = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  std::string name = text ? text : symbol;
  std::free(text);
  return name;
}

std::string pretty_name(const std::string& symbol) {
  std::string name = demangled(symbol);
  int depth = 0;
  for (size_t i = 0; i < name.size(); i++) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (name[i] == '(' && depth == 0 && name.compare(i, 21, "(anonymous namespace)") != 0) {
      name.resize(i);
      break;
    }
  }
  // Drop the return type of a template: the last space outside <> and ().
  depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    depth += name[i] == '>' || name[i] == ')' ? 1 : name[i] == '<' || name[i] == '(' ? -1 : 0;
    if (name[i] == ' ' && depth == 0) {
      return name.substr(i + 1);
    }
  }
  return name;
}

}  // namespace wbsim
