// atomic_ops.cpp: atom and red in global and shared memory (PTX ISA, atom, red), on single values
// and on vectors, whose elements are updated one by one.
//
// Blocks run on several cores, so every operation is atomic on the host too. A warp's lanes act in
// the order of their numbers.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <mutex>

#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/float_mode.h"
#include "exec/ops/half.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

// Resolves the addresses; inst.flags: their AddressKind.
void resolve_any(Access& at, Warp& w, const Inst* in, Mask m, int bytes) {
  switch (static_cast<AddressKind>(in->flags)) {
    case AddressKind::Shared32:
      return resolve<AddressKind::Shared32, true>(at, w, in, m, bytes);
    case AddressKind::Shared64:
      return resolve<AddressKind::Shared64, true>(at, w, in, m, bytes);
    default:
      return resolve<AddressKind::Generic, true>(at, w, in, m, bytes);
  }
}

// The bits of a value, as an integer that the host can exchange atomically.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, uint16_t,
                                std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

// Replaces the value by f(old, b, c) and returns the old one.
template <class T, class F>
inline Bits<T> update(uint8_t* at, Bits<T> b, Bits<T> c, F f) {
  using U = Bits<T>;
  std::atomic_ref<U> cell(*reinterpret_cast<U*>(at));
  U old = cell.load(std::memory_order_relaxed);
  while (!cell.compare_exchange_weak(
      old, std::bit_cast<U>(static_cast<T>(
               f(std::bit_cast<T>(old), std::bit_cast<T>(b), std::bit_cast<T>(c)))))) {
  }
  return old;
}

constexpr int MAX_ELEMENTS = 8;  // of a vector

// inst.b, inst.c: the operands. A vector has its elements in inst.list: those of the result first,
// then those of the operand.
template <class T, auto F>
const Inst* atomic(Warp& w, const Inst* in, Mask m) {
  using U = Bits<T>;
  Access at;
  resolve_any(at, w, in, m, in->count * sizeof(T));
  if (in->count == 1) {
    U* d = w.reg<U>(in->dst);
    const U* b = w.reg<U>(in->b);
    const U* c = w.reg<U>(in->c);
    for_lanes(m, [&](int l) { d[l] = update<T>(at.lane(l), b[l], c[l], F); });
    return next(in);
  }
  for_lanes(m, [&](int l) {
    U b[MAX_ELEMENTS];  // read before a result overwrites its register
    for (int e = 0; e < in->count; e++) {
      b[e] = w.reg<U>(in->list[in->count + e])[l];
    }
    for (int e = 0; e < in->count; e++) {
      w.reg<U>(in->list[e])[l] = update<T>(at.lane(l) + e * sizeof(T), b[e], b[e], F);
    }
  });
  return next(in);
}

// atom.add.f32 flushes denormals in global memory and keeps them in shared memory (PTX ISA, atom).
const Inst* add_float(Warp& w, const Inst* in, Mask m) {
  Access at;
  resolve_any(at, w, in, m, in->count * sizeof(float));
  for_lanes(m, [&](int l) {
    bool in_shared = block_holding(*w.block, reinterpret_cast<uint64_t>(at.lane(l)));
    bool vector = in->count > 1;
    uint32_t operands[MAX_ELEMENTS];
    for (int e = 0; e < in->count; e++) {
      operands[e] = w.reg<uint32_t>(vector ? in->list[in->count + e] : in->b)[l];
    }
    for (int e = 0; e < in->count; e++) {
      uint32_t b = operands[e];
      uint32_t& d = w.reg<uint32_t>(vector ? in->list[e] : in->dst)[l];
      uint8_t* p = at.lane(l) + e * sizeof(float);
      d = in_shared ? update<float>(p, b, b, [](float x, float y, float) { return x + y; })
                    : update<float>(p, b, b, [](float x, float y, float) {
                        return flush(flush(x) + flush(y));
                      });
    }
  });
  return next(in);
}

// ---- 128 bits: exch and cas ---------------------------------------------------------------------

