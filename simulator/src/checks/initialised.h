// initialised.h: which bytes of an allocation have been written.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace wbsim {

class Initialised {
 public:
  Initialised(uint64_t first, uint64_t bytes)
      : first_(first),
        bytes_(bytes),
        words_(static_cast<std::atomic<uint64_t>*>(std::calloc(bytes / 64 + 1, 8)), std::free) {}

  // Whether all of it was written at once, as by cudaMemcpy.
  bool all() const { return all_.load(std::memory_order_relaxed); }
  void mark(uint64_t address, uint64_t bytes) {
    if (bytes == bytes_) {
      all_.store(true, std::memory_order_relaxed);
    }
    each_word(address, bytes, [&](std::atomic<uint64_t>& word, uint64_t mask) {
      if ((word.load(std::memory_order_relaxed) & mask) != mask) {
        word.fetch_or(mask, std::memory_order_relaxed);
      }
      return true;
    });
  }
  bool is_marked(uint64_t address, uint64_t bytes) const {
    return each_word(address, bytes, [](std::atomic<uint64_t>& word, uint64_t mask) {
      return (word.load(std::memory_order_relaxed) & mask) == mask;
    });
  }
  // By a thread of the running launch.
  void mark_store(uint64_t address, uint64_t bytes, uint32_t bytes_per_thread) {
    if (store_bytes_.load(std::memory_order_relaxed) != bytes_per_thread) {
      store_bytes_.store(bytes_per_thread, std::memory_order_relaxed);
    }
    mark(address, bytes);
  }
  // What mark_store was last called with; 0 from then on.
  uint32_t take_store_bytes() { return store_bytes_.exchange(0); }
  // The first byte at or after `at` that is marked, or is not; `end` if none is before it.
  uint64_t next(uint64_t at, uint64_t end, bool marked) const {
    while (at < end) {
      const uint64_t in_word = (at - first_) % 64;
      uint64_t word = words_.get()[(at - first_) / 64].load(std::memory_order_relaxed);
      word = (marked ? word : ~word) >> in_word;
      if (word) {
        return std::min(end, at + std::countr_zero(word));
      }
      at += 64 - in_word;
    }
    return end;
  }

 private:
  template <class F>
  bool each_word(uint64_t address, uint64_t bytes, F f) const {
    uint64_t at = address - first_;
    const uint64_t end = at + bytes;
    while (at < end) {
      const uint64_t in_word = at % 64, n = std::min(64 - in_word, end - at);
      const uint64_t mask = (n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1) << in_word;
      if (!f(words_.get()[at / 64], mask)) {
        return false;
      }
      at += n;
    }
    return true;
  }

  uint64_t first_, bytes_;
  std::atomic<bool> all_{false};
  std::atomic<uint32_t> store_bytes_{0};
  std::unique_ptr<std::atomic<uint64_t>[], void (*)(void*)> words_;  // one bit per byte
};

}  // namespace wbsim
