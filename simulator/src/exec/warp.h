// warp.h: the state of a running warp and block, and the helpers that instruction handlers are
// written with.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "decode/program.h"
#include "exec/launch.h"
#include "runtime/memory.h"

namespace wbsim {

constexpr uint32_t SHARED_BASE = 1024;  // shared addresses start here, as on sm_90

struct Block;
struct Cluster;
class Checker;        // of races (checks/)
class GlobalShadow;   // what the checkers of a launch share
struct Counting;      // counters of memory accesses (counting/)
class Footprint;      // (counting/)
class L1Cache;        // (counting/)
struct CopyQueue;     // asynchronous copies of a block (ops/)
struct ProductQueue;  // wgmma products of a warp (ops/)
struct Worker;

// Bytes that start on a 1024-byte boundary: vector instructions like cache lines, swizzles of
// shared memory repeat after 1024 bytes.
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

// Addresses from `first` up to `last`.
struct Span {
  uint64_t first = 1, last = 0;
};

// Lanes of a warp that share a pc. A warp is a set of these; the one with the smallest pc runs.
struct Group {
  const Inst* pc;
  Mask mask;
  // AtEvent: executes pc again when something happened in its cluster.
  enum State : uint8_t { Ready, AtBarrier, AtWarpSync, AtEvent } state = Ready;
  uint8_t barrier = 0;
  Mask active = 0;        // AtWarpSync: the lanes of mask that its guard lets through
  Mask members = 0;       // AtWarpSync: the lanes it waits for
  bool gives_up = false;  // AtEvent: a wait with a time limit
};

struct Warp {
  uint8_t* frame = nullptr;
  Block* block = nullptr;
  uint8_t* shared = nullptr;  // of the block
  uint32_t shared_bytes = 0;
  uint8_t* local = nullptr;    // LANES * Block::local_bytes
  Span* allowed = nullptr;     // beside Kernel::code: the memory each instruction touched last
  Mask mask = 0;               // lanes of the running group
  Mask live = 0;               // lanes that have not exited
  Mask carry = 0;              // CC.CF of each lane
  Mask expired = 0;            // lanes whose wait with a time limit has run out of time
  Mask at_cluster = 0;         // lanes that arrived at the current phase of the cluster's barrier
  Mask cluster_phase = 0;      // parity of the phase of that barrier each lane arrived at last
  const Inst* stop = HALT;     // the nearest pc of another ready group: reaching it means merging
  const Inst* spun = nullptr;  // where a group used up its time: another one goes next
  std::vector<Group> parked;   // every group but the running one
  int index = 0;
  std::shared_ptr<ProductQueue> products;
  uint32_t stack_top[LANES];          // of each lane: where the next stack frame starts
  std::vector<uint8_t> saved[LANES];  // registers of functions that call themselves

  template <class T>
  T* reg(uint32_t slot) {
    return reinterpret_cast<T*>(frame + slot);
  }
  Mask& pred(uint32_t slot) { return *reinterpret_cast<Mask*>(frame + slot); }
};

// What bar.red makes of the predicates of all threads.
enum class BarrierResult : uint8_t { None, Count, All, Any };

struct Barrier {
  int arrived =
      0;  // threads; those that exited or never were in a warp arrive with its last live one
  int expected = 0;           // 0: all warps of the block
  int voters = 0, votes = 0;  // of bar.red: threads, and those whose predicate is true
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
  uint32_t local_bytes = 0;   // of a lane
  const uint8_t* params = nullptr;
  std::vector<Warp> warps;
  Barrier barriers[16];
  int live_warps = 0;
  std::shared_ptr<CopyQueue> copies;
  std::shared_ptr<L1Cache> l1;       // in a launch that counts
  std::shared_ptr<Footprint> moved;  // the same: to and from L2
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
  int given_up = 0;  // times in a row that nothing but giving up could happen
  uint64_t random = 0;
  std::string output;                // of printf
  std::shared_ptr<Checker> checker;  // in launches that look for races
};

// A worker runs clusters on one core: one after the other, or several in turns if they wait for
// each other.
struct Worker {
  // What ran: of a run, at its first instruction; `skipped` of each: threads whose guard was false.
  struct RunCount {
    uint64_t warps = 0, threads = 0, skipped = 0;
  };
  const Launch* launch = nullptr;
  const std::atomic<bool>* stop = nullptr;         // another worker found something
  const std::atomic<bool>* interrupted = nullptr;  // Ctrl-C
  GlobalShadow* global_shadow = nullptr;           // in launches that look for races
  std::vector<RunCount> counts;                    // beside Kernel::code
  std::shared_ptr<Counting> counting;              // of a launch that counts
  std::vector<Span> allowed;  // beside Kernel::code: the region this instruction touched last
  std::vector<std::unique_ptr<Cluster>> running, spare;
  uint64_t slice = 0;        // instructions a warp may run before the others get a turn
  std::vector<Warp*> order;  // in which the warps take their turns
};

// ---- Addresses of shared memory -----------------------------------------------------------------
// A shared::cta address is an offset in the executing block's window. A shared::cluster address is
// the same, or names a block: its rank plus one stands in the highest byte.

constexpr int RANK_SHIFT = 24;
constexpr uint32_t MAX_CLUSTER = 16;  // blocks
constexpr uint32_t OFFSET_MASK = (1u << RANK_SHIFT) - 1;

inline uint32_t cluster_address(uint32_t rank, uint32_t cta_address) {
  return ((rank + 1) << RANK_SHIFT) | (cta_address & OFFSET_MASK);
}

// The block that a shared::cluster address lies in, or nullptr: the cluster has no such block.
inline Block* block_at(Block& own, uint32_t address) {
  uint32_t rank = address >> RANK_SHIFT;
  return rank == 0                            ? &own
         : rank <= own.cluster->blocks.size() ? own.cluster->blocks[rank - 1].get()
                                              : nullptr;
}

// The block of the cluster whose shared memory holds a generic address, or nullptr.
inline Block* block_holding(Block& own, uint64_t generic) {
  for (auto& block : own.cluster->blocks) {
    uint64_t first = reinterpret_cast<uint64_t>(block->shared);
    if (generic - first < block->shared_bytes) {
      return block.get();
    }
  }
  return nullptr;
}

// ---- Helpers for handlers -----------------------------------------------------------------------

inline const Inst* next(const Inst* in) { return in + 1; }

template <class T>
inline void store_masked(T* __restrict__ to, const T* __restrict__ from, Mask m) {
  for (int l = 0; l < LANES; l++) {
    to[l] = (m >> l) & 1 ? from[l] : to[l];
  }
}

// dst[l] = f(a[l], b[l], c[l]) for the active lanes. f has no side effects, so with a partial mask
// all lanes are computed and only the active ones stored.
template <auto F, class D, class A>
const Inst* map1(Warp& w, const Inst* in, Mask m) {
  D* d = w.reg<D>(in->dst);
  const A* a = w.reg<A>(in->a);
  if (m == ALL_LANES) {
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
      d[l] = F(a[l]);
    }
  } else {
    alignas(64) D out[LANES];
    for (int l = 0; l < LANES; l++) {
      out[l] = F(a[l]);
    }
    store_masked(d, out, m);
  }
  return next(in);
}

