// access.h: from the addresses of a warp to host memory, with the memory check on the way.
#pragma once

#include "../warp.h"

namespace wbsim {

// Where the lanes of one memory instruction read or write. Two patterns have a fast path: all lanes adjacent, all
// lanes at one place. Everything else goes lane by lane.
struct Access {
  enum Pattern : uint8_t { Consecutive, Uniform, Scattered } pattern;
  uint8_t* first;  // Consecutive, Uniform
  alignas(64) uint8_t* lanes[LANES];  // Scattered: of the active lanes

  uint8_t* lane(int l, int bytes) const {
    return pattern == Consecutive ? first + l * bytes : pattern == Uniform ? first : lanes[l];
  }
};

enum class AddressKind : uint8_t { Generic, Shared32, Shared64, Local32, Local64, Param };

// Checks and translates. bytes: of one lane's access. Throws Finding for an access outside of every allocation,
// misaligned, or writing to an input.
template <AddressKind KIND, bool WRITE>
void resolve(Access& access, Warp& w, const Inst* in, Mask m, int bytes);

}  // namespace wbsim
