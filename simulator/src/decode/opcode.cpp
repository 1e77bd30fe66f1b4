// opcode.cpp: finds an instruction's row.

#include "decode/opcode.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

namespace wbsim {
namespace {

using ptx::Instruction;
using ptx::Type;

const std::vector<const Opcode*>& rows_named(std::string_view name) {
  static const auto table = [] {
    std::unordered_map<std::string_view, std::vector<const Opcode*>> rows;
    for (auto part : {integer_opcodes(),
                      carry_opcodes(),
                      bit_opcodes(),
                      float_opcodes(),
                      compare_opcodes(),
                      convert_opcodes(),
                      move_opcodes(),
                      memory_opcodes(),
                      atomic_opcodes(),
                      control_opcodes(),
                      warp_opcodes(),
                      half_opcodes(),
                      convert_narrow_opcodes(),
                      video_opcodes(),
                      matrix_memory_opcodes(),
                      mma_opcodes(),
                      wmma_opcodes(),
                      wgmma_opcodes(),
                      mbarrier_opcodes(),
                      async_copy_opcodes(),
                      bulk_copy_opcodes(),
                      tensor_map_opcodes(),
                      address_opcodes(),
                      call_opcodes()}) {
      for (const Opcode& row : part) {
        rows[row.name].push_back(&row);
      }
    }
    return rows;
  }();
  static const std::vector<const Opcode*> none;
  auto found = table.find(name);
  return found == table.end() ? none : found->second;
}

Type last_type(const Instruction& inst) {
  Type last = Type::None;
  for (const std::string& modifier : inst.mods) {
    Type type = ptx::type_from(modifier);
    last = type == Type::None ? last : type;
  }
  return last;
}

}  // namespace

const Opcode* find_opcode(const Instruction& inst) {
  for (const Opcode* row : rows_named(inst.opcode)) {
    if (row->takes(inst)) {
      return row;
    }
  }
  return nullptr;
}

int count_rows(const Instruction& inst) {
  const auto& rows = rows_named(inst.opcode);
  return static_cast<int>(
      std::count_if(rows.begin(), rows.end(), [&](const Opcode* row) { return row->takes(inst); }));
}

bool has(const Instruction& inst, std::string_view modifier) {
  return std::find(inst.mods.begin(), inst.mods.end(), modifier) != inst.mods.end();
}

bool on_halves(const Instruction& inst) {
  Type type = last_type(inst);
  return type == Type::F16 || type == Type::F16x2 || type == Type::BF16 || type == Type::BF16x2;
}

bool not_on_halves(const Instruction& inst) { return !on_halves(inst); }

bool on_floats(const Instruction& inst) {
  Type type = last_type(inst);
  return type == Type::F32 || type == Type::F64;
}

bool on_integers(const Instruction& inst) {
  return !ptx::is_float(last_type(inst)) && !has(inst, "cc");
}

bool asynchronous(const Instruction& inst) { return has(inst, "async"); }

bool in_order(const Instruction& inst) { return !has(inst, "async"); }

}  // namespace wbsim
