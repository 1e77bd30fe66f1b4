// warp.h: the state of a warp.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "decode/inst.h"

namespace wbsim {

struct Block;
struct ProductQueue;  // wgmma products of a warp (exec/ops/)

// Addresses from `first` up to `last`.
struct Span {
  uint64_t first = 1, last = 0;
};

// Lanes of a warp that share a pc. A warp is a set of these; the one with the smallest pc runs.
struct Group {
  const Inst* pc;
  Mask mask;
  // AtEvent: executes pc again once something has happened in its cluster.
  enum State : uint8_t { Ready, AtBarrier, AtWarpSync, AtEvent } state = Ready;
  uint8_t barrier = 0;
  Mask active = 0;        // AtWarpSync: the lanes of mask that its guard lets through
  Mask members = 0;       // AtWarpSync: the lanes it waits for
  bool gives_up = false;  // AtEvent: a wait with a time limit
};

struct Warp {
  uint8_t* frame = nullptr;
  Block* block = nullptr;
  uint8_t* shared = nullptr;  // of the block
  uint32_t shared_bytes = 0;
  uint8_t* local = nullptr;  // LANES * Block::local_bytes
  // Under initcheck (checks/undefined.h): which bits of it the lanes have not written, and whether
  // any register is undefined.
  uint8_t* unwritten_local = nullptr;
  bool undefined = false;
  Span* allowed = nullptr;     // by instruction: the memory that it touched last
  Mask mask = 0;               // lanes of the running group
  Mask live = 0;               // lanes that have not exited
  Mask carry = 0;              // CC.CF of each lane
  Mask expired = 0;            // lanes whose wait with a time limit has run out of time
  Mask at_cluster = 0;         // lanes that arrived at the current phase of the cluster's barrier
  Mask cluster_phase = 0;      // parity of the phase of that barrier each lane arrived at last
  const Inst* stop = HALT;     // the nearest pc of another ready group: reaching it means merging
  const Inst* spun = nullptr;  // where a group used up its time: another one goes next
  std::vector<Group> parked;   // every group but the running one
  int index = 0;
  std::shared_ptr<ProductQueue> products;
  const Inst* set_registers = nullptr;  // the last setmaxnreg, and how many there were
  uint32_t num_set_registers = 0;
  uint32_t stack_top[LANES];          // of each lane: where the next stack frame starts
  std::vector<uint8_t> saved[LANES];  // registers of functions that call themselves

  template <class T>
  T* reg(uint32_t slot) {
    return reinterpret_cast<T*>(frame + slot);
  }
  Mask& pred(uint32_t slot) { return *reinterpret_cast<Mask*>(frame + slot); }
};

}  // namespace wbsim
