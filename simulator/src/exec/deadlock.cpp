// deadlock.cpp: what the threads wait for when none of them can continue.

#include <algorithm>
#include <bit>
#include <map>
#include <string>
#include <vector>

#include "checks/finding.h"
#include "decode/opcode.h"
#include "decode/place.h"
#include "exec/block.h"
#include "exec/lanes.h"
#include "exec/ops/mbarrier.h"
#include "exec/scheduler.h"

namespace wbsim {
namespace {

// Something that threads wait for. The first of them decides what is reported.
struct Awaited {
  std::string what;   // "the mbarrier 'full'"
  std::string lacks;  // "1 of 2 arrivals is missing"
  std::string hint;
  // In the order of the report.
  enum Rank { Inconsistent, Divergent, BlockBarrier, WarpWide, Event } rank = Event;
  bool first = false;  // an mbarrier of which no phase is complete, and nobody has arrived
  Warp* warp = nullptr;
  const Inst* at = nullptr;
  int lane = 0;
  std::map<std::string, int> lines;  // where threads wait, and how many
};

std::string count(int64_t n, const char* what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

// " of block 1 of the cluster", or nothing without clusters.
std::string of_block(const Block& block) {
  return block.cluster->blocks.size() > 1
             ? " of block " + std::to_string(block.rank) + " of the cluster"
             : "";
}

int live_threads(const Cluster& cluster) {
  int live = 0;
  for (auto& block : cluster.blocks) {
    for (const Warp& w : block->warps) {
      live += std::popcount(w.live);
    }
  }
  return live;
}

// The instruction that a group waits at: threads at a barrier continue after it.
const Inst* instruction_of(const Group& g) { return g.state == Group::AtBarrier ? g.pc - 1 : g.pc; }

bool copies_tensors(const Kernel& kernel) {
  return std::any_of(kernel.info.begin(), kernel.info.end(), [](const InstInfo& info) {
    return info.source->opcode == "cp" && has(*info.source, "tensor");
  });
}

void describe_mbarrier(Awaited& a, const Issuer& issuer, const AwaitedPhase& phase) {
  const Lacks l = lacks(load_mbarrier(issuer, phase.at), phase.at);
  const auto known = phase.at.block->mbarriers.find(phase.at.offset);
  const uint32_t phases = known == phase.at.block->mbarriers.end() ? 0 : known->second;
  a.what = "the mbarrier " + mbarrier_name(phase.at);
  a.lacks = "phase " + std::to_string(phases) + " (parity " + std::to_string(int{phase.parity}) +
            "): " + lacks_text(l);
  a.first = phases == 0 && l.arrivals == l.of && !l.announced;
  if (l.arrivals == 0 && l.bytes != 0) {
    a.rank = Awaited::Inconsistent;
    a.hint =
        "expect_tx announces exactly the bytes that the copies of a phase bring: elements times "
        "their size" +
        std::string(copies_tensors(*issuer.block().kernel)
                        ? ", where a tensor's box counts in full, outside of the tensor as well"
                        : "");
  } else if (l.announced && l.arrivals == l.of) {
    a.rank = Awaited::Inconsistent;
    a.hint = l.bytes < 0 ? "nobody announced the bytes that came: mbarrier.arrive.expect_tx "
                           "announces them and arrives"
                         : "mbarrier.expect_tx announces bytes but does not arrive: "
                           "mbarrier.arrive.expect_tx does both";
  } else {
    a.hint =
        "each phase takes the arrivals that mbarrier.init counts: do all of those threads "
        "arrive, once a phase, and does none of them end before? Do others arrive, too? An "
        "arrival too many counts for the next phase";
  }
}

// The threads that wait at a barrier of the block.
int waiting_at(const Block& block, int id) {
  int n = 0;
  for (const Warp& w : block.warps) {
    for (const Group& g : w.parked) {
      n += g.state == Group::AtBarrier && g.barrier == id ? std::popcount(g.mask) : 0;
    }
  }
  return n;
}

void describe_barrier(Awaited& a, const Block& block, int id) {
  const Barrier& b = block.barriers[id];
  int live = 0;
  for (const Warp& w : block.warps) {
    live += std::popcount(w.live);
  }
  const int here = waiting_at(block, id);
  a.rank = Awaited::BlockBarrier;
  a.what = "barrier " + std::to_string(id) + (id == 0 ? " (__syncthreads)" : "") + of_block(block);
  a.lacks = (b.expected ? std::to_string(b.arrived) + " of its " + count(b.expected, "thread")
                        : std::to_string(here) + " of the block's " + count(live, "thread")) +
            " arrived";
  a.hint =
      "all threads that the barrier counts must reach it; do some leave a loop or return early?";
}

// Lanes as "lanes 3, 8-11".
std::string lanes_text(Mask m) {
  std::string text = std::popcount(m) == 1 ? "lane " : "lanes ";
  for (int l = 0, first = 1; l < LANES; l++) {
    if (!(m >> l & 1)) {
      continue;
    }
    const int run = std::countr_one(m >> l);
    text += (first ? "" : ", ") + std::to_string(l) +
            (run > 1 ? "-" + std::to_string(l + run - 1) : "");
    first = 0;
    l += run - 1;
  }
  return text;
}

void describe_warp_wide(Awaited& a, const Warp& w, const Group& g, bool barrier) {
  Mask there = 0;
  for (const Group& other : w.parked) {
    there |= other.state == Group::AtWarpSync && other.pc == g.pc ? other.active : 0;
  }
  const ptx::Instruction& source =
      *w.block->kernel->info[g.pc - w.block->kernel->code.data()].source;
  std::string name = source.opcode;
  for (const std::string& mod : source.mods) {
    name += "." + mod;
  }
  const Mask missing = g.members & w.live & ~there;
  a.lacks = lanes_text(missing) + " of warp " + std::to_string(w.index) + of_block(*w.block) +
            (std::popcount(missing) == 1 ? " is elsewhere" : " are elsewhere");
  if (barrier) {
    a.rank = Awaited::Divergent;
    a.what = "a barrier that other lanes of their warp never reach";
    a.hint = is_named_barrier(source)
                 ? "a barrier counts whole warps: all lanes of each of them reach it together"
                 : "__syncthreads() is for all threads of a block: move it out of the branch";
  } else {
    a.rank = Awaited::WarpWide;
    a.what = name + " that other lanes of their warp never reach";
    a.hint = has(source, "aligned")
                 ? "all lanes of a warp execute it together: move it out of the branch"
                 : "all lanes that its member mask names must execute it: move it out of the "
                   "branch, and give lanes without data a neutral value, such as 0 for a sum";
  }
}

void describe_cluster(Awaited& a, const Cluster& cluster) {
  int arrived = 0;
  for (auto& block : cluster.blocks) {
    for (const Warp& w : block->warps) {
      arrived += std::popcount(w.at_cluster & w.live);
    }
  }
  a.what = "the barrier of the cluster";
  a.lacks =
      std::to_string(arrived) + " of its " + count(live_threads(cluster), "thread") + " arrived";
  a.hint = "every block of a cluster arrives and waits once each phase";
}

// What a group waits for: a key that is the same for all that wait for it, and its description.
std::string describe(Awaited& a, Warp& w, const Group& g) {
  const Block& block = *w.block;
  const Inst* at = instruction_of(g);
  const InstInfo& info = block.kernel->info[at - block.kernel->code.data()];
  const std::string rank = std::to_string(block.rank) + " ";
  const int lane = std::countr_zero(g.mask);
  a.warp = &w, a.at = at, a.lane = lane;
  if (g.state == Group::AtBarrier) {
    describe_barrier(a, block, g.barrier);
    return "barrier " + rank + std::to_string(g.barrier);
  }
  if (g.state == Group::AtWarpSync) {
    describe_warp_wide(a, w, g, info.kind == InstInfo::Barrier);
    return "warp-wide " + rank + std::to_string(at - block.kernel->code.data());
  }
  if (auto phase = awaited_phase(w, at, lane)) {
    describe_mbarrier(a, {&w, at, lane}, *phase);
    return "mbarrier " + std::to_string(phase->at.block->rank) + " " +
           std::to_string(phase->at.offset);
  }
  if (info.kind == InstInfo::Barrier) {
    describe_cluster(a, *block.cluster);
    return "cluster";
  }
  a.what = info.source->opcode;
  a.lacks = "the other warps of the warpgroup never reach it";
  a.hint = "all four warps of a warpgroup execute it together";
  return "warpgroup " + rank + std::to_string(at - block.kernel->code.data());
}

// The line of the user's own function; empty if it is not known.
std::string line_at(const Warp& w, const Inst* in) {
  const Kernel& kernel = *w.block->kernel;
  const Place place = call_of(*kernel.module, *kernel.info[in - kernel.code.data()].source);
  return place.line ? line_text(place.file, place.line) : "";
}

// Everything that threads of the cluster wait for; what contradicts itself comes first.
std::vector<Awaited> awaited(Cluster& cluster) {
  std::vector<Awaited> all;
  std::map<std::string, size_t> known;
  std::map<const Inst*, std::string> lines;
  auto wait = [&](Warp& w, const Group& g) {
    Awaited a;
    const auto [found, added] = known.try_emplace(describe(a, w, g), all.size());
    if (added) {
      all.push_back(std::move(a));
    }
    auto [line, unknown] = lines.try_emplace(instruction_of(g));
    if (unknown) {
      line->second = line_at(w, instruction_of(g));
    }
    all[found->second].lines[line->second] += std::popcount(g.mask);
  };
  each_waiting(cluster, [&](Warp& w, const Group& g) {
    if (g.state != Group::AtEvent) {
      return wait(w, g);
    }
    for_lanes(g.mask, [&](int l) {  // they may wait for different mbarriers
      Group one = g;
      one.mask = Mask{1} << l;
      wait(w, one);
    });
  });
  std::stable_sort(all.begin(), all.end(),
                   [](const Awaited& a, const Awaited& b) { return a.rank < b.rank; });
  return all;
}

std::string text_of(const std::vector<Awaited>& all) {
  std::string text;
  for (const Awaited& a : all) {
    text += "\n  " + a.what + ": " + a.lacks;
    for (auto& [line, threads] : a.lines) {
      text += "\n    " + count(threads, "thread") + (threads == 1 ? " waits" : " wait") +
              (line.empty() ? "" : " at " + line);
    }
  }
  return text;
}

}  // namespace

std::string waits_text(Cluster& cluster) { return text_of(awaited(cluster)); }

Finding deadlock(Cluster& cluster) {
  std::vector<Awaited> all = awaited(cluster);
  // Lanes of a warp wait at different places: the first of them is the one in a branch.
  auto first_of_warp = all.begin();
  for (auto other = all.begin(); other != all.end(); ++other) {
    const bool diverged = other->rank == Awaited::Divergent || other->rank == Awaited::WarpWide;
    if (all[0].rank == Awaited::Divergent && diverged && other->warp == all[0].warp &&
        other->at < first_of_warp->at) {
      first_of_warp = other;
    }
  }
  std::rotate(all.begin(), first_of_warp, first_of_warp + 1);
  int waiting = 0;
  for (const Awaited& a : all) {
    for (auto& [line, threads] : a.lines) {
      waiting += threads;
    }
  }
  const auto threads = static_cast<int>(cluster.worker->launch->num_threads());
  const int ended = threads * static_cast<int>(cluster.blocks.size()) - live_threads(cluster);
  const Awaited& first = all.front();
  const bool mbarriers = std::all_of(
      all.begin(), all.end(), [](const Awaited& a) { return a.what.starts_with("the mbarrier "); });
  const std::string what = all.size() == 1 ? "for " + first.what
                           : mbarriers     ? "for " + std::to_string(all.size()) + " mbarriers"
                                           : "at " + std::to_string(all.size()) + " places";
  Finding finding = finding_at(
      *first.warp, first.at, first.lane, "synccheck",
      "deadlock: " + count(waiting, "thread") + (waiting == 1 ? " waits" : " wait") + " forever " +
          what + "; " +
          (ended ? count(ended, "thread") + (ended == 1 ? " has" : " have") : "no thread has") +
          " ended");
  const Kernel& kernel = *first.warp->block->kernel;
  name_call(finding, *kernel.module, *kernel.info[first.at - kernel.code.data()].source);
  finding.waits = text_of(all);
  finding.hint = first.hint;
  if (all.size() > 1 && std::all_of(all.begin(), all.end(), [](auto& a) { return a.first; })) {
    finding.hint =
        "none of them has completed a phase: each side waits for the other to go first. On a fresh "
        "mbarrier a wait for parity 1 passes at once: the producer starts with 1, and flips the "
        "parity each time around the ring";
  }
  return finding;
}

}  // namespace wbsim
