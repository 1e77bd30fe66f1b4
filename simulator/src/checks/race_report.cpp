// race_report.cpp: how a race or an uninitialised read is reported.

#include <algorithm>

#include "checks/checker.h"
#include "checks/finding.h"
#include "decode/names.h"
#include "decode/place.h"
#include "exec/shared_window.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

namespace {

std::string bytes_text(uint64_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); }

// "tile" for the mangled name of a __shared__ variable of a kernel.
std::string variable_name(const std::string& symbol) {
  std::string name = demangled(symbol);
  size_t colons = name.rfind("::");
  return colons == std::string::npos ? name : name.substr(colons + 2);
}

// Where in shared memory: " 'tile' (byte 12)".
std::string in_shared(const Kernel& kernel, uint64_t offset) {
  const std::string* best = nullptr;
  uint64_t start = 0;
  auto consider = [&](const std::string& name, ptx::Space space, uint64_t address) {
    if (space == ptx::Space::Shared && address <= offset + SHARED_BASE && address >= start) {
      best = &name;
      start = address;
    }
  };
  for (auto& function : kernel.functions) {
    for (auto& [name, at] : function->addresses) {
      consider(name, at.first, at.second);
    }
  }
  for (auto& [name, address] : kernel.shared) {
    consider(name, ptx::Space::Shared, address);
  }
  if (!best) {
    return " (byte " + std::to_string(offset) + ")";
  }
  return " '" + variable_name(*best) + "' (byte " + std::to_string(offset + SHARED_BASE - start) +
         ")";
}

std::string in_global(const Region* region, uint64_t address) {
  if (!region) {
    return "";
  }
  const std::string byte = " (byte " + std::to_string(address - region->first) + " of " +
                           std::to_string(region->bytes) + ")";
  const bool unnamed = region->name.starts_with("cuda");  // the call that allocated it
  return (unnamed ? ", an allocation of " + region->name : " '" + region->name + "'") + byte;
}

// "write of 4 bytes", "the copy's write of 1024 bytes".
std::string what_text(const ptx::Instruction& source, Kind kind, uint64_t bytes) {
  const char* what = kind == Kind::Load ? "read" : kind == Kind::Store ? "write" : "atomic update";
  return (source.opcode == "wgmma" ? "wgmma's "
          : source.opcode == "cp"  ? "the copy's "
                                   : "") +
         (what + (" of " + bytes_text(bytes)));
}

std::array<uint32_t, 3> thread_at(const Launch& launch, uint32_t index) {
  const uint32_t* dims = launch.block;
  return {index % dims[0], index / dims[0] % dims[1], index / (dims[0] * dims[1])};
}

bool has_opcode(const Kernel& kernel, std::string_view opcode) {
  return std::any_of(kernel.info.begin(), kernel.info.end(),
                     [&](const InstInfo& info) { return info.source->opcode == opcode; });
}

// An asynchronous operation that is the other side of a race: what it has yet to do, and what to
// wait for.
struct Operation {
  const char* what;
  const char* does;
  const char* hint;
};

constexpr Operation LANE_COPY = {
    "the copy", "while cp.async is still writing there",
    "cp.async.wait_group or wait_all by the thread that copies, then __syncthreads() for the "
    "others"};
constexpr Operation PRODUCT = {
    "the product", "while wgmma is still reading it",
    "wgmma.wait_group by its warpgroup first; then an mbarrier or a barrier tells others"};
constexpr Operation STORE_READS = {
    "the copy", "while a bulk copy is still reading it",
    "cp.async.bulk.wait_group.read by the thread that started the copy, then a barrier for the "
    "others"};
constexpr Operation STORE_WRITES = {
    "the copy", "while a bulk copy is still writing there",
    "cp.async.bulk.wait_group by the thread that started the copy; with .read it waits for the "
    "source only"};
constexpr Operation LOAD_WRITES = {
    "the copy", "while a bulk copy is still writing there",
    "wait for the copy's mbarrier first, with the parity of the phase that it completes"};
constexpr Operation LOAD_READS = {
    "the copy", "while a bulk copy is still reading it",
    "wait for the copy's mbarrier first, with the parity of the phase that it completes"};

constexpr const char* BETWEEN_BLOCKS =
    "blocks see each other's writes at the end of the kernel, or after a flag: write, "
    "__threadfence(), atomic on one side, atomic and then read on the other. A sum of several "
    "blocks needs atomicAdd; a barrier of the grid is grid.sync() of a cooperative launch";

}  // namespace

