// matrix_memory_ops.cpp: ldmatrix, stmatrix, movmatrix: 8x8 matrices of 16-bit elements between
// shared memory and the lanes of a warp (PTX ISA, "Warp-level matrix load instruction: ldmatrix").
//
// Lane 8 * i + r gives the address of row r of matrix i: 16 bytes. Register i of a warp is matrix
// i, row by row: lane l holds elements 2 * (l % 4) and the next of row l / 4.

#include <cstring>

#include "checks/finding.h"
#include "exec/ops/access.h"
#include "exec/ops/matrix.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

constexpr int ROWS = 8, ROW_BYTES = 16;

struct alignas(64) Matrix {
  uint16_t row[ROWS][ROWS];
};

Matrix transposed(const Matrix& from) {
  Matrix to;
  for (int r = 0; r < ROWS; r++) {
    for (int c = 0; c < ROWS; c++) {
      to.row[r][c] = from.row[c][r];
    }
  }
  return to;
}

// Where the rows of all matrices are.
template <AddressKind KIND, bool WRITE>
inline void resolve_rows(Access& at, Warp& w, const Inst* in) {
  const int rows = in->count * ROWS;
  if constexpr (KIND == AddressKind::Shared32) {
    // Mostly all rows are inside and aligned, whatever their order.
    const uint32_t* a = w.reg<uint32_t>(in->a);
    const uint32_t shift = static_cast<uint32_t>(in->imm) - SHARED_BASE;
    const uint32_t size = w.block->shared_bytes;
    uint32_t bad = size < ROW_BYTES;
    for (int l = 0; l < rows; l++) {
      uint32_t offset = a[l] + shift;
      bad |= offset % ROW_BYTES | static_cast<uint32_t>(offset > size - ROW_BYTES);
      at.lanes[l] = w.block->shared + offset;
    }
    at.scattered = true;
    if (!bad) [[likely]] {
      return;
    }
  }
  resolve_lanes<KIND, WRITE>(at, w, in, ALL_LANES >> (LANES - rows), ROW_BYTES);
  for (int l = 0; KIND == AddressKind::Generic && l < rows; l++) {
    if (static_cast<uint64_t>(at.lanes[l] - w.block->shared) >= w.block->shared_bytes) {
      throw finding_at(w, in, l, "memcheck",
                       "this instruction is for shared memory, but the address is not there");
    }
  }
}

template <AddressKind KIND, bool TRANSPOSE>
const Inst* load_matrices(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    Access at;
    resolve_rows<KIND, false>(at, w, in);
    for (int i = 0; i < in->count; i++) {
      Matrix matrix;
      for (int r = 0; r < ROWS; r++) {
        std::memcpy(matrix.row[r], at.lanes[i * ROWS + r], ROW_BYTES);
      }
      if (TRANSPOSE) {
        matrix = transposed(matrix);
      }
      std::memcpy(w.reg<uint32_t>(in->list[i]), &matrix, sizeof matrix);
    }
  });
}

template <AddressKind KIND, bool TRANSPOSE>
const Inst* store_matrices(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    Access at;
    resolve_rows<KIND, true>(at, w, in);
    for (int i = 0; i < in->count; i++) {
      Matrix matrix;
      std::memcpy(&matrix, w.reg<uint32_t>(in->list[i]), sizeof matrix);
      if (TRANSPOSE) {
        matrix = transposed(matrix);
      }
      for (int r = 0; r < ROWS; r++) {
        std::memcpy(at.lanes[i * ROWS + r], matrix.row[r], ROW_BYTES);
      }
    }
  });
}

const Inst* move_matrix(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] {
    Matrix matrix;
    std::memcpy(&matrix, w.reg<uint32_t>(in->a), sizeof matrix);
    matrix = transposed(matrix);
    std::memcpy(w.reg<uint32_t>(in->dst), &matrix, sizeof matrix);
  });
}

template <bool LOAD, bool TRANSPOSE>
Handler pick(AddressKind kind) {
  switch (kind) {
    case AddressKind::Generic:
      return LOAD ? load_matrices<AddressKind::Generic, TRANSPOSE>
                  : store_matrices<AddressKind::Generic, TRANSPOSE>;
    case AddressKind::Shared32:
      return LOAD ? load_matrices<AddressKind::Shared32, TRANSPOSE>
                  : store_matrices<AddressKind::Shared32, TRANSPOSE>;
    case AddressKind::Shared64:
      return LOAD ? load_matrices<AddressKind::Shared64, TRANSPOSE>
                  : store_matrices<AddressKind::Shared64, TRANSPOSE>;
    default:
      throw Unsupported{};
  }
}

template <bool LOAD>
void build_access(Decode& d) {
  take_sync_aligned(d);
  const int count = d.take("x1") ? 1 : d.take("x2") ? 2 : d.take("x4") ? 4 : throw Unsupported{};
  const bool transpose = d.take("trans");
  const bool shared = d.take("shared") || d.take("shared::cta");
  const std::vector<uint32_t> slots = fragment(d, LOAD ? 0 : 1, Element::F16, LOAD);
  if (!d.take("m8n8") || !d.take("b16") || slots.size() != static_cast<size_t>(count)) {
    throw Unsupported{};
  }
  const AddressKind kind =
      memory_operand(d, d.arg(LOAD ? 1 : 0), shared ? ptx::Space::Shared : ptx::Space::Generic);
  d.inst.list = d.list(slots);
  d.inst.count = static_cast<uint16_t>(count);
  d.inst.run = transpose ? pick<LOAD, true>(kind) : pick<LOAD, false>(kind);
  d.info.kind = LOAD ? InstInfo::Load : InstInfo::Store;
  d.info.space = ptx::Space::Shared;  // a generic address must be in shared memory too
  d.info.bytes = static_cast<uint16_t>(count * ROWS * ROW_BYTES / LANES);
  d.info.element = ROW_BYTES;
  d.info.observed = InstInfo::Rows;
  d.info.address = static_cast<uint8_t>(kind);
}

void build_movmatrix(Decode& d) {
  take_sync_aligned(d);
  if (!d.take("m8n8") || !d.take("trans") || !d.take("b16")) {
    throw Unsupported{};
  }
  d.inst.dst = d.dst(0, ptx::Type::B32);
  d.inst.a = d.src(1, ptx::Type::B32);
  d.inst.run = move_matrix;
}

constexpr Opcode OPCODES[] = {
    {"ldmatrix", build_access<true>, UnitRule::Memory, First::Written, Flow::Other},
    {"stmatrix", build_access<false>, UnitRule::Memory, First::Other, Flow::Other},
    {"movmatrix", build_movmatrix, UnitRule::Integer, First::Written, Flow::Other},
};

}  // namespace

std::span<const Opcode> matrix_memory_opcodes() { return OPCODES; }

}  // namespace wbsim
