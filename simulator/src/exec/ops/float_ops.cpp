// float_ops.cpp: floating-point arithmetic on f32 and f64 (PTX ISA, "Floating-Point Instructions").
//
// Results of add, sub, mul, fma, div, sqrt and rcp are correctly rounded, as on the hardware. The
// .approx family is computed as accurately as a fast formula allows, which is within the bound that
// PTX documents.

#include <cmath>
#include <limits>

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/exp2.h"
#include "exec/ops/float_mode.h"

namespace wbsim {
namespace {

using ptx::Type;

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

template <class T>
constexpr T sign_bit() {
  return static_cast<T>(T{1} << (8 * sizeof(T) - 1));
}

// .sat: clamps to [0, 1]; NaN becomes 0.
template <class T>
inline T saturate(T v) {
  return v > T{0} ? (v < T{1} ? v : T{1}) : T{0};
}

void count_flops(Decode& d, Type type, int flops) {
  if (ptx::is_float(type)) {
    d.info.flops = static_cast<uint8_t>(flops);
  }
}

// d = OP(a, b) in the rounding mode, with .ftz and .sat, that the modifiers specify.
template <auto OP>
void build_binary(Decode& d, Type type) {
  Round round = take_round(d);
  bool flush = d.take("ftz"), sat = d.take("sat");
  operands(d, type);
  count_flops(d, type, 1);
  d.inst.run = with_float(type, [&]<class T>(TypeTag<T>) -> Handler {
    if (sat) {
      return with_mode<map2<[](T a, T b) { return saturate<T>(OP(a, b)); }, T, T>>(round, flush);
    }
    return with_mode<map2<[](T a, T b) -> T { return OP(a, b); }, T, T>>(round, flush);
  });
}

template <auto OP>
void build_unary(Decode& d, Type type, Round round, bool flush) {
  operands(d, type);
  count_flops(d, type, 1);
  d.inst.run = with_float(type, [&]<class T>(TypeTag<T>) -> Handler {
    return with_mode<map1<[](T a) -> T { return OP(a); }, T, T>>(round, flush);
  });
}

void build_add(Decode& d) {
  Type type = d.take_type();
  build_binary<[](auto a, auto b) { return a + b; }>(d, type);
}

void build_sub(Decode& d) {
  Type type = d.take_type();
  build_binary<[](auto a, auto b) { return a - b; }>(d, type);
}

void build_mul(Decode& d) {
  Type type = d.take_type();
  build_binary<[](auto a, auto b) { return a * b; }>(d, type);
}

void build_fma(Decode& d) {
  Type type = d.take_type();
  Round round = take_round(d);
  bool flush = d.take("ftz"), sat = d.take("sat");
  operands(d, type);
  count_flops(d, type, 2);
  d.inst.run = with_float(type, [&]<class T>(TypeTag<T>) -> Handler {
    if (sat) {
      return with_mode<map3<[](T a, T b, T c) { return saturate<T>(std::fma(a, b, c)); }, T, T>>(
          round, flush);
    }
    return with_mode<map3<[](T a, T b, T c) { return std::fma(a, b, c); }, T, T>>(round, flush);
  });
}

// div.approx is a * (1 / b), and 1 / b is zero for a large b (PTX ISA, div). Otherwise a correctly
// rounded result is within its bound.
template <class T>
inline T divide_approx(T a, T b) {
  if constexpr (sizeof(T) == 4) {
    bool large = std::fabs(b) > 0x1p126f && std::fabs(b) < std::numeric_limits<float>::infinity();
    return large ? a * std::copysign(0.0f, b) : a / b;
  }
  return a / b;
}

void build_div(Decode& d) {
  Type type = d.take_type();
  d.take("full");  // a correctly rounded result is within its bounds
  if (type == Type::F32 && d.take("approx")) {
    return build_binary<[](auto a, auto b) { return divide_approx(a, b); }>(d, type);
  }
  build_binary<[](auto a, auto b) { return a / b; }>(d, type);
}

// min and max: a NaN loses to a number unless .NaN says otherwise; -0 is below +0.
template <class T>
inline T smaller(T a, T b) {
  T r = a < b || (a == b && std::signbit(a)) ? a : b;
  return std::isnan(a) ? b : std::isnan(b) ? a : r;
}
template <class T>
inline T larger(T a, T b) {
  T r = a > b || (a == b && !std::signbit(a)) ? a : b;
  return std::isnan(a) ? b : std::isnan(b) ? a : r;
}

// The canonical NaN of PTX results.
template <class T>
T canonical_nan() {
  if constexpr (sizeof(T) == 4) {
    return std::bit_cast<float>(0x7fffffffu);
  } else {
    return std::bit_cast<double>(0x7fffffffffffffffull);
  }
}

template <class T>
inline T flush_if(T v) {
  if constexpr (sizeof(T) == 4) {
    return flush(v);
  }
  return v;
}

// OP with its modifiers. NAN_WINS: any NaN gives NaN. XORSIGN: OP of the magnitudes, with the sign
// of the product unless it is NaN.
template <auto OP, bool FTZ, bool NAN_WINS, bool XORSIGN, class T>
T min_max(T a, T b) {
  if (FTZ) {
    a = flush_if(a);
    b = flush_if(b);
  }
  if (NAN_WINS && (std::isnan(a) || std::isnan(b))) {
    return canonical_nan<T>();
  }
  if (!XORSIGN) {
    return OP(a, b);
  }
  T r = OP(std::fabs(a), std::fabs(b));
  return std::isnan(r) ? r : std::copysign(r, std::signbit(a) != std::signbit(b) ? T{-1} : T{1});
}

template <auto OP, bool FTZ, bool NAN_WINS, class T>
Handler pick_min_max(bool xorsign) {
  return xorsign ? Handler{map2<min_max<OP, FTZ, NAN_WINS, true, T>, T, T>}
                 : Handler{map2<min_max<OP, FTZ, NAN_WINS, false, T>, T, T>};
}

template <auto OP>
void build_min_max(Decode& d, Type type) {
  bool ftz = d.take("ftz"), nan = d.take("NaN"), xorsign = d.take("xorsign") && d.take("abs");
  operands(d, type);
  count_flops(d, type, 1);
  if (type != Type::F32 && (ftz || nan || xorsign)) {
    throw Unsupported{};
  }
  d.inst.run = with_float(type, [&]<class T>(TypeTag<T>) -> Handler {
    if (ftz) {
      return nan ? pick_min_max<OP, true, true, T>(xorsign)
                 : pick_min_max<OP, true, false, T>(xorsign);
    }
    return nan ? pick_min_max<OP, false, true, T>(xorsign)
               : pick_min_max<OP, false, false, T>(xorsign);
  });
}

void build_min(Decode& d) {
  Type type = d.take_type();
  build_min_max<[](auto a, auto b) { return smaller(a, b); }>(d, type);
}

void build_max(Decode& d) {
  Type type = d.take_type();
  build_min_max<[](auto a, auto b) { return larger(a, b); }>(d, type);
}

// neg and abs change only the sign bit.
template <auto OP>
void build_sign(Decode& d, Type type) {
  bool ftz = d.take("ftz");
  operands(d, type);
  d.inst.run = with_float(type, []<class T>(TypeTag<T>) -> Handler {
    return map1<[](Bits<T> a) -> Bits<T> { return OP(a, sign_bit<Bits<T>>()); }, Bits<T>, Bits<T>>;
  });
  if (ftz) {
    if (type != Type::F32) {
      throw Unsupported{};
    }
    d.inst.run = map1<[](float a) {
      return std::bit_cast<float>(OP(std::bit_cast<uint32_t>(flush(a)), 0x80000000u));
    },
                      float, float>;
  }
}

void build_neg(Decode& d) {
  Type type = d.take_type();
  build_sign<[](auto u, auto sign) { return static_cast<decltype(u)>(u ^ sign); }>(d, type);
}

void build_abs(Decode& d) {
  Type type = d.take_type();
  build_sign<[](auto u, auto sign) { return static_cast<decltype(u)>(u & ~sign); }>(d, type);
}

// copysign d, a, b: the sign of a, the magnitude of b.
void build_copysign(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_float(type, []<class T>(TypeTag<T>) -> Handler {
    return map2<[](Bits<T> a, Bits<T> b) -> Bits<T> {
      return (a & sign_bit<Bits<T>>()) | (b & ~sign_bit<Bits<T>>());
    },
                Bits<T>, Bits<T>>;
  });
}

// .approx instructions flush denormals with .ftz, and for f32 the hardware treats the others
// alike.
struct Approx {
  Round round;
  bool flush;
};
Approx take_approx(Decode& d, Type type) {
  bool approx = d.take("approx");
  Round round = take_round(d);
  bool flush = (approx || type == Type::F32) && d.take("ftz");
  return {approx ? Round::Nearest : round, flush};
}

void build_sqrt(Decode& d) {
  Type type = d.take_type();
  auto [round, flush] = take_approx(d, type);
  build_unary<[](auto a) { return std::sqrt(a); }>(d, type, round, flush);
}

// rcp and rsqrt.approx.ftz.f64 read the upper 32 bits of their operand and give the upper 32 bits
// of the result.
template <auto OP>
void build_upper_word(Decode& d) {
  operands(d, Type::F64);
  count_flops(d, Type::F64, 1);
  d.inst.run =
      in_mode<map1<[](double a) {
                constexpr uint64_t UPPER = 0xffffffff00000000ull;
                double upper = std::bit_cast<double>(std::bit_cast<uint64_t>(a) & UPPER);
                double r = OP(upper);
                return std::bit_cast<double>(
                    (std::isnan(r) ? 0x7fffffff00000000ull : std::bit_cast<uint64_t>(r)) & UPPER);
              },
                   double, double>,
              Round::Nearest, true>;
}

void build_rcp(Decode& d) {
  Type type = d.take_type();
  auto [round, flush] = take_approx(d, type);
  if (type == Type::F64 && flush) {
    return build_upper_word<[](double a) { return 1.0 / a; }>(d);
  }
  build_unary<[](auto a) { return decltype(a){1} / a; }>(d, type, round, flush);
}

void build_rsqrt(Decode& d) {
  Type type = d.take_type();
  auto [round, flush] = take_approx(d, type);
  if (type == Type::F64 && flush) {
    return build_upper_word<[](double a) { return 1.0 / std::sqrt(a); }>(d);
  }
  build_unary<[](auto a) {
    return static_cast<decltype(a)>(1.0 / std::sqrt(static_cast<double>(a)));
  }>(d, type, round, flush);
}

// Unary functions of f32 only, on the hardware's special function unit. .ftz is applied here: the C
// library's functions do not expect that mode of the processor.
template <auto OP>
void build_special(Decode& d) {
  Type type = d.take_type();
  if (type != Type::F32 || !d.take("approx")) {
    throw Unsupported{};
  }
  operands(d, type);
  count_flops(d, type, 1);
  d.inst.run = d.take("ftz")
                   ? Handler{map1<[](float a) { return flush(OP(flush(a))); }, float, float>}
                   : Handler{map1<[](float a) { return OP(a); }, float, float>};
}

// testp: a class of floating-point numbers; zeros count as normal.
template <class T>
inline bool test_class(T v, int which) {
  switch (which) {
    case 0:
      return std::isfinite(v);
    case 1:
      return std::isinf(v);
    case 2:
      return !std::isnan(v);
    case 3:
      return std::isnan(v);
    case 4:
      return std::isnormal(v) || v == 0;
    default:
      return std::fpclassify(v) == FP_SUBNORMAL;
  }
}

template <class T>
const Inst* testp(Warp& w, const Inst* in, Mask m) {
  const T* a = w.reg<T>(in->a);
  Mask r = 0;
  for_lanes(
      m, [&](int l) { r |= static_cast<Mask>(test_class(a[l], static_cast<int>(in->imm))) << l; });
  Mask& p = w.pred(in->dst);
  p = (p & ~m) | r;
  return next(in);
}

void build_testp(Decode& d) {
  static constexpr const char* CLASSES[] = {"finite",     "infinite", "number",
                                            "notanumber", "normal",   "subnormal"};
  d.inst.imm = -1;
  for (int i = 0; i < 6; i++) {
    if (d.take(CLASSES[i])) {
      d.inst.imm = i;
    }
  }
  Type type = d.take_type();
  if (d.inst.imm < 0) {
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, Type::Pred);
  d.inst.a = d.src(1, type);
  d.inst.run = with_float(type, []<class T>(TypeTag<T>) -> Handler { return testp<T>; });
}

constexpr Opcode OPCODES[] = {
    {"add", build_add, UnitRule::ByType, First::Written, Flow::Plain, on_floats},
    {"sub", build_sub, UnitRule::ByType, First::Written, Flow::Plain, on_floats},
    {"mul", build_mul, UnitRule::ByType, First::Written, Flow::Plain, on_floats},
    {"fma", build_fma, UnitRule::ByType, First::Written, Flow::Plain, on_floats},
    {"mad", build_fma, UnitRule::ByType, First::Written, Flow::Plain, on_floats},
    {"div", build_div, UnitRule::Divide, First::Written, Flow::Plain, on_floats},
    {"min", build_min, UnitRule::Compare, First::Written, Flow::Plain, on_floats},
    {"max", build_max, UnitRule::Compare, First::Written, Flow::Plain, on_floats},
    {"neg", build_neg, UnitRule::Compare, First::Written, Flow::Plain, on_floats},
    {"abs", build_abs, UnitRule::Compare, First::Written, Flow::Plain, on_floats},
    {"copysign", build_copysign, UnitRule::ByType, First::Written, Flow::Plain},
    {"sqrt", build_sqrt, UnitRule::Special, First::Written, Flow::Plain},
    {"rcp", build_rcp, UnitRule::Special, First::Written, Flow::Plain},
    {"rsqrt", build_rsqrt, UnitRule::Special, First::Written, Flow::Plain},
    {"ex2", build_special<[](float a) { return exp2_lane(a); }>, UnitRule::Special, First::Written,
     Flow::Plain, on_floats},
    {"lg2", build_special<[](float a) { return std::log2(a); }>, UnitRule::Special, First::Written,
     Flow::Plain},
    {"sin", build_special<[](float a) { return std::sin(a); }>, UnitRule::Special, First::Written,
     Flow::Plain},
    {"cos", build_special<[](float a) { return std::cos(a); }>, UnitRule::Special, First::Written,
     Flow::Plain},
    {"tanh", build_special<[](float a) { return tanh_lane(a); }>, UnitRule::Special, First::Written,
     Flow::Plain, on_floats},
    {"testp", build_testp, UnitRule::Compare, First::Written, Flow::Plain},
};

}  // namespace

std::span<const Opcode> float_opcodes() { return OPCODES; }

}  // namespace wbsim
