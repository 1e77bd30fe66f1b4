// wgmma_ops.cpp: wgmma, matrix products of four warps with operands in shared memory; setmaxnreg.
//
// A product is asynchronous: it takes effect at the wgmma.wait_group that covers its commit group,
// as late as the PTX ISA allows ("Asynchronous Warpgroup Level Matrix Instructions"). Until then
// its accumulators keep their old values, and writes to its operands in shared memory change the
// result. A product that is never waited for never happens. Operands in registers are captured when
// it is issued: PTX registers are virtual, and nvcc reuses them freely.

#include <algorithm>
#include <bit>
#include <deque>
#include <string>

#include "checks/checker.h"
#include "checks/finding.h"
#include "exec/control.h"
#include "exec/ops/matrix.h"
#include "exec/ops/wgmma_multiply.h"
#include "exec/ops/wgmma_operand.h"
#include "exec/shared_window.h"

namespace wbsim {

using ptx::Operand;
using ptx::Type;
using wgmma::Form;
using wgmma::ROWS;

namespace {

constexpr int WARPS = 4;  // of a warpgroup
constexpr int A_REGISTERS = 4;
constexpr int M = WARPS * ROWS;

// What an instruction specifies in addition to its operands; precedes them in Inst::list.
struct Setup {
  Form form;
  bool a_in_registers = false;
  bool a_columns = false, b_columns = false;  // MN-major
  bool sparse = false;                        // A
  uint8_t selector = 0;                       // of the lanes that hold metadata

