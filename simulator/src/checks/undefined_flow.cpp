// undefined_flow.cpp: what an instruction makes of undefined operands: a mistake, or a result that
// is undefined, too.

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "checks/undefined.h"
#include "decode/opcode.h"
#include "exec/lanes.h"
#include "exec/ops/predicates.h"

namespace wbsim {
namespace {

enum class Rule : uint8_t {
  Spread,     // one undefined bit makes the whole result undefined
  Use,        // undefined operands are a mistake
  Shuffle,    // undefined_values.shuffle() knows the lanes
  Copy,       // the bits of the result are bits of operands
  Logic,      // bit by bit; a defined 0 of `and` decides
  Multiply,   // a defined zero decides
  Compare,    // setp: the predicate that it combines with may decide
  Halves,     // each half for itself
  PackHalves  // two values become the halves of one
};

// Operands of a Copy that say which bits to take, as bits: a, b, c, d.
enum : uint8_t { B = 2, C = 4, D = 8 };

struct Effect {
  Rule rule = Rule::Spread;
  uint8_t controls = 0;
  uint8_t table = 0;  // of Logic, as of lop3
};

bool is_integer(const ptx::Instruction& inst) {
  return std::none_of(inst.mods.begin(), inst.mods.end(), [](const std::string& modifier) {
    return ptx::is_float(ptx::type_from(modifier));
  });
}

Effect effect_of(const Inst* in, const InstInfo& info) {
  static constexpr std::pair<std::string_view, Effect> BY_NAME[] = {
      {"shfl", {Rule::Shuffle}},       {"mov", {Rule::Copy}},
      {"brev", {Rule::Copy}},          {"shl", {Rule::Copy, B}},
      {"shr", {Rule::Copy, B}},        {"shf", {Rule::Copy, C}},
      {"prmt", {Rule::Copy, C}},       {"bfe", {Rule::Copy, B | C}},
      {"bfi", {Rule::Copy, C | D}},    {"selp", {Rule::Copy, C}},
      {"slct", {Rule::Copy, C}},       {"and", {Rule::Logic, 0, 0xc0}},
      {"or", {Rule::Logic, 0, 0xfc}},  {"xor", {Rule::Logic, 0, 0x3c}},
      {"not", {Rule::Logic, 0, 0x0f}}, {"setp", {Rule::Compare}},
      {"vote", {Rule::Use}},           {"match", {Rule::Use}},
      {"redux", {Rule::Use}},          {"movmatrix", {Rule::Use}},
  };
  const ptx::Instruction& source = *info.source;
  const std::string_view name = source.opcode;
  for (auto& [known, effect] : BY_NAME) {
    if (name == known) {
      return effect;
    }
  }
  const UnitRule unit = info.opcode ? info.opcode->unit : UnitRule::Control;
  if (unit == UnitRule::Memory || unit == UnitRule::Tensor || unit == UnitRule::Control) {
    return {Rule::Use};
  }
  if (name == "lop3" && in->flags == Plain) {
    return {Rule::Logic, 0, static_cast<uint8_t>(in->imm)};
  }
  const bool packed = has(source, "f16x2") || has(source, "bf16x2");
  if (name == "cvt") {
    return {is_integer(source) && !has(source, "sat") ? Rule::Copy
            : packed && source.args.size() == 3       ? Rule::PackHalves
                                                      : Rule::Spread};
  }
  if (packed && info.num_targets == 1) {
    return {Rule::Halves};
  }
  if (name.starts_with("mul") || name.starts_with("mad")) {
    return {is_integer(source) ? Rule::Multiply : Rule::Spread};
  }
  return {Rule::Spread};
}

// "mma.sync", for reports.
std::string name_of(const ptx::Instruction& inst) {
  return inst.opcode + (inst.mods.empty() ? "" : "." + inst.mods[0]);
}

}  // namespace

struct UndefinedValues::Step {
  UndefinedValues& values;
  State& s;
  Warp& w;
  const Inst* in;
  const InstInfo& info;
  Mask m;
  std::span<const Register> sources, targets;
  Origin origins[LANES];  // of what is undefined in the sources

  // The undefined lanes of the sources that `wanted` accepts.
  template <class F>
  Mask undefined_lanes(F wanted) const {
    Mask found = 0;
    for (Register r : sources) {
      found |= wanted(r) ? undefined(s, r, m) : 0;
    }
    return found;
  }
  Mask undefined_lanes() const {
    return undefined_lanes([](Register) { return true; });
  }
  // The undefined lanes of an operand, and those in which it is a defined zero.
  Mask undefined_at(uint32_t slot) const {
    return undefined_lanes([&](Register r) { return r.slot == slot; });
  }
  Mask zero_at(uint32_t slot) const {
    Mask zero = 0;
    for (Register r : sources) {
      if (r.slot == slot && r.lane_bytes > 0) {
        for_lanes(m & ~undefined(s, r, m), [&](int l) {
          const uint8_t* value = w.frame + slot + l * r.lane_bytes;
          const bool any = std::any_of(value, value + r.lane_bytes, [](uint8_t b) { return b; });
          zero |= static_cast<Mask>(!any) << l;
        });
      }
    }
    return zero;
  }
  uint32_t* words(uint32_t slot) const { return reinterpret_cast<uint32_t*>(s.bits.data() + slot); }

