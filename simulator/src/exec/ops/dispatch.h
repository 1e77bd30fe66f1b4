// dispatch.h: from a PTX type to a C++ type, during decoding.
#pragma once

#include <type_traits>

#include "decode/decoder.h"

namespace wbsim {

template <class T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<T>{}) with the C++ type of an integer or bit type.
template <class F>
Handler with_integer(ptx::Type type, F f) {
  using ptx::Type;
  switch (type) {
    case Type::U16:
      return f(TypeTag<uint16_t>{});
    case Type::S16:
      return f(TypeTag<int16_t>{});
    case Type::U32:
      return f(TypeTag<uint32_t>{});
    case Type::S32:
      return f(TypeTag<int32_t>{});
    case Type::U64:
      return f(TypeTag<uint64_t>{});
    case Type::S64:
      return f(TypeTag<int64_t>{});
    default:
      throw Unsupported{};
  }
}

// Calls f(TypeTag<U>{}) with the unsigned type of a bit type's width; integer types are treated by
// their width.
template <class F>
Handler with_bits(ptx::Type type, F f) {
  switch (ptx::bytes_of(type)) {
    case 2:
      return f(TypeTag<uint16_t>{});
    case 4:
      return f(TypeTag<uint32_t>{});
    case 8:
      return f(TypeTag<uint64_t>{});
    default:
      throw Unsupported{};
  }
}

template <class F>
Handler with_float(ptx::Type type, F f) {
  switch (type) {
    case ptx::Type::F32:
      return f(TypeTag<float>{});
    case ptx::Type::F64:
      return f(TypeTag<double>{});
    default:
      throw Unsupported{};
  }
}

// Operands d = op(a), d = op(a, b), d = op(a, b, c), all of one type.
inline void operands(Decode& d, ptx::Type type) {
  d.inst.dst = d.dst(0, type);
  uint32_t* slots[] = {&d.inst.a, &d.inst.b, &d.inst.c, &d.inst.d};
  if (d.num_args() > 5) {
    throw Unsupported{};
  }
  for (size_t i = 1; i < d.num_args(); i++) {
    *slots[i - 1] = d.src(i, type);
  }
}

}  // namespace wbsim
