// convert_narrow_ops.cpp: cvt to and from f16, bf16, tf32, fp8 and packed pairs of them (PTX ISA,
// cvt, cvt.pack), and of f32 and f64 in wider registers.
//
// Nearly every form rounds a number to another format, in one of five directions. So there is one
// rounding, on integers; the conversions that are frequent in kernels have their own vector code.

#include <bit>
#include <cstring>

#include "exec/lanes.h"
#include "exec/ops/convert.h"
#include "exec/ops/half.h"

namespace wbsim {
namespace {

using ptx::Type;

// ---- Formats ------------------------------------------------------------------------------------

struct Format {
  int bits, precision;  // of the significand, the leading bit included

  constexpr uint64_t sign() const { return uint64_t{1} << (bits - 1); }
  constexpr uint64_t smallest_normal() const { return uint64_t{1} << (precision - 1); }
  constexpr uint64_t infinity() const { return sign() - smallest_normal(); }
  constexpr uint64_t largest() const { return infinity() - 1; }
  constexpr int exponent_bias() const { return (1 << (bits - precision - 1)) - 1; }
  constexpr uint64_t one() const {
    return static_cast<uint64_t>(exponent_bias()) << (precision - 1);
  }
  // Of the last bit of a subnormal number.
  constexpr int lowest_exponent() const { return 2 - precision - exponent_bias(); }
  // A result that is not a number: every bit except the sign.
  constexpr uint64_t nan() const { return sign() - 1; }
};

constexpr Format F16_FORMAT{16, 11}, BF16_FORMAT{16, 8}, TF32_FORMAT{19, 11}, F32_FORMAT{32, 24},
    F64_FORMAT{64, 53};

const Format& format_of(Type type) {
  switch (type) {
    case Type::F16:
    case Type::F16x2:
      return F16_FORMAT;
    case Type::BF16:
    case Type::BF16x2:
      return BF16_FORMAT;
    case Type::TF32:
      return TF32_FORMAT;
    case Type::F32:
      return F32_FORMAT;
    case Type::F64:
      return F64_FORMAT;
    default:
      throw Unsupported{};
  }
}

// How a number is modified on its way to a format.
struct Rounding {
  Round round;
  bool ties_away;  // .rna: to nearest, halves away from zero
  bool saturate;   // to [+0, 1]; NaN becomes +0
  bool finite;     // the largest number instead of infinity
  bool relu;       // +0 instead of a negative number
};

// The number nearest to significand * 2^exponent in a direction. significand is not zero.
uint64_t round_to(const Format& f, bool negative, uint64_t significand, int exponent,
                  const Rounding& how) {
  int top = 63 - std::countl_zero(significand) + exponent;
  int last = std::max(top - f.precision + 1, f.lowest_exponent());
  int shift = last - exponent;
  uint64_t kept = 0;
  int cut = 0;  // what is cut off: 0 nothing, 1 less than half a unit, 2 half, 3 more
  if (shift <= 0) {
    kept = significand << -shift;
  } else if (shift > 64) {
    cut = 1;
  } else {
    uint64_t half = uint64_t{1} << (shift - 1);
    uint64_t rest = shift == 64 ? significand : significand & (2 * half - 1);
    kept = shift == 64 ? 0 : significand >> shift;
    cut = rest > half ? 3 : rest == half ? 2 : rest > 0 ? 1 : 0;
  }
  bool away = how.round == (negative ? Round::Down : Round::Up);
  bool up = how.round == Round::Nearest ? cut > 2 || (cut == 2 && (how.ties_away || kept & 1))
                                        : away && cut;
  uint64_t bits =
      (static_cast<uint64_t>(last - f.lowest_exponent()) << (f.precision - 1)) + kept + up;
  if (bits > f.largest()) {
    bool bounded = how.finite || (how.round != Round::Nearest && !away);
    bits = bounded ? f.largest() : f.infinity();
  }
  return bits | (negative ? f.sign() : 0);
}

uint64_t clamp(const Format& f, uint64_t bits, const Rounding& how) {
  bool negative = bits & f.sign();
  if (how.saturate) {
    return negative ? 0 : std::min(bits, f.one());
  }
  return how.relu && negative ? 0 : bits;
}

uint64_t convert(const Format& f, double v, const Rounding& how) {
  uint64_t bits = std::bit_cast<uint64_t>(v);
  bool negative = bits >> 63;
  uint64_t magnitude = bits & ~(uint64_t{1} << 63);
  if (v != v) {
    return how.saturate ? 0 : f.nan();
  }
  uint64_t r = negative ? f.sign() : 0;
  if (magnitude == F64_FORMAT.infinity()) {
    r |= how.finite ? f.largest() : f.infinity();
  } else if (magnitude) {
    int exponent = static_cast<int>(magnitude >> 52);
    uint64_t significand = magnitude & ((uint64_t{1} << 52) - 1);
    significand |= exponent ? uint64_t{1} << 52 : 0;
    r = round_to(f, negative, significand, std::max(exponent, 1) - 1075, how);
  }
  return clamp(f, r, how);
}

uint64_t convert_integer(const Format& f, bool negative, uint64_t magnitude, const Rounding& how) {
  return magnitude ? clamp(f, round_to(f, negative, magnitude, 0, how), how) : 0;
}

// ---- Scalars ------------------------------------------------------------------------------------

// Every floating-point source as f64, which holds them all.
void read_floats(Warp& w, const Inst* in, double out[LANES]) {
  const uint8_t* from = w.reg<uint8_t>(in->a);
  for (int l = 0; l < LANES; l++, from += in->list[FROM_BYTES]) {
    uint64_t bits = 0;
    std::memcpy(&bits, from, std::min<size_t>(8, in->list[FROM_BYTES]));
    switch (type_at(in, FROM)) {
      case Type::F16:
        out[l] = F16::widen(static_cast<uint16_t>(bits));
        break;
      case Type::BF16:
        out[l] = BF16::widen(static_cast<uint16_t>(bits));
        break;
      case Type::F32:
        out[l] = std::bit_cast<float>(static_cast<uint32_t>(bits));
        break;
      default:
        out[l] = std::bit_cast<double>(bits);
    }
    if (in->list[FLUSH] && type_at(in, FROM) == Type::F32 && std::fabs(out[l]) < 0x1p-126) {
      out[l] = std::copysign(0.0, out[l]);
    }
  }
}

void round_to_integrals(Round round, double values[LANES]) {
  for (int l = 0; l < LANES; l++) {
    values[l] = round == Round::Zero   ? round_to_integral<Round::Zero>(values[l])
                : round == Round::Down ? round_to_integral<Round::Down>(values[l])
                : round == Round::Up   ? round_to_integral<Round::Up>(values[l])
                                       : round_to_integral<Round::Nearest>(values[l]);
  }
}

Rounding rounding_of(const Inst* in) {
  return {static_cast<Round>(in->list[ROUND]), false, in->list[SATURATE] != 0,
          in->list[FINITE] != 0, in->list[RELU] != 0};
}

void write_floats(Warp& w, const Inst* in, Mask m, uint64_t bits[LANES]) {
  uint8_t* to = w.reg<uint8_t>(in->dst);
  size_t register_bytes = in->list[TO_BYTES];
  for_lanes(m, [&](int l) {
    if (in->list[FLUSH] && type_at(in, TO) == Type::F32 && !(bits[l] & 0x7f800000)) {
      bits[l] &= 0x80000000;
    }
    std::memcpy(to + l * register_bytes, &bits[l], register_bytes);
  });
}

const Inst* float_to_float(Warp& w, const Inst* in, Mask m) {
  const Format& format = format_of(type_at(in, TO));
  Rounding how = rounding_of(in);
  double values[LANES];
  read_floats(w, in, values);
  if (in->list[INTEGRAL]) {
    round_to_integrals(how.round, values);
  }
  uint64_t bits[LANES];
  for (int l = 0; l < LANES; l++) {
    bits[l] = convert(format, values[l], how);
  }
  write_floats(w, in, m, bits);
  return next(in);
}

const Inst* integer_to_float(Warp& w, const Inst* in, Mask m) {
  const Format& format = format_of(type_at(in, TO));
  Rounding how = rounding_of(in);
  int64_t values[LANES];
  read_integers(w, in, values);
  uint64_t bits[LANES];
  for (int l = 0; l < LANES; l++) {
    uint64_t v = static_cast<uint64_t>(values[l]);
    bool negative = values[l] < 0 && type_at(in, FROM) != Type::U64;
    bits[l] = convert_integer(format, negative, negative ? -v : v, how);
  }
  write_floats(w, in, m, bits);
  return next(in);
}

const Inst* float_to_integer(Warp& w, const Inst* in, Mask m) {
  double values[LANES];
  read_floats(w, in, values);
  round_to_integrals(rounding_of(in).round, values);
  ToInteger<double> integer(type_at(in, TO), type_at(in, FROM) == Type::F64);
  int64_t integers[LANES];
  for (int l = 0; l < LANES; l++) {
    integers[l] = integer(values[l]);
  }
  write_integers(w, in, m, integers);
  return next(in);
}

// ---- Pairs, fp8, tf32 ---------------------------------------------------------------------------

// Two f32 to one register: a in the upper half, b in the lower.
const Inst* convert_pair(Warp& w, const Inst* in, Mask m) {
  const Format& format = format_of(type_at(in, TO));
  Rounding how = rounding_of(in);
  const float* a = w.reg<float>(in->a);
  const float* b = w.reg<float>(in->b);
  uint32_t* to = w.reg<uint32_t>(in->dst);
  for_lanes(m, [&](int l) {
    uint64_t high = convert(format, a[l], how), low = convert(format, b[l], how);
    to[l] = static_cast<uint32_t>(high << 16 | low);
  });
  return next(in);
}

inline uint16_t widen_e5m2(uint32_t v) {
  return static_cast<uint16_t>((v & 0x7f) > 0x7c ? HALF_NAN : v << 8);
}
// Moved to the place of f16's fields, the number is 2^8 times too small.
inline uint16_t widen_e4m3(uint32_t v) {
  uint16_t half = F16::narrow(F16::widen(static_cast<uint16_t>((v & 0x7f) << 7)) * 256.0f);
  return static_cast<uint16_t>((v & 0x7f) == 0x7f ? HALF_NAN : half | (v & 0x80) << 8);
}

template <auto WIDEN, bool RELU_>
const Inst* widen_pair(Warp& w, const Inst* in, Mask m) {
  return map1<[](uint16_t pair) {
    auto widen = [](uint32_t v) {
      uint32_t half = WIDEN(v);
      return RELU_ && half & HALF_SIGN ? 0u : half;
    };
    return widen(pair >> 8) << 16 | widen(pair & 0xff);
  },
              uint32_t, uint16_t>(w, in, m);
}

// tf32 is the upper 19 bits of an f32.
const Inst* to_tf32(Warp& w, const Inst* in, Mask m) {
  constexpr int UNUSED = 13;
  Rounding how = rounding_of(in);
  how.ties_away = in->flags;
  const float* from = w.reg<float>(in->a);
  uint32_t* to = w.reg<uint32_t>(in->dst);
  for_lanes(m, [&](int l) {
    bool nan = from[l] != from[l];
    uint32_t upper = static_cast<uint32_t>(convert(TF32_FORMAT, from[l], how)) << UNUSED;
    to[l] = nan ? 0x7fffffffu : upper;
  });
  return next(in);
}

// cvt.pack: two saturated integers side by side; below 16 bits they move c up.
struct Pack {
  const char* name;
  int bits;
  bool is_signed;
};
constexpr Pack PACKS[] = {{"u2", 2, false}, {"s2", 2, true}, {"u4", 4, false},   {"s4", 4, true},
                          {"u8", 8, false}, {"s8", 8, true}, {"u16", 16, false}, {"s16", 16, true}};

const Inst* pack(Warp& w, const Inst* in, Mask m) {
  const Pack& to = PACKS[in->imm];
  const int low = to.is_signed ? -(1 << (to.bits - 1)) : 0;
  const int high = (1 << (to.is_signed ? to.bits - 1 : to.bits)) - 1;
  const uint32_t field = (1u << to.bits) - 1;
  const int32_t* a = w.reg<int32_t>(in->a);
  const int32_t* b = w.reg<int32_t>(in->b);
  const uint32_t* c = w.reg<uint32_t>(in->c);
  for_lanes(m, [&](int l) {
    uint32_t x = static_cast<uint32_t>(std::clamp(a[l], low, high)) & field;
    uint32_t y = static_cast<uint32_t>(std::clamp(b[l], low, high)) & field;
    uint32_t above = to.bits == 16 ? 0 : c[l] << (2 * to.bits);
    w.reg<uint32_t>(in->dst)[l] = above | x << to.bits | y;
  });
  return next(in);
}

// ---- Choosing the handler -----------------------------------------------------------------------

void build_pack(Decode& d) {
  if (!d.take("sat")) {
    throw Unsupported{};
  }
  d.inst.imm = -1;
  for (int i = 0; i < static_cast<int>(std::size(PACKS)) && d.inst.imm < 0; i++) {
    d.inst.imm = d.take(PACKS[i].name) ? i : -1;
  }
  if (d.inst.imm < 0 || !d.take("s32") || (PACKS[d.inst.imm].bits < 16) != d.take("b32")) {
    throw Unsupported{};
  }
  operands(d, Type::S32);
  d.inst.run = pack;
}

bool is_fp8(Type type) { return type == Type::E4M3x2 || type == Type::E5M2x2; }
bool is_half(Type type) { return type == Type::F16 || type == Type::BF16; }
bool is_half_pair(Type type) { return type == Type::F16x2 || type == Type::BF16x2; }

void build_from_fp8(Decode& d, Type from, bool relu) {
  d.inst.dst = d.dst(0, Type::F16x2);
  d.inst.a = d.src(1, from);
  if (from == Type::E4M3x2) {
    d.inst.run = relu ? widen_pair<widen_e4m3, true> : widen_pair<widen_e4m3, false>;
  } else {
    d.inst.run = relu ? widen_pair<widen_e5m2, true> : widen_pair<widen_e5m2, false>;
  }
}

// What is frequent enough for vector code: f32 to nearest, and the way back. .relu and .satfinite
// act on the rounded number.
template <class H>
constexpr Handler NARROW = map1<[](float v) { return H::narrow(v); }, uint16_t, float>;
template <class H>
constexpr Handler WIDEN = map1<[](uint16_t v) { return H::widen(v); }, float, uint16_t>;

template <class H, bool RELU_, bool FINITE_>
inline uint32_t narrow_half(float v) {
  uint32_t r = H::narrow(v);
  uint32_t largest = (r & HALF_SIGN) | (H::INFINITY_BITS - 1u);
  r = FINITE_ && (r & HALF_MAGNITUDE) == H::INFINITY_BITS ? largest : r;
  return RELU_ && r & HALF_SIGN ? 0 : r;
}
template <class H, bool RELU_, bool FINITE_>
constexpr Handler NARROW_PAIR = map2<[](float a, float b) {
  return narrow_half<H, RELU_, FINITE_>(a) << 16 | narrow_half<H, RELU_, FINITE_>(b);
},
                                     uint32_t, float>;
template <class H>
Handler pick_narrow_pair(bool relu, bool finite) {
  return relu ? (finite ? NARROW_PAIR<H, true, true> : NARROW_PAIR<H, true, false>)
              : (finite ? NARROW_PAIR<H, false, true> : NARROW_PAIR<H, false, false>);
}

template <class F, bool RELU_>
inline uint32_t narrow_fp8(float v) {
  uint32_t r = F::narrow(v);
  return RELU_ && r & 0x80 ? 0 : r;
}
template <class F, bool RELU_>
constexpr Handler FP8_OF_F32 = map2<[](float a, float b) {
  return static_cast<uint16_t>(narrow_fp8<F, RELU_>(a) << 8 | narrow_fp8<F, RELU_>(b));
},
                                    uint16_t, float>;
template <class F, bool RELU_>
constexpr Handler FP8_OF_F16 = map1<[](uint32_t pair) {
  float a = F16::widen(static_cast<uint16_t>(pair >> 16));
  float b = F16::widen(static_cast<uint16_t>(pair));
  return static_cast<uint16_t>(narrow_fp8<F, RELU_>(a) << 8 | narrow_fp8<F, RELU_>(b));
},
                                    uint16_t, uint32_t>;
template <class F>
Handler pick_to_fp8(Type from, bool relu) {
  return from == Type::F32     ? (relu ? FP8_OF_F32<F, true> : FP8_OF_F32<F, false>)
         : from == Type::F16x2 ? (relu ? FP8_OF_F16<F, true> : FP8_OF_F16<F, false>)
                               : nullptr;
}

template <bool TIES_AWAY>
uint32_t tf32_of(uint32_t u) {
  uint32_t magnitude = u & 0x7fffffffu;
  uint32_t r = (u + (TIES_AWAY ? 0x1000u : 0xfffu + ((u >> 13) & 1))) & ~0x1fffu;
  r = magnitude >= 0x7f800000u ? u : r;
  return magnitude > 0x7f800000u ? 0x7fffffffu : r;
}
template <bool TIES_AWAY>
constexpr Handler TF32_OF_F32 = map1<tf32_of<TIES_AWAY>, uint32_t, uint32_t>;

// nullptr: not one of them. The rounding is to nearest, and there is no .sat or .ftz.
Handler pick_frequent(Type to, Type from, bool relu, bool finite, bool ties_away) {
  if (to == Type::E4M3x2 || to == Type::E5M2x2) {
    return !finite              ? nullptr
           : to == Type::E4M3x2 ? pick_to_fp8<E4M3>(from, relu)
                                : pick_to_fp8<E5M2>(from, relu);
  }
  if (from == Type::F32 && is_half_pair(to)) {
    return to == Type::F16x2 ? pick_narrow_pair<F16>(relu, finite)
                             : pick_narrow_pair<BF16>(relu, finite);
  }
  if (relu || finite) {
    return nullptr;
  }
  if (from == Type::F32) {
    return to == Type::F16    ? NARROW<F16>
           : to == Type::BF16 ? NARROW<BF16>
           : to == Type::TF32 ? (ties_away ? TF32_OF_F32<true> : TF32_OF_F32<false>)
                              : nullptr;
  }
  return to != Type::F32      ? nullptr
         : from == Type::F16  ? WIDEN<F16>
         : from == Type::BF16 ? WIDEN<BF16>
                              : nullptr;
}

Handler pick_general(Type to, Type from, bool integral, bool full) {
  if (to == Type::TF32) {
    return from == Type::F32 && full ? to_tf32 : nullptr;
  }
  if (is_half_pair(to) && from == Type::F32) {
    return convert_pair;
  }
  auto scalar = [](Type t) { return is_half(t) || t == Type::F32 || t == Type::F64; };
  if (ptx::is_float(from) && !ptx::is_float(to)) {
    return scalar(from) && integral ? float_to_integer : nullptr;
  }
  if (scalar(to) && scalar(from)) {
    return float_to_float;
  }
  return scalar(to) && !ptx::is_float(from) ? integer_to_float : nullptr;
}

}  // namespace

void build_any_conversion(Decode& d) {
  if (d.take("pack")) {
    return build_pack(d);
  }
  bool ties_away = d.take("rna");
  Round round;
  bool integral = take_integral_round(d, round);
  bool sat = d.take("sat"), ftz = d.take("ftz"), relu = d.take("relu");
  bool finite = d.take("satfinite");
  Type to = d.take_type(), from = d.take_type();
  if (to == Type::F16x2 && is_fp8(from)) {
    return build_from_fp8(d, from, relu);
  }
  std::vector<uint32_t> fields = conversion_operands(d, to, from);
  fields[SATURATE] = sat;
  fields[FLUSH] = ftz;
  fields[RELU] = relu;
  fields[FINITE] = finite;
  fields[ROUND] = static_cast<uint32_t>(round);
  fields[INTEGRAL] = integral;
  d.inst.list = d.list(fields);
  d.inst.flags = ties_away;
  bool two = from == Type::F32 && (is_half_pair(to) || is_fp8(to));
  d.inst.b = two ? d.src(2, from) : 0;
  if (d.num_args() != (two ? 3 : 2)) {
    throw Unsupported{};
  }
  bool full = static_cast<int>(fields[TO_BYTES]) == ptx::bytes_of(to) &&
              static_cast<int>(fields[FROM_BYTES]) == ptx::bytes_of(from);
  bool nearest = round == Round::Nearest && !integral && !sat && !ftz;
  if (ties_away && to != Type::TF32) {
    throw Unsupported{};
  }
  d.inst.run = full && nearest ? pick_frequent(to, from, relu, finite, ties_away) : nullptr;
  d.inst.run = d.inst.run ? d.inst.run : pick_general(to, from, integral, full);
}

namespace {

constexpr Opcode OPCODES[] = {
    {"cvt", build_any_conversion, UnitRule::Convert, First::Written, Flow::Plain, converts_narrow},
};

}  // namespace

std::span<const Opcode> convert_narrow_opcodes() { return OPCODES; }

}  // namespace wbsim
