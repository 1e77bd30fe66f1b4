// bit_ops.cpp: logic, shifts, bit fields and bytes (PTX ISA, "Logic and Shift", and those of
// "Integer Arithmetic" that count, find and move bits).

#include <algorithm>
#include <bit>

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/predicates.h"

namespace wbsim {
namespace {

using ptx::Type;

// ---- Logic and shifts ---------------------------------------------------------------------------

template <auto F>
const Inst* logic_pred(Warp& w, const Inst* in, Mask m) {
  Mask value = F(w.pred(in->a) ^ (in->flags & 1 ? ALL_LANES : 0),
                 w.pred(in->b) ^ (in->flags & 2 ? ALL_LANES : 0));
  Mask& p = w.pred(in->dst);
  p = (p & ~m) | (value & m);
  return next(in);
}

void pred_operands(Decode& d) {
  d.inst.dst = d.dst(0, Type::Pred);
  d.inst.a = d.pred(d.arg(1));
  d.inst.flags |= d.arg(1).negated ? 1 : 0;
  if (d.num_args() > 2) {
    d.inst.b = d.pred(d.arg(2));
    d.inst.flags |= d.arg(2).negated ? 2 : 0;
  } else {
    d.inst.b = d.inst.a;
  }
}

#define LOGIC(NAME, EXPRESSION)                                                    \
  void build_##NAME(Decode& d) {                                                   \
    Type type = d.take_type();                                                     \
    if (type == Type::Pred) {                                                      \
      pred_operands(d);                                                            \
      d.inst.run = logic_pred<[](Mask a, Mask b) -> Mask { return EXPRESSION; }>;  \
      return;                                                                      \
    }                                                                              \
    operands(d, type);                                                             \
    d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {              \
      return map2<[](U a, U b) -> U { return static_cast<U>(EXPRESSION); }, U, U>; \
    });                                                                            \
  }
LOGIC(and, a& b)
LOGIC(or, a | b)
LOGIC(xor, a ^ b)
#undef LOGIC

void build_not(Decode& d) {
  Type type = d.take_type();
  if (type == Type::Pred) {
    pred_operands(d);
    d.inst.run = logic_pred<[](Mask a, Mask) -> Mask { return ~a; }>;
    return;
  }
  operands(d, type);
  d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {
    return map1<[](U a) -> U { return static_cast<U>(~a); }, U, U>;
  });
}

void build_cnot(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {
    return map1<[](U a) -> U { return a == 0; }, U, U>;
  });
}

// Shift amounts beyond the width shift everything out.
void build_shl(Decode& d) {
  Type type = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, Type::U32);
  d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {
    return map2<[](U a, uint32_t b) -> U {
      constexpr uint32_t BITS = 8 * sizeof(U);
      return b < BITS ? static_cast<U>(a << (b & (BITS - 1))) : U{0};
    },
                U, U, uint32_t>;
  });
}

void build_shr(Decode& d) {
  Type type = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, Type::U32);
  auto pick = []<class T>(TypeTag<T>) -> Handler {
    return map2<[](T a, uint32_t b) -> T {
      constexpr uint32_t BITS = 8 * sizeof(T);
      if (std::is_signed_v<T>) {
        return static_cast<T>(a >> (b < BITS ? b : BITS - 1));
      }
      return b < BITS ? static_cast<T>(a >> (b & (BITS - 1))) : T{0};
    },
                T, T, uint32_t>;
  };
  d.inst.run = ptx::is_signed(type) ? with_integer(type, pick) : with_bits(type, pick);
}

// Funnel shift of the pair (b:a).
void build_shf(Decode& d) {
  bool left = d.take("l");
  if (!left && !d.take("r")) {
    throw Unsupported{};
  }
  bool wrap = d.take("wrap");
  if (!wrap && !d.take("clamp")) {
    throw Unsupported{};
  }
  d.take_type();
  operands(d, Type::B32);
  using U = uint32_t;
  if (left) {
    d.inst.run = wrap ? Handler{map3<[](U a, U b, U c) -> U {
      return static_cast<U>(((uint64_t{b} << 32 | a) << (c & 31)) >> 32);
    },
                                     U, U>}
                      : Handler{map3<[](U a, U b, U c) -> U {
                          uint32_t n = c < 32 ? c : 32;
                          return n == 32 ? a : static_cast<U>(((uint64_t{b} << 32 | a) << n) >> 32);
                        },
                                     U, U>};
  } else {
    d.inst.run = wrap ? Handler{map3<[](U a, U b, U c) -> U {
      return static_cast<U>((uint64_t{b} << 32 | a) >> (c & 31));
    },
                                     U, U>}
                      : Handler{map3<[](U a, U b, U c) -> U {
                          return static_cast<U>((uint64_t{b} << 32 | a) >> (c < 32 ? c : 32));
                        },
                                     U, U>};
  }
}

