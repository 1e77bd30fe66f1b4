// scheduler.h: groups of lanes that wait.
#pragma once

#include "checks/finding.h"
#include "exec/block.h"

namespace wbsim {

// Calls f(warp, group) for every group of the cluster that waits.
template <class F>
void each_waiting(Cluster& cluster, F f) {
  for (auto& block : cluster.blocks) {
    for (Warp& w : block->warps) {
      for (Group& g : w.parked) {
        if (g.state != Group::Ready) {
          f(w, g);
        }
      }
    }
  }
}

// The report when no thread of the cluster can continue (deadlock.cpp).
Finding deadlock(Cluster& cluster);
// The report when its blocks have run too many instructions; `ran` ran the last ones (limit.cpp).
Finding limit_reached(Cluster& cluster, Warp& ran);
// For other reports: what the threads that wait are waiting for.
std::string waits_text(Cluster& cluster);

}  // namespace wbsim
