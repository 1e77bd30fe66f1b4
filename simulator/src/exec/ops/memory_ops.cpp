// memory_ops.cpp: ld, ldu, st and prefetch in every state space.

#include <cstring>

#include "exec/block.h"
#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "exec/ops/dispatch.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

// ---- Values -------------------------------------------------------------------------------------
// T is the type in memory, R the register it is extended to (sign-extended if T is signed).

// The register of element e: a vector access has a list of them.
template <class R>
inline R* element(Warp& w, const Inst* in, uint32_t only, int e) {
  return w.reg<R>(in->count == 1 ? only : in->list[e]);
}

// Lane by lane: any pattern, any mask, vectors.
template <class T, class R>
void load_each(const Access& at, Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    const uint8_t* from = at.lane(l);
    for (int e = 0; e < in->count; e++) {
      T value;
      std::memcpy(&value, from + e * sizeof(T), sizeof(T));
      element<R>(w, in, in->dst, e)[l] = static_cast<R>(value);
    }
  });
}

// A T in memory, however the address is aligned.
template <class T>
using InMemory [[gnu::aligned(1), gnu::may_alias]] = T;

// Not inlined: otherwise the multiples of step are computed before they are known to be needed.
template <class T, class R>
[[gnu::noinline]] void load_strided(R* to, const uint8_t* from, int64_t step) {
  for (int l = 0; l < HALF; l++) {
    to[l] = static_cast<R>(*reinterpret_cast<const InMemory<T>*>(from));
    from += step;
  }
}

// 16 lanes that read one place, a row, or places a constant step apart.
template <class T, class R>
inline void load_half(R* to, const uint8_t* from, int64_t step) {
  if (step == 0) {
    const R value = static_cast<R>(*reinterpret_cast<const InMemory<T>*>(from));
    for (int l = 0; l < HALF; l++) {
      to[l] = value;
    }
  } else if (step == sizeof(T)) {
    if constexpr (sizeof(T) == sizeof(R)) {
      std::memcpy(to, from, HALF * sizeof(T));
    } else {
      load_strided<T, R>(to, from, step);
    }
  } else {
    load_strided<T, R>(to, from, step);
  }
}

template <class T, class R>
[[gnu::always_inline]] inline void load_values(const Access& at, Warp& w, const Inst* in, Mask m) {
  if (m != ALL_LANES || at.scattered) {
    load_each<T, R>(at, w, in, m);
    return;
  }
  for (int e = 0; e < in->count; e++) {
    R* to = element<R>(w, in, in->dst, e);
    for (int h = 0; h < 2; h++) {
      load_half<T, R>(to + h * HALF, at.first[h] + e * sizeof(T), at.step[h]);
    }
  }
}

template <class T, class R>
inline void store_values(const Access& at, Warp& w, const Inst* in, Mask m) {
  if (m == ALL_LANES && !at.scattered && in->count == 1 && at.step[0] == sizeof(T) &&
      at.step[1] == sizeof(T)) {
    const R* from = w.reg<R>(in->b);
    for (int h = 0; h < 2; h++) {
      T row[HALF];
      for (int l = 0; l < HALF; l++) {
        row[l] = static_cast<T>(from[h * HALF + l]);
      }
      std::memcpy(at.first[h], row, sizeof row);
    }
    return;
  }
  for_lanes(m, [&](int l) {
    uint8_t* to = at.lane(l);
    for (int e = 0; e < in->count; e++) {
      T value = static_cast<T>(element<R>(w, in, in->b, e)[l]);
      std::memcpy(to + e * sizeof(T), &value, sizeof(T));
    }
  });
}

template <AddressKind KIND, class T, class R>
const Inst* load(Warp& w, const Inst* in, Mask m) {
  Access at;
  resolve<KIND, false>(at, w, in, m, in->count * sizeof(T));
  load_values<T, R>(at, w, in, m);
  return next(in);
}

