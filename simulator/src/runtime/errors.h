// errors.h: the errors of calls, and the reports on what went wrong.
#pragma once

#include <driver_types.h>

#include <atomic>

#include "checks/finding.h"
#include "checks/note.h"

namespace wbsim {

namespace ptx {
struct ParseError;
}

// A CUDA error on its way out of a call. Its cause has already been reported.
struct ApiError {
  cudaError_t code;
};

// Throws unless `condition` holds.
inline void require(bool condition, cudaError_t error = cudaErrorInvalidValue) {
  if (!condition) {
    throw ApiError{error};
  }
}

inline void check(cudaError_t error) { require(error == cudaSuccess, error); }

// A host that attaches takes findings itself; otherwise they are printed and are sticky. What
// concerns only one thread is kept per thread.
class Errors {
 public:
  void attach() { attached_ = true; }
  bool attached() const { return attached_; }
  cudaError_t fail(cudaError_t error);  // sets this thread's error and returns it
  cudaError_t last(bool clear);
  // Of this thread's last launch, until a host that attached has taken its report.
  cudaError_t of_launch();
  // A call of the driver: leaves the runtime's last error alone, and does not count as its use.
  class DriverScope {
   public:
    DriverScope();
    ~DriverScope();

   private:
    cudaError_t before_;
  };
  cudaError_t sticky() const { return sticky_; }
  void note_use();
  bool runtime_is_used() const { return used_; }  // some runtime call has been made
  void reset();
  cudaError_t report(const Finding& finding, cudaError_t error, bool sticks = false);
  cudaError_t report_unreadable(const ptx::ParseError& error);
  void tell(const PlacedNote& note);  // prints it, unless there is a host that reads the records
  const char* take_report();
  const char* last_finding_json();

 private:
  std::atomic<bool> attached_{false}, used_{false};
  std::atomic<cudaError_t> sticky_ = cudaSuccess;
};

}  // namespace wbsim
