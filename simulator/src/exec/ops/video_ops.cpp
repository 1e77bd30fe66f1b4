// video_ops.cpp: scalar and SIMD video instructions (PTX ISA, "Video Instructions"): vadd,
// vabsdiff4 and the like. They pick parts of their operands, compute in a wider type, clamp, and
// combine the result with a third operand. sm_90 emulates them and so does this, lane by lane.

#include <algorithm>
#include <optional>

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

enum Op : uint32_t { ADD, SUB, ABSDIFF, MIN, MAX, AVRG, SHL, SHR, EQ, NE, LT, LE, GT, GE };
enum Second : uint32_t { NONE, SECOND_ADD, SECOND_MIN, SECOND_MAX };

// What a handler needs to know, in Inst::list.
enum Field : int {
  OP,
  SECOND,
  D_SIGNED,
  A_SIGNED,
  B_SIGNED,
  SATURATE,
  MODE,  // shifts: the amount wraps; vmad: how far to shift right
  NEGATE_PRODUCT,
  NEGATE_C,
  PLUS_ONE,
  MASK,     // SIMD: the elements that are computed
  A_PARTS,  // the selected parts, four bits each, the lowest first
  B_PARTS,
  D_PARTS,
  PART_BITS_A,  // 8, 16 or 32
  PART_BITS_B,
  PART_BITS_D,
  NUM_FIELDS
};

using Wide = __int128;  // holds 33 bits shifted left by 32

int64_t extend(uint64_t bits, uint32_t width, bool is_signed) {
  int unused = 64 - static_cast<int>(width);
  return is_signed ? static_cast<int64_t>(bits << unused) >> unused
                   : static_cast<int64_t>(bits << unused >> unused);
}

// r = a OP b for all lanes. R holds every result.
template <class T, class R>
void compute(uint32_t op, const T a[LANES], const T b[LANES], R r[LANES]) {
  auto each = [&](auto f) {
    for (int l = 0; l < LANES; l++) {
      r[l] = static_cast<R>(f(a[l], b[l]));
    }
  };
  switch (op) {
    case ADD:
      return each([](T x, T y) { return x + y; });
    case SUB:
      return each([](T x, T y) { return x - y; });
    case ABSDIFF:
      return each([](T x, T y) { return x < y ? y - x : x - y; });
    case MIN:
      return each([](T x, T y) { return std::min(x, y); });
    case MAX:
      return each([](T x, T y) { return std::max(x, y); });
    case AVRG:
      return each([](T x, T y) { return (x + y + (x + y >= 0)) >> 1; });
    case SHL:
      return each([](T x, T y) { return Wide{x} * (Wide{1} << y); });
    case SHR:
      return each([](T x, T y) { return x >> y; });
    case EQ:
      return each([](T x, T y) { return x == y; });
    case NE:
      return each([](T x, T y) { return x != y; });
    case LT:
      return each([](T x, T y) { return x < y; });
    case LE:
      return each([](T x, T y) { return x <= y; });
    case GT:
      return each([](T x, T y) { return x > y; });
    default:
      return each([](T x, T y) { return x >= y; });
  }
}

Wide saturate(Wide v, uint32_t bits, bool is_signed) {
  Wide low = is_signed ? -(Wide{1} << (bits - 1)) : 0;
  Wide high = (Wide{1} << (is_signed ? bits - 1 : bits)) - 1;
  return std::clamp(v, low, high);
}

// A 32-bit operation on one part of each operand, then a second one with c, or a merge into it.
const Inst* scalar(Warp& w, const Inst* in, Mask m) {
  const uint32_t* f = in->list;
  auto part = [](uint32_t v, uint32_t index, uint32_t bits, bool is_signed) {
    return extend(uint64_t{v} >> (index * bits), bits, is_signed);
  };
  int64_t a[LANES], b[LANES];
  Wide results[LANES];
  for (int l = 0; l < LANES; l++) {
    a[l] = part(w.reg<uint32_t>(in->a)[l], f[A_PARTS], f[PART_BITS_A], f[A_SIGNED]);
    b[l] = part(w.reg<uint32_t>(in->b)[l], f[B_PARTS], f[PART_BITS_B], f[B_SIGNED]);
    if (f[OP] == SHL || f[OP] == SHR) {
      b[l] = f[MODE] ? b[l] & 31 : std::min<int64_t>(b[l], 32);
    }
  }
  compute(f[OP], a, b, results);
  for_lanes(m, [&](int l) {
    Wide r = f[SATURATE] ? saturate(results[l], f[PART_BITS_D], f[D_SIGNED]) : results[l];
    uint32_t c_bits = w.reg<uint32_t>(in->c)[l];
    Wide c = extend(c_bits, 32, f[D_SIGNED]);
    r = f[SECOND] == SECOND_ADD   ? r + c
        : f[SECOND] == SECOND_MIN ? std::min(r, c)
        : f[SECOND] == SECOND_MAX ? std::max(r, c)
                                  : r;
    uint32_t field = f[PART_BITS_D] == 32 ? ~0u : (1u << f[PART_BITS_D]) - 1;
    uint32_t shift = f[D_PARTS] * f[PART_BITS_D];
    w.reg<uint32_t>(in->dst)[l] =
        (static_cast<uint32_t>(r) & field) << shift | (c_bits & ~(field << shift));
  });
  return next(in);
}