void build_popc(Decode& d) {
  Type type = d.take_type();
  d.inst.dst = d.dst(0, Type::U32);
  d.inst.a = d.src(1, type);
  d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {
    return map1<[](U a) { return static_cast<uint32_t>(std::popcount(a)); }, uint32_t, U>;
  });
}

void build_clz(Decode& d) {
  Type type = d.take_type();
  d.inst.dst = d.dst(0, Type::U32);
  d.inst.a = d.src(1, type);
  d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {
    return map1<[](U a) { return static_cast<uint32_t>(std::countl_zero(a)); }, uint32_t, U>;
  });
}

// Swaps neighbours, then pairs of them, ...
template <class U>
constexpr U reverse_bits(U v) {
  U mask = ~U{0};
  for (int width = 4 * sizeof(U); width > 0; width /= 2) {
    mask ^= mask << width;  // the lower half of every group of 2 * width bits
    v = ((v >> width) & mask) | ((v & mask) << width);
  }
  return v;
}

void build_brev(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {
    return map1<[](U a) { return reverse_bits<U>(a); }, U, U>;
  });
}

// Position of the most significant non-sign bit, or all ones; shiftamt: counted from the top.
template <class T>
constexpr uint32_t find_bit(T a, bool shift_amount) {
  using U = std::make_unsigned_t<T>;
  U u = static_cast<U>(std::is_signed_v<T> && a < 0 ? ~a : a);
  if (u == 0) {
    return UINT32_MAX;
  }
  uint32_t leading = std::countl_zero(u);
  return shift_amount ? leading : 8 * sizeof(T) - 1 - leading;
}

void build_bfind(Decode& d) {
  bool shift_amount = d.take("shiftamt");
  Type type = d.take_type();
  d.inst.dst = d.dst(0, Type::U32);
  d.inst.a = d.src(1, type);
  d.inst.run = with_integer(type, [&]<class T>(TypeTag<T>) -> Handler {
    if (shift_amount) {
      return map1<[](T a) { return find_bit<T>(a, true); }, uint32_t, T>;
    }
    return map1<[](T a) { return find_bit<T>(a, false); }, uint32_t, T>;
  });
}

// Position of the n-th set bit from a base (PTX ISA, fns).
uint32_t nth_set_bit(uint32_t mask, uint32_t base, int32_t offset) {
  if (offset == 0) {
    return base < 32 && (mask >> base) & 1 ? base : UINT32_MAX;
  }
  int step = offset > 0 ? 1 : -1;
  int64_t count = offset > 0 ? offset : -int64_t{offset};
  for (int64_t at = base; at >= 0 && at < 32; at += step) {
    if ((mask >> at) & 1 && --count == 0) {
      return static_cast<uint32_t>(at);
    }
  }
  return UINT32_MAX;
}

void build_fns(Decode& d) {
  d.take_type();
  operands(d, Type::B32);
  d.inst.run = map3<[](uint32_t a, uint32_t b, int32_t c) { return nth_set_bit(a, b, c); },
                    uint32_t, uint32_t, uint32_t, int32_t>;
}

template <class T>
constexpr T extract_field(T a, uint32_t b, uint32_t c) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t TOP = 8 * sizeof(T) - 1;
  uint32_t pos = b & 0xff, len = c & 0xff;
  U sign = 0;
  if (std::is_signed_v<T> && len > 0) {
    sign = (static_cast<U>(a) >> std::min(pos + len - 1, TOP)) & 1;
  }
  U field = pos <= TOP ? static_cast<U>(a) >> pos : U{0};
  uint32_t have = pos <= TOP ? std::min(len, TOP + 1 - pos) : 0;
  U keep = have > TOP ? ~U{0} : (U{1} << have) - 1;
  field &= keep;
  return static_cast<T>(sign ? field | ~keep : field);
}

void build_bfe(Decode& d) {
  Type type = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, Type::U32);
  d.inst.c = d.src(3, Type::U32);
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    if constexpr (sizeof(T) >= 4) {
      return map3<[](T a, uint32_t b, uint32_t c) { return extract_field<T>(a, b, c); }, T, T,
                  uint32_t, uint32_t>;
    } else {
      throw Unsupported{};
    }
  });
}

