// scopes.cpp: registers, vector registers and variables by name.

#include "ptx/scopes.h"

#include <charconv>

namespace wbsim::ptx {

void Scopes::declare(Function& f, const std::string& name, Type type) {
  if (!scopes_.back().registers.emplace(name, static_cast<int>(f.registers.size())).second) {
    lex_.fail("register '" + name + "' is declared twice");
  }
  f.registers.push_back({name, type});
}

// A vector register is one register per component: v.x, v.y.
void Scopes::declare_vector(Function& f, Scope& scope, const std::string& name, Type type,
                            int components) {
  if (!scope.vectors.emplace(name, components).second) {
    lex_.fail("register '" + name + "' is declared twice");
  }
  for (char component : COMPONENTS.substr(0, components)) {
    std::string full = name + "." + component;
    scope.registers[full] = static_cast<int>(f.registers.size());
    f.registers.push_back({full, type});
  }
}

int Scopes::find_register(Function& f, const std::string& name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (int index = find_in(f, *scope, name); index >= 0) {
      return index;
    }
    if (scope->variables.contains(name) || scope->vectors.contains(name)) {
      return -1;
    }
  }
  if (name.starts_with("%") || name == "WARP_SZ") {
    // A special register (%tid.x): declared on first use, given its value by the executor.
    scopes_.front().registers[name] = static_cast<int>(f.registers.size());
    f.registers.push_back({name, Type::None});
    return static_cast<int>(f.registers.size()) - 1;
  }
  return -1;
}

int Scopes::find_in(Function& f, Scope& scope, const std::string& name) {
  auto found = scope.registers.find(name);
  if (found != scope.registers.end()) {
    return found->second;
  }
  size_t dot = name.rfind('.');
  if (dot != std::string::npos && dot + 2 == name.size()) {
    size_t component = std::string_view("rgba").find(name[dot + 1]);
    std::string vector = name.substr(0, dot);
    if (!find_vector(f, scope, vector)) {
      return -1;
    }
    std::string known =
        component == std::string_view::npos ? name : vector + "." + COMPONENTS[component];
    found = scope.registers.find(known);
    return found == scope.registers.end() ? -1 : found->second;
  }
  const Scope::Range* range = find_range(scope, name);
  if (!range || range->components != 1) {
    return -1;
  }
  scope.registers[name] = static_cast<int>(f.registers.size());
  f.registers.push_back({name, range->type});
  return static_cast<int>(f.registers.size()) - 1;
}

// How many components a vector register has; 0 if it is not one.
int Scopes::find_vector(Function& f, Scope& scope, const std::string& name) {
  auto found = scope.vectors.find(name);
  if (found != scope.vectors.end()) {
    return found->second;
  }
  const Scope::Range* range = find_range(scope, name);
  if (!range || range->components == 1) {
    return 0;
  }
  declare_vector(f, scope, name, range->type, range->components);
  return range->components;
}

// The range that declares r12: r<20>, or r1<3>.
const Scope::Range* Scopes::find_range(const Scope& scope, const std::string& name) {
  constexpr size_t MAX_DIGITS = 19;  // of an index
  for (size_t at = name.size(); at-- > 1 && name.size() - at <= MAX_DIGITS;) {
    if (name[at] < '0' || name[at] > '9') {
      break;
    }
    if (name[at] == '0' && at + 1 < name.size()) {
      continue;  // r012 is not r<20>'s
    }
    auto found = scope.ranges.find(name.substr(0, at));
    int64_t index = 0;
    auto [end, error] = std::from_chars(name.data() + at, name.data() + name.size(), index);
    if (found != scope.ranges.end() && error == std::errc() && index < found->second.count) {
      return &found->second;
    }
  }
  return nullptr;
}

int Scopes::components_of(Function& f, const std::string& name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (int components = find_vector(f, *scope, name)) {
      return components;
    }
    if (scope->variables.contains(name)) {
      return 0;
    }
  }
  return 0;
}

std::string Scopes::variable(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    auto found = scope->variables.find(name);
    if (found != scope->variables.end()) {
      return found->second;
    }
  }
  return name;
}

}  // namespace wbsim::ptx