// Two or four operations on parts of the pair (b:a); then a merge into c, or a sum with it.
template <int ELEMENTS>
const Inst* simd(Warp& w, const Inst* in, Mask m) {
  constexpr int BITS = 32 / ELEMENTS;
  constexpr uint32_t FIELD = (1u << BITS) - 1;
  const uint32_t* f = in->list;
  const uint32_t* c = w.reg<uint32_t>(in->c);
  const bool adds = f[SECOND] == SECOND_ADD;
  auto extract = [&](uint32_t part, bool is_signed, int32_t to[LANES]) {
    const uint32_t* from = w.reg<uint32_t>(part < ELEMENTS ? in->a : in->b);
    const int32_t sign = is_signed ? 1 << (BITS - 1) : 0;
    const int shift = static_cast<int>(part % ELEMENTS) * BITS;
    for (int l = 0; l < LANES; l++) {
      to[l] = (static_cast<int32_t>((from[l] >> shift) & FIELD) ^ sign) - sign;
    }
  };
  alignas(64) uint32_t out[LANES];
  std::copy(c, c + LANES, out);
  for (int i = 0; i < ELEMENTS; i++) {
    if (!((f[MASK] >> i) & 1)) {
      continue;
    }
    alignas(64) int32_t a[LANES], b[LANES], r[LANES];
    extract((f[A_PARTS] >> (4 * i)) & 15, f[A_SIGNED], a);
    extract((f[B_PARTS] >> (4 * i)) & 15, f[B_SIGNED], b);
    compute(f[OP], a, b, r);
    const int32_t low = f[D_SIGNED] ? -(1 << (BITS - 1)) : 0, high = low + static_cast<int>(FIELD);
    for (int l = 0; l < LANES; l++) {
      uint32_t v = static_cast<uint32_t>(f[SATURATE] ? std::clamp(r[l], low, high) : r[l]);
      out[l] = adds ? out[l] + v : (out[l] & ~(FIELD << (BITS * i))) | (v & FIELD) << (BITS * i);
    }
  }
  store_masked(w.reg<uint32_t>(in->dst), out, m);
  return next(in);
}

// a * b + c, where the product or c may be negated, + 1 for averages, then shifted right.
const Inst* vmad(Warp& w, const Inst* in, Mask m) {
  const uint32_t* f = in->list;
  bool is_signed = f[A_SIGNED] || f[B_SIGNED] || f[NEGATE_PRODUCT] || f[NEGATE_C];
  for_lanes(m, [&](int l) {
    uint64_t a_bits = w.reg<uint32_t>(in->a)[l], b_bits = w.reg<uint32_t>(in->b)[l];
    Wide a = extend(a_bits >> (f[A_PARTS] * f[PART_BITS_A]), f[PART_BITS_A], f[A_SIGNED]);
    Wide b = extend(b_bits >> (f[B_PARTS] * f[PART_BITS_B]), f[PART_BITS_B], f[B_SIGNED]);
    uint32_t c_bits = w.reg<uint32_t>(in->c)[l];
    // -c is ~c, extended, plus one; for the lowest number that is not its 32-bit negation.
    Wide c = extend(f[NEGATE_C] ? ~c_bits : c_bits, 32, is_signed);
    Wide r = (f[NEGATE_PRODUCT] ? -(a * b) : a * b) + c + (f[NEGATE_C] || f[PLUS_ONE]);
    r >>= f[MODE];
    w.reg<uint32_t>(in->dst)[l] =
        static_cast<uint32_t>(f[SATURATE] ? saturate(r, 32, is_signed) : r);
  });
  return next(in);
}

// ---- Building -----------------------------------------------------------------------------------

