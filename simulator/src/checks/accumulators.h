// accumulators.h: registers that wgmma works with and that threads touch too early.
//
// Between a product and the wait for it, nothing may read its accumulators; between a write to an
// accumulator or to an operand in registers and the product, there must be a wgmma.fence; also
// before a warp's first product. nvcc
// moves such registers around freely (ptxas merges them again): a mov counts as neither a read nor
// a write; it passes on what is known of its source.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "exec/warp.h"

namespace wbsim {

struct Kernel;

class AccumulatorCheck {
 public:
  void start(uint32_t num_warps, const Kernel& kernel);

  // An instruction other than a product is about to be executed.
  void execute(uint32_t warp, const Warp& w, const Inst* in, const InstInfo& info, Mask m);
  // A product with these accumulators and operands in registers.
  void product(uint32_t warp, const Warp& w, const Inst* in, std::span<const uint32_t> accumulators,
               std::span<const uint32_t> operands, uint64_t number);
  void waited(uint32_t warp, uint64_t number);  // for the products up to this number
  void fence(uint32_t warp) { warps_[warp].fences++; }

 private:
  static constexpr uint32_t NO_FENCE = 1;  // so that 0 is: not written by a thread
  struct History {
    uint32_t written = 0;  // by a thread, after this many fences
    uint32_t pc = 0;       // of that write, or of the product
    uint64_t product = 0;  // not waited for yet; 0: none
  };
  struct State {
    std::vector<History> registers;  // by slot
    uint32_t fences = NO_FENCE;
    uint64_t waited = 0;
  };
  static constexpr uint32_t SLOT_BYTES = 64;  // registers start at multiples of this

  [[noreturn]] void report(const Warp& w, const Inst* in, int lane, const std::string& message,
                           uint32_t other_pc, const std::string& hint) const;

  const Kernel* kernel_ = nullptr;
  std::vector<State> warps_;  // empty: the kernel has no products
};

}  // namespace wbsim