  int steps() const { return sparse ? 2 : 1; }  // per panel, along k of B
};
constexpr size_t SETUP_WORDS = (sizeof(Setup) + 3) / 4;

Setup setup_of(const Inst* in) {
  Setup setup;
  std::memcpy(static_cast<void*>(&setup), in->list, sizeof setup);
  return setup;
}

struct Pending {
  const Inst* in;
  uint64_t group;  // in the order of the warp's commits
  bool accumulate;
  uint64_t a_descriptor, b_descriptor;
  wgmma::Panel a;  // once it has been read; A in registers is read at once
  std::vector<wgmma::Panel> b;
  uint32_t metadata[LANES];  // if A is sparse
};

}  // namespace

struct ProductQueue {
  std::vector<Pending> pending;  // oldest first
  uint64_t commits = 0;
  uint64_t issued = 0;  // products so far
  // For the race check: when the products were issued that a warp of the warpgroup may still wait
  // for, and how many came before them.
  std::deque<Time> times;
  uint64_t forgotten = 0;
  uint64_t waited = 0;  // products that this warp has waited for
};

namespace {

ProductQueue& queue_of(Warp& w) {
  if (!w.products) {
    w.products = std::make_shared<ProductQueue>();
  }
  return *w.products;
}

// ---- Operands -----------------------------------------------------------------------------------

SharedOperand operand_a(const Pending& p, const Setup& setup) {
  return {'A', p.a_descriptor, setup.a_columns, M / 8, 2};
}
SharedOperand operand_b(const Pending& p, const Setup& setup) {
  return {'B', p.b_descriptor, setup.b_columns, setup.form.columns / 8u,
          2 * static_cast<uint32_t>(setup.steps())};
}

using Quad = uint32_t __attribute__((vector_size(UNIT_BYTES)));
using Halves = uint16_t __attribute__((vector_size(UNIT_BYTES)));

// What a panel is made of. K-major, unit[h][row] is half h of a row; MN-major, unit[i][k] is
// element k of the rows 8 i to 8 i + 7.
struct Units {
  Quad unit[2][wgmma::PANEL];
};

void fill_panel(wgmma::Panel& panel, const Units& units) {
  for (int half = 0; half < 2; half++) {
    for (int at = 0; at < wgmma::PANEL; at += 4) {
      Quad in[4];
      for (int i = 0; i < 4; i++) {
        in[i] = units.unit[half][wgmma::panel_row(at + i)];
      }
      Quad low01 = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
      Quad low23 = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
      Quad high01 = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
      Quad high23 = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
      const Quad across[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                              __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                              __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                              __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
      for (int i = 0; i < 4; i++) {
        std::memcpy(&panel.words[4 * half + i][at], &across[i], UNIT_BYTES);
      }
    }
  }
}

// The same for an MN-major matrix, of 16-bit elements.
void fill_panel_from_columns(wgmma::Panel& panel, const Units& units) {
  for (int word = 0; word < wgmma::WORDS; word++) {
    for (int i = 0; i < 2; i++) {
      Halves lower = Halves(units.unit[i][2 * word]), upper = Halves(units.unit[i][2 * word + 1]);
      Quad first = Quad(__builtin_shufflevector(lower, upper, 0, 8, 1, 9, 2, 10, 3, 11));
      Quad last = Quad(__builtin_shufflevector(lower, upper, 4, 12, 5, 13, 6, 14, 7, 15));
      Quad even = __builtin_shufflevector(first, last, 0, 2, 4, 6);
      Quad odd = __builtin_shufflevector(first, last, 1, 3, 5, 7);
      std::memcpy(&panel.words[word][8 * i], &even, UNIT_BYTES);
      std::memcpy(&panel.words[word][8 * i + 4], &odd, UNIT_BYTES);
    }
  }
}

// A register holds one word of a row per lane: those of half a row are side by side.
void fill_from_registers(wgmma::Panel& panel, Warp& w, const uint32_t* slots) {
  Units units;
  for (int r = 0; r < A_REGISTERS; r++) {
    std::memcpy(&units.unit[r / 2][8 * (r % 2)], w.reg<uint32_t>(slots[r]), 8 * UNIT_BYTES);
  }
  fill_panel(panel, units);
}

[[noreturn]] void outside(const Warp& w, const Inst* in, const SharedOperand& operand,
                          uint32_t address) {
  uint32_t first = SHARED_BASE, last = SHARED_BASE + w.block->shared_bytes;
  std::string where = address < first
                          ? std::to_string(first - address) + " bytes before the start"
                          : std::to_string(address + UNIT_BYTES - last) + " bytes past the end";
  Finding f = finding_at(w, in, 0, "memcheck",
                         std::string("the descriptor of matrix ") + operand.name +
                             " leads out of bounds: a read of 16 bytes ends " + where +
                             " of the block's shared memory (" +
                             std::to_string(w.block->shared_bytes) + " bytes)");
  f.address = address;
  f.hint =
      "check the descriptor's start address and its leading and stride byte offsets (LBO, SBO); "
      "all three are in units of 16 bytes\n  " +
      operand_hint(operand, *w.block);
  throw f;
}

// Rows of A, or columns of B, from the block's shared memory. The panel begins at 8 * block; the
// matrix has 8 or 16 of its 16 rows, and the missing ones repeat others. Of each, it takes the 32
// bytes from 32 * step on.
void fill_from_shared(wgmma::Panel& panel, const Warp& w, const Inst* in,
                      const SharedOperand& operand, uint32_t block, uint32_t step = 0) {
  const SharedMatrix& shared = operand.matrix;
  const bool columns = operand.columns;
  const uint32_t block_of[2] = {block, std::min(block + 1, operand.blocks - 1)};
  uint32_t addresses[2][wgmma::PANEL];
  for (uint32_t i = 0; i < 2; i++) {
    for (uint32_t j = 0; j < wgmma::PANEL; j++) {
      addresses[i][j] = columns ? shared.column_unit(2 * step + j / 8, j % 8, block_of[i])
                                : shared.row_unit(block_of[j / 8], j % 8, 2 * step + i);
    }
  }
  Units units;
  const uint8_t* const first = w.block->shared;
  const uint64_t bytes = w.block->shared_bytes;
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < wgmma::PANEL; j++) {
      uint32_t offset = addresses[i][j] - SHARED_BASE;
      if (uint64_t{offset} + UNIT_BYTES > bytes) [[unlikely]] {
        outside(w, in, operand, addresses[i][j]);
      }
      std::memcpy(&units.unit[i][j], first + offset, UNIT_BYTES);
    }
  }
  (columns ? fill_panel_from_columns : fill_panel)(panel, units);
}

// The product has read its operands in shared memory; later writes no longer affect it.
void read_operands(Warp& w, Pending& p) {
  if (!p.b.empty()) {
    return;
  }
  const Setup setup = setup_of(p.in);
  constexpr int BLOCKS = wgmma::PANEL / 8;
  if (!setup.a_in_registers) {
    fill_from_shared(p.a, w, p.in, operand_a(p, setup), w.index % WARPS * BLOCKS);
  }
  const SharedOperand b = operand_b(p, setup);
  p.b.reserve((b.blocks + BLOCKS - 1) / BLOCKS * setup.steps());
  for (uint32_t block = 0; block < b.blocks; block += BLOCKS) {
    for (int step = 0; step < setup.steps(); step++) {
      fill_from_shared(p.b.emplace_back(), w, p.in, b, block, step);
    }
  }
}

void take_effect(Warp& w, Pending& p) {
  read_operands(w, p);
  Setup setup = setup_of(p.in);
  uint32_t* d[wgmma::MAX_COLUMNS / 2];
  for (int i = 0; i < p.in->count; i++) {
    d[i] = w.reg<uint32_t>(p.in->list[SETUP_WORDS + i]);
  }
  setup.form.accumulate = p.accumulate;
  Places places;
  if (setup.sparse) {
    constexpr int BLOCKS_K = wgmma::WORDS / BLOCK_WORDS;
    find_places(p.metadata, setup.form.a, BLOCKS_K, setup.selector, places);
  }
  wgmma::multiply(setup.form, p.a, p.b.data(), setup.sparse ? &places : nullptr, d);
}

// The oldest products take effect until only `left` remain.
void complete_until(Warp& w, ProductQueue& queue, size_t left) {
  const size_t done = queue.pending.size() - std::min(left, queue.pending.size());
  for (size_t i = 0; i < done; i++) {
    take_effect(w, queue.pending[i]);
  }
  queue.pending.erase(queue.pending.begin(), queue.pending.begin() + done);
}

// A column of B has 64 bytes if A is sparse. Their layout in rows that a swizzle makes 32 bytes
// wide is not documented.
void check_width(const Warp& w, const Inst* in, const Setup& setup, uint64_t descriptor) {
  if (!setup.b_columns && SharedMatrix(descriptor).swizzle() == Swizzle::Bytes32) {
    throw finding_at(w, in, 0, "memcheck",
                     "the descriptor of matrix B swizzles rows of 32 bytes, but a column of B has "
                     "64 bytes along K if A is sparse");
  }
}

// A product begins. It reads its warp's rows of A, and B once for the whole warpgroup.
void tell_checker(Warp& w, Pending& p, const Setup& setup, uint64_t number) {
  Checker* checker = w.block->cluster->checker.get();
  if (!checker) {
    return;
  }
  HappensBefore& order = checker->order();
  const uint32_t* list = p.in->list + SETUP_WORDS;
  if (checker->races()) {
    checker->accumulators().product(
        order.warp_agent(w), w, p.in, {list, p.in->count},
        {list + p.in->count, setup.a_in_registers ? size_t{A_REGISTERS} : 0}, number);
  }
  const Issuer issuer{&w, p.in, 0};
  if (!setup.a_in_registers) {
    check_operand(*checker, issuer, operand_a(p, setup), w.index % WARPS * 2, 2);
  }
  if (w.index % WARPS == 0) {
    const SharedOperand b = operand_b(p, setup);
    check_operand(*checker, issuer, b, 0, b.blocks);
  }
  queue_of(w).times.push_back(order.now());
  order.advance();
}

void note_operands(const Warp& w, const Pending& p, const Setup& setup) {
  Worker& worker = *w.block->worker;
  if (w.index % WARPS == 0 && worker.launch->observed()) {
    const auto pc = static_cast<uint32_t>(p.in - w.block->kernel->code.data());
    if (!setup.a_in_registers) {
      note_operand(worker.notes, pc, operand_a(p, setup), *w.block);
    }
    note_operand(worker.notes, pc, operand_b(p, setup), *w.block);
  }
}

// ---- Instructions -------------------------------------------------------------------------------

const Inst* mma_async(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    uint32_t threads = w.block->worker->launch->num_threads();
    int group = w.index / WARPS;
    if (threads < static_cast<uint32_t>((group + 1) * WARPS * LANES)) {
      throw finding_at(w, in, 0, "synccheck",
                       "a warpgroup of four warps executes this instruction together, but "
                       "warpgroup " +
                           std::to_string(group) + " of this block of " + std::to_string(threads) +
                           " threads is not complete");
    }
    ProductQueue& queue = queue_of(w);
    Setup setup = setup_of(in);
    Pending& p = queue.pending.emplace_back();
    p.in = in;
    p.group = queue.commits;
    p.accumulate = ((w.pred(in->c) & 1) != 0) != (in->flags != 0);
    p.b_descriptor = *w.reg<uint64_t>(in->b);
    if (setup.sparse) {
      check_width(w, in, setup, p.b_descriptor);
      std::memcpy(p.metadata, w.reg<uint32_t>(in->imm), sizeof p.metadata);
    }
    if (setup.a_in_registers) {
      fill_from_registers(p.a, w, in->list + SETUP_WORDS + in->count);
    } else {
      p.a_descriptor = *w.reg<uint64_t>(in->a);
    }
    queue.issued++;
    tell_checker(w, p, setup, queue.issued);
    note_operands(w, p, setup);
    notify(*w.block->cluster);
  });
}

