// cudart.cpp: the names of the CUDA runtime, forwarding to the one simulator of the process.
//
// The archive libwbcudart.a, made from this file and cuda.cpp, is linked into every extension and
// program in place of NVIDIA's libcudart and libcuda.

#include "cudart/forward.h"
#include "runtime/api/registration.h"

#include "runtime/api/runtime_calls.inc"

extern "C" {

// ---- What nvcc's host code calls implicitly -----------------------------------------------------

cudaError_t wbsim_cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** args,
                                   size_t shared_bytes, cudaStream_t stream);

void** __cudaRegisterFatBinary(void* fat_binary) { return wbsim_register_binary(fat_binary); }

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) { wbsim_unregister_binary(handle); }

char __cudaInitModule(void** handle) {
  wbsim_init_module(handle);
  return 1;
}

void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  wbsim_register_function(handle, host, name);
}

void __cudaRegisterVar(void** handle, char* host, char*, const char* name, int, size_t, int, int) {
  wbsim_register_variable(handle, host, name);
}

void __cudaRegisterManagedVar(void** handle, void** host, char*, const char* name, int, size_t, int,
                              int) {
  wbsim_register_managed(handle, host, name);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void* stream) {
  wbsim_push_configuration(grid, block, shared_bytes, stream);
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                       void* stream) {
  return wbsim_pop_configuration(grid, block, shared_bytes, stream);
}

// To nvcc's host code a kernel's handle is the address of its host stub: finding the kernel itself
// may fail, and is left to the launch.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                               size_t shared_bytes, cudaStream_t stream) {
  return wbsim_cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, args,
                                shared_bytes, stream);
}

// --default-stream per-thread
cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                                    size_t shared_bytes, cudaStream_t stream) {
  return __cudaLaunchKernel(kernel, grid, block, args, shared_bytes, stream);
}

}  // extern "C"