struct alignas(16) B128 {
  uint64_t low, high;
  bool operator==(const B128&) const = default;
};

template <bool COMPARE>
const Inst* exchange_128(Warp& w, const Inst* in, Mask m) {
  static std::mutex one_at_a_time;  // few hosts can exchange 16 bytes atomically
  Access at;
  resolve_any(at, w, in, m, sizeof(B128));
  std::lock_guard lock(one_at_a_time);
  for_lanes(m, [&](int l) {
    B128* cell = reinterpret_cast<B128*>(at.lane(l));
    B128 old = *cell, b = w.reg<B128>(in->b)[l], c = w.reg<B128>(in->c)[l];
    if (!COMPARE || old == b) {
      *cell = COMPARE ? c : b;
    }
    w.reg<B128>(in->dst)[l] = old;
  });
  return next(in);
}

// ---- Choosing the operation ---------------------------------------------------------------------

template <class T>
Handler pick_arithmetic(Decode& d) {
  using W = std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>, TypeTag<T>>::type;
  if (d.take("add")) {
    if (std::is_same_v<T, float>) {
      return add_float;
    }
    return atomic<T, [](T a, T b, T) {
      return static_cast<T>(static_cast<W>(a) + static_cast<W>(b));
    }>;
  }
  if constexpr (std::is_integral_v<T>) {
    if (d.take("min")) {
      return atomic<T, [](T a, T b, T) { return std::min(a, b); }>;
    }
    if (d.take("max")) {
      return atomic<T, [](T a, T b, T) { return std::max(a, b); }>;
    }
  }
  if constexpr (std::is_same_v<T, uint32_t>) {
    if (d.take("inc")) {
      return atomic<T, [](T a, T b, T) { return (a >= b) ? T{0} : a + 1; }>;
    }
    if (d.take("dec")) {
      return atomic<T, [](T a, T b, T) { return (a == 0 || a > b) ? b : a - 1; }>;
    }
  }
  throw Unsupported{};
}

template <class U>
Handler pick_bits(Decode& d) {
  if (d.take("and")) {
    return atomic<U, [](U a, U b, U) { return a & b; }>;
  }
  if (d.take("or")) {
    return atomic<U, [](U a, U b, U) { return a | b; }>;
  }
  if (d.take("xor")) {
    return atomic<U, [](U a, U b, U) { return a ^ b; }>;
  }
  if (d.take("exch")) {
    return atomic<U, [](U, U b, U) { return b; }>;
  }
  if (d.take("cas")) {
    return atomic<U, [](U a, U b, U c) { return a == b ? c : a; }>;
  }
  throw Unsupported{};
}

// The smaller of two numbers; if one is NaN, the other; -0 is smaller than +0.
template <class H, bool LARGER>
uint16_t minimum(uint16_t a, uint16_t b) {
  float x = H::widen(a), y = H::widen(b);
  if (std::isnan(x) || std::isnan(y)) {
    return std::isnan(x) && std::isnan(y) ? HALF_NAN : std::isnan(x) ? b : a;
  }
  bool first = x == y ? std::signbit(x) : x < y;
  return first != LARGER ? a : b;
}

// Halves and pairs of them. A sum in f32 rounds to the half that the exact sum rounds to (24 bits
// are enough for two roundings of 11 or 8).
template <class H, class U, auto F>
U each_half(U a, U b, U) {
  U r = 0;
  for (size_t i = 0; i < sizeof(U) / 2; i++) {
    r |= static_cast<U>(
             F(static_cast<uint16_t>(a >> (16 * i)), static_cast<uint16_t>(b >> (16 * i))))
         << (16 * i);
  }
  return r;
}

template <class H, class U>
Handler pick_half(Decode& d) {
  d.take("noftz");
  if (d.take("add")) {
    return atomic<U, each_half<H, U, [](uint16_t a, uint16_t b) {
                    return H::narrow(H::widen(a) + H::widen(b));
                  }>>;
  }
  if (d.take("min")) {
    return atomic<U, each_half<H, U, minimum<H, false>>>;
  }
  if (d.take("max")) {
    return atomic<U, each_half<H, U, minimum<H, true>>>;
  }
  throw Unsupported{};
}

