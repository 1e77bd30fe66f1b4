// video_ops.cpp: scalar and SIMD video instructions (PTX ISA): vadd, vabsdiff4 and their like.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> video_opcodes() { return {}; }

}  // namespace wbsim
