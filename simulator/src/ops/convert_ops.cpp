// convert_ops.cpp: cvt between integers and f32/f64, and cvta between address spaces.

#include <cmath>
#include <limits>

#include "dispatch.h"
#include "float_mode.h"

namespace wbsim {
namespace {

using ptx::Type;

template <class F>
Handler with_any(Type type, F f) {
  switch (type) {
    case Type::U8: return f(TypeTag<uint8_t>{});
    case Type::S8: return f(TypeTag<int8_t>{});
    case Type::F32: return f(TypeTag<float>{});
    case Type::F64: return f(TypeTag<double>{});
    default: return with_integer(type, f);
  }
}

// The type a register of that many bytes holds a T in: 8-bit values live in 16 bits, narrow ones may live in wider ones.
template <class T, class F>
Handler with_register(int bytes, F f) {
  if constexpr (std::is_floating_point_v<T>) {
    return f(TypeTag<T>{});
  } else {
    constexpr bool S = std::is_signed_v<T>;
    switch (std::max<int>(bytes, sizeof(T))) {
      case 1:
      case 2: return f(TypeTag<std::conditional_t<S, int16_t, uint16_t>>{});
      case 4: return f(TypeTag<std::conditional_t<S, int32_t, uint32_t>>{});
      default: return f(TypeTag<std::conditional_t<S, int64_t, uint64_t>>{});
    }
  }
}

// Float to integer: rounds, then saturates; NaN gives zero, or the top bit where f64 or 64 bits are involved
// (PTX ISA, cvt).
template <Round R, class I, class F>
I to_integer(F v) {
  if (v != v) {
    constexpr bool TOP = sizeof(F) == 8 || sizeof(I) == 8;
    return TOP ? static_cast<I>(std::make_unsigned_t<I>{1} << (8 * sizeof(I) - 1)) : I{0};
  }
  F r = R == Round::Zero ? std::trunc(v) : R == Round::Down ? std::floor(v) : R == Round::Up ? std::ceil(v) : std::nearbyint(v);
  // The limits as powers of two are exact in F.
  const F high = std::ldexp(F{1}, std::is_signed_v<I> ? 8 * sizeof(I) - 1 : 8 * sizeof(I));
  const F low = std::is_signed_v<I> ? -high : F{0};
  return r >= high ? std::numeric_limits<I>::max() : r <= low ? std::numeric_limits<I>::min() : static_cast<I>(r);
}

template <class To, class From>
To saturate_integer(From v) {
  __int128 x = v;
  __int128 low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
  return static_cast<To>(x < low ? low : x > high ? high : x);
}

template <class F>
F saturate_float(F v) {
  return v > F{0} ? (v < F{1} ? v : F{1}) : F{0};
}

template <Round R, class F>
F round_float(F v) {
  return R == Round::Zero ? std::trunc(v) : R == Round::Down ? std::floor(v) : R == Round::Up ? std::ceil(v) : std::nearbyint(v);
}

struct Conversion {
  Type to, from;
  Round round;
  bool integral;  // rni, rzi, rmi, rpi
  bool sat, ftz;
  int dst_bytes, src_bytes;
};

template <class To, class From, auto F>
Handler convert_with(const Conversion& c) {
  return with_register<To>(c.dst_bytes, [&]<class D>(TypeTag<D>) -> Handler {
    return with_register<From>(c.src_bytes, [&]<class S>(TypeTag<S>) -> Handler {
      constexpr Handler H = map1<[](S v) { return static_cast<D>(F(static_cast<From>(v))); }, D, S>;
      if constexpr (std::is_floating_point_v<To> || std::is_floating_point_v<From>) {
        return with_mode<H>(c.integral ? Round::Nearest : c.round, c.ftz);
      } else {
        return H;
      }
    });
  });
}

template <class To, class From>
Handler integer_to_integer(const Conversion& c) {
  if (c.sat) {
    return convert_with<To, From, [](From v) { return saturate_integer<To, From>(v); }>(c);
  }
  return convert_with<To, From, [](From v) { return static_cast<To>(v); }>(c);
}

template <class To, class From>
Handler float_to_integer(const Conversion& c) {
  switch (c.round) {
    case Round::Zero: return convert_with<To, From, [](From v) { return to_integer<Round::Zero, To>(v); }>(c);
    case Round::Down: return convert_with<To, From, [](From v) { return to_integer<Round::Down, To>(v); }>(c);
    case Round::Up: return convert_with<To, From, [](From v) { return to_integer<Round::Up, To>(v); }>(c);
    default: return convert_with<To, From, [](From v) { return to_integer<Round::Nearest, To>(v); }>(c);
  }
}

template <class F>
Handler float_to_integral(const Conversion& c) {
  switch (c.round) {
    case Round::Zero: return convert_with<F, F, [](F v) { return round_float<Round::Zero>(v); }>(c);
    case Round::Down: return convert_with<F, F, [](F v) { return round_float<Round::Down>(v); }>(c);
    case Round::Up: return convert_with<F, F, [](F v) { return round_float<Round::Up>(v); }>(c);
    default: return convert_with<F, F, [](F v) { return round_float<Round::Nearest>(v); }>(c);
  }
}

template <class To, class From>
Handler pick_conversion(const Conversion& c) {
  constexpr bool TO_FLOAT = std::is_floating_point_v<To>, FROM_FLOAT = std::is_floating_point_v<From>;
  if constexpr (!TO_FLOAT && !FROM_FLOAT) {
    return integer_to_integer<To, From>(c);
  } else if constexpr (!TO_FLOAT) {
    if (!c.integral) {
      throw Unsupported{};
    }
    return float_to_integer<To, From>(c);
  } else {
    if constexpr (std::is_same_v<To, From>) {
      if (c.integral && !c.sat) {
        return float_to_integral<To>(c);
      }
    }
    if (c.integral) {
      throw Unsupported{};
    }
    if (c.sat) {
      return convert_with<To, From, [](From v) { return saturate_float(static_cast<To>(v)); }>(c);
    }
    return convert_with<To, From, [](From v) { return static_cast<To>(v); }>(c);
  }
}

void build_cvt(Decode& d) {
  Conversion c{};
  c.integral = true;
  if (d.take("rni")) {
    c.round = Round::Nearest;
  } else if (d.take("rzi")) {
    c.round = Round::Zero;
  } else if (d.take("rmi")) {
    c.round = Round::Down;
  } else if (d.take("rpi")) {
    c.round = Round::Up;
  } else {
    c.integral = false;
    c.round = take_round(d);
  }
  c.sat = d.take("sat");
  c.ftz = d.take("ftz");
  c.to = d.take_type();
  c.from = d.take_type();
  d.inst.dst = d.dst(0, c.to);
  d.inst.a = d.src(1, c.from);
  c.dst_bytes = std::max(d.register_bytes(d.arg(0)), ptx::bytes_of(c.to));
  c.src_bytes = std::max(d.register_bytes(d.arg(1)), ptx::bytes_of(c.from));
  Special which;
  if (d.is_special(d.arg(1), which)) {
    c.src_bytes = ptx::bytes_of(c.from);
  }
  d.inst.run = with_any(c.to, [&]<class To>(TypeTag<To>) {
    return with_any(c.from, [&]<class From>(TypeTag<From>) { return pick_conversion<To, From>(c); });
  });
}

// ---- cvta: between an address in one space and a generic address -----------------------------------------

// Global and const addresses are generic already.
template <class U>
const Inst* copy(Warp& w, const Inst* in, Mask m) {
  return map1<[](U a) { return a; }, U, U>(w, in, m);
}

const Inst* shared_to_generic(Warp& w, const Inst* in, Mask m) {
  uint64_t base = reinterpret_cast<uint64_t>(w.block->shared) - SHARED_BASE;
  const uint64_t* a = w.reg<uint64_t>(in->a);
  uint64_t* d = w.reg<uint64_t>(in->dst);
  for_lanes(m, [&](int l) { d[l] = base + a[l]; });
  return next(in);
}

const Inst* generic_to_shared(Warp& w, const Inst* in, Mask m) {
  uint64_t base = reinterpret_cast<uint64_t>(w.block->shared) - SHARED_BASE;
  const uint64_t* a = w.reg<uint64_t>(in->a);
  uint64_t* d = w.reg<uint64_t>(in->dst);
  for_lanes(m, [&](int l) { d[l] = a[l] - base; });
  return next(in);
}

template <int SIGN>
const Inst* local_generic(Warp& w, const Inst* in, Mask m) {
  const uint64_t* a = w.reg<uint64_t>(in->a);
  uint64_t* d = w.reg<uint64_t>(in->dst);
  for_lanes(m, [&](int l) {
    uint64_t base = reinterpret_cast<uint64_t>(w.local) + uint64_t{w.block->kernel->local_bytes} * l;
    d[l] = SIGN > 0 ? a[l] + base : a[l] - base;
  });
  return next(in);
}

template <int SIGN>
const Inst* param_generic(Warp& w, const Inst* in, Mask m) {
  const uint64_t* a = w.reg<uint64_t>(in->a);
  uint64_t* d = w.reg<uint64_t>(in->dst);
  uint64_t base = reinterpret_cast<uint64_t>(w.block->params);
  for_lanes(m, [&](int l) { d[l] = SIGN > 0 ? a[l] + base : a[l] - base; });
  return next(in);
}

void build_cvta(Decode& d) {
  bool to = d.take("to");
  if (d.take_type() != Type::U64) {
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, Type::U64);
  d.inst.a = d.src(1, Type::U64);
  if (d.take("global") || d.take("const")) {
    d.inst.run = copy<uint64_t>;
  } else if (d.take("shared") || d.take("shared::cta")) {
    d.inst.run = to ? generic_to_shared : shared_to_generic;
  } else if (d.take("local")) {
    d.inst.run = to ? local_generic<-1> : local_generic<1>;
  } else if (d.take("param")) {
    d.inst.run = to ? param_generic<-1> : param_generic<1>;
  }
}

// isspacep: whether a generic address lies in a space.
template <class F>
const Inst* in_range(Warp& w, const Inst* in, Mask m, F inside) {
  const uint64_t* a = w.reg<uint64_t>(in->a);
  Mask r = 0;
  for_lanes(m, [&](int l) { r |= static_cast<Mask>(inside(a[l], l)) << l; });
  Mask& p = w.pred(in->dst);
  p = (p & ~m) | r;
  return next(in);
}

bool in_shared(const Warp& w, uint64_t a) {
  return a - reinterpret_cast<uint64_t>(w.block->shared) < w.block->shared_bytes;
}

bool in_local(const Warp& w, uint64_t a, int lane) {
  uint64_t bytes = w.block->kernel->local_bytes;
  return a - reinterpret_cast<uint64_t>(w.local) - bytes * lane < bytes;
}

const Inst* is_shared(Warp& w, const Inst* in, Mask m) {
  return in_range(w, in, m, [&](uint64_t a, int) { return in_shared(w, a); });
}
const Inst* is_local(Warp& w, const Inst* in, Mask m) {
  return in_range(w, in, m, [&](uint64_t a, int l) { return in_local(w, a, l); });
}
const Inst* is_global(Warp& w, const Inst* in, Mask m) {
  return in_range(w, in, m, [&](uint64_t a, int l) { return !in_shared(w, a) && !in_local(w, a, l); });
}

void build_isspacep(Decode& d) {
  d.inst.dst = d.dst(0, Type::Pred);
  d.inst.a = d.src(1, Type::U64);
  d.inst.run = d.take("shared") || d.take("shared::cta") ? is_shared
               : d.take("local")                         ? is_local
               : d.take("global")                        ? is_global
                                                         : throw Unsupported{};
}

constexpr Opcode OPCODES[] = {
    {"cvt", build_cvt},
    {"cvta", build_cvta},
    {"isspacep", build_isspacep},
};

}  // namespace

std::span<const Opcode> convert_opcodes() {
  return OPCODES;
}

}  // namespace wbsim
