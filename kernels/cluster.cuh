// cluster.cuh: launches of thread block clusters (sm_90), for any kernel.
#pragma once

#include "common.cuh"

// The most blocks a cluster may have on any GPU. A kernel has to allow more than 8.
constexpr int MAX_CLUSTER = 16;

// Allows the kernel all the dynamic shared memory that a block can have on this GPU and returns its
// size: all of it, not what one launch needs, as all threads of the process share that setting.
template <class Kernel>
int allow_all_shared_memory(Kernel kernel) {
  int device = 0, limit = 0;
  cudaFuncAttributes attributes;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  const int room = limit - static_cast<int>(attributes.sharedSizeBytes);
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, room));
  return room;
}

// Launches `clusters` clusters of `size` blocks; if `resident`, no more than can run at the same
// time. Returns false, and launches nothing, if this GPU has no room for such a cluster.
template <class... Params, class... Args>
bool launch_clusters(void (*kernel)(Params...), int64_t clusters, bool resident, int size,
                     int threads, int smem_bytes, cudaStream_t stream, const Args&... args) {
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute cluster = {.id = cudaLaunchAttributeClusterDimension};
  cluster.val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  cudaLaunchConfig_t config = {
      .gridDim = static_cast<unsigned>(size),
      .blockDim = static_cast<unsigned>(threads),
      .dynamicSmemBytes = static_cast<size_t>(smem_bytes),
      .stream = stream,
      .attrs = &cluster,
      .numAttrs = 1,
  };
  int active = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&active, kernel, &config);
  if (error == cudaErrorInvalidClusterSize) {
    cudaGetLastError();  // this GPU has no clusters of that size at all
    return false;
  }
  CUDA_CHECK(error);
  if (active == 0) return false;
  if (resident) clusters = min(int64_t{active}, clusters);
  config.gridDim.x *= static_cast<unsigned>(clusters);
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Params(args)...));
  return true;
}
