// start.cpp: how a block begins: its memory, its warps, and the special registers (%tid, %ctaid).

#include <algorithm>

#include "checks/checker.h"
#include "counting/footprint.h"
#include "counting/l1_cache.h"
#include "exec/block.h"

namespace wbsim {
namespace {

void place_thread(const Launch& launch, uint32_t thread, uint32_t out[3]) {
  out[0] = thread % launch.block[0];
  out[1] = thread / launch.block[0] % launch.block[1];
  out[2] = thread / (launch.block[0] * launch.block[1]);
}

uint64_t special_value(const Launch& launch, const Warp& w, Special special, int lane) {
  uint32_t tid[3];
  place_thread(launch, w.index * LANES + lane, tid);
  const uint32_t* ctaid = w.block->ctaid;
  const Cluster& cluster = *w.block->cluster;
  Mask eq = 1u << lane;
  switch (special) {
    case Special::TidX:
      return tid[0];
    case Special::TidY:
      return tid[1];
    case Special::TidZ:
      return tid[2];
    case Special::NtidX:
      return launch.block[0];
    case Special::NtidY:
      return launch.block[1];
    case Special::NtidZ:
      return launch.block[2];
    case Special::CtaidX:
      return ctaid[0];
    case Special::CtaidY:
      return ctaid[1];
    case Special::CtaidZ:
      return ctaid[2];
    case Special::NctaidX:
      return launch.grid[0];
    case Special::NctaidY:
      return launch.grid[1];
    case Special::NctaidZ:
      return launch.grid[2];
    case Special::LaneId:
      return lane;
    case Special::WarpId:
      return w.index;
    case Special::NWarpId:
      return w.block->warps.size();
    case Special::LaneMaskEq:
      return eq;
    case Special::LaneMaskLe:
      return eq | (eq - 1);
    case Special::LaneMaskLt:
      return eq - 1;
    case Special::LaneMaskGe:
      return ~(eq - 1);
    case Special::LaneMaskGt:
      return ~(eq | (eq - 1));
    case Special::DynamicSmemSize:
      return launch.dynamic_shared;
    case Special::TotalSmemSize:
      return w.block->shared_bytes;
    case Special::SmId:
      return w.block->index % NUM_SMS;
    case Special::NSmId:
      return NUM_SMS;
    case Special::GridId:
      return launch.number;
    case Special::WarpSize:
      return LANES;
    case Special::ClusterIdX:
      return cluster.id[0];
    case Special::ClusterIdY:
      return cluster.id[1];
    case Special::ClusterIdZ:
      return cluster.id[2];
    case Special::NClusterIdX:
      return launch.grid[0] / launch.cluster[0];
    case Special::NClusterIdY:
      return launch.grid[1] / launch.cluster[1];
    case Special::NClusterIdZ:
      return launch.grid[2] / launch.cluster[2];
    case Special::ClusterCtaidX:
      return ctaid[0] % launch.cluster[0];
    case Special::ClusterCtaidY:
      return ctaid[1] % launch.cluster[1];
    case Special::ClusterCtaidZ:
      return ctaid[2] % launch.cluster[2];
    case Special::ClusterNctaidX:
      return launch.cluster[0];
    case Special::ClusterNctaidY:
      return launch.cluster[1];
    case Special::ClusterNctaidZ:
      return launch.cluster[2];
    case Special::ClusterCtarank:
      return w.block->rank;
    case Special::ClusterNctarank:
      return launch.cluster_size();
    case Special::IsExplicitCluster:
      return launch.explicit_cluster;
    case Special::EnvReg1:
      return reinterpret_cast<uint64_t>(launch.grid_workspace.get()) >> 32;
    case Special::EnvReg2:
      return reinterpret_cast<uint64_t>(launch.grid_workspace.get()) & UINT32_MAX;
    case Special::AggrSmemSize:
      return w.block->shared_bytes;
    default:
      return 0;
  }
}

void fill_specials(const Launch& launch, Warp& w, bool first_block) {
  for (auto& s : launch.kernel->specials) {
    bool changes = (s.special >= Special::CtaidX && s.special <= Special::CtaidZ) ||
                   (s.special >= Special::ClusterIdX && s.special <= Special::ClusterCtarank) ||
                   s.special == Special::SmId;
    if (!first_block && !changes) {
      continue;
    }
    if (s.lane_bytes == 0) {
      w.pred(s.slot) = special_value(launch, w, s.special, 0) ? ALL_LANES : 0;
      continue;
    }
    for (int lane = 0; lane < LANES; lane++) {
      uint64_t value = special_value(launch, w, s.special, lane);
      if (s.lane_bytes == 8) {
        w.reg<uint64_t>(s.slot)[lane] = value;
      } else {
        w.reg<uint32_t>(s.slot)[lane] = static_cast<uint32_t>(value);
      }
    }
  }
}

// Buffers of a block, once per launch.
void prepare(const Launch& launch, Block& block) {
  const Kernel& kernel = *launch.kernel;
  size_t num_warps = (launch.num_threads() + LANES - 1) / LANES;
  block.kernel = &kernel;
  block.params = launch.params.data();
  block.shared_bytes = kernel.shared_bytes + launch.dynamic_shared;
  block.local_bytes = launch.local_bytes();
  block.shared_buffer.assign(block.shared_bytes, 0xff);
  block.shared = block.shared_buffer.data();
  block.frames.assign(num_warps * kernel.frame.size(), 0xff);
  block.local.assign(num_warps * LANES * block.local_bytes, 0xff);
  block.warps.resize(num_warps);
  for (size_t i = 0; i < num_warps; i++) {
    Warp& w = block.warps[i];
    w.index = static_cast<int>(i);
    w.block = &block;
    w.shared = block.shared;
    w.shared_bytes = block.shared_bytes;
    w.allowed = block.worker->allowed.data();
    w.frame = block.frames.data() + i * kernel.frame.size();
    std::memcpy(w.frame, kernel.frame.data(), kernel.frame.size());
    w.local = block.local.data() + i * LANES * block.local_bytes;
  }
}

// Registers, shared and local memory start as NaN bytes in every block, so that uninitialised data
// shows in the result.
void start_block(const Launch& launch, Block& block) {
  bool first = block.kernel == nullptr;
  if (first) {
    prepare(launch, block);
  } else {
    std::memset(block.shared, 0xff, block.shared_bytes);
    std::memset(block.local.data(), 0xff, block.warps.size() * LANES * block.local_bytes);
    for (Warp& w : block.warps) {
      std::memset(w.frame, 0xff, launch.kernel->register_bytes);
    }
  }
  for (int d = 0; d < 3; d++) {
    uint32_t before = d == 0   ? 1
                      : d == 1 ? launch.cluster[0]
                               : launch.cluster[0] * launch.cluster[1];
    block.ctaid[d] =
        block.cluster->id[d] * launch.cluster[d] + block.rank / before % launch.cluster[d];
  }
  block.index = block.ctaid[0] + uint64_t{launch.grid[0]} *
                                     (block.ctaid[1] + uint64_t{launch.grid[1]} * block.ctaid[2]);
  std::fill(std::begin(block.barriers), std::end(block.barriers), Barrier{});
  block.live_warps = static_cast<int>(block.warps.size());
  block.copies.reset();
  block.mbarriers.clear();
  block.ended_at_barrier = 0;
  if (launch.counting) {
    block.l1 = block.l1 ? block.l1 : std::make_shared<L1Cache>();
    block.l1->reset(launch.l1_bytes);
    block.moved = block.moved ? block.moved : std::make_shared<Footprint>();
    block.moved->clear();
  }
  for (Warp& w : block.warps) {
    uint32_t threads = launch.num_threads() - w.index * LANES;
    w.live = threads >= LANES ? ALL_LANES : (1u << threads) - 1;
    w.carry = w.expired = w.at_cluster = w.cluster_phase = 0;
    w.spun = nullptr;
    w.products.reset();
    w.set_registers = nullptr;
    w.num_set_registers = 0;
    std::fill(std::begin(w.stack_top), std::end(w.stack_top), launch.kernel->body().stack_bytes);
    for (auto& saved : w.saved) {
      saved.clear();
    }
    w.parked.assign(1, {launch.kernel->entry(), w.live, Group::Ready});
    fill_specials(launch, w, first);
  }
}

}  // namespace

void start_cluster(Worker& worker, Cluster& cluster, uint64_t index) {
  const Launch& launch = *worker.launch;
  cluster.worker = &worker;
  cluster.index = index;
  uint64_t num_x = launch.grid[0] / launch.cluster[0], num_y = launch.grid[1] / launch.cluster[1];
  cluster.id[0] = static_cast<uint32_t>(index % num_x);
  cluster.id[1] = static_cast<uint32_t>(index / num_x % num_y);
  cluster.id[2] = static_cast<uint32_t>(index / (num_x * num_y));
  cluster.barrier_phase = 0;
  cluster.met = false;
  cluster.instructions = 0;
  cluster.given_up = 0;
  cluster.output.clear();
  cluster.random = launch.settings.seed * 0x9e3779b97f4a7c15ull + index + 1;
  while (cluster.blocks.size() < launch.cluster_size()) {
    cluster.blocks.push_back(std::make_unique<Block>());
    Block& block = *cluster.blocks.back();
    block.worker = &worker;
    block.cluster = &cluster;
    block.rank = static_cast<uint32_t>(cluster.blocks.size() - 1);
  }
  for (auto& block : cluster.blocks) {
    start_block(launch, *block);
  }
  if (launch.checked()) {
    if (!cluster.checker) {
      cluster.checker = std::make_shared<Checker>(launch, cluster, worker.global_shadow);
    }
    cluster.checker->start();
  }
}

}  // namespace wbsim
