// race_report.cpp: how a race or an uninitialised read is reported.

#include <algorithm>

#include "checks/checker.h"
#include "checks/finding.h"
#include "checks/race_hints.h"
#include "checks/shared_variable.h"
#include "checks/spin_loop.h"
#include "decode/opcode.h"
#include "decode/place.h"
#include "exec/lanes.h"
#include "exec/ops/copy_queue.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

namespace {

std::string bytes_text(uint64_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); }

std::string in_global(const Region* region, uint64_t address) {
  if (!region) {
    return "";
  }
  const std::string byte = " (byte " + std::to_string(address - region->first) + " of " +
                           std::to_string(region->bytes) + ")";
  const bool unnamed = region->name.starts_with("cuda");  // the call that allocated it
  return (unnamed ? ", an allocation of " + region->name : " '" + region->name + "'") + byte;
}

std::string region_text(const Region& region) {
  const bool unnamed = region.name.starts_with("cuda");
  return (unnamed ? "an allocation of " + region.name : "'" + region.name + "'") + " (" +
         (region.text.empty() ? "" : region.text + ", ") + bytes_text(region.bytes) + ")";
}

bool is_initialisation(const ptx::Instruction& source) {
  return source.opcode == "mbarrier" && has(source, "init");
}

// "write of 4 bytes", "the copy's write of 1024 bytes".
std::string what_text(const ptx::Instruction& source, Kind kind, uint64_t bytes) {
  if (source.opcode == "mbarrier") {
    return is_initialisation(source) ? "initialisation of the mbarrier" : "use of the mbarrier";
  }
  const char* what = kind == Kind::Load ? "read" : kind == Kind::Store ? "write" : "atomic update";
  return (source.opcode == "wgmma" ? "wgmma's "
          : source.opcode == "cp"  ? "the copy's "
                                   : "") +
         (what + (" of " + bytes_text(bytes)));
}

// Whether a cp.async to a place in the block's memory is on its way.
bool is_copying_to(const Block& block, uint64_t offset) {
  const uint8_t* to = block.shared + offset;
  bool found = false;
  for (size_t i = 0; block.copies && i < block.copies->warps.size(); i++) {
    for (const LaneCopy& copy : block.copies->warps[i].copies) {
      for_lanes(copy.mask,
                [&](int l) { found |= to >= copy.to[l] && to < copy.to[l] + copy.bytes; });
    }
  }
  return found;
}

// What threads that had ended before the block's last barrier may have left undone.
std::string ended_text(const Block& block) {
  const int ended = block.ended_at_barrier;
  return ended == 0 ? ""
                    : std::to_string(ended) +
                          (ended == 1 ? " thread of the block" : " threads of the block") +
                          " ended before its last barrier: if they return early, let them stay and "
                          "write their part, and guard only what they may not do\n  ";
}

constexpr const char* INITIALISATION_HINT =
    "one thread initialises the mbarrier; __syncthreads() before another thread uses it, or "
    "cluster.sync() before a thread of another block does";

std::array<uint32_t, 3> thread_at(const Launch& launch, uint32_t index) {
  const uint32_t* dims = launch.block;
  return {index % dims[0], index / dims[0] % dims[1], index / (dims[0] * dims[1])};
}

}  // namespace

