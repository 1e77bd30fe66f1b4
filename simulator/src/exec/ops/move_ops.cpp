// move_ops.cpp: mov, with its packing and unpacking of vectors, and clock registers.

#include <chrono>

#include "exec/block.h"
#include "exec/control.h"
#include "exec/lanes.h"
#include "exec/ops/dispatch.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

__extension__ using B128 = unsigned __int128;

template <class U>
const Inst* move(Warp& w, const Inst* in, Mask m) {
  return map1<[](U a) { return a; }, U, U>(w, in, m);
}

// nvcc copies accumulators of wgmma from register to register while products are in flight, and
// ptxas then waits for them.
template <class U>
const Inst* move_accumulator(Warp& w, const Inst* in, Mask m) {
  complete_products(w);
  return move<U>(w, in, m);
}

const Inst* move_pred(Warp& w, const Inst* in, Mask m) {
  Mask& p = w.pred(in->dst);
  p = (p & ~m) | ((w.pred(in->a) ^ (in->flags ? ALL_LANES : 0)) & m);
  return next(in);
}

// {a, b} -> d: a in the low bits. A part has BITS bits and is in a register P; W is the whole.
template <class P, int BITS>
constexpr P PART = static_cast<P>(static_cast<P>(~P{0}) >> (8 * sizeof(P) - BITS));

template <class P, class W, int BITS>
const Inst* pack(Warp& w, const Inst* in, Mask m) {
  alignas(64) W whole[LANES] = {};
  for (int i = 0; i < in->count; i++) {
    const P* part = w.reg<P>(in->list[i]);
    for (int l = 0; l < LANES; l++) {
      whole[l] |= static_cast<W>(part[l] & PART<P, BITS>) << (BITS * i);
    }
  }
  store_masked(w.reg<W>(in->dst), whole, m);
  return next(in);
}

template <class P, class W, int BITS>
const Inst* unpack(Warp& w, const Inst* in, Mask m) {
  const W* whole = w.reg<W>(in->a);
  for (int i = 0; i < in->count; i++) {
    alignas(64) P part[LANES];
    for (int l = 0; l < LANES; l++) {
      part[l] = static_cast<P>(whole[l] >> (BITS * i)) & PART<P, BITS>;
    }
    store_masked(w.reg<P>(in->list[i]), part, m);
  }
  return next(in);
}

Type part_type(int bytes) {
  return bytes == 1   ? Type::B8
         : bytes == 2 ? Type::B16
         : bytes == 4 ? Type::B32
         : bytes == 8 ? Type::B64
                      : throw Unsupported{};
}

struct Packing {
  int part, whole;  // bytes
  Handler pack, unpack;
};
template <class P, class W, int BITS>
constexpr Packing PACKING{BITS / 8, sizeof(W), pack<P, W, BITS>, unpack<P, W, BITS>};
constexpr Packing PACKINGS[] = {
    PACKING<uint16_t, uint16_t, 8>,  PACKING<uint16_t, uint32_t, 8>,
    PACKING<uint16_t, uint16_t, 16>, PACKING<uint16_t, uint32_t, 16>,
    PACKING<uint16_t, uint64_t, 16>, PACKING<uint32_t, uint32_t, 32>,
    PACKING<uint32_t, uint64_t, 32>, PACKING<uint32_t, B128, 32>,
    PACKING<uint64_t, uint64_t, 64>, PACKING<uint64_t, B128, 64>,
};

Handler pick_pack(bool packing, int part, int whole) {
  for (const Packing& p : PACKINGS) {
    if (p.part == part && p.whole == whole) {
      return packing ? p.pack : p.unpack;
    }
  }
  throw Unsupported{};
}

void build_pack(Decode& d, Type type, bool packing) {
  const Operand& vector = d.arg(packing ? 1 : 0);
  int whole = ptx::bytes_of(type);
  d.inst.count = static_cast<uint16_t>(vector.items.size());
  int part = vector.items.empty() ? 0 : whole / static_cast<int>(vector.items.size());
  std::vector<uint32_t> slots;
  for (const Operand& item : vector.items) {
    slots.push_back(packing ? d.src(item, part_type(part)) : d.dst(item, part_type(part)));
  }
  d.inst.list = d.list(slots);
  if (packing) {
    d.inst.dst = d.dst(0, type);
    d.inst.run = pick_pack(true, part, whole);
  } else {
    d.inst.a = d.src(1, type);
    d.inst.run = pick_pack(false, part, whole);
  }
}

// The simulator's clock counts the warp instructions of this worker, this one included.
uint64_t instructions_so_far(const Warp& w) {
  uint64_t now = 0;
  const std::vector<Inst>& code = w.block->kernel->code;
  for (size_t i = 0; i < code.size(); i += code[i].run_length) {
    now += w.block->worker->counts[i].warps * code[i].run_length;
  }
  return now;
}

uint64_t nanoseconds(const Warp&) {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}

template <auto NOW, class U, int SHIFT = 0>
const Inst* read_time(Warp& w, const Inst* in, Mask m) {
  U now = static_cast<U>(NOW(w) >> SHIFT);
  for_lanes(m, [&](int l) { w.reg<U>(in->dst)[l] = now; });
  return next(in);
}

// The handler that reads a register that changes while the kernel runs; nullptr: it does not.
Handler pick_time(Special which) {
  switch (which) {
    case Special::Clock:
      return read_time<instructions_so_far, uint32_t>;
    case Special::ClockHi:
      return read_time<instructions_so_far, uint32_t, 32>;
    case Special::Clock64:
      return read_time<instructions_so_far, uint64_t>;
    case Special::GlobalTimer:
      return read_time<nanoseconds, uint64_t>;
    case Special::GlobalTimerLo:
      return read_time<nanoseconds, uint32_t>;
    case Special::GlobalTimerHi:
      return read_time<nanoseconds, uint32_t, 32>;
    default:
      return nullptr;
  }
}

void build_mov(Decode& d) {
  Type type = d.take_type();
  if (type == Type::Pred) {
    d.inst.dst = d.dst(0, type);
    d.inst.a = d.pred(d.arg(1));
    d.inst.flags = d.arg(1).negated;
    d.inst.run = move_pred;
    return;
  }
  if (d.arg(1).kind == Operand::Vector || d.arg(0).kind == Operand::Vector) {
    build_pack(d, type, d.arg(1).kind == Operand::Vector);
    return;
  }
  d.inst.dst = d.dst(0, type);
  Special which;
  if (d.is_special(d.arg(1), which)) {
    if (Handler read = pick_time(which)) {
      d.inst.run = read;
      return;
    }
    if (ptx::bytes_of(type) == 2) {  // the lower half of a 32-bit register
      d.inst.a = d.src(1, Type::U32);
      d.inst.run = map1<[](uint32_t a) { return static_cast<uint16_t>(a); }, uint16_t, uint32_t>;
      return;
    }
  }
  d.inst.a = d.src(1, type);
  if (type == Type::B128) {
    d.inst.run = move<B128>;
    return;
  }
  bool accumulator = d.is_accumulator(d.arg(1));
  d.inst.run = with_bits(type, [&]<class U>(TypeTag<U>) -> Handler {
    return accumulator ? move_accumulator<U> : move<U>;
  });
}

constexpr Opcode OPCODES[] = {
    {"mov", build_mov, UnitRule::Free, First::Written, Flow::Plain},
};

}  // namespace

std::span<const Opcode> move_opcodes() { return OPCODES; }

}  // namespace wbsim
