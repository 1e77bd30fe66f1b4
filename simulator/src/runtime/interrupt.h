// interrupt.h: Ctrl-C while kernels run.
#pragma once

#include <atomic>

namespace wbsim {

// During its lifetime, Ctrl-C sets a flag that running kernels check, and is passed on to the
// previous handler.
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