// The most frequent load, and a short path for it: one value, as wide as its register, all lanes at
// one place or in one row.
template <AddressKind KIND, class T>
const Inst* load_row(Warp& w, const Inst* in, Mask m) {
  using A = AddressOf<KIND>;
  const A* a = w.reg<A>(in->a);
  const A step = static_cast<A>(a[1] - a[0]);
  if (m == ALL_LANES && (step == 0 || step == sizeof(T)) && advances_by<LANES>(a, step))
      [[likely]] {
    const uint64_t begin = address_of<KIND>(a[0], in);
    if (begin % sizeof(T) == 0 && is_allowed<KIND>(w, in, begin, step * (LANES - 1) + sizeof(T)))
        [[likely]] {
      const uint8_t* from = host_memory<KIND>(w, begin);
      T* to = w.reg<T>(in->dst);
      if (step == 0) {
        std::fill_n(to, LANES, *reinterpret_cast<const InMemory<T>*>(from));
      } else {
        std::memcpy(to, from, LANES * sizeof(T));
      }
      return next(in);
    }
  }
  return load<KIND, T, T>(w, in, m);
}

template <AddressKind KIND, class T, class R>
const Inst* store(Warp& w, const Inst* in, Mask m) {
  Access at;
  resolve<KIND, true>(at, w, in, m, in->count * sizeof(T));
  store_values<T, R>(at, w, in, m);
  return next(in);
}

// ld.param of a kernel parameter: the same value for every lane.
template <class T, class R>
const Inst* load_param(Warp& w, const Inst* in, Mask m) {
  Access at;
  at.scattered = false;
  at.first[0] = at.first[1] = const_cast<uint8_t*>(w.block->params) + in->imm;
  at.step[0] = at.step[1] = 0;
  load_values<T, R>(at, w, in, m);
  return next(in);
}

// ---- Choosing the handler -----------------------------------------------------------------------

enum class Op { Load, Store, LoadParam };

template <class T, class R>
Handler pick_space(Op op, AddressKind kind, int count) {
  if (op == Op::LoadParam) {
    return load_param<T, R>;
  }
  if constexpr (sizeof(T) == sizeof(R) && sizeof(T) >= 2 && sizeof(T) <= 8) {
    if (op == Op::Load && count == 1 && kind == AddressKind::Generic) {
      return load_row<AddressKind::Generic, T>;
    }
    if (op == Op::Load && count == 1 && kind == AddressKind::Shared32) {
      return load_row<AddressKind::Shared32, T>;
    }
  }
  bool is_load = op == Op::Load;
  switch (kind) {
    case AddressKind::Generic:
      return is_load ? load<AddressKind::Generic, T, R> : store<AddressKind::Generic, T, R>;
    case AddressKind::Shared32:
      return is_load ? load<AddressKind::Shared32, T, R> : store<AddressKind::Shared32, T, R>;
    case AddressKind::Shared64:
      return is_load ? load<AddressKind::Shared64, T, R> : store<AddressKind::Shared64, T, R>;
    case AddressKind::Local32:
      return is_load ? load<AddressKind::Local32, T, R> : store<AddressKind::Local32, T, R>;
    case AddressKind::Local64:
      return is_load ? load<AddressKind::Local64, T, R> : store<AddressKind::Local64, T, R>;
    case AddressKind::Param:
      return load<AddressKind::Param, T, R>;
  }
  throw Unsupported{};
}

template <class T>
Handler pick_register(Op op, AddressKind kind, int bytes, int count) {
  constexpr bool S = std::is_signed_v<T>;
  if constexpr (sizeof(T) <= 2) {
    if (bytes == 2) {
      return pick_space<T, std::conditional_t<S, int16_t, uint16_t>>(op, kind, count);
    }
  }
  if constexpr (sizeof(T) <= 4) {
    if (bytes == 4) {
      return pick_space<T, std::conditional_t<S, int32_t, uint32_t>>(op, kind, count);
    }
  }
  if (bytes == 8) {
    return pick_space<T, std::conditional_t<S, int64_t, uint64_t>>(op, kind, count);
  }
  throw Unsupported{};
}

