// wmma_ops.cpp: wmma.load, wmma.mma, wmma.store: matrix products of one warp with opaque fragments
// (PTX ISA, "Matrix multiply-accumulate operation using wmma instructions").
//
// The fragments are those of mma.sync, tile by tile, for every layout in memory. A fragment with
// more registers than that (f16 has eight for A and for B) repeats them, as hardware does: whatever
// a kernel does to each element of a fragment, it does to every copy.

#include <cstring>
#include <utility>

#include "checks/finding.h"
#include "exec/observe.h"
#include "exec/ops/access.h"
#include "exec/ops/matrix.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

constexpr int MAX_LINES = 32;

// A matrix X x Y as its fragment sees it: a word holds neighbours in y. A is m x k, B is n x k, C
// is m x n. Follows in Inst::list, then for every register what it holds.
struct Layout {
  Element type;
  bool lines_along_y;  // consecutive y are neighbours in memory; otherwise consecutive x
  bool has_stride;     // the operand Inst::b; otherwise lines are contiguous
  int x, y;
  int word_step;  // in y, from a lane to the next of its row
  int alignment;  // of every line in memory
  int registers;
};

struct Place {
  uint32_t slot;
  int x, y;  // of the first element of lane 0
};

// The register of an operand ('a', 'b', 'c' or 'd') that is `index` in its fragment.
Place place_of(char operand, const Layout& m, int index) {
  const int per_word = elements_per_word(m.type);
  if (operand == 'b') {
    int blocks_y = m.y / (BLOCK_WORDS * per_word);
    return {0, index / blocks_y * BLOCK_ROWS, index % blocks_y * BLOCK_WORDS * per_word};
  }
  const int blocks_x = m.x == BLOCK_ROWS ? 1 : 2;
  if (operand == 'a') {
    int blocks_y = m.y / (BLOCK_WORDS * per_word);
    int tile = index / (blocks_x * blocks_y), block = index % (blocks_x * blocks_y);
    return {0, tile * TILE_ROWS + block % blocks_x * BLOCK_ROWS,
            block / blocks_x * BLOCK_WORDS * per_word};
  }
  const int halves = 2 / per_word;  // registers for even and odd columns; one holds both in f16
  const int tile = index / (blocks_x * halves), tiles_y = m.y / 8;
  return {0, tile / tiles_y * TILE_ROWS + index / halves % blocks_x * BLOCK_ROWS,
          tile % tiles_y * 8 + index % halves};
}

struct Matrix {
  const Layout& layout;
  const Place* places;
  uint8_t* lines[MAX_LINES];
};

// Checks and finds the lines of the matrix in memory.
template <AddressKind KIND, bool WRITE>
Matrix find_lines(Warp& w, const Inst* in) {
  const Layout& layout = *reinterpret_cast<const Layout*>(in->list);
  Matrix matrix{layout, reinterpret_cast<const Place*>(&layout + 1), {}};
  const auto* address = w.reg<AddressOf<KIND>>(in->a);
  const uint32_t* stride = w.reg<uint32_t>(in->b);
  for (int lane = 1; lane < LANES; lane++) {
    if (address[lane] != address[0] || (layout.has_stride && stride[lane] != stride[0])) {
      throw finding_at(
          w, in, lane, "synccheck",
          "lane " + std::to_string(lane) +
              " has a different address or stride from lane 0; all lanes of a warp must "
              "give the same");
    }
  }
  const int bits = bits_of(layout.type);
  const int lines = layout.lines_along_y ? layout.x : layout.y;
  const int length = layout.lines_along_y ? layout.y : layout.x;
  const uint64_t step = uint64_t{layout.has_stride ? stride[0] : length} * bits / 8;
  for (int i = 0; i < lines; i++) {
    uint64_t at = address_of<KIND>(static_cast<AddressOf<KIND>>(address[0] + i * step), in);
    matrix.lines[i] =
        resolve_stretch<KIND, WRITE>(w, in, 0, at, length * bits / 8, layout.alignment);
  }
  return matrix;
}