const Inst* commit_group(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] { queue_of(w).commits++; });
}

// The warp knows that the first `wanted` products of its warpgroup have read their operands. How far
// the other warps have come since tells it nothing.
void learn_products(Warp& w, Warp* first, uint64_t wanted, HappensBefore& order) {
  std::pair<uint32_t, Time> complete[WARPS];
  uint64_t waited = wanted;  // by all of them
  queue_of(w).waited = wanted;
  for (int i = 0; i < WARPS; i++) {
    const ProductQueue& queue = queue_of(first[i]);
    complete[i] = {order.product_agent(first[i]), queue.times[wanted - 1 - queue.forgotten]};
    waited = std::min(waited, queue.waited);
  }
  order.learn(w, ALL_LANES, complete);
  for (int i = 0; i < WARPS; i++) {
    ProductQueue& queue = queue_of(first[i]);
    for (; queue.forgotten + 1 < waited; queue.forgotten++) {
      queue.times.pop_front();
    }
  }
}

// Waits until at most imm groups are pending. A product belongs to the whole warpgroup: when it is
// complete for one warp, all four have begun it, and it has read the operands of all of them.
const Inst* wait_group(Warp& w, const Inst* in, Mask m) {
  ProductQueue& own = queue_of(w);
  const uint64_t groups = std::min(static_cast<uint64_t>(in->imm), own.commits);
  size_t left = 0;
  for (const Pending& p : own.pending) {
    left += p.group >= own.commits - groups;
  }
  const uint64_t wanted = own.issued - left;  // products that are complete then
  Warp* const first = &w.block->warps[w.index / WARPS * WARPS];
  for (Warp* other = first; wanted && other < first + WARPS; other++) {
    if (queue_of(*other).issued < wanted) {
      return wait_here(w, in, m, false);
    }
  }
  return with_whole_warp(w, in, m, [&] {
    for (Warp* other = first; wanted && other < first + WARPS; other++) {
      ProductQueue& queue = queue_of(*other);
      for (size_t i = 0; i + (queue.issued - wanted) < queue.pending.size(); i++) {
        read_operands(*other, queue.pending[i]);
      }
    }
    complete_until(w, own, left);
    Checker* checker = w.block->cluster->checker.get();
    if (checker && wanted) {
      learn_products(w, first, wanted, checker->order());
      if (checker->races() && w.block->kernel->uses_products) {
        checker->accumulators().waited(checker->order().warp_agent(w), wanted);
      }
    }
  });
}

