// runtime.cpp: the runtime object itself.

#include "runtime/runtime.h"

#include "runtime/interrupt.h"

namespace wbsim {

Runtime& Runtime::get() {
  static Runtime* runtime = new Runtime;
  return *runtime;
}

void Runtime::unload(Binary* binary, bool process_ends) {
  if (process_ends) {
    InterruptGuard::flag() = true;  // a running kernel must not delay the exit
  }
  auto paused = launches.pause();
  modules.remove(binary);
}

}  // namespace wbsim