// Calls f(register, memory, bytes, lane) for every piece of a word that is contiguous in memory;
// register: where its bytes are.
template <class F>
void for_pieces(const Matrix& matrix, Warp& w, F f) {
  const Layout& m = matrix.layout;
  const int word_bytes = word_bits(m.type) / 8, bits = bits_of(m.type);
  for (int r = 0; r < m.registers; r++) {
    const Place& place = matrix.places[r];
    uint8_t* word = w.reg<uint8_t>(place.slot);
    for (int lane = 0; lane < LANES; lane++, word += word_bytes) {
      int x = place.x + lane / BLOCK_WORDS, y = place.y + lane % BLOCK_WORDS * m.word_step;
      if (m.lines_along_y) {
        f(word, matrix.lines[x] + y * bits / 8, word_bytes, lane);
        continue;
      }
      const int bytes = bits / 8;
      for (int e = 0; e < word_bytes / bytes; e++) {
        f(word + e * bytes, matrix.lines[y + e] + x * bytes, bytes, lane);
      }
    }
  }
}

// Whether hardware can load A or B in shared memory as ldmatrix does, and nvcc lets it.
bool is_by_rows(const Matrix& matrix, const WarpAccess& access) {
  return access.kind == WarpAccess::Kind::Load && access.owner &&
         bits_of(matrix.layout.type) == 16 && matrix.layout.word_step > 1 &&
         matrix.layout.alignment % 16 == 0;
}

// Reports the rows of 16 bytes of its 8 x 8 matrices, four matrices at a time.
void tell_rows(const Matrix& matrix, Warp& w, const Inst* in, WarpAccess& access) {
  const Layout& m = matrix.layout;
  const int lines = m.lines_along_y ? m.x : m.y, length = m.lines_along_y ? m.y : m.x;
  int lane = 0;
  access.bytes = 16;
  for (int line = 0; line < lines; line += 8) {
    for (int begin = 0; begin < length; begin += 8) {
      for (int row = 0; row < 8; row++, lane++) {
        const uint8_t* at = matrix.lines[line + row] + 2 * begin;
        access.mask |= Mask{1} << lane;
        access.address[lane] = static_cast<uint64_t>(at - access.owner->shared);
      }
      if (lane == LANES) {
        observe_access(w, in, access);
        access.mask = 0;
        lane = 0;
      }
    }
  }
  if (access.mask) {
    observe_access(w, in, access);
  }
}

// Reports what the warp reads or writes: for each register, the lanes' pieces.
void tell(const Matrix& matrix, Warp& w, const Inst* in, WarpAccess::Kind kind) {
  const Launch& launch = *w.block->worker->launch;
  if (!launch.observed()) {
    return;
  }
  Block* owner = block_holding(*w.block, reinterpret_cast<uint64_t>(matrix.lines[0]));
  WarpAccess access;
  access.kind = kind;
  access.where = owner ? WarpAccess::Where::Shared : WarpAccess::Where::Global;
  access.owner = owner;
  if (is_by_rows(matrix, access)) {
    return tell_rows(matrix, w, in, access);
  }
  for_pieces(matrix, w, [&](const uint8_t*, const uint8_t* memory, int bytes, int lane) {
    if ((access.mask >> lane) & 1) {
      observe_access(w, in, access);
      access.mask = 0;
    }
    access.bytes = static_cast<uint32_t>(bytes);
    access.mask |= Mask{1} << lane;
    access.address[lane] = static_cast<uint64_t>(memory - (owner ? owner->shared : nullptr));
  });
  observe_access(w, in, access);
}

template <AddressKind KIND>
const Inst* load(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    const Matrix matrix = find_lines<KIND, false>(w, in);
    tell(matrix, w, in, WarpAccess::Kind::Load);
    for_pieces(matrix, w, [](uint8_t* word, const uint8_t* memory, int bytes, int) {
      std::memcpy(word, memory, static_cast<size_t>(bytes));
    });
  });
}

template <AddressKind KIND>
const Inst* store(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    const Matrix matrix = find_lines<KIND, true>(w, in);
    tell(matrix, w, in, WarpAccess::Kind::Store);
    for_pieces(matrix, w, [](const uint8_t* word, uint8_t* memory, int bytes, int) {
      std::memcpy(memory, word, static_cast<size_t>(bytes));
    });
  });
}

