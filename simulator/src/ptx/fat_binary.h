// fat_binary.h: finds the PTX in what a program passes as a module.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace wbsim {

struct PtxImage {
  std::string ptx;
  std::string problem;  // why there is no PTX; empty if there is
};

// What __cudaRegisterFatBinary gets: a small struct that points at a fat binary.
PtxImage read_wrapper(const void* wrapper);

// What cuModuleLoadData gets: null-terminated PTX text, or a fat binary. Nothing beyond `bytes`
// bytes is read; without it, the image's own sizes are trusted, as the driver does.
PtxImage read_image(const void* image, size_t bytes = SIZE_MAX);

}  // namespace wbsim
