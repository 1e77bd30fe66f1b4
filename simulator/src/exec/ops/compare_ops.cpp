// compare_ops.cpp: setp, set, selp, slct (PTX ISA, "Comparison and Selection Instructions").

#include <cmath>

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/float_mode.h"
#include "exec/ops/predicates.h"

namespace wbsim {
namespace {

using ptx::Type;

enum Compare : uint8_t { Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan };
constexpr const char* COMPARE_NAMES[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                         "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
constexpr const char* UNSIGNED_NAMES[] = {"lo", "ls", "hi", "hs"};  // lt, le, gt, ge of unsigned

Compare take_compare(Decode& d) {
  for (int i = 0; i < 14; i++) {
    if (d.take(COMPARE_NAMES[i])) {
      return static_cast<Compare>(i);
    }
  }
  for (int i = 0; i < 4; i++) {
    if (d.take(UNSIGNED_NAMES[i])) {
      return static_cast<Compare>(Lt + i);
    }
  }
  throw Unsupported{};
}

template <Compare C, class T>
inline bool compare(T a, T b) {
  switch (C) {
    case Eq:
      return a == b;
    case Ne:
      return a < b || a > b;  // false for NaN
    case Lt:
      return a < b;
    case Le:
      return a <= b;
    case Gt:
      return a > b;
    case Ge:
      return a >= b;
    case Equ:
      return !(a < b || a > b);
    case Neu:
      return a != b;
    case Ltu:
      return !(a >= b);
    case Leu:
      return !(a > b);
    case Gtu:
      return !(a <= b);
    case Geu:
      return !(a < b);
    case Num:
      return a == a && b == b;
    case Nan:
      return a != a || b != b;
  }
  return false;
}

template <Compare C, class T>
inline Mask compare_lanes(const T* a, const T* b) {
  alignas(64) uint8_t bits[LANES];
  for (int l = 0; l < LANES; l++) {
    bits[l] = compare<C, T>(a[l], b[l]);
  }
  return mask_of(bits);
}

template <Compare C, class T>
const Inst* setp(Warp& w, const Inst* in, Mask m) {
  Mask r = compare_lanes<C, T>(w.reg<T>(in->a), w.reg<T>(in->b));
  Mask value = combined(w, in, r);
  Mask second = combined(w, in, ~r);  // p|q: q gets the complement of the comparison
  write_pred(w, in->dst, value, m);
  if (in->dst2) {
    write_pred(w, in->dst2, second, m);
  }
  return next(in);
}

// set: all ones or 1.0 if the comparison holds, else zero.
template <Compare C, class T>
const Inst* set(Warp& w, const Inst* in, Mask m) {
  Mask r = combined(w, in, compare_lanes<C, T>(w.reg<T>(in->a), w.reg<T>(in->b)));
  uint32_t one = static_cast<uint32_t>(in->imm);
  if (in->count == 2) {  // bytes of the destination
    uint16_t* d = w.reg<uint16_t>(in->dst);
    for_lanes(m, [&](int l) { d[l] = (r >> l) & 1 ? static_cast<uint16_t>(one) : 0; });
  } else {
    uint32_t* d = w.reg<uint32_t>(in->dst);
    for_lanes(m, [&](int l) { d[l] = (r >> l) & 1 ? one : 0; });
  }
  return next(in);
}

// The handler, or with .ftz its twin that reads denormals as zero.
template <Handler H, class T>
Handler flushing(bool ftz) {
  if constexpr (std::is_same_v<T, float>) {
    return ftz ? in_mode<H, Round::Nearest, true> : H;
  }
  if (ftz) {
    throw Unsupported{};
  }
  return H;
}

template <class T, bool SETP>
Handler pick_compare(Compare c, bool ftz) {
  switch (c) {
#define PICK(C) \
  case C:       \
    return flushing<(SETP ? setp<C, T> : set<C, T>), T>(ftz);
    PICK(Eq)
    PICK(Ne)
    PICK(Lt)
    PICK(Le)
    PICK(Gt)
    PICK(Ge)
#undef PICK
    default:
      break;
  }
  if constexpr (std::is_floating_point_v<T>) {
    switch (c) {
#define PICK(C) \
  case C:       \
    return flushing<(SETP ? setp<C, T> : set<C, T>), T>(ftz);
      PICK(Equ)
      PICK(Neu)
      PICK(Ltu)
      PICK(Leu)
      PICK(Gtu)
      PICK(Geu)
      PICK(Num)
      PICK(Nan)
#undef PICK
      default:
        break;
    }
  }
  throw Unsupported{};
}

template <bool SETP>
Handler pick_type(Type type, Compare c, bool ftz) {
  if (ptx::is_float(type)) {
    return with_float(type, [&]<class T>(TypeTag<T>) { return pick_compare<T, SETP>(c, ftz); });
  }
  if (type == Type::B16 || type == Type::B32 || type == Type::B64) {
    return with_bits(type, [&]<class T>(TypeTag<T>) { return pick_compare<T, SETP>(c, ftz); });
  }
  return with_integer(type, [&]<class T>(TypeTag<T>) { return pick_compare<T, SETP>(c, ftz); });
}

void build_setp(Decode& d) {
  Compare c = take_compare(d);
  take_combine(d);
  Type type = d.take_type();
  bool ftz = d.take("ftz");
  predicate_destinations(d);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, type);
  d.inst.run = pick_type<true>(type, c, ftz);
}

void build_set(Decode& d) {
  Compare c = take_compare(d);
  take_combine(d);
  bool ftz = d.take("ftz");
  Type to = d.take_type(), type = d.take_type();
  d.inst.imm = value_of_true(to);
  d.inst.count = static_cast<uint16_t>(ptx::bytes_of(to));
  d.inst.dst = d.dst(0, to);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, type);
  d.inst.run = pick_type<false>(type, c, ftz);
}

template <class U>
const Inst* selp(Warp& w, const Inst* in, Mask m) {
  U* d = w.reg<U>(in->dst);
  const U* a = w.reg<U>(in->a);
  const U* b = w.reg<U>(in->b);
  Mask p = w.pred(in->c) ^ (in->flags ? ALL_LANES : 0);
  if (m == ALL_LANES) {
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
      d[l] = (p >> l) & 1 ? a[l] : b[l];
    }
  } else {
    for_lanes(m, [&](int l) { d[l] = (p >> l) & 1 ? a[l] : b[l]; });
  }
  return next(in);
}

