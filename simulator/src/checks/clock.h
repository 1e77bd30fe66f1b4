// clock.h: what a thread knows to have happened: for every agent, everything up to some time.
//
// Races are found by happens-before (vector clocks, as in FastTrack, Flanagan and Freund 2009). The
// time of a cluster of blocks advances whenever any of its threads synchronises. An agent is what
// accesses memory: a warp, the wgmma of a warp, the bulk stores of a warp, or the copies that signal
// an mbarrier. An access at time t is ordered before another one if the thread of the latter
// knows the former's agent up to t.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace wbsim {

using Time = uint32_t;
constexpr int TIME_BITS = 26;
constexpr Time LAST_TIME = (1u << TIME_BITS) - 1;

// Which lane it was, in six bits: 0 to 31; 32 for one or more of all lanes, 33 and 34 for a half of
// the warp, 35 to 38 for a quarter, and so on, numbered like the nodes of a tree.
constexpr uint32_t node_of(uint32_t lane_code) {
  return lane_code < 32 ? lane_code + 32 : lane_code - 31;
}
// The smallest group that contains all lanes of two codes.
constexpr uint32_t joined_lanes(uint32_t a, uint32_t b) {
  uint32_t x = node_of(a), y = node_of(b);
  const int deeper = std::bit_width(x) - std::bit_width(y);
  x >>= std::max(deeper, 0);
  y >>= std::max(-deeper, 0);
  x >>= std::bit_width(x ^ y);
  return x < 32 ? x + 31 : x - 32;
}
// The lanes of a code, as a mask.
constexpr uint32_t lanes_of(uint32_t lane_code) {
  uint32_t first = node_of(lane_code), count = 1;
  for (; first < 32; first *= 2) {
    count *= 2;
  }
  return (count == 32 ? ~0u : (1u << count) - 1) << (first - 32);
}

struct Clock {
  std::vector<Time> known;  // by agent; 0 beyond its end
  // Single lanes that are known to a later time than their warp: warp * 32 + lane, in order.
  std::vector<std::pair<uint32_t, Time>> lanes;

  Time of(uint32_t agent) const { return agent < known.size() ? known[agent] : 0; }

  bool knows(uint32_t agent, uint32_t lane, Time time) const {
    if (of(agent) >= time) {
      return true;
    }
    if (lane >= 32) {  // several lanes, or an agent without lanes
      return false;
    }
    const uint32_t key = agent * 32 + lane;
    for (auto& [thread, until] : lanes) {
      if (thread == key) {
        return until >= time;
      }
    }
    return false;
  }

  void learn(uint32_t agent, Time time) {
    if (agent >= known.size()) {
      known.resize(agent + 1, 0);
    }
    known[agent] = std::max(known[agent], time);
  }

  void learn_lane(uint32_t agent, uint32_t lane, Time time) {
    const auto key = std::make_pair(agent * 32 + lane, Time{0});
    auto at = std::lower_bound(lanes.begin(), lanes.end(), key);
    if (at != lanes.end() && at->first == key.first) {
      at->second = std::max(at->second, time);
    } else {
      lanes.insert(at, {key.first, time});
    }
  }

  void join(const Clock& other) {
    if (other.known.size() > known.size()) {
      known.resize(other.known.size(), 0);
    }
    for (size_t i = 0; i < other.known.size(); i++) {
      known[i] = std::max(known[i], other.known[i]);
    }
    for (auto& [thread, until] : other.lanes) {
      learn_lane(thread / 32, thread % 32, until);
    }
    std::erase_if(lanes, [&](auto& lane) { return of(lane.first / 32) >= lane.second; });
  }

  bool covers(const Clock& other) const {
    for (size_t i = 0; i < other.known.size(); i++) {
      if (other.known[i] > of(static_cast<uint32_t>(i))) {
        return false;
      }
    }
    return std::all_of(other.lanes.begin(), other.lanes.end(), [&](auto& lane) {
      return knows(lane.first / 32, lane.first % 32, lane.second);
    });
  }
};

using ClockRef = std::shared_ptr<const Clock>;  // nullptr: nothing

inline ClockRef joined(const ClockRef& a, const ClockRef& b) {
  if (!b || a == b) {
    return a;
  }
  if (!a || b->covers(*a)) {
    return b;
  }
  if (a->covers(*b)) {
    return a;
  }
  auto both = std::make_shared<Clock>(*a);
  both->join(*b);
  return both;
}

struct Foreign;                                     // what is known of other clusters (foreign.h)
using ForeignRef = std::shared_ptr<const Foreign>;  // nullptr: nothing
ForeignRef joined(const ForeignRef& a, const ForeignRef& b);

// What is known within the cluster, how much of it a proxy fence has made visible to asynchronous
// copies and wgmma, and what is known of other clusters.
struct Knowledge {
  ClockRef all, proxied;
  ForeignRef foreign;

  void join(const Knowledge& other) {
    all = joined(all, other.all);
    proxied = joined(proxied, other.proxied);
    foreign = joined(foreign, other.foreign);
  }
};

// What arrivals at a barrier gather.
class Gathered {
 public:
  void add(const Knowledge& knowledge) {
    if (knowledge.all && knowledge.all != last_) {
      all_.join(*knowledge.all);
      last_ = knowledge.all;
    }
    proxied_ = joined(proxied_, knowledge.proxied);
    foreign_ = joined(foreign_, knowledge.foreign);
  }
  Clock& clock() { return all_; }
  Knowledge take() {
    Knowledge out{std::make_shared<Clock>(std::move(all_)), std::move(proxied_),
                  std::move(foreign_)};
    *this = {};
    return out;
  }

 private:
  Clock all_;
  ClockRef proxied_, last_;
  ForeignRef foreign_;
};

}  // namespace wbsim
