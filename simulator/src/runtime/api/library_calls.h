// library_calls.h: modules loaded by a program, for the runtime's and the driver's calls.
#pragma once

#include "runtime/api/calls.h"

namespace wbsim {

Binary& binary_of(const void* handle);  // a cudaLibrary_t, CUlibrary or CUmodule
Binary* load_image(const void* image);  // PTX text, a fat binary or its wrapper
Binary* load_file(const char* path);
// A driver call by its name without _v2 and the like, as of a version of CUDA; or nullptr.
void* driver_entry_point(const char* name, unsigned version);

}  // namespace wbsim
