// try_module.cpp: loads a module and launches everything in it, for the fuzz tests: whatever the
// image, the answer is success or an error text.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <functional>
#include <random>
#include <string>
#include <string_view>

#include "counting/counters.h"
#include "decode/module.h"
#include "exec/launch.h"
#include "ptx/fat_binary.h"
#include "wbsim.h"

namespace wbsim {
namespace {

constexpr uint64_t INSTRUCTION_LIMIT = 20'000;
constexpr uint32_t MAX_STATIC_SHARED = 48 * 1024;  // beyond which a launch is refused
constexpr uint32_t DYNAMIC_SHARED = 1024;
constexpr uint64_t MAX_MEMORY = 1 << 30;  // registers and local memory of a launch
constexpr uint64_t L1_BYTES = 32 * 1024;

// What a module is tried with: the same for the same image.
struct Trial {
  std::minstd_rand random;
  RegionTable regions;
  alignas(256) uint8_t buffer[64 * 1024] = {};

  explicit Trial(std::string_view image)
      : random(static_cast<uint32_t>(std::hash<std::string_view>{}(image))) {
    const auto first = reinterpret_cast<uint64_t>(buffer);
    auto initialised = std::make_shared<Initialised>(first, sizeof buffer);
    initialised->mark(first, sizeof buffer / 2);
    regions.add({first, sizeof buffer, "buffer", "for the arguments", WBSIM_INOUT, initialised});
  }
  // An address in the buffer, or two small numbers.
  uint64_t value(bool address) {
    const uint32_t low = random() % 65, high = random() % 65;
    return address ? reinterpret_cast<uint64_t>(buffer) + 256 * high : low | uint64_t{high} << 32;
  }
  std::vector<uint8_t> arguments(const Kernel& kernel) {
    std::vector<uint8_t> bytes(kernel.param_bytes);
    for (auto [at, size] : kernel.params) {
      for (uint32_t i = 0; i < size; i += 8) {
        const uint64_t bits = value(size == 8 || (size > 8 && random() % 2));
        std::memcpy(bytes.data() + at + i, &bits, std::min(size - i, 8u));
      }
    }
    return bytes;
  }
};

// What a kernel requires, if that is possible, otherwise a row.
void shape(const int* required, uint64_t limit, uint32_t* out, uint32_t row) {
  bool possible = true;
  uint64_t product = 1;
  for (int i = 0; i < 3; i++) {
    possible = possible && required[i] > 0 && static_cast<uint64_t>(required[i]) <= limit;
    product *= possible ? required[i] : 1;
  }
  possible = possible && product <= limit;
  for (int i = 0; i < 3; i++) {
    out[i] = possible ? required[i] : i == 0 ? row : 1;
  }
}

uint64_t bytes_of(const Launch& launch) {
  const uint64_t warps = launch.num_blocks() * ((launch.num_threads() + LANES - 1) / LANES);
  return warps * (launch.kernel->frame.size() + LANES * uint64_t{launch.local_bytes()});
}

std::string run(const Launch& launch) {
  const std::atomic<bool> interrupted{false};
  Result result = run_grid(launch, interrupted);
  if (launch.counting) {
    record_json(launch, result);
  }
  return result.finding ? to_text(*result.finding) : "";
}

// Two blocks, or two clusters of blocks: first as fast as possible, then counted and checked.
std::string try_kernel(Module& module, const std::string& name, Trial& trial) {
  Launch launch;
  launch.kernel = &kernel_of(module, name);
  if (launch.kernel->shared_bytes > MAX_STATIC_SHARED) {
    return "too much shared memory";
  }
  const ptx::Function& f = *launch.kernel->function;
  shape(f.required_block, 1024, launch.block, 64);
  shape(f.required_cluster, 8, launch.cluster, 1);
  std::copy_n(launch.cluster, 3, launch.grid);
  launch.grid[0] *= 2;
  launch.dynamic_shared = DYNAMIC_SHARED;
  if (bytes_of(launch) > MAX_MEMORY) {
    return "too much memory";
  }
  launch.params = trial.arguments(*launch.kernel);
  launch.regions = trial.regions;
  launch.settings.instruction_limit = INSTRUCTION_LIMIT;
  launch.settings.threads = 2;
  std::string problem = run(launch);
  launch.settings.racecheck = launch.settings.initcheck = true;
  launch.settings.order = Order::Random;
  launch.settings.seed = trial.random();
  launch.counting = true;
  launch.l1_bytes = L1_BYTES;
  std::string more = run(launch);
  return problem.empty() ? more : problem;
}

std::string try_module(const void* image, size_t bytes) {
  PtxImage found = read_image(image, bytes);
  if (found.ptx.empty()) {
    return found.problem;
  }
  Trial trial(found.ptx);
  std::vector<Region> variables;
  std::unique_ptr<Module> module = load_module(std::move(found.ptx), variables);
  for (Region& region : variables) {
    trial.regions.add(std::move(region));
  }
  std::string problems;
  for (auto& [name, function] : module->ptx->functions) {
    if (function.is_entry && function.defined) {
      std::string problem;
      try {
        problem = try_kernel(*module, name, trial);
      } catch (const ptx::ParseError& error) {
        problem = error.what();
      }
      problems += problem.empty() ? "" : name + ": " + problem + "\n";
    }
  }
  return problems;
}

}  // namespace
}  // namespace wbsim

const char* wbsim_try_module(const void* image, size_t bytes) {
  thread_local std::string answer;
  try {
    answer = wbsim::try_module(image, bytes);
  } catch (const std::exception& error) {
    answer = error.what();
  }
  return answer.empty() ? nullptr : answer.c_str();
}