// Registers are always up to date; the race check knows what would be missing without it.
const Inst* register_fence(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    Checker* checker = w.block->cluster->checker.get();
    if (checker && checker->races() && w.block->kernel->uses_products) {
      checker->accumulators().fence(checker->order().warp_agent(w));
    }
  });
}

// ---- Decoding -----------------------------------------------------------------------------------

// The valid combinations of types and shapes (PTX ISA, "wgmma.mma_async").
bool exists(const Form& form, const Shape& shape, int held_k) {
  using enum Element;
  auto both = [&](Element x, Element y) {
    return (form.a == x || form.a == y) && (form.b == x || form.b == y);
  };
  const bool types = form.d == S32 ? both(S8, U8) || both(B1, B1)
                                   : (form.d == F32 && (both(BF16, BF16) || both(TF32, TF32))) ||
                                         ((form.d == F32 || form.d == F16) &&
                                          (both(F16, F16) || both(E4M3, E5M2)));
  // Integers have fewer shapes.
  const bool columns = form.d != S32 || shape.n % 16 == 0 || shape.n <= 24;
  return types && columns && shape.m == M && shape.n % 8 == 0 && shape.n >= 8 &&
         shape.n <= wgmma::MAX_COLUMNS && held_k * bits_of(form.a) == 32 * wgmma::WORDS;
}

