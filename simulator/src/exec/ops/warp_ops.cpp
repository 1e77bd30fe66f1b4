// warp_ops.cpp: instructions in which the lanes of a warp exchange values (PTX ISA, shfl.sync,
// vote.sync, match.sync, redux.sync, activemask).

#include <algorithm>
#include <bit>
#include <cstring>

#include "checks/checker.h"
#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/members.h"
#include "exec/ops/predicates.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

// ---- shfl.sync ----------------------------------------------------------------------------------

enum class Shuffle { Up, Down, Bfly, Idx };

// Under initcheck: a lane may read one that does not take part.
[[gnu::noinline]] void note_shuffle(Warp& w, const Inst* in, Mask m, const uint8_t from[LANES]) {
  Checker* checker = w.block->cluster->checker.get();
  if (!checker || !checker->initialisation()) {
    return;
  }
  Mask read = 0;
  for_lanes(m, [&](int l) { read |= Mask{1} << from[l]; });
  if (w.undefined || (read & ~m)) {
    checker->undefined().shuffle(w, in, m, from);
  }
}

template <Shuffle MODE>
void exchange(Warp& w, const Inst* in, Mask m) {
  uint32_t* d = w.reg<uint32_t>(in->dst);
  uint32_t values[LANES];
  std::memcpy(values, w.reg<uint32_t>(in->a), sizeof values);
  const uint32_t* b = w.reg<uint32_t>(in->b);
  const uint32_t* c = w.reg<uint32_t>(in->c);
  uint8_t from[LANES];
  Mask inside = 0;
  for_lanes(m, [&](int lane) {
    int value = static_cast<int>(b[lane] & 31), clamp = static_cast<int>(c[lane] & 31);
    int segment = static_cast<int>((c[lane] >> 8) & 31);
    int max_lane = (lane & segment) | (clamp & ~segment);
    int min_lane = lane & segment;
    int j = 0;
    bool ok = false;
    switch (MODE) {
      case Shuffle::Up:
        j = lane - value;
        ok = j >= max_lane;
        break;
      case Shuffle::Down:
        j = lane + value;
        ok = j <= max_lane;
        break;
      case Shuffle::Bfly:
        j = lane ^ value;
        ok = j <= max_lane;
        break;
      case Shuffle::Idx:
        j = min_lane | (value & ~segment);
        ok = j <= max_lane;
        break;
    }
    from[lane] = static_cast<uint8_t>(ok ? j : lane);
    inside |= static_cast<Mask>(ok) << lane;
  });
  if (m != ALL_LANES || w.undefined) {
    note_shuffle(w, in, m, from);
  }
  for_lanes(m, [&](int lane) { d[lane] = values[from[lane]]; });
  if (in->dst2) {
    Mask& p = w.pred(in->dst2);
    p = (p & ~m) | inside;
  }
}

template <Shuffle MODE>
const Inst* shfl(Warp& w, const Inst* in, Mask m) {
  return for_members(w, in, m, in->d, [&](Mask lanes) { exchange<MODE>(w, in, lanes); });
}

void build_shfl(Decode& d) {
  if (!d.take("sync")) {
    throw Unsupported{};
  }
  d.take_type();
  const Operand& to = d.arg(0);
  d.inst.dst = d.dst(to, Type::B32);
  d.inst.dst2 = second_destination(d, to);
  d.inst.a = d.src(1, Type::B32);
  d.inst.b = d.src(2, Type::B32);
  d.inst.c = d.src(3, Type::B32);
  d.inst.d = d.src(4, Type::B32);
  d.inst.run = d.take("up")     ? shfl<Shuffle::Up>
               : d.take("down") ? shfl<Shuffle::Down>
               : d.take("bfly") ? shfl<Shuffle::Bfly>
               : d.take("idx")  ? shfl<Shuffle::Idx>
                                : throw Unsupported{};
}

// ---- vote, match, redux -------------------------------------------------------------------------

enum class Vote { All, Any, Uni, Ballot };

template <Vote MODE>
void cast_votes(Warp& w, const Inst* in, Mask m) {
  Mask set = (w.pred(in->a) ^ (in->flags ? ALL_LANES : 0)) & m;
  if (MODE == Vote::Ballot) {
    for_lanes(m, [&](int l) { w.reg<uint32_t>(in->dst)[l] = set; });
    return;
  }
  bool result = MODE == Vote::All ? set == m : MODE == Vote::Any ? set != 0 : set == 0 || set == m;
  Mask& p = w.pred(in->dst);
  p = (p & ~m) | (result ? m : 0);
}