Handler pick(Decode& d, Type type) {
  switch (type) {
    case Type::U32:
      return pick_arithmetic<uint32_t>(d);
    case Type::S32:
      return pick_arithmetic<int32_t>(d);
    case Type::U64:
      return pick_arithmetic<uint64_t>(d);
    case Type::S64:
      return pick_arithmetic<int64_t>(d);
    case Type::F32:
      d.take("ftz");
      return pick_arithmetic<float>(d);
    case Type::F64:
      return pick_arithmetic<double>(d);
    case Type::F16:
      return pick_half<F16, uint16_t>(d);
    case Type::BF16:
      return pick_half<BF16, uint16_t>(d);
    case Type::F16x2:
      return pick_half<F16, uint32_t>(d);
    case Type::BF16x2:
      return pick_half<BF16, uint32_t>(d);
    case Type::B16:
      return pick_bits<uint16_t>(d);
    case Type::B32:
      return pick_bits<uint32_t>(d);
    case Type::B64:
      return pick_bits<uint64_t>(d);
    case Type::B128:
      return d.take("exch")  ? exchange_128<false>
             : d.take("cas") ? exchange_128<true>
                             : throw Unsupported{};
    default:
      throw Unsupported{};
  }
}

void build_atomic(Decode& d) {
  note_order(d);
  d.drop({"relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys"});
  bool has_result = d.source.opcode == "atom";
  bool has_hint = d.take("L2::cache_hint");
  bool shared = d.take("shared") || d.take("shared::cta") || d.take("shared::cluster");
  Space space = shared ? Space::Shared : d.take("global") ? Space::Global : Space::Generic;
  int count = d.take("v2") ? 2 : d.take("v4") ? 4 : d.take("v8") ? 8 : 1;
  Type type = d.take_type();
  const size_t first = has_result ? 1 : 0;
  const size_t operands = d.num_args() - first - (has_hint ? 1 : 0);
  d.inst.flags = static_cast<uint8_t>(memory_operand(d, d.arg(first), space));
  d.inst.count = static_cast<uint16_t>(count);
  d.inst.dst = has_result && count == 1 ? d.dst(0, type) : d.scratch(ptx::bytes_of(type));
  if (count == 1) {
    d.inst.b = d.src(first + 1, type);
    d.inst.c = operands > 2 ? d.src(first + 2, type) : d.inst.b;
  } else {
    std::vector<uint32_t> slots;
    for (size_t list : {size_t{0}, first + 1}) {
      for (int e = 0; e < count; e++) {
        const auto& items = d.arg(list).items;
        bool result = list == 0;
        if ((!result || has_result) && items.size() != static_cast<size_t>(count)) {
          throw Unsupported{};
        }
        slots.push_back(result ? has_result ? d.dst(items[e], type) : d.inst.dst
                               : d.src(items[e], type));
      }
    }
    d.inst.list = d.list(slots);
  }
  d.info.kind = InstInfo::Atomic;
  d.info.space = space;
  d.info.bytes = static_cast<uint16_t>(ptx::bytes_of(type) * count);
  d.info.element = static_cast<uint16_t>(ptx::bytes_of(type));
  d.info.observed = InstInfo::Lanes;
  d.info.address = d.inst.flags;
  d.info.compares = std::count(d.source.mods.begin(), d.source.mods.end(), "cas") > 0;
  d.inst.run = pick(d, type);
}

constexpr Opcode OPCODES[] = {
    {"atom", build_atomic, UnitRule::Memory, First::Written, Flow::Other},
    {"red", build_atomic, UnitRule::Memory, First::Other, Flow::Other, in_order},
};

}  // namespace

std::span<const Opcode> atomic_opcodes() { return OPCODES; }

}  // namespace wbsim
