// launches.h: launches of kernels, and the records of them.
#pragma once

#include <vector_types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "runtime/fork.h"
#include "runtime/module_table.h"

namespace wbsim {

// The shape of a launch, as a program requests it.
struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  dim3 cluster{0, 0, 0};  // 0: none requested
  bool cooperative = false;
};

class Launches {
 public:
  Launches(ProcessSettings& settings, Errors& errors, Allocations& memory, ModuleTable& modules)
      : settings_(settings), errors_(errors), memory_(memory), modules_(modules) {}

  // What is wrong with the shape, or cudaSuccess; problem describes it in words.
  cudaError_t check_shape(Function& function, const LaunchShape& shape, std::string& problem);
  cudaError_t launch(Function& function, const LaunchShape& shape,
                     const std::vector<uint8_t>& params);
  // The bytes of a kernel's parameters, gathered from where args[i] point to.
  std::vector<uint8_t> pack(Function& function, void** args);
  // While this is held, no kernel runs.
  std::unique_lock<std::mutex> pause() { return std::unique_lock<std::mutex>(launching_); }

  uint64_t start_recording(bool addresses);
  std::string stop_recording(uint64_t token);
  std::atomic<uint64_t> stack_limit{1024};  // cudaLimitStackSize

 private:
  ProcessSettings& settings_;
  Errors& errors_;
  Allocations& memory_;
  ModuleTable& modules_;

  ForkMutex<LockOrder::Launching> launching_;  // one launch at a time
  uint64_t num_launches_ = 0;
  std::set<std::string> told_;  // texts of notes

  ForkMutex<LockOrder::Recording> recording_;  // what follows
  int recordings_ = 0, address_recordings_ = 0;
  uint64_t next_record_ = 0;
  std::map<uint64_t, std::string> records_;
};

}  // namespace wbsim
