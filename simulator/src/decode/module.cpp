#include "decode/module.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "wbsim.h"

namespace wbsim {
namespace {

constexpr uint64_t MAX_CONSTANT = 65536;             // of __constant__ variables
constexpr uint64_t MAX_BYTES = uint64_t{128} << 30;  // of all variables: the device's memory
constexpr uint64_t MIN_ALIGN = 256;

bool has_storage(const ptx::Variable& v) {
  return v.space == ptx::Space::Global || v.space == ptx::Space::Const;
}

// The system provides zeroed pages as they are touched: a large array costs only what it uses.
uint8_t* allocate(Module& module, const ptx::Variable& v) {
  uint64_t align = std::max<uint64_t>(v.align, MIN_ALIGN);
  module.storage.emplace_back(std::calloc(1, v.bytes + 2 * align), std::free);
  if (!module.storage.back()) {
    throw ptx::ParseError("there is no memory for the " + std::to_string(v.bytes) +
                          " bytes of variable '" + v.name + "'");
  }
  uint64_t address = reinterpret_cast<uint64_t>(module.storage.back().get());
  return reinterpret_cast<uint8_t*>((address + align - 1) / align * align);
}

void write_addresses(Module& module, const ptx::Variable& v) {
  for (const ptx::Variable::Fixup& fix : v.fixups) {
    auto target = module.symbols.find(fix.symbol);
    const ptx::Function* function = module.find_function(fix.symbol);
    if (target == module.symbols.end() && !function) {
      throw ptx::ParseError("variable '" + v.name + "' holds the address of '" + fix.symbol +
                            "', which is not supported");
    }
    uint64_t value = function ? reinterpret_cast<uint64_t>(function)
                              : reinterpret_cast<uint64_t>(target->second.address);
    value += fix.add;
    std::memcpy(module.symbols[v.name].address + fix.at, &value, sizeof value);
  }
}

}  // namespace

std::unique_ptr<Module> load_module(std::string ptx, std::vector<Region>& regions) {
  static std::atomic<uint64_t> loaded{0};
  auto module = std::make_unique<Module>();
  module->number = ++loaded;
  module->ptx = ptx::parse(std::move(ptx));
  uint64_t total = 0, constant = 0;
  for (const ptx::Variable& v : module->ptx->globals) {
    if (!has_storage(v)) {
      continue;
    }
    total += v.bytes;
    constant += v.space == ptx::Space::Const ? v.bytes : 0;
    if (constant > MAX_CONSTANT) {
      throw ptx::ParseError("the module's __constant__ variables take " + std::to_string(constant) +
                            " bytes; there are " + std::to_string(MAX_CONSTANT));
    }
    if (total > MAX_BYTES) {
      throw ptx::ParseError("the module's variables do not fit into the device's memory");
    }
    uint8_t* at = allocate(*module, v);
    std::copy(v.init.begin(), v.init.end(), at);
    module->symbols[v.name] = {at, v.bytes};
    regions.push_back({reinterpret_cast<uint64_t>(at), v.bytes, v.name, VARIABLE_TEXT,
                       v.space == ptx::Space::Const ? WBSIM_IN : WBSIM_INOUT});
  }
  for (const ptx::Variable& v : module->ptx->globals) {
    if (has_storage(v)) {
      write_addresses(*module, v);
    }
  }
  return module;
}

}  // namespace wbsim