template <auto F, class D, class A, class B = A>
const Inst* map2(Warp& w, const Inst* in, Mask m) {
  D* d = w.reg<D>(in->dst);
  const A* a = w.reg<A>(in->a);
  const B* b = w.reg<B>(in->b);
  if (m == ALL_LANES) {
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
      d[l] = F(a[l], b[l]);
    }
  } else {
    alignas(64) D out[LANES];
    for (int l = 0; l < LANES; l++) {
      out[l] = F(a[l], b[l]);
    }
    store_masked(d, out, m);
  }
  return next(in);
}

template <auto F, class D, class A, class B = A, class C = D>
const Inst* map3(Warp& w, const Inst* in, Mask m) {
  D* d = w.reg<D>(in->dst);
  const A* a = w.reg<A>(in->a);
  const B* b = w.reg<B>(in->b);
  const C* c = w.reg<C>(in->c);
  if (m == ALL_LANES) {
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
      d[l] = F(a[l], b[l], c[l]);
    }
  } else {
    alignas(64) D out[LANES];
    for (int l = 0; l < LANES; l++) {
      out[l] = F(a[l], b[l], c[l]);
    }
    store_masked(d, out, m);
  }
  return next(in);
}

// Calls f(lane) for every active lane, lowest first.
template <class F>
inline void for_lanes(Mask m, F f) {
  while (m) {
    f(__builtin_ctz(m));
    m &= m - 1;
  }
}

// ---- Control, implemented by the scheduler (scheduler.cpp) --------------------------------------

// Splits the running group: the lanes of `taken` continue at `target`, the rest behind `in`.
const Inst* branch(Warp& w, const Inst* in, Mask taken, const Inst* target);
const Inst* exit_lanes(Warp& w, const Inst* in, Mask m);
// Arrives at a barrier of the block and, if `wait`, parks until `threads` (0: all) have arrived.
// votes: the predicates of bar.red.
const Inst* arrive_barrier(Warp& w, const Inst* in, Mask m, int id, int threads, bool wait,
                           Mask votes);
// Continues each lane of m at its own target, the others behind `in`.
const Inst* scatter(Warp& w, const Inst* in, Mask m, const Inst* const targets[LANES]);
// The lanes of m wait until something happened in the cluster (notify), and then execute `in`
// again; the others go on. If `gives_up`, the wait has a time limit: when nothing else can happen
// any more, the lanes execute `in` again with their bits set in w.expired, which the handler
// clears.
const Inst* wait_here(Warp& w, const Inst* in, Mask m, bool gives_up);
// Something happened that a group of the cluster may wait for.
void notify(Cluster& cluster);
// Arrives at barrier.cluster, and waits for its phase.
// relaxed: what the threads wrote is not released but by a fence before.
const Inst* arrive_cluster(Warp& w, const Inst* in, Mask m, bool relaxed);
const Inst* wait_cluster(Warp& w, const Inst* in, Mask m);
// Ends the warp's turn: the running group goes on at `to` when the other warps have had theirs.
const Inst* yield(Warp& w, const Inst* to);

// ---- Mbarriers and asynchronous copies (ops/) ---------------------------------------------------

// What the mbarrier still lacks that a lane waits for at `in`; "" if it waits for something else.
std::string awaited_text(Warp& w, const Inst* in, int lane);

// All threads of the block have exited: its copies to global memory take effect, the others are
// dropped.
void finish_copies(Block& block);

// ---- Asynchronous matrix products (ops/wgmma_ops.cpp) -------------------------------------------

// The warp's pending products take effect.
void complete_products(Warp& w);

}  // namespace wbsim
