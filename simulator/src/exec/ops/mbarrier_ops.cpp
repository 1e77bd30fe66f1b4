// mbarrier_ops.cpp: mbarrier objects: arrivals, transaction counts, waits.
//
// inst.list: the address; inst.b: slot of the count, the bytes, the state or the parity.

#include "checks/checker.h"
#include "exec/block.h"
#include "exec/control.h"
#include "exec/lanes.h"
#include "exec/ops/copy_queue.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/mbarrier.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

enum Flag : uint8_t { EXPECT_TX = 1, DROP = 2, NO_COMPLETE = 4, PARITY = 8, RELAXED = 16 };

// The lanes of m that name the same mbarrier as the first of them.
Mask same_mbarrier(Warp& w, const Inst* in, Mask m, SharedPlace& place) {
  place = mbarrier_place({&w, in, std::countr_zero(m)}, in->list);
  Mask same = 0;
  for_lanes(m, [&](int l) {
    SharedPlace other = mbarrier_place({&w, in, l}, in->list);
    same |= Mask{other.block == place.block && other.offset == place.offset} << l;
  });
  return same;
}

// Calls f(checker, lanes, mbarrier) for each mbarrier that lanes of m name, if there is one.
template <class F>
void tell_checker(Warp& w, const Inst* in, Mask m, F f) {
  Checker* checker = w.block->cluster->checker.get();
  while (checker && m) {
    SharedPlace place;
    const Mask lanes = same_mbarrier(w, in, m, place);
    f(*checker, lanes, place);
    m &= ~lanes;
  }
}

template <void (*F)(const Issuer&, SharedPlace, uint32_t)>
const Inst* with_value(Warp& w, const Inst* in, Mask m) {
  const uint32_t* value = w.reg<uint32_t>(in->b);
  tell_checker(w, in, m, [&](Checker& checker, Mask lanes, SharedPlace place) {
    checker.use_mbarrier({&w, in, std::countr_zero(lanes)}, place, F == init_mbarrier);
  });
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    F(issuer, mbarrier_place(issuer, in->list), value[l]);
  });
  return next(in);
}

const Inst* invalidate(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    const SharedPlace place = mbarrier_place(issuer, in->list);
    if (Checker* checker = w.block->cluster->checker.get()) {
      checker->use_mbarrier(issuer, place, false);
    }
    invalidate_mbarrier(issuer, place);
  });
  return next(in);
}

const Inst* arrive_lanes(Warp& w, const Inst* in, Mask m) {
  const uint32_t* value = w.reg<uint32_t>(in->b);
  tell_checker(w, in, m, [&](Checker& checker, Mask lanes, SharedPlace place) {
    for_lanes(lanes, [&](int l) { checker.use_mbarrier({&w, in, l}, place, false); });
    if (place.block != w.block && !(in->flags & RELAXED)) {
      checker.visit(w, in, lanes, *place.block);
    }
    checker.order().arrive_mbarrier(w, lanes, place, (in->flags & RELAXED) != 0);
  });
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    Arrival arrival;
    (in->flags & EXPECT_TX ? arrival.expect_tx : arrival.count) = value[l];
    arrival.drop = in->flags & DROP;
    arrival.together = m;
    arrival.no_complete = in->flags & NO_COMPLETE;
    w.reg<uint64_t>(in->dst)[l] = arrive(issuer, mbarrier_place(issuer, in->list), arrival);
  });
  return next(in);
}

const Inst* pending_count(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    uint64_t state = w.reg<uint64_t>(in->b)[l];
    if (!is_mbarrier(state)) {
      Issuer{&w, in, l}.fail("synccheck", "the operand is not a state returned by an arrival");
    }
    w.reg<uint32_t>(in->dst)[l] = decoded(state).pending;
  });
  return next(in);
}

// The parity of the phase that a lane waits for.
bool awaited_parity(const Issuer& issuer) {
  const Inst* in = issuer.in;
  if (in->flags & PARITY) {
    uint32_t parity = issuer.warp->reg<uint32_t>(in->b)[issuer.lane];
    if (parity > 1) {
      issuer.fail("synccheck", "the parity of a phase is 0 or 1, not " + std::to_string(parity));
    }
    return parity;
  }
  uint64_t state = issuer.warp->reg<uint64_t>(in->b)[issuer.lane];
  if (!is_mbarrier(state)) {
    issuer.fail("synccheck", "the state to wait for was not returned by an arrival");
  }
  return decoded(state).phase;
}

// Whether the phase that the lane waits for is complete once the copies that complete it have taken
// effect.
bool is_complete(const Issuer& issuer) {
  SharedPlace at = mbarrier_place(issuer, issuer.in->list);
  bool awaited = awaited_parity(issuer);
  if (load_mbarrier(issuer, at).phase != awaited) {
    return true;
  }
  complete_copies(issuer, at);
  return load_mbarrier(issuer, at).phase != awaited;
}

