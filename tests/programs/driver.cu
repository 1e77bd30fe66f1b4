// nvcc: -lcuda
// driver.cu: the driver API, on PTX embedded in the program; tensor maps; the library calls.
#include <cuda.h>

#include <cstring>

#include "check.h"

#define CU(call) EXPECT(CUDA_SUCCESS, call)

const char PTX[] = R"(
.version 8.0
.target sm_90
.address_size 64
.global .align 4 .u32 bias = 100;
.visible .entry store(.param .u64 out, .param .u32 value)
{
  .reg .b32 %r<5>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [value];
  ld.global.u32 %r2, [bias];
  add.s32 %r3, %r1, %r2;
  mov.u32 %r4, %tid.x;
  mul.wide.u32 %rd2, %r4, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r3;
  ret;
}
)";

void contexts(CUdevice device) {
  CUcontext context, current;
  EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
  CUdeviceptr p;
  EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&p, 4));
  CU(cuDevicePrimaryCtxRetain(&context, device));
  CU(cuCtxSetCurrent(context));
  CU(cuCtxGetCurrent(&current));
  CHECK(current == context);
  CUdevice mine;
  CU(cuCtxGetDevice(&mine));
  CHECK(mine == device);
  EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSetCurrent(CUcontext(&p)));
  CUcontext second;
  CU(cuCtxCreate(&second, nullptr, 0, device));
  CU(cuCtxPopCurrent(&current));
  CHECK(current == second);
  CU(cuCtxDestroy(second));
  CU(cuCtxGetCurrent(&current));
  CHECK(current == context);
}

void memory() {
  CUdeviceptr a, b, first;
  size_t bytes;
  CU(cuMemAlloc(&a, 64));
  CU(cuMemAlloc(&b, 64));
  CU(cuMemsetD32(a, 7, 16));
  CU(cuMemsetD16(a, 9, 1));
  CU(cuMemcpyDtoD(b, a, 64));
  unsigned h[16];
  CU(cuMemcpyDtoH(h, b, 64));
  CHECK(h[0] == 9 && h[15] == 7);
  CU(cuMemcpyHtoDAsync(a, h + 8, 32, nullptr));
  EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(a, h, 65));
  EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(a + 2, 7, 1));
  CU(cuMemGetAddressRange(&first, &bytes, a + 20));
  CHECK(first == a && bytes == 64);
  CUDA_MEMCPY2D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = h;
  copy.srcPitch = 16;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = a;
  copy.dstPitch = 32;
  copy.WidthInBytes = 8;
  copy.Height = 2;
  h[4] = 77;
  CU(cuMemcpy2D(&copy));
  CU(cuMemcpyDtoH(h, a + 32, 4));
  CHECK(h[0] == 77);
  unsigned type;
  CU(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, a));
  CHECK(type == CU_MEMORYTYPE_DEVICE);
  CU(cuMemFree(a));
  CU(cuMemFree(b));
  EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree(b));
}

void modules() {
  CUmodule module;
  CUfunction store, none;
  CU(cuModuleLoadData(&module, PTX));
  CU(cuModuleGetFunction(&store, module, "store"));
  EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&none, module, "nothing"));
  EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&none, CUmodule(&store), "store"));
  EXPECT(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&module, "no image at all"));
  EXPECT(CUDA_ERROR_FILE_NOT_FOUND, cuModuleLoad(&module, "/nowhere.ptx"));
  CUdeviceptr bias, out;
  size_t bytes;
  CU(cuModuleGetGlobal(&bias, &bytes, module, "bias"));
  CHECK(bytes == 4);
  unsigned h[32], twenty = 20;
  CU(cuMemcpyHtoD(bias, &twenty, 4));
  CU(cuMemAlloc(&out, 128));
  int value = 3;
  void* args[] = {&out, &value};
  CUstream stream;
  CUevent event;
  CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CU(cuEventCreate(&event, 0));
  CU(cuLaunchKernel(store, 1, 1, 1, 32, 1, 1, 0, stream, args, nullptr));
  CU(cuEventRecord(event, stream));
  CU(cuEventSynchronize(event));
  CU(cuMemcpyDtoH(h, out, 128));
  CHECK(h[31] == 23);
  struct {
    CUdeviceptr out;
    int value;
  } buffer = {out, 4};
  size_t size = sizeof buffer;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                   CU_LAUNCH_PARAM_END};
  CU(cuLaunchKernel(store, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, extra));
  CUlaunchConfig config = {};
  config.gridDimX = config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = 16, config.blockDimY = config.blockDimZ = 1;
  value = 5;
  CU(cuLaunchKernelEx(&config, store, args, nullptr));
  CU(cuCtxSynchronize());
  CU(cuMemcpyDtoH(h, out, 128));
  CHECK(h[0] == 25 && h[31] == 24);
  EXPECT(CUDA_ERROR_INVALID_VALUE,
         cuLaunchKernel(store, 1, 1, 1, 2000, 1, 1, 0, nullptr, args, nullptr));
  EXPECT(CUDA_ERROR_INVALID_HANDLE,
         cuLaunchKernel(CUfunction(&out), 1, 1, 1, 1, 1, 1, 0, nullptr, args, nullptr));
  int threads, blocks, grid;
  CU(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, store));
  CHECK(threads == 1024);
  CU(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, store, 128, 0));
  CHECK(blocks == 16);
  CU(cuOccupancyMaxPotentialBlockSize(&grid, &threads, store, nullptr, 0, 0));
  CHECK(threads == 1024 && grid == 264);
  CU(cuModuleUnload(module));
  EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(module));
  CU(cuStreamDestroy(stream));
  EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));
  // The same through libraries.
  cudaLibrary_t library;
  cudaKernel_t kernel;
  OK(cudaLibraryLoadData(&library, PTX, nullptr, nullptr, 0, nullptr, nullptr, 0));
  OK(cudaLibraryGetKernel(&kernel, library, "store"));
  OK(cudaLaunchKernel((void*)kernel, dim3(1), dim3(32), args, 0, 0));
  CU(cuMemcpyDtoH(h, out, 128));
  CHECK(h[31] == 105);
  OK(cudaLibraryUnload(library));
  CU(cuMemFree(out));
}

