#include "checks/happens_before.h"

#include <algorithm>
#include <bit>

#include "exec/lanes.h"

namespace wbsim {

void HappensBefore::start(Cluster& cluster, bool late) {
  now_ = late ? 1 : now_;
  cluster_ = &cluster;
  warps_per_block_ = static_cast<uint32_t>(cluster.blocks[0]->warps.size());
  advance();
  started_ = now_;
  advance();
  auto nothing = std::make_shared<Clock>();
  nothing->known.assign(warps_per_block_ * cluster.blocks.size(), started_);
  View view;
  view.knows.all = nothing;
  view.others = started_;
  warps_.resize(nothing->known.size());
  for (WarpState& state : warps_) {
    state.views.assign(1, view);
    state.synced = started_;
    state.floor = 0;
  }
  barriers_.assign(16 * cluster.blocks.size(), {});
  cluster_gathered_ = {};
  cluster_complete_ = {};
  mbarriers_.clear();
  next_agent_ = 4 * num_warps();
  variables_.clear();
}

Time HappensBefore::find_floor(const Warp& w, Mask m) const {
  const WarpState& state = warps_[warp_agent(w)];
  if (state.views.size() == 1) {
    return state.floor = floor(w, 0);
  }
  Time smallest = LAST_TIME;
  for_lanes(m, [&](int l) { smallest = std::min(smallest, floor(w, l)); });
  return smallest;
}

Time HappensBefore::known(const Warp& w, Mask m, uint32_t agent) const {
  const WarpState& state = warps_[warp_agent(w)];
  Time until = LAST_TIME;
  if (state.views.size() == 1) {
    until = state.views[0].knows.all->of(agent);
  } else {
    for_lanes(m, [&](int l) { until = std::min(until, state.views[l].knows.all->of(agent)); });
  }
  return agent == warp_agent(w) ? std::max(until, state.synced) : until;
}

bool HappensBefore::knows(const Warp& w, int lane, uint32_t agent, uint32_t other_lane,
                          Time time) const {
  const bool own = agent == warp_agent(w);
  if (own && (other_lane == static_cast<uint32_t>(lane) || time <= synced(w))) {
    return true;
  }
  const Clock& clock = *view(w, lane).knows.all;
  if (clock.knows(agent, other_lane, time)) {
    return true;
  }
  if (other_lane < LANES || agent >= num_warps()) {
    return false;
  }
  bool all = true;  // of the lanes that it may have been
  for_lanes(lanes_of(other_lane), [&](int l) {
    all &= (own && l == lane) || clock.knows(agent, static_cast<uint32_t>(l), time);
  });
  return all;
}

bool HappensBefore::knows_proxied(const Warp& w, int lane, uint32_t agent, uint32_t other_lane,
                                  Time time) const {
  const ClockRef& proxied = view(w, lane).knows.proxied;
  return proxied && proxied->knows(agent, other_lane, time);
}

void HappensBefore::set_floor(const Warp& w, View& view) const {
  const uint32_t first = w.block->rank * warps_per_block_;
  Time others = LAST_TIME;
  for (uint32_t i = first; i < first + warps_per_block_; i++) {
    others = i == warp_agent(w) ? others : std::min(others, view.knows.all->known[i]);
  }
  view.others = others;
}

void HappensBefore::split(WarpState& state) {
  if (state.views.size() == 1) {
    state.views.resize(LANES, View(state.views[0]));
  }
}

// One view serves all lanes if they know the same.
void HappensBefore::merge_equal(WarpState& s) {
  bool equal = std::all_of(s.views.begin(), s.views.end(), [&](const View& view) {
    const View& first = s.views[0];
    return view.knows.all == first.knows.all && view.knows.proxied == first.knows.proxied &&
           view.knows.foreign == first.knows.foreign && !view.narrow.knows.all &&
           !first.narrow.knows.all;
  });
  if (equal) {
    s.views.resize(1);
  }
}

// Calls f(view) for the views of the lanes m.
template <class F>
void HappensBefore::each_view(Warp& w, Mask m, F f) {
  WarpState& s = state(w);
  if (s.views.size() == 1 && (w.live & ~m) == 0) {
    f(s.views[0]);
    return;
  }
  split(s);
  for_lanes(m, [&](int l) { f(s.views[l]); });
}

// Adds what the lanes know and have done. Exited lanes do not count as missing.
void HappensBefore::gather(Gathered& into, Warp& w, Mask m) {
  const uint32_t agent = warp_agent(w);
  WarpState& s = state(w);
  if (s.views.size() == 1) {
    into.add(s.views[0].knows);
  } else {
    for_lanes(m, [&](int l) { into.add(s.views[l].knows); });
  }
  if ((w.live & ~m) == 0) {
    into.clock().learn(agent, now_);
  } else {
    into.clock().learn(agent, s.synced);
    for_lanes(m, [&](int l) { into.clock().learn_lane(agent, l, now_); });
  }
}

Knowledge HappensBefore::release(Warp& w, Mask m) {
  Gathered gathered;
  gather(gathered, w, m);
  advance();
  return gathered.take();
}

void HappensBefore::acquire(Warp& w, Mask m, const Knowledge& knowledge) {
  if (!knowledge.all && !knowledge.foreign) {
    return;
  }
  each_view(w, m, [&](View& view) {
    ClockRef before = view.knows.all;
    view.knows.join(knowledge);
    if (view.knows.all != before) {
      set_floor(w, view);
    }
  });
}

void HappensBefore::sync_warp(Warp& w, Mask m) {
  WarpState& s = state(w);
  if ((w.live & ~m) == 0) {
    if (s.views.size() > 1) {
      View all;
      for_lanes(m, [&](int l) {
        all.knows.join(s.views[l].knows);
        all.narrow.knows.join(vouched(w, l, &View::narrow));
        all.wide.knows.join(vouched(w, l, &View::wide));
      });
      set_floor(w, all);
      s.views.assign(1, all);
    }
    s.synced = now_;
    advance();
    return;
  }
  acquire(w, m, release(w, m));
}

void HappensBefore::arrive(Warp& w, const Inst* in, Mask m, int barrier, bool waits) {
  Rounds& rounds = barriers_[16 * w.block->rank + barrier];
  gather(rounds.gathered, w, m);
  rounds.arrivals.push_back({in, warp_agent(w), m, now_});
  rounds.all_wait &= waits;
  advance();
}

const HappensBefore::Arrival* HappensBefore::own_arrival(const Warp& w, Mask m, int barrier) const {
  const Rounds& rounds = barriers_[16 * w.block->rank + barrier];
  if (rounds.all_wait) {
    return nullptr;
  }
  const auto found =
      std::find_if(rounds.arrivals.begin(), rounds.arrivals.end(),
                   [&](const Arrival& a) { return a.agent == warp_agent(w) && (a.lanes & m); });
  return found == rounds.arrivals.end() ? nullptr : &*found;
}

const HappensBefore::Arrival* HappensBefore::unknown_arrival(const Warp& w, Mask m,
                                                             int barrier) const {
  const std::vector<Arrival>& last = barriers_[16 * w.block->rank + barrier].last;
  if (last.empty() || floor(w, m) >= last.back().when) {
    return nullptr;
  }
  for (const Arrival& arrival : last) {
    bool missing = false;
    for_lanes(known(w, m, arrival.agent) >= arrival.when ? 0 : m, [&](int l) {
      for_lanes(arrival.lanes, [&](int other) {
        missing |= !knows(w, l, arrival.agent, static_cast<uint32_t>(other), arrival.when);
      });
    });
    if (missing) {
      return &arrival;
    }
  }
  return nullptr;
}

// Waiting threads have done nothing since they arrived: all of them are known up to now.
void HappensBefore::complete(Block& block, int barrier) {
  Rounds& rounds = barriers_[16 * block.rank + barrier];
  Gathered& gathered = rounds.gathered;
  rounds.last = std::exchange(rounds.arrivals, {});
  rounds.all_wait = true;
  auto waiting = [&](const Warp& w) {
    Mask m = 0;
    for (const Group& g : w.parked) {
      m |= g.state == Group::AtBarrier && g.barrier == barrier ? g.mask : 0;
    }
    return m;
  };
  for (Warp& w : block.warps) {
    const bool exited = w.live == 0 && block.barriers[barrier].expected == 0;
    if (exited || (w.live && waiting(w) == w.live)) {
      gathered.clock().learn(warp_agent(w), now_);
    }
  }
  View view;
  view.knows = gathered.take();
  const auto first = view.knows.all->known.begin() + block.rank * warps_per_block_;
  view.others = *std::min_element(first, first + warps_per_block_);
  // What each thread fenced, one of them may publish for all: the writes were made visible earlier.
  for (Warp& w : block.warps) {
    const bool one = state(w).views.size() == 1;
    for_lanes(one ? waiting(w) & -waiting(w) : waiting(w), [&](int l) {
      view.narrow.knows.join(vouched(w, l, &View::narrow));
      view.wide.knows.join(vouched(w, l, &View::wide));
    });
  }
  for (Warp& w : block.warps) {
    const Mask m = waiting(w);
    if (m && m == w.live) {  // it knew nothing that it did not contribute
      WarpState& s = state(w);
      s.views.assign(1, view);
      s.synced = now_;
    } else if (m) {
      acquire(w, m, view.knows);
    }
  }
  advance();
}

void HappensBefore::arrive_cluster(Warp& w, Mask m, bool relaxed) {
  if (!relaxed) {
    gather(cluster_gathered_, w, m);
    advance();
    return;
  }
  for_lanes(m, [&](int l) {  // the fence before it has done what .release does
    Knowledge released = release_by_store(w, l, false, false);
    if (released.all) {
      cluster_gathered_.add(released);
    }
  });
}

void HappensBefore::complete_cluster() {
  for (auto& block : cluster_->blocks) {
    for (Warp& w : block->warps) {
      if (!w.live) {
        cluster_gathered_.clock().learn(warp_agent(w), now_);
      }
    }
  }
  cluster_complete_.join(cluster_gathered_.take());
}

void HappensBefore::wait_cluster(Warp& w, Mask m) {
  acquire(w, m, cluster_complete_);
  if ((w.live & ~m) == 0) {
    merge_equal(state(w));
  }
}

void HappensBefore::fence(Warp& w, Mask m, bool wide) {
  const uint32_t agent = warp_agent(w);
  const Time synced = state(w).synced;
  each_view(w, m, [&](View& view) {
    view.narrow = {view.knows, now_};
    if (view.knows.all->of(agent) < synced) {
      auto clock = std::make_shared<Clock>(*view.knows.all);
      clock->learn(agent, synced);
      view.narrow.knows.all = clock;
    }
    if (wide) {
      view.wide = view.narrow;
    }
  });
  advance();
}

void HappensBefore::fence_proxy(Warp& w, Mask m) {
  const Knowledge released = release(w, m);
  each_view(w, m,
            [&](View& view) { view.knows.proxied = joined(view.knows.proxied, released.all); });
}

void HappensBefore::learn(Warp& w, Mask m, std::span<const std::pair<uint32_t, Time>> agents) {
  auto clock = std::make_shared<Clock>();
  for (auto [agent, time] : agents) {
    clock->learn(agent, time);
  }
  acquire(w, m, {clock, nullptr, nullptr});
}

Knowledge HappensBefore::release_by_store(Warp& w, int lane, bool releases, bool wide) {
  if (releases) {
    return release(w, Mask{1} << lane);
  }
  const Fence& fence = wide ? view(w, lane).wide : view(w, lane).narrow;
  Knowledge released = fence.knows;
  if (released.all && fence.until) {
    auto clock = std::make_shared<Clock>(*released.all);
    clock->learn_lane(warp_agent(w), lane, fence.until);
    released.all = clock;
  }
  return released;
}

Knowledge HappensBefore::vouched(const Warp& w, int l, Fence View::* which) const {
  const Fence& fence = view(w, l).*which;
  Knowledge out = fence.knows;
  if (out.all && fence.until) {
    auto clock = std::make_shared<Clock>(*out.all);
    if (warps_[warp_agent(w)].views.size() == 1) {
      clock->learn(warp_agent(w), fence.until);
    } else {
      clock->learn_lane(warp_agent(w), l, fence.until);
    }
    out.all = clock;
  }
  return out;
}

void HappensBefore::store_variable(uint64_t address, const Knowledge& released) {
  variables_[address].join(released);
}

void HappensBefore::load_variable(Warp& w, int lane, uint64_t address) {
  auto found = variables_.find(address);
  if (found != variables_.end()) {
    acquire(w, Mask{1} << lane, found->second);
  }
}

MbarrierHistory& HappensBefore::state_of(SharedPlace mbarrier) {
  auto [at, made] = mbarriers_.try_emplace({mbarrier.block, mbarrier.offset});
  if (made) {
    at->second.agent = next_agent_++;
  }
  return at->second;
}

void HappensBefore::arrive_mbarrier(SharedPlace mbarrier, const Knowledge& knowledge) {
  state_of(mbarrier).gathered.add(knowledge);
}

void HappensBefore::arrive_mbarrier(Warp& w, Mask m, SharedPlace mbarrier, bool relaxed) {
  state_of(mbarrier).note_arrival(warp_agent(w), now_);
  if (!relaxed) {
    arrive_mbarrier(mbarrier, release(w, m));
  }
}

void HappensBefore::announce(SharedPlace mbarrier, int64_t bytes) {
  MbarrierHistory& s = state_of(mbarrier);
  s.announced[s.phases % s.announced.size()] += bytes;
}

Time HappensBefore::issue_copy(const Issuer& issuer, SharedPlace mbarrier, uint32_t bytes) {
  const Warp& w = *issuer.warp;
  MbarrierHistory& s = state_of(mbarrier);
  s.issues.push_back({now_, warp_agent(w), static_cast<uint32_t>(issuer.lane), synced(w),
                      view(w, issuer.lane).knows.all, s.phases, bytes});
  advance();
  return s.issues.back().when;
}

void HappensBefore::copied(SharedPlace mbarrier, Time issued) {
  MbarrierHistory& s = state_of(mbarrier);
  s.gathered.clock().learn(s.agent, issued);
}

void HappensBefore::complete_phase(SharedPlace mbarrier) {
  MbarrierHistory& s = state_of(mbarrier);
  s.complete.join(s.gathered.take());
  s.phases++;
  s.announced[s.phases % s.announced.size()] = 0;
  std::erase_if(s.issues, [&](const BulkIssue& issue) { return issue.phases + 2 < s.phases; });
}

Mask HappensBefore::wait_mbarrier(Warp& w, const Inst* in, Mask m, SharedPlace mbarrier,
                                  bool hesitates) {
  MbarrierHistory& s = state_of(mbarrier);
  Answer& answer = s.answer_of(warp_agent(w), in);
  if (answer.phases != s.phases) {
    answer = {answer.agent, in, s.phases};
  }
  Mask not_yet = 0;
  if (hesitates && s.complete.all) {
    const bool one = state(w).views.size() == 1;
    for_lanes(one ? m & -m : m, [&](int l) {
      const ClockRef& known = view(w, l).knows.all;
      const bool learns = known != s.complete.all && !known->covers(*s.complete.all);
      not_yet |= learns ? (one ? m : Mask{1} << l) : 0;
    });
    not_yet &= ~answer.not_yet;
  }
  const Mask yes = m & ~not_yet;
  if (yes) {
    for (Answer& other : s.answers) {  // the lanes know now, whatever else they were told
      other.not_yet &= other.agent == answer.agent ? ~yes : ALL_LANES;
    }
    answer.again = (answer.yes & yes) != 0;
    acquire(w, yes, s.complete);
  }
  answer.yes |= yes;
  answer.not_yet |= not_yet;
  answer.when = now_;
  return yes;
}

}  // namespace wbsim