__extension__ using B128 = unsigned __int128;

Handler pick(Op op, AddressKind kind, Type type, int register_bytes, int count) {
  bool is_load = op != Op::Store;
  switch (ptx::bytes_of(type)) {
    case 1:
      return type == Type::S8 && is_load ? pick_register<int8_t>(op, kind, register_bytes, count)
                                         : pick_register<uint8_t>(op, kind, register_bytes, count);
    case 2:
      return type == Type::S16 && is_load
                 ? pick_register<int16_t>(op, kind, register_bytes, count)
                 : pick_register<uint16_t>(op, kind, register_bytes, count);
    case 4:
      return type == Type::S32 && is_load
                 ? pick_register<int32_t>(op, kind, register_bytes, count)
                 : pick_register<uint32_t>(op, kind, register_bytes, count);
    case 8:
      return pick_register<uint64_t>(op, kind, register_bytes, count);
    case 16:
      return pick_space<B128, B128>(op, kind, count);
    default:
      throw Unsupported{};
  }
}

Space take_space(Decode& d) {
  static constexpr std::pair<const char*, Space> NAMES[] = {
      {"global", Space::Global},     {"shared::cta", Space::Shared},
      {"shared", Space::Shared},     {"shared::cluster", Space::Shared},
      {"local", Space::Local},       {"const", Space::Const},
      {"param", Space::Param},       {"param::entry", Space::Param},
      {"param::func", Space::Param},
  };
  for (auto& [name, space] : NAMES) {
    if (d.take(name)) {
      return space;
    }
  }
  return Space::Generic;
}

// Ordering and caching: blocks see each other's writes at once, as no cache holds data. The counters'
// model of L1 (bypasses_l1) and the checks (note_order) look at the modifiers themselves.
void drop_hints(Decode& d) {
  d.drop({"weak",
          "relaxed",
          "acquire",
          "release",
          "volatile",
          "cta",
          "gpu",
          "sys",
          "cluster",
          "nc",
          "ca",
          "cg",
          "cs",
          "cv",
          "lu",
          "wb",
          "wt",
          "L1::evict_normal",
          "L1::evict_unchanged",
          "L1::evict_first",
          "L1::evict_last",
          "L1::no_allocate",
          "L2::64B",
          "L2::128B",
          "L2::256B",
          "L2::cache_hint",
          "mmio"});
}

}  // namespace

void note_order(Decode& d) {
  auto has = [&](const char* modifier) {
    return std::find(d.source.mods.begin(), d.source.mods.end(), modifier) != d.source.mods.end();
  };
  const bool atomic = d.source.opcode == "atom" || d.source.opcode == "red";
  d.info.strong = atomic || has("relaxed") || has("acquire") || has("release") || has("volatile") ||
                  has("mmio");
  d.info.releases = has("release") || has("acq_rel");
  d.info.wide = d.info.strong && !has("cta") && !has("cluster");
}

AddressKind memory_operand(Decode& d, const Operand& op, Space space) {
  if (op.kind != Operand::Memory || !op.items.empty()) {
    throw Unsupported{};
  }
  d.inst.imm = op.offset;
  bool window = space == Space::Shared || space == Space::Local;
  if (op.reg < 0) {
    Operand base = op;
    base.offset = 0;
    if (op.symbol.empty()) {
      base.kind = Operand::Integer;
      base.bits = 0;
    } else {
      base.kind = Operand::Symbol;
      Space own;
      d.address_of(op.symbol, own);
      if (space == Space::Generic && own != Space::Global) {
        throw Unsupported{};
      }
    }
    d.inst.a = d.src(base, window ? Type::U32 : Type::U64);
    return space == Space::Shared  ? AddressKind::Shared32
           : space == Space::Local ? AddressKind::Local32
                                   : AddressKind::Generic;
  }
  Operand base;
  base.kind = Operand::Register;
  base.reg = op.reg;
  bool narrow = d.register_bytes(base) == 4;
  if (narrow && !window) {
    throw Unsupported{};
  }
  d.inst.a = d.src(base, narrow ? Type::U32 : Type::U64);
  if (space == Space::Shared) {
    return narrow ? AddressKind::Shared32 : AddressKind::Shared64;
  }
  if (space == Space::Local) {
    return narrow ? AddressKind::Local32 : AddressKind::Local64;
  }
  return space == Space::Param ? AddressKind::Param : AddressKind::Generic;
}

