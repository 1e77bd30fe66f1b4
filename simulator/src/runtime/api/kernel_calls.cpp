// kernel_calls.cpp: launching kernels, their attributes, occupancy; and what nvcc's host code calls
// implicitly.

#include <algorithm>

#include "runtime/api/kernel_calls.h"
#include "runtime/api/registration.h"
#include "runtime/graph.h"
#include "runtime/occupancy.h"

using namespace wbsim;

namespace {

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;  // between <<<...>>> and the call after it

// Dynamic shared memory that a kernel asks for.
void require_shared(const Kernel& kernel, uint64_t bytes) {
  const uint64_t most = Device::SHARED_OPTIN - kernel.shared_bytes;
  if (bytes <= most) {
    return;
  }
  Finding finding;
  finding.kind = "launch";
  finding.message = "cudaFuncAttributeMaxDynamicSharedMemorySize of " + std::to_string(bytes) +
                    " bytes; this kernel takes at most " + std::to_string(most);
  finding.kernel = kernel.pretty;
  finding.hint = "a block has at most " + std::to_string(Device::SHARED_OPTIN) +
                 " bytes (227 KB) of shared memory, static and dynamic together";
  throw ApiError{Runtime::get().errors.report(finding, cudaErrorInvalidValue)};
}

Binary* binary_of(void** handle) { return reinterpret_cast<Binary*>(handle); }

}  // namespace

namespace wbsim {

void launch(const void* kernel, const LaunchShape& shape, void** args, cudaStream_t stream,
            int priority) {
  Function& function = function_of(kernel);
  submit(stream,
         KernelWork{&function, shape, Runtime::get().launches.pack(function, args), priority, {}});
}

std::vector<uint8_t> pack_extra(Function& function, void** extra) {
  const uint8_t* buffer = nullptr;
  size_t bytes = 0;
  for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
    require(extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER || extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE);
    if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) {
      buffer = static_cast<const uint8_t*>(extra[1]);
    } else {
      bytes = *static_cast<size_t*>(extra[1]);
    }
  }
  std::vector<uint8_t> params(Runtime::get().modules.kernel_of(function).param_bytes);
  require(bytes >= params.size() && (buffer || params.empty()));
  std::copy_n(buffer, params.size(), params.begin());
  return params;
}

LaunchShape shape_of(const cudaLaunchConfig_t& config) {
  require(config.attrs || config.numAttrs == 0);
  LaunchShape shape;
  shape.grid = config.gridDim;
  shape.block = config.blockDim;
  shape.shared_bytes = config.dynamicSmemBytes;
  for (unsigned i = 0; i < config.numAttrs; i++) {
    const cudaLaunchAttribute& a = config.attrs[i];
    switch (a.id) {
      case cudaLaunchAttributeCooperative:
        shape.cooperative = a.val.cooperative != 0;
        break;
      case cudaLaunchAttributeClusterDimension:
        shape.cluster = dim3(a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z);
        require(shape.cluster.x && shape.cluster.y && shape.cluster.z, cudaErrorInvalidClusterSize);
        break;
      case cudaLaunchAttributeProgrammaticEvent:
        record(*event_of(a.val.programmaticEvent.event));
        break;
      case cudaLaunchAttributeLaunchCompletionEvent:
        record(*event_of(a.val.launchCompletionEvent.event));
        break;
      case cudaLaunchAttributeDeviceUpdatableKernelNode:
        require(!a.val.deviceUpdatableKernelNode.deviceUpdatable, cudaErrorNotSupported);
        break;
      default:  // hints: launches run one after the other, in order
        require(a.id <= cudaLaunchAttributeNvlinkUtilCentricScheduling);
    }
  }
  return shape;
}

int function_attribute(Function& f, int attribute) {
  const Kernel& kernel = Runtime::get().modules.kernel_of(f);
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      return kernel.max_threads;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      return static_cast<int>(kernel.shared_bytes);
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      return static_cast<int>(kernel.local_bytes);
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
      return 0;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:  // known where the program fixes it; see occupancy.h
      return f.ptx->max_registers;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      return 90;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      return static_cast<int>(kernel.dynamic_shared_limit.value_or(
          Device::SHARED_UNASKED -
          std::min<uint64_t>(Device::SHARED_UNASKED, kernel.shared_bytes)));
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      return f.carveout;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
      return f.ptx->explicit_cluster && f.cluster[0] == 0;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
      return f.cluster[attribute - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH];
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      return f.non_portable_cluster;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      return f.scheduling_policy;
    default:
      throw ApiError{cudaErrorInvalidValue};
  }
}

