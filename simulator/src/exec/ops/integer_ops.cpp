// integer_ops.cpp: integer arithmetic (PTX ISA, "Integer Arithmetic").

#include <algorithm>
#include <limits>

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/integer.h"

namespace wbsim {
namespace {

using ptx::Type;

int32_t saturate(int64_t v) {
  return static_cast<int32_t>(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX));
}

// u16x2 and s16x2: F on the low and on the high halves.
template <class T, auto F>
constexpr Handler PACKED = map2<[](uint32_t a, uint32_t b) {
  auto half = [](uint32_t x, uint32_t y) -> uint32_t {
    return static_cast<uint16_t>(F(static_cast<T>(x), static_cast<T>(y)));
  };
  return half(a >> 16, b >> 16) << 16 | half(a, b);
},
                                uint32_t, uint32_t>;

template <class T, bool MAX, bool RELU>
constexpr T extremum(T a, T b) {
  T r = MAX ? std::max(a, b) : std::min(a, b);
  return RELU ? std::max(r, T{0}) : r;
}

// .relu: no less than zero; s32 and s16x2 have it.
template <bool MAX>
void build_extremum(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  bool relu = (type == Type::S32 || type == Type::S16x2) && d.take("relu");
  if (type == Type::U16x2) {
    d.inst.run = PACKED<uint16_t, extremum<uint16_t, MAX, false>>;
  } else if (type == Type::S16x2) {
    d.inst.run = relu ? PACKED<int16_t, extremum<int16_t, MAX, true>>
                      : PACKED<int16_t, extremum<int16_t, MAX, false>>;
  } else if (relu) {
    d.inst.run = map2<extremum<int32_t, MAX, true>, int32_t, int32_t>;
  } else {
    d.inst.run = with_integer(
        type, []<class T>(TypeTag<T>) -> Handler { return map2<extremum<T, MAX, false>, T, T>; });
  }
}

void build_add(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  if (type == Type::U16x2 || type == Type::S16x2) {
    d.inst.run = PACKED<uint16_t, wrap_add<uint16_t>>;
    return;
  }
  if (d.take("sat")) {
    if (type != Type::S32) {
      throw Unsupported{};
    }
    d.inst.run =
        map2<[](int32_t a, int32_t b) { return saturate(int64_t{a} + b); }, int32_t, int32_t>;
    return;
  }
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map2<[](T a, T b) { return wrap_add<T>(a, b); }, T, T>;
  });
}

void build_sub(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  if (d.take("sat")) {
    if (type != Type::S32) {
      throw Unsupported{};
    }
    d.inst.run =
        map2<[](int32_t a, int32_t b) { return saturate(int64_t{a} - b); }, int32_t, int32_t>;
    return;
  }
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map2<[](T a, T b) { return wrap_sub<T>(a, b); }, T, T>;
  });
}

void build_mul(Decode& d) {
  Type type = d.take_type();
  if (d.take("wide")) {
    int bytes = ptx::bytes_of(type);
    if (bytes == 8) {
      throw Unsupported{};
    }
    d.inst.dst = d.dst(0, bytes == 2 ? Type::U32 : Type::U64);
    d.inst.a = d.src(1, type);
    d.inst.b = d.src(2, type);
    d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
      if constexpr (sizeof(T) < 8) {
        return map2<[](T a, T b) { return static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b); },
                    Wide<T>, T>;
      } else {
        throw Unsupported{};
      }
    });
    return;
  }
  operands(d, type);
  if (d.take("hi")) {
    d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
      return map2<[](T a, T b) { return high_mul<T>(a, b); }, T, T>;
    });
    return;
  }
  if (!d.take("lo")) {
    throw Unsupported{};
  }
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map2<[](T a, T b) { return wrap_mul<T>(a, b); }, T, T>;
  });
}

