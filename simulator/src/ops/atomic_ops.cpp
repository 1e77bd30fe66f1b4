// atomic_ops.cpp: atom and red of 32 and 64 bits in global and shared memory.
//
// Blocks run on several cores, so every operation is one on the host too. The order of a warp's
// lanes is that of their numbers.

#include <algorithm>
#include <atomic>
#include <bit>

#include "access.h"
#include "dispatch.h"
#include "float_mode.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

// Replaces the value by f(old, b, c) and returns the old one. U is the value's bits.
template <class T, class U, class F>
inline U update(uint8_t* at, U b, U c, F f) {
  std::atomic_ref<U> cell(*reinterpret_cast<U*>(at));
  U old = cell.load(std::memory_order_relaxed);
  while (!cell.compare_exchange_weak(
      old, std::bit_cast<U>(static_cast<T>(
               f(std::bit_cast<T>(old), std::bit_cast<T>(b), std::bit_cast<T>(c)))))) {
  }
  return old;
}

template <AddressKind KIND, class T, auto F>
const Inst* atomic(Warp& w, const Inst* in, Mask m) {
  using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Access at;
  resolve<KIND, true>(at, w, in, m, sizeof(T));
  U* d = w.reg<U>(in->dst);
  const U* b = w.reg<U>(in->b);
  const U* c = w.reg<U>(in->c);
  for_lanes(m, [&](int l) { d[l] = update<T, U>(at.lane(l), b[l], c[l], F); });
  return next(in);
}

constexpr auto ADD_FLOAT = [](float a, float b, float) { return a + b; };
constexpr auto ADD_FLUSHED = [](float a, float b, float) { return flush(flush(a) + flush(b)); };

// atom.add.f32 flushes denormals in global memory and keeps them in shared memory (PTX ISA, atom).
const Inst* add_float_generic(Warp& w, const Inst* in, Mask m) {
  Access at;
  resolve<AddressKind::Generic, true>(at, w, in, m, sizeof(float));
  uint32_t* d = w.reg<uint32_t>(in->dst);
  const uint32_t* b = w.reg<uint32_t>(in->b);
  const uint8_t* shared = w.block->shared;
  for_lanes(m, [&](int l) {
    uint8_t* p = at.lane(l);
    bool in_shared = p >= shared && p < shared + w.block->shared_bytes;
    d[l] = in_shared ? update<float, uint32_t>(p, b[l], 0, ADD_FLOAT)
                     : update<float, uint32_t>(p, b[l], 0, ADD_FLUSHED);
  });
  return next(in);
}

template <class T, auto F>
Handler pick_space(AddressKind kind) {
  switch (kind) {
    case AddressKind::Generic:
      return atomic<AddressKind::Generic, T, F>;
    case AddressKind::Shared32:
      return atomic<AddressKind::Shared32, T, F>;
    case AddressKind::Shared64:
      return atomic<AddressKind::Shared64, T, F>;
    default:
      throw Unsupported{};
  }
}

template <class T>
Handler pick_arithmetic(Decode& d, AddressKind kind) {
  using W = std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>, TypeTag<T>>::type;
  if (d.take("add")) {
    if (std::is_same_v<T, float> && kind == AddressKind::Generic) {
      return add_float_generic;
    }
    return pick_space<T, [](T a, T b, T) {
      return static_cast<T>(static_cast<W>(a) + static_cast<W>(b));
    }>(kind);
  }
  if constexpr (std::is_integral_v<T>) {
    if (d.take("min")) {
      return pick_space<T, [](T a, T b, T) { return std::min(a, b); }>(kind);
    }
    if (d.take("max")) {
      return pick_space<T, [](T a, T b, T) { return std::max(a, b); }>(kind);
    }
  }
  if constexpr (std::is_same_v<T, uint32_t>) {
    if (d.take("inc")) {
      return pick_space<T, [](T a, T b, T) { return (a >= b) ? T{0} : a + 1; }>(kind);
    }
    if (d.take("dec")) {
      return pick_space<T, [](T a, T b, T) { return (a == 0 || a > b) ? b : a - 1; }>(kind);
    }
  }
  throw Unsupported{};
}

template <class U>
Handler pick_bits(Decode& d, AddressKind kind) {
  if (d.take("and")) {
    return pick_space<U, [](U a, U b, U) { return a & b; }>(kind);
  }
  if (d.take("or")) {
    return pick_space<U, [](U a, U b, U) { return a | b; }>(kind);
  }
  if (d.take("xor")) {
    return pick_space<U, [](U a, U b, U) { return a ^ b; }>(kind);
  }
  if (d.take("exch")) {
    return pick_space<U, [](U, U b, U) { return b; }>(kind);
  }
  if (d.take("cas")) {
    return pick_space<U, [](U a, U b, U c) { return a == b ? c : a; }>(kind);
  }
  throw Unsupported{};
}

void build_atomic(Decode& d) {
  d.drop({"relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys"});
  bool has_result = d.source.opcode == "atom";
  Space space = d.take("global") ? Space::Global
                : d.take("shared") || d.take("shared::cta") || d.take("shared::cluster")
                    ? Space::Shared
                    : Space::Generic;
  Type type = d.take_type();
  size_t first = has_result ? 1 : 0;
  const Operand& address = d.arg(first);
  if (address.kind != Operand::Memory || !address.items.empty()) {
    throw Unsupported{};
  }
  Operand base = address;
  base.kind = address.reg >= 0 ? Operand::Register : Operand::Symbol;
  base.offset = 0;
  bool narrow = space == Space::Shared && (address.reg < 0 || d.register_bytes(base) == 4);
  d.inst.a = d.src(base, narrow ? Type::U32 : Type::U64);
  d.inst.imm = address.offset;
  AddressKind kind = space != Space::Shared ? AddressKind::Generic
                     : narrow               ? AddressKind::Shared32
                                            : AddressKind::Shared64;
  d.inst.dst = has_result ? d.dst(0, type) : d.scratch(ptx::bytes_of(type));
  d.inst.b = d.src(first + 1, type);
  d.inst.c = d.num_args() > first + 2 ? d.src(first + 2, type) : d.inst.b;
  d.info.kind = InstInfo::Atomic;
  d.info.space = space;
  d.info.bytes = static_cast<uint16_t>(ptx::bytes_of(type));
  switch (type) {
    case Type::U32:
      d.inst.run = pick_arithmetic<uint32_t>(d, kind);
      break;
    case Type::S32:
      d.inst.run = pick_arithmetic<int32_t>(d, kind);
      break;
    case Type::U64:
      d.inst.run = pick_arithmetic<uint64_t>(d, kind);
      break;
    case Type::S64:
      d.inst.run = pick_arithmetic<int64_t>(d, kind);
      break;
    case Type::F32:
      d.take("ftz");
      d.inst.run = pick_arithmetic<float>(d, kind);
      break;
    case Type::F64:
      d.inst.run = pick_arithmetic<double>(d, kind);
      break;
    case Type::B32:
      d.inst.run = pick_bits<uint32_t>(d, kind);
      break;
    case Type::B64:
      d.inst.run = pick_bits<uint64_t>(d, kind);
      break;
    default:
      throw Unsupported{};
  }
}

constexpr Opcode OPCODES[] = {
    {"atom", build_atomic},
    {"red", build_atomic},
};

}  // namespace

std::span<const Opcode> atomic_opcodes() { return OPCODES; }

}  // namespace wbsim
