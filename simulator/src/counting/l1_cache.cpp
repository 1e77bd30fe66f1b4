#include "counting/l1_cache.h"

#include <algorithm>
#include <bit>

#include "counting/patterns.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace wbsim {
namespace {

// Spreads lines over the sets, so that strides of a power of two do not collide in one; the low
// half is the tag.
uint64_t hash_of(uint64_t line) {
  uint64_t hash = line * 0x9e3779b97f4a7c15ull;
  return hash ^ hash >> 29;
}

}  // namespace

void L1Cache::reset(uint64_t bytes) {
  num_sets_ = std::max<uint64_t>(1, bytes / (LINE_BYTES * WAYS));
  sets_.assign(num_sets_, Set{});
  now_ = 0;
  time_ += SAFE;
}

#if defined(__AVX512F__)
uint32_t L1Cache::ways_of(const Set& set, uint32_t tag) {
  const __m512i tags = _mm512_load_si512(set.tag), used = _mm512_load_si512(set.used);
  return _mm512_mask_cmpeq_epi32_mask(_mm512_test_epi32_mask(used, used), tags,
                                      _mm512_set1_epi32(static_cast<int>(tag)));
}
#else
uint32_t L1Cache::ways_of(const Set& set, uint32_t tag) {
  uint32_t ways = 0;
  for (uint32_t way = 0; way < WAYS; way++) {
    ways |= static_cast<uint32_t>(set.tag[way] == tag && set.used[way]) << way;
  }
  return ways;
}
#endif

uint32_t L1Cache::load(uint64_t line, uint32_t sectors) {
  const uint64_t hash = hash_of(line);
  Set& set = set_of(hash);
  now_++;
  if (const uint32_t ways = ways_of(set, static_cast<uint32_t>(hash))) {
    const int way = std::countr_zero(ways);
    const uint32_t missing = sectors & ~set.sectors[way];
    set.sectors[way] |= sectors;
    set.used[way] = now_;
    return missing;
  }
  fill(set, static_cast<uint32_t>(hash), sectors, now_);
  return sectors;
}

void L1Cache::store(uint64_t line, uint32_t sectors) {
  const uint64_t hash = hash_of(line);
  Set& set = set_of(hash);
  if (const uint32_t ways = ways_of(set, static_cast<uint32_t>(hash))) {
    set.sectors[std::countr_zero(ways)] |= sectors;
  } else {
    constexpr uint32_t OLDEST = 1;
    fill(set, static_cast<uint32_t>(hash), sectors, OLDEST);
  }
}

void L1Cache::fill(Set& set, uint32_t tag, uint32_t sectors, uint32_t used) {
  time_++;
  const auto oldest = std::min_element(std::begin(set.used), std::end(set.used)) - set.used;
  set.tag[oldest] = tag;
  set.used[oldest] = used;
  set.sectors[oldest] = static_cast<uint8_t>(sectors);
}

void L1Cache::drop(uint64_t line, uint32_t sectors) {
  const uint64_t hash = hash_of(line);
  Set& set = set_of(hash);
  if (const uint32_t ways = ways_of(set, static_cast<uint32_t>(hash))) {
    set.sectors[std::countr_zero(ways)] &= ~sectors;
    time_ += SAFE;
  }
}

}  // namespace wbsim
