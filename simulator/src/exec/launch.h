// launch.h: one kernel launch: its geometry, its settings, and how its blocks are run.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checks/finding.h"
#include "checks/note.h"
#include "decode/program.h"
#include "exec/memory.h"

namespace wbsim {

constexpr uint32_t NUM_SMS = 132;  // of the simulated device, an H200

enum class Order : uint8_t { Ascending, Descending, Random };

struct Settings {
  bool memcheck = true, racecheck = false, initcheck = false, synccheck = true;
  Order order = Order::Ascending;  // in which the warps of a block take turns
  uint64_t seed = 0;
  uint64_t instruction_limit = 1'000'000'000;  // warp instructions of one block
  int threads = 0;                             // 0: one per core
  uint64_t sample_blocks = 0;                  // clusters that run, spread over the grid; 0: all
};

// What cooperative groups need for grid.sync(); kernels find its address in %envreg1 and %envreg2.
struct GridWorkspace {
  uint32_t bytes = sizeof(GridWorkspace), barrier = 0;
};

struct Launch {
  const Kernel* kernel = nullptr;
  uint32_t grid[3] = {1, 1, 1};
  uint32_t block[3] = {1, 1, 1};
  uint32_t cluster[3] = {1, 1, 1};  // blocks; divides the grid
  bool explicit_cluster = false;
  bool cooperative = false;                       // all blocks run at the same time
  std::shared_ptr<GridWorkspace> grid_workspace;  // of a cooperative launch
  uint64_t stack_limit = 1024;                    // bytes of a thread's call stack
  uint32_t dynamic_shared = 0;
  uint64_t number = 0;    // of the launch in this process, from 1
  bool counting = false;  // addresses are counted, for a record
  uint64_t l1_bytes = 0;  // of a block's share of the L1 cache
  std::vector<uint8_t> params;
  RegionTable regions;  // as of the start of the launch: other threads keep registering
  Settings settings;

  // Whether memory instructions report what they touch (exec/observe.h).
  bool observed() const { return counting || checked(); }
  bool checked() const { return settings.racecheck || settings.initcheck; }
  uint64_t num_blocks() const { return uint64_t{grid[0]} * grid[1] * grid[2]; }
  uint32_t cluster_size() const { return cluster[0] * cluster[1] * cluster[2]; }
  uint32_t local_bytes() const;  // of a thread: its variables and its call stack
  uint64_t num_clusters() const { return num_blocks() / cluster_size(); }
  // How many clusters run, and which is the i-th of them.
  uint64_t num_sampled() const;
  uint64_t sampled(uint64_t i) const;
  uint32_t num_threads() const { return block[0] * block[1] * block[2]; }
};

struct Count {
  uint64_t warps = 0, threads = 0;
};

struct Counting;

struct Result {
  std::vector<Count> counts;               // parallel to Kernel::code
  std::shared_ptr<Counting> counting;      // of a launch that counts
  Notes notes;                             // of a launch that counts or checks
  std::optional<Finding> finding;          // what stopped the launch, if something did
  std::map<uint64_t, std::string> output;  // of printf, by cluster
  double seconds = 0;
};

// Runs all blocks on all cores and returns when the last one has finished. `interrupted` is checked
// while the kernel runs.
Result run_grid(const Launch& launch, const std::atomic<bool>& interrupted);

// What a worker does with a cluster of blocks. All throw Finding.
struct Cluster;
struct Worker;
void start_cluster(Worker& worker, Cluster& cluster, uint64_t index);
enum class Turn : uint8_t { Finished, Advanced, Spun };
// Gives every warp one turn. Spun: all that ran used up their time; they may wait for other blocks.
Turn run_turn(Cluster& cluster);

}  // namespace wbsim
