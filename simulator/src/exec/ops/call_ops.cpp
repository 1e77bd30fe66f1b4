// call_ops.cpp: calls of device functions, through names and through pointers, and returns.
//
// A call copies the arguments from the caller's stack frame into the callee's, and a return copies
// the result back (PTX ISA, Abstracting the ABI). Each lane has its own stack, so lanes may be in
// different functions, and in activations at different depths.

#include <algorithm>
#include <cstdio>

#include "checks/checker.h"
#include "checks/finding.h"
#include "decode/functions.h"
#include "decode/names.h"
#include "exec/block.h"
#include "exec/builtins.h"
#include "exec/control.h"
#include "exec/lanes.h"
#include "exec/ops/dispatch.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

uint8_t* stack_frame(const Warp& w, int lane, uint32_t offset) {
  return w.local + size_t{w.block->local_bytes} * lane + offset;
}

// Under initcheck, which values are undefined is passed on with them; otherwise nullptr.
UndefinedValues* undefined_values(const Warp& w) {
  return w.unwritten_local ? &w.block->cluster->checker->undefined() : nullptr;
}

// The registers of one lane, before its function is entered again.
void save_registers(Warp& w, const FunctionCode& function, int lane) {
  std::vector<uint8_t>& to = w.saved[lane];
  for (auto [slot, bytes] : function.registers) {
    if (bytes == 0) {
      to.push_back((w.pred(slot) >> lane) & 1);
    } else {
      const uint8_t* from = w.frame + slot + lane * bytes;
      to.insert(to.end(), from, from + bytes);
    }
  }
}

// False: that much has not been saved.
bool restore_registers(Warp& w, const FunctionCode& function, int lane) {
  std::vector<uint8_t>& from = w.saved[lane];
  size_t wanted = 0;
  for (auto [slot, bytes] : function.registers) {
    wanted += std::max(bytes, 1);
  }
  if (from.size() < wanted) {
    return false;
  }
  for (size_t i = function.registers.size(); i-- > 0;) {
    auto [slot, bytes] = function.registers[i];
    if (bytes == 0) {
      w.pred(slot) = (w.pred(slot) & ~(1u << lane)) | static_cast<Mask>(from.back()) << lane;
    } else {
      std::memcpy(w.frame + slot + lane * bytes, from.data() + from.size() - bytes, bytes);
    }
    from.resize(from.size() - std::max(bytes, 1));
  }
  if (UndefinedValues* undefined = undefined_values(w)) {
    undefined->restored(w, function, lane);
  }
  return true;
}

// Between two stack frames of a lane.
void copy_values(Warp& w, int lane, const std::vector<FunctionCode::Place>& to, uint32_t to_frame,
                 const std::vector<FunctionCode::Place>& from, uint32_t from_frame) {
  for (size_t i = 0; i < std::min(to.size(), from.size()); i++) {
    const uint32_t bytes = std::min(to[i].bytes, from[i].bytes);
    const uint32_t there = to_frame + to[i].offset, here = from_frame + from[i].offset;
    std::memcpy(stack_frame(w, lane, there), stack_frame(w, lane, here), bytes);
    if (UndefinedValues* undefined = undefined_values(w)) {
      undefined->copy_local(w, lane, there, here, bytes);
    }
  }
}

// Moves the end of a lane's stack.
void grow_stack(Warp& w, const Inst* in, int lane, uint64_t top) {
  if (top > w.block->local_bytes) {
    Finding f = finding_at(w, in, lane, "memcheck",
                           "stack overflow: the thread's calls need more than the " +
                               std::to_string(w.block->local_bytes) + " bytes of its stack");
    f.hint =
        "is this recursion endless? cudaDeviceSetLimit(cudaLimitStackSize) makes the stack larger";
    throw f;
  }
  w.stack_top[lane] = static_cast<uint32_t>(top);
}