void Checker::report(const Warp& w, const Inst* in, const WarpAccess& a, int lane, uint64_t offset,
                     const Other& other) const {
  const Kernel& kernel = *w.block->kernel;
  const bool shared = a.where == WarpAccess::Where::Shared;
  const auto warps = static_cast<uint32_t>(w.block->warps.size());
  const ptx::Instruction& source = *kernel.info[pc_of(w, in)].source;
  Finding f = finding_at(w, in, lane, "racecheck", "");
  f.address = offset;
  const bool spins = is_plain_spin(kernel, pc_of(w, in));
  f.message =
      (spins ? "a spin loop's plain " : "") + what_text(source, a.kind, a.bytes) +
      (source.opcode == "mbarrier" ? " " + mbarrier_name({a.owner, static_cast<uint32_t>(offset)})
       : shared ? " in shared memory " + shared_place_text(kernel, offset)
                : " in global memory" + in_global(launch_.regions.find(offset, 1, false), offset));
  set_other(f, *kernel.module, *kernel.info[other.pc].source);
  const uint32_t agent = other.who.agent();
  const bool own_cluster = other.cluster == UINT32_MAX;
  std::string whose;
  if (!own_cluster) {
    whose = std::string(" of ") + (launch_.cluster_size() == 1 ? "block " : "cluster ") +
            std::to_string(other.cluster);
  } else if (agent < 4 * order_.num_warps() &&
             agent % order_.num_warps() / warps != w.block->rank) {
    whose = " of the cluster's block " + std::to_string(agent % order_.num_warps() / warps);
  }
  const bool copies =
      a.kind != Kind::Load && other.wrote && (source.opcode == "cp" || other.who.async());
  if (other.who.async()) {
    const Operation& operation = operation_of(order_, agent, other.wrote);
    f.other_what = operation.what + whose;
    f.message += " " + std::string(operation.does);
    f.message += whose.empty() ? "" : ": that" + whose;
    f.hint = own_cluster ? operation_hint(w, in, lane, a, offset, other)
                         : hint_between_blocks(copies, true);
    throw f;
  }
  const bool other_spins = !other.wrote && is_plain_spin(kernel, other.pc);
  const bool updated =
      other.who.atomic() && kernel.info[other.pc].source->opcode != "st";  // not a volatile write
  const bool initialised = is_initialisation(*kernel.info[other.pc].source);
  const std::string did = initialised   ? "initialisation"
                          : updated     ? "atomic update"
                          : other_spins ? "plain read in a spin loop"
                          : other.wrote ? "write"
                                        : "read";
  std::string by = (did[0] == 'a' ? "an " : initialised ? "its " : "a ") + did + " by ";
  if (other.who.lane() < LANES) {
    f.has_other_thread = true;
    f.other_thread = thread_at(launch_, agent % warps * LANES + other.who.lane());
    by += "thread " + triple_text(f.other_thread);
  } else {
    by += "several threads of warp " + std::to_string(agent % warps);
  }
  by += whose;
  f.other_what = "the " + did;
  if (other.unfenced) {
    f.message += " does not see " + by + ": there is no proxy fence";
    f.hint =
        "asynchronous operations see threads' writes only after fence.proxy.async: each thread "
        "that wrote executes it, and then the barrier";
  } else {
    f.message += " races with " + by;
    f.hint = initialised            ? INITIALISATION_HINT
             : spins || other_spins ? SPIN_HINT
             : own_cluster          ? ordering_hint(w, in, a, lane, other)
                                    : hint_between_blocks(copies, false);
  }
  throw f;
}

void Checker::uninitialised(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                            uint64_t offset) const {
  const Kernel& kernel = *w.block->kernel;
  const bool shared = a.where == WarpAccess::Where::Shared;
  Finding f = finding_at(w, in, lane, "initcheck", "");
  f.address = offset;
  f.message =
      what_text(*kernel.info[pc_of(w, in)].source, a.kind, a.bytes) +
      (shared ? " in shared memory " + shared_place_text(kernel, offset)
              : " in global memory" + in_global(launch_.regions.find(offset, 1, false), offset)) +
      (shared && a.owner != w.block ? " of the cluster's block " + std::to_string(a.owner->rank)
                                    : "") +
      ", which has not been written yet";
  f.hint =
      shared && a.owner != w.block
          ? "all threads of the cluster call cluster.sync() between that block's write and this "
            "read; what a copy or st.async sends needs the wait for its mbarrier"
      : shared ? ended_text(*w.block) + unwritten_hint(kernel, is_copying_to(*w.block, offset))
               : "memory of cudaMalloc and fresh outputs hold anything: write them first, or "
                 "clear them (cudaMemset)";
  throw f;
}

void Checker::left_base(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                        const Home& home) const {
  const Kernel& kernel = *w.block->kernel;
  const uint64_t at = a.at(lane);
  const bool shared = home.kind == Home::Variable;
  const std::string name = "'" + source_name(home.name) + "'";
  const std::string where = at < home.first   ? bytes_text(home.first - at) + " before the start"
                            : at < home.last  ? "across the end"
                            : at == home.last ? "just past the end"
                                              : bytes_text(at - home.last) + " past the end";
  std::string other = shared ? " " + shared_place_text(kernel, at)
                             : in_global(launch_.regions.find(at, 1, false), at);
  other.erase(0, other.starts_with(",") ? 1 : 0);
  Finding f = finding_at(w, in, lane, "memcheck", "");
  f.address = shared ? at : home.first;  // of global memory, the report tells where that is from
  f.message = "out-of-bounds " + what_text(*kernel.info[pc_of(w, in)].source, a.kind, a.bytes) +
              (shared ? " in shared memory, " : " in global memory, ") + where + " of " +
              (shared ? name + " (" + bytes_text(home.last - home.first) + ")"
                      : region_text(*home.region)) +
              (other.starts_with(" " + name) || other.empty() ? "" : "; it is in" + other);
  f.hint = shared ? "the address is computed from " + name + ": check the index against its size"
                  : "the address is computed from a pointer into the first: check the index "
                    "against its size";
  throw f;
}

}  // namespace wbsim
