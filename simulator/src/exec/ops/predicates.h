// predicates.h: what setp, set and lop3 do with predicate operands (PTX ISA, CmpOp.BoolOp).
#pragma once

#include <cstring>

#include "decode/decoder.h"
#include "exec/warp.h"

namespace wbsim {

// 32 bytes of 0 or 1 as a mask: eight of them become eight bits by one multiplication.
inline Mask mask_of(const uint8_t bits[LANES]) {
  Mask r = 0;
  for (int i = 0; i < LANES / 8; i++) {
    uint64_t eight;
    std::memcpy(&eight, bits + 8 * i, 8);
    r |= static_cast<Mask>((eight * 0x0102040810204080ull) >> 56) << (8 * i);
  }
  return r;
}

// How a comparison combines with the predicate operand c: setp.CmpOp.BoolOp.
enum Combine : uint8_t { Plain, And, Or, Xor };
constexpr uint8_t NEGATE_C = 8;

inline Mask combine(uint8_t how, Mask r, Mask c) {
  return how == And ? r & c : how == Or ? r | c : how == Xor ? r ^ c : r;
}

// r combined with c as specified by Inst::flags.
inline Mask combined(Warp& w, const Inst* in, Mask r) {
  return in->flags
             ? combine(in->flags & 7, r, w.pred(in->c) ^ (in->flags & NEGATE_C ? ALL_LANES : 0))
             : r;
}

inline void take_combine(Decode& d) {
  d.inst.flags = d.take("and") ? And : d.take("or") ? Or : d.take("xor") ? Xor : Plain;
  if (d.inst.flags != Plain) {
    d.inst.c = d.pred(d.arg(3));
    d.inst.flags |= d.arg(3).negated ? NEGATE_C : 0;
  }
}

inline void write_pred(Warp& w, uint32_t slot, Mask value, Mask m) {
  Mask& p = w.pred(slot);
  p = (p & ~m) | (value & m);
}

// What set writes if the comparison holds.
inline uint32_t value_of_true(ptx::Type type) {
  switch (type) {
    case ptx::Type::U16:
    case ptx::Type::S16:
      return 0xffff;
    case ptx::Type::U32:
    case ptx::Type::S32:
      return 0xffffffff;
    case ptx::Type::F16:
      return 0x3c00;
    case ptx::Type::BF16:
      return 0x3f80;
    case ptx::Type::F32:
      return 0x3f800000;
    default:
      throw Unsupported{};
  }
}

// Slot of the second destination of p|q, or 0.
inline uint32_t second_destination(Decode& d, const ptx::Operand& op) {
  if (op.pair < 0) {
    return 0;
  }
  ptx::Operand second;
  second.kind = ptx::Operand::Register;
  second.reg = op.pair;
  return d.dst(second, ptx::Type::Pred);
}

// The destinations of setp: p, or p|q, where _ stands for one that is not wanted.
inline void predicate_destinations(Decode& d) {
  const ptx::Operand& to = d.arg(0);
  d.inst.dst = to.kind == ptx::Operand::Sink ? d.scratch(2) : d.dst(0, ptx::Type::Pred);
  d.inst.dst2 = second_destination(d, to);
}

}  // namespace wbsim
