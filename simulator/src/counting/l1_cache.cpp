#include "l1_cache.h"

#include <algorithm>

#include "patterns.h"

namespace wbsim {

void L1Cache::reset(uint64_t bytes) {
  sets_.assign(std::max<uint64_t>(1, bytes / (LINE_BYTES * WAYS)), Set{});
  now_ = 0;
}

// Spread over the sets, so that a stride of a power of two does not meet in one.
L1Cache::Set& L1Cache::set_of(uint64_t line) {
  const uint64_t hash = line * 0x9e3779b97f4a7c15ull >> 32;
  return sets_[hash * sets_.size() >> 32];
}

int L1Cache::way_of(const Set& set, uint64_t line) {
  int found = -1;
  for (int way = 0; way < static_cast<int>(WAYS); way++) {
    found = set.line[way] == line ? way : found;
  }
  return found >= 0 && set.used[found] ? found : -1;
}

uint32_t L1Cache::load(uint64_t line, uint32_t sectors) {
  Set& set = set_of(line);
  now_++;
  const int way = way_of(set, line);
  if (way >= 0) {
    const uint32_t missing = sectors & ~set.sectors[way];
    set.sectors[way] |= sectors;
    set.used[way] = now_;
    return missing;
  }
  const auto oldest = std::min_element(std::begin(set.used), std::end(set.used)) - set.used;
  set.line[oldest] = line;
  set.used[oldest] = now_;
  set.sectors[oldest] = static_cast<uint8_t>(sectors);
  return sectors;
}

void L1Cache::drop(uint64_t line, uint32_t sectors) {
  Set& set = set_of(line);
  const int way = way_of(set, line);
  if (way >= 0) {
    set.sectors[way] &= ~sectors;
  }
}

}  // namespace wbsim
