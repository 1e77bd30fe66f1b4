#include "checks/undefined.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "decode/opcode.h"
#include "decode/place.h"
#include "exec/lanes.h"

namespace wbsim {
namespace {

constexpr size_t SCRATCH = LANES * sizeof(uint64_t);  // behind the bits, for undefined_flow.cpp

}  // namespace

// ---- The state of a warp ------------------------------------------------------------------------

UndefinedValues::State& UndefinedValues::state_of(const Warp& w) {
  State& s = states_[w.block->rank * w.block->warps.size() + w.index];
  if (s.flags.empty()) {
    const size_t bytes = launch_.kernel->frame.size();
    s.bits.assign(bytes + SCRATCH, 0);
    s.flags.assign(bytes / sizeof(Mask), 0);
  }
  return s;
}

void UndefinedValues::clear(State& s) const {
  if (s.count > 0) {
    std::memset(s.bits.data(), 0, launch_.kernel->frame.size());
    std::fill(s.flags.begin(), s.flags.end(), 0);
    s.count = 0;
  }
}

Mask UndefinedValues::undefined(const State& s, Register r, Mask m) {
  if (!s.flags[r.slot / sizeof(Mask)]) {
    return 0;
  }
  if (r.lane_bytes == 0) {
    Mask bits;
    std::memcpy(&bits, s.bits.data() + r.slot, sizeof bits);
    return bits & m;
  }
  Mask found = 0;
  for_lanes(m, [&](int l) {
    const uint8_t* bits = bits_of(s, r, l);
    const bool any = std::any_of(bits, bits + r.lane_bytes, [](uint8_t byte) { return byte != 0; });
    found |= static_cast<Mask>(any) << l;
  });
  return found;
}

void UndefinedValues::fill(State& s, Register r, Mask m, bool undefined) {
  if (r.lane_bytes == 0) {
    Mask bits;
    std::memcpy(&bits, s.bits.data() + r.slot, sizeof bits);
    bits = undefined ? bits | m : bits & ~m;
    std::memcpy(s.bits.data() + r.slot, &bits, sizeof bits);
  } else {
    for_lanes(m, [&](int l) { std::memset(bits_of(s, r, l), undefined ? 0xff : 0, r.lane_bytes); });
  }
}

void UndefinedValues::changed(Warp& w, State& s, Register r, Mask m, const Origin origins[LANES]) {
  uint8_t& flag = s.flags[r.slot / sizeof(Mask)];
  s.count -= flag;
  flag = 1;
  flag = undefined(s, r, ALL_LANES) != 0;
  s.count += flag;
  w.undefined = s.count > 0;
  if (Mask now = undefined(s, r, m)) {
    auto& known = s.origins[r.slot];
    for_lanes(now, [&](int l) { known[l] = origins[l]; });
  }
}

// ---- Where undefined values come from -----------------------------------------------------------

void UndefinedValues::start(Cluster& cluster) {
  const Kernel& kernel = *launch_.kernel;
  const size_t warps = cluster.blocks[0]->warps.size();
  states_.resize(cluster.blocks.size() * warps);
  for (State& s : states_) {
    clear(s);
    s.local_origins.clear();
  }
  for (auto& block : cluster.blocks) {
    for (Warp& w : block->warps) {
      w.undefined = false;
      if (block->local_bytes > 0) {
        std::vector<uint8_t>& local = states_[block->rank * warps + w.index].local;
        local.assign(size_t{LANES} * block->local_bytes, 0xff);
        w.unwritten_local = local.data();
      }
      unset(w, kernel.body(), w.live);
    }
  }
}

void UndefinedValues::unset(Warp& w, const FunctionCode& function, Mask m) {
  constexpr Origin UNSET[LANES] = {};
  for (Register r : function.unset) {
    State& s = state_of(w);
    fill(s, r, m, true);
    changed(w, s, r, m, UNSET);
  }
}

void UndefinedValues::enter(Warp& w, const FunctionCode& function, int lane, uint32_t frame) {
  const uint32_t first = w.block->local_bytes * lane + frame;
  std::memset(w.unwritten_local + first, 0xff, function.stack_bytes);
  auto& origins = state_of(w).local_origins;
  origins.erase(origins.lower_bound(first), origins.lower_bound(first + function.stack_bytes));
  unset(w, function, Mask{1} << lane);
}

void UndefinedValues::restored(Warp& w, const FunctionCode& function, int lane) {
  State& s = state_of(w);
  for (Register r : function.registers) {
    if (s.flags[r.slot / sizeof(Mask)]) {
      fill(s, r, Mask{1} << lane, false);
      changed(w, s, r, 0, nullptr);
    }
  }
}

void UndefinedValues::shuffle(Warp& w, const Inst* in, Mask m, const uint8_t from[LANES]) {
  State& s = state_of(w);
  const auto pc = static_cast<uint32_t>(in - launch_.kernel->code.data());
  const Register value{in->a, sizeof(uint32_t)}, result{in->dst, sizeof(uint32_t)};
  const uint32_t threads = launch_.num_threads() - w.index * LANES;
  uint32_t bits[LANES], now[LANES];
  Origin before[LANES], origins[LANES];
  std::memcpy(bits, bits_of(s, value, 0), sizeof bits);
  if (undefined(s, value, ALL_LANES)) {
    std::copy_n(s.origins[value.slot].begin(), LANES, before);
  }
  for_lanes(m, [&](int l) {
    const uint8_t lane = from[l];
    if ((m >> lane) & 1) {
      now[l] = bits[lane];
      origins[l] = before[lane];
    } else {
      now[l] = UINT32_MAX;
      origins[l] = {pc,
                    lane >= threads           ? Origin::NoLane
                    : !((w.live >> lane) & 1) ? Origin::Exited
                                              : Origin::NoMember,
                    lane, static_cast<uint8_t>(std::min<uint32_t>(threads, LANES))};
    }
  });
  const InstInfo& info = launch_.kernel->info[pc];
  const Register* targets = launch_.kernel->operands.data() + info.first_operand + info.num_sources;
  for (int i = 0; i < info.num_targets; i++) {
    if (targets[i].slot == result.slot) {
      for_lanes(m, [&](int l) { std::memcpy(bits_of(s, result, l), &now[l], sizeof now[l]); });
    } else {
      fill(s, targets[i], m, false);  // whether the lane is in range
    }
    changed(w, s, targets[i], m, origins);
  }
}

// ---- Memory -------------------------------------------------------------------------------------

void UndefinedValues::local_access(Warp& w, const Inst* in, const WarpAccess& a) {
  WarpAccess inside = a;  // executing the instruction reports the others
  const uint64_t size = w.block->local_bytes;
  for_lanes(a.mask, [&](int l) {
    inside.mask &= ~(static_cast<Mask>(a.at(l) > size || a.bytes > size - a.at(l)) << l);
  });
  const InstInfo& info = launch_.kernel->info[in - launch_.kernel->code.data()];
  if (info.observed != InstInfo::Lanes) {
    return;  // of matrices, which are elsewhere
  }
  if (a.kind == WarpAccess::Kind::Load) {
    load_local(w, in, inside);
  } else {
    store_local(w, in, inside);
  }
}

void UndefinedValues::store_local(Warp& w, const Inst* in, const WarpAccess& a) {
  const InstInfo& info = launch_.kernel->info[in - launch_.kernel->code.data()];
  const bool is_store = info.register_bytes > 0;  // others have written something defined
  for_lanes(a.mask, [&](int l) {
    const auto place = static_cast<uint32_t>(w.block->local_bytes * l + a.at(l));
    std::memset(w.unwritten_local + place, 0, a.bytes);
    for (int e = 0; w.undefined && is_store && e < in->count; e++) {
      State& s = state_of(w);
      const Register r{in->count == 1 ? in->b : in->list[e], info.register_bytes};
      if (undefined(s, r, Mask{1} << l)) {
        const uint32_t at = place + e * info.element;
        std::memcpy(w.unwritten_local + at, bits_of(s, r, l), info.element);
        s.local_origins[at] = s.origins[r.slot][l];
      }
    }
  });
}

const Register* UndefinedValues::target_of(const Inst* in, int element) const {
  const InstInfo& info = launch_.kernel->info[in - launch_.kernel->code.data()];
  const Register* first = launch_.kernel->operands.data() + info.first_operand + info.num_sources;
  const Register* end = first + info.num_targets;
  const uint32_t slot = in->count == 1 ? in->dst : in->list[element];
  const Register* found = std::find_if(first, end, [&](Register r) { return r.slot == slot; });
  return found == end ? nullptr : found;
}

void UndefinedValues::loaded(Warp& w, const Inst* in, int lane, int element, const Origin& origin) {
  if (const Register* r = target_of(in, element)) {
    Origin origins[LANES];
    origins[lane] = origin;
    fill(state_of(w), *r, Mask{1} << lane, true);
    changed(w, state_of(w), *r, Mask{1} << lane, origins);
  }
}

void UndefinedValues::load_local(Warp& w, const Inst* in, const WarpAccess& a) {
  const auto pc = static_cast<uint32_t>(in - launch_.kernel->code.data());
  const InstInfo& info = launch_.kernel->info[pc];
  auto place = [&](int l) { return static_cast<uint32_t>(w.block->local_bytes * l + a.at(l)); };
  Mask found = 0;
  for_lanes(a.mask, [&](int l) {
    const uint8_t* from = w.unwritten_local + place(l);
    const bool any = std::any_of(from, from + a.bytes, [](uint8_t byte) { return byte != 0; });
    found |= static_cast<Mask>(any) << l;
  });
  if (!found) {
    return;
  }
  State& s = state_of(w);
  for (int e = 0; e < in->count; e++) {
    const Register* r = target_of(in, e);
    if (!r) {
      continue;
    }
    Origin origins[LANES];
    for_lanes(found, [&](int l) {
      const uint32_t at = place(l) + e * info.element;
      std::memset(bits_of(s, *r, l), 0, r->lane_bytes);
      std::memcpy(bits_of(s, *r, l), w.unwritten_local + at, info.element);
      const auto stored = s.local_origins.find(at);
      origins[l] = stored == s.local_origins.end() ? Origin{pc, Origin::Local} : stored->second;
    });
    changed(w, s, *r, found, origins);
  }
}

void UndefinedValues::copy_local(Warp& w, int lane, uint32_t to, uint32_t from, uint32_t bytes) {
  const uint32_t lane_start = w.block->local_bytes * lane;
  std::memcpy(w.unwritten_local + lane_start + to, w.unwritten_local + lane_start + from, bytes);
  auto& origins = state_of(w).local_origins;
  for (auto it = origins.lower_bound(lane_start + from);
       it != origins.end() && it->first < lane_start + from + bytes; ++it) {
    origins[it->first - from + to] = it->second;
  }
}

bool UndefinedValues::may_store(const Warp& w, const Inst* in) {
  const InstInfo& info = launch_.kernel->info[in - launch_.kernel->code.data()];
  const State& s = state_of(w);
  for (int e = 0; e < in->count && info.register_bytes; e++) {
    if (s.flags[(in->count == 1 ? in->b : in->list[e]) / sizeof(Mask)]) {
      return true;
    }
  }
  return false;
}

uint32_t UndefinedValues::stored(Warp& w, const Inst* in, int lane, Origin& origin) {
  const InstInfo& info = launch_.kernel->info[in - launch_.kernel->code.data()];
  if (info.observed != InstInfo::Lanes || info.register_bytes == 0) {
    return 0;
  }
  State& s = state_of(w);
  uint32_t some = 0;
  bool all = true;
  for (int e = 0; e < in->count; e++) {
    const Register r{in->count == 1 ? in->b : in->list[e], info.register_bytes};
    const uint8_t* bits = bits_of(s, r, lane);
    const bool any = std::any_of(bits, bits + info.element, [](uint8_t byte) { return byte; });
    all = all && std::all_of(bits, bits + info.element, [](uint8_t byte) { return byte == 0xff; });
    if (any) {
      const Origin from = s.origins[r.slot][lane];
      origin = some == 0 || from.is_shuffle() ? from : origin;
      some |= 1u << e;
    }
  }
  return all || origin.is_shuffle() ? some : 0;
}

// ---- Reports ------------------------------------------------------------------------------------

void UndefinedValues::explain(Finding& f, const Origin& origin) const {
  if (origin.kind == Origin::Unset) {
    f.message += ": a variable has no value on the way that leads here";
    f.hint = "give it a value where it is declared, or on every path";
    return;
  }
  set_other(f, *launch_.kernel->module, *launch_.kernel->info[origin.pc].source);
  if (origin.kind == Origin::Local) {
    f.message += ": it was read from an element of a local array that the thread has not written";
    f.other_what = "the read";
    f.hint =
        "write every element before it is read, for example where it is declared: float sum[4] "
        "= {};";
    return;
  }
  f.message += ": it comes from a shuffle that read lane " + std::to_string(origin.lane) +
               (origin.kind == Origin::NoLane   ? ", which does not exist: the warp has " +
                                                      std::to_string(origin.threads) + " threads"
                : origin.kind == Origin::Exited ? ", which has exited"
                                                : ", which is not in its member mask");
  f.other_what = "the shuffle";
  f.hint =
      "a shuffle has values only of lanes that execute it with the same mask: let every lane "
      "take part, with a neutral value (0 for a sum) where there is no data, or drop the "
      "result where its lane is missing: if (lane + n < count) sum += other";
}

void UndefinedValues::report(const Warp& w, const Inst* in, int lane, const std::string& what,
                             const Origin& origin) const {
  Finding f = finding_at(w, in, lane, "initcheck", what);
  explain(f, origin);
  throw f;
}

}  // namespace wbsim
