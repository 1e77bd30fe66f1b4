// module_table.cpp: modules are parsed, and kernels decoded, on first use.

#include "runtime/module_table.h"

#include <dlfcn.h>

#include <algorithm>

#include "decode/functions.h"
#include "decode/module.h"
#include "decode/names.h"

namespace wbsim {

// The kernel of that name, or nullptr.
static const ptx::Function* entry_named(const Module& module, const std::string& name) {
  auto found = module.ptx->functions.find(name);
  bool is_kernel = found != module.ptx->functions.end() && found->second.is_entry;
  return is_kernel ? &found->second : nullptr;
}

Binary* ModuleTable::add(PtxImage image) {
  std::lock_guard lock(mutex_);
  binaries_.push_back(std::make_unique<Binary>());
  binaries_.back()->image = std::move(image);
  return binaries_.back().get();
}

void ModuleTable::remove(Binary* binary) {
  std::lock_guard lock(mutex_);
  auto of_binary = [&](auto& entry) { return entry.second.binary == binary; };
  std::erase_if(functions_, of_binary);
  std::erase_if(variables_, of_binary);
  for (auto& [name, function] : binary->functions) {
    handles_.erase(function.get());
  }
  forget_variables(*binary);
  std::erase_if(binaries_, [&](auto& b) { return b.get() == binary; });
}

// Called with mutex_ held.
void ModuleTable::forget_variables(Binary& binary) {
  if (binary.module) {
    for (auto& [name, symbol] : binary.module->symbols) {
      memory_.remove_region(reinterpret_cast<uint64_t>(symbol.address), name);
    }
  }
}

// The module of a library's file all of whose kernels and variables are in another module.
// Called with mutex_ held.
Binary* ModuleTable::binary_with(const std::string& library, const Module& module) {
  std::map<Binary*, bool> fits;
  auto note = [&](const void* host, Binary* binary, bool there) {
    Dl_info info{};
    if (dladdr(host, &info) && info.dli_fname && library == info.dli_fname) {
      fits[binary] = (!fits.contains(binary) || fits[binary]) && there;
    }
  };
  for (auto& [host, named] : functions_) {
    note(host, named.binary, entry_named(module, named.name) != nullptr);
  }
  for (auto& [host, named] : variables_) {
    note(host, named.binary, module.symbols.contains(named.name));
  }
  auto found =
      std::find_if(fits.begin(), fits.end(), [](auto& candidate) { return candidate.second; });
  return found == fits.end() ? nullptr : found->first;
}

std::string ModuleTable::replace(const std::string& library, const std::string& ptx) {
  std::lock_guard lock(mutex_);
  std::vector<Region> regions;
  std::unique_ptr<Module> module = load_module(ptx, regions);
  Binary* binary = binary_with(library, *module);
  if (!binary || !binary->managed.empty()) {
    throw ptx::ParseError(binary ? "the module has __managed__ variables, whose addresses are known"
                                 : "no module of " + library + " has just these kernels");
  }
  for (auto& [name, function] : binary->functions) {
    if (function->kernel && entry_named(*module, name)) {
      wbsim::kernel_of(*module, name).dynamic_shared_limit = function->kernel->dynamic_shared_limit;
    }
  }
  // Nothing fails from here on.
  forget_variables(*binary);
  binary->module = std::move(module);
  std::string before = std::exchange(binary->image.ptx, ptx);
  for (Region& region : regions) {
    memory_.add_region(std::move(region));
  }
  for (auto& [name, function] : binary->functions) {
    function->kernel = nullptr;
    function->ptx = entry_named(*binary->module, name);
  }
  return before;
}

std::string ModuleTable::ptx_of(uint64_t number) {
  std::lock_guard lock(mutex_);
  for (auto& binary : binaries_) {
    if (binary->module && binary->module->number == number) {
      return binary->module->ptx->text;
    }
  }
  return {};
}

bool ModuleTable::is_binary(const void* handle) {
  std::lock_guard lock(mutex_);
  return std::any_of(binaries_.begin(), binaries_.end(),
                     [&](auto& b) { return b.get() == handle; });
}

void ModuleTable::add_function(Binary* binary, const void* host, const char* name) {
  std::lock_guard lock(mutex_);
  functions_[host] = {binary, name};
}

void ModuleTable::add_variable(Binary* binary, const void* host, const char* name) {
  std::lock_guard lock(mutex_);
  variables_[host] = {binary, name};
}

// Called with mutex_ held.
Module& ModuleTable::parse(Binary& binary) {
  if (!binary.module) {
    if (binary.image.ptx.empty()) {
      throw ptx::ParseError(binary.image.problem);
    }
    std::vector<Region> regions;
    binary.module = load_module(binary.image.ptx, regions);
    for (Region& region : regions) {
      memory_.add_region(std::move(region));
    }
  }
  return *binary.module;
}

Module& ModuleTable::module_of(Binary& binary) {
  std::lock_guard lock(mutex_);
  return parse(binary);
}

// Called with mutex_ held.
Function& ModuleTable::function_in(Binary& binary, const std::string& name) {
  const ptx::Function* entry = entry_named(parse(binary), name);
  if (!entry) {
    throw ptx::ParseError("the module has no kernel '" + name + "'");
  }
  std::unique_ptr<Function>& function = binary.functions[name];
  if (!function) {
    function = std::make_unique<Function>();
    function->binary = &binary;
    function->name = name;
    function->ptx = entry;
    std::copy_n(entry->required_cluster, 3, function->cluster);
    handles_[function.get()] = function.get();
  }
  return *function;
}

Function* ModuleTable::find_function(const void* host_or_handle) {
  std::lock_guard lock(mutex_);
  if (auto handle = handles_.find(host_or_handle); handle != handles_.end()) {
    return handle->second;
  }
  auto found = functions_.find(host_or_handle);
  return found == functions_.end() ? nullptr
                                   : &function_in(*found->second.binary, found->second.name);
}

Function* ModuleTable::find_function(Binary& binary, const std::string& name) {
  std::lock_guard lock(mutex_);
  return entry_named(parse(binary), name) ? &function_in(binary, name) : nullptr;
}

std::vector<Function*> ModuleTable::functions_of(Binary& binary) {
  std::lock_guard lock(mutex_);
  std::vector<Function*> all;
  for (auto& [name, function] : parse(binary).ptx->functions) {
    if (function.is_entry) {
      all.push_back(&function_in(binary, name));
    }
  }
  return all;
}

Kernel& ModuleTable::kernel_of(Function& function) {
  std::lock_guard lock(mutex_);
  if (!function.kernel) {
    function.kernel = &wbsim::kernel_of(parse(*function.binary), function.name);
  }
  return *function.kernel;
}

const Module::Symbol* ModuleTable::find_variable(const void* host) {
  std::unique_lock lock(mutex_);
  auto found = variables_.find(host);
  if (found == variables_.end()) {
    return nullptr;
  }
  Named named = found->second;
  lock.unlock();
  return find_variable(*named.binary, named.name);
}

std::string ModuleTable::variable_around(const void* host) {
  std::lock_guard lock(mutex_);
  auto next = variables_.upper_bound(host);
  if (next == variables_.begin()) {
    return {};
  }
  const auto& [first, named] = *std::prev(next);
  const auto offset =
      static_cast<uint64_t>(static_cast<const char*>(host) - static_cast<const char*>(first));
  if (!named.binary->module) {
    return offset == 0 ? pretty_name(named.name) : "";
  }
  auto symbol = named.binary->module->symbols.find(named.name);
  const bool inside =
      symbol != named.binary->module->symbols.end() && offset < symbol->second.bytes;
  return inside ? pretty_name(named.name) : "";
}

const Module::Symbol* ModuleTable::find_variable(Binary& binary, const std::string& name) {
  std::lock_guard lock(mutex_);
  Module& module = parse(binary);
  auto symbol = module.symbols.find(name);
  return symbol == module.symbols.end() ? nullptr : &symbol->second;
}

}  // namespace wbsim