void build_div(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    // Division by zero gives all ones, as on the hardware; the most negative by -1 wraps.
    return map2<[](T a, T b) -> T {
      if (b == 0) {
        return static_cast<T>(~T{0});
      }
      if (std::is_signed_v<T> && b == static_cast<T>(-1)) {
        return wrap_sub<T>(0, a);
      }
      return static_cast<T>(a / b);
    },
                T, T>;
  });
}

void build_neg(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map1<[](T a) { return wrap_sub<T>(0, a); }, T, T>;
  });
}

void build_abs(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map1<[](T a) { return a < 0 ? wrap_sub<T>(0, a) : a; }, T, T>;
  });
}

void build_rem(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map2<[](T a, T b) -> T {
      if (b == 0) {
        return static_cast<T>(~T{0});  // as on the hardware
      }
      if (std::is_signed_v<T> && b == static_cast<T>(-1)) {
        return 0;
      }
      return static_cast<T>(a % b);
    },
                T, T>;
  });
}

void build_mad(Decode& d) {
  Type type = d.take_type();
  if (d.take("wide")) {
    Type wide = ptx::bytes_of(type) == 2 ? Type::U32 : Type::U64;
    d.inst.dst = d.dst(0, wide);
    d.inst.a = d.src(1, type);
    d.inst.b = d.src(2, type);
    d.inst.c = d.src(3, wide);
    d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
      if constexpr (sizeof(T) < 8) {
        return map3<[](T a, T b, Wide<T> c) {
          return wrap_add<Wide<T>>(static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b), c);
        },
                    Wide<T>, T, T, Wide<T>>;
      } else {
        throw Unsupported{};
      }
    });
    return;
  }
  operands(d, type);
  if (d.take("hi")) {
    if (d.take("sat")) {
      d.inst.run = map3<[](int32_t a, int32_t b, int32_t c) {
        return saturate(int64_t{high_mul<int32_t>(a, b)} + c);
      },
                        int32_t, int32_t>;
      return;
    }
    d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
      return map3<[](T a, T b, T c) { return wrap_add<T>(high_mul<T>(a, b), c); }, T, T>;
    });
    return;
  }
  if (!d.take("lo")) {
    throw Unsupported{};
  }
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map3<[](T a, T b, T c) { return wrap_add<T>(wrap_mul<T>(a, b), c); }, T, T>;
  });
}

// mul24 and mad24: the low 24 bits of a and b; bits 0..31 or, HIGH, 16..47 of their 48-bit product.
template <class T, bool HIGH>
constexpr T product24(T a, T b) {
  auto low = [](T v) {
    return static_cast<int64_t>(static_cast<T>(static_cast<uint32_t>(v) << 8) >> 8);
  };
  return static_cast<T>((low(a) * low(b)) >> (HIGH ? 16 : 0));
}

template <class T, bool HIGH>
Handler pick_mul24(bool add) {
  return add ? Handler{map3<[](T a, T b, T c) { return wrap_add<T>(product24<T, HIGH>(a, b), c); },
                            T, T>}
             : Handler{map2<[](T a, T b) { return product24<T, HIGH>(a, b); }, T, T>};
}

template <bool ADD>
void build_mul24(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  bool high = d.take("hi");
  if (!high && !d.take("lo")) {
    throw Unsupported{};
  }
  if (type == Type::U32) {
    d.inst.run = high ? pick_mul24<uint32_t, true>(ADD) : pick_mul24<uint32_t, false>(ADD);
  } else if (type == Type::S32) {
    d.inst.run = high ? pick_mul24<int32_t, true>(ADD) : pick_mul24<int32_t, false>(ADD);
    if (ADD && high && d.take("sat")) {
      d.inst.run = map3<[](int32_t a, int32_t b, int32_t c) {
        return saturate(int64_t{product24<int32_t, true>(a, b)} + c);
      },
                        int32_t, int32_t>;
    }
  }
}

