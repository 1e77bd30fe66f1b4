// units.h: which of a multiprocessor's units executes an instruction.
#pragma once

#include "decode/program.h"

namespace wbsim {

enum class Unit : uint8_t {
  None,  // moves, address conversions, parameters: mostly absent from machine code
  Fp32,
  Fp64,
  Fp16,
  Integer,
  SpecialFunction,
  Tensor,
  Memory,
  Control,
};

Unit unit_of(const InstInfo& info);

// Special functions that a lane computes with it: 2 of a packed type.
uint32_t special_functions_of(const InstInfo& info);

}  // namespace wbsim
