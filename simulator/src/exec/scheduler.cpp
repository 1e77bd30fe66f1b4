// scheduler.cpp: which lanes run next: groups of a warp, warps of a block or cluster, and barriers
// between them.

#include <algorithm>
#include <bit>

#include "checks/checker.h"
#include "checks/finding.h"
#include "decode/place.h"
#include "exec/control.h"
#include "exec/lanes.h"
#include "exec/observe.h"
#include "exec/ops/copy_queue.h"
#include "exec/scheduler.h"

namespace wbsim {
namespace {

// How often in a row all waits with a time limit may run out before it counts as a deadlock.
constexpr int MAX_GIVEN_UP = 1000;

// A loop that waits for another warp gives up its turn after so many instructions.
constexpr uint64_t SLICE_POLLING = 32;
constexpr int MAX_POLLING = 16;  // instructions of such a loop

HappensBefore* order_of(const Block& block) {
  Checker* checker = block.cluster->checker.get();
  return checker ? &checker->order() : nullptr;
}

// Makes the ready group with the smallest pc the running one; after a spin, the one with the next
// larger pc, so that a loop that waits for another lane lets that lane continue. Returns its pc, or
// HALT if no group is ready.
const Inst* pick_group(Warp& w) {
  const Group* best = nullptr;
  const Group* after = nullptr;
  for (const Group& g : w.parked) {
    if (g.state != Group::Ready) {
      continue;
    }
    if (!best || g.pc < best->pc) {
      best = &g;
    }
    if (w.spun && g.pc > w.spun && (!after || g.pc < after->pc)) {
      after = &g;
    }
  }
  w.spun = nullptr;
  if (!best) {
    return HALT;
  }
  const Inst* pc = after ? after->pc : best->pc;
  w.mask = 0;
  w.stop = HALT;
  std::erase_if(w.parked, [&](const Group& g) {
    if (g.state != Group::Ready) {
      return false;
    }
    if (g.pc == pc) {
      w.mask |= g.mask;
      return true;
    }
    if (g.pc > pc) {
      w.stop = std::min(w.stop, g.pc);
    }
    return false;
  });
  return pc;
}

void park(Warp& w, const Inst* pc) {
  w.parked.push_back({pc, w.mask, Group::Ready});
  w.mask = 0;
}

bool is_ready(const Warp& w) {
  return std::any_of(w.parked.begin(), w.parked.end(),
                     [](const Group& g) { return g.state == Group::Ready; });
}

Mask waiting_at(const Warp& w, int barrier) {
  Mask m = 0;
  for (const Group& g : w.parked) {
    if (g.state == Group::AtBarrier && g.barrier == barrier) {
      m |= g.mask;
    }
  }
  return m;
}

// Reports what makes an arrival at a barrier meet the wrong threads: two counts, or threads of the
// last round that may not be there yet.
void check_arrival(const Warp& w, const Inst* in, Mask m, int id, int threads) {
  const Block& block = *w.block;
  const Barrier& b = block.barriers[id];
  const int all = LANES * static_cast<int>(block.warps.size());
  auto count = [&](int named) { return named ? named : all; };
  const std::string name = "barrier " + std::to_string(id);
  auto fail = [&](const std::string& message, const Inst* other, const char* what,
                  const char* hint) {
    Finding f = finding_at(w, in, std::countr_zero(m), "synccheck", name + message);
    f.other_what = what;
    f.hint = hint;
    set_other(f, *block.kernel->module,
              *block.kernel->info[other - block.kernel->code.data()].source);
    throw f;
  };
  if (b.arrived && count(b.expected) != count(threads)) {
    fail(" is for " + std::to_string(count(threads)) + " threads here, and for " +
             std::to_string(count(b.expected)) + " where others wait for it",
         b.first, "the others",
         "all threads of a barrier name the same count: those that arrive and those that wait, "
         "together. Another group of threads needs a barrier of its own (ids 1 to 15)");
  }
  const Checker* checker = block.cluster->checker.get();
  if (!checker || !checker->races()) {
    return;
  }
  HappensBefore* order = order_of(block);
  if (const HappensBefore::Arrival* before = order->own_arrival(w, m, id)) {
    fail(": the thread arrives again, and others of this round have yet to arrive", before->in,
         "its earlier arrival",
         "a thread that arrives without waiting (bar.arrive) must know that a round is over before "
         "it arrives again: let the others arrive at a second barrier when they are done, and let "
         "it wait there");
  }
  if (const HappensBefore::Arrival* other = order->unknown_arrival(w, m, id)) {
    fail(
        " may mix two groups of threads: this one does not know that the round before, with warp " +
            std::to_string(other->agent % block.warps.size()) + ", is over",
        other->in, "that arrival",
        "give each group of threads a barrier of its own (ids 1 to 15), or let one wait until the "
        "other has left the barrier. Is the count that of all threads that meet here?");
  }
}

// Writes what bar.red returns to the lanes that waited for it.
void give_result(Warp& w, const Group& g, const Barrier& barrier) {
  const Inst* at = g.pc - 1;  // the group continues after its barrier
  auto result = static_cast<BarrierResult>(at->imm);
  if (result == BarrierResult::Count) {
    for_lanes(g.mask, [&](int l) { w.reg<uint32_t>(at->dst)[l] = barrier.votes; });
  } else if (result != BarrierResult::None) {
    bool yes = result == BarrierResult::All ? barrier.votes == barrier.voters : barrier.votes > 0;
    Mask& p = w.pred(at->dst);
    p = (p & ~g.mask) | (yes ? g.mask : 0);
  }
}

// Releases everything that waits at a complete barrier.
void complete_barriers(Block& block) {
  for (int id = 0; id < 16; id++) {
    Barrier& b = block.barriers[id];
    int expected = b.expected ? b.expected : LANES * block.live_warps;
    if (b.arrived == 0 || b.arrived < expected) {
      continue;
    }
    if (HappensBefore* order = order_of(block)) {
      order->complete(block, id);
      block.ended_at_barrier = static_cast<int>(block.worker->launch->num_threads());
      for (const Warp& w : block.warps) {
        block.ended_at_barrier -= std::popcount(w.live);
      }
    }
    const Barrier complete = b;
    b = {};
    for (Warp& w : block.warps) {
      for (Group& g : w.parked) {
        if (g.state == Group::AtBarrier && g.barrier == id) {
          g.state = Group::Ready;
          give_result(w, g, complete);
        }
      }
    }
  }
}

// Lanes parked at a warp-wide instruction continue once the lanes they wait for are there or have
// exited.
void release_warp_syncs(Warp& w) {
  for (Group& g : w.parked) {
    if (g.state != Group::AtWarpSync) {
      continue;
    }
    Mask there = 0;
    for (const Group& other : w.parked) {
      if (other.state == Group::AtWarpSync && other.pc == g.pc) {
        there |= other.active;
      }
    }
    if ((g.members & w.live & ~there) == 0) {
      const Inst* pc = g.pc;
      for (Group& other : w.parked) {
        if (other.state == Group::AtWarpSync && other.pc == pc) {
          other.state = Group::Ready;
        }
      }
    }
  }
}

// Releases everything that waits at the cluster's barrier once every live lane has arrived.
void complete_cluster_barrier(Cluster& cluster) {
  for (auto& block : cluster.blocks) {
    for (const Warp& w : block->warps) {
      if (w.live & ~w.at_cluster) {
        return;
      }
    }
  }
  for (auto& block : cluster.blocks) {
    for (Warp& w : block->warps) {
      w.at_cluster = 0;
    }
  }
  if (cluster.checker) {
    cluster.checker->order().complete_cluster();
  }
  cluster.barrier_phase = ~cluster.barrier_phase;
  cluster.met = true;
  notify(cluster);
}

// The lanes of the running group that an instruction's guard lets through.
inline Mask guarded(Warp& w, const Inst* in, Mask m, Worker::RunCount& count, Checker* checker) {
  if (in->guard < 0) {
    return m;
  }
  if (checker && w.undefined) [[unlikely]] {
    checker->undefined().guard(w, in, m);
  }
  Mask p = w.pred(in->guard);
  p = in->guard_negated ? ~p : p;
  count.skipped += std::popcount(m & ~p);
  return m & p;
}

// Reports what the instruction is about to do.
inline void before(Warp& w, const Inst* in, Mask m, const InstInfo& info, Checker* checker) {
  if (checker && w.undefined) [[unlikely]] {
    checker->undefined().execute(w, in, m);
  }
  if (info.observed) {
    observe(w, in, m);
  }
  if (w.block->kernel->uses_products && checker && checker->races()) {
    checker->accumulators().execute(checker->order().warp_agent(w), w, in, info, m);
  }
}

// Whether the loop from first to last does nothing but look at memory that others change.
bool is_polling(const Kernel& kernel, const Inst* first, const Inst* last) {
  if (last - first >= MAX_POLLING) {
    return false;
  }
  const InstInfo* const info = kernel.info.data() + (first - kernel.code.data());
  bool looks = false;
  for (ptrdiff_t i = 0; i <= last - first; i++) {
    if (info[i].kind == InstInfo::Store) {
      return false;
    }
    looks |= info[i].strong && (info[i].kind == InstInfo::Load || info[i].compares);
  }
  return looks;
}

// Runs a warp until all its groups wait or have exited, or its time is up: then it has spun.
// OBSERVED: memory instructions report what they touch.
template <bool OBSERVED>
bool run_warp(Worker& worker, Warp& w) {
  const Inst* in = pick_group(w);
  const Inst* const code = w.block->kernel->code.data();
  const InstInfo* const info = w.block->kernel->info.data();
  Worker::RunCount* const counts = worker.counts.data();
  Checker* const checker = OBSERVED ? w.block->cluster->checker.get() : nullptr;
  uint64_t executed = 0, slice = std::min(worker.slice, SLICE_POLLING);
  bool spun = false;
  while (in != HALT) {
    const Mask all = w.mask;
    Worker::RunCount* count = &counts[in - code];
    count->warps++;
    count->threads += std::popcount(all);
    executed += in->run_length;
    const Inst* to;
    if (in->run_length > 1) {
      const Inst* const end = in + in->run_length;
      do {
        if (Mask m = guarded(w, in, all, *count, checker)) {
          if (OBSERVED) {
            before(w, in, m, info[in - code], checker);
          }
          in->run(w, in, m);
          if (OBSERVED && checker) {
            checker->executed();
          }
        }
        in++;
        count++;
      } while (in != end);
      if (end < w.stop) {
        continue;
      }
      to = end;
    } else {
      Mask m = guarded(w, in, all, *count, checker);
      if (OBSERVED && m) {
        before(w, in, m, info[in - code], checker);
      }
      to = m ? in->run(w, in, m) : next(in);
      if (OBSERVED && checker) {
        checker->executed();
      }
      if (to == next(in) && to < w.stop) {
        in = to;
        continue;
      }
      if (to == HALT) {
        if (executed >= worker.slice && is_ready(w)) {  // a loop of jumps that split the group
          w.spun = in;
        }
        if (w.spun) {
          spun = true;
          break;
        }
        in = pick_group(w);
        continue;
      }
      if (to <= in && executed >= slice) {
        if (executed >= worker.slice || is_polling(*w.block->kernel, to, in)) {
          yield(w, to);
          spun = true;
          break;
        }
        slice = worker.slice;
      }
    }
    if (to >= w.stop) {
      park(w, to);
      to = pick_group(w);
    }
    in = to;
  }
  w.block->cluster->instructions += executed;
  return spun;
}

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

// The order in which the warps take their next turn.
void order_warps(Cluster& cluster, std::vector<Warp*>& order) {
  order.clear();
  for (auto& block : cluster.blocks) {
    for (Warp& w : block->warps) {
      order.push_back(&w);
    }
  }
  switch (cluster.worker->launch->settings.order) {
    case Order::Ascending:
      break;
    case Order::Descending:
      std::reverse(order.begin(), order.end());
      break;
    case Order::Random:
      for (size_t i = order.size(); i > 1; i--) {
        std::swap(order[i - 1], order[next_random(cluster.random) % i]);
      }
      break;
  }
}

// Lets the waits with a time limit give up, as nothing else can happen. False: there are none, or
// this has happened too many times in a row.
bool give_up(Cluster& cluster) {
  if (cluster.given_up++ >= MAX_GIVEN_UP) {
    return false;
  }
  bool any = false;
  each_waiting(cluster, [&](Warp& w, Group& g) {
    if (g.gives_up) {
      g.state = Group::Ready;
      w.expired |= g.mask;
      any = true;
    }
  });
  return any;
}

}  // namespace

const Inst* branch(Warp& w, const Inst* in, Mask taken, const Inst* target) {
  Mask rest = w.mask & ~taken;
  if (!rest) {
    return target;
  }
  // Both ways are live: the smaller pc goes first, the other waits where the two may meet.
  bool forward = target > in;
  Group other = forward ? Group{target, taken} : Group{next(in), rest};
  w.mask = forward ? rest : taken;
  w.parked.push_back(other);
  w.stop = std::min(w.stop, other.pc);
  return forward ? next(in) : target;
}

const Inst* exit_lanes(Warp& w, const Inst* in, Mask m) {
  Block& block = *w.block;
  Checker* checker = block.cluster->checker.get();
  checker = checker && checker->races() ? checker : nullptr;
  if (checker) {
    checker->exits(w, m);
  }
  w.live &= ~m;
  w.mask &= ~m;
  if (checker) {
    check_exit(w, m);
  }
  complete_cluster_barrier(*block.cluster);
  if (!w.live) {
    if (--block.live_warps == 0) {
      if (checker) {
        checker->ended(block);
        check_set_registers(block);
      }
      finish_copies(block);
    }
    complete_barriers(block);
    return HALT;
  }
  for (int id = 0; id < 16; id++) {
    if (waiting_at(w, id) == w.live) {
      block.barriers[id].arrived += LANES - std::popcount(w.live);
      complete_barriers(block);
    }
  }
  release_warp_syncs(w);
  if (w.mask) {
    w.parked.push_back({next(in), w.mask, Group::Ready});
  }
  return HALT;
}

const Inst* arrive_barrier(Warp& w, const Inst* in, Mask m, int id, int threads, bool wait,
                           Mask votes) {
  Block& block = *w.block;
  Barrier& b = block.barriers[id];
  check_arrival(w, in, m, id, threads);
  if (HappensBefore* order = order_of(block)) {
    order->arrive(w, in, m, id, wait);
  }
  b.first = b.arrived ? b.first : in;
  b.expected = threads;
  b.arrived += std::popcount(m);
  b.voters += std::popcount(m);
  b.votes += std::popcount(m & votes);
  if ((m | waiting_at(w, id)) == w.live) {
    b.arrived += LANES - std::popcount(w.live);
  }
  if (!wait) {
    complete_barriers(block);
    return next(in);
  }
  if (Mask rest = w.mask & ~m) {
    w.parked.push_back({next(in), rest, Group::Ready});  // lanes whose guard was false continue
  }
  w.parked.push_back({next(in), m, Group::AtBarrier, static_cast<uint8_t>(id)});
  w.mask = 0;
  int expected = b.expected ? b.expected : LANES * block.live_warps;
  if (b.arrived >= expected) {
    complete_barriers(block);
  }
  return HALT;
}

const Inst* scatter(Warp& w, const Inst* in, Mask m, const Inst* const targets[LANES]) {
  const Inst* first = targets[std::countr_zero(m)];
  bool uniform = m == w.mask;
  for_lanes(m, [&](int l) { uniform &= targets[l] == first; });
  if (uniform) {
    return first;
  }
  if (Mask rest = w.mask & ~m) {
    w.parked.push_back({next(in), rest, Group::Ready});
  }
  for (Mask left = m; left;) {
    const Inst* to = targets[std::countr_zero(left)];
    Mask same = 0;
    for_lanes(left, [&](int l) { same |= static_cast<Mask>(targets[l] == to) << l; });
    w.parked.push_back({to, same, Group::Ready});
    left &= ~same;
  }
  w.mask = 0;
  return HALT;
}

const Inst* wait_here(Warp& w, const Inst* in, Mask m, bool gives_up) {
  if (Mask rest = w.mask & ~m) {
    w.parked.push_back({next(in), rest, Group::Ready});
  }
  w.parked.push_back({in, m, Group::AtEvent, 0, 0, 0, gives_up});
  w.mask = 0;
  return HALT;
}

void notify(Cluster& cluster) {
  cluster.given_up = 0;
  each_waiting(cluster, [](Warp&, Group& g) {
    if (g.state == Group::AtEvent) {
      g.state = Group::Ready;
    }
  });
}

const Inst* yield(Warp& w, const Inst* to) {
  w.spun = to;
  park(w, to);
  return HALT;
}

const Inst* arrive_cluster(Warp& w, const Inst* in, Mask m, bool relaxed) {
  Cluster& cluster = *w.block->cluster;
  if (Mask twice = m & w.at_cluster) {
    throw finding_at(w, in, std::countr_zero(twice), "synccheck",
                     "the thread arrives at the cluster's barrier again without having waited");
  }
  if (HappensBefore* order = order_of(*w.block)) {
    order->arrive_cluster(w, m, relaxed);
  }
  w.at_cluster |= m;
  w.cluster_phase = (w.cluster_phase & ~m) | (cluster.barrier_phase & m);
  complete_cluster_barrier(cluster);
  return next(in);
}

const Inst* wait_cluster(Warp& w, const Inst* in, Mask m) {
  bool passed = ((w.cluster_phase ^ w.block->cluster->barrier_phase) & m) == m;
  if (!passed) {
    return wait_here(w, in, m, false);
  }
  if (HappensBefore* order = order_of(*w.block)) {
    order->wait_cluster(w, m);
  }
  return next(in);
}

Turn run_turn(Cluster& cluster) {
  Worker& worker = *cluster.worker;
  const uint64_t limit = worker.launch->settings.instruction_limit * cluster.blocks.size();
  order_warps(cluster, worker.order);
  const bool observed = worker.launch->observed();
  bool ran = false, spun = true;
  for (Warp* w : worker.order) {
    if (is_ready(*w)) {
      spun &= observed ? run_warp<true>(worker, *w) : run_warp<false>(worker, *w);
      ran = true;
    }
    if (worker.stop->load(std::memory_order_relaxed) ||
        worker.interrupted->load(std::memory_order_relaxed)) {
      return Turn::Advanced;
    }
    if (cluster.instructions > limit) {
      throw limit_reached(cluster, *w);
    }
  }
  bool live = std::any_of(cluster.blocks.begin(), cluster.blocks.end(),
                          [](const auto& block) { return block->live_warps > 0; });
  if (!live) {
    return Turn::Finished;
  }
  if (!ran && !give_up(cluster)) {
    throw deadlock(cluster);
  }
  return ran && spun ? Turn::Spun : Turn::Advanced;
}

}  // namespace wbsim
