// bases.cpp: follows the addresses of variables and the values of parameters through the registers
// of each function. What is not certain (a choice between two pointers) has no base.

#include "decode/bases.h"

#include <algorithm>
#include <set>

#include "exec/shared_window.h"

namespace wbsim {
namespace {

using ptx::Operand;

// What a value is computed from. In a sum and the like, one operand may be a pointer, and the others
// are distances from it: parameters that are no pointers do not matter.
struct Origin {
  enum Kind : uint8_t { Unset, Known, Unknown } kind = Unset;
  std::string variable;           // in shared memory, or of the module
  std::set<uint32_t> parameters;  // offsets of those of 64 bits

  bool operator==(const Origin&) const = default;
  bool is_number() const { return variable.empty() && parameters.empty(); }
};
const Origin UNKNOWN = {Origin::Unknown, {}, {}}, NUMBER = {Origin::Known, {}, {}};

// Of a value that depends on both.
Origin combined(const Origin& a, const Origin& b) {
  constexpr size_t MANY = 8;
  if (a.kind != Origin::Known || b.kind != Origin::Known) {
    return a.kind == Origin::Unknown || b.kind == Origin::Unknown ? UNKNOWN : Origin{};
  }
  if (!a.variable.empty() && !b.variable.empty() && a.variable != b.variable) {
    return UNKNOWN;
  }
  Origin out = a.variable.empty() ? b : a;
  out.parameters.insert(a.parameters.begin(), a.parameters.end());
  out.parameters.insert(b.parameters.begin(), b.parameters.end());
  return out.parameters.size() > MANY ? UNKNOWN : out;
}

// Of a value that is one or the other. The same pointer plus a step is still that pointer.
Origin either(const Origin& a, const Origin& b) {
  if (a.kind != Origin::Known || b.kind != Origin::Known) {
    return a.kind == Origin::Unset ? b : b.kind == Origin::Unset ? a : UNKNOWN;
  }
  auto contains = [](const Origin& more, const Origin& less) {
    return std::includes(more.parameters.begin(), more.parameters.end(), less.parameters.begin(),
                         less.parameters.end());
  };
  const bool steps = a.variable == b.variable && a.is_number() == b.is_number() &&
                     (!a.variable.empty() || contains(a, b) || contains(b, a));
  return steps ? combined(a, b) : UNKNOWN;
}

bool has_mod(const ptx::Instruction& i, std::string_view mod) {
  return std::find(i.mods.begin(), i.mods.end(), mod) != i.mods.end();
}

class Bases {
 public:
  Bases(Kernel& kernel, const FunctionCode& function)
      : kernel_(kernel), function_(function), registers_(function.source->registers.size()) {
    for (size_t r = 0; r < registers_.size(); r++) {
      if (function.source->registers[r].type == ptx::Type::None) {
        registers_[r] = NUMBER;  // %tid.x
      }
    }
    for (changed_ = true; changed_;) {
      changed_ = false;
      for (const ptx::Instruction& i : function.source->code) {
        follow(i);
      }
    }
  }

  void note(const ptx::Instruction& source, InstInfo& info) const {
    auto memory = std::find_if(source.args.begin(), source.args.end(),
                               [](const Operand& op) { return op.kind == Operand::Memory; });
    if (info.observed == InstInfo::Unobserved || memory == source.args.end()) {
      return;
    }
    const Origin origin = of(*memory);
    if (origin.kind != Origin::Known || origin.is_number()) {
      return;
    }
    Base base;
    if (!origin.variable.empty() && !find_variable(origin.variable, base)) {
      return;
    }
    base.parameters.assign(origin.parameters.begin(), origin.parameters.end());
    auto known = std::find(kernel_.bases.begin(), kernel_.bases.end(), base);
    info.base = static_cast<int32_t>(known - kernel_.bases.begin());
    if (known == kernel_.bases.end()) {
      kernel_.bases.push_back(base);
    }
  }

 private:
  // Where a variable is: all of dynamic shared memory for those declared extern.
  bool find_variable(const std::string& symbol, Base& base) const {
    base.variable = symbol;
    if (kernel_.module->symbols.contains(symbol)) {
      return true;
    }
    base.first = static_cast<uint32_t>(function_.addresses.at(symbol).second) - SHARED_BASE;
    const std::vector<ptx::Variable>&own = function_.source->locals,
          &all = kernel_.module->ptx->globals;
    for (auto* variables : {&own, &all}) {
      for (const ptx::Variable& v : *variables) {
        if (v.name == symbol && v.space == ptx::Space::Shared) {
          base.last = v.external ? UINT32_MAX : base.first + static_cast<uint32_t>(v.bytes);
          return true;
        }
      }
    }
    return false;
  }

