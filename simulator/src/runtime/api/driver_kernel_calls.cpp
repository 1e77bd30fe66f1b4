// driver_kernel_calls.cpp: the driver's calls about modules, kernels, streams, events and graphs.

#include <algorithm>
#include <cstring>

#include "runtime/api/driver.h"
#include "runtime/api/kernel_calls.h"
#include "runtime/api/library_calls.h"
#include "runtime/graph.h"
#include "runtime/occupancy.h"

using namespace wbsim;

namespace {

Function& function_of_driver(const void* handle) {
  return function_of(handle, cudaErrorInvalidResourceHandle);
}

// CUlaunchConfig is cudaLaunchConfig_t with other names; attributes are the same.
cudaLaunchConfig_t runtime_config(const CUlaunchConfig& c) {
  static_assert(sizeof(CUlaunchAttribute) == sizeof(cudaLaunchAttribute));
  cudaLaunchConfig_t out = {};
  out.gridDim = dim3(c.gridDimX, c.gridDimY, c.gridDimZ);
  out.blockDim = dim3(c.blockDimX, c.blockDimY, c.blockDimZ);
  out.dynamicSmemBytes = c.sharedMemBytes;
  out.stream = c.hStream;
  out.attrs = reinterpret_cast<cudaLaunchAttribute*>(c.attrs);
  out.numAttrs = c.numAttrs;
  return out;
}

void launch_driver(CUfunction handle, const LaunchShape& shape, void** args, void** extra,
                   CUstream stream) {
  Function& function = function_of_driver(handle);
  require(!args || !extra);
  auto params = extra ? pack_extra(function, extra) : Runtime::get().launches.pack(function, args);
  submit(stream, KernelWork{&function, shape, std::move(params), 0, {}});
}

// Where errors of a call are about a handle or a name, the driver says so itself.
template <class Body>
CUresult module_call(Body body) {
  return in_context([&] { return call(body); });
}

}  // namespace

