#include "checks/shared_variable.h"

#include "decode/names.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

uint64_t declared_bytes(const Kernel& kernel, const std::string& symbol) {
  auto find = [&](const std::vector<ptx::Variable>& variables) -> const ptx::Variable* {
    for (const ptx::Variable& v : variables) {
      if (v.name == symbol) {
        return &v;
      }
    }
    return nullptr;
  };
  for (auto& function : kernel.functions) {
    if (const ptx::Variable* v = find(function->source->locals)) {
      return v->bytes;
    }
  }
  const ptx::Variable* v = find(kernel.module->ptx->globals);
  return v ? v->bytes : 0;
}

}  // namespace

std::string source_name(const std::string& symbol) {
  std::string name = demangled(symbol);
  size_t colons = name.rfind("::");
  return colons == std::string::npos ? name : name.substr(colons + 2);
}

std::optional<SharedVariable> shared_variable(const Kernel& kernel, uint64_t offset) {
  const std::string* best = nullptr;
  uint64_t start = 0;
  auto consider = [&](const std::string& name, uint64_t address) {
    if (address <= offset + SHARED_BASE && address >= start) {
      best = &name;
      start = address;
    }
  };
  for (auto& function : kernel.functions) {
    for (auto& [name, at] : function->addresses) {
      if (at.first == ptx::Space::Shared) {
        consider(name, at.second);
      }
    }
  }
  for (auto& [name, address] : kernel.shared) {
    consider(name, address);
  }
  if (!best) {
    return std::nullopt;
  }
  return SharedVariable{source_name(*best), start - SHARED_BASE, declared_bytes(kernel, *best)};
}

std::string shared_place_text(const Kernel& kernel, uint64_t offset) {
  const std::optional<SharedVariable> v = shared_variable(kernel, offset);
  return (v ? "'" + v->name + "' " : "") + "(byte " + std::to_string(offset - (v ? v->offset : 0)) +
         ")";
}

}  // namespace wbsim