  // Local memory is one variable to nvcc.
  Origin of_symbol(const std::string& symbol) const {
    auto found = function_.addresses.find(symbol);
    const bool variable = found == function_.addresses.end()
                              ? kernel_.module->symbols.contains(symbol)
                              : found->second.first == ptx::Space::Shared;
    return variable ? Origin{Origin::Known, symbol, {}} : UNKNOWN;
  }

  Origin of(const Operand& op) const {
    switch (op.kind) {
      case Operand::Register:
        return registers_[op.reg];
      case Operand::Symbol:
        return of_symbol(op.symbol);
      case Operand::Memory:
        return op.reg >= 0          ? registers_[op.reg]
               : !op.symbol.empty() ? of_symbol(op.symbol)
                                    : NUMBER;
      case Operand::Vector: {
        Origin all = NUMBER;
        for (const Operand& item : op.items) {
          all = combined(all, of(item));
        }
        return all;
      }
      default:
        return NUMBER;
    }
  }

  // What an instruction computes from its sources.
  Origin result(const ptx::Instruction& i) const {
    const bool chooses = i.opcode == "selp" || i.opcode == "min" || i.opcode == "max";
    Origin out = chooses ? Origin{} : NUMBER;
    for (size_t arg = 1; arg < i.args.size() && !(i.opcode == "selp" && arg == 3); arg++) {
      out = chooses ? either(out, of(i.args[arg])) : combined(out, of(i.args[arg]));
    }
    return out;
  }

  // What is loaded is a number or a pointer to somewhere else; but for a parameter of the kernel.
  void follow_load(const ptx::Instruction& i) {
    const Operand& from = i.args[1];
    auto found = function_.addresses.find(from.symbol);
    const bool parameter = function_.is_kernel() && i.opcode == "ld" && has_mod(i, "param") &&
                           from.kind == Operand::Memory && from.reg < 0 &&
                           found != function_.addresses.end() &&
                           found->second.first == ptx::Space::Param &&  // not of a call
                           (has_mod(i, "u64") || has_mod(i, "b64") || has_mod(i, "s64"));
    auto at = parameter ? static_cast<uint32_t>(found->second.second + from.offset) : 0;
    auto assign = [&](const Operand& to) {
      define(to, parameter ? Origin{Origin::Known, {}, {at}} : NUMBER);
      at += 8;
    };
    if (i.args[0].kind == Operand::Vector) {
      std::for_each(i.args[0].items.begin(), i.args[0].items.end(), assign);
    } else {
      assign(i.args[0]);
    }
  }

  void follow(const ptx::Instruction& i) {
    if (i.args.empty() ||
        (i.args[0].kind != Operand::Register && i.args[0].kind != Operand::Vector)) {
      return;
    }
    const bool reads_memory = std::any_of(i.args.begin() + 1, i.args.end(), [](const Operand& op) {
      return op.kind == Operand::Memory;
    });
    if (reads_memory) {
      follow_load(i);
    } else {
      define(i.args[0], result(i));
    }
  }

  void define(const Operand& to, const Origin& origin) {
    for (const Operand& item : to.items) {
      define(item, origin);
    }
    for (int reg : {to.kind == Operand::Register ? to.reg : -1, to.pair}) {
      if (reg >= 0) {
        const Origin joined = either(registers_[reg], origin);
        changed_ |= joined != registers_[reg];
        registers_[reg] = joined;
      }
    }
  }

  Kernel& kernel_;
  const FunctionCode& function_;
  std::vector<Origin> registers_;
  bool changed_ = false;
};

}  // namespace

void find_bases(Kernel& kernel) {
  if (!kernel.bases.empty()) {
    return;
  }
  kernel.bases.emplace_back();  // of nothing: it says that they have been looked for
  for (auto& function : kernel.functions) {
    const Bases bases(kernel, *function);
    size_t at = function->first;
    for (const ptx::Instruction& source : function->source->code) {
      bases.note(source, kernel.info[at++]);
    }
  }
}

}  // namespace wbsim
