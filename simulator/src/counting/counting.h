// counting.h: what the memory accesses of a launch cost, by instruction.
#pragma once

#include <array>
#include <vector>

#include "counting/footprint.h"
#include "counting/l1_cache.h"
#include "counting/patterns.h"
#include "exec/observe.h"
#include "exec/warp.h"

namespace wbsim {

// Accesses of one kind to one kind of memory.
struct AccessCount {
  uint64_t requests = 0;  // warp instructions
  uint64_t bytes = 0;     // requested by the lanes
  uint64_t units = 0;     // global and local memory: sectors; shared memory: wavefronts
  uint64_t ideal = 0;     // what would suffice if the lanes requested each byte once, contiguously
  uint64_t lines = 0;     // global and local memory: of 128 bytes
  uint64_t l2_read_sectors = 0, l2_write_sectors = 0;
  uint64_t bulk_load_bytes = 0, bulk_store_bytes = 0;  // of the TMA unit, which makes no requests

  void operator+=(const AccessCount& other);
};

// For one instruction. A generic access reaches several memories; a copy reads one and writes one.
struct AccessCounts {
  std::array<std::array<AccessCount, 3>, 3> of;  // by WarpAccess::Where and Kind

  AccessCount& at(WarpAccess::Where where, WarpAccess::Kind kind) {
    return of[static_cast<int>(where)][static_cast<int>(kind)];
  }
  const AccessCount& at(WarpAccess::Where where, WarpAccess::Kind kind) const {
    return of[static_cast<int>(where)][static_cast<int>(kind)];
  }
};

// An instruction's last access to shared memory, relative to its first lane. Its cost does not
// depend on where that lane is, and in the next iteration of a loop the pattern is mostly the same.
struct KnownPattern {
  uint64_t relative[LANES];
  Cost cost;
};

// A load that found all of its lines in L1, or brought them there.
struct KnownLoad {
  const L1Cache* l1 = nullptr;
  uint64_t time = 0;  // of l1
  uint64_t place = 0;
  int64_t step = 0;
  Mask mask = 0;
  uint32_t lines = 0;
  Cost cost;
};

// For a worker, or for a launch.
struct Counting {
  std::vector<AccessCounts> counts;                                        // by instruction
  static constexpr size_t LOADS = 16;                                      // of one instruction
  std::vector<std::unique_ptr<KnownPattern>> known;                        // by instruction
  std::vector<std::unique_ptr<std::array<KnownLoad, LOADS>>> known_loads;  // by instruction
  Footprint footprint;
  uint64_t l2_repeated_sectors = 0;  // that a block had already moved

  explicit Counting(size_t num_instructions)
      : counts(num_instructions), known(num_instructions), known_loads(num_instructions) {}
  void merge(const Counting& other);
};

// Adds one access of a warp instruction to the worker's counters.
void count_access(Warp& w, const Inst* in, const WarpAccess& access);

// The same for cp.async: from global to shared memory; destinations of lanes that copy nothing are
// only in `to`.
void count_lane_copy(Warp& w, const Inst* in, const WarpAccess& from, const WarpAccess& to);

// The same for a stretch of global memory that the TMA unit reads or writes, bypassing L1.
void count_copy(Warp& w, const Inst* in, uint64_t address, uint64_t bytes, bool write);

}  // namespace wbsim