namespace {

int take_vector(Decode& d) { return d.take("v2") ? 2 : d.take("v4") ? 4 : d.take("v8") ? 8 : 1; }

// Registers of the value operand; all of one width.
int value_registers(Decode& d, const Operand& op, Type type, int count, bool destination) {
  std::vector<Operand> items = op.kind == Operand::Vector ? op.items : std::vector<Operand>{op};
  if (static_cast<int>(items.size()) != count) {
    throw Unsupported{};
  }
  int bytes = std::max(2, ptx::bytes_of(type));
  for (const Operand& item : items) {
    bytes = std::max(bytes, d.register_bytes(item));
  }
  Type width = bytes == 2   ? Type::B16
               : bytes == 4 ? Type::B32
               : bytes == 8 ? Type::B64
                            : Type::B128;
  std::vector<uint32_t> slots;
  for (const Operand& item : items) {
    slots.push_back(destination ? d.dst(item, width) : d.src(item, width));
  }
  d.inst.count = static_cast<uint16_t>(count);
  if (count > 1) {
    d.inst.list = d.list(slots);
  }
  (destination ? d.inst.dst : d.inst.b) = slots[0];
  return bytes;
}

void describe(Decode& d, InstInfo::Class kind, Space space, Type type, int count) {
  d.info.kind = kind;
  d.info.space = space;
  d.info.bytes = static_cast<uint16_t>(ptx::bytes_of(type) * count);
  d.info.element = static_cast<uint16_t>(ptx::bytes_of(type));
}

// Loads that must see other threads' writes, and those that ask to bypass it, are not served by L1.
bool bypasses_l1(const Decode& d) {
  static constexpr std::string_view MODIFIERS[] = {"cg",      "cv",   "volatile",       "relaxed",
                                                   "acquire", "mmio", "L1::no_allocate"};
  return std::any_of(std::begin(MODIFIERS), std::end(MODIFIERS), [&](std::string_view m) {
    return std::count(d.source.mods.begin(), d.source.mods.end(), m) > 0;
  });
}

void observe_lanes(Decode& d, AddressKind kind) {
  d.info.observed = d.info.space == Space::Const ? InstInfo::Unobserved : InstInfo::Lanes;
  d.info.address = static_cast<uint8_t>(kind);
  d.info.bypasses_l1 = bypasses_l1(d);
}

// Parameters of device functions are on the stack, in local memory.
Space stack_or(Space space, Decode& d, const Operand& address) {
  if (space != Space::Param || address.symbol.empty()) {
    return space;
  }
  Space own;
  d.address_of(address.symbol, own);
  return own == Space::Local ? own : space;
}

void build_ld(Decode& d) {
  note_order(d);
  drop_hints(d);
  Space space = take_space(d);
  int count = take_vector(d);
  Type type = d.take_type();
  int bytes = value_registers(d, d.arg(0), type, count, true);
  describe(d, InstInfo::Load, space, type, count);
  const Operand& address = d.arg(1);
  space = stack_or(space, d, address);
  if (space == Space::Param && address.reg < 0) {
    Space own;
    uint64_t at = d.address_of(address.symbol, own) + address.offset;
    uint64_t size = d.kernel.param_bytes, wanted = ptx::bytes_of(type) * count;
    if (own != Space::Param || at > size || wanted > size - at) {
      throw Unsupported{};
    }
    d.inst.imm = static_cast<int64_t>(at);
    d.inst.run = pick(Op::LoadParam, AddressKind::Generic, type, bytes, count);
    return;
  }
  AddressKind kind = memory_operand(d, address, space);
  observe_lanes(d, kind);
  d.inst.run = pick(Op::Load, kind, type, bytes, count);
}

void build_st(Decode& d) {
  note_order(d);
  drop_hints(d);
  Space space = take_space(d);
  int count = take_vector(d);
  Type type = d.take_type();
  int bytes = value_registers(d, d.arg(1), type, count, false);
  describe(d, InstInfo::Store, space, type, count);
  d.info.register_bytes = static_cast<uint8_t>(bytes);
  space = stack_or(space, d, d.arg(0));
  if (space == Space::Param || space == Space::Const) {
    throw Unsupported{};
  }
  AddressKind kind = memory_operand(d, d.arg(0), space);
  observe_lanes(d, kind);
  d.inst.run = pick(Op::Store, kind, type, bytes, count);
}

// ---- Caches -------------------------------------------------------------------------------------

const Inst* nothing(Warp&, const Inst* in, Mask) { return next(in); }

// Cache hints have no effect that a program could observe.
void build_prefetch(Decode& d) {
  d.drop({"global", "local", "const", "param", "L1", "L2", "L2::evict_last", "L2::evict_normal"});
  d.inst.run = nothing;
}

constexpr int CACHE_LINE = 128;

// discard drops a line of the cache without writing it back: what it held is lost.
const Inst* discard(Warp& w, const Inst* in, Mask m) {
  const uint64_t* a = w.reg<uint64_t>(in->a);
  for_lanes(m, [&](int l) {
    uint8_t* line = resolve_stretch<AddressKind::Generic, true>(
        w, in, l, address_of<AddressKind::Generic>(a[l], in), CACHE_LINE, CACHE_LINE);
    std::memset(line, 0xff, CACHE_LINE);
  });
  return next(in);
}

void build_discard(Decode& d) {
  Space space = d.take("global") ? Space::Global : Space::Generic;
  const Operand& size = d.arg(1);
  if (!d.take("L2") || size.kind != Operand::Integer || size.bits != CACHE_LINE ||
      memory_operand(d, d.arg(0), space) != AddressKind::Generic) {
    throw Unsupported{};
  }
  d.inst.run = discard;
}

const Inst* clear(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) { w.reg<uint64_t>(in->dst)[l] = 0; });
  return next(in);
}