// An immediate that can have only two values; true for the second.
bool either(const Operand& op, int64_t first, int64_t second) {
  int64_t value = static_cast<int64_t>(op.bits);
  if (op.kind != Operand::Integer || (value != first && value != second)) {
    throw Unsupported{};
  }
  return value == second;
}

void build_mma_async(Decode& d) {
  Setup setup;
  setup.sparse = d.take("sp");
  take_sync_aligned(d);
  const Shape shape = take_shape(d);
  Form& form = setup.form;
  form.d = take_element(d);
  form.a = take_element(d);
  form.b = take_element(d);
  const bool bits = form.a == Element::B1;
  if (!exists(form, shape, shape.k / setup.steps()) || (setup.sparse && bits)) {
    throw Unsupported{};
  }
  form.columns = static_cast<uint16_t>(shape.n);
  const bool integer = form.d == Element::S32;
  form.saturate = integer && !bits && d.take("satfinite");
  if (bits && (!d.take("and") || !d.take("popc"))) {
    throw Unsupported{};
  }

  // d, a, b, metadata and selector if A is sparse, scale-d, then for floating-point types the signs
  // of A and B, and for 16-bit types whether A and B are MN-major; A in registers is not.
  setup.a_in_registers = d.arg(1).kind == Operand::Vector;
  const size_t signs = integer ? 0 : 2;
  const size_t majors = bits_of(form.a) != 16 ? 0 : setup.a_in_registers ? 1 : 2;
  const size_t count = form.columns / 2u / (form.d == Element::F16 ? 2 : 1);
  const size_t scale = setup.sparse ? 5 : 3;
  if (d.num_args() != scale + 1 + signs + majors || d.arg(0).items.size() != count ||
      (setup.a_in_registers && d.arg(1).items.size() != A_REGISTERS)) {
    throw Unsupported{};
  }
  if (signs) {
    form.negate = either(d.arg(scale + 1), 1, -1) != either(d.arg(scale + 2), 1, -1);
  }
  if (majors) {
    setup.a_columns = majors == 2 && either(d.arg(scale + 3), 0, 1);
    setup.b_columns = either(d.arg(scale + 2 + majors), 0, 1);
  }
  if (setup.sparse) {
    const bool all_lanes = bits_of(form.a) == 8;  // hold metadata
    setup.selector = either(d.arg(4), 0, 1);
    if (all_lanes && setup.selector) {
      throw Unsupported{};
    }
    d.inst.imm = d.src(3, Type::B32);
  }

  std::vector<uint32_t> list(SETUP_WORDS);
  std::memcpy(list.data(), &setup, sizeof setup);
  for (const Operand& item : d.arg(0).items) {
    list.push_back(d.dst(item, Type::B32));
  }
  for (const Operand& item : d.arg(1).items) {
    list.push_back(d.src(item, Type::B32));
  }
  d.inst.a = setup.a_in_registers ? 0 : d.src(1, Type::B64);
  d.inst.b = d.src(2, Type::B64);
  d.inst.c = d.pred(d.arg(scale));
  d.inst.flags = d.arg(scale).negated;
  d.inst.list = d.list(list);
  d.inst.count = static_cast<uint16_t>(count);
  d.info.flops = static_cast<uint32_t>(2 * M * shape.n * shape.k / (WARPS * LANES));
  d.inst.run = mma_async;
}