extern "C" {

// ---- Modules and libraries ----------------------------------------------------------------------

CUresult wbsim_cuModuleLoadData(CUmodule* out, const void* image) {
  return module_call([&] {
    require(out);
    *out = as<CUmodule>(load_image(image));
  });
}
CUresult wbsim_cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned, CUjit_option*,
                                  void**) {
  return wbsim_cuModuleLoadData(out, image);
}
CUresult wbsim_cuModuleLoadFatBinary(CUmodule* out, const void* image) {
  return wbsim_cuModuleLoadData(out, image);
}
CUresult wbsim_cuModuleLoad(CUmodule* out, const char* path) {
  return module_call([&] {
    require(out);
    *out = as<CUmodule>(load_file(path));
  });
}
CUresult wbsim_cuModuleUnload(CUmodule module) {
  return module_call([&] { Runtime::get().unload(&binary_of(module), false); });
}
CUresult wbsim_cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
  return module_call([&] {
    require(out && name);
    Function* function = Runtime::get().modules.find_function(binary_of(module), name);
    require(function != nullptr, cudaErrorSymbolNotFound);
    *out = as<CUfunction>(function);
  });
}
CUresult wbsim_cuModuleGetFunctionCount(unsigned* out, CUmodule module) {
  return module_call([&] {
    require(out);
    *out = static_cast<unsigned>(Runtime::get().modules.functions_of(binary_of(module)).size());
  });
}
CUresult wbsim_cuModuleEnumerateFunctions(CUfunction* out, unsigned count, CUmodule module) {
  return module_call([&] {
    require(out);
    auto all = Runtime::get().modules.functions_of(binary_of(module));
    for (size_t i = 0; i < std::min<size_t>(count, all.size()); i++) {
      out[i] = as<CUfunction>(all[i]);
    }
  });
}
CUresult wbsim_cuModuleGetGlobal(CUdeviceptr* out, size_t* bytes, CUmodule module,
                                 const char* name) {
  return module_call([&] {
    require(name);
    auto* symbol = Runtime::get().modules.find_variable(binary_of(module), name);
    require(symbol != nullptr, cudaErrorSymbolNotFound);
    if (out) {
      *out = as<CUdeviceptr>(symbol->address);
    }
    if (bytes) {
      *bytes = symbol->bytes;
    }
  });
}
CUresult wbsim_cuModuleGetLoadingMode(CUmoduleLoadingMode* out) {
  return driver([&] {
    return call([&] {
      require(out);
      *out = CU_MODULE_LAZY_LOADING;
    });
  });
}
CUresult wbsim_cuLibraryLoadData(CUlibrary* out, const void* image, CUjit_option*, void**, unsigned,
                                 CUlibraryOption*, void**, unsigned) {
  return driver([&] {
    return call([&] {
      require(out);
      *out = as<CUlibrary>(load_image(image));
    });
  });
}
CUresult wbsim_cuLibraryLoadFromFile(CUlibrary* out, const char* path, CUjit_option*, void**,
                                     unsigned, CUlibraryOption*, void**, unsigned) {
  return driver([&] {
    return call([&] {
      require(out);
      *out = as<CUlibrary>(load_file(path));
    });
  });
}
CUresult wbsim_cuLibraryUnload(CUlibrary library) {
  return driver([&] { return call([&] { Runtime::get().unload(&binary_of(library), false); }); });
}
CUresult wbsim_cuLibraryGetKernel(CUkernel* out, CUlibrary library, const char* name) {
  return driver([&] {
    return wbsim_cudaLibraryGetKernel(reinterpret_cast<cudaKernel_t*>(out),
                                      as<cudaLibrary_t>(library), name);
  });
}
CUresult wbsim_cuLibraryGetKernelCount(unsigned* out, CUlibrary library) {
  return driver([&] { return wbsim_cudaLibraryGetKernelCount(out, as<cudaLibrary_t>(library)); });
}
CUresult wbsim_cuLibraryEnumerateKernels(CUkernel* out, unsigned count, CUlibrary library) {
  return driver([&] {
    return wbsim_cudaLibraryEnumerateKernels(reinterpret_cast<cudaKernel_t*>(out), count,
                                             as<cudaLibrary_t>(library));
  });
}
CUresult wbsim_cuLibraryGetModule(CUmodule* out, CUlibrary library) {
  return module_call([&] {
    require(out);
    *out = as<CUmodule>(&binary_of(library));
  });
}
CUresult wbsim_cuLibraryGetGlobal(CUdeviceptr* out, size_t* bytes, CUlibrary library,
                                  const char* name) {
  return wbsim_cuModuleGetGlobal(out, bytes, as<CUmodule>(library), name);
}
CUresult wbsim_cuKernelGetFunction(CUfunction* out, CUkernel kernel) {
  return module_call([&] {
    require(out);
    *out = as<CUfunction>(&function_of_driver(kernel));
  });
}
CUresult wbsim_cuKernelGetLibrary(CUlibrary* out, CUkernel kernel) {
  return driver([&] {
    return call([&] {
      require(out);
      *out = as<CUlibrary>(function_of_driver(kernel).binary);
    });
  });
}

// ---- Kernels ------------------------------------------------------------------------------------

CUresult wbsim_cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz,
                              unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,
                              CUstream stream, void** args, void** extra) {
  return module_call([&] {
    launch_driver(function, {dim3(gx, gy, gz), dim3(bx, by, bz), shared_bytes}, args, extra,
                  stream);
  });
}
CUresult wbsim_cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz,
                                         unsigned bx, unsigned by, unsigned bz,
                                         unsigned shared_bytes, CUstream stream, void** args) {
  return module_call([&] {
    launch_driver(function, {dim3(gx, gy, gz), dim3(bx, by, bz), shared_bytes, {0, 0, 0}, true},
                  args, nullptr, stream);
  });
}
CUresult wbsim_cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** args,
                                void** extra) {
  return module_call([&] {
    require(config);
    launch_driver(function, shape_of(runtime_config(*config)), args, extra, config->hStream);
  });
}
CUresult wbsim_cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  return in_context([&] { return wbsim_cudaLaunchHostFunc(stream, function, data); });
}
CUresult wbsim_cuFuncGetAttribute(int* out, CUfunction_attribute attribute, CUfunction function) {
  return module_call([&] {
    require(out);
    *out = function_attribute(function_of_driver(function), attribute);
  });
}
CUresult wbsim_cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return module_call(
      [&] { set_function_attribute(function_of_driver(function), attribute, value); });
}
CUresult wbsim_cuKernelGetAttribute(int* out, CUfunction_attribute attribute, CUkernel kernel,
                                    CUdevice device) {
  return driver([&] {
    return call([&] {
      require(out);
      require_device(device);
      *out = function_attribute(function_of_driver(kernel), attribute);
    });
  });
}
CUresult wbsim_cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel,
                                    CUdevice device) {
  return driver([&] {
    return call([&] {
      require_device(device);
      set_function_attribute(function_of_driver(kernel), attribute, value);
    });
  });
}
CUresult wbsim_cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) {
  return module_call([&] { function_of_driver(function); });
}
CUresult wbsim_cuFuncGetModule(CUmodule* out, CUfunction function) {
  return module_call([&] {
    require(out);
    *out = as<CUmodule>(function_of_driver(function).binary);
  });
}
CUresult wbsim_cuFuncGetName(const char** out, CUfunction function) {
  return driver([&] {
    return call([&] {
      require(out);
      *out = function_of_driver(function).name.c_str();
    });
  });
}
CUresult wbsim_cuKernelGetName(const char** out, CUkernel kernel) {
  return wbsim_cuFuncGetName(out, as<CUfunction>(kernel));
}
CUresult wbsim_cuFuncGetParamInfo(CUfunction function, size_t index, size_t* offset,
                                  size_t* bytes) {
  return driver([&] { return wbsim_cudaFuncGetParamInfo(function, index, offset, bytes); });
}
CUresult wbsim_cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t* offset, size_t* bytes) {
  return driver([&] { return wbsim_cudaFuncGetParamInfo(kernel, index, offset, bytes); });
}
CUresult wbsim_cuFuncIsLoaded(CUfunctionLoadingState* out, CUfunction function) {
  return module_call([&] {
    require(out);
    *out = function_of_driver(function).kernel ? CU_FUNCTION_LOADING_STATE_LOADED
                                               : CU_FUNCTION_LOADING_STATE_UNLOADED;
  });
}
CUresult wbsim_cuFuncLoad(CUfunction function) {
  return module_call([&] { Runtime::get().modules.kernel_of(function_of_driver(function)); });
}

