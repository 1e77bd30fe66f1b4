// shared_window.h: the addresses of shared memory.
//
// A shared::cta address is an offset in the executing block's window. A shared::cluster address is
// the same, or names a block: the highest byte is its rank plus one.
#pragma once

#include <cstdint>

#include "exec/block.h"

namespace wbsim {

constexpr uint32_t SHARED_BASE = 1024;  // shared addresses start here, as on sm_90
constexpr int RANK_SHIFT = 24;
constexpr uint32_t MAX_CLUSTER = 16;  // blocks
constexpr uint32_t OFFSET_MASK = (1u << RANK_SHIFT) - 1;

inline uint32_t cluster_address(uint32_t rank, uint32_t cta_address) {
  return ((rank + 1) << RANK_SHIFT) | (cta_address & OFFSET_MASK);
}

// The block that a shared::cluster address is in, or nullptr: the cluster has no such block.
inline Block* block_at(Block& own, uint32_t address) {
  uint32_t rank = address >> RANK_SHIFT;
  return rank == 0                            ? &own
         : rank <= own.cluster->blocks.size() ? own.cluster->blocks[rank - 1].get()
                                              : nullptr;
}

// The block of the cluster whose shared memory holds a generic address, or nullptr.
inline Block* block_holding(Block& own, uint64_t generic) {
  for (auto& block : own.cluster->blocks) {
    uint64_t first = reinterpret_cast<uint64_t>(block->shared);
    if (generic - first < block->shared_bytes) {
      return block.get();
    }
  }
  return nullptr;
}

}  // namespace wbsim