// A cache policy is opaque, and no data is cached: one policy serves for all. The counters' model of
// L1 does not depend on it either.
void build_createpolicy(Decode& d) {
  d.drop({"fractional", "range", "cvt", "global", "L2", "L2::evict_last", "L2::evict_normal",
          "L2::evict_first", "L2::evict_unchanged"});
  d.drop({"L2::evict_first", "L2::evict_unchanged"});  // the secondary priority
  d.inst.dst = d.dst(0, d.take_type());
  d.inst.run = clear;
}

constexpr Opcode OPCODES[] = {
    {"ld", build_ld, UnitRule::Memory, First::Written, Flow::Plain},
    {"ldu", build_ld, UnitRule::Memory, First::Written, Flow::Other},
    {"st", build_st, UnitRule::Memory, First::Other, Flow::Plain, in_order},
    {"prefetch", build_prefetch, UnitRule::Memory, First::Other, Flow::Other,
     [](const ptx::Instruction& inst) { return !has(inst, "tensormap"); }},
    {"prefetchu", build_prefetch, UnitRule::Memory, First::Other, Flow::Other},
    {"discard", build_discard, UnitRule::Memory, First::Other, Flow::Other},
    {"applypriority", build_prefetch, UnitRule::Free, First::Other, Flow::Other},
    {"createpolicy", build_createpolicy, UnitRule::Free, First::Written, Flow::Other},
};

}  // namespace

std::span<const Opcode> memory_opcodes() { return OPCODES; }

}  // namespace wbsim
