// runtime.h: the one object behind the CUDA runtime and driver calls: modules, memory, launches,
// settings, errors, launch records. The calls themselves are in api/.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "decode/program.h"
#include "exec/launch.h"
#include "ptx/fat_binary.h"
#include "runtime/device.h"

namespace wbsim {

// A CUDA error on its way out of a call. What the error is about has been reported already.
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

struct Function;

// One loaded module: of the program itself, or loaded by it (cuModuleLoadData).
// PTX is parsed when something of the module is first asked for.
struct Binary {
  PtxImage image;
  std::unique_ptr<Module> module;
  std::map<std::string, std::unique_ptr<Function>> functions;  // those that were asked for
  std::vector<std::pair<void**, std::string>> managed;  // host pointers to __managed__ variables
};

// A kernel with what the host has set for it: what cudaKernel_t, cudaFunction_t, CUfunction and
// CUkernel point to.
struct Function {
  Binary* binary = nullptr;
  std::string name;
  Kernel* kernel = nullptr;  // nullptr until it is first used
  const ptx::Function* ptx = nullptr;
  int carveout = -1;  // cudaFuncAttributePreferredSharedMemoryCarveout
  int scheduling_policy = 0;
  bool non_portable_cluster = false;
  int cluster[3] = {0, 0, 0};  // cudaFuncAttributeRequiredCluster*, or of the PTX
};

// The shape of a launch, as a program asks for it.
struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  dim3 cluster{0, 0, 0};  // 0: none is asked for
  bool cooperative = false;
};

enum class MemoryKind : uint8_t { Device, Host, Registered, Managed };

// Memory that a program got from a call, or registered with one.
struct Allocation {
  uint64_t first = 0;
  size_t bytes = 0;
  const char* name = "";  // the call
  MemoryKind kind = MemoryKind::Device;
  unsigned flags = 0;
};

class Runtime {
 public:
  static Runtime&
  get();  // made on first use, never destroyed: modules unregister while the process ends

  // ---- Modules.
  Binary* add_binary(PtxImage image);
  void remove_binary(Binary* binary, bool process_ends);
  void add_function(Binary* binary, const void* host, const char* name);
  void add_variable(Binary* binary, const void* host, const char* name);
  // nullptr: unknown. All throw ptx::ParseError.
  Function* find_function(const void* host_or_handle);
  Function* find_function(Binary& binary, const std::string& name);
  const Module::Symbol* find_variable(const void* host);
  const Module::Symbol* find_variable(Binary& binary, const std::string& name);
  std::vector<Function*> functions_of(Binary& binary);
  Module& module_of(Binary& binary);  // parses it
  Kernel& kernel_of(Function& function);
  bool is_binary(const void* handle);

  // ---- Memory.
  void* allocate(size_t bytes, const char* name, MemoryKind kind, unsigned flags = 0);
  bool release(void* pointer, bool host);  // false: not the start of an allocation of that kind
  bool register_host(void* pointer, size_t bytes, unsigned flags);
  bool unregister_host(void* pointer);
  std::optional<Allocation> allocation_at(const void* pointer);
  size_t bytes_allocated();
  void release_all();
  void add_region(Region region);
  bool checks_initialised() const { return settings_.initcheck; }
  bool remove_region(uint64_t first, const std::string& name);
  // For initcheck: the host has written there.
  void mark_initialised(const void* pointer, size_t bytes);
  // Reports and throws unless `bytes` at `pointer` lie inside what is known about them. `does` is
  // the beginning of a sentence: "cudaMemcpy reads". on_device: it must be memory of the device.
  void require_range(const void* pointer, size_t bytes, const std::string& does, bool on_device);

  // ---- Launches.
  // What is wrong with the shape, or cudaSuccess; problem says it in words.
  cudaError_t check_shape(Function& function, const LaunchShape& shape, std::string& problem);
  cudaError_t launch(Function& function, const LaunchShape& shape,
                     const std::vector<uint8_t>& params);
  // The bytes of a kernel's parameters, gathered from where args[i] point to.
  std::vector<uint8_t> pack(Function& function, void** args);
  uint64_t start_recording(bool addresses);
  std::string stop_recording(uint64_t token);
  std::atomic<uint64_t> stack_limit{1024};  // cudaLimitStackSize

  // ---- Settings: see wbsim_set.
  std::string set(const std::string& name, const std::string& value);  // "" or what was expected
  std::optional<std::string> get_setting(const std::string& name);

  // ---- Errors. A host that attaches takes findings itself; otherwise they are printed and stay.
  void attach() { attached_ = true; }
  cudaError_t fail(cudaError_t error);  // sets this thread's error and returns it
  cudaError_t last_error(bool clear);
  // Of this thread's last launch, while a host that attached has not taken its report.
  cudaError_t launch_error();
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
  bool is_used() const { return used_; }  // some runtime call was made
  void reset_errors();
  cudaError_t report(Finding finding, cudaError_t error, bool sticks = false);
  cudaError_t report_unreadable(const ptx::ParseError& error);
  const char* take_report();
  const char* last_finding_json();

 private:
  Runtime() { read_environment(); }
  void read_environment();
  Module& parse(Binary& binary);
  Function& function_in(Binary& binary, const std::string& name);

  std::mutex mutex_;         // tables
  std::mutex launch_mutex_;  // one launch at a time; settings
  std::vector<std::unique_ptr<Binary>> binaries_;
  struct Named {
    Binary* binary;
    std::string name;
  };
  std::map<const void*, Named> functions_;    // by host address
  std::map<const void*, Function*> handles_;  // live Function objects
  std::map<const void*, Named> variables_;
  RegionTable regions_;
  std::map<uint64_t, Allocation> allocations_;
  size_t allocated_ = 0;  // bytes on the device
  Settings settings_;
  std::atomic<bool> attached_{false}, used_{false};
  std::atomic<cudaError_t> sticky_ = cudaSuccess;

  uint64_t num_launches_ = 0;
  int recordings_ = 0, address_recordings_ = 0;
  uint64_t next_record_ = 0;
  std::map<uint64_t, std::string> records_;
};

// Everything a launch counted, as a JSON object.
std::string record_json(const Launch& launch, const Result& result);

}  // namespace wbsim
