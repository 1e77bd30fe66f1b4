// modules.cpp: the modules of the process, their kernels and variables.

#include <algorithm>
#include <cstring>

#include "interrupt.h"
#include "runtime.h"
#include "wbsim.h"

namespace wbsim {
namespace {

constexpr int WRAPPER_MAGIC = 0x466243b1;
constexpr uint32_t FATBIN_MAGIC = 0xba55ed50;

struct Wrapper {
  int magic, version;
  const uint8_t* data;
  void* filename;
};

// The PTX inside a fat binary (the layout that nvcc writes; simulator/README.md).
std::string ptx_of_fat_binary(const uint8_t* data) {
  struct Header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
  };
  struct Entry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;
  };
  constexpr uint16_t KIND_PTX = 1;
  Header header;
  std::memcpy(&header, data, sizeof header);
  if (header.magic != FATBIN_MAGIC) {
    return {};
  }
  const uint8_t* at = data + header.header_bytes;
  const uint8_t* end = at + header.bytes;
  while (at + sizeof(Entry) <= end) {
    Entry entry;
    std::memcpy(&entry, at, sizeof entry);
    const char* body = reinterpret_cast<const char*>(at + entry.header_bytes);
    if (entry.kind == KIND_PTX) {
      return std::string(body, strnlen(body, entry.bytes));
    }
    at += entry.header_bytes + entry.bytes;
  }
  return {};
}

}  // namespace

std::string extract_ptx(const void* fat_binary) {
  auto* wrapper = static_cast<const Wrapper*>(fat_binary);
  return wrapper->magic == WRAPPER_MAGIC ? ptx_of_fat_binary(wrapper->data) : std::string();
}

std::string ptx_of_image(const void* image) {
  uint32_t magic;
  std::memcpy(&magic, image, sizeof magic);
  if (magic == static_cast<uint32_t>(WRAPPER_MAGIC)) {
    return extract_ptx(image);
  }
  if (magic == FATBIN_MAGIC) {
    return ptx_of_fat_binary(static_cast<const uint8_t*>(image));
  }
  std::string text = static_cast<const char*>(image);
  return text.find(".version") == std::string::npos ? std::string() : text;
}

Binary* Runtime::add_binary(std::string ptx) {
  std::lock_guard lock(mutex_);
  binaries_.push_back(std::make_unique<Binary>());
  binaries_.back()->ptx = std::move(ptx);
  return binaries_.back().get();
}

void Runtime::remove_binary(Binary* binary, bool process_ends) {
  if (process_ends) {
    InterruptGuard::flag() = true;  // a kernel that still runs shall not hold the end up
  }
  std::lock_guard launch_lock(launch_mutex_);
  std::lock_guard lock(mutex_);
  auto of_binary = [&](auto& entry) { return entry.second.binary == binary; };
  std::erase_if(functions_, of_binary);
  std::erase_if(variables_, of_binary);
  for (auto& [name, function] : binary->functions) {
    handles_.erase(function.get());
  }
  if (binary->module) {
    for (auto& [name, symbol] : binary->module->symbols) {
      regions_.remove(reinterpret_cast<uint64_t>(symbol.address), name);
    }
  }
  std::erase_if(binaries_, [&](auto& b) { return b.get() == binary; });
}

bool Runtime::is_binary(const void* handle) {
  std::lock_guard lock(mutex_);
  return std::any_of(binaries_.begin(), binaries_.end(),
                     [&](auto& b) { return b.get() == handle; });
}

void Runtime::add_function(Binary* binary, const void* host, const char* name) {
  std::lock_guard lock(mutex_);
  functions_[host] = {binary, name};
}

void Runtime::add_variable(Binary* binary, const void* host, const char* name) {
  std::lock_guard lock(mutex_);
  variables_[host] = {binary, name};
}