  void find_origins() {
    Mask known = 0;
    for (Register r : sources) {
      if (Mask lanes = undefined(s, r, m) & ~known) {  // the first: a sum's before what is added
        const auto& of_register = s.origins[r.slot];
        for_lanes(lanes, [&](int l) { origins[l] = of_register[l]; });
        known |= lanes;
      }
    }
  }
  void spread(Mask bad) {
    for (Register r : targets) {
      fill(s, r, m, false);
      fill(s, r, bad, true);
    }
  }

  void shuffle() {
    for (uint32_t slot : {in->b, in->c, in->d}) {  // which lane to read
      if (Mask bad = undefined_at(slot)) {
        const int lane = std::countr_zero(bad);
        values.report(w, in, lane, "shuffle with an undefined lane or mask", s.origins[slot][lane]);
      }
    }
  }

  void use() {
    const std::string_view name = info.source->opcode;
    const bool rows = info.observed == InstInfo::Rows;
    for (Register r : sources) {
      const bool address = info.kind != InstInfo::Other && info.kind != InstInfo::Barrier &&
                           r.slot == in->a && r.lane_bytes >= 4;
      if ((name == "st" || name == "stmatrix") && !address) {
        continue;  // where it goes decides
      }
      // ldmatrix has eight addresses of rows per matrix.
      const Mask used = rows && address ? m & (ALL_LANES >> (LANES - 8 * in->count)) : m;
      if (Mask bad = undefined(s, r, used)) {
        const char* access = info.kind == InstInfo::Load    ? "read"
                             : info.kind == InstInfo::Store ? "write"
                                                            : "atomic update";
        const std::string what = address ? std::string(access) + " at an undefined address"
                                 : info.kind == InstInfo::Atomic
                                     ? "atomic update with an undefined value"
                                     : name_of(*info.source) + " with an undefined operand";
        const int lane = std::countr_zero(bad);
        values.report(w, in, lane, what, s.origins[r.slot][lane]);
      }
    }
    spread(0);
  }

  // The handler, applied to the undefined bits of its operands, leaves those of its result.
  void copy(uint8_t controls) {
    uint8_t* const frame = w.frame;
    if (sources.empty()) {  // a constant, the time
      spread(0);
      return;
    }
    if (!controls) {
      if (info.source->opcode == "mov" && sources.size() == 1 && targets.size() == 1) {
        for_lanes(targets[0].lane_bytes ? m : 0, [&](int l) {
          std::memmove(bits_of(s, targets[0], l), bits_of(s, sources[0], l), targets[0].lane_bytes);
        });
        if (targets[0].lane_bytes == 0) {
          const Mask bad = undefined_lanes();
          spread(bad);
        }
        return;
      }
      w.frame = s.bits.data();
      in->run(w, in, m);
      w.frame = frame;
      return;
    }
    const uint32_t slots[] = {in->a, in->b, in->c, in->d};
    for (int i = 0; i < 4; i++) {
      for (int k = 0; k < i; k++) {
        if ((controls >> i & 1) && !(controls >> k & 1) && slots[i] == slots[k]) {
          spread(undefined_lanes());  // one operand is both
          return;
        }
      }
    }
    // With the real values of the operands that control it, and a result of its own.
    Inst apart = *in;
    apart.dst = static_cast<uint32_t>(values.launch_.kernel->frame.size());
    const bool predicate = info.source->opcode == "selp";
    const size_t bytes = predicate ? sizeof(Mask) : LANES * sizeof(uint32_t);
    uint8_t kept[4][LANES * sizeof(uint32_t)];
    Mask bad = 0;
    for (int i = 0; i < 4; i++) {
      if (controls >> i & 1) {
        bad |= undefined_at(slots[i]);
        std::memcpy(kept[i], s.bits.data() + slots[i], bytes);
        std::memcpy(s.bits.data() + slots[i], frame + slots[i], bytes);
      }
    }
    w.frame = s.bits.data();
    apart.run(w, &apart, m);
    w.frame = frame;
    for (int i = 4; i-- > 0;) {
      if (controls >> i & 1) {
        std::memcpy(s.bits.data() + slots[i], kept[i], bytes);
      }
    }
    const Register to = targets[0];
    for_lanes(m, [&](int l) {
      std::memcpy(bits_of(s, to, l), bits_of(s, {apart.dst, to.lane_bytes}, l), to.lane_bytes);
    });
    fill(s, to, bad, true);
  }