// A register without its selector and sign, for Decode's own checks.
Operand whole(const Operand& op) {
  Operand r = op;
  r.part.clear();
  r.negated = false;
  return r;
}

// The parts that a selector such as b3 or h10 names, four bits each, that for the lowest element
// first; and their width.
struct Selector {
  uint32_t parts, bits;
  int count;
};
Selector selector_of(const std::string& text, Selector none) {
  if (text.empty()) {
    return none;
  }
  Selector s{0, text[0] == 'b' ? 8u : text[0] == 'h' ? 16u : throw Unsupported{}, 0};
  for (size_t i = text.size() - 1; i > 0; i--) {
    if (text[i] < '0' || text[i] > '7') {
      throw Unsupported{};
    }
    s.parts |= static_cast<uint32_t>(text[i] - '0') << (4 * s.count++);
  }
  return s;
}

bool take_signed(Decode& d) {
  Type type = d.take_type();
  return type == Type::S32 ? true : type == Type::U32 ? false : throw Unsupported{};
}

constexpr std::pair<const char*, Op> COMPARISONS[] = {{"eq", EQ}, {"ne", NE}, {"lt", LT},
                                                      {"le", LE}, {"gt", GT}, {"ge", GE}};

// The types, .sat and the comparison of a vset; all fields that an instruction does not set are
// zero.
std::vector<uint32_t> take_fields(Decode& d, std::optional<Op> op) {
  std::vector<uint32_t> f(NUM_FIELDS);
  f[D_SIGNED] = op && take_signed(d);  // the result of vset is unsigned
  f[A_SIGNED] = take_signed(d);
  f[B_SIGNED] = take_signed(d);
  f[SATURATE] = op && d.take("sat");
  for (auto& [name, comparison] : COMPARISONS) {
    if (!op && d.take(name)) {
      op = comparison;
    }
  }
  f[OP] = op ? *op : throw Unsupported{};
  return f;
}

void video_operands(Decode& d) {
  d.inst.dst = d.dst(whole(d.arg(0)), Type::U32);
  d.inst.a = d.src(whole(d.arg(1)), Type::U32);
  d.inst.b = d.src(whole(d.arg(2)), Type::U32);
  d.inst.c = d.num_args() > 3 ? d.src(whole(d.arg(3)), Type::U32) : d.inst.a;
}

// The parts of a and b that a scalar instruction reads.
void take_parts(Decode& d, std::vector<uint32_t>& f) {
  constexpr Selector WORD{0, 32, 1};
  Selector a = selector_of(d.arg(1).part, WORD), b = selector_of(d.arg(2).part, WORD);
  f[A_PARTS] = a.parts;
  f[B_PARTS] = b.parts;
  f[PART_BITS_A] = a.bits;
  f[PART_BITS_B] = b.bits;
}

bool is_negated(Decode& d, size_t i) {
  return d.arg(i).kind == Operand::Register && d.arg(i).negated;
}

void build_scalar_op(Decode& d, std::optional<Op> op) {
  std::vector<uint32_t> f = take_fields(d, op);
  video_operands(d);
  take_parts(d, f);
  Selector to = selector_of(d.arg(0).part, {0, 32, 1});
  f[D_PARTS] = to.parts;
  f[PART_BITS_D] = to.bits;
  if (f[OP] == SHL || f[OP] == SHR) {
    f[MODE] = d.take("wrap");
    if (!f[MODE] && !d.take("clamp")) {
      throw Unsupported{};
    }
  }
  f[SECOND] = d.take("add")   ? SECOND_ADD
              : d.take("min") ? SECOND_MIN
              : d.take("max") ? SECOND_MAX
                              : NONE;
  if (is_negated(d, 1) || is_negated(d, 2) || (d.num_args() > 3 && is_negated(d, 3))) {
    throw Unsupported{};
  }
  d.inst.list = d.list(f);
  d.inst.run = scalar;
}

template <Op OPERATION>
void build_scalar(Decode& d) {
  build_scalar_op(d, OPERATION);
}
void build_vset(Decode& d) { build_scalar_op(d, std::nullopt); }

