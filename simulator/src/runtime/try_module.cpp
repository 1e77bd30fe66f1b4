// try_module.cpp: loads a module and launches everything in it once, for the fuzz tests: whatever
// the image, the answer is success or an error text.

#include <algorithm>
#include <atomic>
#include <exception>
#include <string>

#include "decode/module.h"
#include "exec/launch.h"
#include "ptx/fat_binary.h"
#include "wbsim.h"

namespace wbsim {
namespace {

constexpr uint64_t INSTRUCTION_LIMIT = 20'000;
constexpr uint32_t MAX_STATIC_SHARED = 48 * 1024;  // beyond which a launch is refused
constexpr uint32_t DYNAMIC_SHARED = 1024;

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

// One block, or one cluster of blocks, with zeros as arguments.
std::string try_kernel(Module& module, const std::string& name, const RegionTable& regions) {
  Launch launch;
  launch.kernel = &kernel_of(module, name);
  if (launch.kernel->shared_bytes > MAX_STATIC_SHARED) {
    return "too much shared memory";
  }
  const ptx::Function& f = *launch.kernel->function;
  shape(f.required_block, 1024, launch.block, 64);
  shape(f.required_cluster, 8, launch.cluster, 1);
  std::copy_n(launch.cluster, 3, launch.grid);
  launch.dynamic_shared = DYNAMIC_SHARED;
  launch.params.resize(launch.kernel->param_bytes);
  launch.regions = regions;
  launch.settings.instruction_limit = INSTRUCTION_LIMIT;
  launch.settings.threads = 1;
  const std::atomic<bool> interrupted{false};
  Result result = run_grid(launch, interrupted);
  return result.finding ? to_text(*result.finding) : "";
}

std::string try_module(const void* image, size_t bytes) {
  PtxImage found = read_image(image, bytes);
  if (found.ptx.empty()) {
    return found.problem;
  }
  std::vector<Region> variables;
  std::unique_ptr<Module> module = load_module(std::move(found.ptx), variables);
  RegionTable regions;
  for (Region& region : variables) {
    regions.add(std::move(region));
  }
  std::string problems;
  for (auto& [name, function] : module->ptx->functions) {
    if (function.is_entry && function.defined) {
      std::string problem;
      try {
        problem = try_kernel(*module, name, regions);
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
