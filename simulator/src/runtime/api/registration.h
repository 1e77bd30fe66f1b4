// registration.h: what the host code that nvcc generates calls; also included by the archive that
// programs link (cudart/).
#pragma once

#include <cuda_runtime_api.h>

#include "wbsim.h"

extern "C" {

WBSIM_EXPORT void** wbsim_register_binary(void* fat_binary);
WBSIM_EXPORT void wbsim_unregister_binary(void** handle);
WBSIM_EXPORT void wbsim_register_function(void** handle, const void* host, const char* name);
WBSIM_EXPORT void wbsim_register_variable(void** handle, const void* host, const char* name);
WBSIM_EXPORT void wbsim_register_managed(void** handle, void** host, const char* name);
WBSIM_EXPORT void wbsim_init_module(void** handle);
WBSIM_EXPORT void wbsim_push_configuration(dim3 grid, dim3 block, size_t shared_bytes,
                                           void* stream);
WBSIM_EXPORT cudaError_t wbsim_pop_configuration(dim3* grid, dim3* block, size_t* shared_bytes,
                                                 void* stream);

}  // extern "C"
