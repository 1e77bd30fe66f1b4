// opcode.h: everything known about an opcode, in one row of a table. Each family of instructions in
// exec/ops/ has its rows at the end of its file.
//
// Families may share an opcode, as integers and halves share add; then each row says which
// instructions it accepts. No two rows accept the same one.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "ptx/ptx.h"

namespace wbsim {

class Decode;

// Which of a multiprocessor's units executes it (counting/units.cpp).
enum class UnitRule : uint8_t {
  Free,  // leaves nothing in machine code, or at most a move
  Integer,
  ByType,
  Compare,
  Convert,
  Divide,
  Special,
  Tensor,
  Memory,
  Control,
};

// What it does to its first operand.
enum class First : uint8_t {
  Written,  // all of it, without reading it
  Other,    // every operand counts as read and written, which is always safe
};

// Where lanes continue after it.
enum class Flow : uint8_t {
  Plain,  // at the next instruction, whatever the operands are
  Other,  // it branches, waits, or requires all lanes to be there
};

using Takes = bool (*)(const ptx::Instruction&);
inline bool takes_all(const ptx::Instruction&) { return true; }

struct Opcode {
  // Only `takes` may be omitted: an opcode without a unit does not compile.
  constexpr Opcode(std::string_view name, void (*build)(Decode&), UnitRule unit, First first,
                   Flow flow, Takes takes = takes_all)
      : name(name), build(build), unit(unit), first(first), flow(flow), takes(takes) {}

  std::string_view name;
  void (*build)(Decode&);  // fills Decode::inst, or throws Unsupported
  UnitRule unit;
  First first;
  Flow flow;
  Takes takes;
};

// The row that accepts an instruction, or nullptr.
const Opcode* find_opcode(const ptx::Instruction& inst);
// How many rows accept it, for tests.
int count_rows(const ptx::Instruction& inst);

// ---- Conditions of rows -------------------------------------------------------------------------

bool has(const ptx::Instruction& inst, std::string_view modifier);
// By the last of its types, which is that of the sources.
bool on_integers(const ptx::Instruction& inst);  // without a carry
bool on_floats(const ptx::Instruction& inst);    // f32, f64
bool on_halves(const ptx::Instruction& inst);    // f16, bf16 and pairs of them
bool not_on_halves(const ptx::Instruction& inst);
bool asynchronous(const ptx::Instruction& inst);
bool in_order(const ptx::Instruction& inst);

// ---- The tables, one per file in exec/ops/ ------------------------------------------------------

std::span<const Opcode> integer_opcodes();
std::span<const Opcode> carry_opcodes();
std::span<const Opcode> bit_opcodes();
std::span<const Opcode> float_opcodes();
std::span<const Opcode> compare_opcodes();
std::span<const Opcode> convert_opcodes();
std::span<const Opcode> move_opcodes();
std::span<const Opcode> memory_opcodes();
std::span<const Opcode> atomic_opcodes();
std::span<const Opcode> control_opcodes();
std::span<const Opcode> warp_opcodes();
std::span<const Opcode> half_opcodes();
std::span<const Opcode> convert_narrow_opcodes();
std::span<const Opcode> video_opcodes();
std::span<const Opcode> matrix_memory_opcodes();
std::span<const Opcode> mma_opcodes();
std::span<const Opcode> wmma_opcodes();
std::span<const Opcode> wgmma_opcodes();
std::span<const Opcode> mbarrier_opcodes();
std::span<const Opcode> async_copy_opcodes();
std::span<const Opcode> bulk_copy_opcodes();
std::span<const Opcode> tensor_map_opcodes();
std::span<const Opcode> address_opcodes();
std::span<const Opcode> call_opcodes();

}  // namespace wbsim
