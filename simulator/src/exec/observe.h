// observe.h: what a memory instruction is about to touch, reported to the counters and the checks.
//
// run_warp calls observe() before every memory instruction, but only in launches that count
// addresses or check more than the bounds. Handlers of asynchronous copies call observe_access()
// themselves.
#pragma once

#include "exec/block.h"

namespace wbsim {

// Lanes of one warp instruction that touch the same kind of memory.
struct WarpAccess {
  enum class Kind : uint8_t { Load, Store, Atomic };
  enum class Where : uint8_t { Global, Shared, Local };
  Kind kind = Kind::Load;
  Where where = Where::Global;
  Mask mask = 0;           // the lanes
  uint32_t bytes = 0;      // per lane
  Block* owner = nullptr;  // Shared: whose memory it is
  // Whether address[l] is first + l * step for every lane of the mask.
  bool regular = false;
  uint64_t first = 0;
  int64_t step = 0;
  // Otherwise: whether each half of the warp is regular, and its steps. The mask is full.
  bool halves = false;
  int64_t half_step[2] = {0, 0};
  // Global: the host's address. Shared: the offset in the owner's memory. Local: the offset in the
  // lane's memory. Filled for the lanes of the mask unless regular.
  alignas(64) uint64_t address[LANES];

  uint64_t at(int lane) const {
    return regular ? first + static_cast<uint64_t>(step) * lane : address[lane];
  }
};

// Reports what instruction `in` will touch with the lanes m. Lanes whose address is outside every
// memory are left out: executing the instruction reports them.
void observe(Warp& w, const Inst* in, Mask m);

// The same for an access assembled by a handler.
void observe_access(Warp& w, const Inst* in, const WarpAccess& access);

}  // namespace wbsim
