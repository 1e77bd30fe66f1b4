// members.h: instructions that the lanes of a member mask execute together: shfl.sync,
// bar.warp.sync.
#pragma once

#include <algorithm>
#include <bit>
#include <string>

#include "checks/finding.h"
#include "exec/lanes.h"

namespace wbsim {

// Calls f(lanes) for each complete set of lanes: they name one mask, in register `slot`, and its
// live lanes are all here. Tiles of a warp may each name their own. The other lanes wait. Returns
// the next instruction, or HALT if no lane continues.
template <class F>
const Inst* for_members(Warp& w, const Inst* in, Mask m, uint32_t slot, F f) {
  const uint32_t* named = w.reg<uint32_t>(slot);
  if (named[std::countr_zero(m)] == m) [[likely]] {
    f(m);
    return next(in);
  }
  Mask here = m;
  std::erase_if(w.parked, [&](const Group& g) {
    bool waits_here = g.state == Group::AtWarpSync && g.pc == in;
    here |= waits_here ? g.active : 0;
    w.mask |= waits_here ? g.mask : 0;
    return waits_here;
  });
  for (Mask rest = here; rest;) {
    int first = std::countr_zero(rest);
    Mask same = 0;
    for_lanes(rest, [&](int l) { same |= static_cast<Mask>(named[l] == named[first]) << l; });
    rest &= ~same;
    if (Mask strangers = same & ~named[first]) {
      Finding f = finding_at(w, in, std::countr_zero(strangers), "synccheck",
                             "lane " + std::to_string(std::countr_zero(strangers)) +
                                 " executes this, but its member mask does not name it");
      f.hint = "the mask names all lanes that execute it: 0xffffffff for a whole warp";
      throw f;
    }
    Mask missing = named[first] & w.live & ~same;
    if (!missing) {
      f(same);
    } else if (missing & here) {
      throw finding_at(w, in, first, "synccheck",
                       "lanes " + std::to_string(first) + " and " +
                           std::to_string(std::countr_zero(missing & here)) +
                           " execute this together, but name different member masks");
    } else {
      w.parked.push_back({in, same, Group::AtWarpSync, 0, same, named[first]});
      w.mask &= ~same;
    }
  }
  return w.mask ? next(in) : HALT;
}

}  // namespace wbsim
