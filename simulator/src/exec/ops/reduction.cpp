#include "exec/ops/reduction.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "exec/ops/float_mode.h"

namespace wbsim {
namespace {

using ptx::Type;

// Other blocks may reduce into the same memory on other cores. U is the element's bits.
template <class U, class F>
void each_element(uint8_t* to, const uint8_t* from, size_t bytes, F f) {
  for (size_t i = 0; i < bytes; i += sizeof(U)) {
    U operand;
    std::memcpy(&operand, from + i, sizeof(U));
    std::atomic_ref<U> cell(*reinterpret_cast<U*>(to + i));
    U old = cell.load(std::memory_order_relaxed);
    while (!cell.compare_exchange_weak(old, f(old, operand))) {
    }
  }
}

template <class T, auto F>
void reduce_integers(uint8_t* to, const uint8_t* from, size_t bytes) {
  using U = std::make_unsigned_t<T>;
  each_element<U>(to, from, bytes,
                  [](U a, U b) { return static_cast<U>(F(static_cast<T>(a), static_cast<T>(b))); });
}

template <class T>
ReduceElements integer_reduction(Reduce op) {
  using U = std::make_unsigned_t<T>;
  switch (op) {
    case Reduce::Add:
      return reduce_integers<U, [](U a, U b) { return static_cast<U>(a + b); }>;
    case Reduce::Min:
      return reduce_integers<T, [](T a, T b) { return std::min(a, b); }>;
    case Reduce::Max:
      return reduce_integers<T, [](T a, T b) { return std::max(a, b); }>;
    case Reduce::Inc:
      return reduce_integers<U, [](U a, U b) { return a >= b ? U{0} : static_cast<U>(a + 1); }>;
    case Reduce::Dec:
      return reduce_integers<U, [](U a, U b) {
        return a == 0 || (a > b) ? b : static_cast<U>(a - 1);
      }>;
    case Reduce::And:
      return reduce_integers<U, [](U a, U b) { return static_cast<U>(a & b); }>;
    case Reduce::Or:
      return reduce_integers<U, [](U a, U b) { return static_cast<U>(a | b); }>;
    case Reduce::Xor:
      return reduce_integers<U, [](U a, U b) { return static_cast<U>(a ^ b); }>;
    default:
      return nullptr;
  }
}

// 16-bit floats as floats, which hold the exact sum of two accurately enough to round it once more.
struct Half {
  static float value(uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
  static uint16_t bits(float v) {
    return std::isnan(v) ? 0x7fff : std::bit_cast<uint16_t>(static_cast<_Float16>(v));
  }
};

struct BrainFloat {
  static float value(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
  static uint16_t bits(float v) {
    uint32_t u = std::bit_cast<uint32_t>(v);
    return std::isnan(v) ? 0x7fff : static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
};

// The smaller of two: a number rather than a NaN, -0 rather than +0.
float smaller(float a, float b) {
  return std::isnan(a)   ? b
         : std::isnan(b) ? a
         : a == b        ? (std::signbit(a) ? a : b)
                         : std::min(a, b);
}

template <class F, auto OP>
void reduce_halves(uint8_t* to, const uint8_t* from, size_t bytes) {
  each_element<uint16_t>(to, from, bytes, [](uint16_t a, uint16_t b) {
    return F::bits(OP(F::value(a), F::value(b)));
  });
}

template <class F>
ReduceElements half_reduction(Reduce op) {
  switch (op) {
    case Reduce::Add:
      return reduce_halves<F, [](float a, float b) { return a + b; }>;
    case Reduce::Min:
      return reduce_halves<F, smaller>;
    case Reduce::Max:
      return reduce_halves<F, [](float a, float b) { return -smaller(-a, -b); }>;
    default:
      return nullptr;
  }
}

// Like red.add.f32, which flushes denormals in global memory.
void add_floats(uint8_t* to, const uint8_t* from, size_t bytes) {
  each_element<uint32_t>(to, from, bytes, [](uint32_t a, uint32_t b) {
    float sum = flush(std::bit_cast<float>(a)) + flush(std::bit_cast<float>(b));
    return std::bit_cast<uint32_t>(flush(sum));
  });
}

void add_doubles(uint8_t* to, const uint8_t* from, size_t bytes) {
  each_element<uint64_t>(to, from, bytes, [](uint64_t a, uint64_t b) {
    return std::bit_cast<uint64_t>(std::bit_cast<double>(a) + std::bit_cast<double>(b));
  });
}

bool is_bitwise(Reduce op) { return op >= Reduce::And; }
bool is_ordering(Reduce op) { return op == Reduce::Min || op == Reduce::Max; }

}  // namespace

ReduceElements reduction(Reduce op, Type type) {
  switch (type) {
    case Type::B32:
      return is_bitwise(op) ? integer_reduction<uint32_t>(op) : nullptr;
    case Type::B64:
      return is_bitwise(op) ? integer_reduction<uint64_t>(op) : nullptr;
    case Type::U32:
      return is_bitwise(op) ? nullptr : integer_reduction<uint32_t>(op);
    case Type::S32:
      return op == Reduce::Add || is_ordering(op) ? integer_reduction<int32_t>(op) : nullptr;
    case Type::U64:
      return op == Reduce::Add || is_ordering(op) ? integer_reduction<uint64_t>(op) : nullptr;
    case Type::S64:
      return op == Reduce::Add || is_ordering(op) ? integer_reduction<int64_t>(op) : nullptr;
    case Type::F16:
      return half_reduction<Half>(op);
    case Type::BF16:
      return half_reduction<BrainFloat>(op);
    case Type::F32:
      return op == Reduce::Add ? add_floats : nullptr;
    case Type::F64:
      return op == Reduce::Add ? add_doubles : nullptr;
    default:
      return nullptr;
  }
}

Reduce take_reduce(Decode& d) {
  static constexpr std::pair<const char*, Reduce> NAMES[] = {
      {"add", Reduce::Add}, {"min", Reduce::Min}, {"max", Reduce::Max}, {"inc", Reduce::Inc},
      {"dec", Reduce::Dec}, {"and", Reduce::And}, {"or", Reduce::Or},   {"xor", Reduce::Xor},
  };
  for (auto& [name, op] : NAMES) {
    if (d.take(name)) {
      return op;
    }
  }
  return Reduce::None;
}

}  // namespace wbsim