void build_selp(Decode& d) {
  Type type = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, type);
  d.inst.c = d.pred(d.arg(3));
  d.inst.flags = d.arg(3).negated;
  d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler { return selp<U>; });
}

// slct: a where c >= 0, else b; NaN counts as negative.
void build_slct(Decode& d) {
  bool ftz = d.take("ftz");
  Type type = d.take_type(), by = d.take_type();
  d.inst.dst = d.dst(0, type);
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, type);
  d.inst.c = d.src(3, by);
  if (by == Type::S32) {
    d.inst.run = with_bits(type, []<class U>(TypeTag<U>) -> Handler {
      return map3<[](U a, U b, int32_t c) { return (c >= 0) ? a : b; }, U, U, U, int32_t>;
    });
  } else if (by == Type::F32) {
    // A denormal flushed to zero is >= 0 whatever its sign.
    d.inst.run = with_bits(type, [&]<class U>(TypeTag<U>) -> Handler {
      if (ftz) {
        return map3<[](U a, U b, float c) { return (c > -1.17549435e-38f) ? a : b; }, U, U, U,
                    float>;
      }
      return map3<[](U a, U b, float c) { return (c >= 0) ? a : b; }, U, U, U, float>;
    });
  }
}

constexpr Opcode OPCODES[] = {
    {"setp", build_setp, UnitRule::Compare, First::Written, Flow::Plain, not_on_halves},
    {"set", build_set, UnitRule::Compare, First::Written, Flow::Plain, not_on_halves},
    {"selp", build_selp, UnitRule::Compare, First::Written, Flow::Plain},
    {"slct", build_slct, UnitRule::Compare, First::Written, Flow::Plain},
};

}  // namespace

std::span<const Opcode> compare_opcodes() { return OPCODES; }

}  // namespace wbsim
