#include "l1_cache.h"

#include <algorithm>

#include "patterns.h"

namespace wbsim {

void L1Cache::reset(uint64_t bytes) {
  sets_.assign(std::max<uint64_t>(1, bytes / (LINE_BYTES * WAYS)), Set{});
  now_ = 0;
}

uint32_t L1Cache::load(uint64_t line, uint32_t sectors) {
  // Spread over the sets, so that a stride of a power of two does not meet in one.
  const uint64_t hash = line * 0x9e3779b97f4a7c15ull >> 32;
  Set& set = sets_[hash * sets_.size() >> 32];
  now_++;
  uint32_t oldest = 0;
  for (uint32_t way = 0; way < WAYS; way++) {
    if (set.used[way] && set.line[way] == line) {
      const uint32_t missing = sectors & ~set.sectors[way];
      set.sectors[way] |= sectors;
      set.used[way] = now_;
      return missing;
    }
    oldest = set.used[way] < set.used[oldest] ? way : oldest;
  }
  set.line[oldest] = line;
  set.used[oldest] = now_;
  set.sectors[oldest] = static_cast<uint8_t>(sectors);
  return sectors;
}

}  // namespace wbsim
