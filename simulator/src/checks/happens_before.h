// happens_before.h: which accesses of a cluster's threads are ordered: what each of them knows.
//
// The lanes of a warp mostly know the same; then the warp has one view. Waits and fences of single
// lanes give each lane its own view, until the warp synchronises as a whole.
#pragma once

#include <map>
#include <span>
#include <unordered_map>

#include "checks/clock.h"
#include "checks/mbarrier_history.h"
#include "exec/block.h"
#include "exec/control.h"
#include "exec/ops/shared_address.h"

namespace wbsim {

class HappensBefore {
 public:
  // A cluster of blocks starts: nothing has happened, and no thread knows anything.
  // late: time is running out and restarts; all recorded times are to be discarded.
  void start(Cluster& cluster, bool late);

  Time now() const { return now_; }
  Time started() const { return started_; }
  void advance() { now_ += now_ < LAST_TIME ? 1 : 0; }

  // ---- Agents.
  uint32_t num_warps() const { return static_cast<uint32_t>(warps_.size()); }
  uint32_t warp_agent(const Warp& w) const {
    return w.block->rank * warps_per_block_ + static_cast<uint32_t>(w.index);
  }
  uint32_t product_agent(const Warp& w) const {  // for its part of the warpgroup's products
    return num_warps() + warp_agent(w);
  }
  // For the bulk stores of a warp: reading their source, and writing their destination.
  uint32_t bulk_agent(const Warp& w) const { return 2 * num_warps() + warp_agent(w); }
  uint32_t bulk_write_agent(uint32_t warp) const { return 3 * num_warps() + warp; }
  uint32_t mbarrier_agent(SharedPlace mbarrier) { return state_of(mbarrier).agent; }

  // ---- What a lane knows.
  // What a lane knew at a fence, and up to when it vouches for what it did itself.
  struct Fence {
    Knowledge knows;
    Time until = 0;
  };
  struct View {
    Knowledge knows;
    Fence narrow, wide;  // its last fences; a wide one reaches other clusters and is both
    Time others = 0;     // all warps of the block are known up to then, except its own
  };
  const View& view(const Warp& w, int lane) const {
    const WarpState& state = warps_[warp_agent(w)];
    return state.views[state.views.size() == 1 ? 0 : lane];
  }
  // Everything that warps of the block did up to then is ordered before what the lane does next.
  Time floor(const Warp& w, int lane) const {
    const View& own = view(w, lane);
    return std::min(own.others, std::max(synced(w), own.knows.all->of(warp_agent(w))));
  }
  Time floor(const Warp& w, Mask m) const {  // the smallest of the lanes
    const Time floor = warps_[warp_agent(w)].floor;
    return floor ? floor : find_floor(w, m);
  }
  // Up to when all of the lanes know an agent completely.
  Time known(const Warp& w, Mask m, uint32_t agent) const;
  bool knows(const Warp& w, int lane, uint32_t agent, uint32_t other_lane, Time time) const;
  // Whether asynchronous operations that the lane starts see what was written.
  bool knows_proxied(const Warp& w, int lane, uint32_t agent, uint32_t other_lane, Time time) const;
  Time synced(const Warp& w) const { return warps_[warp_agent(w)].synced; }