  // A bit of the result is undefined if the undefined bits can make it 0 and can make it 1.
  void logic(uint8_t table) {
    const Register to = targets[0];
    const uint32_t slots[] = {in->a, in->b ? in->b : in->a, in->c ? in->c : in->a};
    const bool predicate = to.lane_bytes == 0;
    const int count = predicate ? 1 : LANES * to.lane_bytes / 4;
    alignas(64) uint32_t result[LANES * 2];
    for (int i = 0; i < count; i++) {
      uint32_t value[3], open[3];
      for (int k = 0; k < 3; k++) {
        value[k] = w.reg<uint32_t>(slots[k])[i] ^ (predicate && (in->flags >> k & 1) ? ~0u : 0);
        open[k] = words(slots[k])[i];
      }
      uint32_t can[2] = {0, 0};
      for (int bits = 0; bits < 8; bits++) {
        uint32_t possible = ~0u;
        for (int k = 0; k < 3; k++) {
          possible &= open[k] | ((bits >> (2 - k) & 1) ? value[k] : ~value[k]);
        }
        can[table >> bits & 1] |= possible;
      }
      result[i] = can[0] & can[1];
    }
    if (predicate) {
      uint32_t* bits = words(to.slot);
      *bits = (*bits & ~m) | (result[0] & m);
    } else {
      for_lanes(m, [&](int l) {
        std::memcpy(bits_of(s, to, l), reinterpret_cast<const uint8_t*>(result) + l * to.lane_bytes,
                    to.lane_bytes);
      });
    }
  }

  void multiply() {
    const Mask a = undefined_at(in->a), b = undefined_at(in->b);
    const Mask decided = zero_at(in->a) | zero_at(in->b);
    const Mask added = in->c ? undefined_at(in->c) : 0;
    spread(((a | b) & ~decided) | added);
  }

  void compare() {
    const Mask compared = undefined_lanes([](Register r) { return r.lane_bytes > 0; });
    const int how = in->flags & 7;
    if (how == Plain) {
      spread(compared);
      return;
    }
    const Mask open = undefined_at(in->c);
    const Mask value = w.pred(in->c) ^ (in->flags & NEGATE_C ? ALL_LANES : 0);
    const Mask asks = how == And ? value | open : how == Or ? ~value | open : ALL_LANES;
    spread((compared & asks) | open);
  }

  void halves() {
    const auto is_pair = [](Register r) { return r.lane_bytes == sizeof(uint32_t); };
    if (!is_pair(targets[0]) || !std::all_of(sources.begin(), sources.end(), is_pair)) {
      spread(undefined_lanes());
      return;
    }
    for_lanes(m, [&](int l) {
      uint32_t any = 0;
      for (Register r : sources) {
        any |= words(r.slot)[l];
      }
      words(targets[0].slot)[l] = (any & 0xffff ? 0xffff : 0) | (any >> 16 ? 0xffff0000 : 0);
    });
  }

  void pack_halves() {  // the first one on top
    for_lanes(m, [&](int l) {
      const uint32_t top = words(in->a)[l], bottom = words(in->b)[l];
      words(targets[0].slot)[l] = (bottom ? 0xffff : 0) | (top ? 0xffff0000 : 0);
    });
  }
};

void UndefinedValues::guard(Warp& w, const Inst* in, Mask m) {
  State& s = state_of(w);
  const Register predicate{static_cast<uint32_t>(in->guard), 0};
  if (Mask bad = undefined(s, predicate, m)) {
    const int lane = std::countr_zero(bad);
    const InstInfo& info = launch_.kernel->info[in - launch_.kernel->code.data()];
    report(w, in, lane,
           info.source->opcode == "bra" ? "a branch depends on an undefined value"
                                        : "an instruction depends on an undefined condition",
           s.origins[predicate.slot][lane]);
  }
}

void UndefinedValues::execute(Warp& w, const Inst* in, Mask m) {
  State& s = state_of(w);
  const InstInfo& info = launch_.kernel->info[in - launch_.kernel->code.data()];
  const std::span operands(launch_.kernel->operands.data() + info.first_operand,
                           info.num_sources + info.num_targets);
  if (std::none_of(operands.begin(), operands.end(),
                   [&](Register r) { return s.flags[r.slot / sizeof(Mask)]; })) {
    return;
  }
  const auto [rule, controls, table] = effect_of(in, info);
  Step step{*this,
            s,
            w,
            in,
            info,
            m,
            operands.first(info.num_sources),
            operands.subspan(info.num_sources),
            {}};
  if (step.targets.empty() && rule != Rule::Use && rule != Rule::Shuffle) {
    return;
  }
  step.find_origins();
  switch (rule) {
    case Rule::Shuffle:
      step.shuffle();
      return;
    case Rule::Use:
      step.use();
      break;
    case Rule::Spread:
      step.spread(step.undefined_lanes());
      break;
    case Rule::Copy:
      step.copy(controls);
      break;
    case Rule::Logic:
      step.logic(table);
      break;
    case Rule::Multiply:
      step.multiply();
      break;
    case Rule::Compare:
      step.compare();
      break;
    case Rule::Halves:
      step.halves();
      break;
    case Rule::PackHalves:
      step.pack_halves();
      break;
  }
  for (Register r : step.targets) {
    changed(w, s, r, m, step.origins);
  }
}

}  // namespace wbsim
