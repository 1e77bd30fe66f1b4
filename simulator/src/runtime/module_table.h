// module_table.h: the modules of the process, their kernels and variables.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "decode/program.h"
#include "ptx/fat_binary.h"
#include "runtime/allocations.h"
#include "runtime/fork.h"

namespace wbsim {

struct Function;

// One loaded module: of the program itself, or loaded by it (cuModuleLoadData).
// PTX is parsed when something in the module is first requested.
struct Binary {
  PtxImage image;
  std::unique_ptr<Module> module;
  std::map<std::string, std::unique_ptr<Function>> functions;  // those requested so far
  std::vector<std::pair<void**, std::string>> managed;  // host pointers to __managed__ variables
};

// A kernel with what the host has set for it: what cudaKernel_t, cudaFunction_t, CUfunction and
// CUkernel point to.
struct Function {
  Binary* binary = nullptr;
  std::string name;
  Kernel* kernel = nullptr;  // nullptr until first used
  const ptx::Function* ptx = nullptr;
  int carveout = -1;  // cudaFuncAttributePreferredSharedMemoryCarveout
  int scheduling_policy = 0;
  bool non_portable_cluster = false;
  int cluster[3] = {0, 0, 0};  // cudaFuncAttributeRequiredCluster*, or from the PTX
};

// Unknown names give nullptr; PTX that cannot be parsed throws ptx::ParseError.
class ModuleTable {
 public:
  explicit ModuleTable(Allocations& memory) : memory_(memory) {}

  Binary* add(PtxImage image);
  void remove(Binary* binary);  // none of its kernels may be running
  // Gives the module of a library's file that has these kernels other code, and its variables their
  // initial values; what the host has set for a kernel stays. None of its kernels may be running.
  // Returns the PTX that it had. Throws ptx::ParseError if there is no such module.
  std::string replace(const std::string& library, const std::string& ptx);
  std::string ptx_of(uint64_t number);  // of a module; "" if it has been replaced or unloaded
  void add_function(Binary* binary, const void* host, const char* name);
  void add_variable(Binary* binary, const void* host, const char* name);
  Function* find_function(const void* host_or_handle);
  Function* find_function(Binary& binary, const std::string& name);
  const Module::Symbol* find_variable(const void* host);
  // The name of the variable of the device whose stand-in in host code is around an address, or "".
  std::string variable_around(const void* host);
  const Module::Symbol* find_variable(Binary& binary, const std::string& name);
  std::vector<Function*> functions_of(Binary& binary);
  Module& module_of(Binary& binary);  // parses it
  Kernel& kernel_of(Function& function);
  bool is_binary(const void* handle);

 private:
  Module& parse(Binary& binary);
  Function& function_in(Binary& binary, const std::string& name);
  Binary* binary_with(const std::string& library, const Module& module);
  void forget_variables(Binary& binary);

  Allocations& memory_;
  ForkMutex<LockOrder::Modules> mutex_;
  std::vector<std::unique_ptr<Binary>> binaries_;
  struct Named {
    Binary* binary;
    std::string name;
  };
  std::map<const void*, Named> functions_;    // by host address
  std::map<const void*, Function*> handles_;  // live Function objects
  std::map<const void*, Named> variables_;
};

}  // namespace wbsim