// ---- Occupancy ----------------------------------------------------------------------------------

CUresult wbsim_cuOccupancyMaxActiveBlocksPerMultiprocessor(int* out, CUfunction function,
                                                           int threads, size_t shared_bytes) {
  return in_context([&] {
    return wbsim_cudaOccupancyMaxActiveBlocksPerMultiprocessor(out, function, threads,
                                                               shared_bytes);
  });
}
CUresult wbsim_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* out, CUfunction function,
                                                                    int threads,
                                                                    size_t shared_bytes,
                                                                    unsigned flags) {
  return in_context([&] {
    return wbsim_cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, function, threads,
                                                                        shared_bytes, flags);
  });
}
// The block size that keeps the most threads resident; the largest of those that do.
CUresult wbsim_cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, CUfunction handle,
                                                         CUoccupancyB2DSize shared_of,
                                                         size_t shared_bytes, int limit, unsigned) {
  return module_call([&] {
    require(grid && block);
    Function& f = function_of_driver(handle);
    const Kernel& kernel = Runtime::get().modules.kernel_of(f);
    int most = limit > 0 ? std::min(limit, kernel.max_threads) : kernel.max_threads;
    int best = 0;
    for (int threads = (most + LANES - 1) / LANES * LANES; threads > 0; threads -= LANES) {
      int tried = std::min(threads, most);
      size_t shared = shared_of ? shared_of(tried) : shared_bytes;
      int blocks = blocks_per_sm(f, kernel, tried, shared);
      if (blocks * tried > best) {
        best = blocks * tried;
        *block = tried;
        *grid = blocks * Device::SMS;
      }
    }
    require(best > 0);
  });
}
CUresult wbsim_cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction function,
                                                CUoccupancyB2DSize shared_of, size_t shared_bytes,
                                                int limit) {
  return wbsim_cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, function, shared_of,
                                                         shared_bytes, limit, 0);
}
CUresult wbsim_cuOccupancyAvailableDynamicSMemPerBlock(size_t* out, CUfunction function, int blocks,
                                                       int threads) {
  return in_context([&] {
    return wbsim_cudaOccupancyAvailableDynamicSMemPerBlock(out, function, blocks, threads);
  });
}
CUresult wbsim_cuOccupancyMaxActiveClusters(int* out, CUfunction function,
                                            const CUlaunchConfig* config) {
  return in_context([&] {
    cudaLaunchConfig_t c = config ? runtime_config(*config) : cudaLaunchConfig_t{};
    return wbsim_cudaOccupancyMaxActiveClusters(out, function, config ? &c : nullptr);
  });
}
CUresult wbsim_cuOccupancyMaxPotentialClusterSize(int* out, CUfunction function,
                                                  const CUlaunchConfig* config) {
  return in_context([&] {
    cudaLaunchConfig_t c = config ? runtime_config(*config) : cudaLaunchConfig_t{};
    return wbsim_cudaOccupancyMaxPotentialClusterSize(out, function, config ? &c : nullptr);
  });
}

