// builtins.h: the functions that kernels call without defining them: printf, assert, malloc, free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "exec/memory.h"
#include "exec/warp.h"

namespace wbsim {

struct Warp;
struct Inst;

constexpr size_t MAX_BUILTIN_ARGS = 8;

struct Builtin {
  const char* name;
  // Runs it for one lane. Throws Finding.
  uint64_t (*run)(Warp& w, const Inst* in, int lane, const uint64_t* args);
  bool uses_heap = false;
};

const Builtin* find_builtin(const std::string& name);  // nullptr: there is none

// The memory from which malloc in a kernel allocates. The first kernel that uses it fixes its size.
Region device_heap();
// Reports an access, "write of 4 bytes", to bytes of it that are not in use.
void check_heap(const Warp& w, const Inst* in, int lane, uint64_t address, uint64_t bytes,
                const std::string& what);
bool device_heap_exists();  // some kernel has used it: others may hold pointers into it
void set_device_heap_bytes(uint64_t bytes);  // of cudaLimitMallocHeapSize
uint64_t device_heap_bytes();

}  // namespace wbsim
