// interrupt.h: Ctrl-C while kernels run.
#pragma once

#include <atomic>

namespace wbsim {

// While it lives, Ctrl-C sets a flag that running kernels look at, and is passed on to whoever
// handled it before.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static std::atomic<bool>& flag();

 private:
  bool installed_ = false;
};

}  // namespace wbsim
