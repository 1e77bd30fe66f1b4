// control_ops.cpp: branches, exits, block barriers, fences, trap.

#include <atomic>

#include "checks/checker.h"
#include "checks/finding.h"
#include "exec/block.h"
#include "decode/place.h"
#include "exec/control.h"
#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/members.h"
#include "exec/ops/predicates.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

const Inst* nothing(Warp&, const Inst* in, Mask) { return next(in); }

const Inst* bra(Warp& w, const Inst* in, Mask m) {
  return branch(w, in, m, w.block->kernel->code.data() + in->target);
}

void build_bra(Decode& d) {
  d.take("uni");
  d.inst.target = d.label(d.arg(0).symbol);
  d.inst.run = bra;
}

// inst.list: the targets; inst.a: slot of the index into them.
const Inst* brx(Warp& w, const Inst* in, Mask m) {
  const Inst* code = w.block->kernel->code.data();
  const uint32_t* index = w.reg<uint32_t>(in->a);
  const Inst* targets[LANES];
  for_lanes(m, [&](int l) {
    if (index[l] >= in->count) {
      throw finding_at(w, in, l, "trap",
                       "brx.idx takes target " + std::to_string(index[l]) + " of a list of " +
                           std::to_string(in->count));
    }
    targets[l] = code + in->list[index[l]];
  });
  return scatter(w, in, m, targets);
}

void build_brx(Decode& d) {
  d.take("uni");
  auto found = d.function.source->targets.find(d.arg(1).symbol);
  if (!d.take("idx") || found == d.function.source->targets.end() ||
      found->second.size() > UINT16_MAX) {
    throw Unsupported{};
  }
  std::vector<uint32_t>& targets = d.function.targets[found->first];
  for (size_t i = targets.size(); i < found->second.size(); i++) {
    targets.push_back(static_cast<uint32_t>(d.label(found->second[i])));
  }
  d.inst.a = d.src(0, Type::U32);
  d.inst.count = static_cast<uint16_t>(targets.size());
  d.inst.list = targets.data();
  d.inst.run = brx;
}

const Inst* leave(Warp& w, const Inst* in, Mask m) { return exit_lanes(w, in, m); }

void build_exit(Decode& d) { d.inst.run = leave; }

const Inst* sleep(Warp& w, const Inst* in, Mask) { return yield(w, next(in)); }

// Lets the other warps continue; how long it takes does not matter here.
void build_nanosleep(Decode& d) {
  d.take_type();
  d.src(0, Type::U32);
  d.inst.run = sleep;
}

// Which lane of the member mask leads: the lowest (PTX ISA, elect.sync).
const Inst* elect(Warp& w, const Inst* in, Mask m) {
  return for_members(w, in, m, in->a, [&](Mask lanes) {
    uint32_t leader = std::countr_zero(lanes);
    for_lanes(lanes, [&](int l) { w.reg<uint32_t>(in->dst)[l] = leader; });
    Mask& p = w.pred(in->dst2);
    p = (p & ~lanes) | (1u << leader);
  });
}

void build_elect(Decode& d) {
  const Operand& to = d.arg(0);
  if (!d.take("sync") || to.pair < 0) {
    throw Unsupported{};
  }
  d.inst.dst = to.kind == Operand::Sink ? d.scratch(4) : d.dst(to, Type::B32);
  d.inst.dst2 = second_destination(d, to);
  d.inst.a = d.src(1, Type::B32);
  d.inst.run = elect;
}

// Kernels of one stream run one after the other here, so what griddepcontrol waits for has already
// happened, and nothing waits for what it announces.
void build_griddepcontrol(Decode& d) {
  d.drop({"wait", "launch_dependents"});
  d.inst.run = nothing;
}

const Inst* breakpoint(Warp& w, const Inst* in, Mask m) {
  throw finding_at(w, in, __builtin_ctz(m), "trap", "the kernel reached a breakpoint");
}

void build_brkpt(Decode& d) { d.inst.run = breakpoint; }