void tensor_maps() {
  // The way CUTLASS looks it up.
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  OK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                      &found));
  CHECK(found == cudaDriverEntryPointSuccess && entry);
  auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  CUdeviceptr p;
  CU(cuMemAlloc(&p, 4096));
  CUtensorMap map;
  cuuint64_t sizes[] = {64, 32}, strides[] = {128};
  cuuint32_t box[] = {32, 8}, steps[] = {1, 1};
  auto tiled = [&](cuuint32_t rank, void* address, CUtensorMapSwizzle swizzle,
                   CUtensorMapInterleave interleave = CU_TENSOR_MAP_INTERLEAVE_NONE) {
    return encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, rank, address, sizes, strides, box, steps,
                  interleave, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  void* at = reinterpret_cast<void*>(p);
  CU(tiled(2, at, CU_TENSOR_MAP_SWIZZLE_64B));
  CU(cuTensorMapReplaceAddress(&map, static_cast<char*>(at) + 16));
  const CUresult bad = CUDA_ERROR_INVALID_VALUE;
  EXPECT(bad, cuTensorMapReplaceAddress(&map, static_cast<char*>(at) + 8));
  EXPECT(bad, tiled(2, at, CU_TENSOR_MAP_SWIZZLE_32B));  // 64 bytes do not fit
  EXPECT(bad, tiled(2, static_cast<char*>(at) + 4, CU_TENSOR_MAP_SWIZZLE_NONE));
  EXPECT(bad, tiled(0, at, CU_TENSOR_MAP_SWIZZLE_NONE));
  EXPECT(bad, tiled(6, at, CU_TENSOR_MAP_SWIZZLE_NONE));
  EXPECT(bad, tiled(2, at, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_INTERLEAVE_16B));
  strides[0] = 120;
  EXPECT(bad, tiled(2, at, CU_TENSOR_MAP_SWIZZLE_NONE));
  strides[0] = 128, box[0] = 4;
  EXPECT(bad, tiled(2, at, CU_TENSOR_MAP_SWIZZLE_NONE));  // 8 bytes
  box[0] = 264;
  EXPECT(bad, tiled(2, at, CU_TENSOR_MAP_SWIZZLE_NONE));
  box[0] = 32, steps[1] = 9;
  EXPECT(bad, tiled(2, at, CU_TENSOR_MAP_SWIZZLE_NONE));
  steps[1] = 1, sizes[1] = 0;
  EXPECT(bad, tiled(2, at, CU_TENSOR_MAP_SWIZZLE_NONE));
  cuuint64_t image[] = {8, 10, 10, 2}, image_strides[] = {16, 160, 1600};
  cuuint32_t ones[] = {1, 1, 1, 1};
  int lower[] = {-1, -1}, upper[] = {1, 1};
  auto im2col = [&](cuuint32_t channels) {
    return cuTensorMapEncodeIm2col(
        &map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, at, image, image_strides, lower, upper, channels,
        64, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
        CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  CU(im2col(8));
  EXPECT(bad, im2col(512));
  lower[0] = -200;
  EXPECT(bad, im2col(8));
  CU(cuMemFree(p));
}

int main() {
  CUdevice device;
  EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGet(&device, 0));
  CU(cuInit(0));
  int count, value;
  char name[100];
  CU(cuDeviceGetCount(&count));
  CU(cuDeviceGet(&device, 0));
  EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, 5));
  CU(cuDeviceGet(&device, 0));
  CU(cuDeviceGetName(name, sizeof name, device));
  CHECK(count == 1 && std::strstr(name, "H200"));
  CU(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
  CHECK(value == 9);
  contexts(device);
  memory();
  modules();
  tensor_maps();
  const char* text;
  CU(cuGetErrorName(CUDA_ERROR_INVALID_VALUE, &text));
  CHECK(!std::strcmp(text, "CUDA_ERROR_INVALID_VALUE"));
  CU(cuGetErrorString(CUDA_ERROR_INVALID_VALUE, &text));
  CHECK(!std::strcmp(text, "invalid argument"));
  EXPECT(CUDA_ERROR_INVALID_VALUE, cuGetErrorName(CUresult(12345), &text));
  void* entry;
  CUdriverProcAddressQueryResult found;
  CU(cuGetProcAddress("cuMemAlloc", &entry, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &found));
  CHECK(entry && found == CU_GET_PROC_ADDRESS_SUCCESS);
  CU(cuGetProcAddress("cuNothing", &entry, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &found));
  CHECK(!entry && found == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  std::printf("ok\n");
}