// Parses the module's PTX and gives its variables their memory. Called with mutex_ held.
Module& Runtime::parse(Binary& binary) {
  if (binary.module) {
    return *binary.module;
  }
  if (binary.ptx.empty()) {
    throw ptx::ParseError(
        "the object holds no PTX; compile it with -gencode arch=compute_90a,code=compute_90a "
        "--no-compress");
  }
  auto module = std::make_unique<Module>();
  std::vector<Region> regions;
  module->ptx = ptx::parse(binary.ptx);
  for (const ptx::Variable& v : module->ptx->globals) {
    if (v.space != ptx::Space::Global && v.space != ptx::Space::Const) {
      continue;
    }
    uint64_t align = std::max<uint64_t>(v.align, 256);
    module->storage.push_back(std::make_unique<uint8_t[]>(v.bytes + 2 * align));
    uint64_t address = reinterpret_cast<uint64_t>(module->storage.back().get());
    address = (address + align - 1) / align * align;
    uint8_t* at = reinterpret_cast<uint8_t*>(address);
    std::copy(v.init.begin(), v.init.end(), at);
    module->symbols[v.name] = {at, v.bytes};
    regions.push_back({address, v.bytes, v.name, "a variable of the module",
                       v.space == ptx::Space::Const ? WBSIM_IN : WBSIM_INOUT});
  }
  for (const ptx::Variable& v : module->ptx->globals) {
    for (const ptx::Variable::Fixup& fix : v.fixups) {
      auto target = module->symbols.find(fix.symbol);
      if (target == module->symbols.end()) {
        throw ptx::ParseError("variable '" + v.name + "' holds the address of '" + fix.symbol +
                              "', which is not supported");
      }
      uint64_t value = reinterpret_cast<uint64_t>(target->second.address) + fix.add;
      std::memcpy(module->symbols[v.name].address + fix.at, &value, sizeof value);
    }
  }
  for (Region& region : regions) {
    regions_.add(std::move(region));
  }
  binary.entries = entry_directives(binary.ptx);
  binary.module = std::move(module);
  return *binary.module;
}

Module& Runtime::module_of(Binary& binary) {
  std::lock_guard lock(mutex_);
  return parse(binary);
}

// Called with mutex_ held.
Function& Runtime::function_in(Binary& binary, const std::string& name) {
  parse(binary);
  std::unique_ptr<Function>& function = binary.functions[name];
  if (!function) {
    function = std::make_unique<Function>();
    function->binary = &binary;
    function->name = name;
    function->directive = binary.entries[name];
    std::copy_n(function->directive.cluster, 3, function->cluster);
    handles_[function.get()] = function.get();
  }
  return *function;
}

Function* Runtime::find_function(const void* host_or_handle) {
  std::lock_guard lock(mutex_);
  if (auto handle = handles_.find(host_or_handle); handle != handles_.end()) {
    return handle->second;
  }
  auto found = functions_.find(host_or_handle);
  return found == functions_.end() ? nullptr
                                   : &function_in(*found->second.binary, found->second.name);
}

Function* Runtime::find_function(Binary& binary, const std::string& name) {
  std::lock_guard lock(mutex_);
  parse(binary);
  return binary.entries.count(name) ? &function_in(binary, name) : nullptr;
}

std::vector<Function*> Runtime::functions_of(Binary& binary) {
  std::lock_guard lock(mutex_);
  parse(binary);
  std::vector<Function*> all;
  for (auto& [name, directive] : binary.entries) {
    all.push_back(&function_in(binary, name));
  }
  return all;
}

Kernel& Runtime::kernel_of(Function& function) {
  std::lock_guard lock(mutex_);
  if (!function.kernel) {
    function.kernel = &wbsim::kernel_of(parse(*function.binary), function.name);
  }
  return *function.kernel;
}

const Module::Symbol* Runtime::find_variable(const void* host) {
  std::unique_lock lock(mutex_);
  auto found = variables_.find(host);
  if (found == variables_.end()) {
    return nullptr;
  }
  Named named = found->second;
  lock.unlock();
  return find_variable(*named.binary, named.name);
}

const Module::Symbol* Runtime::find_variable(Binary& binary, const std::string& name) {
  std::lock_guard lock(mutex_);
  Module& module = parse(binary);
  auto symbol = module.symbols.find(name);
  return symbol == module.symbols.end() ? nullptr : &symbol->second;
}

}  // namespace wbsim
