#include "checks/accumulators.h"

#include <algorithm>
#include <bit>

#include "checks/finding.h"
#include "decode/place.h"

namespace wbsim {

void AccumulatorCheck::start(uint32_t num_warps, const Kernel& kernel) {
  kernel_ = &kernel;
  if (!kernel.uses_products) {
    return;
  }
  warps_.resize(num_warps);
  for (State& state : warps_) {
    state.registers.assign(kernel.frame.size() / SLOT_BYTES + 1, {});
    state.fences = NO_FENCE;
    state.waited = 0;
  }
}

void AccumulatorCheck::execute(uint32_t warp, const Warp& w, const Inst* in, const InstInfo& info,
                               Mask m) {
  if (info.source->opcode == "wgmma") {
    return;
  }
  State& state = warps_[warp];
  const Register* operands = kernel_->operands.data() + info.first_operand;
  const Register* targets = operands + info.num_sources;
  auto at = [&](Register r) -> History& { return state.registers[r.slot / SLOT_BYTES]; };
  if (info.source->opcode == "mov") {
    History handed_on;
    for (int i = 0; i < info.num_sources; i++) {
      const History& from = at(operands[i]);
      if (from.written > handed_on.written || from.product > handed_on.product) {
        handed_on.pc = from.pc;
      }
      handed_on.written = std::max(handed_on.written, from.written);
      handed_on.product = std::max(handed_on.product, from.product);
    }
    for (int i = 0; i < info.num_targets; i++) {
      at(targets[i]) = handed_on;
    }
    return;
  }
  for (int i = 0; i < info.num_sources; i++) {
    const History& from = at(operands[i]);
    if (from.product > state.waited) {
      report(w, in, std::countr_zero(m),
             "an accumulator of wgmma is read while its product is in flight", from.pc,
             "wgmma.wait_group first: until then the register is undefined");
    }
  }
  const auto pc = static_cast<uint32_t>(in - kernel_->code.data());
  for (int i = 0; i < info.num_targets; i++) {
    at(targets[i]) = {state.fences, pc, 0};
  }
}

void AccumulatorCheck::product(uint32_t warp, const Warp& w, const Inst* in,
                               std::span<const uint32_t> accumulators,
                               std::span<const uint32_t> operands, uint64_t number) {
  State& state = warps_[warp];
  auto check = [&](uint32_t slot, const char* what) {
    const History& r = state.registers[slot / SLOT_BYTES];
    if (r.written == state.fences) {
      report(w, in, 0, std::string("wgmma may not see what was written to ") + what, r.pc,
             "wgmma.fence between the write of a register and the product that uses it");
    }
  };
  for (uint32_t slot : operands) {
    check(slot, "its operand in registers");
  }
  const auto pc = static_cast<uint32_t>(in - kernel_->code.data());
  for (uint32_t slot : accumulators) {
    check(slot, "its accumulator");
    state.registers[slot / SLOT_BYTES] = {0, pc, number};
  }
  if (state.fences == NO_FENCE) {
    Finding f =
        finding_at(w, in, 0, "racecheck",
                   "wgmma may not see its registers: the warp has executed no wgmma.fence yet");
    f.hint =
        "call wgmma.fence before a warpgroup's first wgmma.mma_async, and again whenever threads "
        "have "
        "written registers that the next one uses";
    throw f;
  }
}

void AccumulatorCheck::waited(uint32_t warp, uint64_t number) {
  warps_[warp].waited = std::max(warps_[warp].waited, number);
}

void AccumulatorCheck::report(const Warp& w, const Inst* in, int lane, const std::string& message,
                              uint32_t other_pc, const std::string& hint) const {
  Finding f = finding_at(w, in, lane, "racecheck", message);
  f.hint = hint;
  f.other_what = message.starts_with("wgmma") ? "the write" : "the product";
  set_other(f, *kernel_->module, *kernel_->info[other_pc].source);
  throw f;
}

}  // namespace wbsim
