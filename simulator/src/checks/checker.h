// checker.h: looks for races, hazards of asynchronous operations and uninitialised reads in one
// cluster of blocks. Exists in launches with racecheck or initcheck; the scheduler and the handlers
// tell it what happens.
//
// A race: two threads touch the same bytes, at least one of them writes, not both are atomic, and
// nothing orders one access before the other: a barrier, a warp's synchronisation (shuffles and
// votes exchange values but do not order memory), an mbarrier, or a variable that one thread
// releases (by .release or after a fence) and the other reads afterwards. Two writes of the same
// value are not a race.
#pragma once

#include <map>
#include <span>
#include <unordered_map>

#include "checks/accumulators.h"
#include "checks/global_shadow.h"
#include "checks/happens_before.h"
#include "checks/shared_shadow.h"
#include "checks/undefined.h"
#include "exec/block.h"
#include "exec/observe.h"

namespace wbsim {

// log2 of the smallest access to a kind of memory, at most 2 and at least 0.
int smallest_access(const Kernel& kernel, ptx::Space space);

class Checker {
 public:
  Checker(const Launch& launch, Cluster& cluster, GlobalShadow* global);

  void start();  // the cluster begins
  HappensBefore& order() { return order_; }
  const HappensBefore& order() const { return order_; }
  AccumulatorCheck& accumulators() { return accumulators_; }
  UndefinedValues& undefined() { return undefined_; }
  bool races() const { return races_; }
  bool initialisation() const { return uninitialised_; }

  // A memory instruction is about to execute, and has executed: variables are read afterwards.
  void access(Warp& w, const Inst* in, const WarpAccess& a) {
    const bool strong =
        a.kind == WarpAccess::Kind::Atomic || w.block->kernel->info[pc_of(w, in)].strong;
    if (w.block->kernel->info[pc_of(w, in)].base >= 0) {
      stay_in_base(w, in, a);
    }
    if (a.where == WarpAccess::Where::Local) {
      if (w.unwritten_local) {
        undefined_.local_access(w, in, a);
      }
      return;
    }
    if (a.where == WarpAccess::Where::Shared) {
      shared_access(w, in, a, strong);
    } else if (a.where == WarpAccess::Where::Global) {
      if (races_ && a.kind == WarpAccess::Kind::Atomic && !atomics_.owns_lock()) {
        atomics_ = std::unique_lock(global_->atomics);
      }
      global_access(w, in, a, strong);
    }
    if (w.undefined || !undefined_pieces_.empty()) [[unlikely]] {
      follow_undefined(w, in, a);
    }
    if (strong && races_) {
      release_variables(w, in, a);
    }
  }
  void executed() {
    if (!acquires_.empty()) {
      acquire_variables();
    }
  }

  // ---- Asynchronous operations. The issuer is checked against what has happened; the operation's
  // own accesses last until its agent has been waited for.
  void async_write(const Issuer& issuer, SharedPlace to, uint32_t bytes, uint32_t agent,
                   bool atomic);
  void async_read(const Issuer& issuer, SharedPlace from, uint32_t bytes, uint32_t agent);
  // The same for pieces of `bytes` bytes each, at these offsets.
  void async_read(const Issuer& issuer, Block& block, std::span<const uint32_t> offsets,
                  uint32_t bytes, uint32_t agent);
  // A tensor copy, whose async_write follows.
  void tile_write(const Issuer& issuer, SharedPlace to, uint32_t bytes, Swizzle swizzle,
                  uint32_t row_bytes);
  // The tile that these bytes are part of, if a tensor copy that the lane has waited for was the
  // last to write all of them; else nullptr.
  const Tile* tile_at(const Issuer& issuer, const Block& block, uint32_t offset,
                      uint32_t bytes) const;
  bool is_written(const Block& block, uint32_t offset, uint32_t bytes) const;
  // cp.async: the lane's copy is in flight, and has taken effect: as if the lane wrote then.
  void lane_copy(Warp& w, const Inst* in, int lane, const uint8_t* to, uint32_t bytes);
  void lane_copied(Warp& w, int lane, const uint8_t* to, uint32_t bytes, Time when);
  // Global memory that a copy reads or writes as a whole.
  void global_copy(const Issuer& issuer, const void* at, uint64_t bytes, bool write,
                   bool atomic = false);
  // Lanes exit, and all threads of a block have exited: other blocks must have come to an end with
  // its shared memory before.
  void exits(Warp& w, Mask m);
  void ended(const Block& block) const;
  // The lanes use the shared memory of another block, and it can learn that they did.
  void visit(const Warp& w, const Inst* in, Mask m, const Block& owner);
  // The mbarrier object itself, which all threads use like an atomic.
  void use_mbarrier(const Issuer& issuer, SharedPlace at, bool init);

