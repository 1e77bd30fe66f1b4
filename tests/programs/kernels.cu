// kernels.cu: device properties, occupancy, function attributes, launch attributes, limits, errors.
#include <cstring>

#include "check.h"

__global__ void plain(int* out) { out[blockIdx.x] = gridDim.x; }
__global__ void __launch_bounds__(256) bounded(int* out) { out[0] = 1; }
__global__ void static_shared(float* out) {
  __shared__ float a[8192];
  a[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = a[threadIdx.x ^ 1];
}
__global__ void dynamic_shared(int* out) {
  extern __shared__ int s[];
  s[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ void __cluster_dims__(2, 1, 1) clustered(int* out) { out[0] = 1; }
__global__ void __maxnreg__(128) many_registers(int* out) { out[0] = 1; }

void device() {
  int count, value;
  OK(cudaGetDeviceCount(&count));
  CHECK(count == 1);
  OK(cudaSetDevice(0));
  EXPECT(cudaErrorInvalidDevice, cudaSetDevice(1));
  cudaDeviceProp p;
  OK(cudaGetDeviceProperties(&p, 0));
  CHECK(std::strstr(p.name, "H200") && p.major == 9 && p.minor == 0);
  CHECK(p.multiProcessorCount == 132 && p.warpSize == 32 && p.regsPerBlock == 65536);
  CHECK(p.sharedMemPerBlockOptin == 227 * 1024 && p.sharedMemPerMultiprocessor == 228 * 1024);
  CHECK(p.cooperativeLaunch && p.clusterLaunch && p.unifiedAddressing && p.maxGridSize[1] == 65535);
  OK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0));
  CHECK(value == p.multiProcessorCount);
  OK(cudaDeviceGetAttribute(&value, cudaDevAttrClusterLaunch, 0));
  CHECK(value == 1);
  EXPECT(cudaErrorInvalidValue, cudaDeviceGetAttribute(&value, cudaDeviceAttr(100000), 0));
  size_t limit;
  OK(cudaDeviceSetLimit(cudaLimitStackSize, 4096));
  OK(cudaDeviceGetLimit(&limit, cudaLimitStackSize));
  CHECK(limit == 4096);
  OK(cudaDeviceGetLimit(&limit, cudaLimitPrintfFifoSize));
  OK(cudaDeviceGetLimit(&limit, cudaLimitMallocHeapSize));
  CHECK(limit == 8 << 20);
  EXPECT(cudaErrorUnsupportedLimit, cudaDeviceSetLimit(cudaLimit(99), 1));
  int version;
  OK(cudaRuntimeGetVersion(&version));
  CHECK(version == CUDART_VERSION);
  (void)cudaGetLastError();
}

void occupancy() {
  int blocks, grid, block;
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, plain, 256, 0));
  CHECK(blocks == 8);  // 2048 threads
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, plain, 32, 0));
  CHECK(blocks == 32);  // blocks
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, plain, 33, 0));
  CHECK(blocks == 32);
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, static_shared, 64, 0));
  CHECK(blocks == 6);  // (32 + 1) KB of 228
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, many_registers, 512, 0));
  CHECK(blocks == 1);  // 65536 registers
  OK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, plain, 0, 0));
  CHECK(block == 1024 && grid == 264);
  OK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, bounded, 0, 0));
  CHECK(block == 256);
  size_t bytes;
  OK(cudaOccupancyAvailableDynamicSMemPerBlock(&bytes, plain, 32, 64));
  CHECK(bytes == 228 * 1024 / 32 / 128 * 128 - 1024);
  OK(cudaFuncSetAttribute(dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024));
  OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, dynamic_shared, 128, 113 * 1024));
  CHECK(blocks == 2);
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {4, 1, 1};
  config.gridDim = dim3(64);
  config.blockDim = dim3(1024);
  config.dynamicSmemBytes = 200 * 1024;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters;
  OK(cudaOccupancyMaxActiveClusters(&clusters, dynamic_shared, &config));
  CHECK(clusters > 0 && clusters <= 33);
  OK(cudaOccupancyMaxPotentialClusterSize(&clusters, dynamic_shared, &config));
  CHECK(clusters == 8);
}

