// l1_cache.h: a block's share of its multiprocessor's L1 cache: which sectors of what it loads come
// from L2.
//
// A line is 128 bytes, filled by sectors of 32; the least recently used line of a set goes. Stores go
// through to L2 and leave the sectors that they wrote wholly. Size and behaviour as measured on an
// H100 (docs/counters.md).
#pragma once

#include <cstdint>
#include <vector>

namespace wbsim {

class L1Cache {
 public:
  // Empties it. bytes: its size.
  void reset(uint64_t bytes);

  // Loads sectors (one bit each) of a line. Returns those that were not there; they are now.
  uint32_t load(uint64_t line, uint32_t sectors);
  // Atomics happen in L2: what L1 has of these sectors is out of date.
  void drop(uint64_t line, uint32_t sectors);

 private:
  static constexpr uint32_t WAYS = 16;
  struct Set {
    uint64_t line[WAYS];
    uint32_t used[WAYS];  // when; 0: empty
    uint8_t sectors[WAYS];
  };
  Set& set_of(uint64_t line);
  static int way_of(const Set& set, uint64_t line);  // -1: not there
  std::vector<Set> sets_;
  uint32_t now_ = 0;
};

}  // namespace wbsim