  // ---- What threads do.
  void sync_warp(Warp& w, Mask m);
  void arrive(Warp& w, const Inst* in, Mask m, int barrier, bool waits);
  // An arrival at the barrier's last round that one of the lanes does not know of: that thread may
  // not be there yet, and meet these. nullptr if they know all.
  struct Arrival {
    const Inst* in;
    uint32_t agent;
    Mask lanes;
    Time when;
  };
  const Arrival* unknown_arrival(const Warp& w, Mask m, int barrier) const;
  // An arrival at this round by one of the lanes, which did not wait (bar.arrive); or nullptr.
  const Arrival* own_arrival(const Warp& w, Mask m, int barrier) const;
  void complete(Block& block, int barrier);  // while its groups still wait
  void arrive_cluster(Warp& w, Mask m, bool relaxed);
  void complete_cluster();
  void wait_cluster(Warp& w, Mask m);
  void fence(Warp& w, Mask m, bool wide);
  void fence_proxy(Warp& w, Mask m);
  // What the lanes know, themselves included; later accesses are not part of it.
  Knowledge release(Warp& w, Mask m);
  void acquire(Warp& w, Mask m, const Knowledge& knowledge);
  // Synchronising through a variable: release and acquire, or relaxed after a fence.
  // What a store to it releases; nothing (all == nullptr) if it is relaxed and there was no fence.
  // wide: to other clusters.
  Knowledge release_by_store(Warp& w, int lane, bool release, bool wide);
  void store_variable(uint64_t address, const Knowledge& released);
  void load_variable(Warp& w, int lane, uint64_t address);
  void learn(Warp& w, Mask m, std::span<const std::pair<uint32_t, Time>> agents);

  // ---- Mbarriers.
  Initialisation& initialisation(SharedPlace mbarrier) { return state_of(mbarrier).init; }
  void arrive_mbarrier(SharedPlace mbarrier, const Knowledge& knowledge);
  void arrive_mbarrier(Warp& w, Mask m, SharedPlace mbarrier, bool relaxed);
  // A copy of so many bytes that signals it; returns when it was issued.
  Time issue_copy(const Issuer& issuer, SharedPlace mbarrier, uint32_t bytes);
  void announce(SharedPlace mbarrier, int64_t bytes);  // expect_tx
  void copied(SharedPlace mbarrier, Time issued);      // it has signalled the mbarrier
  void complete_phase(SharedPlace mbarrier);
  // The lanes ask for a phase that is complete. Returns those that are told so. The others hear
  // "not yet", which is always possible: `hesitates`, they would learn something, and they ask for
  // the first time here in this phase.
  Mask wait_mbarrier(Warp& w, const Inst* in, Mask m, SharedPlace mbarrier, bool hesitates);
  // All of them, by block and offset.
  using Mbarriers = std::map<std::pair<const Block*, uint32_t>, MbarrierHistory>;
  const Mbarriers& mbarriers() const { return mbarriers_; }

 private:
  struct WarpState {
    std::vector<View> views;  // one, or one per lane
    Time synced = 0;          // all lanes of the warp know each other up to then
    mutable Time floor = 0;   // of all lanes, if they know the same; 0: not computed yet
  };

  // For changing it.
  WarpState& state(const Warp& w) {
    WarpState& state = warps_[warp_agent(w)];
    state.floor = 0;
    return state;
  }
  Time find_floor(const Warp& w, Mask m) const;
  void split(WarpState& state);
  // What a fence of the view of lane l vouches for; of all lanes if there is one view.
  Knowledge vouched(const Warp& w, int l, Fence View::* fence) const;
  void merge_equal(WarpState& state);
  void gather(Gathered& into, Warp& w, Mask m);
  void set_floor(const Warp& w, View& view) const;
  MbarrierHistory& state_of(SharedPlace mbarrier);
  template <class F>
  void each_view(Warp& w, Mask m, F f);

  Cluster* cluster_ = nullptr;
  uint32_t warps_per_block_ = 0;
  Time now_ = 1, started_ = 1;
  std::vector<WarpState> warps_;  // by agent
  struct Rounds {
    Gathered gathered;
    std::vector<Arrival> arrivals, last;  // of this round and of the one before
    bool all_wait = true;                 // who arrived at this round
  };
  std::vector<Rounds> barriers_;
  Gathered cluster_gathered_;
  Knowledge cluster_complete_;
  Mbarriers mbarriers_;
  uint32_t next_agent_ = 0;
  std::unordered_map<uint64_t, Knowledge> variables_;
};

}  // namespace wbsim
