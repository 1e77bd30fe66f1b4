// convert_narrow_ops.cpp: cvt to and from f16, bf16, tf32, fp8 and packed pairs of them (PTX
// ISA, cvt, cvt.pack).

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> convert_narrow_opcodes() { return {}; }

}  // namespace wbsim
