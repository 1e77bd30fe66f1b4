// mbarrier_history.h: what happened at an mbarrier: arrivals, copies, and what its waits answered.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "checks/clock.h"
#include "decode/inst.h"

namespace wbsim {

// What a wait (test_wait, try_wait) answered the lanes of a warp last.
struct Answer {
  uint32_t agent = 0;  // the warp
  const Inst* in = nullptr;
  uint32_t phases = 0;  // complete by then
  Mask not_yet = 0, yes = 0;
  bool again = false;  // yes, as before: to the same instruction in the same phase
  Time when = 0;
};

// A copy that signals the mbarrier.
struct BulkIssue {
  Time when = 0;
  uint32_t agent = 0, lane = 0;  // of the thread that issued it
  Time synced = 0;               // what it knew of its own warp
  ClockRef knew;                 // and of all others
  uint32_t phases = 0;           // complete by then
  uint32_t bytes = 0;
};

// The thread that initialised the mbarrier; when: 0 if none did yet.
struct Initialisation {
  uint32_t agent = 0, lane = 0, pc = 0;
  Time when = 0;
};

struct MbarrierHistory {
  uint32_t agent = 0;
  Initialisation init;
  Gathered gathered;                                // in this phase
  Knowledge complete;                               // in all earlier phases
  uint32_t phases = 0;                              // complete
  std::array<int64_t, 4> announced = {};            // bytes of the last phases, by their numbers
  std::vector<std::pair<uint32_t, Time>> arrivals;  // the last of each warp
  std::vector<Answer> answers;                      // one for each warp and instruction
  std::vector<BulkIssue> issues;                    // in this phase and the last two

  Answer& answer_of(uint32_t agent, const Inst* in) {
    for (Answer& a : answers) {
      if (a.agent == agent && a.in == in) {
        return a;
      }
    }
    return answers.emplace_back(Answer{agent, in, phases});
  }
  // When the warp arrived last; 0: never.
  Time arrived(uint32_t agent) const {
    for (auto& [warp, when] : arrivals) {
      if (warp == agent) {
        return when;
      }
    }
    return 0;
  }
  void note_arrival(uint32_t agent, Time when) {
    for (auto& [warp, last] : arrivals) {
      if (warp == agent) {
        last = when;
        return;
      }
    }
    arrivals.emplace_back(agent, when);
  }
};

}  // namespace wbsim