 private:
  // A variable that a lane reads with the current instruction.
  struct Acquire {
    Warp* warp;
    int lane;
    uint64_t address;
    bool global;
  };

  // An access of one lane; owner: of shared memory, nullptr for global memory.
  static WarpAccess by_lane(WarpAccess::Kind kind, Block* owner, int lane, uint64_t first,
                            uint64_t bytes);
  bool ordered(const Warp& w, int lane, Who who, Time time) const;
  uint32_t pc_of(const Warp& w, const Inst* in) const {
    return static_cast<uint32_t>(in - w.block->kernel->code.data());
  }

  // From the lowest byte that the lanes touch to just past the highest one.
  static std::pair<uint64_t, uint64_t> range_of(const WarpAccess& a);
  // Reports lanes that leave what their addresses are computed from (decode/bases.h) for another
  // variable or allocation.
  void stay_in_base(const Warp& w, const Inst* in, const WarpAccess& a);
  struct Home;
  const Home& home_of(const Warp& w, const Inst* in);
  [[noreturn]] void left_base(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                              const Home& home) const;

  void shared_access(Warp& w, const Inst* in, const WarpAccess& a, bool strong);
  void read_shared(Warp& w, const Inst* in, const WarpAccess& a, bool strong);
  void write_shared(Warp& w, const Inst* in, const WarpAccess& a, bool strong);
  struct Touch;    // an access, and what its warp knows
  struct Stretch;  // lanes of it
  struct Stretches;
  void write_stretch(const Touch& touch, const Stretch& stretch);
  void write_lane(Warp& w, const Inst* in, const WarpAccess& a, int lane, bool strong);
  // Reports the piece's last write, or an agent's last read, unless it is ordered before what the
  // lane does.
  void after_writes(const Touch& touch, const Stretch& stretch) const;
  void after_write(const Warp& w, const Inst* in, const WarpAccess& a, int lane, uint32_t piece,
                   bool strong) const;
  bool exchanged_in_warp(const Warp& w, const Inst* in, const WarpAccess& a, Who who,
                         uint32_t write_pc) const;
  void after_read(const Warp& w, const Inst* in, const WarpAccess& a, int lane, uint32_t piece,
                  uint32_t agent) const;
  // Whether a store writes what is already there, or what the other side writes in the very same
  // instruction. offset, size: of the piece.
  bool same_value(const Warp& w, const Inst* in, const WarpAccess& a, int lane, uint64_t offset,
                  size_t size, Who who, Time time, uint32_t other_pc) const;