// Makes one lane enter a function.
void enter(Warp& w, const Inst* in, int lane, const CallSite& site, const FunctionCode& callee) {
  uint32_t caller_frame = w.reg<uint32_t>(site.caller->stack_slot)[lane];
  uint32_t frame = w.stack_top[lane];
  grow_stack(w, in, lane, uint64_t{frame} + callee.stack_bytes);
  if (site.caller->recursive) {
    save_registers(w, *site.caller, lane);
  }
  if (UndefinedValues* undefined = undefined_values(w)) {
    undefined->enter(w, callee, lane, frame);
  }
  copy_values(w, lane, callee.params, frame, site.args, caller_frame);
  uint32_t index = static_cast<uint32_t>(in - w.block->kernel->code.data());
  std::memcpy(stack_frame(w, lane, frame), &index, sizeof index);
  w.reg<uint32_t>(callee.stack_slot)[lane] = frame;
  for (auto& local : callee.local_addresses) {
    uint64_t address = frame + local.offset;
    std::memcpy(w.frame + local.slot + lane * local.lane_bytes, &address, local.lane_bytes);
  }
}

// inst.imm: the call site.
const Inst* call(Warp& w, const Inst* in, Mask m) {
  const Kernel& kernel = *w.block->kernel;
  const CallSite& site = kernel.calls[in->imm];
  for_lanes(m, [&](int l) { enter(w, in, l, site, *site.callee); });
  return branch(w, in, m, kernel.code.data() + site.callee->first);
}

// inst.a: slot of the function's address.
const Inst* call_pointer(Warp& w, const Inst* in, Mask m) {
  const Kernel& kernel = *w.block->kernel;
  const CallSite& site = kernel.calls[in->imm];
  const Inst* targets[LANES];
  for_lanes(m, [&](int l) {
    uint64_t address = w.reg<uint64_t>(in->a)[l];
    auto callee = std::find_if(kernel.functions.begin(), kernel.functions.end(), [&](auto& f) {
      return reinterpret_cast<uint64_t>(f->source) == address && !f->is_kernel();
    });
    if (callee == kernel.functions.end()) {
      char text[24];
      std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(address));
      throw finding_at(w, in, l, "memcheck",
                       std::string("call of the address ") + text +
                           ", which is not a device function of this module");
    }
    if ((*callee)->params.size() != site.args.size()) {
      throw finding_at(w, in, l, "memcheck",
                       "call of " + pretty_name((*callee)->source->name) + " with " +
                           std::to_string(site.args.size()) + " arguments; it takes " +
                           std::to_string((*callee)->params.size()));
    }
    enter(w, in, l, site, **callee);
    targets[l] = kernel.code.data() + (*callee)->first;
  });
  return scatter(w, in, m, targets);
}

// A function that every GPU has: the builtin is in inst.list.
const Inst* call_builtin(Warp& w, const Inst* in, Mask m) {
  const CallSite& site = w.block->kernel->calls[in->imm];
  const Builtin& builtin = *reinterpret_cast<const Builtin*>(in->list);
  for_lanes(m, [&](int l) {
    uint8_t* frame = stack_frame(w, l, w.reg<uint32_t>(site.caller->stack_slot)[l]);
    uint64_t args[MAX_BUILTIN_ARGS] = {};
    for (size_t i = 0; i < site.args.size(); i++) {
      std::memcpy(&args[i], frame + site.args[i].offset, std::min(site.args[i].bytes, 8u));
    }
    uint64_t result = builtin.run(w, in, l, args);
    if (!site.returns.empty()) {
      std::memcpy(frame + site.returns[0].offset, &result, std::min(site.returns[0].bytes, 8u));
      if (w.unwritten_local) {
        std::memset(w.unwritten_local + (frame - w.local) + site.returns[0].offset, 0,
                    site.returns[0].bytes);
      }
    }
  });
  return next(in);
}

const Inst* call_undefined(Warp& w, const Inst* in, Mask m) {
  const auto* callee = reinterpret_cast<const ptx::Function*>(in->list);
  Finding f = finding_at(w, in, __builtin_ctz(m), "unsupported",
                         "call of '" + pretty_name(callee->name) +
                             "', which this module declares but does not define");
  f.hint =
      "device code is not linked across files (-rdc): define the function in the file that calls "
      "it";
  throw f;
}