template <Vote MODE>
const Inst* vote(Warp& w, const Inst* in, Mask m) {
  return for_members(w, in, m, in->b, [&](Mask lanes) { cast_votes<MODE>(w, in, lanes); });
}

void build_vote(Decode& d) {
  if (!d.take("sync")) {
    throw Unsupported{};
  }
  bool ballot = d.take("ballot");
  Type type = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.pred(d.arg(1));
  d.inst.flags = d.arg(1).negated;
  d.inst.b = d.src(2, Type::B32);
  d.inst.run = ballot          ? vote<Vote::Ballot>
               : d.take("all") ? vote<Vote::All>
               : d.take("any") ? vote<Vote::Any>
               : d.take("uni") ? vote<Vote::Uni>
                               : throw Unsupported{};
}

template <class U, bool ALL>
void find_equal(Warp& w, const Inst* in, Mask m) {
  const U* a = w.reg<U>(in->a);
  Mask equal[LANES] = {};
  Mask all = 0;
  for_lanes(m, [&](int l) {
    for_lanes(m, [&](int other) { equal[l] |= static_cast<Mask>(a[l] == a[other]) << other; });
    all |= static_cast<Mask>(equal[l] == m) << l;
  });
  for_lanes(m, [&](int l) { w.reg<uint32_t>(in->dst)[l] = !ALL || all == m ? equal[l] : 0; });
  if (in->dst2) {
    Mask& p = w.pred(in->dst2);
    p = (p & ~m) | (all == m ? m : 0);
  }
}

template <class U, bool ALL>
const Inst* match(Warp& w, const Inst* in, Mask m) {
  return for_members(w, in, m, in->b, [&](Mask lanes) { find_equal<U, ALL>(w, in, lanes); });
}

void build_match(Decode& d) {
  bool all = d.take("all");
  if ((!all && !d.take("any")) || !d.take("sync")) {
    throw Unsupported{};
  }
  Type type = d.take_type();
  const Operand& to = d.arg(0);
  d.inst.dst = d.dst(to, Type::B32);
  d.inst.dst2 = second_destination(d, to);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, Type::B32);
  if (type == Type::B32) {
    d.inst.run = all ? match<uint32_t, true> : match<uint32_t, false>;
  } else if (type == Type::B64) {
    d.inst.run = all ? match<uint64_t, true> : match<uint64_t, false>;
  }
}

template <class T, auto F>
const Inst* redux(Warp& w, const Inst* in, Mask m) {
  return for_members(w, in, m, in->b, [&](Mask lanes) {
    const T* a = w.reg<T>(in->a);
    T r = a[std::countr_zero(lanes)];
    for_lanes(lanes & (lanes - 1), [&](int l) { r = F(r, a[l]); });
    for_lanes(lanes, [&](int l) { w.reg<T>(in->dst)[l] = r; });
  });
}

template <class T>
Handler pick_redux(Decode& d) {
  using U = uint32_t;
  if (d.take("add")) {
    return redux<U, [](U a, U b) { return a + b; }>;
  }
  if (d.take("min")) {
    return redux<T, [](T a, T b) { return std::min(a, b); }>;
  }
  if (d.take("max")) {
    return redux<T, [](T a, T b) { return std::max(a, b); }>;
  }
  if (d.take("and")) {
    return redux<U, [](U a, U b) { return a & b; }>;
  }
  if (d.take("or")) {
    return redux<U, [](U a, U b) { return a | b; }>;
  }
  if (d.take("xor")) {
    return redux<U, [](U a, U b) { return a ^ b; }>;
  }
  throw Unsupported{};
}

void build_redux(Decode& d) {
  if (!d.take("sync")) {
    throw Unsupported{};
  }
  Type type = d.take_type();
  if (ptx::is_float(type)) {
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, Type::B32);
  d.inst.run = type == Type::S32 ? pick_redux<int32_t>(d) : pick_redux<uint32_t>(d);
}

const Inst* active_mask(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) { w.reg<uint32_t>(in->dst)[l] = m; });
  return next(in);
}

void build_active_mask(Decode& d) {
  d.inst.dst = d.dst(0, d.take_type());
  d.inst.run = active_mask;
}

constexpr Opcode OPCODES[] = {
    {"shfl", build_shfl, UnitRule::Memory, First::Written, Flow::Other},
    {"vote", build_vote, UnitRule::Integer, First::Written, Flow::Other},
    {"match", build_match, UnitRule::Integer, First::Written, Flow::Other},
    {"redux", build_redux, UnitRule::Integer, First::Written, Flow::Other},
    {"activemask", build_active_mask, UnitRule::Control, First::Written, Flow::Other},
};

}  // namespace

std::span<const Opcode> warp_opcodes() { return OPCODES; }

}  // namespace wbsim
