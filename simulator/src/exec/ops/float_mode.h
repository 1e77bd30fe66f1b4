// float_mode.h: rounding modes and flush-to-zero, by the processor's own control register.
#pragma once

#include <bit>
#include <cstdint>

#include "decode/decoder.h"
#include "exec/warp.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace wbsim {

enum class Round : uint8_t { Nearest, Zero, Down, Up };

// Sets this thread's mode during the object's lifetime.
class FloatMode {
 public:
  FloatMode(Round round, bool flush) {
#if defined(__x86_64__)
    saved_ = _mm_getcsr();
    constexpr uint32_t ROUND_BITS[] = {0x0000, 0x6000, 0x2000, 0x4000};
    constexpr uint32_t FLUSH_RESULTS = 0x8000, FLUSH_INPUTS = 0x0040;
    uint32_t mode = saved_ & ~(0x6000u | FLUSH_RESULTS | FLUSH_INPUTS);
    mode |= ROUND_BITS[static_cast<int>(round)];
    _mm_setcsr(mode | (flush ? FLUSH_RESULTS | FLUSH_INPUTS : 0));
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    constexpr uint64_t ROUND_BITS[] = {0, 3, 2, 1};
    uint64_t mode = saved_ & ~((3ull << 22) | (1ull << 24));
    mode |= ROUND_BITS[static_cast<int>(round)] << 22 | (flush ? 1ull << 24 : 0);
    asm volatile("msr fpcr, %0" ::"r"(mode));
#else
#error "the simulator knows the floating-point control register of x86-64 and AArch64 only"
#endif
  }
  ~FloatMode() {
#if defined(__x86_64__)
    _mm_setcsr(saved_);
#else
    asm volatile("msr fpcr, %0" ::"r"(saved_));
#endif
  }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__x86_64__)
  uint32_t saved_;
#else
  uint64_t saved_;
#endif
};

// Flushes a denormal to a zero with its sign, for instructions that do no arithmetic.
inline float flush(float v) {
  uint32_t u = std::bit_cast<uint32_t>(v);
  return std::bit_cast<float>((u & 0x7f800000u) == 0 ? u & 0x80000000u : u);
}

// The handler H in another mode. The call goes through a volatile pointer: if it were inlined, its
// arithmetic could be moved out of the mode's scope.
template <Handler H, Round R, bool FLUSH>
const Inst* in_mode(Warp& w, const Inst* in, Mask m) {
  FloatMode mode(R, FLUSH);
  Handler volatile handler = H;
  return handler(w, in, m);
}

template <Handler H>
Handler with_mode(Round round, bool flush) {
  static constexpr Handler TABLE[4][2] = {
      {H, in_mode<H, Round::Nearest, true>},
      {in_mode<H, Round::Zero, false>, in_mode<H, Round::Zero, true>},
      {in_mode<H, Round::Down, false>, in_mode<H, Round::Down, true>},
      {in_mode<H, Round::Up, false>, in_mode<H, Round::Up, true>},
  };
  return TABLE[static_cast<int>(round)][flush];
}

// Takes rn, rz, rm or rp; nearest if there is none.
inline Round take_round(Decode& d) {
  d.take("rn");
  return d.take("rz")   ? Round::Zero
         : d.take("rm") ? Round::Down
         : d.take("rp") ? Round::Up
                        : Round::Nearest;
}

}  // namespace wbsim
