// convert_ops.cpp: cvt between integers and f32/f64.

#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/lanes.h"
#include "exec/ops/convert.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/float_mode.h"

namespace wbsim {
namespace {

using ptx::Type;

// ---- Conversions --------------------------------------------------------------------------------

const Inst* integer_to_integer(Warp& w, const Inst* in, Mask m) {
  int64_t values[LANES];
  read_integers(w, in, values);
  if (in->list[SATURATE]) {
    Range range = range_of(type_at(in, TO));
    bool all_positive = type_at(in, FROM) == Type::U64;
    for (int64_t& v : values) {
      if (!all_positive && v < range.low) {
        v = range.low;
      } else if ((all_positive || v > 0) && static_cast<uint64_t>(v) > range.high) {
        v = static_cast<int64_t>(range.high);
      }
    }
  }
  write_integers(w, in, m, values);
  return next(in);
}

template <class F, Round R>
const Inst* float_to_integer(Warp& w, const Inst* in, Mask m) {
  ToInteger<F> integer(type_at(in, TO), sizeof(F) == 8);
  const F* from = w.reg<F>(in->a);
  int64_t values[LANES];
  for_lanes(m, [&](int l) { values[l] = integer(round_to_integral<R>(from[l])); });
  write_integers(w, in, m, values);
  return next(in);
}

template <class F>
F clamp_to_one(F v) {
  return v > F{0} ? (v < F{1} ? v : F{1}) : F{0};
}

template <class F>
const Inst* integer_to_float(Warp& w, const Inst* in, Mask m) {
  int64_t values[LANES];
  read_integers(w, in, values);
  bool all_positive = type_at(in, FROM) == Type::U64;
  F* to = w.reg<F>(in->dst);
  for_lanes(m, [&](int l) {
    F v =
        all_positive ? static_cast<F>(static_cast<uint64_t>(values[l])) : static_cast<F>(values[l]);
    to[l] = in->list[SATURATE] ? clamp_to_one(v) : v;
  });
  return next(in);
}

// ---- Choosing the handler -----------------------------------------------------------------------

template <Handler H>
Handler flushing(bool ftz) {
  return ftz ? in_mode<H, Round::Nearest, true> : H;
}

// f32 to a whole register of 32 bits, as vector code: of the roundings, GCC vectorises nearbyint,
// and the conversion itself, which rounds towards zero.
template <class I, Round R>
inline I integer_of(float v) {
  constexpr float LARGEST = std::is_signed_v<I> ? 0x1.fffffep30f : 0x1.fffffep31f;
  constexpr float SMALLEST = std::is_signed_v<I> ? -0x1p31f : 0.0f;
  float nearest = std::nearbyint(v), below = nearest - 1, above = nearest + 1;
  float down = nearest > v ? below : nearest, up = nearest < v ? above : nearest;
  float r = R == Round::Zero ? v : R == Round::Down ? down : R == Round::Up ? up : nearest;
  float inside = r < LARGEST ? r : LARGEST;
  inside = inside > SMALLEST ? inside : SMALLEST;
  I value = static_cast<I>(inside);
  value = r > LARGEST ? std::numeric_limits<I>::max() : value;
  return r != r ? 0 : value;
}
template <class I, Round R>
constexpr Handler INTEGER_OF_F32 = map1<integer_of<I, R>, I, float>;

template <class I>
Handler pick_integer_of_f32(Round round) {
  static constexpr Handler HANDLERS[] = {
      INTEGER_OF_F32<I, Round::Nearest>, INTEGER_OF_F32<I, Round::Zero>,
      INTEGER_OF_F32<I, Round::Down>, INTEGER_OF_F32<I, Round::Up>};
  return HANDLERS[static_cast<int>(round)];
}

template <class F>
Handler pick_to_integer(Round round, bool ftz) {
  switch (round) {
    case Round::Zero:
      return flushing<float_to_integer<F, Round::Zero>>(ftz);
    case Round::Down:
      return flushing<float_to_integer<F, Round::Down>>(ftz);
    case Round::Up:
      return flushing<float_to_integer<F, Round::Up>>(ftz);
    default:
      return flushing<float_to_integer<F, Round::Nearest>>(ftz);
  }
}

template <class F, Round R>
constexpr Handler INTEGRAL = map1<[](F v) { return round_to_integral<R>(v); }, F, F>;
template <class F, Round R>
constexpr Handler INTEGRAL_SATURATED =
    map1<[](F v) { return clamp_to_one(round_to_integral<R>(v)); }, F, F>;

template <class F, Round R>
Handler pick_integral(bool sat, bool ftz) {
  return sat ? flushing<INTEGRAL_SATURATED<F, R>>(ftz) : flushing<INTEGRAL<F, R>>(ftz);
}

template <class F>
Handler pick_to_integral(Round round, bool sat, bool ftz) {
  switch (round) {
    case Round::Zero:
      return pick_integral<F, Round::Zero>(sat, ftz);
    case Round::Down:
      return pick_integral<F, Round::Down>(sat, ftz);
    case Round::Up:
      return pick_integral<F, Round::Up>(sat, ftz);
    default:
      return pick_integral<F, Round::Nearest>(sat, ftz);
  }
}

template <class To, class From>
Handler pick_to_float(Round round, bool sat, bool ftz) {
  return sat ? with_mode<map1<[](From v) { return clamp_to_one(static_cast<To>(v)); }, To, From>>(
                   round, ftz)
             : with_mode<map1<[](From v) { return static_cast<To>(v); }, To, From>>(round, ftz);
}

// f32 to f32: a copy is not arithmetic, so the processor's mode does not flush it.
Handler pick_same(bool sat, bool ftz) {
  if (ftz) {
    return sat ? map1<[](float v) { return clamp_to_one(flush(v)); }, float, float>
               : map1<[](float v) { return flush(v); }, float, float>;
  }
  return sat ? map1<[](float v) { return clamp_to_one(v); }, float, float>
             : map1<[](float v) { return v; }, float, float>;
}

// The frequent conversions between full registers, as vector code; nullptr for any other.
template <class To, class From>
constexpr Handler PLAIN = map1<[](From v) { return static_cast<To>(v); }, To, From>;

Handler pick_plain(Type to, Type from) {
  struct Pair {
    int to_bytes;
    Type from;
    Handler run;
  };
  static constexpr Pair PAIRS[] = {
      {8, Type::U32, PLAIN<uint64_t, uint32_t>}, {8, Type::S32, PLAIN<int64_t, int32_t>},
      {4, Type::U64, PLAIN<uint32_t, uint64_t>}, {4, Type::S64, PLAIN<uint32_t, uint64_t>},
      {4, Type::U16, PLAIN<uint32_t, uint16_t>}, {4, Type::S16, PLAIN<int32_t, int16_t>},
      {2, Type::U32, PLAIN<uint16_t, uint32_t>}, {2, Type::S32, PLAIN<uint16_t, uint32_t>},
  };
  for (const Pair& pair : PAIRS) {
    if (pair.to_bytes == ptx::bytes_of(to) && pair.from == from && !ptx::is_float(to)) {
      return pair.run;
    }
  }
  if (to == Type::F32 && from == Type::S32) {
    return PLAIN<float, int32_t>;
  }
  if (to == Type::F32 && from == Type::U32) {
    return PLAIN<float, uint32_t>;
  }
  return nullptr;
}

// Whether an f32 or f64 is in a wider register.
bool in_wider_register(const Decode& d) {
  size_t operand = 0;
  for (const std::string& modifier : d.source.mods) {
    Type type = ptx::type_from(modifier);
    if (ptx::is_float(type) && d.register_bytes(d.arg(operand)) > ptx::bytes_of(type)) {
      return true;
    }
    operand += type == Type::None ? 0 : 1;
  }
  return false;
}

void build_cvt(Decode& d) {
  if (in_wider_register(d)) {
    return build_any_conversion(d);
  }
  Round round;
  bool integral = take_integral_round(d, round);
  bool sat = d.take("sat"), ftz = d.take("ftz");
  Type to = d.take_type(), from = d.take_type();
  std::vector<uint32_t> fields = conversion_operands(d, to, from);
  fields[SATURATE] = sat;
  d.inst.list = d.list(fields);

  bool to_float = ptx::is_float(to), from_float = ptx::is_float(from);
  bool full = static_cast<int>(fields[TO_BYTES]) == ptx::bytes_of(to) &&
              static_cast<int>(fields[FROM_BYTES]) == ptx::bytes_of(from);
  if (full && !sat && !ftz && !integral && !from_float && round == Round::Nearest) {
    d.inst.run = pick_plain(to, from);
    if (d.inst.run) {
      return;
    }
  }
  if (!to_float && !from_float) {
    d.inst.run = integer_to_integer;
  } else if (!to_float) {
    if (!integral) {
      throw Unsupported{};
    }
    if (full && from == Type::F32 && ptx::bytes_of(to) == 4 && !ftz) {
      d.inst.run = to == Type::S32 ? pick_integer_of_f32<int32_t>(round)
                                   : pick_integer_of_f32<uint32_t>(round);
      return;
    }
    d.inst.run = from == Type::F32 ? pick_to_integer<float>(round, ftz)
                                   : pick_to_integer<double>(round, ftz);
  } else if (!from_float) {
    d.inst.run = to == Type::F32 ? with_mode<integer_to_float<float>>(round, ftz)
                                 : with_mode<integer_to_float<double>>(round, ftz);
  } else if (to == from) {
    if (to == Type::F32) {
      d.inst.run = integral ? pick_to_integral<float>(round, sat, ftz) : pick_same(sat, ftz);
    } else {
      d.inst.run = integral ? pick_to_integral<double>(round, sat, ftz)
                            : pick_to_float<double, double>(round, sat, ftz);
    }
  } else if (!integral) {
    d.inst.run = to == Type::F32 ? pick_to_float<float, double>(round, sat, ftz)
                                 : pick_to_float<double, float>(round, sat, ftz);
  }
}

constexpr Opcode OPCODES[] = {
    {"cvt", build_cvt, UnitRule::Convert, First::Written, Flow::Plain,
     [](const ptx::Instruction& inst) { return !converts_narrow(inst); }},
};

}  // namespace

std::span<const Opcode> convert_opcodes() { return OPCODES; }

}  // namespace wbsim
