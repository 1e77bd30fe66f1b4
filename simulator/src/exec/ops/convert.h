// convert.h: what convert_ops.cpp and convert_narrow_ops.cpp share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/float_mode.h"

namespace wbsim {

// What a conversion handler needs to know, in Inst::list. Templates for every pair of types and
// register widths would be thousands of functions; these are a few, with one switch per warp.
enum Field : int {
  TO,
  FROM,
  TO_BYTES,  // of the registers
  FROM_BYTES,
  SATURATE,
  FLUSH,
  RELU,
  FINITE,
  ROUND,
  INTEGRAL,
  NUM_FIELDS
};

inline ptx::Type type_at(const Inst* in, Field field) {
  return static_cast<ptx::Type>(in->list[field]);
}

// Conversions accept registers wider than the type (PTX ISA, cvt): this type has all their bits.
inline ptx::Type in_register(Decode& d, const ptx::Operand& op, ptx::Type type) {
  int bytes = d.register_bytes(op);
  if (bytes < std::max(2, ptx::bytes_of(type))) {
    return type;  // not a register, or too small a one
  }
  return bytes == 2 ? ptx::Type::B16 : bytes == 4 ? ptx::Type::B32 : ptx::Type::B64;
}

// Sets the operands of a conversion, with its types and the widths of its registers as fields. The
// other fields are zero.
inline std::vector<uint32_t> conversion_operands(Decode& d, ptx::Type to, ptx::Type from) {
  d.inst.dst = d.dst(0, in_register(d, d.arg(0), to));
  Special which;
  bool special = d.is_special(d.arg(1), which);
  // A special register has 32 or 64 bits, whichever part of it is converted.
  ptx::Type read = special && ptx::bytes_of(from) < 4 ? ptx::Type::U32 : from;
  d.inst.a = d.src(1, special ? read : in_register(d, d.arg(1), read));
  auto width = [](int register_bytes, ptx::Type type) {
    return static_cast<uint32_t>(std::max({2, register_bytes, ptx::bytes_of(type)}));
  };
  std::vector<uint32_t> fields(NUM_FIELDS);
  fields[TO] = static_cast<uint32_t>(to);
  fields[FROM] = static_cast<uint32_t>(from);
  fields[TO_BYTES] = width(d.register_bytes(d.arg(0)), to);
  fields[FROM_BYTES] = special ? width(0, read) : width(d.register_bytes(d.arg(1)), from);
  return fields;
}

// A conversion to or from a type narrower than f32, or a packed one.
inline bool converts_narrow(const ptx::Instruction& inst) {
  return has(inst, "pack") ||
         std::any_of(inst.mods.begin(), inst.mods.end(), [](const std::string& modifier) {
           ptx::Type type = ptx::type_from(modifier);
           return ptx::is_float(type) && type != ptx::Type::F32 && type != ptx::Type::F64;
         });
}

// A conversion of any types, including floats in a wider register (narrow).
void build_any_conversion(Decode& d);

// ---- Integers in registers. A register may be wider than its value: 8 bits are in 16 or more.

template <class T>
void read_as(const uint8_t* from, int stride, int64_t out[LANES]) {
  for (int l = 0; l < LANES; l++) {
    T value;
    std::memcpy(&value, from + l * stride, sizeof value);
    out[l] = static_cast<int64_t>(value);
  }
}

// The integer source, sign-extended to 64 bits.
inline void read_integers(Warp& w, const Inst* in, int64_t out[LANES]) {
  const uint8_t* from = w.reg<uint8_t>(in->a);
  int stride = static_cast<int>(in->list[FROM_BYTES]);
  switch (type_at(in, FROM)) {
    case ptx::Type::U8:
      return read_as<uint8_t>(from, stride, out);
    case ptx::Type::S8:
      return read_as<int8_t>(from, stride, out);
    case ptx::Type::U16:
      return read_as<uint16_t>(from, stride, out);
    case ptx::Type::S16:
      return read_as<int16_t>(from, stride, out);
    case ptx::Type::U32:
      return read_as<uint32_t>(from, stride, out);
    case ptx::Type::S32:
      return read_as<int32_t>(from, stride, out);
    default:
      return read_as<int64_t>(from, stride, out);
  }
}

// The low bits of the values, extended to the register by the sign of the destination type.
inline void write_integers(Warp& w, const Inst* in, Mask m, const int64_t values[LANES]) {
  uint8_t* to = w.reg<uint8_t>(in->dst);
  size_t register_bytes = in->list[TO_BYTES];
  ptx::Type type = type_at(in, TO);
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
inline Range range_of(ptx::Type type) {
  int bits = 8 * ptx::bytes_of(type);
  if (ptx::is_signed(type)) {
    return {static_cast<int64_t>(~uint64_t{0} << (bits - 1)), (uint64_t{1} << (bits - 1)) - 1};
  }
  return {0, ~uint64_t{0} >> (64 - bits)};
}

// Integral values as integers of a type, saturated. NaN gives zero, or the top bit if f64 or 64
// bits are involved (PTX ISA, cvt).
template <class F>
struct ToInteger {
  Range range;
  F above, below;  // the limits, as powers of two exact in F
  int64_t nan;

  ToInteger(ptx::Type to, bool from_f64) : range(range_of(to)) {
    int bits = 8 * ptx::bytes_of(to);
    above = std::ldexp(F{1}, ptx::is_signed(to) ? bits - 1 : bits);
    below = ptx::is_signed(to) ? -above : F{0};
    nan = from_f64 || bits == 64 ? static_cast<int64_t>(uint64_t{1} << (bits - 1)) : 0;
  }
  int64_t operator()(F v) const {
    return v != v       ? nan
           : v >= above ? static_cast<int64_t>(range.high)
           : v <= below ? range.low
           : v > F{0}   ? static_cast<int64_t>(static_cast<uint64_t>(v))
                        : static_cast<int64_t>(v);
  }
};

template <Round R, class F>
F round_to_integral(F v) {
  return R == Round::Zero   ? std::trunc(v)
         : R == Round::Down ? std::floor(v)
         : R == Round::Up   ? std::ceil(v)
                            : std::nearbyint(v);
}

// rni, rzi, rmi, rpi round to an integral value; rn, rz, rm, rp to a value of the destination type.
inline bool take_integral_round(Decode& d, Round& round) {
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

}  // namespace wbsim
