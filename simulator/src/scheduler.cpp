// scheduler.cpp: which lanes run next. Groups of a warp, warps of a block, barriers between them.

#include <algorithm>
#include <bit>

#include "warp.h"

namespace wbsim {
namespace {

constexpr uint64_t SLICE = 1 << 16;  // instructions a warp may run before the others get a turn

// Makes the ready group with the smallest pc the running one; after a spin the next larger one, so
// that a loop that waits for another lane lets that lane go on. Returns its pc, or HALT if no group
// is ready.
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

// Lets everyone go who waits at a barrier that is complete.
void complete_barriers(Block& block) {
  for (int id = 0; id < 16; id++) {
    Barrier& b = block.barriers[id];
    int expected = b.expected ? b.expected : LANES * block.live_warps;
    if (b.arrived == 0 || b.arrived < expected) {
      continue;
    }
    b = {};
    for (Warp& w : block.warps) {
      for (Group& g : w.parked) {
        if (g.state == Group::AtBarrier && g.barrier == id) {
          g.state = Group::Ready;
        }
      }
    }
  }
}

// Lanes parked at a warp-wide instruction go on once the lanes they wait for are there or have
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

// Runs a warp until all its groups wait or have exited, or its time is over.
void run_warp(Worker& worker, Warp& w) {
  const Inst* in = pick_group(w);
  if (in == HALT) {
    return;
  }
  const Inst* const code = worker.block.kernel->code.data();
  Count* const counts = worker.counts.data();
  uint64_t executed = 0;
  while (true) {
    Mask m = w.mask;
    if (in->guard >= 0) {
      Mask p = w.pred(in->guard);
      m &= in->guard_negated ? ~p : p;
    }
    Count& count = counts[in - code];
    count.warps++;
    count.threads += std::popcount(m);
    executed++;
    const Inst* to = m ? in->run(w, in, m) : next(in);
    if (to == next(in) && to < w.stop) {
      in = to;
      continue;
    }
    if (to == HALT) {
      in = pick_group(w);
      if (in == HALT) {
        break;
      }
      continue;
    }
    if (to <= in && executed >= SLICE) {
      w.spun = to;
      park(w, to);
      break;
    }
    if (to >= w.stop) {
      park(w, to);
      to = pick_group(w);
    }
    in = to;
  }
  worker.instructions += executed;
}

void place_thread(const Launch& launch, uint32_t thread, uint32_t out[3]) {
  out[0] = thread % launch.block[0];
  out[1] = thread / launch.block[0] % launch.block[1];
  out[2] = thread / (launch.block[0] * launch.block[1]);
}

uint64_t special_value(const Launch& launch, const Warp& w, Special special, int lane) {
  uint32_t tid[3];
  place_thread(launch, w.index * LANES + lane, tid);
  const uint32_t* ctaid = w.block->ctaid;
  Mask eq = 1u << lane;
  switch (special) {
    case Special::TidX:
      return tid[0];
    case Special::TidY:
      return tid[1];
    case Special::TidZ:
      return tid[2];
    case Special::NtidX:
      return launch.block[0];
    case Special::NtidY:
      return launch.block[1];
    case Special::NtidZ:
      return launch.block[2];
    case Special::CtaidX:
      return ctaid[0];
    case Special::CtaidY:
      return ctaid[1];
    case Special::CtaidZ:
      return ctaid[2];
    case Special::NctaidX:
      return launch.grid[0];
    case Special::NctaidY:
      return launch.grid[1];
    case Special::NctaidZ:
      return launch.grid[2];
    case Special::LaneId:
      return lane;
    case Special::WarpId:
      return w.index;
    case Special::NWarpId:
      return w.block->warps.size();
    case Special::LaneMaskEq:
      return eq;
    case Special::LaneMaskLe:
      return eq | (eq - 1);
    case Special::LaneMaskLt:
      return eq - 1;
    case Special::LaneMaskGe:
      return ~(eq - 1);
    case Special::LaneMaskGt:
      return ~(eq | (eq - 1));
    case Special::DynamicSmemSize:
      return launch.dynamic_shared;
    case Special::TotalSmemSize:
      return w.block->shared_bytes;
    case Special::SmId:
      return w.block->index % NUM_SMS;
    case Special::NSmId:
      return NUM_SMS;
    case Special::GridId:
      return launch.number;
    case Special::WarpSize:
      return LANES;
    default:
      return 0;
  }
}

void fill_specials(const Launch& launch, Warp& w, bool first_block) {
  for (auto& s : launch.kernel->specials) {
    bool changes = (s.special >= Special::CtaidX && s.special <= Special::CtaidZ) ||
                   s.special == Special::SmId;
    if (!first_block && !changes) {
      continue;
    }
    for (int lane = 0; lane < LANES; lane++) {
      uint64_t value = special_value(launch, w, s.special, lane);
      if (s.wide) {
        w.reg<uint64_t>(s.slot)[lane] = value;
      } else {
        w.reg<uint32_t>(s.slot)[lane] = static_cast<uint32_t>(value);
      }
    }
  }
}

// Buffers of a worker, once a launch.
void prepare(Worker& worker) {
  const Launch& launch = *worker.launch;
  const Kernel& kernel = *launch.kernel;
  Block& block = worker.block;
  size_t num_warps = (launch.num_threads() + LANES - 1) / LANES;
  block.kernel = &kernel;
  block.worker = &worker;
  block.params = launch.params.data();
  block.shared_bytes = kernel.shared_bytes + launch.dynamic_shared;
  worker.shared.assign(block.shared_bytes, 0xff);
  block.shared = worker.shared.data();
  worker.frames.assign(num_warps * kernel.frame.size(), 0xff);
  worker.local.assign(num_warps * LANES * kernel.local_bytes, 0xff);
  block.warps.resize(num_warps);
  for (size_t i = 0; i < num_warps; i++) {
    Warp& w = block.warps[i];
    w.index = static_cast<int>(i);
    w.block = &block;
    w.frame = worker.frames.data() + i * kernel.frame.size();
    std::memcpy(w.frame, kernel.frame.data(), kernel.frame.size());
    w.local = worker.local.data() + i * LANES * kernel.local_bytes;
  }
}

// Registers, shared and local memory start as NaN bytes in every block, so that what nobody wrote
// shows in the result.
void start_block(Worker& worker, uint64_t index) {
  const Launch& launch = *worker.launch;
  Block& block = worker.block;
  bool first = block.kernel == nullptr;
  if (first) {
    prepare(worker);
  } else {
    std::memset(block.shared, 0xff, block.shared_bytes);
    std::memset(worker.local.data(), 0xff, block.warps.size() * LANES * launch.kernel->local_bytes);
    for (Warp& w : block.warps) {
      std::memset(w.frame, 0xff, launch.kernel->register_bytes);
    }
  }
  block.index = index;
  block.ctaid[0] = index % launch.grid[0];
  block.ctaid[1] = index / launch.grid[0] % launch.grid[1];
  block.ctaid[2] = index / (uint64_t{launch.grid[0]} * launch.grid[1]);
  std::fill(std::begin(block.barriers), std::end(block.barriers), Barrier{});
  block.live_warps = static_cast<int>(block.warps.size());
  worker.instructions = 0;
  worker.random = launch.settings.seed * 0x9e3779b97f4a7c15ull + index + 1;
  for (Warp& w : block.warps) {
    uint32_t threads = launch.num_threads() - w.index * LANES;
    w.live = threads >= LANES ? ALL_LANES : (1u << threads) - 1;
    w.carry = 0;
    w.spun = nullptr;
    w.parked.assign(1, {launch.kernel->code.data(), w.live, Group::Ready});
    fill_specials(launch, w, first);
  }
}

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

// The order in which the warps take their next turn.
void order_warps(Worker& worker, std::vector<int>& order) {
  switch (worker.launch->settings.order) {
    case Order::Ascending:
      break;
    case Order::Descending:
      std::sort(order.begin(), order.end(), std::greater<int>());
      break;
    case Order::Random:
      for (size_t i = order.size(); i > 1; i--) {
        std::swap(order[i - 1], order[next_random(worker.random) % i]);
      }
      break;
  }
}

// Every thread waits for something that cannot happen any more.
Finding deadlock(Block& block) {
  const Group* first = nullptr;
  const Warp* where = nullptr;
  std::string text;
  for (const Warp& w : block.warps) {
    for (const Group& g : w.parked) {
      if (!first) {
        first = &g;
        where = &w;
      }
    }
  }
  int at_barrier = 0, at_sync = 0;
  for (const Warp& w : block.warps) {
    for (const Group& g : w.parked) {
      (g.state == Group::AtBarrier ? at_barrier : at_sync) += std::popcount(g.mask);
    }
  }
  // The parked pc of a barrier is behind it.
  const Inst* at = first->state == Group::AtBarrier ? first->pc - 1 : first->pc;
  text = "deadlock: " + std::to_string(at_barrier) + " threads wait at a barrier and " +
         std::to_string(at_sync) + " at a warp-wide instruction that the other threads never reach";
  return finding_at(*where, at, std::countr_zero(first->mask), "synccheck", text);
}

}  // namespace

const Inst* branch(Warp& w, const Inst* in, Mask taken, const Inst* target) {
  Mask rest = w.mask & ~taken;
  if (!rest) {
    return target;
  }
  // Both ways are live: the smaller pc goes first, the other one waits where the two may meet.
  bool forward = target > in;
  Group other = forward ? Group{target, taken} : Group{next(in), rest};
  w.mask = forward ? rest : taken;
  w.parked.push_back(other);
  w.stop = std::min(w.stop, other.pc);
  return forward ? next(in) : target;
}

const Inst* exit_lanes(Warp& w, const Inst* in, Mask m) {
  Block& block = *w.block;
  w.live &= ~m;
  w.mask &= ~m;
  if (!w.live) {
    block.live_warps--;
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

const Inst* arrive_barrier(Warp& w, const Inst* in, Mask m, int id, int threads, bool wait) {
  Block& block = *w.block;
  Barrier& b = block.barriers[id];
  b.expected = (threads + LANES - 1) / LANES * LANES;
  b.arrived += std::popcount(m);
  if ((m | waiting_at(w, id)) == w.live) {
    b.arrived += LANES - std::popcount(w.live);
  }
  if (!wait) {
    complete_barriers(block);
    return next(in);
  }
  if (Mask rest = w.mask & ~m) {
    w.parked.push_back({next(in), rest, Group::Ready});  // lanes whose guard was false go on
  }
  w.parked.push_back({next(in), m, Group::AtBarrier, static_cast<uint8_t>(id)});
  w.mask = 0;
  int expected = b.expected ? b.expected : LANES * block.live_warps;
  if (b.arrived >= expected) {
    complete_barriers(block);
  }
  return HALT;
}

void run_block(Worker& worker, uint64_t block_index) {
  start_block(worker, block_index);
  Block& block = worker.block;
  std::vector<int> order(block.warps.size());
  for (size_t i = 0; i < order.size(); i++) {
    order[i] = static_cast<int>(i);
  }
  while (block.live_warps > 0) {
    order_warps(worker, order);
    bool progress = false;
    for (int i : order) {
      Warp& w = block.warps[i];
      if (is_ready(w)) {
        run_warp(worker, w);
        progress = true;
      }
      if (worker.stop->load(std::memory_order_relaxed) ||
          worker.interrupted->load(std::memory_order_relaxed)) {
        return;
      }
      if (worker.instructions > worker.launch->settings.instruction_limit) {
        const Group* g = w.parked.empty() ? nullptr : &w.parked.back();
        throw finding_at(
            w, g ? g->pc : block.kernel->code.data(), g ? std::countr_zero(g->mask) : -1, "limit",
            "the block ran more than " + std::to_string(worker.launch->settings.instruction_limit) +
                " warp instructions; is this loop endless?");
      }
    }
    if (!progress) {
      throw deadlock(block);
    }
  }
}

}  // namespace wbsim
