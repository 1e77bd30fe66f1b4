// deadlock.cpp: what the threads wait for when none of them can continue.

#include <algorithm>
#include <bit>

#include "checks/finding.h"
#include "exec/block.h"
#include "exec/control.h"
#include "exec/scheduler.h"

namespace wbsim {
namespace {

// What threads that can never continue wait for; the first kind present decides the reported place.
struct Stuck {
  const char* what;
  const char* hint;
  int threads = 0;
  Warp* warp = nullptr;  // of the first of them
  const Inst* at = nullptr;
  int lane = 0;
};

}  // namespace

Finding deadlock(Cluster& cluster) {
  enum { Divergent, AtBarrier, AtSync, AtEvent };
  Stuck kinds[] = {
      {"at a barrier that other lanes of their warp never reach",
       "__syncthreads() is for all threads of a block: move it out of the branch"},
      {"at a barrier that the other threads never reach",
       "all threads that the barrier counts must reach it; do some leave a loop or return early?"},
      {"at a warp-wide instruction that the other threads never reach",
       "all lanes that its member mask names must execute it: move it out of the branch, and give "
       "lanes without data a neutral value, such as 0 for a sum"},
      {"for an mbarrier or a cluster barrier that can no longer complete",
       "every block of a cluster arrives and waits once each phase"},
  };
  each_waiting(cluster, [&](Warp& w, Group& g) {
    // Threads that wait at a barrier continue after it.
    const Inst* at = g.state == Group::AtBarrier ? g.pc - 1 : g.pc;
    const Kernel& kernel = *w.block->kernel;
    bool is_barrier = kernel.info[at - kernel.code.data()].kind == InstInfo::Barrier;
    Stuck& kind = kinds[g.state == Group::AtBarrier ? AtBarrier
                        : g.state == Group::AtEvent ? AtEvent
                        : is_barrier                ? Divergent
                                                    : AtSync];
    kind.threads += std::popcount(g.mask);
    if (!kind.warp) {
      kind.warp = &w;
      kind.at = at;
      kind.lane = std::countr_zero(g.mask);
    }
  });
  // Lanes of a warp wait at different places: the first of them is the one in a branch.
  Stuck &divergent = kinds[Divergent], &at_sync = kinds[AtSync];
  if (divergent.warp && at_sync.warp == divergent.warp && at_sync.at < divergent.at) {
    std::rotate(&divergent, &at_sync, &at_sync + 1);
  }
  std::string text = "deadlock:";
  const Stuck* first = nullptr;
  for (const Stuck& kind : kinds) {
    if (kind.threads > 0) {
      text += (first ? ", " : " ") + std::to_string(kind.threads) +
              (kind.threads == 1 ? " thread waits " : " threads wait ") + kind.what;
      first = first ? first : &kind;
    }
  }
  Finding finding = finding_at(*first->warp, first->at, first->lane, "synccheck", text);
  std::string lacks = awaited_text(*first->warp, first->at, first->lane);
  finding.hint = lacks.empty() ? first->hint : lacks;
  return finding;
}

}  // namespace wbsim
