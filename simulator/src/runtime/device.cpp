#include "runtime/device.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace wbsim {
namespace {

// What a compute-capability 9.0 device returns; attributes that are 0 there are listed too, so that
// an attribute that is not listed does not exist.
const std::map<int, int> ATTRIBUTES = {
    {cudaDevAttrMaxThreadsPerBlock, Device::MAX_THREADS},
    {cudaDevAttrMaxBlockDimX, 1024},
    {cudaDevAttrMaxBlockDimY, 1024},
    {cudaDevAttrMaxBlockDimZ, 64},
    {cudaDevAttrMaxGridDimX, 0x7fffffff},
    {cudaDevAttrMaxGridDimY, 65535},
    {cudaDevAttrMaxGridDimZ, 65535},
    {cudaDevAttrMaxSharedMemoryPerBlock, Device::SHARED_UNASKED},
    {cudaDevAttrTotalConstantMemory, 65536},
    {cudaDevAttrWarpSize, LANES},
    {cudaDevAttrMaxPitch, 0x7fffffff},
    {cudaDevAttrMaxRegistersPerBlock, Device::REGISTERS},
    {cudaDevAttrClockRate, Device::CLOCK_KHZ},
    {cudaDevAttrTextureAlignment, 512},
    {cudaDevAttrGpuOverlap, 1},
    {cudaDevAttrMultiProcessorCount, Device::SMS},
    {cudaDevAttrKernelExecTimeout, 0},
    {cudaDevAttrIntegrated, 0},
    {cudaDevAttrCanMapHostMemory, 1},
    {cudaDevAttrComputeMode, cudaComputeModeDefault},
    {cudaDevAttrMaxTexture1DWidth, 131072},
    {cudaDevAttrMaxTexture2DWidth, 131072},
    {cudaDevAttrMaxTexture2DHeight, 65536},
    {cudaDevAttrMaxTexture3DWidth, 16384},
    {cudaDevAttrMaxTexture3DHeight, 16384},
    {cudaDevAttrMaxTexture3DDepth, 16384},
    {cudaDevAttrMaxTexture2DLayeredWidth, 32768},
    {cudaDevAttrMaxTexture2DLayeredHeight, 32768},
    {cudaDevAttrMaxTexture2DLayeredLayers, 2048},
    {cudaDevAttrSurfaceAlignment, 512},
    {cudaDevAttrConcurrentKernels, 1},
    {cudaDevAttrEccEnabled, 1},
    {cudaDevAttrPciBusId, 1},
    {cudaDevAttrPciDeviceId, 0},
    {cudaDevAttrTccDriver, 0},
    {cudaDevAttrMemoryClockRate, Device::MEMORY_CLOCK_KHZ},
    {cudaDevAttrGlobalMemoryBusWidth, Device::BUS_BITS},
    {cudaDevAttrL2CacheSize, Device::L2_BYTES},
    {cudaDevAttrMaxThreadsPerMultiProcessor, Device::THREADS_PER_SM},
    {cudaDevAttrAsyncEngineCount, 3},
    {cudaDevAttrUnifiedAddressing, 1},
    {cudaDevAttrMaxTexture1DLayeredWidth, 32768},
    {cudaDevAttrMaxTexture1DLayeredLayers, 2048},
    {cudaDevAttrMaxTexture2DGatherWidth, 32768},
    {cudaDevAttrMaxTexture2DGatherHeight, 32768},
    {cudaDevAttrMaxTexture3DWidthAlt, 8192},
    {cudaDevAttrMaxTexture3DHeightAlt, 8192},
    {cudaDevAttrMaxTexture3DDepthAlt, 32768},
    {cudaDevAttrPciDomainId, 0},
    {cudaDevAttrTexturePitchAlignment, 32},
    {cudaDevAttrMaxTextureCubemapWidth, 32768},
    {cudaDevAttrMaxTextureCubemapLayeredWidth, 32768},
    {cudaDevAttrMaxTextureCubemapLayeredLayers, 2046},
    {cudaDevAttrMaxSurface1DWidth, 32768},
    {cudaDevAttrMaxSurface2DWidth, 131072},
    {cudaDevAttrMaxSurface2DHeight, 65536},
    {cudaDevAttrMaxSurface3DWidth, 16384},
    {cudaDevAttrMaxSurface3DHeight, 16384},
    {cudaDevAttrMaxSurface3DDepth, 16384},
    {cudaDevAttrMaxSurface1DLayeredWidth, 32768},
    {cudaDevAttrMaxSurface1DLayeredLayers, 2048},
    {cudaDevAttrMaxSurface2DLayeredWidth, 32768},
    {cudaDevAttrMaxSurface2DLayeredHeight, 32768},
    {cudaDevAttrMaxSurface2DLayeredLayers, 2048},
    {cudaDevAttrMaxSurfaceCubemapWidth, 32768},
    {cudaDevAttrMaxSurfaceCubemapLayeredWidth, 32768},
    {cudaDevAttrMaxSurfaceCubemapLayeredLayers, 2046},
    {cudaDevAttrMaxTexture1DLinearWidth, 268435456},
    {cudaDevAttrMaxTexture2DLinearWidth, 131072},
    {cudaDevAttrMaxTexture2DLinearHeight, 65000},
    {cudaDevAttrMaxTexture2DLinearPitch, 2097120},
    {cudaDevAttrMaxTexture2DMipmappedWidth, 32768},
    {cudaDevAttrMaxTexture2DMipmappedHeight, 32768},
    {cudaDevAttrComputeCapabilityMajor, 9},
    {cudaDevAttrComputeCapabilityMinor, 0},
    {cudaDevAttrMaxTexture1DMipmappedWidth, 32768},
    {cudaDevAttrStreamPrioritiesSupported, 1},
    {cudaDevAttrGlobalL1CacheSupported, 1},
    {cudaDevAttrLocalL1CacheSupported, 1},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, Device::SHARED_PER_SM},
    {cudaDevAttrMaxRegistersPerMultiprocessor, Device::REGISTERS},
    {cudaDevAttrManagedMemory, 1},
    {cudaDevAttrIsMultiGpuBoard, 0},
    {cudaDevAttrMultiGpuBoardGroupID, 0},
    {cudaDevAttrHostNativeAtomicSupported, 0},
    {cudaDevAttrSingleToDoublePrecisionPerfRatio, 2},
    {cudaDevAttrPageableMemoryAccess, 0},
    {cudaDevAttrConcurrentManagedAccess, 1},
    {cudaDevAttrComputePreemptionSupported, 1},
    {cudaDevAttrCanUseHostPointerForRegisteredMem, 1},
    {cudaDevAttrCooperativeLaunch, 1},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, Device::SHARED_OPTIN},
    {cudaDevAttrCanFlushRemoteWrites, 0},
    {cudaDevAttrHostRegisterSupported, 1},
    {cudaDevAttrPageableMemoryAccessUsesHostPageTables, 0},
    {cudaDevAttrDirectManagedMemAccessFromHost, 0},
    {cudaDevAttrMaxBlocksPerMultiprocessor, Device::BLOCKS_PER_SM},
    {cudaDevAttrMaxPersistingL2CacheSize, Device::L2_BYTES / 8 * 5},
    {cudaDevAttrMaxAccessPolicyWindowSize, 128 << 20},
    {cudaDevAttrReservedSharedMemoryPerBlock, Device::SHARED_RESERVED},
    {cudaDevAttrSparseCudaArraySupported, 0},
    {cudaDevAttrHostRegisterReadOnlySupported, 1},
    {cudaDevAttrTimelineSemaphoreInteropSupported, 0},
    {cudaDevAttrMemoryPoolsSupported, 1},
    {cudaDevAttrGPUDirectRDMASupported, 0},
    {cudaDevAttrGPUDirectRDMAFlushWritesOptions, 0},
    {cudaDevAttrGPUDirectRDMAWritesOrdering, 0},
    {cudaDevAttrMemoryPoolSupportedHandleTypes, 0},
    {cudaDevAttrClusterLaunch, 1},
    {cudaDevAttrDeferredMappingCudaArraySupported, 0},
    {cudaDevAttrIpcEventSupport, 0},
    {cudaDevAttrMemSyncDomainCount, 4},
    {cudaDevAttrNumaConfig, 0},
    {cudaDevAttrNumaId, -1},
    {cudaDevAttrMpsEnabled, 0},
    {cudaDevAttrHostNumaId, 0},
    {cudaDevAttrGpuPciDeviceId, 0x233510de},
    {cudaDevAttrGpuPciSubsystemId, 0x18be10de},
    {cudaDevAttrHostNumaMemoryPoolsSupported, 0},
    {cudaDevAttrHostNumaMultinodeIpcSupported, 0},
    {cudaDevAttrHostMemoryPoolsSupported, 0},
    {cudaDevAttrOnlyPartialHostNativeAtomicSupported, 0},
    {cudaDevAttrD3D12CigSupported, 0},
    {cudaDevAttrVulkanCigSupported, 0},
    // The others have no name in the runtime, or a reserved one; names without their prefix
    // CU_DEVICE_ATTRIBUTE_.
    {44, 1},  // CAN_TEX2D_GATHER
    {92, 0},  // CAN_USE_STREAM_MEM_OPS_V1, and two more of the old stream memory operations
    {93, 0},
    {94, 0},
    {96, 0},   // COOPERATIVE_MULTI_DEVICE_LAUNCH: CUDA 13 has no such launch
    {102, 0},  // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    {103, 0},  // handle types of virtual memory: POSIX file descriptors,
    {104, 0},  // Windows handles,
    {105, 0},  // Windows KMT handles
    {107, 0},  // GENERIC_COMPRESSION_SUPPORTED
    {110, 0},  // GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
    {122, 1},  // CAN_USE_64_BIT_STREAM_MEM_OPS
    {123, 1},  // CAN_USE_STREAM_WAIT_VALUE_NOR
    {124, 0},  // DMA_BUF_SUPPORTED
    {127, 1},  // TENSOR_MAP_ACCESS_SUPPORTED
    {128, 0},  // HANDLE_TYPE_FABRIC_SUPPORTED
    {129, 1},  // UNIFIED_FUNCTION_POINTERS
    {132, 0},  // MULTICAST_SUPPORTED
    {136, 0},  // MEM_DECOMPRESS_ALGORITHM_MASK: the decompression engine came after Hopper
    {137, 0},  // MEM_DECOMPRESS_MAXIMUM_LENGTH
    {141, 0},  // HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    {145, 0},  // HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    {146, 0},  // HOST_ALLOC_DMA_BUF_SUPPORTED
};

