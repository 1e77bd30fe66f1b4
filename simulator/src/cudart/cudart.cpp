// cudart.cpp: the names of the CUDA runtime, forwarding to the one simulator of the process.
//
// This archive (libwbcudart.a) is linked into every extension in the place of NVIDIA's libcudart,
// so that both runtimes can live in one process.

#include <cuda_runtime_api.h>

#define CUDA_CALL(name, parameters, arguments)    \
  extern "C" cudaError_t wbsim_##name parameters; \
  extern "C" cudaError_t name parameters { return wbsim_##name arguments; }
#include "../cuda_api.inc"
#undef CUDA_CALL

extern "C" {

const char* wbsim_cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error) { return wbsim_cudaGetErrorString(error); }

const char* wbsim_cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error) { return wbsim_cudaGetErrorName(error); }

// ---- What nvcc's host code calls by itself ------------------------------------------------------

void** wbsim_register_binary(void* fat_binary);
void wbsim_unregister_binary(void** handle);
void wbsim_register_function(void** handle, const void* host, const char* name);
void wbsim_register_variable(void** handle, const void* host, const char* name);
void wbsim_push_configuration(dim3 grid, dim3 block, size_t shared_bytes, void* stream);
cudaError_t wbsim_pop_configuration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream);

void** __cudaRegisterFatBinary(void* fat_binary) { return wbsim_register_binary(fat_binary); }

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) { wbsim_unregister_binary(handle); }

char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  wbsim_register_function(handle, host, name);
}

void __cudaRegisterVar(void** handle, char* host, char*, const char* name, int, size_t, int, int) {
  wbsim_register_variable(handle, host, name);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void* stream) {
  wbsim_push_configuration(grid, block, shared_bytes, stream);
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                       void* stream) {
  return wbsim_pop_configuration(grid, block, shared_bytes, stream);
}

// A kernel's handle is the address of its host stub.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                               size_t shared_bytes, cudaStream_t stream) {
  return wbsim_cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, args,
                                shared_bytes, stream);
}

}  // extern "C"