void set_function_attribute(Function& f, int attribute, int value) {
  Kernel& kernel = Runtime::get().modules.kernel_of(f);
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      require(value >= 0);
      require_shared(kernel, value);
      kernel.dynamic_shared_limit = value;
      break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      require(value >= -1 && value <= 100);
      f.carveout = value;
      break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
      // What __cluster_dims__ fixed at compile time stays.
      require(f.ptx->required_cluster[0] == 0, cudaErrorNotPermitted);
      require(value >= 0);
      f.cluster[attribute - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH] = value;
      break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      f.non_portable_cluster = value != 0;
      break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      require(value >= cudaClusterSchedulingPolicyDefault &&
              value <= cudaClusterSchedulingPolicyLoadBalancing);
      f.scheduling_policy = value;
      break;
    default:
      throw ApiError{cudaErrorInvalidValue};
  }
}

}  // namespace wbsim

extern "C" {

// ---- Launches -----------------------------------------------------------------------------------

cudaError_t wbsim_cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** args,
                                   size_t shared_bytes, cudaStream_t stream) {
  return call([&] { launch(kernel, {grid, block, shared_bytes}, args, stream, 0); });
}
cudaError_t wbsim_cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block,
                                              void** args, size_t shared_bytes,
                                              cudaStream_t stream) {
  return call(
      [&] { launch(kernel, {grid, block, shared_bytes, {0, 0, 0}, true}, args, stream, 0); });
}
cudaError_t wbsim_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                      void** args) {
  return call([&] {
    require(config);
    launch(kernel, shape_of(*config), args, config->stream, 0);
  });
}

// ---- Attributes ---------------------------------------------------------------------------------

