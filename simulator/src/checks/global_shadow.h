// global_shadow.h: who wrote and read each piece of global memory last, in one launch.
//
// All cores share it. A piece has a word for its last write, one for its last read, and one for the
// last read by another thread before that, from another cluster if there was one.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "checks/foreign.h"
#include "checks/shared_shadow.h"
#include "decode/program.h"

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
  Tag with_lane(uint32_t lane) const {
    return {(bits & ~(uint64_t{63} << 26)) | uint64_t{lane} << 26};
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

// Held for a few instructions, so waiting for it is a loop.
class SpinLock {
 public:
  void lock() {
    for (int tries = 0; locked_.exchange(true, std::memory_order_acquire); tries++) {
      if (tries > 100) {
        std::this_thread::yield();
      }
    }
  }
  void unlock() { locked_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> locked_{false};
};

// The words are changed under the page's lock, and read without it.
struct alignas(32) Piece {
  std::atomic<uint64_t> written{0}, read{0}, earlier{0};  // Tags
  std::atomic<uint64_t> pcs{0};  // of the three, the lowest bits first: indices in Kernel::code

  // Whether it was read by two clusters, and not written.
  bool is_shared() const {
    const Tag last{read.load(std::memory_order_relaxed)};
    const Tag other{earlier.load(std::memory_order_relaxed)};
    return !other.nothing() && last.cluster() != other.cluster() &&
           written.load(std::memory_order_relaxed) == 0;
  }

  enum Access : int { WRITE, READ, EARLIER };
  static constexpr int PC_BITS = 21;
  uint32_t pc(Access which) const {
    return (pcs.load(std::memory_order_relaxed) >> (PC_BITS * which)) & ((1u << PC_BITS) - 1);
  }
  void set_pc(Access which, uint64_t pc) {
    const uint64_t others = ~(((uint64_t{1} << PC_BITS) - 1) << (PC_BITS * which));
    pcs.store((pcs.load(std::memory_order_relaxed) & others) | pc << (PC_BITS * which),
              std::memory_order_relaxed);
  }
};

constexpr int PAGE_SHIFT = 12;

struct Page {
  explicit Page(int shift) : pieces(new Piece[size_t{1} << (PAGE_SHIFT - shift)]) {}

  Piece& at(uint64_t address, int shift) { return pieces[offset_of(address) >> shift]; }
  static uint64_t offset_of(uint64_t address) { return address & ((1 << PAGE_SHIFT) - 1); }

  SpinLock lock;
  // One bit per piece: whether it was read by two clusters and written by none, in a kernel that
  // cannot order clusters. Any write to it is a race, whoever else reads it.
  std::array<std::atomic<uint64_t>, (1 << PAGE_SHIFT) / 64> settled{};
  const std::unique_ptr<Piece[]> pieces;
};

class GlobalShadow {
 public:
  explicit GlobalShadow(const Kernel& kernel);

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

  const int shift;             // of the size of a piece
  const bool orders_clusters;  // whether the kernel can do so at all
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
