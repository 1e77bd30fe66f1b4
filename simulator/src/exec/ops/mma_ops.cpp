// mma_ops.cpp: mma.sync and mma.sp: matrix products of one warp, operands in registers (PTX ISA,
// "Multiply-and-Accumulate Instruction: mma" and ": mma.sp").

#include "exec/ops/matrix.h"

namespace wbsim {
namespace {

void build_mma(Decode& d) {
  Product p;
  p.sparse = d.take("sp") || d.take("sp::ordered_metadata");
  take_sync_aligned(d);
  const Shape shape = take_shape(d);
  p.a_row = take_row_major(d);
  p.b_row = take_row_major(d);
  p.d = take_element(d);
  p.a = take_element(d);
  p.b = take_element(d);
  p.c = take_element(d);
  p.quads = p.a == Element::F16 && shape.m == 8;
  if ((!p.a_row || p.b_row) && !p.quads) {
    throw Unsupported{};
  }
  take_arithmetic(d, p);
  if (p.sparse) {
    const ptx::Operand& selector = d.arg(5);
    if (selector.kind != ptx::Operand::Integer || selector.bits > 3) {
      throw Unsupported{};
    }
    p.metadata = d.src(4, ptx::Type::B32);
    p.selector = static_cast<uint8_t>(selector.bits);
  }
  build_product(d, p, shape);
}

constexpr Opcode OPCODES[] = {
    {"mma", build_mma, UnitRule::Tensor, First::Written, Flow::Other},
};

}  // namespace

std::span<const Opcode> mma_opcodes() { return OPCODES; }

}  // namespace wbsim
