// control_ops.cpp: branches, exits, block barriers, fences, trap.

#include "dispatch.h"
#include "members.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

const Inst* bra(Warp& w, const Inst* in, Mask m) {
  return branch(w, in, m, w.block->kernel->code.data() + in->target);
}

void build_bra(Decode& d) {
  d.take("uni");
  d.inst.target = d.label(d.arg(0));
  d.inst.run = bra;
}

const Inst* leave(Warp& w, const Inst* in, Mask m) { return exit_lanes(w, in, m); }

void build_exit(Decode& d) {
  d.take("uni");
  d.inst.run = leave;
}

const Inst* trap(Warp& w, const Inst* in, Mask m) {
  throw finding_at(w, in, __builtin_ctz(m), "trap", "the kernel executed a trap");
}

void build_trap(Decode& d) { d.inst.run = trap; }

const Inst* nothing(Warp&, const Inst* in, Mask) { return next(in); }

// Each instruction takes effect at once and in order, so fences have nothing left to do.
void build_fence(Decode& d) {
  d.drop({"sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "gl", "sys", "proxy"});
  d.inst.run = nothing;
}

// ---- Barriers of the block ----------------------------------------------------------------------
// inst.a: slot of the barrier's number; inst.b: slot of the thread count, or 0.

template <bool WAIT>
const Inst* barrier(Warp& w, const Inst* in, Mask m) {
  int lane = __builtin_ctz(m);
  uint32_t id = w.reg<uint32_t>(in->a)[lane];
  uint32_t threads = in->b ? w.reg<uint32_t>(in->b)[lane] : 0;
  if (id >= 16) {
    throw finding_at(
        w, in, lane, "synccheck",
        "barrier " + std::to_string(id) + " does not exist; a block has barriers 0 to 15");
  }
  return arrive_barrier(w, in, m, static_cast<int>(id), static_cast<int>(threads), WAIT);
}

void build_barrier(Decode& d) {
  d.drop({"cta", "aligned"});
  bool sync = d.take("sync");
  if (!sync && !d.take("arrive")) {
    throw Unsupported{};
  }
  d.inst.a = d.src(0, Type::U32);
  d.inst.b = d.num_args() > 1 ? d.src(1, Type::U32) : 0;
  d.info.kind = InstInfo::Barrier;
  d.inst.run = sync ? barrier<true> : barrier<false>;
}

const Inst* warp_barrier(Warp& w, const Inst* in, Mask m) {
  return for_members(w, in, m, in->a, [](Mask) {});
}

// bar.warp.sync shares its opcode with the barriers of the block.
void build_bar(Decode& d) {
  if (d.take("warp")) {
    if (!d.take("sync")) {
      throw Unsupported{};
    }
    d.inst.a = d.src(0, Type::B32);
    d.inst.run = warp_barrier;
    return;
  }
  build_barrier(d);
}

constexpr Opcode OPCODES[] = {
    {"bra", build_bra},   {"ret", build_exit},        {"exit", build_exit},
    {"trap", build_trap}, {"membar", build_fence},    {"fence", build_fence},
    {"bar", build_bar},   {"barrier", build_barrier},
};

}  // namespace

std::span<const Opcode> control_opcodes() { return OPCODES; }

}  // namespace wbsim
