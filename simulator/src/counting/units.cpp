#include "counting/units.h"

#include <algorithm>
#include <string_view>

#include "decode/opcode.h"

namespace wbsim {
namespace {

bool has_any(const ptx::Instruction& inst, std::initializer_list<std::string_view> modifiers) {
  return std::any_of(modifiers.begin(), modifiers.end(),
                     [&](std::string_view m) { return has(inst, m); });
}

bool is_double(const ptx::Instruction& inst) { return has(inst, "f64"); }

bool is_half(const ptx::Instruction& inst) {
  return has_any(inst, {"f16", "f16x2", "bf16", "bf16x2"});
}

// For arithmetic: by its type.
Unit by_type(const ptx::Instruction& inst) {
  return is_double(inst)                   ? Unit::Fp64
         : is_half(inst)                   ? Unit::Fp16
         : has_any(inst, {"f32", "f32x2"}) ? Unit::Fp32
                                           : Unit::Integer;
}

bool is_float(const ptx::Instruction& inst) { return by_type(inst) != Unit::Integer; }

}  // namespace

Unit unit_of(const InstInfo& info) {
  const ptx::Instruction& inst = *info.source;
  if (!info.opcode || info.space == ptx::Space::Param || info.space == ptx::Space::Const) {
    return Unit::None;
  }
  switch (info.opcode->unit) {
    case UnitRule::Free:
      return Unit::None;
    case UnitRule::Integer:
      return Unit::Integer;
    case UnitRule::ByType:
      return by_type(inst);
    case UnitRule::Compare:  // single precision is compared by the integer unit
      return is_double(inst) ? Unit::Fp64 : is_half(inst) ? Unit::Fp16 : Unit::Integer;
    case UnitRule::Convert:
      return has_any(inst, {"f64", "s64", "u64"}) && is_float(inst) ? Unit::SpecialFunction
                                                                    : Unit::Integer;
    case UnitRule::Divide:
      return is_float(inst) ? by_type(inst) : Unit::Integer;
    case UnitRule::Special:
      return Unit::SpecialFunction;
    case UnitRule::Tensor:
      return info.flops > 0 ? Unit::Tensor : info.bytes > 0 ? Unit::Memory : Unit::Control;
    case UnitRule::Memory:
      return Unit::Memory;
    case UnitRule::Control:
      return Unit::Control;
  }
  return Unit::None;
}

uint32_t special_functions_of(const InstInfo& info) {
  const ptx::Instruction& inst = *info.source;
  bool special = info.opcode &&
                 (info.opcode->unit == UnitRule::Special || info.opcode->unit == UnitRule::Divide);
  if (!special || !is_float(inst)) {
    return 0;
  }
  return has_any(inst, {"f16x2", "bf16x2"}) ? 2 : 1;
}

}  // namespace wbsim
