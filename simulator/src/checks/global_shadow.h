// global_shadow.h: who wrote and read each piece of global memory last, in one launch.
//
// All cores share it. A piece has two words that are exchanged as a whole, one for its last write
// and one for its last read, and a third one for the last read by another thread before that, from
// another cluster if there was one.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "checks/foreign.h"
#include "checks/shared_shadow.h"

namespace wbsim {

constexpr uint32_t BULK_STORE = 33;  // in place of a lane: the bulk stores of the warp

// From the lowest bit: 26 of time, 6 of lane, 9 of warp, one that says whether it was atomic, 22 of
// the cluster's number plus one.
struct Tag {
  uint64_t bits = 0;

  static Tag of(uint32_t cluster, uint32_t agent, uint32_t lane, bool atomic, Time time) {
    return {uint64_t{(cluster + 1) & 0x3fffff} << 42 | uint64_t{atomic} << 41 |
            uint64_t{agent} << 32 | uint64_t{lane} << 26 | time};
  }
  bool nothing() const { return bits == 0; }
  uint32_t cluster() const { return static_cast<uint32_t>(bits >> 42) - 1; }
  uint32_t agent() const { return (bits >> 32) & 0x1ff; }
  uint32_t lane() const { return (bits >> 26) & 63; }
  bool atomic() const { return (bits >> 41) & 1; }
  Time time() const { return bits & LAST_TIME; }
  bool same_thread(Tag other) const {
    return ((bits ^ other.bits) >> 26 & ~(uint64_t{1} << 15)) == 0;
  }
};

constexpr int PAGE_SHIFT = 12;

struct Page {
  explicit Page(int shift)
      : pieces(size_t{1} << (PAGE_SHIFT - shift)),
        words(new std::atomic<uint64_t>[3 * pieces]()),
        pcs(new std::atomic<uint32_t>[2 * pieces]()) {}

  const size_t pieces;
  std::unique_ptr<std::atomic<uint64_t>[]> words;  // written, read, read before
  std::unique_ptr<std::atomic<uint32_t>[]> pcs;    // of the last write and the last read
};

class GlobalShadow {
 public:
  explicit GlobalShadow(int shift) : shift(shift) {}

  Page& page_at(uint64_t address) {
    const uint64_t number = address >> PAGE_SHIFT;
    Shard& shard = shards_[number % shards_.size()];
    std::lock_guard lock(shard.mutex);
    auto& page = shard.pages[number];
    if (!page) {
      page = std::make_unique<Page>(shift);
    }
    return *page;
  }

  const int shift;  // of the size of a piece
  Variables variables;
  // Atomics of all cores take turns, so that their tags are those of the last one executed.
  std::mutex atomics;

 private:
  struct Shard {
    std::mutex mutex;
    std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
  };
  std::array<Shard, 64> shards_;
};

}  // namespace wbsim
