// convert_ops.cpp: cvt between integers and f32/f64.

#include <algorithm>
#include <cmath>

#include "dispatch.h"
#include "float_mode.h"

namespace wbsim {
namespace {

using ptx::Type;

// What a conversion handler needs to know, in Inst::list. Templates over every pair of types and
// register widths would be thousands of functions; these are a few, with one switch per warp.
enum Field : int { TO, FROM, TO_BYTES, FROM_BYTES, SATURATE, NUM_FIELDS };

Type type_at(const Inst* in, Field field) { return static_cast<Type>(in->list[field]); }

// ---- Integers in registers. A register may be wider than its value: 8 bits live in 16 or more.

template <class T>
void read_as(const uint8_t* from, int stride, int64_t out[LANES]) {
  for (int l = 0; l < LANES; l++) {
    T value;
    std::memcpy(&value, from + l * stride, sizeof value);
    out[l] = static_cast<int64_t>(value);
  }
}

// The integer source, extended to 64 bits by its sign.
void read_integers(Warp& w, const Inst* in, int64_t out[LANES]) {
  const uint8_t* from = w.reg<uint8_t>(in->a);
  int stride = static_cast<int>(in->list[FROM_BYTES]);
  switch (type_at(in, FROM)) {
    case Type::U8:
      return read_as<uint8_t>(from, stride, out);
    case Type::S8:
      return read_as<int8_t>(from, stride, out);
    case Type::U16:
      return read_as<uint16_t>(from, stride, out);
    case Type::S16:
      return read_as<int16_t>(from, stride, out);
    case Type::U32:
      return read_as<uint32_t>(from, stride, out);
    case Type::S32:
      return read_as<int32_t>(from, stride, out);
    default:
      return read_as<int64_t>(from, stride, out);
  }
}

// The low bits of the values, extended to the register by the sign of the destination type.
void write_integers(Warp& w, const Inst* in, Mask m, const int64_t values[LANES]) {
  uint8_t* to = w.reg<uint8_t>(in->dst);
  size_t register_bytes = in->list[TO_BYTES];
  Type type = type_at(in, TO);
  int unused_bits = 64 - 8 * ptx::bytes_of(type);
  for_lanes(m, [&](int l) {
    uint64_t top = static_cast<uint64_t>(values[l]) << unused_bits;
    uint64_t value = ptx::is_signed(type)
                         ? static_cast<uint64_t>(static_cast<int64_t>(top) >> unused_bits)
                         : top >> unused_bits;
    std::memcpy(to + l * register_bytes, &value, register_bytes);
  });
}

struct Range {
  int64_t low;
  uint64_t high;
};
Range range_of(Type type) {
  int bits = 8 * ptx::bytes_of(type);
  if (ptx::is_signed(type)) {
    return {static_cast<int64_t>(~uint64_t{0} << (bits - 1)), (uint64_t{1} << (bits - 1)) - 1};
  }
  return {0, ~uint64_t{0} >> (64 - bits)};
}

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

template <Round R, class F>
F round_to_integral(F v) {
  return R == Round::Zero   ? std::trunc(v)
         : R == Round::Down ? std::floor(v)
         : R == Round::Up   ? std::ceil(v)
                            : std::nearbyint(v);
}

// Rounds, then saturates; NaN gives zero, or the top bit where f64 or 64 bits are involved (PTX
// ISA, cvt).
template <class F, Round R>
const Inst* float_to_integer(Warp& w, const Inst* in, Mask m) {
  Type to = type_at(in, TO);
  int bits = 8 * ptx::bytes_of(to);
  Range range = range_of(to);
  int64_t nan = sizeof(F) == 8 || bits == 64 ? static_cast<int64_t>(uint64_t{1} << (bits - 1)) : 0;
  // The limits as powers of two are exact in F.
  const F above = std::ldexp(F{1}, ptx::is_signed(to) ? bits - 1 : bits);
  const F below = ptx::is_signed(to) ? -above : F{0};
  const F* from = w.reg<F>(in->a);
  int64_t values[LANES];
  for_lanes(m, [&](int l) {
    F v = round_to_integral<R>(from[l]);
    values[l] = v != v       ? nan
                : v >= above ? static_cast<int64_t>(range.high)
                : v <= below ? range.low
                : v > F{0}   ? static_cast<int64_t>(static_cast<uint64_t>(v))
                             : static_cast<int64_t>(v);
  });
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

// f32 to f32: a copy is no arithmetic, so the processor's mode does not flush it.
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

bool is_convertible(Type type) {
  switch (type) {
    case Type::U8:
    case Type::S8:
    case Type::U16:
    case Type::S16:
    case Type::U32:
    case Type::S32:
    case Type::U64:
    case Type::S64:
    case Type::F32:
    case Type::F64:
      return true;
    default:
      return false;
  }
}

// rni, rzi, rmi, rpi round to an integral value; rn, rz, rm, rp to a value of the destination type.
bool take_integral_round(Decode& d, Round& round) {
  static constexpr std::pair<const char*, Round> NAMES[] = {
      {"rni", Round::Nearest}, {"rzi", Round::Zero}, {"rmi", Round::Down}, {"rpi", Round::Up}};
  for (auto& [name, mode] : NAMES) {
    if (d.take(name)) {
      round = mode;
      return true;
    }
  }
  round = take_round(d);
  return false;
}

void build_cvt(Decode& d) {
  Round round;
  bool integral = take_integral_round(d, round);
  bool sat = d.take("sat"), ftz = d.take("ftz");
  Type to = d.take_type(), from = d.take_type();
  if (!is_convertible(to) || !is_convertible(from)) {
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, to);
  Special which;
  bool special = d.is_special(d.arg(1), which);
  // A special register has 32 bits or 64, whatever part of it is converted.
  Type read = special && ptx::bytes_of(from) < 4 ? Type::U32 : from;
  d.inst.a = d.src(1, read);
  auto width = [](int register_bytes, Type type) {
    return std::max({2, register_bytes, ptx::bytes_of(type)});
  };
  uint32_t fields[NUM_FIELDS];
  fields[TO] = static_cast<uint32_t>(to);
  fields[FROM] = static_cast<uint32_t>(from);
  fields[TO_BYTES] = width(d.register_bytes(d.arg(0)), to);
  fields[FROM_BYTES] = special ? width(0, read) : width(d.register_bytes(d.arg(1)), from);
  fields[SATURATE] = sat;
  d.inst.list = d.list({std::begin(fields), std::end(fields)});

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
    {"cvt", build_cvt},
};

}  // namespace

std::span<const Opcode> convert_opcodes() { return OPCODES; }

}  // namespace wbsim
