// half_ops.cpp: arithmetic and comparisons of f16, bf16, f16x2 and bf16x2 (PTX ISA, "Half
// Precision Floating-Point Instructions", "Half Precision Comparison Instructions").
//
// A packed register of a warp is 64 halves in a row, a scalar one 32: the same loop serves both.
// Results are rounded once. Sums and the products of f16 are computed in f32, whose 24 bits are at
// least twice the 11 of f16 plus two, so that rounding twice is as good as once (Figueroa, "When is
// double rounding innocuous?", 1995). A sum of three needs more care: see add_odd.

#include <cmath>
#include <cstring>

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/exp2.h"
#include "exec/ops/half.h"
#include "exec/ops/predicates.h"

namespace wbsim {
namespace {

using ptx::Type;

// Modifiers, in Inst::flags.
enum Modifier : uint8_t { FLUSH = 1, SATURATE = 2, RELU = 4, NAN_WINS = 8, XORSIGN = 16 };

// ---- Arithmetic ---------------------------------------------------------------------------------

// The operands and the result of a handler: N halves each.
struct Operands {
  const uint16_t *a, *b, *c;
  uint16_t* out;
  uint8_t flags;
};

// Rounding to odd: an inexact result becomes the neighbour whose last bit is 1. Rounding that again
// to a format with at least two fewer bits gives the same as rounding the exact value once (Boldo
// and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). For a number that was
// rounded to nearest: the step to its odd neighbour on the side of the error.
template <class U, class F>
inline U odd_step(U bits, F error) {
  U step = error > 0 ? U{1} : U{0};
  step -= error < 0 ? U{1} : U{0};  // neither for NaN, which comes from infinities
  U negative = U{0} - (bits >> (8 * sizeof(U) - 1));
  return ((step ^ negative) - negative) & (U{0} - (~bits & 1));
}

// x + y, rounded to odd; its error is Knuth's TwoSum.
template <class F>
inline F add_odd(F x, F y) {
  F sum = x + y;
  F part = sum - x;
  F error = (x - (sum - part)) + (y - part);
  auto bits = std::bit_cast<std::conditional_t<sizeof(F) == 4, uint32_t, uint64_t>>(sum);
  return std::bit_cast<F>(bits + odd_step(bits, error));
}

// A double as a float, rounded to odd.
inline float narrow_odd(double v) {
  float r = static_cast<float>(v);
  double error = v - static_cast<double>(r);
  double side = error > 0 ? 1.0 : error < 0 ? -1.0 : 0.0;  // as a float the error might vanish
  uint32_t bits = std::bit_cast<uint32_t>(r);
  return std::bit_cast<float>(bits + odd_step(bits, static_cast<float>(side)));
}

template <class H, int N, auto F>
void each(const Operands& o) {
  for (int i = 0; i < N; i++) {
    o.out[i] = H::narrow(F(H::widen(o.a[i]), H::widen(o.b[i])));
  }
}

// a * b + c. The product of two f16 is exact in f32. So is that of two bf16, unless it is very
// small or very large; then all halves of the warp are recomputed in f64, where every one is exact.
template <class H, int N>
void fma_halves(const Operands& o) {
  uint32_t outside = 0;
  for (int i = 0; i < N; i++) {
    float x = H::widen(o.a[i]), y = H::widen(o.b[i]), p = x * y, size = std::fabs(p);
    o.out[i] = H::narrow(add_odd(p, H::widen(o.c[i])));
    bool exact = (size >= 0x1p-100f && size < 0x1p127f) || x == 0 || y == 0;
    outside |= exact ? 0u : 1u;
  }
  if (std::is_same_v<H, BF16> && outside) {
    alignas(64) float sums[N];
    for (int i = 0; i < N; i++) {
      double p = static_cast<double>(H::widen(o.a[i])) * static_cast<double>(H::widen(o.b[i]));
      sums[i] = narrow_odd(add_odd(p, static_cast<double>(H::widen(o.c[i]))));
    }
    for (int i = 0; i < N; i++) {
      o.out[i] = H::narrow(sums[i]);
    }
  }
}

// -0 is below +0; a NaN loses to a number unless .NaN says otherwise.
template <class H, int N, bool MAX>
void extremum(const Operands& o) {
  const uint16_t keep = o.flags & XORSIGN ? HALF_MAGNITUDE : 0xffff;
  const uint16_t product_sign = o.flags & XORSIGN ? HALF_SIGN : 0;
  const int nans_allowed = o.flags & NAN_WINS ? 0 : 1;
  for (int i = 0; i < N; i++) {
    uint16_t x = o.a[i] & keep, y = o.b[i] & keep;
    // Integers in the same order as the numbers.
    auto order = [](uint16_t h) {
      return static_cast<int16_t>(h ^ (h & HALF_SIGN ? HALF_MAGNITUDE : 0));
    };
    bool first = MAX ? order(x) > order(y) : order(x) < order(y);
    bool x_nan = (x & HALF_MAGNITUDE) > H::INFINITY_BITS;
    bool y_nan = (y & HALF_MAGNITUDE) > H::INFINITY_BITS;
    uint16_t r = first ? x : y;
    r = x_nan ? y : r;
    r = y_nan ? x : r;
    r |= (o.a[i] ^ o.b[i]) & product_sign;
    o.out[i] = x_nan + y_nan > nans_allowed ? HALF_NAN : r;
  }
}

template <class H, int N>
void negate(const Operands& o) {
  for (int i = 0; i < N; i++) {
    o.out[i] = o.a[i] ^ HALF_SIGN;
  }
}

template <class H, int N>
void absolute(const Operands& o) {
  for (int i = 0; i < N; i++) {
    o.out[i] = o.a[i] & HALF_MAGNITUDE;
  }
}

template <class H, int N>
void flush(const uint16_t* from, uint16_t* to) {
  for (int i = 0; i < N; i++) {
    to[i] = (from[i] & HALF_MAGNITUDE) < H::SMALLEST_NORMAL ? from[i] & HALF_SIGN : from[i];
  }
}

// .sat clamps to [+0, 1] and turns NaN into +0; .relu turns negative numbers into +0.
template <class H, int N>
void clamp(uint16_t* r, uint8_t flags) {
  if (flags & SATURATE) {
    for (int i = 0; i < N; i++) {
      r[i] = r[i] > H::INFINITY_BITS ? 0 : r[i] > H::ONE ? H::ONE : r[i];
    }
  } else {
    for (int i = 0; i < N; i++) {
      r[i] = r[i] & HALF_SIGN ? 0 : r[i];
    }
  }
}

template <int N>
void store(Warp& w, const Inst* in, Mask m, const uint16_t* halves) {
  using Element = std::conditional_t<N == LANES, uint16_t, uint32_t>;
  alignas(64) Element elements[LANES];
  std::memcpy(elements, halves, sizeof elements);
  store_masked(w.reg<Element>(in->dst), elements, m);
}

template <class H, int N, void COMPUTE(const Operands&)>
const Inst* arithmetic(Warp& w, const Inst* in, Mask m) {
  alignas(64) uint16_t out[N];
  Operands o{w.reg<uint16_t>(in->a), w.reg<uint16_t>(in->b), w.reg<uint16_t>(in->c), out,
             in->flags};
  if (in->flags & FLUSH) {
    alignas(64) uint16_t a[N], b[N], c[N];
    flush<H, N>(o.a, a);
    flush<H, N>(o.b, b);
    flush<H, N>(o.c, c);
    COMPUTE({a, b, c, out, in->flags});
    flush<H, N>(out, out);
  } else {
    COMPUTE(o);
  }
  if (in->flags & (SATURATE | RELU)) {
    clamp<H, N>(out, in->flags);
  }
  store<N>(w, in, m, out);
  return next(in);
}

// An operation for f16, f16x2, bf16 and bf16x2, and which modifiers it has for f16 and bf16.
struct Operation {
  Handler f16, f16x2, bf16, bf16x2;
  uint8_t flops;
};

template <void F(const Operands&), void F2(const Operands&), void B(const Operands&),
          void B2(const Operands&)>
constexpr Operation OPERATION(int flops) {
  return {arithmetic<F16, LANES, F>, arithmetic<F16, 2 * LANES, F2>, arithmetic<BF16, LANES, B>,
          arithmetic<BF16, 2 * LANES, B2>, static_cast<uint8_t>(flops)};
}
template <auto F>
constexpr Operation EACH(int flops) {
  return OPERATION<each<F16, LANES, F>, each<F16, 2 * LANES, F>, each<BF16, LANES, F>,
                   each<BF16, 2 * LANES, F>>(flops);
}

constexpr Operation ADD = EACH<[](float a, float b) { return a + b; }>(1);
constexpr Operation SUB = EACH<[](float a, float b) { return a - b; }>(1);
constexpr Operation EX2 = EACH<[](float a, float) { return exp2_lane(a); }>(1);
constexpr Operation TANH = EACH<[](float a, float) { return tanh_lane(a); }>(1);
constexpr Operation FMA = OPERATION<fma_halves<F16, LANES>, fma_halves<F16, 2 * LANES>,
                                    fma_halves<BF16, LANES>, fma_halves<BF16, 2 * LANES>>(2);
constexpr Operation MIN =
    OPERATION<extremum<F16, LANES, false>, extremum<F16, 2 * LANES, false>,
              extremum<BF16, LANES, false>, extremum<BF16, 2 * LANES, false>>(1);
constexpr Operation MAX =
    OPERATION<extremum<F16, LANES, true>, extremum<F16, 2 * LANES, true>,
              extremum<BF16, LANES, true>, extremum<BF16, 2 * LANES, true>>(1);
constexpr Operation NEG = OPERATION<negate<F16, LANES>, negate<F16, 2 * LANES>, negate<BF16, LANES>,
                                    negate<BF16, 2 * LANES>>(0);
constexpr Operation ABS = OPERATION<absolute<F16, LANES>, absolute<F16, 2 * LANES>,
                                    absolute<BF16, LANES>, absolute<BF16, 2 * LANES>>(0);

bool is_packed(Type type) { return type == Type::F16x2 || type == Type::BF16x2; }

Type take_half_type(Decode& d) {
  Type type = d.take_type();
  if (type != Type::F16 && type != Type::BF16 && !is_packed(type)) {
    throw Unsupported{};
  }
  return type;
}

// The modifiers of a set that are present; .ftz and .sat exist only for f16.
uint8_t take_modifiers(Decode& d, Type type, uint8_t allowed) {
  static constexpr std::pair<const char*, uint8_t> NAMES[] = {
      {"ftz", FLUSH}, {"sat", SATURATE}, {"relu", RELU}, {"NaN", NAN_WINS}};
  if (type == Type::BF16 || type == Type::BF16x2) {
    allowed &= ~(FLUSH | SATURATE);
  }
  uint8_t taken = 0;
  for (auto& [name, modifier] : NAMES) {
    taken |= allowed & modifier && d.take(name) ? modifier : 0;
  }
  return taken | (allowed & XORSIGN && d.take("xorsign") && d.take("abs") ? XORSIGN : 0);
}

void build_operation(Decode& d, const Operation& operation, Type type) {
  operands(d, type);
  // Every handler reads three operands; missing ones are ignored.
  uint32_t* slots[] = {&d.inst.a, &d.inst.b, &d.inst.c};
  for (size_t i = d.num_args(); i < 4; i++) {
    *slots[i - 1] = d.inst.a;
  }
  d.info.flops = static_cast<uint8_t>(operation.flops * (is_packed(type) ? 2 : 1));
  d.inst.run = type == Type::F16     ? operation.f16
               : type == Type::F16x2 ? operation.f16x2
               : type == Type::BF16  ? operation.bf16
                                     : operation.bf16x2;
}

template <const Operation& OPERATION, uint8_t MODIFIERS>
void build(Decode& d) {
  Type type = take_half_type(d);
  d.take("rn");
  d.inst.flags = take_modifiers(d, type, MODIFIERS);
  build_operation(d, OPERATION, type);
}

// A product is a fused multiply-add with -0, which changes no number and no zero's sign.
void build_mul(Decode& d) {
  Type type = take_half_type(d);
  d.take("rn");
  d.inst.flags = take_modifiers(d, type, FLUSH | SATURATE);
  build_operation(d, FMA, type);
  d.inst.c = d.constant(0x80008000u, ptx::bytes_of(type));
  d.info.flops /= 2;
}

// ex2.approx: bf16 has only the .ftz form.
template <const Operation& OPERATION>
void build_approx(Decode& d) {
  Type type = take_half_type(d);
  bool flushes = &OPERATION == &EX2 && (type == Type::BF16 || type == Type::BF16x2);
  if (!d.take("approx") || (flushes && !d.take("ftz"))) {
    throw Unsupported{};
  }
  d.inst.flags = flushes ? FLUSH : 0;
  build_operation(d, OPERATION, type);
}

// ---- Comparisons --------------------------------------------------------------------------------

// What a comparison can find out about two numbers, and which of it each operator accepts.
enum Relation : uint8_t { LESS = 1, EQUAL = 2, GREATER = 4, UNORDERED = 8, FLUSHED = 16 };
constexpr std::pair<const char*, uint8_t> COMPARISONS[] = {
    {"eq", EQUAL},
    {"ne", LESS | GREATER},
    {"lt", LESS},
    {"le", LESS | EQUAL},
    {"gt", GREATER},
    {"ge", GREATER | EQUAL},
    {"equ", EQUAL | UNORDERED},
    {"neu", LESS | GREATER | UNORDERED},
    {"ltu", LESS | UNORDERED},
    {"leu", LESS | EQUAL | UNORDERED},
    {"gtu", GREATER | UNORDERED},
    {"geu", GREATER | EQUAL | UNORDERED},
    {"num", LESS | EQUAL | GREATER},
    {"nan", UNORDERED},
};

// Where the comparison in Inst::imm holds: for the halves of a scalar register, or for the low and
// the high ones of a packed register.
template <class H, int N>
void compare(Warp& w, const Inst* in, Mask found[2]) {
  const uint16_t* a = w.reg<uint16_t>(in->a);
  const uint16_t* b = w.reg<uint16_t>(in->b);
  const uint16_t accepted = static_cast<uint16_t>(in->imm);
  const int16_t zero_below = accepted & FLUSHED ? H::SMALLEST_NORMAL : 1;
  alignas(64) uint8_t bits[N];
  for (int i = 0; i < N; i++) {
    int16_t x = a[i] & HALF_MAGNITUDE, y = b[i] & HALF_MAGNITUDE;
    bool unordered = (x > H::INFINITY_BITS) | (y > H::INFINITY_BITS);
    // Integers in the same order as the numbers, where both zeros are one.
    x = x < zero_below ? 0 : x;
    y = y < zero_below ? 0 : y;
    int16_t x_sign = static_cast<int16_t>(a[i]) >> 15, y_sign = static_cast<int16_t>(b[i]) >> 15;
    x = (x ^ x_sign) - x_sign;
    y = (y ^ y_sign) - y_sign;
    uint16_t relation = LESS * (x < y) + EQUAL * (x == y) + GREATER * (x > y);
    relation = unordered ? uint16_t{UNORDERED} : relation;
    bits[i] = (relation & accepted) != 0;
  }
  alignas(64) uint8_t parts[2][LANES];
  for (int l = 0; l < LANES; l++) {
    parts[0][l] = bits[l * N / LANES];
    parts[1][l] = bits[l * N / LANES + N / LANES - 1];
  }
  found[0] = combined(w, in, mask_of(parts[0]));
  found[1] = combined(w, in, mask_of(parts[1]));
}

// Packed: p is for the low halves, q for the high ones.
template <class H, int N>
const Inst* setp(Warp& w, const Inst* in, Mask m) {
  Mask found[2];
  compare<H, N>(w, in, found);
  write_pred(w, in->dst, found[0], m);
  if (in->dst2) {
    write_pred(w, in->dst2, found[1], m);
  }
  return next(in);
}

// d is the value in Inst::d for each half, or for the 32-bit destination, that passes.
template <class H, int N>
const Inst* set(Warp& w, const Inst* in, Mask m) {
  Mask found[2];
  compare<H, N>(w, in, found);
  const uint32_t one = in->d;
  alignas(64) uint32_t value[LANES];
  for (int l = 0; l < LANES; l++) {
    value[l] = (found[0] >> l) & 1 ? one : 0;
    if (N == 2 * LANES) {
      value[l] |= (found[1] >> l) & 1 ? one << 16 : 0;
    }
  }
  if (in->count == 4) {  // bytes of the destination
    store_masked(w.reg<uint32_t>(in->dst), value, m);
  } else {
    for_lanes(m, [&](int l) { w.reg<uint16_t>(in->dst)[l] = static_cast<uint16_t>(value[l]); });
  }
  return next(in);
}

void take_comparison(Decode& d) {
  for (auto& [name, accepted] : COMPARISONS) {
    if (d.take(name)) {
      d.inst.imm = accepted;
      take_combine(d);
      return;
    }
  }
  throw Unsupported{};
}

void compare_operands(Decode& d, Type type) {
  bool f16 = type == Type::F16 || type == Type::F16x2;
  d.inst.imm |= f16 && d.take("ftz") ? FLUSHED : 0;
  d.inst.a = d.src(1, type);
  d.inst.b = d.src(2, type);
}

void build_setp(Decode& d) {
  take_comparison(d);
  Type type = take_half_type(d);
  predicate_destinations(d);
  if (d.inst.dst2 && !is_packed(type)) {
    throw Unsupported{};
  }
  compare_operands(d, type);
  d.inst.run = type == Type::F16     ? setp<F16, LANES>
               : type == Type::F16x2 ? setp<F16, 2 * LANES>
               : type == Type::BF16  ? setp<BF16, LANES>
                                     : setp<BF16, 2 * LANES>;
}

void build_set(Decode& d) {
  take_comparison(d);
  Type to = d.take_type(), type = take_half_type(d);
  d.inst.dst = d.dst(0, to);
  d.inst.count = static_cast<uint16_t>(ptx::bytes_of(to));
  if (is_packed(type)) {
    d.inst.d = to == type                           ? type == Type::F16x2 ? F16::ONE : BF16::ONE
               : to == Type::U32 || to == Type::S32 ? 0xffff
                                                    : throw Unsupported{};
  } else {
    d.inst.d = value_of_true(to);
  }
  compare_operands(d, type);
  d.inst.run = type == Type::F16     ? set<F16, LANES>
               : type == Type::F16x2 ? set<F16, 2 * LANES>
               : type == Type::BF16  ? set<BF16, LANES>
                                     : set<BF16, 2 * LANES>;
}

constexpr uint8_t EXTREMUM = FLUSH | NAN_WINS | XORSIGN;

constexpr Opcode OPCODES[] = {
    {"add", build<ADD, FLUSH | SATURATE>, UnitRule::ByType, First::Written, Flow::Plain, on_halves},
    {"sub", build<SUB, FLUSH | SATURATE>, UnitRule::ByType, First::Written, Flow::Plain, on_halves},
    {"mul", build_mul, UnitRule::ByType, First::Written, Flow::Plain, on_halves},
    {"fma", build<FMA, FLUSH | SATURATE | RELU>, UnitRule::ByType, First::Written, Flow::Plain,
     on_halves},
    {"min", build<MIN, EXTREMUM>, UnitRule::Compare, First::Written, Flow::Plain, on_halves},
    {"max", build<MAX, EXTREMUM>, UnitRule::Compare, First::Written, Flow::Plain, on_halves},
    {"neg", build<NEG, FLUSH>, UnitRule::Compare, First::Written, Flow::Plain, on_halves},
    {"abs", build<ABS, FLUSH>, UnitRule::Compare, First::Written, Flow::Plain, on_halves},
    {"ex2", build_approx<EX2>, UnitRule::Special, First::Written, Flow::Plain, on_halves},
    {"tanh", build_approx<TANH>, UnitRule::Special, First::Written, Flow::Plain, on_halves},
    {"setp", build_setp, UnitRule::Compare, First::Written, Flow::Plain, on_halves},
    {"set", build_set, UnitRule::Compare, First::Written, Flow::Plain, on_halves},
};

}  // namespace

std::span<const Opcode> half_opcodes() { return OPCODES; }

}  // namespace wbsim