int value(cudaDeviceAttr attribute) { return ATTRIBUTES.at(attribute); }

// Fills an array field of cudaDeviceProp.
template <size_t N>
void fill(int (&out)[N], std::initializer_list<cudaDeviceAttr> attributes) {
  std::transform(attributes.begin(), attributes.end(), out, value);
}

void fill_textures(cudaDeviceProp& p) {
  p.maxTexture1D = value(cudaDevAttrMaxTexture1DWidth);
  p.maxTexture1DMipmap = value(cudaDevAttrMaxTexture1DMipmappedWidth);
  fill(p.maxTexture2D, {cudaDevAttrMaxTexture2DWidth, cudaDevAttrMaxTexture2DHeight});
  fill(p.maxTexture2DMipmap,
       {cudaDevAttrMaxTexture2DMipmappedWidth, cudaDevAttrMaxTexture2DMipmappedHeight});
  fill(p.maxTexture2DLinear,
       {cudaDevAttrMaxTexture2DLinearWidth, cudaDevAttrMaxTexture2DLinearHeight,
        cudaDevAttrMaxTexture2DLinearPitch});
  fill(p.maxTexture2DGather,
       {cudaDevAttrMaxTexture2DGatherWidth, cudaDevAttrMaxTexture2DGatherHeight});
  fill(p.maxTexture3D,
       {cudaDevAttrMaxTexture3DWidth, cudaDevAttrMaxTexture3DHeight, cudaDevAttrMaxTexture3DDepth});
  fill(p.maxTexture3DAlt, {cudaDevAttrMaxTexture3DWidthAlt, cudaDevAttrMaxTexture3DHeightAlt,
                           cudaDevAttrMaxTexture3DDepthAlt});
  p.maxTextureCubemap = value(cudaDevAttrMaxTextureCubemapWidth);
  fill(p.maxTexture1DLayered,
       {cudaDevAttrMaxTexture1DLayeredWidth, cudaDevAttrMaxTexture1DLayeredLayers});
  fill(p.maxTexture2DLayered,
       {cudaDevAttrMaxTexture2DLayeredWidth, cudaDevAttrMaxTexture2DLayeredHeight,
        cudaDevAttrMaxTexture2DLayeredLayers});
  fill(p.maxTextureCubemapLayered,
       {cudaDevAttrMaxTextureCubemapLayeredWidth, cudaDevAttrMaxTextureCubemapLayeredLayers});
  p.maxSurface1D = value(cudaDevAttrMaxSurface1DWidth);
  fill(p.maxSurface2D, {cudaDevAttrMaxSurface2DWidth, cudaDevAttrMaxSurface2DHeight});
  fill(p.maxSurface3D,
       {cudaDevAttrMaxSurface3DWidth, cudaDevAttrMaxSurface3DHeight, cudaDevAttrMaxSurface3DDepth});
  fill(p.maxSurface1DLayered,
       {cudaDevAttrMaxSurface1DLayeredWidth, cudaDevAttrMaxSurface1DLayeredLayers});
  fill(p.maxSurface2DLayered,
       {cudaDevAttrMaxSurface2DLayeredWidth, cudaDevAttrMaxSurface2DLayeredHeight,
        cudaDevAttrMaxSurface2DLayeredLayers});
  p.maxSurfaceCubemap = value(cudaDevAttrMaxSurfaceCubemapWidth);
  fill(p.maxSurfaceCubemapLayered,
       {cudaDevAttrMaxSurfaceCubemapLayeredWidth, cudaDevAttrMaxSurfaceCubemapLayeredLayers});
}

}  // namespace