void attributes() {
  cudaFuncAttributes a;
  OK(cudaFuncGetAttributes(&a, static_shared));
  CHECK(a.sharedSizeBytes == 32768 && a.maxThreadsPerBlock == 1024);
  CHECK(a.maxDynamicSharedSizeBytes == 16384);
  OK(cudaFuncGetAttributes(&a, bounded));
  CHECK(a.maxThreadsPerBlock == 256);
  OK(cudaFuncGetAttributes(&a, clustered));
  CHECK(a.requiredClusterWidth == 2 && a.requiredClusterHeight == 1);
  OK(cudaFuncSetAttribute(plain, cudaFuncAttributePreferredSharedMemoryCarveout, 50));
  OK(cudaFuncSetCacheConfig(plain, cudaFuncCachePreferL1));
  EXPECT(cudaErrorInvalidValue,
         cudaFuncSetAttribute(plain, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * 1024));
  EXPECT(cudaErrorInvalidDeviceFunction, cudaFuncGetAttributes(&a, (void*)&device));
  const char* name;
  OK(cudaFuncGetName(&name, (void*)plain));
  CHECK(std::strstr(name, "plain"));
  size_t offset, bytes;
  OK(cudaFuncGetParamInfo((void*)plain, 0, &offset, &bytes));
  CHECK(offset == 0 && bytes == 8);
  (void)cudaGetLastError();
}

void launches() {
  int *out, h[1024];
  OK(cudaMalloc(&out, 4096));
  plain<<<7, 1>>>(out);
  OK(cudaGetLastError());
  OK(cudaMemcpy(h, out, 28, cudaMemcpyDeviceToHost));
  CHECK(h[6] == 7);
  // A bad shape is an error of its own launch only.
  plain<<<1, 1025>>>(out);
  EXPECT(cudaErrorInvalidConfiguration, cudaPeekAtLastError());
  EXPECT(cudaErrorInvalidConfiguration, cudaGetLastError());
  bounded<<<1, 512>>>(out);
  EXPECT(cudaErrorInvalidConfiguration, cudaGetLastError());
  dynamic_shared<<<1, 64, 228 * 1024>>>(out);
  EXPECT(cudaErrorInvalidConfiguration, cudaGetLastError());
  dynamic_shared<<<1, 64, 256>>>(out);
  OK(cudaDeviceSynchronize());
  void* args[] = {&out};
  OK(cudaLaunchKernel((void*)plain, dim3(2), dim3(1), args, 0, 0));
  OK(cudaLaunchCooperativeKernel((void*)plain, dim3(132), dim3(1024), args, 0, 0));
  EXPECT(cudaErrorCooperativeLaunchTooLarge,
         cudaLaunchCooperativeKernel((void*)plain, dim3(265), dim3(1024), args, 0, 0));
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute[2] = {};
  attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[0].val.programmaticStreamSerializationAllowed = 1;
  attribute[1].id = cudaLaunchAttributeClusterDimension;
  attribute[1].val.clusterDim = {4, 1, 1};
  config.gridDim = dim3(8);
  config.blockDim = dim3(32);
  config.attrs = attribute;
  config.numAttrs = 1;
  OK(cudaLaunchKernelEx(&config, plain, out));
  config.numAttrs = 2;
  config.gridDim = dim3(6);
  EXPECT(cudaErrorInvalidClusterSize, cudaLaunchKernelEx(&config, plain, out));
  attribute[1].val.clusterDim = {16, 1, 1};
  config.gridDim = dim3(16);
  EXPECT(cudaErrorInvalidClusterSize, cudaLaunchKernelEx(&config, plain, out));
  EXPECT(cudaErrorInvalidDeviceFunction,
         cudaLaunchKernel((void*)&device, dim3(1), dim3(1), args, 0, 0));
  (void)cudaGetLastError();
  CHECK(!std::strcmp(cudaGetErrorName(cudaErrorInvalidValue), "cudaErrorInvalidValue"));
  CHECK(!std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument"));
  CHECK(!std::strcmp(cudaGetErrorString(cudaError_t(12345)), "unrecognized error code"));
  OK(cudaFree(out));
}

int main() {
  device();
  occupancy();
  attributes();
  launches();
  std::printf("ok\n");
}