// The caller's variables in a call: `(param0, param1)`.
std::vector<FunctionCode::Place> places(Decode& d, const Operand& list) {
  std::vector<FunctionCode::Place> out;
  for (const Operand& item : list.items) {
    auto found = d.function.variables.find(item.symbol);
    if (found == d.function.variables.end()) {
      throw Unsupported{};  // an argument in a register
    }
    out.push_back(found->second);
  }
  return out;
}

// call (result), function, (arguments), prototype: only the function is always there.
void build_call(Decode& d) {
  d.take("uni");
  CallSite site;
  site.caller = &d.function;
  size_t at = 0;
  if (d.arg(0).kind == Operand::Vector) {
    site.returns = places(d, d.arg(at++));
  }
  const Operand& target = d.arg(at++);
  if (at < d.num_args() && d.arg(at).kind == Operand::Vector) {
    site.args = places(d, d.arg(at));
  }
  d.inst.imm = static_cast<int64_t>(d.kernel.calls.size());
  if (target.kind == Operand::Register) {
    d.inst.a = d.src(target, Type::U64);
    d.inst.run = call_pointer;
  } else {
    const ptx::Function* callee = d.kernel.module->find_function(target.symbol);
    if (!callee) {
      throw Unsupported{};
    }
    auto code = std::find_if(d.kernel.functions.begin(), d.kernel.functions.end(),
                             [&](auto& f) { return f->source == callee; });
    const Builtin* builtin = callee->defined ? nullptr : find_builtin(callee->name);
    if (code != d.kernel.functions.end() && !(*code)->is_kernel()) {
      site.callee = code->get();
      d.inst.run = call;
    } else if (builtin && site.args.size() <= MAX_BUILTIN_ARGS) {
      d.inst.list = reinterpret_cast<const uint32_t*>(builtin);
      d.inst.run = call_builtin;
      d.kernel.uses_heap |= builtin->uses_heap;
    } else if (!callee->defined) {
      d.inst.list = reinterpret_cast<const uint32_t*>(callee);
      d.inst.run = call_undefined;
    } else {
      throw Unsupported{};
    }
  }
  d.kernel.calls.push_back(std::move(site));
}

// ---- Returns ------------------------------------------------------------------------------------

const Inst* leave_kernel(Warp& w, const Inst* in, Mask m) { return exit_lanes(w, in, m); }

int64_t index_of(const FunctionCode& function, const Kernel& kernel) {
  int64_t index = 0;
  while (kernel.functions[index].get() != &function) {
    index++;
  }
  return index;
}

// inst.imm: the index of the function that returns.
const Inst* leave_function(Warp& w, const Inst* in, Mask m) {
  const Kernel& kernel = *w.block->kernel;
  const FunctionCode& callee = *kernel.functions[in->imm];
  const Inst* targets[LANES];
  for_lanes(m, [&](int l) {
    uint32_t offset = w.reg<uint32_t>(callee.stack_slot)[l];
    const uint8_t* frame = stack_frame(w, l, offset);
    uint32_t index;
    std::memcpy(&index, frame, sizeof index);
    bool valid = index < kernel.code.size() &&
                 (kernel.code[index].run == call || kernel.code[index].run == call_pointer);
    const CallSite* site = valid ? &kernel.calls[kernel.code[index].imm] : nullptr;
    valid = valid && (!site->callee || site->callee == &callee) &&
            (!site->caller->recursive || restore_registers(w, *site->caller, l));
    uint32_t caller_frame = valid ? w.reg<uint32_t>(site->caller->stack_slot)[l] : 0;
    if (!valid || uint64_t{caller_frame} + site->caller->stack_bytes > offset) {
      throw finding_at(w, in, l, "memcheck",
                       "the thread's stack is damaged: there is no call to return to");
    }
    copy_values(w, l, site->returns, caller_frame, callee.returns, offset);
    w.stack_top[l] = offset;
    targets[l] = kernel.code.data() + index + 1;
  });
  return scatter(w, in, m, targets);
}

