// control.h: how handlers change which lanes run: branches, exits and waits, performed by the
// scheduler (scheduler.cpp); and what it needs to know of copies and products in flight.
#pragma once

#include "exec/warp.h"

namespace wbsim {

struct Block;
struct Cluster;

// Splits the running group: the lanes of `taken` continue at `target`, the rest after `in`.
const Inst* branch(Warp& w, const Inst* in, Mask taken, const Inst* target);
const Inst* exit_lanes(Warp& w, const Inst* in, Mask m);
// Arrives at a barrier of the block and, if `wait`, parks until `threads` (0: all) have arrived.
// votes: the predicates of bar.red.
const Inst* arrive_barrier(Warp& w, const Inst* in, Mask m, int id, int threads, bool wait,
                           Mask votes);
// Continues each lane of m at its own target, the others after `in`.
const Inst* scatter(Warp& w, const Inst* in, Mask m, const Inst* const targets[LANES]);
// The lanes of m wait until something happens in the cluster (notify), and then execute `in`
// again; the others continue. If `gives_up`, the wait has a time limit: once nothing else can
// happen any more, the lanes execute `in` again with their bits set in w.expired, which the
// handler clears.
const Inst* wait_here(Warp& w, const Inst* in, Mask m, bool gives_up);
// Something happened that a group of the cluster may wait for.
void notify(Cluster& cluster);
// Arrives at barrier.cluster, and waits for its phase.
// relaxed: what the threads wrote is released only by an earlier fence.
const Inst* arrive_cluster(Warp& w, const Inst* in, Mask m, bool relaxed);
const Inst* wait_cluster(Warp& w, const Inst* in, Mask m);
// Ends the warp's turn: the running group continues at `to` once the other warps have had theirs.
const Inst* yield(Warp& w, const Inst* to);

// ---- What is in flight (exec/ops/) --------------------------------------------------------------

// All threads of the block have exited: its copies to global memory take effect, the others are
// dropped.
void finish_copies(Block& block);

// Reports setmaxnreg that not all warps of a warpgroup execute, or that asks for more registers than
// there are, once all threads of the block have exited.
void check_set_registers(const Block& block);

// The warp's pending products take effect.
void complete_products(Warp& w);

}  // namespace wbsim
