// kernel_calls.h: launches and attributes, for the runtime's and the driver's calls.
#pragma once

#include "runtime/api/calls.h"

namespace wbsim {

// Submits a kernel launch to a stream: a host function or a handle.
void launch(const void* kernel, const LaunchShape& shape, void** args, cudaStream_t stream,
            int priority);
// The parameters of a launch given as CU_LAUNCH_PARAM_BUFFER_POINTER and _SIZE.
std::vector<uint8_t> pack_extra(Function& function, void** extra);
LaunchShape shape_of(const cudaLaunchConfig_t& config);
// Attributes have the same numbers in the runtime and in the driver.
int function_attribute(Function& function, int attribute);
void set_function_attribute(Function& function, int attribute, int value);

}  // namespace wbsim
