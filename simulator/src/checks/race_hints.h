// race_hints.h: what the report of a race calls its other side, and what it advises.
#pragma once

#include "checks/happens_before.h"

namespace wbsim {

// An asynchronous operation that is the other side of a race: what it has yet to do, and what to
// wait for.
struct Operation {
  const char* what;
  const char* does;
  const char* hint;
};
const Operation& operation_of(const HappensBefore& order, uint32_t agent, bool wrote);

// A race between blocks. copies: both sides write, at least one of them as a bulk copy. bulk: the
// other side is one.
const char* hint_between_blocks(bool copies, bool bulk);

// What a shared memory read of unwritten bytes may have missed. copying: a cp.async to there is on
// its way.
std::string unwritten_hint(const Kernel& kernel, bool copying);

}  // namespace wbsim
