#include "checks/spin_loop.h"

#include <algorithm>
#include <set>
#include <string>

#include "decode/place.h"

namespace wbsim {
namespace {

constexpr uint32_t NEAR = 16;  // instructions

bool names(const ptx::Operand& op, const std::set<int>& registers) {
  return (op.reg >= 0 && registers.contains(op.reg)) ||
         std::any_of(op.items.begin(), op.items.end(),
                     [&](const ptx::Operand& item) { return names(item, registers); });
}

// What the instructions after a read, up to `last`, compute from its value; visits branches that
// depend on it: f(index).
template <class F>
void each_dependent_branch(const Kernel& kernel, uint32_t pc, uint32_t last, F f) {
  std::set<int> values{kernel.info[pc].source->args[0].reg};
  for (uint32_t i = pc + 1; i <= last; i++) {
    const ptx::Instruction& inst = *kernel.info[i].source;
    if (inst.opcode == "bra") {
      if (values.contains(inst.guard)) {
        f(i);
      }
    } else if (!inst.args.empty() &&
               std::any_of(inst.args.begin() + 1, inst.args.end(),
                           [&](const ptx::Operand& op) { return names(op, values); })) {
      values.insert(inst.args[0].reg);
    }
  }
}

// A loop without anything in it that writes to memory or meets other threads; it leaves the
// register `address` as it is.
bool is_idle_loop(const Kernel& kernel, uint32_t first, uint32_t last, int address) {
  for (uint32_t i = first; i <= last; i++) {
    const InstInfo& info = kernel.info[i];
    const auto& args = info.source->args;
    const bool moves =
        info.source->opcode != "bra" && !args.empty() && args[0].reg >= 0 && args[0].reg == address;
    if (moves || (info.kind != InstInfo::Other && info.kind != InstInfo::Load)) {
      return false;
    }
  }
  return true;
}

// Whether a read is in a loop that its own value ends, and that does nothing else; or it was taken
// out of one, which then is a branch to itself.
bool reads_in_spin(const Kernel& kernel, uint32_t pc) {
  constexpr uint32_t FAR = 64;  // instructions
  const ptx::Instruction& read = *kernel.info[pc].source;
  if (read.opcode != "ld" || kernel.info[pc].strong || read.args.size() < 2) {
    return false;
  }
  auto target = [&](uint32_t i) { return static_cast<uint32_t>(kernel.code[i].target); };
  auto is_branch = [&](uint32_t i) { return kernel.info[i].source->opcode == "bra"; };
  auto endless = [&](uint32_t i) { return is_branch(i) && target(i) == i; };
  const auto end = static_cast<uint32_t>(std::min<size_t>(kernel.code.size() - 1, pc + FAR));
  bool spins = false;
  each_dependent_branch(kernel, pc, std::min(end, pc + NEAR), [&](uint32_t i) {
    spins |= endless(target(i)) || (i < end && endless(i + 1));
  });
  for (uint32_t last = pc + 1; last <= end && !spins; last++) {
    if (is_branch(last) && target(last) <= pc && pc - target(last) <= FAR &&
        is_idle_loop(kernel, target(last), last, read.args[1].reg)) {
      each_dependent_branch(kernel, pc, last, [&](uint32_t) { spins = true; });
    }
  }
  return spins;
}

}  // namespace

const char* const SPIN_HINT =
    "a plain read in a spin loop: the compiler may read once and test that value for ever, and "
    "nothing orders what follows. Read with cuda::atomic_ref, volatile or atomicAdd(&x, 0), then "
    "__threadfence(); the other side writes its data, __threadfence(), and then the flag";

// The compiler may have read once before the loop.
bool is_plain_spin(const Kernel& kernel, uint32_t pc) {
  auto line = [&](uint32_t i) {
    const Place place = place_of(*kernel.module, *kernel.info[i].source);
    return place.file + ":" + std::to_string(place.line);
  };
  const auto end = static_cast<uint32_t>(std::min<size_t>(kernel.code.size(), pc + NEAR));
  for (uint32_t i = pc; i < end; i++) {
    if (reads_in_spin(kernel, i) && (i == pc || line(i) == line(pc))) {
      return kernel.info[pc].source->opcode == "ld" && !kernel.info[pc].strong;
    }
  }
  return false;
}

}  // namespace wbsim
