// race_report.cpp: what a race or an uninitialised read looks like to a person.

#include <cxxabi.h>

#include <cstdlib>

#include "../place.h"
#include "checker.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

namespace {

std::string bytes_text(uint64_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); }

std::string place_text(const Kernel& kernel, uint32_t pc) {
  if (pc >= kernel.info.size()) {
    return "";
  }
  Place place = place_of(*kernel.module, *kernel.info[pc].source);
  return place.line == 0 ? "" : " at " + shorten(place.file) + ":" + std::to_string(place.line);
}

// "tile" for the mangled name of a __shared__ variable of a kernel.
std::string variable_name(const std::string& symbol) {
  int status = 0;
  char* pretty = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  std::string name = status == 0 ? pretty : symbol;
  std::free(pretty);
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
  if (!best) {
    return " (byte " + std::to_string(offset) + ")";
  }
  return " '" + variable_name(*best) + "' (byte " + std::to_string(offset + SHARED_BASE - start) +
         ")";
}

std::string in_global(const Region* region, uint64_t address) {
  return region ? " '" + region->name + "' (byte " + std::to_string(address - region->first) + ")"
                : "";
}

std::string what_text(const ptx::Instruction& source, Kind kind, uint64_t bytes) {
  const bool async = source.opcode == "wgmma" || (source.opcode == "cp" && kind == Kind::Load);
  const std::string who = source.opcode == "wgmma" ? "wgmma's " : async ? "the copy's " : "";
  const char* what = kind == Kind::Load ? "read" : kind == Kind::Store ? "write" : "atomic update";
  return who + what + " of " + bytes_text(bytes);
}

std::string thread_text(const Launch& launch, uint32_t thread) {
  const uint32_t* dims = launch.block;
  return "(" + std::to_string(thread % dims[0]) + ", " +
         std::to_string(thread / dims[0] % dims[1]) + ", " +
         std::to_string(thread / (dims[0] * dims[1])) + ")";
}

}  // namespace

void Checker::report(const Warp& w, const Inst* in, const WarpAccess& a, int lane, uint64_t offset,
                     const Other& other) const {
  const Kernel& kernel = *w.block->kernel;
  const ptx::Instruction& source = *kernel.info[pc_of(w, in)].source;
  const bool shared = a.where == WarpAccess::Where::Shared;
  const bool own_cluster = other.cluster == UINT32_MAX;
  const uint32_t warps = static_cast<uint32_t>(w.block->warps.size());
  const std::string where =
      shared ? " in shared memory" + in_shared(kernel, offset)
             : " in global memory" + in_global(launch_.regions.find(offset, 1, false), offset);
  const std::string there = place_text(kernel, other.pc);
  Finding f = finding_at(w, in, lane, "racecheck", "");
  f.address = offset;
  f.message = what_text(source, a.kind, a.bytes) + where;
  f.has_other = true;
  Place place = place_of(*kernel.module, *kernel.info[other.pc].source);
  f.other_file = place.file;
  f.other_line = place.line;
  const uint32_t agent = other.who.agent();
  if (!other.who.async()) {
    const uint32_t lane2 = other.who.lane();
    const uint32_t thread = agent % warps * LANES + lane2 % LANES;
    const bool known_lane = lane2 < LANES;
    std::string by = !known_lane ? "by threads of warp " + std::to_string(agent % warps)
                                 : "by thread " + thread_text(launch_, thread);
    if (!own_cluster) {
      by += " of " + std::string(launch_.cluster_size() == 1 ? "block " : "cluster ") +
            std::to_string(other.cluster);
    } else if (agent / warps != w.block->rank) {
      by += " of the cluster's block " + std::to_string(agent / warps);
    }
    if (known_lane) {
      const uint32_t* dims = launch_.block;
      f.has_other_thread = true;
      f.other_thread = {thread % dims[0], thread / dims[0] % dims[1], thread / (dims[0] * dims[1])};
    }
    const char* did =
        other.wrote ? other.who.atomic() ? "an atomic update " : "a write " : "a read ";
    if (other.unfenced) {
      f.message += " does not see " + std::string(did) + by + there + ": there is no proxy fence";
      f.hint =
          "asynchronous operations see what threads wrote only behind fence.proxy.async: each "
          "thread that wrote executes it, and then the barrier";
      throw f;
    }
    f.message += " races with " + std::string(did) + by + there;
    f.hint = !own_cluster
                 ? "blocks are ordered by the end of the kernel alone, or by an atomic flag behind "
                   "__threadfence(); what several blocks update needs atomics"
             : agent == order_.warp_agent(w)
                 ? "lanes of a warp do not run in step: __syncwarp() between the two orders them"
                 : "__syncthreads() between the two orders them";
    throw f;
  }
  if (agent < order_.num_warps()) {
    f.message += " while a cp.async" + there + " is still writing there";
    f.hint =
        "cp.async.wait_group or wait_all by the thread that copies, then __syncthreads() for the "
        "others";
  } else if (agent < 2 * order_.num_warps()) {
    f.message += " while wgmma" + there + " still reads it";
    f.hint = "wgmma.wait_group by its warpgroup first; then an mbarrier or a barrier tells others";
  } else if (agent < 3 * order_.num_warps()) {
    f.message += " while a bulk copy" + there + " still reads it";
    f.hint =
        "cp.async.bulk.wait_group.read by the thread that started the copy, then a barrier for the "
        "others";
  } else if (agent < 4 * order_.num_warps()) {
    f.message += " while a bulk copy" + there + " is still writing there";
    f.hint =
        "cp.async.bulk.wait_group by the thread that started the copy; with .read it waits for the "
        "source only";
  } else {
    f.message +=
        " while a copy" + there + (other.wrote ? " is still writing there" : " still reads it");
    f.hint = "wait for the copy's mbarrier first, with the parity of the phase it completes";
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
      ", which nobody has written";
  f.hint = shared ? "shared memory holds anything when a block starts: write it first, padding and "
                    "the ragged edge included"
                  : "memory of cudaMalloc and fresh outputs hold anything: write them first, or "
                    "clear them (cudaMemset)";
  throw f;
}

}  // namespace wbsim
