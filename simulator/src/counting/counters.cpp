// counters.cpp: what a launch counted, summed over its kernel and by source line.
//
// The executor counts two numbers per instruction: how often a warp executed it and with how many
// lanes. Work follows from what the instruction is; memory accesses are counted as they happen
// (counting/).

#include "counting/counters.h"

#include <charconv>
#include <cmath>
#include <map>

#include "counting/counting.h"
#include "counting/units.h"
#include "decode/place.h"

namespace wbsim {
namespace {

struct Counters {
  uint64_t warp_instructions = 0, thread_instructions = 0, flops = 0;
  uint64_t fp32_flops = 0, fp64_flops = 0, fp16_flops = 0, tensor_flops = 0;
  uint64_t special_function_ops = 0;
  uint64_t fp32_instructions = 0, fp64_instructions = 0, fp16_instructions = 0;
  uint64_t integer_instructions = 0, special_function_instructions = 0, tensor_instructions = 0;
  uint64_t memory_instructions = 0, control_instructions = 0;
  uint64_t global_load_bytes = 0, global_load_requests = 0, global_load_sectors = 0;
  uint64_t global_load_sectors_ideal = 0;
  uint64_t global_load_lines = 0;
  uint64_t global_store_bytes = 0, global_store_requests = 0, global_store_sectors = 0;
  uint64_t global_store_sectors_ideal = 0;
  uint64_t global_store_lines = 0;
  uint64_t local_bytes = 0, local_requests = 0, local_sectors = 0;
  uint64_t shared_load_bytes = 0, shared_load_requests = 0, shared_load_wavefronts = 0;
  uint64_t shared_load_wavefronts_ideal = 0;
  uint64_t shared_store_bytes = 0, shared_store_requests = 0, shared_store_wavefronts = 0;
  uint64_t shared_store_wavefronts_ideal = 0;
  uint64_t atomics = 0, atomic_requests = 0, atomic_sectors = 0;
  uint64_t shared_atomic_requests = 0, shared_atomic_wavefronts = 0;
  uint64_t l2_read_sectors = 0, l2_write_sectors = 0;
  uint64_t bulk_load_bytes = 0, bulk_store_bytes = 0;
  uint64_t barriers = 0;

  void add(const InstInfo& info, const Count& count, const AccessCounts& accesses);

