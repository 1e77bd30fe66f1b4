// copy_queue.h: asynchronous copies that have been issued and have not yet taken effect.
//
// PTX says when a copy takes effect at the latest: when a wait on its mbarrier or its group
// succeeds. Here that is also the earliest, so that a missing wait shows.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "checks/checker.h"
#include "exec/block.h"
#include "exec/lanes.h"
#include "exec/ops/mbarrier.h"

namespace wbsim {

// Something that signals an mbarrier of this block when it is done.
struct Signal {
  Issuer issuer;
  uint32_t bytes = 0;           // complete-tx
  uint32_t arrivals = 0;        // arrive-on
  std::function<void()> apply;  // the copy itself
  // For the race check: when it was issued, or what an arrival knows.
  Time issued = 0;
  Knowledge released = {};
};

// cp.async of a warp: one copy of up to 16 bytes per lane.
struct LaneCopy {
  Mask mask;        // lanes whose copy has not taken effect
  uint8_t bytes;    // to write
  uint64_t number;  // in the order of issue
  Time issued = 0;  // for the race check
  uint8_t* to[LANES];
  const uint8_t* from[LANES];
  uint8_t read[LANES];    // bytes to read; the others become zero
  uint32_t group[LANES];  // of the lane's groups, from 0
};

// A copy of a bulk group: from shared to global memory, in two steps that have separate waits.
struct BulkStore {
  const Inst* in;
  int lane;
  uint32_t group;  // of the lane's groups, from 0
  uint32_t bytes;
  std::function<void(uint8_t*)> read;         // shared memory -> buffer
  std::function<void(const uint8_t*)> write;  // buffer -> global memory
  std::vector<uint8_t> buffer = {};           // empty: not read yet
  Time issued = 0;                            // for the race check
};

struct WarpCopies {
  std::vector<LaneCopy> copies;
  std::vector<BulkStore> stores;
  uint64_t issued = 0;             // LaneCopies so far
  uint32_t committed[LANES] = {};  // groups of cp.async
  uint32_t bulk_committed[LANES] = {};
};

struct CopyQueue {
  std::map<uint32_t, std::deque<Signal>> signals;  // by the mbarrier's offset
  std::vector<WarpCopies> warps;                   // by the warp's index
};

// Of the block; created on first use.
CopyQueue& copies_of(Block& block);
inline WarpCopies& copies_of(const Warp& w) { return copies_of(*w.block).warps[w.index]; }

// A copy that takes effect when its mbarrier is waited for.
void enqueue(SharedPlace mbarrier, Signal signal);
bool has_signals(SharedPlace mbarrier);
// The copies that signal an mbarrier take effect until its phase is complete; none does if the
// phase also waits for an arrival that no copy makes.
void complete_copies(const Issuer& issuer, SharedPlace mbarrier);

// The copy of one lane takes effect.
inline void finish_lane(const LaneCopy& copy, int l) {
  if (copy.read[l] == 16) {
    std::memcpy(copy.to[l], copy.from[l], 16);  // one instruction each: the sizes are constants
  } else if (copy.read[l] == 4) {
    std::memcpy(copy.to[l], copy.from[l], 4);
  } else {
    std::memcpy(copy.to[l], copy.from[l], copy.read[l]);
  }
  if (copy.read[l] != copy.bytes) {
    std::memset(copy.to[l] + copy.read[l], 0, copy.bytes - copy.read[l]);
  }
}

// The lane's cp.async copies that `due` accepts take effect: due(copy, lane). when: 0 is now.
template <class F>
void finish_lane_copies(Warp& w, Mask m, F due, Time when = 0) {
  WarpCopies& copies = copies_of(w);
  Checker* checker = w.block->cluster->checker.get();
  for (LaneCopy& copy : copies.copies) {
    for_lanes(m & copy.mask, [&](int l) {
      if (due(copy, l)) {
        finish_lane(copy, l);
        if (checker) {
          checker->lane_copied(w, l, copy.to[l], copy.bytes, when ? when : checker->order().now());
        }
        copy.mask &= ~(Mask{1} << l);
      }
    });
  }
  std::erase_if(copies.copies, [](const LaneCopy& copy) { return copy.mask == 0; });
}

// Reports a store of the lanes, which exit, that still reads shared memory; and what is on its way
// to the shared memory of a block whose threads have all exited.
void check_exit(const Warp& w, Mask m);

// The stores of a lane's groups before `end` have read their source and, unless read_only, written
// their destination.
void finish_stores(Warp& w, int lane, uint32_t end, bool read_only);

}  // namespace wbsim
