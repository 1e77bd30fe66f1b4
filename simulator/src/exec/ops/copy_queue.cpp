#include "exec/ops/copy_queue.h"

#include <algorithm>

#include "exec/control.h"

namespace wbsim {

CopyQueue& copies_of(Block& block) {
  if (!block.copies) {
    block.copies = std::make_shared<CopyQueue>();
    block.copies->warps.resize(block.warps.size());
  }
  return *block.copies;
}

void enqueue(SharedPlace mbarrier, Signal signal) {
  load_mbarrier(signal.issuer, mbarrier);
  copies_of(*mbarrier.block).signals[mbarrier.offset].push_back(std::move(signal));
  notify(*mbarrier.block->cluster);
}

bool has_signals(SharedPlace mbarrier) {
  return mbarrier.block->copies && mbarrier.block->copies->signals.contains(mbarrier.offset);
}

void complete_copies(const Issuer& issuer, SharedPlace mbarrier) {
  if (!has_signals(mbarrier)) {
    return;
  }
  auto& queues = mbarrier.block->copies->signals;
  auto found = queues.find(mbarrier.offset);
  Mbarrier before = load_mbarrier(issuer, mbarrier);
  uint64_t arrivals = 0;
  for (const Signal& signal : found->second) {
    arrivals += signal.arrivals;
  }
  if (before.pending > arrivals) {
    return;
  }
  while (!found->second.empty() && load_mbarrier(issuer, mbarrier).phase == before.phase) {
    Signal signal = std::move(found->second.front());
    found->second.pop_front();
    signal.apply();
    if (Checker* checker = mbarrier.block->cluster->checker.get()) {
      HappensBefore& order = checker->order();
      if (signal.issued) {
        order.copied(mbarrier, signal.issued);
      }
      order.arrive_mbarrier(mbarrier, signal.released);
    }
    if (signal.bytes) {
      complete_tx(signal.issuer, mbarrier, signal.bytes);
    }
    if (signal.arrivals) {
      arrive(signal.issuer, mbarrier, {.count = signal.arrivals});
    }
  }
  if (found->second.empty()) {
    queues.erase(found);
  }
}

void finish_stores(Warp& w, int lane, uint32_t end, bool read_only) {
  WarpCopies& copies = copies_of(w);
  Time issued = 0;
  auto due = [&](const BulkStore& s) { return s.lane == lane && s.group < end; };
  for (BulkStore& store : copies.stores) {
    if (!due(store)) {
      continue;
    }
    if (store.buffer.empty()) {
      store.buffer.resize(store.bytes);
      store.read(store.buffer.data());
    }
    issued = std::max(issued, store.issued);
    if (!read_only) {
      store.write(store.buffer.data());
    }
  }
  if (!read_only) {
    std::erase_if(copies.stores, due);
  }
  Checker* checker = w.block->cluster->checker.get();
  if (checker && issued) {
    HappensBefore& order = checker->order();
    const std::pair<uint32_t, Time> done[] = {
        {order.bulk_agent(w), issued}, {order.bulk_write_agent(order.warp_agent(w)), issued}};
    order.learn(w, Mask{1} << lane, std::span(done, read_only ? 1 : 2));
  }
}

void check_exit(const Warp& w, Mask m) {
  const Block& block = *w.block;
  if (!block.copies) {
    return;
  }
  const WarpCopies& copies = block.copies->warps[w.index];
  for (const BulkStore& store : copies.stores) {
    if (!(m >> store.lane & 1) || !store.buffer.empty() || store.bytes == 0) {
      continue;
    }
    Finding f = finding_at(w, store.in, store.lane, "racecheck",
                           "the thread exits while its copy may still read shared memory, which "
                           "ends with the block");
    f.hint = store.group == copies.bulk_committed[store.lane]
                 ? "the copy is in no group: cp.async.bulk.commit_group and cp.async.bulk."
                   "wait_group.read 0, by the thread that started it, before it exits"
                 : "cp.async.bulk.wait_group.read 0 by the thread that started the copy, before it "
                   "exits: no other thread can wait for it";
    throw f;
  }
  if (w.live || block.live_warps > 1) {
    return;
  }
  for (auto& [mbarrier, signals] : block.copies->signals) {
    for (const Signal& signal : signals) {
      if (signal.bytes) {
        Finding f = finding_at(
            *signal.issuer.warp, signal.issuer.in, signal.issuer.lane, "racecheck",
            "the block exits while a copy to its shared memory may be in flight: nobody waited "
            "for the mbarrier " +
                mbarrier_name({w.block, mbarrier}));
        f.hint =
            "wait for every copy before the block's last thread exits, and start none that nobody "
            "needs";
        throw f;
      }
    }
  }
}

// Loads that were never waited for are dropped; stores reach global memory.
void finish_copies(Block& block) {
  if (!block.copies) {
    return;
  }
  for (Warp& w : block.warps) {
    for (int lane = 0; lane < LANES && !copies_of(w).stores.empty(); lane++) {
      finish_stores(w, lane, UINT32_MAX, false);
    }
  }
  block.copies.reset();
}

}  // namespace wbsim
