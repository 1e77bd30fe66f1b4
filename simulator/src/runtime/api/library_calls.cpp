// library_calls.cpp: modules that a program loads itself, and entry points it requests by name.

#include <cstring>
#include <fstream>
#include <iterator>

#include "runtime/api/driver.h"
#include "runtime/api/library_calls.h"

using namespace wbsim;

namespace {

constexpr char ELF_MAGIC[] =
    "\x7f"
    "ELF";
constexpr char WRAPPER_MAGIC[] = "\xb1\x43\x62\x46";  // of what nvcc's host code registers

struct EntryPoint {
  const char* name;
  void* address;
};

const EntryPoint DRIVER_CALLS[] = {
#define CUDA_CALL(name) {#name, reinterpret_cast<void*>(wbsim_##name)},
#include "runtime/api/driver_calls.inc"
#undef CUDA_CALL
};

// As they were before CUDA 13, for callers that request an older version.
CUresult create_context_v2(CUcontext* out, unsigned flags, CUdevice device) {
  return wbsim_cuCtxCreate(out, nullptr, flags, device);
}
CUresult prefetch_v1(CUdeviceptr pointer, size_t bytes, CUdevice, CUstream stream) {
  return wbsim_cuMemPrefetchAsync(pointer, bytes, {}, 0, stream);
}
CUresult advise_v1(CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUdevice) {
  return wbsim_cuMemAdvise(pointer, bytes, advice, {});
}
const EntryPoint BEFORE_13[] = {
    {"cuCtxCreate", reinterpret_cast<void*>(create_context_v2)},
    {"cuMemPrefetchAsync", reinterpret_cast<void*>(prefetch_v1)},
    {"cuMemAdvise", reinterpret_cast<void*>(advise_v1)},
};

Binary& library_of(cudaLibrary_t handle) { return binary_of(handle); }

}  // namespace

namespace wbsim {

Binary& binary_of(const void* handle) {
  require(Runtime::get().modules.is_binary(handle), cudaErrorInvalidResourceHandle);
  return *static_cast<Binary*>(const_cast<void*>(handle));
}

// `bytes` is unknown for an image in memory.
static Binary* load(const void* image, size_t bytes) {
  require(image);
  auto starts_with = [&](const char (&magic)[5]) {  // magic numbers hold no zero; PTX ends with one
    return strnlen(static_cast<const char*>(image), std::min<size_t>(bytes, 4)) == 4 &&
           std::memcmp(image, magic, 4) == 0;
  };
  PtxImage found = starts_with(WRAPPER_MAGIC) ? read_wrapper(image) : read_image(image, bytes);
  if (found.ptx.find(".version") == std::string::npos) {
    Finding finding;
    finding.kind = "launch";
    finding.message = found.ptx.empty() ? found.problem : "the image is no PTX";
    throw ApiError{Runtime::get().errors.report(finding, starts_with(ELF_MAGIC)
                                                             ? cudaErrorNoKernelImageForDevice
                                                             : cudaErrorInvalidKernelImage)};
  }
  Binary* binary = Runtime::get().modules.add(std::move(found));
  try {
    Runtime::get().modules.module_of(*binary);
  } catch (...) {
    Runtime::get().unload(binary, false);
    throw;
  }
  return binary;
}

Binary* load_image(const void* image) { return load(image, SIZE_MAX); }

Binary* load_file(const char* path) {
  require(path);
  std::ifstream file(path, std::ios::binary);
  require(file.good(), cudaErrorFileNotFound);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  return load(text.data(), text.size());
}

void* driver_entry_point(const char* name, unsigned version) {
  if (version < 13000) {
    for (const EntryPoint& e : BEFORE_13) {
      if (std::strcmp(e.name, name) == 0) {
        return e.address;
      }
    }
  }
  for (const EntryPoint& e : DRIVER_CALLS) {
    if (std::strcmp(e.name, name) == 0) {
      return e.address;
    }
  }
  return nullptr;
}

}  // namespace wbsim

extern "C" {

cudaError_t wbsim_cudaLibraryLoadData(cudaLibrary_t* out, const void* image, cudaJitOption*, void**,
                                      unsigned, cudaLibraryOption*, void**, unsigned) {
  return call([&] {
    require(out);
    *out = reinterpret_cast<cudaLibrary_t>(load_image(image));
  });
}
cudaError_t wbsim_cudaLibraryLoadFromFile(cudaLibrary_t* out, const char* path, cudaJitOption*,
                                          void**, unsigned, cudaLibraryOption*, void**, unsigned) {
  return call([&] {
    require(out);
    *out = reinterpret_cast<cudaLibrary_t>(load_file(path));
  });
}
cudaError_t wbsim_cudaLibraryUnload(cudaLibrary_t library) {
  return call([&] { Runtime::get().unload(&library_of(library), false); });
}
cudaError_t wbsim_cudaLibraryGetKernel(cudaKernel_t* out, cudaLibrary_t library, const char* name) {
  return call([&] {
    require(out && name);
    Function* function = Runtime::get().modules.find_function(library_of(library), name);
    require(function != nullptr, cudaErrorSymbolNotFound);
    *out = reinterpret_cast<cudaKernel_t>(function);
  });
}
cudaError_t wbsim_cudaLibraryGetKernelCount(unsigned* out, cudaLibrary_t library) {
  return call([&] {
    require(out);
    *out = static_cast<unsigned>(Runtime::get().modules.functions_of(library_of(library)).size());
  });
}
cudaError_t wbsim_cudaLibraryEnumerateKernels(cudaKernel_t* out, unsigned count,
                                              cudaLibrary_t library) {
  return call([&] {
    require(out);
    auto all = Runtime::get().modules.functions_of(library_of(library));
    for (size_t i = 0; i < std::min<size_t>(count, all.size()); i++) {
      out[i] = reinterpret_cast<cudaKernel_t>(all[i]);
    }
  });
}
cudaError_t wbsim_cudaLibraryGetGlobal(void** out, size_t* bytes, cudaLibrary_t library,
                                       const char* name) {
  return call([&] {
    require(name && (out || bytes));
    auto* symbol = Runtime::get().modules.find_variable(library_of(library), name);
    require(symbol != nullptr, cudaErrorSymbolNotFound);
    if (out) {
      *out = symbol->address;
    }
    if (bytes) {
      *bytes = symbol->bytes;
    }
  });
}
cudaError_t wbsim_cudaLibraryGetManaged(void** out, size_t* bytes, cudaLibrary_t library,
                                        const char* name) {
  return wbsim_cudaLibraryGetGlobal(out, bytes, library, name);
}

// ---- Entry points by name -----------------------------------------------------------------------

cudaError_t wbsim_cudaGetDriverEntryPointByVersion(const char* name, void** out, unsigned version,
                                                   unsigned long long,
                                                   cudaDriverEntryPointQueryResult* status) {
  return call([&] {
    require(name && out);
    *out = driver_entry_point(name, version);
    if (status) {
      *status = *out ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    }
  });
}
cudaError_t wbsim_cudaGetDriverEntryPoint(const char* name, void** out, unsigned long long flags,
                                          cudaDriverEntryPointQueryResult* status) {
  return wbsim_cudaGetDriverEntryPointByVersion(name, out, CUDA_VERSION, flags, status);
}
CUresult wbsim_cuGetProcAddress(const char* name, void** out, int version, cuuint64_t,
                                CUdriverProcAddressQueryResult* status) {
  if (!name || !out || version > CUDA_VERSION) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *out = driver_entry_point(name, version);
  if (status) {
    *status = *out ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  }
  return CUDA_SUCCESS;
}

}  // extern "C"