Mask complete_lanes(Warp& w, const Inst* in, Mask m) {
  Mask complete = 0;
  for_lanes(m, [&](int l) { complete |= Mask{is_complete({&w, in, l})} << l; });
  return complete;
}

void set_lanes(Mask& predicate, Mask m, Mask value) { predicate = (predicate & ~m) | (value & m); }

// test_wait and try_wait: how long they take is up to the system. Here lanes wait until nothing
// else can happen, so that a loop around them lets the others run, and ends in a report if it can
// never succeed. The check of races also lets them fail once, so that code which does not repeat
// them shows (HappensBefore::wait_mbarrier).
const Inst* wait(Warp& w, const Inst* in, Mask m) {
  Mask complete = complete_lanes(w, in, m);
  Mask waiting = m & ~complete & ~w.expired;
  w.expired &= ~m;
  Mask yes = complete;
  tell_checker(w, in, complete, [&](Checker& checker, Mask lanes, SharedPlace place) {
    for_lanes(lanes, [&](int l) { checker.use_mbarrier({&w, in, l}, place, false); });
    yes &= ~lanes | checker.order().wait_mbarrier(w, in, lanes, place, checker.races());
  });
  set_lanes(w.pred(in->dst), m & ~waiting, yes);
  return waiting ? wait_here(w, in, waiting, true) : next(in);
}

// ---- Builders -----------------------------------------------------------------------------------

void take_address(Decode& d, size_t i, Window window) {
  std::vector<uint32_t> words;
  push_address(d, d.arg(i), window, words);
  d.inst.list = d.list(words);
}

// Every operation takes effect at once: orders and scopes have no effect.
void drop_order(Decode& d, std::initializer_list<const char*> orders) {
  d.drop(orders);
  d.drop({"cta", "cluster"});
}

void build_arrive(Decode& d, bool drop) {
  const bool relaxed = d.take("relaxed");
  drop_order(d, {"release"});
  bool expects = d.take("expect_tx"), no_complete = d.take("noComplete");
  Window window = take_window(d);
  d.inst.flags = (expects ? EXPECT_TX : 0) | (drop ? DROP : 0) | (no_complete ? NO_COMPLETE : 0) |
                 (relaxed ? RELAXED : 0);
  if (window == Window::Cluster && d.arg(0).kind != Operand::Sink) {
    throw Unsupported{};  // the state of another block's object has no meaning here
  }
  d.inst.dst = d.dst(0, Type::B64);
  take_address(d, 1, window);
  bool has_value = d.num_args() > 2;
  if (!has_value && (expects || no_complete)) {
    throw Unsupported{};
  }
  d.inst.b = has_value ? d.src(2, Type::U32) : d.constant(1, 4);
  d.inst.run = arrive_lanes;
}

void build_wait(Decode& d) {
  drop_order(d, {"acquire", "relaxed"});
  bool parity = d.take("parity");
  d.inst.flags = parity ? PARITY : 0;
  d.inst.dst = d.dst(0, Type::Pred);
  take_address(d, 1, take_window(d));
  d.inst.b = d.src(2, parity ? Type::U32 : Type::B64);
  if (d.num_args() > 3) {
    d.src(3, Type::U32);  // how long to wait is a hint
  }
  d.inst.run = wait;
}

void build_with_value(Decode& d, Handler run) {
  drop_order(d, {"relaxed"});
  take_address(d, 0, take_window(d));
  d.inst.b = d.src(1, Type::U32);
  d.inst.run = run;
}

void build_mbarrier(Decode& d) {
  if (!d.take("b64")) {
    throw Unsupported{};
  }
  if (d.take("init")) {
    build_with_value(d, with_value<init_mbarrier>);
  } else if (d.take("complete_tx")) {
    build_with_value(d, with_value<complete_tx>);
  } else if (d.take("arrive")) {
    build_arrive(d, false);
  } else if (d.take("arrive_drop")) {
    build_arrive(d, true);
  } else if (d.take("expect_tx")) {
    build_with_value(d, with_value<expect_tx>);
  } else if (d.take("inval")) {
    take_address(d, 0, take_window(d));
    d.inst.run = invalidate;
  } else if (d.take("test_wait") || d.take("try_wait")) {
    build_wait(d);
  } else if (d.take("pending_count")) {
    d.inst.dst = d.dst(0, Type::U32);
    d.inst.b = d.src(1, Type::B64);
    d.inst.run = pending_count;
  }
}

constexpr Opcode OPCODES[] = {
    {"mbarrier", build_mbarrier, UnitRule::Memory, First::Written, Flow::Other},
};

}  // namespace

std::optional<AwaitedPhase> awaited_phase(Warp& w, const Inst* in, int lane) {
  if (in->run != wait) {
    return std::nullopt;
  }
  const Issuer issuer{&w, in, lane};
  return AwaitedPhase{mbarrier_place(issuer, in->list), awaited_parity(issuer)};
}

std::span<const Opcode> mbarrier_opcodes() { return OPCODES; }

}  // namespace wbsim