template <int ELEMENTS>
void build_simd_op(Decode& d, std::optional<Op> op) {
  constexpr uint32_t BITS = 32 / ELEMENTS;
  constexpr Selector ALL = ELEMENTS == 2 ? Selector{0x10, 16, 2} : Selector{0x3210, 8, 4};
  constexpr Selector OF_B = ELEMENTS == 2 ? Selector{0x32, 16, 2} : Selector{0x7654, 8, 4};
  std::vector<uint32_t> f = take_fields(d, op);
  video_operands(d);
  Selector to = selector_of(d.arg(0).part, ALL);
  Selector a = selector_of(d.arg(1).part, ALL), b = selector_of(d.arg(2).part, OF_B);
  if (to.bits != BITS || a.bits != BITS || b.bits != BITS || a.count != ELEMENTS ||
      b.count != ELEMENTS || d.num_args() != 4) {
    throw Unsupported{};
  }
  for (int i = 0; i < to.count; i++) {
    f[MASK] |= 1u << ((to.parts >> (4 * i)) & 15);
  }
  f[A_PARTS] = a.parts;
  f[B_PARTS] = b.parts;
  f[SECOND] = d.take("add") ? SECOND_ADD : NONE;
  d.inst.list = d.list(f);
  d.inst.run = simd<ELEMENTS>;
}

template <int ELEMENTS, Op OPERATION>
void build_simd(Decode& d) {
  build_simd_op<ELEMENTS>(d, OPERATION);
}
template <int ELEMENTS>
void build_simd_set(Decode& d) {
  build_simd_op<ELEMENTS>(d, std::nullopt);
}

void build_vmad(Decode& d) {
  std::vector<uint32_t> f = take_fields(d, ADD);
  video_operands(d);
  take_parts(d, f);
  f[MODE] = d.take("shr7") ? 7 : d.take("shr15") ? 15 : 0;
  f[PLUS_ONE] = d.take("po");
  f[NEGATE_PRODUCT] = is_negated(d, 1) != is_negated(d, 2);
  f[NEGATE_C] = is_negated(d, 3);
  if (!d.arg(0).part.empty() || !d.arg(3).part.empty()) {
    throw Unsupported{};
  }
  d.inst.list = d.list(f);
  d.inst.run = vmad;
}

constexpr Opcode OPCODES[] = {
    {"vadd", build_scalar<ADD>, UnitRule::Integer, First::Written, Flow::Other},
    {"vsub", build_scalar<SUB>, UnitRule::Integer, First::Written, Flow::Other},
    {"vabsdiff", build_scalar<ABSDIFF>, UnitRule::Integer, First::Written, Flow::Other},
    {"vmin", build_scalar<MIN>, UnitRule::Integer, First::Written, Flow::Other},
    {"vmax", build_scalar<MAX>, UnitRule::Integer, First::Written, Flow::Other},
    {"vshl", build_scalar<SHL>, UnitRule::Integer, First::Written, Flow::Other},
    {"vshr", build_scalar<SHR>, UnitRule::Integer, First::Written, Flow::Other},
    {"vset", build_vset, UnitRule::Integer, First::Written, Flow::Other},
    {"vmad", build_vmad, UnitRule::Integer, First::Written, Flow::Other},
    {"vadd2", build_simd<2, ADD>, UnitRule::Integer, First::Written, Flow::Other},
    {"vsub2", build_simd<2, SUB>, UnitRule::Integer, First::Written, Flow::Other},
    {"vavrg2", build_simd<2, AVRG>, UnitRule::Integer, First::Written, Flow::Other},
    {"vabsdiff2", build_simd<2, ABSDIFF>, UnitRule::Integer, First::Written, Flow::Other},
    {"vmin2", build_simd<2, MIN>, UnitRule::Integer, First::Written, Flow::Other},
    {"vmax2", build_simd<2, MAX>, UnitRule::Integer, First::Written, Flow::Other},
    {"vset2", build_simd_set<2>, UnitRule::Integer, First::Written, Flow::Other},
    {"vadd4", build_simd<4, ADD>, UnitRule::Integer, First::Written, Flow::Other},
    {"vsub4", build_simd<4, SUB>, UnitRule::Integer, First::Written, Flow::Other},
    {"vavrg4", build_simd<4, AVRG>, UnitRule::Integer, First::Written, Flow::Other},
    {"vabsdiff4", build_simd<4, ABSDIFF>, UnitRule::Integer, First::Written, Flow::Other},
    {"vmin4", build_simd<4, MIN>, UnitRule::Integer, First::Written, Flow::Other},
    {"vmax4", build_simd<4, MAX>, UnitRule::Integer, First::Written, Flow::Other},
    {"vset4", build_simd_set<4>, UnitRule::Integer, First::Written, Flow::Other},
};

}  // namespace

std::span<const Opcode> video_opcodes() { return OPCODES; }

}  // namespace wbsim
