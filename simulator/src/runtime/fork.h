// fork.h: what fork() leaves of the runtime in the child process.
//
// A child has only the thread that forked. A lock that another thread held at that moment would
// stay locked in it for ever, and what the lock protects would be half changed.
#pragma once

#include <functional>
#include <mutex>
#include <new>

namespace wbsim {

// The order in which locks are taken that a thread holds at the same time.
enum class LockOrder { Graphs, Launching, Pools, Modules, Recording, Memory, Settings, Handles };

// How a lock is taken before a fork, and freed after it: in the child it is made anew, as a
// recursive mutex belongs to a thread of the parent.
struct ForkLock {
  LockOrder order;
  std::function<void()> lock, unlock, renew;
};
void lock_during_fork(ForkLock lock);

// A mutex that no other thread holds during a fork, which first waits for it. It is never destroyed
// before the process ends.
template <LockOrder ORDER, class Mutex = std::mutex>
class ForkMutex : public Mutex {
 public:
  ForkMutex() {
    lock_during_fork({ORDER, [this] { this->lock(); }, [this] { this->unlock(); },
                      [this] { new (static_cast<Mutex*>(this)) Mutex; }});
  }
};

}  // namespace wbsim
