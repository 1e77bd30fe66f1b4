// registers.cpp: liveness by basic blocks, then a linear scan over the intervals.
//
// Lanes may be anywhere in the kernel at the same time, but that does not matter: each has its own
// element of a register, so for sharing, a lane is a thread like any other.

#include "decode/registers.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>

#include "decode/opcode.h"

namespace wbsim {
namespace {

using ptx::Instruction;
using ptx::Operand;

// Beyond this, registers do not share slots: finding out which of them could would take too long.
constexpr size_t MAX_WORDS = 1 << 24;  // of the sets of all blocks
constexpr size_t MAX_STEPS = 1 << 30;  // over words of sets
constexpr size_t MAX_EDGES = 1 << 20;  // between blocks

// Sets of registers, as bits.
using Set = std::vector<uint64_t>;

template <class F>
void each_in(const Set& set, F f) {
  for (size_t i = 0; i < set.size(); i++) {
    for (uint64_t rest = set[i]; rest; rest &= rest - 1) {
      f(static_cast<int>(64 * i) + std::countr_zero(rest));
    }
  }
}
bool contains(const Set& set, int r) { return (set[r / 64] >> (r % 64)) & 1; }
void insert(Set& set, int r) { set[r / 64] |= uint64_t{1} << (r % 64); }
void erase(Set& set, int r) { set[r / 64] &= ~(uint64_t{1} << (r % 64)); }

// Whether its first operand is a destination that is completely overwritten. If not, every register
// counts as read and written, which is always safe.
bool overwrites_first(const Instruction& inst) {
  const Opcode* opcode = find_opcode(inst);
  return opcode && opcode->first == First::Written;
}

template <class F>
void each_register(const Operand& op, F f) {
  if (op.reg >= 0) {
    f(op.reg);
  }
  if (op.pair >= 0) {
    f(op.pair);
  }
  for (const Operand& item : op.items) {
    each_register(item, f);
  }
}

struct Accesses {
  std::vector<int> reads,
      writes;  // a write that is also listed as a read keeps the previous value alive
};

Accesses accesses_of(const Instruction& inst) {
  Accesses a;
  bool overwrites = overwrites_first(inst);
  for (size_t i = 0; i < inst.args.size(); i++) {
    bool destination = overwrites && i == 0 && inst.args[0].kind != Operand::Memory;
    each_register(inst.args[i], [&](int r) {
      if (destination || !overwrites) {
        a.writes.push_back(r);
      }
      // If the guard is false, the old value stays.
      if (!destination || inst.guard >= 0) {
        a.reads.push_back(r);
      }
    });
  }
  if (inst.guard >= 0) {
    a.reads.push_back(inst.guard);
  }
  return a;
}

struct Block {
  int first, last;  // instructions, both inclusive
  std::vector<int> successors;
  Set live_in, live_out;
};

bool is_branch(const Instruction& inst) { return inst.opcode == "bra" || inst.opcode == "brx"; }

// Where a branch may go: labels. Empty if that is not known.
std::vector<std::string> targets_of(const ptx::Function& f, const Instruction& branch) {
  if (branch.opcode == "bra") {
    return branch.args.empty() ? std::vector<std::string>{} : std::vector{branch.args[0].symbol};
  }
  auto list = f.targets.find(branch.args.size() < 2 ? "" : branch.args[1].symbol);
  return list == f.targets.end() ? std::vector<std::string>{} : list->second;
}
bool is_exit(const Instruction& inst) { return inst.opcode == "ret" || inst.opcode == "exit"; }

// Empty if the control flow is not known, or too complicated.
std::vector<Block> blocks_of(const ptx::Function& f) {
  const int n = static_cast<int>(f.code.size());
  std::vector<bool> starts(n + 1, false);
  starts[0] = true;
  for (auto& [label, at] : f.labels) {
    starts[at] = true;
  }
  for (int i = 0; i < n; i++) {
    if (is_branch(f.code[i]) || is_exit(f.code[i])) {
      starts[i + 1] = true;
    }
  }
  std::vector<Block> blocks;
  std::vector<int> block_at(n + 1, -1);
  for (int i = 0; i < n; i++) {
    if (starts[i]) {
      blocks.push_back({i, i, {}, {}, {}});
    }
    blocks.back().last = i;
    block_at[i] = static_cast<int>(blocks.size()) - 1;
  }
  size_t edges = 0;
  for (Block& block : blocks) {
    const Instruction& last = f.code[block.last];
    bool falls_through = last.guard >= 0 || !(is_branch(last) || is_exit(last));
    if (falls_through && block.last + 1 < n) {
      block.successors.push_back(block_at[block.last + 1]);
    }
    if (!is_branch(last)) {
      continue;
    }
    std::vector<std::string> targets = targets_of(f, last);
    edges += targets.size();
    if (targets.empty() || edges > MAX_EDGES) {
      return {};
    }
    for (const std::string& label : targets) {
      auto target = f.labels.find(label);
      if (target == f.labels.end()) {
        return {};
      }
      if (target->second < n) {
        block.successors.push_back(block_at[target->second]);
      }
    }
  }
  return blocks;
}

// Backwards through a block: what is live before it, given what is live after it.
Set before(const std::vector<Accesses>& accesses, const Block& block, Set live) {
  for (int i = block.last; i >= block.first; i--) {
    for (int r : accesses[i].writes) {
      erase(live, r);
    }
    for (int r : accesses[i].reads) {
      insert(live, r);
    }
  }
  return live;
}

// False if that takes too long.
bool find_live(const std::vector<Accesses>& accesses, std::vector<Block>& blocks, size_t words) {
  if (blocks.size() * words > MAX_WORDS) {
    return false;
  }
  size_t steps = 0;
  for (Block& block : blocks) {
    block.live_in = block.live_out = Set(words, 0);
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
      Set out(words, 0);
      steps += (block->successors.size() + 1) * words + block->last - block->first;
      if (steps > MAX_STEPS) {
        return false;
      }
      for (int s : block->successors) {
        for (size_t i = 0; i < words; i++) {
          out[i] |= blocks[s].live_in[i];
        }
      }
      Set in = before(accesses, *block, out);
      changed = changed || in != block->live_in;
      block->live_out = std::move(out);
      block->live_in = std::move(in);
    }
  }
  return true;
}

struct Interval {
  int reg, first, last;  // instructions
};

int width_class(ptx::Type type) {
  return type == ptx::Type::Pred ? 0 : std::max(2, ptx::bytes_of(type));
}

}  // namespace