void build_wgmma(Decode& d) {
  if (d.take("mma_async")) {
    build_mma_async(d);
    return;
  }
  take_sync_aligned(d);
  if (d.take("wait_group")) {
    if (d.arg(0).kind != Operand::Integer) {
      throw Unsupported{};
    }
    d.inst.imm = static_cast<int64_t>(d.arg(0).bits);
    d.inst.run = wait_group;
  } else {
    d.inst.run = d.take("commit_group") ? commit_group
                 : d.take("fence")      ? register_fence
                                        : throw Unsupported{};
  }
}

// How many registers a thread may use makes no difference here but to the checks.
const Inst* set_registers(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    w.set_registers = in;
    w.num_set_registers++;
  });
}

void build_setmaxnreg(Decode& d) {
  take_sync_aligned(d);
  if ((!d.take("inc") && !d.take("dec")) || d.take_type() != Type::U32 ||
      d.arg(0).kind != Operand::Integer) {
    throw Unsupported{};
  }
  const uint64_t registers = d.arg(0).bits;
  if (registers < 24 || registers > 256 || registers % 8) {
    throw Unsupported{};
  }
  d.inst.imm = static_cast<int64_t>(registers);
  d.inst.run = set_registers;
}

constexpr Opcode OPCODES[] = {
    {"wgmma", build_wgmma, UnitRule::Tensor, First::Other, Flow::Other},
    {"setmaxnreg", build_setmaxnreg, UnitRule::Control, First::Other, Flow::Other},
};

}  // namespace

void check_set_registers(const Block& block) {
  constexpr int64_t OF_SM = 65536, LEAST = 24, MOST = 256;  // the latter of a thread
  const auto threads = static_cast<int64_t>(block.warps.size()) * LANES;
  const int64_t at_start = std::min(MOST, OF_SM / threads / 8 * 8);
  int64_t sum = 0;
  const Warp* largest = nullptr;
  std::string text;
  for (size_t i = 0; i < block.warps.size(); i++) {
    const Warp& w = block.warps[i];
    const Warp& first = block.warps[i / WARPS * WARPS];
    if (w.num_set_registers != first.num_set_registers) {
      const Warp& more = w.num_set_registers > first.num_set_registers ? w : first;
      const Warp& fewer = &more == &w ? first : w;
      Finding f =
          finding_at(more, more.set_registers, -1, "synccheck",
                     "warp " + std::to_string(more.index) + " executes setmaxnreg, and warp " +
                         std::to_string(fewer.index) + " of the same warpgroup does not");
      f.hint =
          "all four warps of a warpgroup execute it: move it before the branch that selects a warp";
      throw f;
    }
    const int64_t registers = w.set_registers ? w.set_registers->imm : LEAST;
    sum += registers * LANES;
    text += i % WARPS ? "" : (i ? " + " : "") + std::to_string(registers);
    if (w.set_registers && (!largest || registers > largest->set_registers->imm)) {
      largest = &w;
    }
  }
  if (largest && sum > at_start * threads) {
    const std::string most = std::to_string(at_start);
    Finding f = finding_at(
        *largest, largest->set_registers, -1, "synccheck",
        "setmaxnreg.inc waits forever: the warpgroups want " + text +
            " registers a thread, and a block of " + std::to_string(threads) + " threads has " +
            std::to_string(at_start * threads / (LANES * WARPS)) + " for their sum");
    f.hint = "it starts with at most " + most +
             " registers a thread, and what one warpgroup gets "
             "another gives up (setmaxnreg.dec): ask for fewer";
    throw f;
  }
}

void complete_products(Warp& w) {
  if (w.products) {
    complete_until(w, *w.products, 0);
  }
}

std::span<const Opcode> wgmma_opcodes() { return OPCODES; }

}  // namespace wbsim
