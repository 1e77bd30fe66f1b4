// l1_cache.h: a block's share of its multiprocessor's L1 cache: which sectors of what it loads come
// from L2.
//
// A line is 128 bytes, filled by sectors of 32; the least recently used line of a set is evicted.
// Stores write through to L2 and leave in L1 the sectors that they wrote completely. Size and
// behaviour as measured on an H100 (docs/counters.md).
#pragma once

#include <cstdint>
#include <vector>

namespace wbsim {

class L1Cache {
 public:
  // Empties it. bytes: its size.
  void reset(uint64_t bytes);

  // Loads sectors (one bit each) of a line. Returns those that were missing; they are present now.
  uint32_t load(uint64_t line, uint32_t sectors);
  // Leaves sectors that a store wrote; a line present only for that is the first to be evicted.
  void store(uint64_t line, uint32_t sectors);
  // Atomics happen in L2: L1's copy of these sectors is stale.
  void drop(uint64_t line, uint32_t sectors);

  // A line that was used at one of these times is still there, with its sectors, until SAFE later.
  uint64_t time() const { return time_; }
  static constexpr uint64_t SAFE = 16;  // lines to be evicted before it: those of a set

 private:
  static constexpr uint32_t WAYS = SAFE;
  struct alignas(64) Set {
    uint32_t tag[WAYS];   // of a line; two that share a tag and a set are not distinguished
    uint32_t used[WAYS];  // when; 0: empty
    uint8_t sectors[WAYS];
  };
  Set& set_of(uint64_t hash) { return sets_[(hash >> 32) * num_sets_ >> 32]; }
  void fill(Set& set, uint32_t tag, uint32_t sectors, uint32_t used);
  static uint32_t ways_of(const Set& set, uint32_t tag);  // one bit per way that has the tag

  std::vector<Set> sets_;
  uint64_t num_sets_ = 0;
  uint32_t now_ = 0;
  uint64_t time_ = 0;  // lines filled so far; whatever drops lines or sectors adds SAFE
};

}  // namespace wbsim
