// address_ops.cpp: cvta, isspacep, mapa, getctarank: addresses of one state space as addresses of
// another (PTX ISA, Data Movement and Conversion Instructions).
//
// Generic addresses are host addresses; global and const ones are the same. A shared address is an
// offset in the block's window and may name another block of the cluster (exec/shared_window.h).

#include <algorithm>

#include "checks/finding.h"
#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

using ptx::Space;
using ptx::Type;

// d[l] = f(a[l], l) for addresses of 32 or 64 bits.
template <class F>
const Inst* each_address(Warp& w, const Inst* in, Mask m, F f) {
  if (in->flags) {
    for_lanes(m, [&](int l) {
      w.reg<uint32_t>(in->dst)[l] = static_cast<uint32_t>(f(w.reg<uint32_t>(in->a)[l], l));
    });
  } else {
    for_lanes(m, [&](int l) { w.reg<uint64_t>(in->dst)[l] = f(w.reg<uint64_t>(in->a)[l], l); });
  }
  return next(in);
}

uint64_t window(const Block& block) {
  return reinterpret_cast<uint64_t>(block.shared) - SHARED_BASE;
}

uint64_t local_window(const Warp& w, int lane) {
  return reinterpret_cast<uint64_t>(w.local) + uint64_t{w.block->local_bytes} * lane;
}

// ---- cvta ---------------------------------------------------------------------------------------

const Inst* same_address(Warp& w, const Inst* in, Mask m) {
  return each_address(w, in, m, [](uint64_t a, int) { return a; });
}

const Inst* shared_to_generic(Warp& w, const Inst* in, Mask m) {
  return each_address(w, in, m, [&](uint64_t a, int) {
    const Block* block = a <= UINT32_MAX ? block_at(*w.block, static_cast<uint32_t>(a)) : nullptr;
    return block ? window(*block) + (a & OFFSET_MASK) : window(*w.block) + a;
  });
}

const Inst* generic_to_shared(Warp& w, const Inst* in, Mask m) {
  return each_address(w, in, m, [&](uint64_t a, int) {
    const Block* block = block_holding(*w.block, a);
    return block && block != w.block
               ? cluster_address(block->rank, static_cast<uint32_t>(a - window(*block)))
               : a - window(*w.block);
  });
}

template <int SIGN>
const Inst* local_generic(Warp& w, const Inst* in, Mask m) {
  return each_address(w, in, m,
                      [&](uint64_t a, int lane) { return a + SIGN * local_window(w, lane); });
}

template <int SIGN>
const Inst* param_generic(Warp& w, const Inst* in, Mask m) {
  uint64_t base = reinterpret_cast<uint64_t>(w.block->params);
  return each_address(w, in, m, [&](uint64_t a, int) { return a + SIGN * base; });
}

void build_cvta(Decode& d) {
  bool to = d.take("to");
  if (d.take_type() != Type::U64) {
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, Type::U64);
  d.inst.a = d.src(1, Type::U64);
  if (d.take("global") || d.take("const")) {
    d.inst.run = same_address;
  } else if (d.take("shared") || d.take("shared::cta") || d.take("shared::cluster")) {
    d.inst.run = to ? generic_to_shared : shared_to_generic;
  } else if (d.take("local")) {
    d.inst.run = to ? local_generic<-1> : local_generic<1>;
  } else if (d.take("param") || d.take("param::entry")) {
    d.inst.run = to ? param_generic<-1> : param_generic<1>;
  }
}

// ---- isspacep: whether a generic address is in a space ------------------------------------------

bool in_shared(Warp& w, uint64_t a, int) {
  return a - reinterpret_cast<uint64_t>(w.block->shared) < w.block->shared_bytes;
}

bool in_cluster(Warp& w, uint64_t a, int) { return block_holding(*w.block, a) != nullptr; }

bool in_local(Warp& w, uint64_t a, int lane) {
  return a - local_window(w, lane) < w.block->local_bytes;
}

bool in_param(Warp& w, uint64_t a, int) {
  return a - reinterpret_cast<uint64_t>(w.block->params) < w.block->kernel->param_bytes;
}

bool in_const(Warp& w, uint64_t a, int) {
  const Module& module = *w.block->kernel->module;
  return std::any_of(module.ptx->globals.begin(), module.ptx->globals.end(), [&](auto& v) {
    auto symbol = module.symbols.find(v.name);
    return v.space == Space::Const && symbol != module.symbols.end() &&
           a - reinterpret_cast<uint64_t>(symbol->second.address) < symbol->second.bytes;
  });
}

