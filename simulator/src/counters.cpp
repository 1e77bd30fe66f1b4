// counters.cpp: what a launch counted, summed over its kernel and by source line.
//
// The executor counts two numbers per instruction: how often a warp executed it and with how many
// lanes. Everything else follows from what the instruction is.

#include <charconv>
#include <map>

#include "place.h"
#include "runtime.h"

namespace wbsim {
namespace {

struct Counters {
  uint64_t warp_instructions = 0, thread_instructions = 0, flops = 0;
  uint64_t global_load_bytes = 0, global_store_bytes = 0, shared_load_bytes = 0,
           shared_store_bytes = 0;
  uint64_t local_bytes = 0, atomics = 0, barriers = 0;

  void add(const InstInfo& info, const Count& count) {
    warp_instructions += count.warps;
    thread_instructions += count.threads;
    flops += count.threads * info.flops;
    uint64_t bytes = count.threads * info.bytes;
    // Generic accesses count as global ones: nvcc writes them where it cannot tell the space.
    bool global = info.space == ptx::Space::Global || info.space == ptx::Space::Generic;
    switch (info.kind) {
      case InstInfo::Load:
        global_load_bytes += global ? bytes : 0;
        shared_load_bytes += info.space == ptx::Space::Shared ? bytes : 0;
        local_bytes += info.space == ptx::Space::Local ? bytes : 0;
        break;
      case InstInfo::Store:
        global_store_bytes += global ? bytes : 0;
        shared_store_bytes += info.space == ptx::Space::Shared ? bytes : 0;
        local_bytes += info.space == ptx::Space::Local ? bytes : 0;
        break;
      case InstInfo::Atomic:
        atomics += count.threads;
        break;
      case InstInfo::Barrier:
        barriers += count.warps;
        break;
      default:
        break;
    }
  }

  std::string json() const {
    std::string out;
    auto field = [&](const char* name, uint64_t value) {
      out += ",\"" + std::string(name) + "\":" + std::to_string(value);
    };
    field("warp_instructions", warp_instructions);
    field("thread_instructions", thread_instructions);
    field("flops", flops);
    field("global_load_bytes", global_load_bytes);
    field("global_store_bytes", global_store_bytes);
    field("shared_load_bytes", shared_load_bytes);
    field("shared_store_bytes", shared_store_bytes);
    field("local_bytes", local_bytes);
    field("atomics", atomics);
    field("barriers", barriers);
    return out;
  }
};

// Independent of the locale, which may want a comma.
std::string seconds_text(double seconds) {
  char buffer[32];
  auto end =
      std::to_chars(buffer, buffer + sizeof buffer, seconds, std::chars_format::fixed, 9).ptr;
  return {buffer, end};
}

// "ld.global.u32"
std::string form_of(const ptx::Instruction& inst) {
  std::string form = inst.opcode;
  for (const std::string& modifier : inst.mods) {
    form += "." + modifier;
  }
  return form;
}

std::string triple(const uint32_t v[3]) {
  return "[" + std::to_string(v[0]) + "," + std::to_string(v[1]) + "," + std::to_string(v[2]) + "]";
}

}  // namespace

std::string record_json(const Launch& launch, const Result& result) {
  const Kernel& kernel = *launch.kernel;
  Counters total;
  std::map<std::pair<std::string, int>, Counters> lines;
  std::map<std::string, uint64_t> forms;
  for (size_t i = 0; i < result.counts.size(); i++) {
    if (result.counts[i].warps == 0) {
      continue;
    }
    total.add(kernel.info[i], result.counts[i]);
    Place place = place_of(*kernel.module, *kernel.info[i].source);
    lines[{place.file, place.line}].add(kernel.info[i], result.counts[i]);
    forms[form_of(*kernel.info[i].source)] += result.counts[i].warps;
  }
  std::string out =
      "{\"kernel\":" + json_quote(kernel.pretty) + ",\"grid\":" + triple(launch.grid) +
      ",\"block\":" + triple(launch.block) +
      ",\"shared_bytes\":" + std::to_string(kernel.shared_bytes + launch.dynamic_shared) +
      ",\"seconds\":" + seconds_text(result.seconds) + total.json() + ",\"lines\":[";
  bool first = true;
  for (auto& [place, counters] : lines) {
    out += std::string(first ? "" : ",") + "{\"file\":" + json_quote(place.first) +
           ",\"line\":" + std::to_string(place.second) + counters.json() + "}";
    first = false;
  }
  out += "],\"forms\":{";
  first = true;
  for (auto& [form, warps] : forms) {
    out += std::string(first ? "" : ",") + json_quote(form) + ":" + std::to_string(warps);
    first = false;
  }
  return out + "}}";
}

}  // namespace wbsim
