// arithmetic.h: add, sub, mul and their like exist for integers and for floating point.
// float_ops.cpp owns their table entries and hands integer types to these.
#pragma once

#include "decode/decoder.h"

namespace wbsim {

void build_integer_add(Decode& d, ptx::Type type);
void build_integer_sub(Decode& d, ptx::Type type);
void build_integer_mul(Decode& d, ptx::Type type);
void build_integer_div(Decode& d, ptx::Type type);
void build_integer_min(Decode& d, ptx::Type type);
void build_integer_max(Decode& d, ptx::Type type);
void build_integer_neg(Decode& d, ptx::Type type);
void build_integer_abs(Decode& d, ptx::Type type);
void build_add_cc(Decode& d);
void build_sub_cc(Decode& d);
void build_mad_cc(Decode& d);
void build_fma(Decode& d);

}  // namespace wbsim