void build_ret(Decode& d) {
  d.take("uni");
  if (d.function.is_kernel()) {
    d.inst.run = leave_kernel;
    return;
  }
  d.inst.imm = index_of(d.function, d.kernel);
  d.inst.run = leave_function;
}

// ---- Memory from the stack ----------------------------------------------------------------------
// It is after the frame of the activation that allocates it, until that returns or restores the end
// of the stack.

constexpr uint32_t STACK_ALIGN = 16;  // of frames

// inst.a: slot of the size, inst.imm: the alignment.
template <class U>
const Inst* allocate(Warp& w, const Inst* in, Mask m) {
  const uint64_t align = std::max<uint64_t>(in->imm, STACK_ALIGN);
  for_lanes(m, [&](int l) {
    uint64_t at = (w.stack_top[l] + align - 1) / align * align;
    uint64_t bytes = std::min<uint64_t>(w.reg<U>(in->a)[l], UINT32_MAX);
    grow_stack(w, in, l, at + (bytes + STACK_ALIGN - 1) / STACK_ALIGN * STACK_ALIGN);
    w.reg<U>(in->dst)[l] = static_cast<U>(at);
  });
  return next(in);
}

template <class U>
const Inst* save_stack(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) { w.reg<U>(in->dst)[l] = w.stack_top[l]; });
  return next(in);
}

// inst.imm: the index of the function, whose own frame stays.
template <class U>
const Inst* restore_stack(Warp& w, const Inst* in, Mask m) {
  const FunctionCode& function = *w.block->kernel->functions[in->imm];
  for_lanes(m, [&](int l) {
    uint64_t to = w.reg<U>(in->a)[l];
    uint64_t frame_end = w.reg<uint32_t>(function.stack_slot)[l] + uint64_t{function.stack_bytes};
    if (to < frame_end || to > w.stack_top[l]) {
      throw finding_at(w, in, l, "memcheck",
                       "stackrestore to an address that is not after the function's variables and "
                       "before the end of the stack");
    }
    w.stack_top[l] = static_cast<uint32_t>(to);
  });
  return next(in);
}

// The type of a stack address.
bool take_wide(Decode& d) {
  Type type = d.take_type();
  return type == Type::U64 ? true : type == Type::U32 ? false : throw Unsupported{};
}

void build_alloca(Decode& d) {
  bool wide = take_wide(d);
  Type type = wide ? Type::U64 : Type::U32;
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.imm = d.num_args() > 2 ? static_cast<int64_t>(d.arg(2).bits) : 0;
  d.inst.run = wide ? allocate<uint64_t> : allocate<uint32_t>;
}

void build_stacksave(Decode& d) {
  bool wide = take_wide(d);
  d.inst.dst = d.dst(0, wide ? Type::U64 : Type::U32);
  d.inst.run = wide ? save_stack<uint64_t> : save_stack<uint32_t>;
}

void build_stackrestore(Decode& d) {
  bool wide = take_wide(d);
  d.inst.a = d.src(0, wide ? Type::U64 : Type::U32);
  d.inst.imm = index_of(d.function, d.kernel);
  d.inst.run = wide ? restore_stack<uint64_t> : restore_stack<uint32_t>;
}

constexpr Opcode OPCODES[] = {
    {"alloca", build_alloca, UnitRule::Free, First::Other, Flow::Other},
    {"stacksave", build_stacksave, UnitRule::Free, First::Other, Flow::Other},
    {"stackrestore", build_stackrestore, UnitRule::Free, First::Other, Flow::Other},
    {"call", build_call, UnitRule::Control, First::Other, Flow::Other},
    {"ret", build_ret, UnitRule::Control, First::Other, Flow::Other},
};

}  // namespace

std::span<const Opcode> call_opcodes() { return OPCODES; }

}  // namespace wbsim
