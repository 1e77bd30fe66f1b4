// cuda.cpp: the names of the CUDA driver, forwarding to the one simulator of the process.

#include <cuda.h>

#include "cudart/forward.h"

#include "runtime/api/driver_calls.inc"