std::vector<bool> accumulators_of(const ptx::Function& f) {
  std::vector<bool> accumulators(f.registers.size(), false);
  for (const Instruction& inst : f.code) {
    if (inst.opcode == "wgmma" && !inst.args.empty()) {
      each_register(inst.args[0], [&](int r) { accumulators[r] = true; });
    }
  }
  return accumulators;
}

bool may_decide_branch(const ptx::Function& f, const Instruction& load) {
  Set known(f.registers.size() / 64 + 1, 0);
  auto is_known = [&](int r) { return contains(known, r); };
  each_register(load.args[0], [&](int r) { insert(known, r); });
  for (bool changed = true; changed;) {
    changed = false;
    for (const Instruction& inst : f.code) {
      if (inst.guard >= 0 && is_known(inst.guard)) {
        return true;
      }
      const Accesses a = accesses_of(inst);
      if (std::none_of(a.reads.begin(), a.reads.end(), is_known)) {
        continue;
      }
      if (overwrites_first(inst)) {
        for (int r : a.writes) {
          changed |= !is_known(r);
          insert(known, r);
        }
      } else if (has(inst, "param") || inst.opcode == "brx" || inst.opcode == "call") {
        return true;
      }
    }
  }
  return false;
}

SharedSlots share_slots(const ptx::Function& f) {
  const int n = static_cast<int>(f.registers.size());
  std::vector<int> slots(n, -1), unset;
  std::map<int, int> used;  // slots of a width
  std::vector<Block> blocks = blocks_of(f);
  std::vector<Accesses> accesses;
  for (const Instruction& inst : f.code) {
    accesses.push_back(accesses_of(inst));
  }
  if (blocks.empty() || !find_live(accesses, blocks, n / 64 + 1)) {
    for (int r = 0; r < n; r++) {
      if (f.registers[r].type != ptx::Type::None) {
        slots[r] = used[width_class(f.registers[r].type)]++;
      }
    }
    return {slots, unset};
  }

  // From the first to the last instruction, in code order, at which a register holds a
  // value.
  std::vector<Interval> intervals;
  for (int r = 0; r < n; r++) {
    intervals.push_back({r, INT32_MAX, -1});
  }
  auto extend = [&](int r, int at) {
    intervals[r].first = std::min(intervals[r].first, at);
    intervals[r].last = std::max(intervals[r].last, at);
  };
  for (const Block& block : blocks) {
    each_in(block.live_in, [&](int r) { extend(r, block.first); });
    each_in(block.live_out, [&](int r) { extend(r, block.last); });
    for (int i = block.first; i <= block.last; i++) {
      for (int r : accesses[i].reads) {
        extend(r, i);
      }
      for (int r : accesses[i].writes) {
        extend(r, i);
      }
    }
  }
  std::vector<bool> accumulators = accumulators_of(f);
  // Not accumulators: whether a product reads or overwrites them is known when it runs.
  for (int r = 0; r < n; r++) {
    if (contains(blocks.front().live_in, r) && f.registers[r].type != ptx::Type::None &&
        !accumulators[r]) {
      unset.push_back(r);
    }
  }
  for (Interval& v : intervals) {
    if (accumulators[v.reg]) {  // written at a time that is unknown here: never shares
      v.first = 0;
      v.last = static_cast<int>(f.code.size()) - 1;
    }
  }
  std::erase_if(intervals, [&](const Interval& v) {
    return v.last < 0 || f.registers[v.reg].type == ptx::Type::None;
  });
  std::sort(intervals.begin(), intervals.end(),
            [](const Interval& a, const Interval& b) { return a.first < b.first; });

  // A slot is free again after the last instruction of its register: operands of one instruction
  // never share.
  std::map<int, std::vector<int>> free_slots;
  std::multimap<int, int> active;  // last instruction -> register
  for (const Interval& v : intervals) {
    while (!active.empty() && active.begin()->first < v.first) {
      int done = active.begin()->second;
      free_slots[width_class(f.registers[done].type)].push_back(slots[done]);
      active.erase(active.begin());
    }
    int width = width_class(f.registers[v.reg].type);
    std::vector<int>& available = free_slots[width];
    if (available.empty()) {
      slots[v.reg] = used[width]++;
    } else {
      slots[v.reg] = available.back();
      available.pop_back();
    }
    active.emplace(v.last, v.reg);
  }
  for (int r = 0; r < n; r++) {  // never used: any slot will do
    if (slots[r] < 0 && f.registers[r].type != ptx::Type::None) {
      int width = width_class(f.registers[r].type);
      slots[r] = 0;
      used[width] = std::max(used[width], 1);
    }
  }
  return {slots, unset};
}

}  // namespace wbsim
