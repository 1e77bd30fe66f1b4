#include "runtime/interrupt.h"

#include <signal.h>

namespace wbsim {
namespace {

struct sigaction& previous() {
  static struct sigaction action = {};
  return action;
}

void on_signal(int number, siginfo_t* info, void* context) {
  InterruptGuard::flag() = true;
  if (previous().sa_flags & SA_SIGINFO) {
    previous().sa_sigaction(number, info, context);
  } else {
    previous().sa_handler(number);
  }
}

}  // namespace

std::atomic<bool>& InterruptGuard::flag() {
  static std::atomic<bool> interrupted{false};
  return interrupted;
}

InterruptGuard::InterruptGuard() {
  flag() = false;
  sigaction(SIGINT, nullptr, &previous());
  // A program with the default action simply ends, as it should.
  bool handled = (previous().sa_flags & SA_SIGINFO) ||
                 (previous().sa_handler != SIG_DFL && previous().sa_handler != SIG_IGN);
  if (handled) {
    struct sigaction action = previous();
    action.sa_sigaction = on_signal;
    action.sa_flags |= SA_SIGINFO;
    sigaction(SIGINT, &action, nullptr);
    installed_ = true;
  }
}

InterruptGuard::~InterruptGuard() {
  if (installed_) {
    sigaction(SIGINT, &previous(), nullptr);
  }
}

}  // namespace wbsim