std::optional<int> device_attribute(int attribute) {
  auto found = ATTRIBUTES.find(attribute);
  return found == ATTRIBUTES.end() ? std::nullopt : std::optional(found->second);
}

cudaDeviceProp device_properties() {
  cudaDeviceProp p = {};
  std::strncpy(p.name, Device::NAME, sizeof p.name - 1);
  std::memcpy(p.uuid.bytes, "wbsim-h200-gpu-0", sizeof p.uuid.bytes);
  p.totalGlobalMem = Device::MEMORY;
  p.sharedMemPerBlock = Device::SHARED_UNASKED;
  p.regsPerBlock = p.regsPerMultiprocessor = Device::REGISTERS;
  p.warpSize = LANES;
  p.memPitch = value(cudaDevAttrMaxPitch);
  p.maxThreadsPerBlock = Device::MAX_THREADS;
  fill(p.maxThreadsDim,
       {cudaDevAttrMaxBlockDimX, cudaDevAttrMaxBlockDimY, cudaDevAttrMaxBlockDimZ});
  fill(p.maxGridSize, {cudaDevAttrMaxGridDimX, cudaDevAttrMaxGridDimY, cudaDevAttrMaxGridDimZ});
  p.totalConstMem = value(cudaDevAttrTotalConstantMemory);
  p.major = value(cudaDevAttrComputeCapabilityMajor);
  p.minor = value(cudaDevAttrComputeCapabilityMinor);
  p.textureAlignment = value(cudaDevAttrTextureAlignment);
  p.texturePitchAlignment = value(cudaDevAttrTexturePitchAlignment);
  p.surfaceAlignment = value(cudaDevAttrSurfaceAlignment);
  p.multiProcessorCount = Device::SMS;
  fill_textures(p);
  p.pciBusID = value(cudaDevAttrPciBusId);
  p.asyncEngineCount = value(cudaDevAttrAsyncEngineCount);
  p.memoryBusWidth = Device::BUS_BITS;
  p.l2CacheSize = Device::L2_BYTES;
  p.persistingL2CacheMaxSize = value(cudaDevAttrMaxPersistingL2CacheSize);
  p.maxThreadsPerMultiProcessor = Device::THREADS_PER_SM;
  p.sharedMemPerMultiprocessor = Device::SHARED_PER_SM;
  p.sharedMemPerBlockOptin = Device::SHARED_OPTIN;
  p.reservedSharedMemPerBlock = Device::SHARED_RESERVED;
  p.maxBlocksPerMultiProcessor = Device::BLOCKS_PER_SM;
  p.accessPolicyMaxWindowSize = value(cudaDevAttrMaxAccessPolicyWindowSize);
  p.deviceNumaId = value(cudaDevAttrNumaId);
  p.gpuPciDeviceID = value(cudaDevAttrGpuPciDeviceId);
  p.gpuPciSubsystemID = value(cudaDevAttrGpuPciSubsystemId);
  // Flags that are set; all others are not.
  for (int* yes : {&p.canMapHostMemory, &p.concurrentKernels, &p.ECCEnabled, &p.unifiedAddressing,
                   &p.streamPrioritiesSupported, &p.globalL1CacheSupported,
                   &p.localL1CacheSupported, &p.managedMemory, &p.concurrentManagedAccess,
                   &p.computePreemptionSupported, &p.canUseHostPointerForRegisteredMem,
                   &p.cooperativeLaunch, &p.hostRegisterSupported, &p.hostRegisterReadOnlySupported,
                   &p.memoryPoolsSupported, &p.clusterLaunch, &p.unifiedFunctionPointers}) {
    *yes = 1;
  }
  return p;
}

}  // namespace wbsim