// What orders the two sides of a race between threads of one cluster.
std::string Checker::ordering_hint(const Warp& w, const Inst* in, const WarpAccess& a,
                                   const Other& other) const {
  const Kernel& kernel = *w.block->kernel;
  const uint32_t warps = static_cast<uint32_t>(w.block->warps.size());
  const bool copies = kernel.info[pc_of(w, in)].source->opcode == "cp";
  if (copies && !other.wrote) {
    return "the reads come first: let the readers arrive on an mbarrier that the copying thread "
           "waits for, or __syncthreads() before the next copy";
  }
  if (other.who.agent() / warps != w.block->rank) {
    return "cluster.sync(), the arrive and wait of barrier.cluster, between the two orders them";
  }
  if (other.pc == pc_of(w, in) && other.wrote && a.kind != Kind::Load) {
    return "several threads write one place: an atomic (atomicAdd), or a barrier between the "
           "rounds";
  }
  std::string hint = "__syncthreads() between the two orders them";
  if (other.who.agent() == order_.warp_agent(w)) {
    hint +=
        ", or __syncwarp() if no other warp uses the data: lanes of a warp do not run in lockstep";
  } else if (has_opcode(kernel, "mbarrier")) {
    hint += ", or an mbarrier on which one side arrives and for whose phase the other waits";
  }
  return hint;
}

void Checker::report(const Warp& w, const Inst* in, const WarpAccess& a, int lane, uint64_t offset,
                     const Other& other) const {
  const Kernel& kernel = *w.block->kernel;
  const bool shared = a.where == WarpAccess::Where::Shared;
  const auto warps = static_cast<uint32_t>(w.block->warps.size());
  Finding f = finding_at(w, in, lane, "racecheck", "");
  f.address = offset;
  f.message =
      what_text(*kernel.info[pc_of(w, in)].source, a.kind, a.bytes) +
      (shared ? " in shared memory" + in_shared(kernel, offset)
              : " in global memory" + in_global(launch_.regions.find(offset, 1, false), offset));
  set_other(f, *kernel.module, *kernel.info[other.pc].source);
  const uint32_t agent = other.who.agent();
  if (other.who.async()) {
    const Operation& operation = agent < order_.num_warps()       ? LANE_COPY
                                 : agent < 2 * order_.num_warps() ? PRODUCT
                                 : agent < 3 * order_.num_warps() ? STORE_READS
                                 : agent < 4 * order_.num_warps() ? STORE_WRITES
                                 : other.wrote                    ? LOAD_WRITES
                                                                  : LOAD_READS;
    f.other_what = operation.what;
    f.message += " " + std::string(operation.does);
    f.hint = operation.hint;
    throw f;
  }
  const bool own_cluster = other.cluster == UINT32_MAX;
  const std::string did = other.who.atomic() ? "atomic update" : other.wrote ? "write" : "read";
  std::string by = (did[0] == 'a' ? "an " : "a ") + did + " by ";
  if (other.who.lane() < LANES) {
    f.has_other_thread = true;
    f.other_thread = thread_at(launch_, agent % warps * LANES + other.who.lane());
    by += "thread " + triple_text(f.other_thread);
  } else {
    by += "several threads of warp " + std::to_string(agent % warps);
  }
  if (!own_cluster) {
    by += std::string(" of ") + (launch_.cluster_size() == 1 ? "block " : "cluster ") +
          std::to_string(other.cluster);
  } else if (agent / warps != w.block->rank) {
    by += " of the cluster's block " + std::to_string(agent / warps);
  }
  f.other_what = "the " + did;
  if (other.unfenced) {
    f.message += " does not see " + by + ": there is no proxy fence";
    f.hint =
        "asynchronous operations see threads' writes only after fence.proxy.async: each thread "
        "that wrote executes it, and then the barrier";
  } else {
    f.message += " races with " + by;
    f.hint = own_cluster ? ordering_hint(w, in, a, other) : BETWEEN_BLOCKS;
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
      (shared ? " in shared memory" + in_shared(kernel, offset)
              : " in global memory" + in_global(launch_.regions.find(offset, 1, false), offset)) +
      ", which has not been written yet";
  f.hint = shared ? "if another thread writes it: __syncthreads() after the write and before this "
                    "read. Otherwise: shared memory is uninitialised when a block starts, the "
                    "padding and the ragged edge of a tile included"
                  : "memory of cudaMalloc and fresh outputs hold anything: write them first, or "
                    "clear them (cudaMemset)";
  throw f;
}

}  // namespace wbsim
