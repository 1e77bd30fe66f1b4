#include "runtime/fork.h"

#include <pthread.h>

#include <algorithm>
#include <vector>

namespace wbsim {
namespace {

// Never destroyed: forks happen until the process ends.
struct Locks {
  std::mutex mutex;
  std::vector<ForkLock> all;    // in the order in which they are taken
  std::vector<ForkLock> taken;  // by the fork that is going on
};

Locks& locks() {
  static auto* locks = new Locks;
  return *locks;
}

// Waits for a running kernel too: its launch holds a lock. The list is copied, as whoever holds one
// of its locks may be adding another.
void before_fork() {
  std::unique_lock guard(locks().mutex);
  std::vector<ForkLock> all = locks().all;
  guard.unlock();
  for (ForkLock& lock : all) {
    lock.lock();
  }
  guard.lock();
  locks().taken = std::move(all);
  guard.release();
}

void in_parent() {
  std::vector<ForkLock> taken = std::move(locks().taken);
  locks().mutex.unlock();
  for (auto lock = taken.rbegin(); lock != taken.rend(); ++lock) {
    lock->unlock();
  }
}

void in_child() {
  for (ForkLock& lock : locks().taken) {
    lock.renew();
  }
  locks().taken.clear();
  locks().mutex.unlock();
}

}  // namespace

void lock_during_fork(ForkLock lock) {
  static const int registered = pthread_atfork(before_fork, in_parent, in_child);
  (void)registered;
  std::lock_guard guard(locks().mutex);
  std::vector<ForkLock>& all = locks().all;
  auto later = std::find_if(all.begin(), all.end(),
                            [&](const ForkLock& other) { return other.order > lock.order; });
  all.insert(later, std::move(lock));
}

}  // namespace wbsim
