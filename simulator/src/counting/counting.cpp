#include "counting/counting.h"

#include <bit>

#include "counting/patterns.h"
#include "exec/block.h"

namespace wbsim {
namespace {

using Kind = WarpAccess::Kind;
using Where = WarpAccess::Where;

// Lines of local memory have numbers that no global line has, different for each warp.
uint64_t local_base(const Warp& w) {
  return (uint64_t{1} << 60) + (static_cast<uint64_t>(w.index) << 40);
}

// Sectors of a line that a block moves to or from L2. Those it has written before are there.
void touch(Warp& w, WarpAccess::Kind kind, uint64_t line, uint32_t sectors) {
  Counting& counting = *w.block->worker->counting;
  Footprint& own = *w.block->moved;
  const uint32_t written = own.of(Footprint::Written, line);
  const uint32_t before = written | own.of(Footprint::Read, line);
  counting.l2_repeated_sectors += std::popcount(sectors & before);
  if (kind != Kind::Store) {
    own.add(Footprint::Read, line, sectors);
    counting.footprint.add(Footprint::Read, line, sectors & ~written);
  }
  if (kind != Kind::Load) {
    own.add(Footprint::Written, line, sectors);
    counting.footprint.add(Footprint::Written, line, sectors);
  }
}

// What goes on to L2: for loads what L1 lacks, for stores everything, for atomics each turn.
void pass_on(Warp& w, const InstInfo& info, const WarpAccess& access, const Lines& lines,
             AccessCount& count) {
  const bool global = access.where == Where::Global;
  const uint64_t base = global ? 0 : local_base(w);
  for (int i = 0; i < lines.size; i++) {
    const uint64_t number = lines.line[i].number;
    uint32_t sectors = lines.line[i].sectors();
    L1Cache& l1 = *w.block->l1;
    if (access.kind == Kind::Load) {
      if (!info.bypasses_l1) {
        sectors = l1.load(base + number, sectors);
      }
      count.l2_read_sectors += std::popcount(sectors);
    } else if (access.kind == Kind::Store) {
      count.l2_write_sectors += std::popcount(sectors);
      if (const uint32_t whole = lines.line[i].whole_sectors()) {
        l1.store(base + number, whole);
      }
    } else {
      l1.drop(base + number, sectors);
    }
    if (global && sectors) {
      touch(w, access.kind, number, sectors);
    }
  }
}

Cost compute_wavefronts(const InstInfo& info, const WarpAccess& access) {
  return access.kind == Kind::Atomic ? atomic_wavefronts_of(access, info.compares)
                                     : wavefronts_of(access, info.observed == InstInfo::Rows);
}

Cost shared_cost(Counting& counting, size_t index, const InstInfo& info, const WarpAccess& access) {
  // The most frequent first: one word for all lanes, or consecutive ones.
  const bool simple = access.regular && (access.step == 0 || access.step == access.bytes);
  if (simple && access.bytes <= 4 && access.kind != Kind::Atomic &&
      info.observed != InstInfo::Rows) {
    return {1, 1};
  }
  if (access.regular || access.mask != ALL_LANES) {
    return compute_wavefronts(info, access);
  }
  std::unique_ptr<KnownPattern>& known = counting.known[index];
  if (known) {
    uint64_t different = 0;
    for (int l = 0; l < LANES; l++) {
      different |= (access.address[l] - access.address[0]) ^ known->relative[l];
    }
    if (!different) {
      return known->cost;
    }
  } else {
    known = std::make_unique<KnownPattern>();
  }
  for (int l = 0; l < LANES; l++) {
    known->relative[l] = access.address[l] - access.address[0];
  }
  return known->cost = compute_wavefronts(info, access);
}

// In a loop the warps of a block mostly load the same sectors over and over.
Cost regular_load(Warp& w, Counting& counting, size_t index, const WarpAccess& access,
                  AccessCount& count) {
  auto& loads = counting.known_loads[index];
  if (!loads) {
    loads = std::make_unique<std::array<KnownLoad, Counting::LOADS>>();
  }
  // With such a step each lane stays in its sector wherever the first lane begins within its own.
  const bool whole_sectors = access.step % SECTOR_BYTES == 0;
  const uint64_t place = whole_sectors ? access.first / SECTOR_BYTES : access.first;
  const L1Cache& l1 = *w.block->l1;
  static_assert(Counting::LOADS == 16, "4 bits");
  KnownLoad& known = (*loads)[place * 0x9e3779b97f4a7c15ull >> 60];
  if (known.place != place || known.step != access.step || known.mask != access.mask ||
      known.l1 != &l1 || l1.time() - known.time >= L1Cache::SAFE) {
    Lines lines;
    find_lines(access, access.mask, lines);
    known = {&l1,
             l1.time(),
             place,
             access.step,
             access.mask,
             static_cast<uint32_t>(lines.size),
             sectors_of(lines)};
    pass_on(w, w.block->kernel->info[index], access, lines, count);
  }
  count.lines += known.lines;
  return known.cost;
}

}  // namespace

void AccessCount::operator+=(const AccessCount& other) {
  requests += other.requests;
  bytes += other.bytes;
  units += other.units;
  ideal += other.ideal;
  lines += other.lines;
  l2_read_sectors += other.l2_read_sectors;
  l2_write_sectors += other.l2_write_sectors;
  bulk_load_bytes += other.bulk_load_bytes;
  bulk_store_bytes += other.bulk_store_bytes;
}

void Counting::merge(const Counting& other) {
  for (size_t i = 0; i < counts.size(); i++) {
    for (size_t where = 0; where < counts[i].of.size(); where++) {
      for (size_t kind = 0; kind < counts[i].of[where].size(); kind++) {
        counts[i].of[where][kind] += other.counts[i].of[where][kind];
      }
    }
  }
  footprint.merge(other.footprint);
  l2_repeated_sectors += other.l2_repeated_sectors;
}

void count_access(Warp& w, const Inst* in, const WarpAccess& access) {
  const Kernel& kernel = *w.block->kernel;
  const size_t index = in - kernel.code.data();
  const InstInfo& info = kernel.info[index];
  Counting& counting = *w.block->worker->counting;
  AccessCount& count = counting.counts[index].at(access.where, access.kind);
  count.requests++;
  count.bytes += uint64_t{access.bytes} * std::popcount(access.mask);
  Cost cost;
  if (access.where == Where::Shared) {
    cost = shared_cost(counting, index, info, access);
  } else if (access.where == Where::Global && access.kind == Kind::Load && access.regular &&
             !info.bypasses_l1) {
    cost = regular_load(w, counting, index, access, count);
  } else {
    Lines lines;
    if (access.where == Where::Global) {
      find_lines(access, access.mask, lines);
    } else {
      find_local_lines(access, lines);
      count.requests += (access.bytes - 1) / 4;  // one per word
    }
    const bool atomic = access.kind == Kind::Atomic;
    cost = atomic ? atomic_sectors_of(access, lines) : sectors_of(lines);
    if (atomic) {
      count.l2_write_sectors += cost.units;
      count.l2_read_sectors += info.source->opcode == "atom" ? cost.units : 0;  // the old values
    }
    count.lines += lines.size;
    pass_on(w, info, access, lines, count);
  }
  count.units += cost.units;
  count.ideal += cost.ideal;
}

void count_lane_copy(Warp& w, const Inst* in, const WarpAccess& from, const WarpAccess& to) {
  const size_t index = in - w.block->kernel->code.data();
  const InstInfo& info = w.block->kernel->info[index];
  AccessCounts& counts = w.block->worker->counting->counts[index];
  AccessCount& writes = counts.at(Where::Shared, Kind::Store);
  writes.bytes += uint64_t{to.bytes} * std::popcount(to.mask);
  if (!info.bypasses_l1) {
    count_access(w, in, from);
    const Cost cost = copy_wavefronts_of(from, to);
    writes.requests++;
    writes.units += cost.units;
    writes.ideal += cost.ideal;
    return;
  }
  AccessCount& reads = counts.at(Where::Global, Kind::Load);
  Lines lines;
  find_lines(to, from.mask, lines);
  AccessCount asked;
  asked.requests = 1;
  asked.bytes = uint64_t{from.bytes} * std::popcount(from.mask);
  asked.units = sectors_of(lines).units;
  find_lines(from, from.mask, lines);
  asked.ideal = sectors_of(lines).ideal;
  pass_on(w, info, from, lines, asked);
  asked.l2_read_sectors = copied_sectors(from, to);
  reads += asked;
}

void count_copy(Warp& w, const Inst* in, uint64_t address, uint64_t bytes, bool write) {
  Counting& counting = *w.block->worker->counting;
  const size_t index = in - w.block->kernel->code.data();
  AccessCount& count = counting.counts[index].at(Where::Global, write ? Kind::Store : Kind::Load);
  (write ? count.bulk_store_bytes : count.bulk_load_bytes) += bytes;
  const uint64_t last = (address + bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
  constexpr uint64_t OF_LINE = LINE_BYTES / SECTOR_BYTES;
  for (uint64_t sector = address / SECTOR_BYTES; sector < last; sector++) {
    (write ? count.l2_write_sectors : count.l2_read_sectors)++;
    touch(w, write ? Kind::Store : Kind::Load, sector / OF_LINE, 1u << sector % OF_LINE);
  }
}

}  // namespace wbsim