const Inst* trap(Warp& w, const Inst* in, Mask m) {
  Finding f = finding_at(w, in, __builtin_ctz(m), "trap", "the kernel executed a trap");
  const Kernel& kernel = *w.block->kernel;
  const bool in_groups = is_inlined_from(
      *kernel.module, *kernel.info[in - kernel.code.data()].source, "cooperative_groups");
  if (in_groups && !w.block->worker->launch->cooperative) {
    f.hint = "grid.sync() needs a cooperative launch: cudaLaunchCooperativeKernel";
  }
  throw f;
}

// Counts an event for a profiler, of which there is none.
void build_pmevent(Decode& d) {
  d.take("mask");
  if (d.num_args() != 1 || d.arg(0).kind != Operand::Integer) {
    throw Unsupported{};
  }
  d.inst.run = nothing;
}

void build_trap(Decode& d) { d.inst.run = trap; }

enum FenceFlag : uint8_t { PROXY = 1, WIDE = 2 };  // inst.flags

// Each instruction takes effect at once and in order, and asynchronous copies do when they are
// waited for. Only blocks on several cores may see each other's accesses out of order.
const Inst* fence(Warp& w, const Inst* in, Mask m) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (Checker* checker = w.block->cluster->checker.get()) {
    if (in->flags & PROXY) {
      checker->order().fence_proxy(w, m);
    } else {
      checker->order().fence(w, m, (in->flags & WIDE) != 0);
    }
  }
  return next(in);
}

void build_fence(Decode& d) {
  for (const std::string& modifier : d.source.mods) {
    d.inst.flags |= modifier.starts_with("async") ? PROXY : 0;
    d.inst.flags |= modifier == "gpu" || modifier == "gl" || modifier == "sys" ? WIDE : 0;
  }
  d.drop({"sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "gl", "sys",
          "sync_restrict::shared::cta", "sync_restrict::shared::cluster", "mbarrier_init"});
  if (d.take("proxy")) {
    d.drop({"alias", "async", "async::generic", "tensormap::generic", "global", "shared::cta",
            "shared::cluster"});
  }
  d.inst.run = fence;
}

// ---- Barriers of the block ----------------------------------------------------------------------
// inst.a: slot of the barrier's number; inst.b: slot of the thread count, or 0. bar.red: inst.c:
// slot of the predicate, inst.imm: how they are combined (BarrierResult).

constexpr uint8_t NEGATED = 1, ALIGNED = 2;  // inst.flags
constexpr uint32_t MAX_THREADS = 1024;       // of a block

// An aligned barrier is for whole warps: lanes that arrive early wait for the rest of their warp,
// some of which may have exited. False: some are still missing.
bool join_warp(Warp& w, const Inst* in, Mask& m) {
  Mask here = m;
  std::erase_if(w.parked, [&](const Group& g) {
    bool waits_here = g.state == Group::AtWarpSync && g.pc == in;
    here |= waits_here ? g.active : 0;
    w.mask |= waits_here ? g.mask : 0;
    return waits_here;
  });
  m = here;
  if ((w.live & ~here) == 0) {
    return true;
  }
  w.parked.push_back({in, here, Group::AtWarpSync, 0, here, w.live});
  w.mask &= ~here;
  return false;
}

template <bool WAIT, bool VOTE>
const Inst* barrier(Warp& w, const Inst* in, Mask m) {
  if ((in->flags & ALIGNED) && m != w.live && !join_warp(w, in, m)) {
    return w.mask ? next(in) : HALT;
  }
  const uint32_t* ids = w.reg<uint32_t>(in->a);
  int lane = std::countr_zero(m);
  uint32_t id = ids[lane];
  if (id >= 16) {
    throw finding_at(
        w, in, lane, "synccheck",
        "barrier " + std::to_string(id) + " does not exist; a block has barriers 0 to 15");
  }
  Mask same = 0;
  for_lanes(m, [&](int l) { same |= static_cast<Mask>(ids[l] == id) << l; });
  if (Mask other = m & ~same) {  // their turn comes after these
    w.parked.push_back({in, other, Group::Ready});
    w.mask &= ~other;
  }
  uint32_t threads = in->b ? w.reg<uint32_t>(in->b)[lane] : 0;
  if (threads % LANES != 0 || threads > MAX_THREADS) {
    throw finding_at(w, in, lane, "synccheck",
                     "a barrier of " + std::to_string(threads) +
                         " threads; the number must be a multiple of the warp's 32, up to 1024");
  }
  Mask votes = VOTE ? w.pred(in->c) ^ (in->flags & NEGATED ? ALL_LANES : 0) : 0;
  return arrive_barrier(w, in, same, static_cast<int>(id), static_cast<int>(threads), WAIT, votes);
}