 private:
  void add_work(const InstInfo& info, const Count& count);
  void add_unobserved(const InstInfo& info, const Count& count);
  bool add_accesses(const AccessCounts& accesses);
};

struct Field {
  const char* name;
  uint64_t Counters::* value;
};
#define FIELD(NAME) {#NAME, &Counters::NAME}
constexpr Field FIELDS[] = {
    FIELD(warp_instructions),
    FIELD(thread_instructions),
    FIELD(flops),
    FIELD(fp32_flops),
    FIELD(fp64_flops),
    FIELD(fp16_flops),
    FIELD(tensor_flops),
    FIELD(special_function_ops),
    FIELD(fp32_instructions),
    FIELD(fp64_instructions),
    FIELD(fp16_instructions),
    FIELD(integer_instructions),
    FIELD(special_function_instructions),
    FIELD(tensor_instructions),
    FIELD(memory_instructions),
    FIELD(control_instructions),
    FIELD(global_load_bytes),
    FIELD(global_load_requests),
    FIELD(global_load_sectors),
    FIELD(global_load_sectors_ideal),
    FIELD(global_load_lines),
    FIELD(global_store_bytes),
    FIELD(global_store_requests),
    FIELD(global_store_sectors),
    FIELD(global_store_sectors_ideal),
    FIELD(global_store_lines),
    FIELD(local_bytes),
    FIELD(local_requests),
    FIELD(local_sectors),
    FIELD(shared_load_bytes),
    FIELD(shared_load_requests),
    FIELD(shared_load_wavefronts),
    FIELD(shared_load_wavefronts_ideal),
    FIELD(shared_store_bytes),
    FIELD(shared_store_requests),
    FIELD(shared_store_wavefronts),
    FIELD(shared_store_wavefronts_ideal),
    FIELD(atomics),
    FIELD(atomic_requests),
    FIELD(atomic_sectors),
    FIELD(shared_atomic_requests),
    FIELD(shared_atomic_wavefronts),
    FIELD(l2_read_sectors),
    FIELD(l2_write_sectors),
    FIELD(bulk_load_bytes),
    FIELD(bulk_store_bytes),
    FIELD(barriers),
};
#undef FIELD
static_assert(sizeof(Counters) == std::size(FIELDS) * sizeof(uint64_t), "every counter is listed");

void Counters::add(const InstInfo& info, const Count& count, const AccessCounts& accesses) {
  warp_instructions += count.warps;
  thread_instructions += count.threads;
  add_work(info, count);
  if (info.space == ptx::Space::Param) {
    return;  // of a function: the compiler passes them in registers
  }
  if (!add_accesses(accesses)) {
    add_unobserved(info, count);
  }
  if (info.kind == InstInfo::Atomic) {
    atomics += count.threads;
  } else if (info.kind == InstInfo::Barrier) {
    barriers += count.warps;
  }
}

// By the unit that executes it.
void Counters::add_work(const InstInfo& info, const Count& count) {
  flops += count.threads * info.flops;
  special_function_ops += count.threads * special_functions_of(info);
  const uint64_t work = count.threads * info.flops;
  switch (unit_of(info)) {
    case Unit::Fp32:
      fp32_flops += work;
      fp32_instructions += count.warps;
      break;
    case Unit::Fp64:
      fp64_flops += work;
      fp64_instructions += count.warps;
      break;
    case Unit::Fp16:
      fp16_flops += work;
      fp16_instructions += count.warps;
      break;
    case Unit::Tensor:
      tensor_flops += work;
      tensor_instructions += count.warps;
      break;
    case Unit::Integer:
      integer_instructions += count.warps;
      break;
    case Unit::SpecialFunction:
      special_function_instructions += count.warps;
      break;
    case Unit::Memory:
      memory_instructions += count.warps;
      break;
    case Unit::Control:
      control_instructions += count.warps;
      break;
    case Unit::None:
      break;
  }
}

// Whether the instruction has reported what it accessed.
bool Counters::add_accesses(const AccessCounts& accesses) {
  using Kind = WarpAccess::Kind;
  using Where = WarpAccess::Where;
  bool any = false;
  for (auto& of_memory : accesses.of) {
    for (const AccessCount& count : of_memory) {
      l2_read_sectors += count.l2_read_sectors;
      l2_write_sectors += count.l2_write_sectors;
      bulk_load_bytes += count.bulk_load_bytes;
      bulk_store_bytes += count.bulk_store_bytes;
      any |= count.requests > 0 || count.bulk_load_bytes > 0 || count.bulk_store_bytes > 0;
    }
  }
  const AccessCount& loads = accesses.at(Where::Global, Kind::Load);
  global_load_bytes += loads.bytes;
  global_load_requests += loads.requests;
  global_load_sectors += loads.units;
  global_load_sectors_ideal += loads.ideal;
  global_load_lines += loads.lines;
  const AccessCount& stores = accesses.at(Where::Global, Kind::Store);
  global_store_bytes += stores.bytes;
  global_store_requests += stores.requests;
  global_store_sectors += stores.units;
  global_store_sectors_ideal += stores.ideal;
  global_store_lines += stores.lines;
  const AccessCount& global_atomics = accesses.at(Where::Global, Kind::Atomic);
  atomic_requests += global_atomics.requests;
  atomic_sectors += global_atomics.units;
  const AccessCount& shared_loads = accesses.at(Where::Shared, Kind::Load);
  shared_load_bytes += shared_loads.bytes;
  shared_load_requests += shared_loads.requests;
  shared_load_wavefronts += shared_loads.units;
  shared_load_wavefronts_ideal += shared_loads.ideal;
  const AccessCount& shared_stores = accesses.at(Where::Shared, Kind::Store);
  shared_store_bytes += shared_stores.bytes;
  shared_store_requests += shared_stores.requests;
  shared_store_wavefronts += shared_stores.units;
  shared_store_wavefronts_ideal += shared_stores.ideal;
  const AccessCount& shared_atomics = accesses.at(Where::Shared, Kind::Atomic);
  shared_atomic_requests += shared_atomics.requests;
  shared_atomic_wavefronts += shared_atomics.units;
  for (const AccessCount& count : accesses.of[static_cast<int>(Where::Local)]) {
    local_bytes += count.bytes;
    local_requests += count.requests;
    local_sectors += count.units;
  }
  return any;
}

// An instruction that has not reported its addresses: the bytes follow from what it is.
void Counters::add_unobserved(const InstInfo& info, const Count& count) {
  const uint64_t bytes = count.threads * info.bytes;
  const bool shared = info.space == ptx::Space::Shared;
  const bool local = info.space == ptx::Space::Local;
  const bool global = info.space == ptx::Space::Global || info.space == ptx::Space::Generic;
  if (info.kind == InstInfo::Load) {
    global_load_bytes += global ? bytes : 0;
    shared_load_bytes += shared ? bytes : 0;
    local_bytes += local ? bytes : 0;
  } else if (info.kind == InstInfo::Store) {
    global_store_bytes += global ? bytes : 0;
    shared_store_bytes += shared ? bytes : 0;
    local_bytes += local ? bytes : 0;
  }
}

// For a launch whose grid was sampled: what the whole grid would count.
std::string scaled(uint64_t seen, double scale) {
  return std::to_string(scale == 1 ? seen : static_cast<uint64_t>(std::llround(seen * scale)));
}

std::string json(const Counters& counters, double scale) {
  std::string out;
  for (const Field& field : FIELDS) {
    out += ",\"" + std::string(field.name) + "\":" + scaled(counters.*field.value, scale);
  }
  return out;
}

// Independent of the locale, which may use a comma.
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
  const double scale =
      static_cast<double>(launch.num_clusters()) / static_cast<double>(launch.num_sampled());
  Counters total;
  std::map<std::pair<std::string, int>, Counters> lines;
  std::map<std::string, uint64_t> forms;
  const AccessCounts none{};
  for (size_t i = 0; i < result.counts.size(); i++) {
    const Count& count = result.counts[i];
    if (count.warps == 0) {
      continue;
    }
    const AccessCounts& accesses = result.counting ? result.counting->counts[i] : none;
    total.add(kernel.info[i], count, accesses);
    Place place = place_of(*kernel.module, *kernel.info[i].source);
    lines[{place.file, place.line}].add(kernel.info[i], count, accesses);
    forms[form_of(*kernel.info[i].source)] += count.warps;
  }
  std::string out =
      "{\"kernel\":" + json_quote(kernel.pretty) + ",\"entry\":" + json_quote(kernel.name) +
      ",\"module\":" + std::to_string(kernel.module->number) + ",\"grid\":" + triple(launch.grid) +
      ",\"block\":" + triple(launch.block) +
      ",\"shared_bytes\":" + std::to_string(kernel.shared_bytes + launch.dynamic_shared) +
      ",\"seconds\":" + seconds_text(result.seconds) + json(total, scale) +
      ",\"num_blocks\":" + std::to_string(launch.num_blocks()) +
      ",\"sampled_blocks\":" + std::to_string(launch.num_sampled() * launch.cluster_size());
  const Footprint nothing;
  const Footprint& footprint = result.counting ? result.counting->footprint : nothing;
  out += ",\"l2_repeated_sectors\":" +
         scaled(result.counting ? result.counting->l2_repeated_sectors : 0, scale) +
         ",\"dram_read_bytes\":" +
         std::to_string(footprint.bytes(Footprint::Read, scale, launch.regions)) +
         ",\"dram_write_bytes\":" +
         std::to_string(footprint.bytes(Footprint::Written, scale, launch.regions)) +
         ",\"lines\":[";
  bool first = true;
  for (auto& [place, counters] : lines) {
    out += std::string(first ? "" : ",") + "{\"file\":" + json_quote(place.first) +
           ",\"line\":" + std::to_string(place.second) + json(counters, scale) + "}";
    first = false;
  }
  out += "],\"forms\":{";
  first = true;
  for (auto& [form, warps] : forms) {
    out += std::string(first ? "" : ",") + json_quote(form) + ":" + scaled(warps, scale);
    first = false;
  }
  return out + "},\"notes\":" + to_json(placed(kernel, result.notes)) + "}";
}

}  // namespace wbsim
