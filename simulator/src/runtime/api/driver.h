// driver.h: the building blocks of the driver's calls. Most of them are the runtime's under another
// name: handles and numbers are the same, errors have other names, and the runtime's last error is
// left alone.
#pragma once

#include "runtime/api/calls.h"

namespace wbsim {

CUresult driver_error(cudaError_t error);
bool driver_is_initialized();
CUcontext current_context();  // nullptr: none

// The body of a driver call that returns cudaError_t.
template <class Body>
CUresult driver_call(Body body) {
  Errors::DriverScope scope;
  return driver_error(body());
}

// Needs cuInit.
template <class Body>
CUresult driver(Body body) {
  if (!driver_is_initialized()) {
    return CUDA_ERROR_NOT_INITIALIZED;
  }
  return driver_call(body);
}

// Needs a current context too.
template <class Body>
CUresult in_context(Body body) {
  if (driver_is_initialized() && !current_context()) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  return driver(body);
}

template <class To, class From>
To as(From handle) {
  return reinterpret_cast<To>(handle);
}

}  // namespace wbsim