template <class U>
const Inst* insert_field(Warp& w, const Inst* in, Mask m) {
  const U* a = w.reg<U>(in->a);
  const U* b = w.reg<U>(in->b);
  const uint32_t* c = w.reg<uint32_t>(in->c);
  const uint32_t* len = w.reg<uint32_t>(in->d);
  constexpr uint32_t BITS = 8 * sizeof(U);
  alignas(64) U out[LANES];
  for (int l = 0; l < LANES; l++) {
    uint32_t pos = c[l] & 0xff, n = len[l] & 0xff;
    U keep = n >= BITS ? ~U{0} : (U{1} << (n & (BITS - 1))) - 1;
    keep = pos < BITS ? keep << (pos & (BITS - 1)) : U{0};
    out[l] = (b[l] & ~keep) | (a[l] << (pos & (BITS - 1)) & keep);
  }
  store_masked(w.reg<U>(in->dst), out, m);
  return next(in);
}

void build_bfi(Decode& d) {
  Type type = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, type);
  d.inst.c = d.src(3, Type::U32);
  d.inst.d = d.src(4, Type::U32);
  if (type == Type::B32) {
    d.inst.run = insert_field<uint32_t>;
  } else if (type == Type::B64) {
    d.inst.run = insert_field<uint64_t>;
  }
}

void build_bmsk(Decode& d) {
  bool wrap = d.take("wrap");
  if (!wrap && !d.take("clamp")) {
    throw Unsupported{};
  }
  d.take_type();
  operands(d, Type::B32);
  using U = uint32_t;
  d.inst.run = wrap ? Handler{map2<[](U a, U b) -> U {
    return static_cast<U>(((uint64_t{1} << (b & 31)) - 1) << (a & 31));
  },
                                   U, U>}
                    : Handler{map2<[](U a, U b) -> U {
                        uint32_t n = b < 32 ? b : 32;
                        return a < 32 ? static_cast<U>(((uint64_t{1} << n) - 1) << a) : U{0};
                      },
                                   U, U>};
}

// szext: the low b bits of a, sign- or zero-extended.
template <class T, bool WRAP>
constexpr T extend(T a, uint32_t b) {
  uint32_t n = WRAP ? b & 31 : std::min(b, 32u);
  uint32_t unused = (32 - n) & 31;
  T value = static_cast<T>(static_cast<T>(static_cast<uint32_t>(a) << unused) >> unused);
  return n == 0 ? T{0} : value;
}

void build_szext(Decode& d) {
  bool wrap = d.take("wrap");
  if (!wrap && !d.take("clamp")) {
    throw Unsupported{};
  }
  Type type = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, Type::U32);
  d.inst.run = with_integer(type, [&]<class T>(TypeTag<T>) -> Handler {
    if constexpr (sizeof(T) == 4) {
      return wrap ? Handler{map2<[](T a, uint32_t b) { return extend<T, true>(a, b); }, T, T,
                                 uint32_t>}
                  : Handler{map2<[](T a, uint32_t b) { return extend<T, false>(a, b); }, T, T,
                                 uint32_t>};
    } else {
      throw Unsupported{};
    }
  });
}

// lop3: bit i of the result is bit (a_i, b_i, c_i) of the table.
void lop3_lanes(Warp& w, const Inst* in, uint32_t out[LANES]) {
  const uint32_t* a = w.reg<uint32_t>(in->a);
  const uint32_t* b = w.reg<uint32_t>(in->b);
  const uint32_t* c = w.reg<uint32_t>(in->c);
  std::fill(out, out + LANES, 0);
  for (int entry = 0; entry < 8; entry++) {
    if ((in->imm >> entry) & 1) {
      // x ^ ~0 if the entry has a zero.
      uint32_t flip_a = entry & 4 ? 0 : ~0u, flip_b = entry & 2 ? 0 : ~0u;
      uint32_t flip_c = entry & 1 ? 0 : ~0u;
      for (int l = 0; l < LANES; l++) {
        out[l] |= (a[l] ^ flip_a) & (b[l] ^ flip_b) & (c[l] ^ flip_c);
      }
    }
  }
}

const Inst* lop3(Warp& w, const Inst* in, Mask m) {
  alignas(64) uint32_t out[LANES];
  lop3_lanes(w, in, out);
  store_masked(w.reg<uint32_t>(in->dst), out, m);
  return next(in);
}

// lop3.BoolOp d|p, a, b, c, table, q: p is (d != 0) BoolOp q.
const Inst* lop3_pred(Warp& w, const Inst* in, Mask m) {
  alignas(64) uint32_t out[LANES];
  lop3_lanes(w, in, out);
  alignas(64) uint8_t found[LANES];
  for (int l = 0; l < LANES; l++) {
    found[l] = out[l] != 0;
  }
  Mask q = w.pred(in->d) ^ (in->flags & NEGATE_C ? ALL_LANES : 0);
  store_masked(w.reg<uint32_t>(in->dst), out, m);
  write_pred(w, in->dst2, combine(in->flags & 7, mask_of(found), q), m);
  return next(in);
}