// ---- Streams, events, captured graphs -----------------------------------------------------------

CUresult wbsim_cuStreamCreate(CUstream* out, unsigned flags) {
  return in_context([&] { return wbsim_cudaStreamCreateWithFlags(out, flags); });
}
CUresult wbsim_cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority) {
  return in_context([&] { return wbsim_cudaStreamCreateWithPriority(out, flags, priority); });
}
CUresult wbsim_cuStreamDestroy(CUstream stream) {
  return in_context([&] { return wbsim_cudaStreamDestroy(stream); });
}
CUresult wbsim_cuStreamSynchronize(CUstream stream) {
  return in_context([&] { return wbsim_cudaStreamSynchronize(stream); });
}
CUresult wbsim_cuStreamQuery(CUstream stream) {
  return in_context([&] { return wbsim_cudaStreamQuery(stream); });
}
CUresult wbsim_cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  return in_context([&] { return wbsim_cudaStreamWaitEvent(stream, event, flags); });
}
CUresult wbsim_cuStreamGetPriority(CUstream stream, int* out) {
  return in_context([&] { return wbsim_cudaStreamGetPriority(stream, out); });
}
CUresult wbsim_cuStreamGetFlags(CUstream stream, unsigned* out) {
  return in_context([&] { return wbsim_cudaStreamGetFlags(stream, out); });
}
CUresult wbsim_cuStreamGetId(CUstream stream, unsigned long long* out) {
  return in_context([&] { return wbsim_cudaStreamGetId(stream, out); });
}
CUresult wbsim_cuStreamGetCtx(CUstream stream, CUcontext* out) {
  return module_call([&] {
    require(out);
    stream_of(stream);
    *out = current_context();
  });
}
CUresult wbsim_cuStreamAddCallback(CUstream stream, CUstreamCallback function, void* data,
                                   unsigned flags) {
  return in_context([&] {
    return wbsim_cudaStreamAddCallback(stream, reinterpret_cast<cudaStreamCallback_t>(function),
                                       data, flags);
  });
}
CUresult wbsim_cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  return in_context([&] {
    return wbsim_cudaStreamBeginCapture(stream, static_cast<cudaStreamCaptureMode>(mode));
  });
}
CUresult wbsim_cuStreamEndCapture(CUstream stream, CUgraph* out) {
  return in_context([&] { return wbsim_cudaStreamEndCapture(stream, out); });
}
CUresult wbsim_cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* out) {
  return in_context([&] {
    return wbsim_cudaStreamIsCapturing(stream, reinterpret_cast<cudaStreamCaptureStatus*>(out));
  });
}
CUresult wbsim_cuGraphInstantiate(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  return driver([&] { return wbsim_cudaGraphInstantiate(out, graph, flags); });
}
CUresult wbsim_cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  return driver([&] { return wbsim_cudaGraphLaunch(exec, stream); });
}
CUresult wbsim_cuGraphExecDestroy(CUgraphExec exec) {
  return driver([&] { return wbsim_cudaGraphExecDestroy(exec); });
}
CUresult wbsim_cuGraphDestroy(CUgraph graph) {
  return driver([&] { return wbsim_cudaGraphDestroy(graph); });
}
CUresult wbsim_cuEventCreate(CUevent* out, unsigned flags) {
  return in_context([&] { return wbsim_cudaEventCreateWithFlags(out, flags); });
}
CUresult wbsim_cuEventDestroy(CUevent event) {
  return in_context([&] { return wbsim_cudaEventDestroy(event); });
}
CUresult wbsim_cuEventRecord(CUevent event, CUstream stream) {
  return in_context([&] { return wbsim_cudaEventRecord(event, stream); });
}
CUresult wbsim_cuEventSynchronize(CUevent event) {
  return in_context([&] { return wbsim_cudaEventSynchronize(event); });
}
CUresult wbsim_cuEventQuery(CUevent event) {
  return in_context([&] { return wbsim_cudaEventQuery(event); });
}
CUresult wbsim_cuEventElapsedTime(float* out, CUevent start, CUevent end) {
  return in_context([&] { return wbsim_cudaEventElapsedTime(out, start, end); });
}
CUresult wbsim_cuProfilerStart() { return CUDA_SUCCESS; }
CUresult wbsim_cuProfilerStop() { return CUDA_SUCCESS; }

}  // extern "C"
