#include "runtime/device_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace wbsim {
namespace {

constexpr int ALL = PROT_READ | PROT_WRITE;

DeviceMemory* guarded = nullptr;
DeviceMemory::OnFault report_fault = nullptr;
struct sigaction before;  // what a fault did

const char* what_it_does([[maybe_unused]] const ucontext_t* context) {
#if defined(__x86_64__)
  return context->uc_mcontext.gregs[REG_ERR] & 2 ? "writes" : "reads";
#else
  return "reads or writes";
#endif
}

const void* program_counter(const ucontext_t* context) {
#if defined(__x86_64__)
  return reinterpret_cast<const void*>(context->uc_mcontext.gregs[REG_RIP]);
#else
  return reinterpret_cast<const void*>(context->uc_mcontext.pc);
#endif
}

// Reports, then faults again as if this handler did not exist.
void on_signal(int, siginfo_t* info, void* context) {
  static std::atomic<bool> reported{false};
  if (info->si_code > 0 && guarded->contains(info->si_addr) && !reported.exchange(true)) {
    const auto* thread = static_cast<const ucontext_t*>(context);
    report_fault(reinterpret_cast<uint64_t>(info->si_addr), what_it_does(thread),
                 program_counter(thread));
  }
  sigaction(SIGSEGV, &before, nullptr);
}

}  // namespace

// Four times the device's memory: holes and what was freed lately take addresses, too. It begins
// with what nothing uses, so that an index that has overflowed does not end in the host's memory.
bool DeviceMemory::reserve() {
  for (size_t bytes = size_t{1} << 39; !base_ && bytes >= size_t{1} << 30; bytes /= 2) {
    void* at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at != MAP_FAILED) {
      base_ = static_cast<uint8_t*>(at);
      reserved_ = bytes;
      start_ = used_ = bytes / 4;
    }
  }
  return base_ != nullptr;
}

// Makes more of the addresses usable.
bool DeviceMemory::extend(size_t bytes) {
  const size_t page = static_cast<size_t>(getpagesize());
  const size_t from = used_ / page * page;
  if (bytes > reserved_ - used_) {
    return false;
  }
  const size_t until = std::min(reserved_, (used_ + bytes + page - 1) / page * page);
  if (mprotect(base_ + from, until - from, ALL) != 0) {
    return false;
  }
  used_ += bytes;
  if (!accessible_) {
    mprotect(base_ + from, until - from, PROT_NONE);
  }
  return true;
}

uint8_t* DeviceMemory::allocate(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (!base_ && !reserve()) {
    return nullptr;
  }
  auto hole = std::find_if(free_.begin(), free_.end(),
                           [&](const auto& stretch) { return stretch.second >= bytes; });
  if (hole != free_.end()) {
    auto [at, size] = *hole;
    free_.erase(hole);
    if (size > bytes) {
      free_[at + bytes] = size - bytes;
    }
    return base_ + at;
  }
  const size_t at = used_;
  return extend(bytes) ? base_ + at : nullptr;
}

void DeviceMemory::release(uint8_t* first, size_t bytes) {
  std::lock_guard lock(mutex_);
  auto here = free_.emplace(first - base_, bytes).first;
  auto join = [&](auto it) {
    auto next = std::next(it);
    if (next != free_.end() && it->first + it->second == next->first) {
      it->second += next->second;
      free_.erase(next);
    }
  };
  join(here);
  if (here != free_.begin()) {
    join(std::prev(here));
  }
}

void DeviceMemory::discard(uint8_t* first, size_t bytes) {
  const uint64_t page = static_cast<uint64_t>(getpagesize());
  const uint64_t from = (reinterpret_cast<uint64_t>(first) + page - 1) / page * page;
  const uint64_t until = reinterpret_cast<uint64_t>(first + bytes) / page * page;
  if (from < until) {
    madvise(reinterpret_cast<void*>(from), until - from, MADV_DONTNEED);
  }
}

void DeviceMemory::keep_host_out(OnFault on_fault) {
  std::lock_guard lock(mutex_);
  if (closes_ || report_fault) {
    return;
  }
  guarded = this;
  report_fault = on_fault;
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  closes_ = sigaction(SIGSEGV, &action, &before) == 0;
}

void DeviceMemory::let_host_in() {
  std::lock_guard lock(mutex_);
  closes_ = false;
  if (!accessible_ && mprotect(base_ + start_, used_ - start_, ALL) == 0) {
    accessible_ = true;
  }
}

void DeviceMemory::open() {
  std::lock_guard lock(mutex_);
  if (opened_++ == 0 && !accessible_ && mprotect(base_ + start_, used_ - start_, ALL) == 0) {
    accessible_ = true;
  }
}

void DeviceMemory::close() {
  std::lock_guard lock(mutex_);
  if (--opened_ == 0 && closes_ && used_ > start_) {
    accessible_ = mprotect(base_ + start_, used_ - start_, PROT_NONE) != 0;
  }
}

}  // namespace wbsim
