// decoder.h: what an opcode's builder uses to turn a PTX instruction into an Inst.
//
// A builder takes the modifiers it understands; any that is left over makes the instruction
// unsupported, so that nothing is ever half-executed.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "decode/opcode.h"
#include "decode/program.h"

namespace wbsim {

struct Unsupported {};  // thrown by a builder; the instruction stops the launch when it is reached

class FrameLayout;

class Decode {
 public:
  Decode(const ptx::Instruction& source, Kernel& kernel, FunctionCode& function, FrameLayout& frame,
         Inst& inst, InstInfo& info);

  // Modifiers. take() says whether the modifier is there and removes it.
  bool take(std::string_view modifier);
  // Takes the first remaining modifier that is wanted; empty if there is none.
  template <class F>
  std::string take_if(F wanted) {
    auto found = std::find_if(mods_.begin(), mods_.end(), wanted);
    std::string modifier = found == mods_.end() ? std::string() : *found;
    if (found != mods_.end()) {
      mods_.erase(found);
    }
    return modifier;
  }
  ptx::Type take_type();                                    // the first remaining type modifier
  void drop(std::initializer_list<const char*> modifiers);  // hints with no meaning here
  bool empty() const;

  // Operands.
  size_t num_args() const { return source.args.size(); }
  const ptx::Operand& arg(size_t i) const;
  // Slot of a source of that type: a register, a constant, a special register or the address of a
  // symbol.
  uint32_t src(size_t i, ptx::Type type);
  uint32_t src(const ptx::Operand& op, ptx::Type type);
  uint32_t dst(size_t i, ptx::Type type);
  uint32_t dst(const ptx::Operand& op, ptx::Type type);
  int register_bytes(const ptx::Operand& op) const;  // 0 if it is not a register
  bool is_special(const ptx::Operand& op, Special& which) const;
  bool is_accumulator(const ptx::Operand& op) const;  // a register that wgmma writes
  uint32_t pred(const ptx::Operand& op);  // slot of a predicate source, constant true for none
  uint32_t constant(uint64_t bits, int bytes);
  uint32_t scratch(int bytes);  // a slot for values that are never read
  const uint32_t* list(const std::vector<uint32_t>& slots);
  int label(const std::string& name) const;  // index into Kernel::code
  // Address of a symbol in its own space; sets the space.
  uint64_t address_of(const std::string& symbol, ptx::Space& space) const;

  const ptx::Instruction& source;
  Kernel& kernel;
  FunctionCode& function;
  Inst& inst;
  InstInfo& info;

 private:
  FrameLayout& frame_;
  std::vector<std::string> mods_;

 public:
  std::vector<Register> sources, targets;  // the registers requested so far
};

}  // namespace wbsim
