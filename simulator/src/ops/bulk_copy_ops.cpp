// bulk_copy_ops.cpp: cp.async.bulk and its tensor, reduce and prefetch forms: copies of the TMA
// unit; st.async, red.async.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> bulk_copy_opcodes() { return {}; }

}  // namespace wbsim