bool in_global(Warp& w, uint64_t a, int lane) {
  return !in_cluster(w, a, lane) && !in_local(w, a, lane) && !in_param(w, a, lane) &&
         !in_const(w, a, lane);
}

template <auto INSIDE>
const Inst* test_space(Warp& w, const Inst* in, Mask m) {
  const uint64_t* a = w.reg<uint64_t>(in->a);
  Mask inside = 0;
  for_lanes(m, [&](int l) { inside |= static_cast<Mask>(INSIDE(w, a[l], l)) << l; });
  Mask& p = w.pred(in->dst);
  p = (p & ~m) | inside;
  return next(in);
}

void build_isspacep(Decode& d) {
  d.inst.dst = d.dst(0, Type::Pred);
  d.inst.a = d.src(1, Type::U64);
  d.inst.run = d.take("shared") || d.take("shared::cta")   ? test_space<in_shared>
               : d.take("shared::cluster")                 ? test_space<in_cluster>
               : d.take("local")                           ? test_space<in_local>
               : d.take("const")                           ? test_space<in_const>
               : d.take("param") || d.take("param::entry") ? test_space<in_param>
               : d.take("global")                          ? test_space<in_global>
                                                           : throw Unsupported{};
}

// ---- mapa, getctarank ---------------------------------------------------------------------------

const Block& block_of_rank(const Warp& w, const Inst* in, int lane, uint32_t rank) {
  auto& blocks = w.block->cluster->blocks;
  if (rank >= blocks.size()) {
    throw finding_at(w, in, lane, "memcheck",
                     "block " + std::to_string(rank) + " of a cluster of " +
                         std::to_string(blocks.size()) + " does not exist");
  }
  return *blocks[rank];
}

// The same place in the shared memory of the block whose rank is in inst.b.
const Inst* map_shared(Warp& w, const Inst* in, Mask m) {
  const uint32_t* rank = w.reg<uint32_t>(in->b);
  return each_address(w, in, m, [&](uint64_t a, int l) -> uint64_t {
    block_of_rank(w, in, l, rank[l]);
    return cluster_address(rank[l], static_cast<uint32_t>(a));
  });
}

const Inst* map_generic(Warp& w, const Inst* in, Mask m) {
  const uint32_t* rank = w.reg<uint32_t>(in->b);
  return each_address(w, in, m, [&](uint64_t a, int l) {
    const Block* from = block_holding(*w.block, a);
    return a - window(from ? *from : *w.block) + window(block_of_rank(w, in, l, rank[l]));
  });
}

void build_mapa(Decode& d) {
  bool shared = d.take("shared::cluster");
  Type type = d.take_type();
  if (type != Type::U32 && type != Type::U64) {
    throw Unsupported{};
  }
  if (!shared && type == Type::U32) {  // no generic address has 32 bits
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, Type::U32);
  d.inst.flags = type == Type::U32;
  d.inst.run = shared ? map_shared : map_generic;
}

template <bool SHARED>
const Inst* cluster_rank(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    uint64_t a = in->flags ? w.reg<uint32_t>(in->a)[l] : w.reg<uint64_t>(in->a)[l];
    const Block* block =
        SHARED ? block_at(*w.block, static_cast<uint32_t>(a)) : block_holding(*w.block, a);
    if (!block) {
      throw finding_at(w, in, l, "memcheck",
                       "getctarank: the address is in no block of the cluster");
    }
    w.reg<uint32_t>(in->dst)[l] = block->rank;
  });
  return next(in);
}

void build_getctarank(Decode& d) {
  bool shared = d.take("shared::cluster");
  Type type = d.take_type();
  if (!shared && type == Type::U32) {
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, Type::U32);
  d.inst.a = d.src(1, type);
  d.inst.flags = type == Type::U32;
  d.inst.run = shared ? cluster_rank<true> : cluster_rank<false>;
}

constexpr Opcode OPCODES[] = {
    {"cvta", build_cvta, UnitRule::Free, First::Written, Flow::Plain},
    {"isspacep", build_isspacep, UnitRule::Free, First::Written, Flow::Other},
    {"mapa", build_mapa, UnitRule::Free, First::Written, Flow::Other},
    {"getctarank", build_getctarank, UnitRule::Free, First::Written, Flow::Other},
};

}  // namespace

std::span<const Opcode> address_opcodes() { return OPCODES; }

}  // namespace wbsim