cudaError_t wbsim_cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return call([&] { set_function_attribute(function_of(kernel), attribute, value); });
}
cudaError_t wbsim_cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute attribute,
                                                  int value, int device) {
  return call([&] {
    require_device(device);
    set_function_attribute(function_of(kernel, cudaErrorInvalidResourceHandle), attribute, value);
  });
}
cudaError_t wbsim_cudaFuncGetAttributes(cudaFuncAttributes* out, const void* kernel) {
  return call([&] {
    require(out);
    Function& f = function_of(kernel);
    auto get = [&](int attribute) { return function_attribute(f, attribute); };
    *out = {};
    out->sharedSizeBytes = get(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    out->localSizeBytes = get(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
    out->maxThreadsPerBlock = get(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    out->numRegs = get(CU_FUNC_ATTRIBUTE_NUM_REGS);
    out->ptxVersion = get(CU_FUNC_ATTRIBUTE_PTX_VERSION);
    out->binaryVersion = get(CU_FUNC_ATTRIBUTE_BINARY_VERSION);
    out->maxDynamicSharedSizeBytes = get(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
    out->preferredShmemCarveout = get(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT);
    out->clusterDimMustBeSet = get(CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET);
    out->requiredClusterWidth = get(CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH);
    out->requiredClusterHeight = get(CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT);
    out->requiredClusterDepth = get(CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH);
    out->clusterSchedulingPolicyPreference =
        get(CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE);
    out->nonPortableClusterSizeAllowed = get(CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED);
  });
}
cudaError_t wbsim_cudaFuncSetCacheConfig(const void* kernel, cudaFuncCache) {
  return call([&] { function_of(kernel); });
}
cudaError_t wbsim_cudaFuncSetSharedMemConfig(const void* kernel, cudaSharedMemConfig) {
  return call([&] { function_of(kernel); });
}
cudaError_t wbsim_cudaFuncGetName(const char** out, const void* kernel) {
  return call([&] {
    require(out);
    *out = function_of(kernel).name.c_str();
  });
}
cudaError_t wbsim_cudaFuncGetParamInfo(const void* kernel, size_t index, size_t* offset,
                                       size_t* bytes) {
  return call([&] {
    const Kernel& k = Runtime::get().modules.kernel_of(function_of(kernel));
    require(offset && index < k.params.size());
    *offset = k.params[index].first;
    if (bytes) {
      *bytes = k.params[index].second;
    }
  });
}
cudaError_t wbsim_cudaGetKernel(cudaKernel_t* out, const void* host) {
  return call([&] {
    require(out);
    *out = reinterpret_cast<cudaKernel_t>(&function_of(host));
  });
}
cudaError_t wbsim_cudaGetFuncBySymbol(cudaFunction_t* out, const void* host) {
  return call([&] {
    require(out);
    *out = reinterpret_cast<cudaFunction_t>(&function_of(host));
  });
}

// ---- Occupancy ----------------------------------------------------------------------------------

cudaError_t wbsim_cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* out, const void* kernel, int threads, size_t shared_bytes, unsigned flags) {
  return call([&] {
    require(out && threads > 0 &&
            (flags == cudaOccupancyDefault || flags == cudaOccupancyDisableCachingOverride));
    Function& f = function_of(kernel);
    *out = blocks_per_sm(f, Runtime::get().modules.kernel_of(f), threads, shared_bytes);
  });
}
cudaError_t wbsim_cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* out, const void* kernel,
                                                                int threads, size_t shared_bytes) {
  return wbsim_cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
      out, kernel, threads, shared_bytes, cudaOccupancyDefault);
}
cudaError_t wbsim_cudaOccupancyAvailableDynamicSMemPerBlock(size_t* out, const void* kernel,
                                                            int blocks, int threads) {
  return call([&] {
    require(out);
    *out = shared_left(Runtime::get().modules.kernel_of(function_of(kernel)), blocks, threads);
  });
}
cudaError_t wbsim_cudaOccupancyMaxActiveClusters(int* out, const void* kernel,
                                                 const cudaLaunchConfig_t* config) {
  return call([&] {
    require(out && config);
    Function& f = function_of(kernel);
    LaunchShape shape = shape_of(*config);
    std::string problem;
    check(Runtime::get().launches.check_shape(f, shape, problem));
    int cluster = f.cluster[0] ? f.cluster[0] * f.cluster[1] * f.cluster[2] : 1;
    if (shape.cluster.x) {
      cluster = shape.cluster.x * shape.cluster.y * shape.cluster.z;
    }
    int threads = shape.block.x * shape.block.y * shape.block.z;
    *out = clusters_on_device(f, Runtime::get().modules.kernel_of(f), threads, shape.shared_bytes,
                              cluster);
  });
}
cudaError_t wbsim_cudaOccupancyMaxPotentialClusterSize(int* out, const void* kernel,
                                                       const cudaLaunchConfig_t* config) {
  return call([&] {
    require(out && config);
    Function& f = function_of(kernel);
    LaunchShape shape = shape_of(*config);
    int threads = shape.block.x * shape.block.y * shape.block.z;
    int most = f.non_portable_cluster ? Device::MAX_CLUSTER : Device::MAX_CLUSTER_PORTABLE;
    while (most > 0 && clusters_on_device(f, Runtime::get().modules.kernel_of(f), threads,
                                          shape.shared_bytes, most) == 0) {
      most--;
    }
    *out = most;
  });
}

// ---- Registration, called by nvcc's host code ---------------------------------------------------

void** wbsim_register_binary(void* fat_binary) {
  return reinterpret_cast<void**>(Runtime::get().modules.add(read_wrapper(fat_binary)));
}
void wbsim_unregister_binary(void** handle) { Runtime::get().unload(binary_of(handle), true); }
void wbsim_register_function(void** handle, const void* host, const char* name) {
  Runtime::get().modules.add_function(binary_of(handle), host, name);
}
void wbsim_register_variable(void** handle, const void* host, const char* name) {
  Runtime::get().modules.add_variable(binary_of(handle), host, name);
}
// A managed variable is read through a pointer, which host code asks to be set before main.
void wbsim_register_managed(void** handle, void** host, const char* name) {
  Runtime::get().modules.add_variable(binary_of(handle), host, name);
  binary_of(handle)->managed.emplace_back(host, name);
}
void wbsim_init_module(void** handle) {
  call([&] {
    for (auto& [host, name] : binary_of(handle)->managed) {
      *host = Runtime::get().modules.find_variable(*binary_of(handle), name)->address;
    }
  });
}
void wbsim_push_configuration(dim3 grid, dim3 block, size_t shared_bytes, void* stream) {
  configurations.push_back({grid, block, shared_bytes, static_cast<cudaStream_t>(stream)});
}
cudaError_t wbsim_pop_configuration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  return call([&] {
    require(!configurations.empty(), cudaErrorMissingConfiguration);
    Configuration c = configurations.back();
    configurations.pop_back();
    *grid = c.grid;
    *block = c.block;
    *shared_bytes = c.shared_bytes;
    *static_cast<cudaStream_t*>(stream) = c.stream;
  });
}

}  // extern "C"
