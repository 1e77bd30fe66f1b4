// program.h: decoded kernels, and the module that contains them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "decode/inst.h"
#include "ptx/ptx.h"

namespace wbsim {

enum class Special : uint8_t {
  TidX,
  TidY,
  TidZ,
  NtidX,
  NtidY,
  NtidZ,
  CtaidX,
  CtaidY,
  CtaidZ,
  NctaidX,
  NctaidY,
  NctaidZ,
  LaneId,
  WarpId,
  NWarpId,
  SmId,
  NSmId,
  GridId,
  LaneMaskEq,
  LaneMaskLe,
  LaneMaskLt,
  LaneMaskGe,
  LaneMaskGt,
  Clock,
  ClockHi,
  Clock64,
  GlobalTimer,
  GlobalTimerLo,
  GlobalTimerHi,
  DynamicSmemSize,
  TotalSmemSize,
  WarpSize,
  ClusterIdX,
  ClusterIdY,
  ClusterIdZ,
  ClusterCtaidX,
  ClusterCtaidY,
  ClusterCtaidZ,
  ClusterCtarank,
  NClusterIdX,
  NClusterIdY,
  NClusterIdZ,
  ClusterNctaidX,
  ClusterNctaidY,
  ClusterNctaidZ,
  ClusterNctarank,
  IsExplicitCluster,
  AggrSmemSize,
  EnvReg1,
  EnvReg2,
};

struct Module;

// A place in a warp's frame.
struct Register {
  uint32_t slot;
  int lane_bytes;  // 0: a predicate
};

// A function whose code is part of a kernel: the kernel itself, or a device function it may call.
//
// Each has its own registers in the warp's frame; a lane is inside one activation of it at a time,
// or saves them. Its parameters, return value and variables are in a frame on the lane's stack in
// local memory; the kernel's own frame starts at 0.
struct FunctionCode {
  const ptx::Function* source = nullptr;
  uint32_t first = 0;                                                // in Kernel::code
  std::map<std::string, std::pair<ptx::Space, uint64_t>> addresses;  // of params and variables
  struct Place {
    uint32_t offset, bytes;  // in the stack frame
  };
  std::vector<Place> params, returns;
  std::map<std::string, Place> variables;  // what it declares, and what it passes to others
  uint32_t stack_bytes = 0;                // of its stack frame; starts with where to return to
  uint32_t stack_slot = 0;                 // register: the offset of the lane's stack frame
  std::map<std::string, std::vector<uint32_t>> targets;  // of its .branchtargets, once used
  std::vector<uint32_t> slots;                           // of its PTX registers
  std::vector<bool> accumulators;                        // which of them wgmma writes
  std::vector<Register> registers;                       // every slot, once
  std::vector<Register> unset;  // those that may be read before they are written
  struct LocalAddress {
    uint32_t slot;
    int lane_bytes;
    uint64_t offset;
  };
  std::vector<LocalAddress> local_addresses;  // registers that a call sets
  bool recursive = false;                     // may be called while it is running

  bool is_kernel() const { return source->is_entry; }
};

// A call instruction.
struct CallSite {
  const FunctionCode* caller = nullptr;
  const FunctionCode* callee = nullptr;            // nullptr: not known until it runs
  std::vector<FunctionCode::Place> args, returns;  // in the caller's stack frame
};

// What an address is computed from (decode/bases.h): a variable in shared memory or of the module,
// or one of the kernel's parameters, the one that is a pointer.
struct Base {
  std::string variable;              // its name; empty: none
  uint32_t first = 0, last = 0;      // in shared memory: offsets; last: UINT32_MAX if dynamic
  std::vector<uint32_t> parameters;  // offsets of 64-bit ones that the address depends on
  bool operator==(const Base& other) const = default;
};

struct Kernel {
  std::string name;    // mangled
  std::string pretty;  // demangled, without its argument list
  const Module* module = nullptr;
  const ptx::Function* function = nullptr;
  std::vector<std::unique_ptr<FunctionCode>> functions;  // the kernel itself is the last
  std::vector<CallSite> calls;
  std::vector<Inst> code;
  std::vector<InstInfo> info;  // parallel to code
  std::vector<std::unique_ptr<uint32_t[]>> lists;
  std::vector<uint8_t> frame;   // the frame at the start: registers, then constants in place
  uint32_t register_bytes = 0;  // of the frame
  struct SpecialSlot {
    Special special;
    uint32_t slot;
    int lane_bytes;  // 0: a predicate
  };
  std::vector<SpecialSlot> specials;
  std::vector<std::pair<uint32_t, uint32_t>> params;  // offset, bytes
  uint32_t param_bytes = 0;
  uint32_t shared_bytes = 0;               // static
  std::map<std::string, uint64_t> shared;  // addresses of the module's shared variables
  uint32_t local_bytes = 0;                // per lane; unless the stack is open, the deepest stack
  bool open_stack = false;                 // the stack's depth is not known: recursion, alloca
  bool uses_heap = false;                  // calls malloc
  bool uses_products = false;              // of wgmma
  std::vector<Base> bases;                 // see InstInfo::base
  std::vector<Register> operands;          // see InstInfo
  int max_threads = 1024;
  std::optional<uint64_t> dynamic_shared_limit;  // cudaFuncAttributeMaxDynamicSharedMemorySize

  const FunctionCode& body() const { return *functions.back(); }
  const Inst* entry() const { return code.data() + body().first; }
};

struct Module {
  uint64_t number = 0;  // of the process's modules; never used again
  std::unique_ptr<ptx::Module> ptx;
  struct Symbol {
    uint8_t* address;
    uint64_t bytes;
  };
  std::map<std::string, Symbol> symbols;  // .global and .const variables
  std::vector<std::unique_ptr<void, void (*)(void*)>> storage;
  std::map<std::string, std::unique_ptr<Kernel>> kernels;  // decoded on first use

  // A function by its name or its alias, or nullptr. Its address is its value as a pointer.
  const ptx::Function* find_function(const std::string& name) const;
};

// Decodes a kernel on first use. Throws ptx::ParseError for invalid PTX; an instruction that the
// simulator does not implement is decoded to one that stops the launch when it is reached.
Kernel& kernel_of(Module& module, const std::string& name);

}  // namespace wbsim
