// errors.cpp: errors per thread, and sticky ones.

#include "runtime/errors.h"

#include <cstdio>
#include <string>

#include "ptx/ptx.h"

namespace wbsim {
namespace {

thread_local cudaError_t thread_error = cudaSuccess;
thread_local std::string thread_report, thread_taken, thread_json;
thread_local bool thread_has_report = false;
thread_local cudaError_t thread_launch_error = cudaSuccess;
thread_local int driver_depth = 0;

}  // namespace

cudaError_t Errors::fail(cudaError_t error) {
  if (error != cudaSuccess) {
    thread_error = error;
  }
  return error;
}

cudaError_t Errors::last(bool clear) {
  cudaError_t error = sticky_ != cudaSuccess ? sticky_.load() : thread_error;
  if (clear) {
    thread_error = thread_launch_error = cudaSuccess;
  }
  return error;
}

cudaError_t Errors::of_launch() { return thread_launch_error; }

Errors::DriverScope::DriverScope() : before_(thread_error) { driver_depth++; }

Errors::DriverScope::~DriverScope() {
  thread_error = before_;
  driver_depth--;
}

void Errors::note_use() {
  if (driver_depth == 0) {
    used_ = true;
  }
}

void Errors::reset() {
  sticky_ = cudaSuccess;
  thread_error = thread_launch_error = cudaSuccess;
}

cudaError_t Errors::report(const Finding& finding, cudaError_t error, bool sticks) {
  if (attached_ && thread_has_report && thread_launch_error != cudaSuccess) {
    return fail(error);  // the first error says more than those that follow from it
  }
  thread_report = to_text(finding);
  thread_json = to_json(finding);
  thread_has_report = true;
  if (!attached_) {
    std::fflush(stdout);  // the program's earlier output comes first
    std::fprintf(stderr, "simulator: %s\n", thread_report.c_str());
    if (sticks) {
      sticky_ = error;
    }
  } else if (sticks) {
    thread_launch_error = error;
  }
  return fail(error);
}

cudaError_t Errors::report_unreadable(const ptx::ParseError& error) {
  Finding finding;
  finding.kind = "launch";
  finding.message = error.what();
  return report(finding, cudaErrorInvalidPtx);
}

void Errors::tell(const PlacedNote& note) {
  if (!attached_) {
    std::fflush(stdout);
    std::fprintf(stderr, "simulator: %s\n", to_text(note).c_str());
  }
}

const char* Errors::take_report() {
  if (!thread_has_report) {
    return nullptr;
  }
  thread_has_report = false;
  thread_error = thread_launch_error = cudaSuccess;
  thread_taken = thread_report;
  return thread_taken.c_str();
}

const char* Errors::last_finding_json() {
  return thread_json.empty() ? nullptr : thread_json.c_str();
}

}  // namespace wbsim
