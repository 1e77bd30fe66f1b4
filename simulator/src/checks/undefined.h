// undefined.h: register values that nobody defined, and what is done with them.
//
// A value is undefined if a shuffle took it from a lane that did not take part, if its register was
// never written, or if it was loaded from local memory that the thread never wrote. Computing with
// it is no mistake, as many kernels discard the result; using it as an address, for a branch, for a
// warp-wide instruction or as a result in global memory is. Each bit counts by itself: two halves
// share a register, and structs have padding.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "checks/finding.h"
#include "exec/block.h"
#include "exec/observe.h"

namespace wbsim {

// Where an undefined value comes from.
struct Origin {
  enum Kind : uint8_t { Unset, Local, NoLane, Exited, NoMember };
  uint32_t pc = 0;  // of the shuffle or the load
  Kind kind = Unset;
  uint8_t lane = 0;     // that the shuffle read
  uint8_t threads = 0;  // of its warp

  bool is_shuffle() const { return kind >= NoLane; }
};

class UndefinedValues {
 public:
  explicit UndefinedValues(const Launch& launch) : launch_(launch) {}

  void start(Cluster& cluster);  // it begins

  // An instruction of a warp with undefined registers is about to be executed: the lanes m evaluate
  // its guard, or execute it. Both throw a finding if that uses an undefined value.
  void guard(Warp& w, const Inst* in, Mask m);
  void execute(Warp& w, const Inst* in, Mask m);
  // The lanes m shuffle: lane l has read lane from[l].
  void shuffle(Warp& w, const Inst* in, Mask m, const uint8_t from[LANES]);
  // A load, store or atomic update of local memory; a copy between places in that of a lane.
  void local_access(Warp& w, const Inst* in, const WarpAccess& a);
  void copy_local(Warp& w, int lane, uint32_t to, uint32_t from, uint32_t bytes);

  // A lane loads an element that is undefined.
  void loaded(Warp& w, const Inst* in, int lane, int element, const Origin& origin);
  // Whether any lane may store something undefined.
  bool may_store(const Warp& w, const Inst* in);
  // What a lane stores: which elements are undefined, as bits. 0 if only a part is that may be the
  // padding of a struct.
  uint32_t stored(Warp& w, const Inst* in, int lane, Origin& origin);

  // A lane enters a function, with its stack frame there; it returns to one that had saved its
  // registers.
  void enter(Warp& w, const FunctionCode& function, int lane, uint32_t frame);
  void restored(Warp& w, const FunctionCode& function, int lane);

  // What is done with an undefined value is a mistake.
  [[noreturn]] void report(const Warp& w, const Inst* in, int lane, const std::string& what,
                           const Origin& origin) const;

 private:
  // Of a warp.
  struct State {
    Buffer bits;                 // laid out like its frame: those that are undefined
    std::vector<uint8_t> flags;  // by slot / 4: whether a register has any
    uint32_t count = 0;          // of the flags
    std::unordered_map<uint32_t, std::array<Origin, LANES>> origins;  // by slot
    std::vector<uint8_t> local;                                       // Warp::unwritten_local
    std::map<uint32_t, Origin> local_origins;  // by place in it, of what was stored undefined
  };
  struct Step;  // an instruction of a warp (undefined_flow.cpp)

  State& state_of(const Warp& w);
  // "it comes from a shuffle that read lane 20, which has exited", the other side, what to do.
  void explain(Finding& finding, const Origin& origin) const;
  // Where a load puts an element; nullptr: nowhere.
  const Register* target_of(const Inst* in, int element) const;
  void load_local(Warp& w, const Inst* in, const WarpAccess& a);
  void store_local(Warp& w, const Inst* in, const WarpAccess& a);
  void unset(Warp& w, const FunctionCode& function, Mask m);
  void clear(State& s) const;
  static uint8_t* bits_of(const State& s, Register r, int lane) {
    return s.bits.data() + r.slot + lane * r.lane_bytes;
  }
  // The lanes of m in which some bits of a register are undefined.
  static Mask undefined(const State& s, Register r, Mask m);
  // In the lanes m all bits of a register become undefined, or defined.
  static void fill(State& s, Register r, Mask m, bool undefined);
  // The bits of a register have changed in the lanes m.
  static void changed(Warp& w, State& s, Register r, Mask m, const Origin origins[LANES]);

  const Launch& launch_;
  std::vector<State> states_;  // by warp of the cluster
};

}  // namespace wbsim
