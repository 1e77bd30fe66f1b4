#include "runtime.h"

#include <signal.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "builtins.h"
#include "module.h"
#include "wbsim.h"

namespace wbsim {
namespace {

thread_local cudaError_t thread_error = cudaSuccess;
thread_local std::string thread_report, thread_taken, thread_json;
thread_local bool thread_has_report = false;

constexpr uint64_t MAX_SHARED = 227 * 1024;  // of a block on sm_90, opted in
constexpr uint64_t MAX_STACK = 512 * 1024;   // bytes of a thread's local memory
constexpr uint64_t UNASKED_SHARED = 48 * 1024;
constexpr uint32_t GUARD_BYTES = 256;  // around every allocation, so that none touches the next

// While it lives, Ctrl-C sets a flag that running kernels look at, and is passed on to whoever
// handled it before.
class InterruptGuard {
 public:
  InterruptGuard() {
    flag() = false;
    sigaction(SIGINT, nullptr, &previous());
    // A program with the default action simply ends, as it should.
    bool handled = (previous().sa_flags & SA_SIGINFO) ||
                   (previous().sa_handler != SIG_DFL && previous().sa_handler != SIG_IGN);
    if (handled) {
      struct sigaction action = previous();
      action.sa_sigaction = on_signal;
      action.sa_flags |= SA_SIGINFO;
      sigaction(SIGINT, &action, nullptr);
      installed_ = true;
    }
  }
  ~InterruptGuard() {
    if (installed_) {
      sigaction(SIGINT, &previous(), nullptr);
    }
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static std::atomic<bool>& flag() {
    static std::atomic<bool> interrupted{false};
    return interrupted;
  }

 private:
  static struct sigaction& previous() {
    static struct sigaction action = {};
    return action;
  }
  static void on_signal(int number, siginfo_t* info, void* context) {
    flag() = true;
    if (previous().sa_flags & SA_SIGINFO) {
      previous().sa_sigaction(number, info, context);
    } else {
      previous().sa_handler(number);
    }
  }
  bool installed_ = false;
};

std::string dim3_text(dim3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

}  // namespace

Runtime& Runtime::get() {
  static Runtime* runtime = new Runtime;
  return *runtime;
}

// ---- Modules ------------------------------------------------------------------------------------

Runtime::Binary* Runtime::add_binary(const void* fat_binary) {
  std::lock_guard lock(mutex_);
  binaries_.push_back(std::make_unique<Binary>());
  binaries_.back()->image = read_wrapper(fat_binary);
  return binaries_.back().get();
}

void Runtime::remove_binary(Binary* binary) {
  InterruptGuard::flag() = true;  // the process ends: a kernel that still runs shall not hold it up
  std::lock_guard launch_lock(launch_mutex_);
  std::lock_guard lock(mutex_);
  auto of_binary = [&](auto& entry) { return entry.second.binary == binary; };
  std::erase_if(functions_, of_binary);
  std::erase_if(variables_, of_binary);
  if (binary->module) {
    for (auto& [name, symbol] : binary->module->symbols) {
      regions_.remove(reinterpret_cast<uint64_t>(symbol.address), name);
    }
  }
  std::erase_if(binaries_, [&](auto& b) { return b.get() == binary; });
}

void Runtime::add_function(Binary* binary, const void* host, const char* name) {
  std::lock_guard lock(mutex_);
  functions_[host] = {binary, name};
}

void Runtime::add_variable(Binary* binary, const void* host, const char* name) {
  std::lock_guard lock(mutex_);
  variables_[host] = {binary, name};
}

// Called with mutex_ held.
Module& Runtime::parse(Binary& binary) {
  if (!binary.module) {
    if (binary.image.ptx.empty()) {
      throw ptx::ParseError(binary.image.problem);
    }
    std::vector<Region> regions;
    binary.module = load_module(binary.image.ptx, regions);
    for (Region& region : regions) {
      regions_.add(std::move(region));
    }
  }
  return *binary.module;
}

Kernel* Runtime::find_kernel(const void* host) {
  std::lock_guard lock(mutex_);
  auto found = functions_.find(host);
  return found == functions_.end() ? nullptr
                                   : &kernel_of(parse(*found->second.binary), found->second.name);
}

const Module::Symbol* Runtime::find_variable(const void* host) {
  std::lock_guard lock(mutex_);
  auto found = variables_.find(host);
  if (found == variables_.end()) {
    return nullptr;
  }
  Module& module = parse(*found->second.binary);
  auto symbol = module.symbols.find(found->second.name);
  return symbol == module.symbols.end() ? nullptr : &symbol->second;
}

// ---- Memory -------------------------------------------------------------------------------------

cudaError_t Runtime::allocate(void** out, size_t bytes, const char* name) {
  if (!out) {
    return fail(cudaErrorInvalidValue);
  }
  *out = nullptr;
  if (bytes == 0) {
    return cudaSuccess;
  }
  size_t whole = (bytes + 2 * GUARD_BYTES + 255) / 256 * 256;
  auto* raw = whole < bytes ? nullptr : static_cast<uint8_t*>(std::aligned_alloc(256, whole));
  if (!raw) {
    return fail(cudaErrorMemoryAllocation);
  }
  *out = raw + GUARD_BYTES;
  std::lock_guard lock(mutex_);
  allocations_[*out] = bytes;
  regions_.add({reinterpret_cast<uint64_t>(*out), bytes, name, "", WBSIM_INOUT});
  return cudaSuccess;
}

cudaError_t Runtime::release(void* pointer) {
  if (!pointer) {
    return cudaSuccess;
  }
  std::lock_guard lock(mutex_);
  auto found = allocations_.find(pointer);
  if (found == allocations_.end()) {
    return fail(cudaErrorInvalidValue);
  }
  uint64_t first = reinterpret_cast<uint64_t>(pointer);
  regions_.remove(first, regions_.starting_at(first)->name);
  allocations_.erase(found);
  std::free(static_cast<uint8_t*>(pointer) - GUARD_BYTES);
  return cudaSuccess;
}

void Runtime::add_region(Region region) {
  std::lock_guard lock(mutex_);
  regions_.add(std::move(region));
}

bool Runtime::remove_region(uint64_t first, const std::string& name) {
  std::lock_guard lock(mutex_);
  return regions_.remove(first, name);
}

// ---- Launches -----------------------------------------------------------------------------------

// What is wrong with the launch's shape, or "".
std::string Runtime::check_geometry(const Kernel& kernel, dim3 grid, dim3 block,
                                    size_t shared_bytes) {
  uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || uint64_t{grid.x} * grid.y * grid.z == 0) {
    return "grid " + dim3_text(grid) + " and block " + dim3_text(block) + " must not be empty";
  }
  if (threads > 1024 || block.z > 64) {
    return "block " + dim3_text(block) + " has " + std::to_string(threads) +
           " threads; a block takes at most 1024, and 64 in z";
  }
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return "grid " + dim3_text(grid) + " is too large; the limits are (2147483647, 65535, 65535)";
  }
  if (threads > static_cast<uint64_t>(kernel.max_threads)) {
    return "block " + dim3_text(block) +
           " has more threads than the kernel's __launch_bounds__ of " +
           std::to_string(kernel.max_threads);
  }
  const int* required = kernel.function->required_block;
  if (required[0] > 0) {
    std::string wanted = dim3_text(dim3(required[0], required[1], required[2]));
    if (dim3_text(block) != wanted) {
      return "block " + dim3_text(block) + "; this kernel runs with blocks of " + wanted + " only";
    }
  }
  if (kernel.shared_bytes > UNASKED_SHARED) {
    return std::to_string(kernel.shared_bytes) +
           " bytes of static shared memory; a kernel has at " + "most " +
           std::to_string(UNASKED_SHARED) + ". For more take dynamic shared memory " +
           "(extern __shared__) and cudaFuncSetAttribute";
  }
  // Without an opt-in, static and dynamic shared memory have 48 KB together.
  uint64_t limit = kernel.dynamic_shared_limit.value_or(
      kernel.shared_bytes < UNASKED_SHARED ? UNASKED_SHARED - kernel.shared_bytes : 0);
  if (shared_bytes > limit) {
    return std::to_string(shared_bytes) + " bytes of dynamic shared memory; without " +
           "cudaFuncSetAttribute(cudaFuncAttributeMaxDynamicSharedMemorySize) this kernel takes " +
           std::to_string(limit);
  }
  if (kernel.shared_bytes + shared_bytes > MAX_SHARED) {
    return std::to_string(kernel.shared_bytes + shared_bytes) +
           " bytes of shared memory; a block has at most " + std::to_string(MAX_SHARED);
  }
  return "";
}

cudaError_t Runtime::launch(const void* host, dim3 grid, dim3 block, void** args,
                            size_t shared_bytes) {
  std::lock_guard launch_lock(launch_mutex_);
  if (sticky_ != cudaSuccess) {
    return fail(sticky_);
  }
  Launch launch;
  Finding problem;
  problem.kind = "launch";
  try {
    Kernel* kernel = find_kernel(host);
    if (!kernel) {
      return fail(cudaErrorInvalidDeviceFunction);
    }
    launch.kernel = kernel;
    problem.kernel = kernel->pretty;
    problem.message = check_geometry(*kernel, grid, block, shared_bytes);
    if (!problem.message.empty()) {
      return report(problem, cudaErrorInvalidConfiguration);
    }
  } catch (ptx::ParseError& error) {
    problem.message = error.what();
    return report(problem, cudaErrorInvalidPtx);
  }
  launch.grid[0] = grid.x, launch.grid[1] = grid.y, launch.grid[2] = grid.z;
  launch.block[0] = block.x, launch.block[1] = block.y, launch.block[2] = block.z;
  launch.dynamic_shared = static_cast<uint32_t>(shared_bytes);
  launch.params.resize(launch.kernel->param_bytes);
  for (size_t i = 0; i < launch.kernel->params.size(); i++) {
    auto [at, bytes] = launch.kernel->params[i];
    std::memcpy(launch.params.data() + at, args[i], bytes);
  }
  launch.settings = settings_;
  {
    std::lock_guard lock(mutex_);
    launch.regions = regions_;
    if (launch.kernel->uses_heap) {
      launch.regions.add(device_heap());
    }
    launch.number = ++num_launches_;
  }
  InterruptGuard interrupt;
  Result result = run_grid(launch, InterruptGuard::flag());
  for (auto& [cluster, text] : result.output) {
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  if (!result.output.empty()) {
    std::fflush(stdout);
  }
  {
    std::lock_guard lock(mutex_);
    if (recordings_ > 0) {
      records_[next_record_++] = record_json(launch, result);
    }
  }
  if (result.finding) {
    return report(*result.finding, cudaErrorLaunchFailure);
  }
  return cudaSuccess;
}

uint64_t Runtime::start_recording() {
  std::lock_guard lock(mutex_);
  recordings_++;
  return next_record_;
}

std::string Runtime::stop_recording(uint64_t token) {
  std::lock_guard lock(mutex_);
  std::string out = "[";
  for (auto it = records_.lower_bound(token); it != records_.end(); ++it) {
    out += (out.size() > 1 ? "," : "") + it->second;
  }
  if (--recordings_ <= 0) {
    recordings_ = 0;
    records_.clear();
  }
  return out + "]";
}

// ---- Settings -----------------------------------------------------------------------------------

namespace {

template <class T>
bool parse_number(const std::string& text, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

constexpr const char* ORDER_NAMES[] = {"ascending", "descending", "random"};

}  // namespace

std::string Runtime::set(const std::string& name, const std::string& value) {
  std::lock_guard lock(launch_mutex_);
  if (name == "checks") {
    if (value != "" && value != "memcheck") {
      return "checks: expected 'memcheck' or '', got '" + value + "'";
    }
    settings_.memcheck = value == "memcheck";
    return "";
  }
  if (name == "order") {
    for (int i = 0; i < 3; i++) {
      if (value == ORDER_NAMES[i]) {
        settings_.order = static_cast<Order>(i);
        return "";
      }
    }
    return "order: expected ascending, descending or random, got '" + value + "'";
  }
  uint64_t number = 0;
  bool valid = parse_number(value, number);
  if (name == "seed" && valid) {
    settings_.seed = number;
  } else if (name == "instruction_limit" && valid && number > 0) {
    settings_.instruction_limit = number;
  } else if (name == "threads" && valid && number <= 1024) {
    settings_.threads = static_cast<int>(number);
  } else if (name == "seed" || name == "instruction_limit" || name == "threads") {
    return name + ": expected a whole number, got '" + value + "'";
  } else {
    return "no such setting: '" + name +
           "'; there are checks, order, seed, instruction_limit, threads";
  }
  return "";
}

std::optional<std::string> Runtime::get_setting(const std::string& name) {
  std::lock_guard lock(launch_mutex_);
  if (name == "checks") {
    return settings_.memcheck ? "memcheck" : "";
  }
  if (name == "order") {
    return ORDER_NAMES[static_cast<int>(settings_.order)];
  }
  if (name == "seed") {
    return std::to_string(settings_.seed);
  }
  if (name == "instruction_limit") {
    return std::to_string(settings_.instruction_limit);
  }
  if (name == "threads") {
    return std::to_string(settings_.threads);
  }
  return std::nullopt;
}

// ---- Errors -------------------------------------------------------------------------------------

cudaError_t Runtime::fail(cudaError_t error) {
  if (error != cudaSuccess) {
    thread_error = error;
  }
  return error;
}

cudaError_t Runtime::last_error(bool clear) {
  cudaError_t error = thread_error;
  if (clear) {
    thread_error = sticky_;
  }
  return error;
}

cudaError_t Runtime::report(Finding finding, cudaError_t error) {
  thread_report = to_text(finding);
  thread_json = to_json(finding);
  thread_has_report = true;
  if (!attached_) {
    std::fprintf(stderr, "simulator: %s\n", thread_report.c_str());
    if (error == cudaErrorLaunchFailure) {
      sticky_ = error;
    }
  }
  return fail(error);
}

const char* Runtime::take_report() {
  if (!thread_has_report) {
    return nullptr;
  }
  thread_has_report = false;
  thread_error = cudaSuccess;
  thread_taken = thread_report;
  return thread_taken.c_str();
}

const char* Runtime::last_finding_json() {
  return thread_json.empty() ? nullptr : thread_json.c_str();
}

}  // namespace wbsim

// ---- The C interface (wbsim.h) ------------------------------------------------------------------

using wbsim::Runtime;

void wbsim_register_tensor(const void* first, size_t bytes, const char* name, const char* text,
                           int role) {
  Runtime::get().add_region({reinterpret_cast<uint64_t>(first), bytes, name, text, role});
}

void wbsim_unregister_tensor(const void* first, const char* name) {
  Runtime::get().remove_region(reinterpret_cast<uint64_t>(first), name);
}

const char* wbsim_take_report(void) { return Runtime::get().take_report(); }

const char* wbsim_last_finding_json(void) { return Runtime::get().last_finding_json(); }

void wbsim_attach(void) { Runtime::get().attach(); }

const char* wbsim_set(const char* name, const char* value) {
  thread_local std::string answer;
  answer = Runtime::get().set(name, value);
  return answer.empty() ? nullptr : answer.c_str();
}

const char* wbsim_get(const char* name) {
  thread_local std::string answer;
  auto value = Runtime::get().get_setting(name);
  answer = value.value_or("");
  return value ? answer.c_str() : nullptr;
}

uint64_t wbsim_record_start(void) { return Runtime::get().start_recording(); }

const char* wbsim_record_stop(uint64_t token) {
  thread_local std::string answer;
  answer = Runtime::get().stop_recording(token);
  return answer.c_str();
}