void build_lop3(Decode& d) {
  d.take_type();
  d.inst.dst = d.dst(0, Type::B32);
  d.inst.a = d.src(1, Type::B32);
  d.inst.b = d.src(2, Type::B32);
  d.inst.c = d.src(3, Type::B32);
  d.inst.imm = static_cast<int64_t>(d.arg(4).bits);
  d.inst.flags = d.take("and") ? And : d.take("or") ? Or : Plain;
  d.inst.dst2 = second_destination(d, d.arg(0));
  bool combines = d.inst.flags != Plain;
  if (d.arg(4).kind != ptx::Operand::Integer || d.num_args() != (combines ? 6 : 5) ||
      combines != (d.inst.dst2 != 0)) {
    throw Unsupported{};
  }
  d.inst.run = lop3;
  if (combines) {
    d.inst.d = d.pred(d.arg(5));
    d.inst.flags |= d.arg(5).negated ? NEGATE_C : 0;
    d.inst.run = lop3_pred;
  }
}

// prmt: picks four bytes of (b:a); a selector's bit 3 replicates the byte's sign.
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r = 0;
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    uint32_t selector = c >> (4 * i);
    uint32_t byte = ((selector & 4 ? b : a) >> (8 * (selector & 3))) & 0xff;
    uint32_t sign = byte & 0x80 ? 0xff : 0;
    r |= (selector & 8 ? sign : byte) << (8 * i);
  }
  return r;
}

// The special modes of prmt pick bytes by the low two bits of c.
struct PermuteMode {
  const char* name;
  uint16_t selectors[4];
};
constexpr PermuteMode MODES[] = {
    {"f4e", {0x3210, 0x4321, 0x5432, 0x6543}}, {"b4e", {0x5670, 0x6701, 0x7012, 0x0123}},
    {"rc8", {0x0000, 0x1111, 0x2222, 0x3333}}, {"ecl", {0x3210, 0x3211, 0x3222, 0x3333}},
    {"ecr", {0x0000, 0x1110, 0x2210, 0x3210}}, {"rc16", {0x1010, 0x3232, 0x1010, 0x3232}},
};

template <int MODE>
constexpr Handler PRMT_MODE = map3<[](uint32_t a, uint32_t b, uint32_t c) {
  return permute(a, b, MODES[MODE].selectors[c & 3]);
},
                                   uint32_t, uint32_t>;

void build_prmt(Decode& d) {
  static constexpr Handler HANDLERS[] = {PRMT_MODE<0>, PRMT_MODE<1>, PRMT_MODE<2>,
                                         PRMT_MODE<3>, PRMT_MODE<4>, PRMT_MODE<5>};
  d.take_type();
  operands(d, Type::B32);
  d.inst.run =
      map3<[](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); }, uint32_t, uint32_t>;
  for (int i = 0; i < 6; i++) {
    if (d.take(MODES[i].name)) {
      d.inst.run = HANDLERS[i];
    }
  }
}
constexpr Opcode OPCODES[] = {
    {"and", build_and, UnitRule::Integer, First::Written, Flow::Plain},
    {"or", build_or, UnitRule::Integer, First::Written, Flow::Plain},
    {"xor", build_xor, UnitRule::Integer, First::Written, Flow::Plain},
    {"not", build_not, UnitRule::Integer, First::Written, Flow::Plain},
    {"cnot", build_cnot, UnitRule::Integer, First::Written, Flow::Plain},
    {"shl", build_shl, UnitRule::Integer, First::Written, Flow::Plain},
    {"shr", build_shr, UnitRule::Integer, First::Written, Flow::Plain},
    {"shf", build_shf, UnitRule::Integer, First::Written, Flow::Plain},
    {"popc", build_popc, UnitRule::Integer, First::Written, Flow::Plain},
    {"clz", build_clz, UnitRule::Integer, First::Written, Flow::Plain},
    {"brev", build_brev, UnitRule::Integer, First::Written, Flow::Plain},
    {"bfind", build_bfind, UnitRule::Integer, First::Written, Flow::Plain},
    {"fns", build_fns, UnitRule::Integer, First::Written, Flow::Plain},
    {"bfe", build_bfe, UnitRule::Integer, First::Written, Flow::Plain},
    {"bfi", build_bfi, UnitRule::Integer, First::Written, Flow::Plain},
    {"bmsk", build_bmsk, UnitRule::Integer, First::Written, Flow::Plain},
    {"szext", build_szext, UnitRule::Integer, First::Written, Flow::Other},
    {"lop3", build_lop3, UnitRule::Integer, First::Written, Flow::Plain},
    {"prmt", build_prmt, UnitRule::Integer, First::Written, Flow::Plain},
};

}  // namespace

std::span<const Opcode> bit_opcodes() { return OPCODES; }

}  // namespace wbsim
