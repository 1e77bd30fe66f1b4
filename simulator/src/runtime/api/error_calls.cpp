// error_calls.cpp: the error state, names and texts of errors, and the driver's numbers for them.

#include "runtime/api/driver.h"

using namespace wbsim;

namespace {

struct ErrorText {
  int code;
  const char* name;
  const char* driver_name;  // "CUDA_ERROR_" if the driver does not have it
  const char* text;
};

constexpr ErrorText ERRORS[] = {
#define ERROR(code, driver, text) {code, #code, "CUDA_ERROR_" driver, text},
#include "runtime/api/errors.inc"
#undef ERROR
};
constexpr size_t NO_NAME = sizeof "CUDA_ERROR_" - 1;

const ErrorText* find(int code) {
  for (const ErrorText& e : ERRORS) {
    if (e.code == code) {
      return &e;
    }
  }
  return nullptr;
}

bool in_driver(const ErrorText& e) { return e.driver_name[NO_NAME] != '\0'; }

}  // namespace

namespace wbsim {

CUresult driver_error(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidDeviceFunction:
      return CUDA_ERROR_INVALID_HANDLE;
    case cudaErrorInvalidSymbol:
      return CUDA_ERROR_NOT_FOUND;
    default: {
      const ErrorText* e = find(error);  // errors that the driver lacks are bad arguments there
      return e && in_driver(*e) ? static_cast<CUresult>(error) : CUDA_ERROR_INVALID_VALUE;
    }
  }
}

}  // namespace wbsim

extern "C" {

cudaError_t wbsim_cudaGetLastError() { return Runtime::get().errors.last(true); }
cudaError_t wbsim_cudaPeekAtLastError() { return Runtime::get().errors.last(false); }

const char* wbsim_cudaGetErrorString(cudaError_t error) {
  const ErrorText* e = find(error);
  return e ? e->text : "unrecognized error code";
}
const char* wbsim_cudaGetErrorName(cudaError_t error) {
  const ErrorText* e = find(error);
  return e ? e->name : "unrecognized error code";
}

CUresult wbsim_cuGetErrorString(CUresult error, const char** out) {
  const ErrorText* e = find(error);
  bool known = out && e && in_driver(*e);
  if (out) {
    *out = known ? e->text : nullptr;
  }
  return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult wbsim_cuGetErrorName(CUresult error, const char** out) {
  const ErrorText* e = find(error);
  bool known = out && e && in_driver(*e);
  if (out) {
    *out = known ? (error == CUDA_SUCCESS ? "CUDA_SUCCESS" : e->driver_name) : nullptr;
  }
  return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // extern "C"
