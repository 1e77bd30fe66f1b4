// launches.cpp: from the call that launches a kernel to run_grid.

#include "runtime/launches.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "counting/counters.h"
#include "decode/bases.h"
#include "decode/place.h"
#include "exec/builtins.h"
#include "runtime/device.h"
#include "runtime/host_checks.h"
#include "runtime/interrupt.h"
#include "runtime/occupancy.h"

namespace wbsim {
namespace {

std::string dim3_text(dim3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

// What is wrong with the launch's shape, or "".
std::string check_geometry(const Kernel& kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  auto bounded = [](unsigned size) { return std::min<uint64_t>(size, 1 << 20); };
  uint64_t threads = bounded(block.x) * bounded(block.y) * bounded(block.z);  // without overflow
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
  if (kernel.shared_bytes > Device::SHARED_UNASKED) {
    return std::to_string(kernel.shared_bytes) +
           " bytes of static shared memory; a kernel has at " + "most " +
           std::to_string(Device::SHARED_UNASKED) + ". For more, use dynamic shared memory " +
           "(extern __shared__) and cudaFuncSetAttribute";
  }
  if (kernel.shared_bytes + shared_bytes > Device::SHARED_OPTIN) {
    return std::to_string(kernel.shared_bytes + shared_bytes) +
           " bytes of shared memory; a block has at most " + std::to_string(Device::SHARED_OPTIN) +
           " (227 KB), static and dynamic together";
  }
  // Without an opt-in, static and dynamic shared memory together are limited to 48 KB.
  uint64_t limit =
      kernel.dynamic_shared_limit.value_or(Device::SHARED_UNASKED - kernel.shared_bytes);
  if (shared_bytes > limit) {
    return std::to_string(shared_bytes) + " bytes of dynamic shared memory; without " +
           "cudaFuncSetAttribute(cudaFuncAttributeMaxDynamicSharedMemorySize) this kernel takes " +
           std::to_string(limit);
  }
  return "";
}

uint64_t product(dim3 v) { return uint64_t{v.x} * v.y * v.z; }

// The cluster of a launch: requested by the launch, by an attribute, or by __cluster_dims__.
dim3 cluster_of(const Function& function, const LaunchShape& shape) {
  if (product(shape.cluster) > 0 || function.cluster[0] == 0) {
    return product(shape.cluster) > 0 ? shape.cluster : dim3(1, 1, 1);
  }
  return dim3(function.cluster[0], function.cluster[1], function.cluster[2]);
}

std::string check_cluster(const Function& function, const LaunchShape& shape) {
  dim3 cluster = cluster_of(function, shape), grid = shape.grid;
  if (product(shape.cluster) > 0 && function.cluster[0] > 0 &&
      dim3_text(shape.cluster) !=
          dim3_text(dim3(function.cluster[0], function.cluster[1], function.cluster[2]))) {
    return "cluster " + dim3_text(cluster) + ", but the kernel requires a different one";
  }
  uint64_t limit =
      function.non_portable_cluster ? Device::MAX_CLUSTER : Device::MAX_CLUSTER_PORTABLE;
  if (function.ptx->max_cluster_rank > 0) {
    limit = std::min<uint64_t>(limit, function.ptx->max_cluster_rank);
  }
  if (product(cluster) > limit) {
    return "cluster " + dim3_text(cluster) + " has more than " + std::to_string(limit) + " blocks" +
           (limit == Device::MAX_CLUSTER_PORTABLE
                ? "; up to 16 need cudaFuncAttributeNonPortableClusterSizeAllowed"
                : "");
  }
  if (product(shape.cluster) == 0 && function.cluster[0] == 0 && function.ptx->explicit_cluster) {
    return "the kernel is launched with the attribute cudaLaunchAttributeClusterDimension only";
  }
  if (grid.x % cluster.x || grid.y % cluster.y || grid.z % cluster.z) {
    return "grid " + dim3_text(grid) + " is not a multiple of the cluster " + dim3_text(cluster);
  }
  return "";
}

// Where the kernel begins: the line that a report on its launch names.
void locate(Finding& finding, const Kernel& kernel) {
  for (const ptx::Instruction& instruction : kernel.function->code) {
    if (instruction.location >= 0) {
      Place place = place_of(*kernel.module, instruction);
      finding.file = place.file;
      finding.line = place.line;
      return;
    }
  }
}

// The error that a GPU would give for what a kernel did wrong.
cudaError_t error_of(const Finding& finding) {
  if (finding.kind == "assert") {
    return cudaErrorAssert;
  }
  if (finding.kind == "limit") {
    return cudaErrorLaunchTimeout;
  }
  if (finding.kind == "memcheck") {
    bool misaligned = finding.message.find("misaligned") != std::string::npos;
    return misaligned ? cudaErrorMisalignedAddress : cudaErrorIllegalAddress;
  }
  return cudaErrorLaunchFailure;
}

}  // namespace

cudaError_t Launches::check_shape(Function& function, const LaunchShape& shape,
                                  std::string& problem) {
  Kernel& kernel = modules_.kernel_of(function);
  problem = check_geometry(kernel, shape.grid, shape.block, shape.shared_bytes);
  if (!problem.empty()) {
    return cudaErrorInvalidConfiguration;
  }
  problem = check_cluster(function, shape);
  if (!problem.empty()) {
    return cudaErrorInvalidClusterSize;
  }
  if (shape.cooperative) {
    int blocks = blocks_per_sm(function, kernel, static_cast<int>(product(shape.block)),
                               shape.shared_bytes) *
                 Device::SMS;
    if (product(shape.grid) > static_cast<uint64_t>(blocks)) {
      problem = "a cooperative launch of " + std::to_string(product(shape.grid)) +
                " blocks; the device runs " + std::to_string(blocks) + " of them at a time";
      return cudaErrorCooperativeLaunchTooLarge;
    }
  }
  return cudaSuccess;
}

std::vector<uint8_t> Launches::pack(Function& function, void** args) {
  Kernel& kernel = modules_.kernel_of(function);
  require(args || kernel.params.empty());
  std::vector<uint8_t> bytes(kernel.param_bytes);
  for (size_t i = 0; i < kernel.params.size(); i++) {
    auto [at, size] = kernel.params[i];
    require(args[i]);
    std::memcpy(bytes.data() + at, args[i], size);
  }
  return bytes;
}

// A block's share of the L1 cache, which is what its multiprocessor's shared memory leaves: the
// driver gives shared memory the smallest size that holds all the blocks that can be resident. Part
// of the cache is never found to hold anything.
static uint64_t l1_share(const Function& function, const Launch& launch) {
  constexpr uint64_t KIB = 1024, BOTH = 256 * KIB;
  constexpr uint64_t SIZES[] = {8, 16, 32, 64, 100, 132, 164, 196, 228};
  const uint64_t fit =
      std::max(1, blocks_per_sm(function, *launch.kernel, static_cast<int>(launch.num_threads()),
                                launch.dynamic_shared));
  const uint64_t shared =
      launch.kernel->shared_bytes + launch.dynamic_shared + Device::SHARED_RESERVED;
  uint64_t aside = 228;
  for (uint64_t size : SIZES) {
    if (size * KIB >= fit * shared) {
      aside = size;
      break;
    }
  }
  const uint64_t there = (launch.num_blocks() + Device::SMS - 1) / Device::SMS;
  return (BOTH - aside * KIB) * 23 / 25 / std::min(fit, there);
}

cudaError_t Launches::launch(Function& function, const LaunchShape& shape,
                             const std::vector<uint8_t>& params) {
  std::lock_guard launching(launching_);
  if (errors_.sticky() != cudaSuccess) {
    return errors_.fail(errors_.sticky());
  }
  Launch launch;
  Finding problem;
  problem.kind = "launch";
  launch.kernel = &modules_.kernel_of(function);
  problem.kernel = launch.kernel->pretty;
  locate(problem, *launch.kernel);
  if (cudaError_t error = check_shape(function, shape, problem.message)) {
    return errors_.report(problem, error);
  }
  dim3 grid = shape.grid, block = shape.block, cluster = cluster_of(function, shape);
  launch.grid[0] = grid.x, launch.grid[1] = grid.y, launch.grid[2] = grid.z;
  launch.block[0] = block.x, launch.block[1] = block.y, launch.block[2] = block.z;
  launch.cluster[0] = cluster.x, launch.cluster[1] = cluster.y, launch.cluster[2] = cluster.z;
  launch.explicit_cluster = product(shape.cluster) > 0 || function.cluster[0] > 0;
  launch.cooperative = shape.cooperative;
  launch.stack_limit = stack_limit;
  launch.dynamic_shared = static_cast<uint32_t>(shape.shared_bytes);
  launch.params = params;
  launch.settings = settings_.current();
  if (launch.cooperative && launch.num_sampled() < launch.num_clusters()) {
    problem.message =
        "sample_blocks is set, but the blocks of a cooperative launch wait for each other: all "
        "have to run";
    return errors_.report(problem, cudaErrorNotSupported);
  }
  launch.regions = memory_.regions_for_launch(launch.settings.initcheck);
  if (launch.kernel->uses_heap || device_heap_exists()) {
    Region heap = device_heap();
    heap.watched = false;
    launch.regions.add(heap);
  }
  if (launch.cooperative) {
    launch.grid_workspace = std::make_shared<GridWorkspace>();
    launch.regions.add({reinterpret_cast<uint64_t>(launch.grid_workspace.get()),
                        sizeof(GridWorkspace), "grid workspace", "of grid.sync()", 2});
  }
  launch.number = ++num_launches_;
  {
    std::lock_guard lock(recording_);
    launch.counting = address_recordings_ > 0;
  }
  if (launch.checked()) {
    find_bases(modules_.kernel_of(function));
  }
  if (launch.counting) {
    launch.l1_bytes = l1_share(function, launch);
  }
  InterruptGuard interrupt;
  DeviceMemory::Opened opened(memory_.device());
  Result result = run_grid(launch, InterruptGuard::flag());
  for (auto& [cluster, text] : result.output) {
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  if (!result.output.empty()) {
    std::fflush(stdout);
  }
  for (const PlacedNote& note : placed(*launch.kernel, result.notes)) {
    if (note.note.odd && launch.checked() && told_.insert(note.note.text).second) {
      errors_.tell(note);
    }
  }
  {
    std::lock_guard lock(recording_);
    if (recordings_ > 0) {
      records_[next_record_++] = record_json(launch, result);
    }
  }
  if (launch.settings.initcheck) {
    memory_.note_writer(launch);
  }
  if (result.finding) {
    if (!errors_.attached()) {
      add_history(*result.finding);
    }
    return errors_.report(*result.finding, error_of(*result.finding), true);
  }
  return cudaSuccess;
}

// A token is the number of the next record; its lowest bit says whether addresses are counted.
uint64_t Launches::start_recording(bool addresses) {
  std::lock_guard lock(recording_);
  recordings_++;
  address_recordings_ += addresses;
  return next_record_ << 1 | addresses;
}

std::string Launches::stop_recording(uint64_t token) {
  std::lock_guard lock(recording_);
  std::string out = "[";
  for (auto it = records_.lower_bound(token >> 1); it != records_.end(); ++it) {
    out += (out.size() > 1 ? "," : "") + it->second;
  }
  address_recordings_ = std::max(0, address_recordings_ - static_cast<int>(token & 1));
  if (--recordings_ <= 0) {
    recordings_ = 0;
    records_.clear();
  }
  return out + "]";
}

}  // namespace wbsim
