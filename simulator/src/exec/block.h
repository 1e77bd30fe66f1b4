// block.h: the state of what runs together: a block, a cluster of blocks, and the worker on whose
// core they run.
#pragma once

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "exec/launch.h"
#include "exec/warp.h"

namespace wbsim {

class Checker;       // of races (checks/)
class GlobalShadow;  // what the checkers of a launch share
struct Cluster;
struct Counting;   // counters of memory accesses (counting/)
class Footprint;   // (counting/)
class L1Cache;     // (counting/)
struct CopyQueue;  // asynchronous copies of a block (exec/ops/)
struct Worker;

// Bytes that start on a 1024-byte boundary: vector instructions prefer whole cache lines, and
// swizzles of shared memory repeat after 1024 bytes.
class Buffer {
 public:
  void assign(size_t bytes, uint8_t value) {
    data_.reset(static_cast<uint8_t*>(::operator new(bytes + 1, ALIGN)));
    std::memset(data_.get(), value, bytes);
  }
  uint8_t* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t ALIGN{1024};
  struct Delete {
    void operator()(uint8_t* p) const { ::operator delete(p, ALIGN); }
  };
  std::unique_ptr<uint8_t, Delete> data_;
};

// What bar.red computes from the predicates of all threads.
enum class BarrierResult : uint8_t { None, Count, All, Any };

struct Barrier {
  int arrived =
      0;  // threads; those that exited or never were in a warp arrive with its last live one
  int expected = 0;             // 0: all warps of the block
  const Inst* first = nullptr;  // of the arrivals
  int voters = 0, votes = 0;    // for bar.red: threads, and those whose predicate is true
};

struct Block {
  const Kernel* kernel = nullptr;
  Worker* worker = nullptr;
  Cluster* cluster = nullptr;
  uint64_t index = 0;  // in the grid
  uint32_t ctaid[3] = {0, 0, 0};
  uint32_t rank = 0;  // in the cluster
  uint8_t* shared = nullptr;
  uint32_t shared_bytes = 0;  // static and dynamic
  uint32_t local_bytes = 0;   // per lane
  const uint8_t* params = nullptr;
  std::vector<Warp> warps;
  Barrier barriers[16];
  int live_warps = 0;
  int ended_at_barrier = 0;  // threads that had exited at the last barrier, for reports
  std::map<uint32_t, uint32_t> mbarriers;  // by offset: how many phases of it are complete
  std::shared_ptr<CopyQueue> copies;
  std::shared_ptr<L1Cache> l1;       // in a launch that counts
  std::shared_ptr<Footprint> moved;  // likewise: to and from L2
  Buffer frames, shared_buffer, local;
};

// Blocks that run together; without clusters in the launch, one block.
struct Cluster {
  Worker* worker = nullptr;
  uint64_t index = 0;  // in the grid of clusters
  uint32_t id[3] = {0, 0, 0};
  std::vector<std::unique_ptr<Block>> blocks;  // by rank
  Mask barrier_phase = 0;                      // of barrier.cluster: 0 or ALL_LANES
  bool met = false;                            // all threads were at barrier.cluster once
  uint64_t instructions = 0;                   // executed so far
  int given_up = 0;  // times in a row that waits giving up was all that could happen
  uint64_t random = 0;
  std::string output;                // of printf
  std::shared_ptr<Checker> checker;  // in launches that look for races
};

// A worker runs clusters on one core: one after the other, or several in turns if they wait for
// each other.
struct Worker {
  // Of a run, at its first instruction; `skipped` of each instruction: threads with a false guard.
  struct RunCount {
    uint64_t warps = 0, threads = 0, skipped = 0;
  };
  const Launch* launch = nullptr;
  const std::atomic<bool>* stop = nullptr;         // another worker has found something
  const std::atomic<bool>* interrupted = nullptr;  // Ctrl-C
  GlobalShadow* global_shadow = nullptr;           // in launches that look for races
  std::vector<RunCount> counts;                    // parallel to Kernel::code
  std::shared_ptr<Counting> counting;              // of a launch that counts
  Notes notes;                                     // in launches that count or check
  std::vector<Span> allowed;  // by instruction: the region that it touched last
  std::vector<std::unique_ptr<Cluster>> running, spare;
  uint64_t slice = 0;        // instructions a warp may run before the others get a turn
  std::vector<Warp*> order;  // in which the warps take their turns
};

}  // namespace wbsim
