// reduction.h: what cp.reduce.async.bulk and red.async do to each element of the destination.
#pragma once

#include <cstddef>
#include <cstdint>

#include "decode/decoder.h"

namespace wbsim {

enum class Reduce : uint8_t { None, Add, Min, Max, Inc, Dec, And, Or, Xor };

// to[i] = op(to[i], from[i]), each element atomically, for bytes / sizeof(element) elements.
using ReduceElements = void (*)(uint8_t* to, const uint8_t* from, size_t bytes);

// nullptr: PTX has no such operation on this type.
ReduceElements reduction(Reduce op, ptx::Type type);

// Takes the modifier add, min, max, inc, dec, and, or, xor; None if there is none.
Reduce take_reduce(Decode& d);

}  // namespace wbsim
