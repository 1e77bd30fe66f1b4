// runtime.h: the one object behind the CUDA runtime calls: modules, memory, settings, errors,
// launch records.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "fat_binary.h"
#include "launch.h"
#include "program.h"

namespace wbsim {

class Runtime {
 public:
  static Runtime&
  get();  // made on first use, never destroyed: modules unregister while the process ends

  // ---- Modules. PTX is parsed when something of the module is first asked for.
  struct Binary {
    PtxImage image;
    std::unique_ptr<Module> module;
  };
  Binary* add_binary(const void* fat_binary);
  void remove_binary(Binary* binary);
  void add_function(Binary* binary, const void* host, const char* name);
  void add_variable(Binary* binary, const void* host, const char* name);
  Kernel* find_kernel(const void* host);  // nullptr: unknown; throws ptx::ParseError
  const Module::Symbol* find_variable(const void* host);

  // ---- Memory.
  cudaError_t allocate(void** out, size_t bytes, const char* name);
  cudaError_t release(void* pointer);
  void add_region(Region region);
  bool remove_region(uint64_t first, const std::string& name);

  // ---- Launches.
  cudaError_t launch(const void* host, dim3 grid, dim3 block, void** args, size_t shared_bytes);
  uint64_t start_recording();
  std::string stop_recording(uint64_t token);

  // ---- Settings: see wbsim_set.
  std::string set(const std::string& name, const std::string& value);  // "" or what was expected
  std::optional<std::string> get_setting(const std::string& name);

  // ---- Errors. A host that attaches takes findings itself; otherwise they are printed and stay.
  void attach() { attached_ = true; }
  cudaError_t fail(cudaError_t error);  // sets this thread's error and returns it
  cudaError_t last_error(bool clear);
  const char* take_report();
  const char* last_finding_json();

 private:
  Runtime() = default;
  Module& parse(Binary& binary);
  std::string check_geometry(const Kernel& kernel, dim3 grid, dim3 block, size_t shared_bytes);
  cudaError_t report(Finding finding, cudaError_t error);

  std::mutex mutex_;         // tables
  std::mutex launch_mutex_;  // one launch at a time
  std::vector<std::unique_ptr<Binary>> binaries_;
  struct Named {
    Binary* binary;
    std::string name;
  };
  std::map<const void*, Named> functions_;
  std::map<const void*, Named> variables_;
  RegionTable regions_;
  std::map<void*, size_t> allocations_;
  Settings settings_;
  std::atomic<bool> attached_{false};
  cudaError_t sticky_ = cudaSuccess;

  uint64_t num_launches_ = 0;
  int recordings_ = 0;
  uint64_t next_record_ = 0;
  std::map<uint64_t, std::string> records_;
};

// Everything a launch counted, as a JSON object.
std::string record_json(const Launch& launch, const Result& result);

}  // namespace wbsim
