// inst.h: a decoded instruction: a handler and where its operands are.
//
// A warp's registers form one frame of bytes. A register of type T is T[32], one element per lane;
// a predicate is a 32-bit mask. Constants and special registers (%tid.x) are slots of the frame
// that are never written, so a handler never needs to ask what kind of operand it has.
#pragma once

#include <cstdint>

#include "ptx/ptx.h"

namespace wbsim {

struct Opcode;

using Mask = uint32_t;  // one bit per lane
constexpr int LANES = 32;
constexpr Mask ALL_LANES = 0xffffffffu;

struct Warp;
struct Inst;

// Executes one instruction for the lanes of the mask and returns the next one, or HALT if it
// changed which lanes run (exit, barrier, divergence).
using Handler = const Inst* (*)(Warp&, const Inst*, Mask);

struct alignas(64) Inst {
  Handler run = nullptr;
  int64_t imm = 0;                 // address offset, barrier id, ...
  const uint32_t* list = nullptr;  // slots of a vector operand
  uint32_t dst = 0, dst2 = 0;
  uint32_t a = 0, b = 0, c = 0, d = 0;  // byte offsets into the frame
  int32_t guard = -1;                   // slot of the guard predicate, or -1
  int32_t target = 0;                   // branch target, index into Kernel::code
  uint16_t count = 1;                   // elements of a vector operand
  uint16_t run_length = 1;              // instructions from here to the end of the run
  bool guard_negated = false;
  uint8_t flags = 0;
};
static_assert(sizeof(Inst) == 64, "one instruction per cache line; pc arithmetic is a shift");

// Instructions are executed in runs. In a run of more than one, each is plain: it goes on to the
// next one whatever its operands are. A group of lanes starts and stops only at the ends of runs.

// Not an instruction: compares greater than every real one.
inline const Inst* const HALT = reinterpret_cast<const Inst*>(~uintptr_t{0} - 63);

// What an instruction does, for the counters. Filled by the decoder, never read while executing.
struct InstInfo {
  const ptx::Instruction* source = nullptr;
  const Opcode* opcode = nullptr;  // its row of the table; nullptr: none accepts it
  enum Class : uint8_t { Other, Load, Store, Atomic, Barrier } kind = Other;
  ptx::Space space = ptx::Space::None;
  // How observe() finds its addresses: one per lane, or one per row of the matrices.
  enum Observed : uint8_t { Unobserved, Lanes, Rows } observed = Unobserved;
  uint8_t address = 0;         // AddressKind
  uint16_t bytes = 0;          // per lane, for memory accesses
  uint16_t element = 0;        // bytes of the smallest piece of it
  uint8_t register_bytes = 0;  // of a store: from lane to lane in the registers of its value
  // How it orders other accesses: atomic, volatile and relaxed ones are strong.
  bool strong = false, releases = false, wide = false;  // wide: for other clusters too
  uint32_t flops = 0;                                   // per lane
  // The registers that it reads, then those it writes (Kernel::operands).
  uint32_t first_operand = 0;
  uint16_t num_sources = 0, num_targets = 0;
  bool bypasses_l1 = false;
  bool compares = false;  // atom.cas
  int32_t base = -1;      // what its address is computed from, in Kernel::bases; -1: not known
};

}  // namespace wbsim
