#include "counting/units.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

namespace wbsim {
namespace {

bool has(const ptx::Instruction& inst, std::string_view modifier) {
  return std::find(inst.mods.begin(), inst.mods.end(), modifier) != inst.mods.end();
}

bool has_any(const ptx::Instruction& inst, std::initializer_list<std::string_view> modifiers) {
  return std::any_of(modifiers.begin(), modifiers.end(),
                     [&](std::string_view m) { return has(inst, m); });
}

bool is_double(const ptx::Instruction& inst) { return has(inst, "f64"); }

bool is_half(const ptx::Instruction& inst) {
  return has_any(inst, {"f16", "f16x2", "bf16", "bf16x2"});
}

// Of arithmetic: by its type.
Unit by_type(const ptx::Instruction& inst) {
  return is_double(inst)                   ? Unit::Fp64
         : is_half(inst)                   ? Unit::Fp16
         : has_any(inst, {"f32", "f32x2"}) ? Unit::Fp32
                                           : Unit::Integer;
}

bool is_float(const ptx::Instruction& inst) { return by_type(inst) != Unit::Integer; }

enum class Rule : uint8_t { ByType, Compare, Convert, Divide, Special, Tensor, Memory, Control };

const std::unordered_map<std::string_view, Rule>& rules() {
  static const std::unordered_map<std::string_view, Rule> table = [] {
    std::unordered_map<std::string_view, Rule> t;
    auto all = [&](Rule rule, std::initializer_list<std::string_view> opcodes) {
      for (std::string_view opcode : opcodes) {
        t[opcode] = rule;
      }
    };
    all(Rule::ByType, {"add", "sub", "mul", "fma", "mad", "copysign", "addc", "subc", "madc"});
    all(Rule::Compare, {"min", "max", "setp", "set", "selp", "slct", "abs", "neg", "testp"});
    all(Rule::Convert, {"cvt"});
    all(Rule::Divide, {"div"});
    all(Rule::Special, {"ex2", "lg2", "sin", "cos", "tanh", "rcp", "rsqrt", "sqrt"});
    all(Rule::Tensor, {"mma", "wmma", "wgmma"});
    all(Rule::Memory, {"ld", "ldu", "st", "atom", "red", "ldmatrix", "stmatrix", "cp", "shfl",
                       "mbarrier", "prefetch", "prefetchu", "discard", "multimem", "tensormap"});
    all(Rule::Control,
        {"bra", "brx", "call", "ret", "exit", "bar", "barrier", "membar", "fence", "trap", "brkpt",
         "nanosleep", "griddepcontrol", "setmaxnreg", "elect", "activemask", "pmevent"});
    return t;
  }();
  return table;
}

// Opcodes that leave nothing in machine code, or a move at most.
bool is_free(const ptx::Instruction& inst) {
  return inst.opcode == "mov" || inst.opcode == "cvta" || inst.opcode == "isspacep" ||
         inst.opcode == "mapa" || inst.opcode == "getctarank" || inst.opcode == "createpolicy" ||
         inst.opcode == "applypriority" || inst.opcode == "alloca" || inst.opcode == "stacksave" ||
         inst.opcode == "stackrestore";
}

}  // namespace

Unit unit_of(const InstInfo& info) {
  const ptx::Instruction& inst = *info.source;
  if (is_free(inst) || info.space == ptx::Space::Param || info.space == ptx::Space::Const) {
    return Unit::None;
  }
  const auto found = rules().find(inst.opcode);
  if (found == rules().end()) {
    return Unit::Integer;  // logic, shifts, bits, votes, video instructions
  }
  switch (found->second) {
    case Rule::ByType:
      return by_type(inst);
    case Rule::Compare:  // single precision is compared by the unit of the integers
      return is_double(inst) ? Unit::Fp64 : is_half(inst) ? Unit::Fp16 : Unit::Integer;
    case Rule::Convert:
      return has_any(inst, {"f64", "s64", "u64"}) && is_float(inst) ? Unit::SpecialFunction
                                                                    : Unit::Integer;
    case Rule::Divide:
      return is_float(inst) ? by_type(inst) : Unit::Integer;
    case Rule::Special:
      return Unit::SpecialFunction;
    case Rule::Tensor:
      return info.flops > 0 ? Unit::Tensor : info.bytes > 0 ? Unit::Memory : Unit::Control;
    case Rule::Memory:
      return Unit::Memory;
    case Rule::Control:
      return Unit::Control;
  }
  return Unit::None;
}

uint32_t special_functions_of(const InstInfo& info) {
  const ptx::Instruction& inst = *info.source;
  const auto found = rules().find(inst.opcode);
  if (found == rules().end() || (found->second != Rule::Special && found->second != Rule::Divide) ||
      !is_float(inst)) {
    return 0;
  }
  return has_any(inst, {"f16x2", "bf16x2"}) ? 2 : 1;
}

}  // namespace wbsim