void build_sad(Decode& d) {
  Type type = d.take_type();
  operands(d, type);
  d.inst.run = with_integer(type, []<class T>(TypeTag<T>) -> Handler {
    return map3<[](T a, T b, T c) {
      return wrap_add<T>(c, a < b ? wrap_sub<T>(b, a) : wrap_sub<T>(a, b));
    },
                T, T>;
  });
}
// dp4a: four 8-bit products; dp2a: two 16-bit by 8-bit products of the low or high half of b.
template <bool A_SIGNED, bool B_SIGNED>
uint32_t dot4(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 4; i++) {
    int32_t x = A_SIGNED ? static_cast<int8_t>(a >> (8 * i)) : static_cast<uint8_t>(a >> (8 * i));
    int32_t y = B_SIGNED ? static_cast<int8_t>(b >> (8 * i)) : static_cast<uint8_t>(b >> (8 * i));
    c += static_cast<uint32_t>(x * y);
  }
  return c;
}

template <bool A_SIGNED, bool B_SIGNED, bool HIGH>
uint32_t dot2(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 2; i++) {
    int32_t x =
        A_SIGNED ? static_cast<int16_t>(a >> (16 * i)) : static_cast<uint16_t>(a >> (16 * i));
    int shift = 8 * i + (HIGH ? 16 : 0);
    int32_t y = B_SIGNED ? static_cast<int8_t>(b >> shift) : static_cast<uint8_t>(b >> shift);
    c += static_cast<uint32_t>(x * y);
  }
  return c;
}

template <bool A, bool B>
Handler dot_handler(bool four, bool high) {
  using U = uint32_t;
  if (four) {
    return map3<[](U a, U b, U c) { return dot4<A, B>(a, b, c); }, U, U>;
  }
  return high ? Handler{map3<[](U a, U b, U c) { return dot2<A, B, true>(a, b, c); }, U, U>}
              : Handler{map3<[](U a, U b, U c) { return dot2<A, B, false>(a, b, c); }, U, U>};
}

template <bool FOUR>
void build_dot(Decode& d) {
  bool high = d.take("hi");
  d.take("lo");
  bool a = d.take_type() == Type::S32;
  bool b = d.take_type() == Type::S32;
  operands(d, Type::B32);
  d.inst.run =
      a ? (b ? dot_handler<true, true>(FOUR, high) : dot_handler<true, false>(FOUR, high))
        : (b ? dot_handler<false, true>(FOUR, high) : dot_handler<false, false>(FOUR, high));
}
constexpr Opcode OPCODES[] = {
    {"add", build_add, UnitRule::ByType, First::Written, Flow::Plain, on_integers},
    {"sub", build_sub, UnitRule::ByType, First::Written, Flow::Plain, on_integers},
    {"mul", build_mul, UnitRule::ByType, First::Written, Flow::Plain, on_integers},
    {"div", build_div, UnitRule::Divide, First::Written, Flow::Plain, on_integers},
    {"min", build_extremum<false>, UnitRule::Compare, First::Written, Flow::Plain, on_integers},
    {"max", build_extremum<true>, UnitRule::Compare, First::Written, Flow::Plain, on_integers},
    {"neg", build_neg, UnitRule::Compare, First::Written, Flow::Plain, on_integers},
    {"abs", build_abs, UnitRule::Compare, First::Written, Flow::Plain, on_integers},
    {"rem", build_rem, UnitRule::Integer, First::Written, Flow::Plain},
    {"mad", build_mad, UnitRule::ByType, First::Written, Flow::Plain, on_integers},
    {"mul24", build_mul24<false>, UnitRule::Integer, First::Written, Flow::Plain},
    {"mad24", build_mul24<true>, UnitRule::Integer, First::Written, Flow::Plain},
    {"sad", build_sad, UnitRule::Integer, First::Written, Flow::Plain},
    {"dp4a", build_dot<true>, UnitRule::Integer, First::Written, Flow::Plain},
    {"dp2a", build_dot<false>, UnitRule::Integer, First::Written, Flow::Plain},
};

}  // namespace

std::span<const Opcode> integer_opcodes() { return OPCODES; }

}  // namespace wbsim
