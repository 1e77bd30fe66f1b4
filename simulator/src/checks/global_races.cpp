// global_races.cpp: races and uninitialised reads in global memory, inside a cluster and between
// clusters.

#include <bit>
#include <chrono>
#include <thread>

#include "checks/checker.h"
#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "wbsim.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

namespace {

// Nothing writes to inputs, or the memory check reports it.
bool is_watched(const Region& region) { return region.watched && region.role != WBSIM_IN; }

}  // namespace

const Region* Checker::region_of(const Warp& w, const Inst* in, uint64_t address, uint64_t bytes,
                                 bool write) {
  const Region*& region = regions_[pc_of(w, in)];
  if (!region || !within(address, bytes, region->first, region->last())) {
    // Memory that is both an input and an output is treated as an output.
    region = launch_.regions.find(address, bytes, true);
    if (!write && (!region || region->role == WBSIM_IN)) {
      region = launch_.regions.find(address, bytes, false);
    }
  }
  return region;
}

Page& Checker::page_at(uint64_t address) {
  const uint64_t number = address >> PAGE_SHIFT;
  CachedPage& cached = pages_[number % pages_.size()];
  if (cached.number != number) {
    cached = {number, &global_->page_at(address)};
  }
  return *cached.page;
}

bool Checker::ordered(const Warp& w, int lane, Tag tag) const {
  const auto own = static_cast<uint32_t>(cluster_.index);
  const bool bulk = tag.lane() == BULK_STORE;
  const uint32_t agent = bulk ? order_.bulk_write_agent(tag.agent()) : tag.agent();
  if (tag.cluster() == Tag::of(own, 0, 0, false, 0).cluster()) {
    return order_.knows(w, lane, agent, tag.lane(), tag.time());
  }
  const ForeignRef& foreign = order_.view(w, lane).knows.foreign;
  return foreign && foreign->knows({tag.cluster(), agent, tag.lane(), tag.time()});
}

namespace {

// The lowest address that the lanes touch, and the bytes from there to the end of the highest.
std::pair<uint64_t, uint64_t> range_of(const WarpAccess& a) {
  uint64_t low = a.at(std::countr_zero(a.mask)), high = a.at(31 - std::countl_zero(a.mask));
  if (!a.regular) {
    for_lanes(a.mask, [&](int l) {
      low = std::min(low, a.address[l]);
      high = std::max(high, a.address[l]);
    });
  } else if (low > high) {
    std::swap(low, high);
  }
  return {low, high - low + a.bytes};
}

}  // namespace

void Checker::global_access(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  const bool write = a.kind != Kind::Load;
  const auto [low, bytes] = range_of(a);
  // Mostly one allocation whose bytes need no look, or a row of initialised ones.
  const Region* all = region_of(w, in, low, bytes, write);
  if (all && (!races_ || !is_watched(*all))) {
    if (!all->initialised) {
      return;
    }
    const bool row = a.regular && a.step == a.bytes && a.mask == ALL_LANES;
    if (row && (a.kind == Kind::Store || all->initialised->is_marked(low, bytes))) {
      if (write) {
        all->initialised->mark(low, bytes);
      }
      return;
    }
  }
  for_lanes(a.mask, [&](int l) {
    const uint64_t address = a.at(l);
    const Region* region = region_of(w, in, address, a.bytes, write);
    if (!region) {
      return;  // executing it reports this
    }
    if (uninitialised_ && region->initialised) {
      if (a.kind != Kind::Store && !region->initialised->is_marked(address, a.bytes)) {
        uninitialised(w, in, a, l, address);
      }
      if (write) {
        region->initialised->mark(address, a.bytes);
      }
    }
    if (races_ && is_watched(*region)) {
      const uint32_t size = 1u << global_->shift;
      for (uint64_t piece = address; piece < address + a.bytes; piece += size) {
        global_piece(w, in, a, l, piece, strong);
      }
    }
  });
}

void Checker::global_piece(Warp& w, const Inst* in, const WarpAccess& a, int lane, uint64_t address,
                           bool strong, bool bulk) {
  Page& page = page_at(address);
  const size_t at = (address & ((1 << PAGE_SHIFT) - 1)) >> global_->shift;
  std::atomic<uint64_t>&written = page.words[at], &read = page.words[page.pieces + at],
  &earlier = page.words[2 * page.pieces + at];
  const auto cluster = static_cast<uint32_t>(cluster_.index);
  const Tag mine =
      Tag::of(cluster, order_.warp_agent(w), bulk ? BULK_STORE : lane, strong, order_.now());
  auto require = [&](Tag other, bool wrote) {
    if (other.nothing() || other.same_thread(mine) || (wrote && strong && other.atomic()) ||
        ordered(w, lane, other)) {
      return;
    }
    const Who who = other.lane() == BULK_STORE
                        ? Who::of(order_.bulk_write_agent(other.agent()), SEVERAL, Who::ASYNC)
                        : Who::of(other.agent(), other.lane(), other.atomic() ? Who::ATOMIC : 0);
    const bool own = other.cluster() == mine.cluster();
    std::atomic<uint32_t>& place = page.pcs[(wrote ? 0 : page.pieces) + at];
    for (int tries = own ? 1 : 100; wrote && tries > 0; tries--) {
      if (same_value(w, in, a, lane, address, size_t{1} << global_->shift,
                     own ? who : Who::of(0x3fff, 0), other.time(), place)) {
        return;
      }
      if (!own) {  // another core has announced a write that it may not have made yet
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    }
    const uint32_t pc = place;
    report(w, in, a, lane, address, {who, pc, wrote, false, own ? UINT32_MAX : other.cluster()});
  };
  if (a.kind == Kind::Load) {
    if (!strong) {
      const Tag before{read.exchange(mine.bits, std::memory_order_relaxed)};
      page.pcs[page.pieces + at].store(pc_of(w, in), std::memory_order_relaxed);
      const Tag kept{earlier.load(std::memory_order_relaxed)};
      const bool foreign = !kept.nothing() && kept.cluster() != mine.cluster();
      const bool own = before.cluster() == mine.cluster();
      if (!before.nothing() && !before.same_thread(mine) && !(own && foreign)) {
        earlier.store(before.bits, std::memory_order_relaxed);
      }
    }
    require({written.load()}, true);
    return;
  }
  const Tag before{written.exchange(mine.bits)};
  require(before, true);
  page.pcs[at].store(pc_of(w, in), std::memory_order_relaxed);
  require({read.load()}, false);
  require({earlier.load()}, false);
}

void Checker::global_copy(const Issuer& issuer, const void* at, uint64_t bytes, bool write,
                          bool atomic) {
  const auto address = reinterpret_cast<uint64_t>(at);
  const Region* region = launch_.regions.find(address, bytes, write);
  if (!region) {
    return;
  }
  const WarpAccess a =
      by_lane(write ? Kind::Store : Kind::Load, nullptr, issuer.lane, address, bytes);
  if (uninitialised_ && region->initialised) {
    if (write) {
      region->initialised->mark(address, bytes);
    } else if (!region->initialised->is_marked(address, bytes)) {
      uninitialised(*issuer.warp, issuer.in, a, issuer.lane, address);
    }
  }
  if (races_ && is_watched(*region)) {
    const uint32_t size = 1u << global_->shift;
    for (uint64_t piece = address & ~uint64_t{size - 1}; piece < address + bytes; piece += size) {
      global_piece(*issuer.warp, issuer.in, a, issuer.lane, piece, atomic, write && !atomic);
    }
  }
}

}  // namespace wbsim