void build_barrier(Decode& d) {
  d.drop({"cta"});
  bool aligned = d.take("aligned") || d.source.opcode == "bar";
  bool reduces = d.take("red");
  bool waits = d.take("sync") || reduces;
  if (!waits && !d.take("arrive")) {
    throw Unsupported{};
  }
  size_t first = 0;
  d.info.kind = InstInfo::Barrier;
  d.inst.run = waits ? barrier<true, false> : barrier<false, false>;
  if (reduces) {
    bool counts = d.take("popc");
    d.inst.imm = static_cast<int64_t>(counts          ? BarrierResult::Count
                                      : d.take("and") ? BarrierResult::All
                                      : d.take("or")  ? BarrierResult::Any
                                                      : throw Unsupported{});
    d.inst.dst = d.dst(0, d.take_type());
    size_t last = d.num_args() - 1;
    d.inst.c = d.pred(d.arg(last));
    d.inst.flags = d.arg(last).negated ? NEGATED : 0;
    d.inst.run = barrier<true, true>;
    first = 1;
  }
  d.inst.flags |= aligned ? ALIGNED : 0;
  d.inst.a = d.src(first, Type::U32);
  d.inst.b = d.num_args() > 2 * first + 1 ? d.src(first + 1, Type::U32) : 0;
}

const Inst* warp_barrier(Warp& w, const Inst* in, Mask m) {
  return for_members(w, in, m, in->a, [&](Mask lanes) {
    if (Checker* checker = w.block->cluster->checker.get()) {
      checker->order().sync_warp(w, lanes);
    }
  });
}

const Inst* cluster_arrive(Warp& w, const Inst* in, Mask m) {
  return arrive_cluster(w, in, m, in->flags != 0);
}

// Ordering (.release, .acquire) is implied; the race check knows what .relaxed leaves out.
void build_cluster_barrier(Decode& d) {
  d.drop({"aligned", "release", "acquire"});
  d.inst.flags = d.take("relaxed");
  d.info.kind = InstInfo::Barrier;
  d.inst.run = d.take("arrive") ? cluster_arrive : d.take("wait") ? wait_cluster : nullptr;
}

// bar.warp.sync and barrier.cluster share an opcode with the block's barriers.
void build_bar(Decode& d) {
  if (d.take("warp")) {
    if (!d.take("sync")) {
      throw Unsupported{};
    }
    d.inst.a = d.src(0, Type::B32);
    d.inst.run = warp_barrier;
  } else if (d.take("cluster")) {
    build_cluster_barrier(d);
  } else {
    build_barrier(d);
  }
}

constexpr Opcode OPCODES[] = {
    {"bra", build_bra, UnitRule::Control, First::Other, Flow::Other},
    {"brx", build_brx, UnitRule::Control, First::Other, Flow::Other},
    {"exit", build_exit, UnitRule::Control, First::Other, Flow::Other},
    {"nanosleep", build_nanosleep, UnitRule::Control, First::Other, Flow::Other},
    {"elect", build_elect, UnitRule::Control, First::Written, Flow::Other},
    {"griddepcontrol", build_griddepcontrol, UnitRule::Control, First::Other, Flow::Other},
    {"brkpt", build_brkpt, UnitRule::Control, First::Other, Flow::Other},
    {"trap", build_trap, UnitRule::Control, First::Other, Flow::Other},
    {"membar", build_fence, UnitRule::Control, First::Other, Flow::Other},
    {"fence", build_fence, UnitRule::Control, First::Other, Flow::Other},
    {"bar", build_bar, UnitRule::Control, First::Other, Flow::Other},
    {"barrier", build_bar, UnitRule::Control, First::Other, Flow::Other},
    {"pmevent", build_pmevent, UnitRule::Control, First::Other, Flow::Other},
};

}  // namespace

std::span<const Opcode> control_opcodes() { return OPCODES; }

}  // namespace wbsim
