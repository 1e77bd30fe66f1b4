// carry_ops.cpp: integer arithmetic with a carry (PTX ISA, "Extended-Precision Integer
// Arithmetic"). The carry flag of each lane is a bit of Warp::carry.

#include "exec/lanes.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/integer.h"
#include "exec/ops/predicates.h"

namespace wbsim {
namespace {

using ptx::Type;

// d = a + b (+ carry in), or a - b (- borrow in); OUT: sets the carry flag.
template <class U, bool SUBTRACT, bool IN, bool OUT>
const Inst* add_carry(Warp& w, const Inst* in, Mask m) {
  const U* a = w.reg<U>(in->a);
  const U* b = w.reg<U>(in->b);
  alignas(64) U out[LANES];
  alignas(64) uint8_t carries[LANES];
  const Mask carry_in = IN ? w.carry : 0;
  for (int l = 0; l < LANES; l++) {
    U carry = (carry_in >> l) & 1;
    U r = SUBTRACT ? a[l] - b[l] : a[l] + b[l];
    bool first = SUBTRACT ? a[l] < b[l] : r < a[l];
    out[l] = SUBTRACT ? r - carry : r + carry;
    bool second = SUBTRACT ? r < carry : out[l] < carry;
    carries[l] = first | second;
  }
  store_masked(w.reg<U>(in->dst), out, m);
  if (OUT) {
    w.carry = (w.carry & ~m) | (mask_of(carries) & m);
  }
  return next(in);
}

template <class U, bool SUBTRACT>
Handler pick_carry(bool in, bool out) {
  return in ? (out ? add_carry<U, SUBTRACT, true, true> : add_carry<U, SUBTRACT, true, false>)
            : (out ? add_carry<U, SUBTRACT, false, true> : add_carry<U, SUBTRACT, false, false>);
}

template <bool SUBTRACT, bool IN>
void build_carry(Decode& d) {
  Type type = d.take_type();
  bool out = d.take("cc");
  operands(d, type);
  d.inst.run = with_bits(type, [&]<class U>(TypeTag<U>) -> Handler {
    if constexpr (sizeof(U) >= 4) {
      return pick_carry<U, SUBTRACT>(IN, out);
    } else {
      throw Unsupported{};
    }
  });
}

template <class T, bool HIGH, bool IN, bool OUT>
const Inst* mad_carry(Warp& w, const Inst* in, Mask m) {
  using U = std::make_unsigned_t<T>;
  U* d = w.reg<U>(in->dst);
  const T* a = w.reg<T>(in->a);
  const T* b = w.reg<T>(in->b);
  const U* c = w.reg<U>(in->c);
  for_lanes(m, [&](int l) {
    U product = static_cast<U>(HIGH ? high_mul<T>(a[l], b[l]) : wrap_mul<T>(a[l], b[l]));
    unsigned __int128 x = product;
    x += c[l];
    x += IN ? (w.carry >> l) & 1 : 0;
    d[l] = static_cast<U>(x);
    if (OUT) {
      w.carry = (w.carry & ~(1u << l)) | (static_cast<Mask>((x >> (8 * sizeof(U))) & 1) << l);
    }
  });
  return next(in);
}

template <bool IN>
void build_mad_carry(Decode& d) {
  Type type = d.take_type();
  bool out = d.take("cc");
  bool high = d.take("hi");
  if (!high && !d.take("lo")) {
    throw Unsupported{};
  }
  operands(d, type);
  d.inst.run = with_integer(type, [&]<class T>(TypeTag<T>) -> Handler {
    if (high) {
      return out ? mad_carry<T, true, IN, true> : mad_carry<T, true, IN, false>;
    }
    return out ? mad_carry<T, false, IN, true> : mad_carry<T, false, IN, false>;
  });
}
bool with_carry(const ptx::Instruction& inst) { return has(inst, "cc"); }

constexpr Opcode OPCODES[] = {
    {"add", build_carry<false, false>, UnitRule::ByType, First::Written, Flow::Plain, with_carry},
    {"sub", build_carry<true, false>, UnitRule::ByType, First::Written, Flow::Plain, with_carry},
    {"mad", build_mad_carry<false>, UnitRule::ByType, First::Written, Flow::Plain, with_carry},
    {"madc", build_mad_carry<true>, UnitRule::ByType, First::Written, Flow::Plain},
    {"addc", build_carry<false, true>, UnitRule::ByType, First::Written, Flow::Plain},
    {"subc", build_carry<true, true>, UnitRule::ByType, First::Written, Flow::Plain},
};

}  // namespace

std::span<const Opcode> carry_opcodes() { return OPCODES; }

}  // namespace wbsim