  void global_access(Warp& w, const Inst* in, const WarpAccess& a, bool strong);
  struct GlobalTouch;  // an access to global memory, and what its warp knows
  void read_piece(GlobalTouch& touch, int lane, uint64_t address);
  void write_piece(GlobalTouch& touch, int lane, uint64_t address);
  void touch_pieces(GlobalTouch& touch, int lane, uint64_t first, uint64_t last);
  bool is_settled(const WarpAccess& a);
  void record_read(Piece& piece, Tag mine, uint32_t pc) const;
  // Reports the other access unless it is ordered before what the lane does, or no race.
  void after_access(GlobalTouch& touch, int lane, uint64_t address, Tag other, bool wrote,
                    uint32_t pc);
  bool ordered(const Warp& w, int lane, Tag tag);
  // Undefined values that go to memory and come from shared memory.
  void follow_undefined(Warp& w, const Inst* in, const WarpAccess& a);
  // Whether an access to shared memory may touch an undefined value there.
  bool holds_undefined(const WarpAccess& a) const;
  void undefined_in_global(Warp& w, const Inst* in, const WarpAccess& a);
  static constexpr size_t GROUP_STRIDE = 1 << 18;  // pieces: more than a block has bytes
  static size_t group_of(const Block& block, uint64_t piece) {
    return (block.rank * GROUP_STRIDE + piece) / SharedShadow::FEW;
  }
  static uint64_t piece_key(const Block& block, uint64_t piece) {
    return uint64_t{block.rank} << 32 | piece;
  }
  const Region* region_of(const Warp& w, const Inst* in, uint64_t address, uint64_t bytes,
                          bool write);
  Page& page_at(uint64_t address);

  // Variables through which threads synchronise.
  void acquire_variables();
  void release_variables(Warp& w, const Inst* in, const WarpAccess& a);

  // The other side of a race.
  struct Other {
    Who who;
    Time time;
    uint32_t pc;
    bool wrote;
    bool unfenced = false;          // ordered, but not for asynchronous operations
    uint32_t cluster = UINT32_MAX;  // if not this one
  };
  // What the report advises (race_hints.cpp): the other side is an asynchronous operation of this
  // cluster, or one of its threads.
  std::string operation_hint(const Warp& w, const Inst* in, int lane, const WarpAccess& a,
                             uint64_t offset, const Other& other) const;
  std::string ordering_hint(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                            const Other& other) const;
  [[noreturn]] void report(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                           uint64_t offset, const Other& other) const;
  [[noreturn]] void uninitialised(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                                  uint64_t offset) const;

  const Launch& launch_;
  Cluster& cluster_;
  HappensBefore order_;
  const bool races_, uninitialised_;
  int shift_;
  std::vector<std::unique_ptr<SharedShadow>> shadows_;  // by rank
  SharedShadow& shadow_of(const Block& block) const { return *shadows_[block.rank]; }
  std::vector<Acquire> acquires_;
  std::unique_lock<std::mutex> atomics_;  // from when an atomic is announced until it has executed
  GlobalShadow* global_;                  // of the launch
  // The last use of a block's shared memory by a warp of another one; and what the block's threads
  // knew when they exited.
  struct Visit {
    const Warp* warp;
    const Inst* in;
    Mask lanes;
    Time when;
  };
  struct Ending {
    std::vector<Visit> visits;  // one for each warp
    Knowledge knew;
  };
  std::vector<Ending> endings_;  // by rank
  AccumulatorCheck accumulators_;
  mutable std::map<uint32_t, bool> is_flag_;  // what a volatile load reads, by instruction
  UndefinedValues undefined_;
  std::unordered_map<uint64_t, Origin> undefined_pieces_;  // of shared memory, by piece_key
  std::vector<uint8_t> undefined_groups_;                  // of pieces, in which there were any
  int64_t copies_ = 0;                                     // of cp.async, in flight
  std::vector<const Region*> regions_;  // by instruction: the region that it touched last
  // What an instruction's addresses are computed from.
  struct Home {
    enum Kind : uint8_t { NotYet, Nothing, Variable, Memory } kind = NotYet;
    uint64_t first = 0, last = 0;  // offsets in shared memory, or addresses
    std::string name;              // of the variable
    const Region* region = nullptr;
  };
  std::vector<Home> homes_;  // by instruction
  struct CachedPage {
    uint64_t number = UINT64_MAX;
    Page* page = nullptr;
  };
  std::array<CachedPage, 256> pages_;
  // What was looked up last of other clusters: who knows it, and from which release.
  struct KnownCluster {
    ForeignRef foreign;
    ClockRef clock;
    uint32_t cluster = 0;
  };
  std::array<KnownCluster, 64> known_;
};

}  // namespace wbsim