Handler pick(bool loads, AddressKind kind) {
  switch (kind) {
    case AddressKind::Generic:
      return loads ? load<AddressKind::Generic> : store<AddressKind::Generic>;
    case AddressKind::Shared32:
      return loads ? load<AddressKind::Shared32> : store<AddressKind::Shared32>;
    case AddressKind::Shared64:
      return loads ? load<AddressKind::Shared64> : store<AddressKind::Shared64>;
    default:
      throw Unsupported{};
  }
}

void build_access(Decode& d, bool loads) {
  const char operand = d.take("a") ? 'a' : d.take("b") ? 'b' : d.take("c") || d.take("d") ? 'c' : 0;
  take_sync_aligned(d);
  const bool row = take_row_major(d);
  const Shape shape = take_shape(d);
  const ptx::Space space = d.take("global")                            ? ptx::Space::Global
                           : d.take("shared") || d.take("shared::cta") ? ptx::Space::Shared
                                                                       : ptx::Space::Generic;
  Layout m;
  m.type = take_element(d);
  m.x = operand == 'b' ? shape.n : shape.m;
  m.y = operand == 'c' ? shape.n : shape.k;
  m.lines_along_y = row != (operand == 'b');
  const size_t address = loads ? 1 : 0, stride = 2;
  const std::vector<uint32_t> slots = fragment(d, loads ? 0 : 1, m.type, loads);
  const int per_word = elements_per_word(m.type);
  const size_t held = static_cast<size_t>(registers_of(m.type, m.x, m.y));
  if (!operand || !held || slots.size() % held != 0 || (m.x > MAX_LINES) ||
      (!m.lines_along_y && (m.y > MAX_LINES || bits_of(m.type) < 8))) {
    throw Unsupported{};
  }
  m.has_stride = d.num_args() > stride;
  m.word_step = operand == 'c' ? 2 : per_word;
  m.registers = static_cast<int>(slots.size());
  // PTX asks for the size of the fragment in bytes; nvcuda::wmma for a stride of 16 bytes.
  m.alignment = std::min(16, m.registers * word_bits(m.type) / 8);
  const AddressKind kind = memory_operand(d, d.arg(address), space);
  d.inst.b = m.has_stride ? d.src(stride, ptx::Type::U32) : d.constant(0, 4);

  std::vector<uint32_t> list((sizeof(Layout) + slots.size() * sizeof(Place)) / sizeof(uint32_t));
  std::memcpy(list.data(), &m, sizeof m);
  for (size_t i = 0; i < slots.size(); i++) {
    Place place = place_of(operand, m, static_cast<int>(i % held));
    place.slot = slots[i];
    std::memcpy(list.data() + (sizeof m + i * sizeof place) / sizeof(uint32_t), &place,
                sizeof place);
  }
  d.inst.list = d.list(list);
  d.inst.run = pick(loads, kind);
  d.info.kind = loads ? InstInfo::Load : InstInfo::Store;
  d.info.space = space;
  d.info.bytes = static_cast<uint16_t>(m.x * m.y * bits_of(m.type) / 8 / LANES);
  d.info.element =
      static_cast<uint16_t>((m.lines_along_y ? word_bits(m.type) : bits_of(m.type)) / 8);
}

void build_mma(Decode& d) {
  Product p;
  take_sync_aligned(d);
  take_row_major(d);
  take_row_major(d);
  const Shape shape = take_shape(d);
  p.d = take_element(d);
  p.c = take_element(d);
  p.b = take_element_if_any(d);
  if (p.b == Element::None) {
    p.a = p.b = Element::F16;  // not written
  } else {
    p.a = std::exchange(p.c, take_element(d));
  }
  take_arithmetic(d, p);
  build_product(d, p, shape);
}

void build_wmma(Decode& d) {
  if (d.take("mma")) {
    build_mma(d);
  } else if (d.take("load")) {
    build_access(d, true);
  } else if (d.take("store")) {
    build_access(d, false);
  } else {
    throw Unsupported{};
  }
}

constexpr Opcode OPCODES[] = {
    {"wmma", build_wmma, UnitRule::Tensor, First::Written, Flow::Other},
};

}  // namespace

std::span<const Opcode> wmma_opcodes() { return OPCODES; }

}  // namespace wbsim
