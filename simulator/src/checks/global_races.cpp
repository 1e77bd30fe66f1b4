// global_races.cpp: races and uninitialised reads in global memory, inside a cluster and between
// clusters.

#include <bit>
#include <chrono>
#include <thread>

#include "checks/checker.h"
#include "exec/builtins.h"
#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "wbsim.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

namespace {

// Nothing writes to inputs, or the memory check reports it.
bool is_watched(const Region& region) { return region.watched && region.role != WBSIM_IN; }

std::string verb_of(Kind kind) {
  return kind == Kind::Load ? "read" : kind == Kind::Store ? "write" : "atomic update";
}

// Whether a cluster can tell others what it did: by a release, or by a variable after a fence.
bool can_order(const Kernel& kernel) {
  bool releases = false, tells = false, fences = false;
  for (const InstInfo& info : kernel.info) {
    const std::string& opcode = info.source->opcode;
    releases |= info.wide && info.releases;
    tells |= info.wide && info.kind != InstInfo::Load;
    fences |= opcode == "fence" || opcode == "membar";
  }
  return releases || (tells && fences);
}

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

GlobalShadow::GlobalShadow(const Kernel& kernel)
    : shift(smallest_access(kernel, ptx::Space::Global)), orders_clusters(can_order(kernel)) {}

inline Page& Checker::page_at(uint64_t address) {
  const uint64_t number = address >> PAGE_SHIFT;
  // Rows of a matrix are many pages apart: every bit of the number counts.
  CachedPage& cached = pages_[number * 0x9E3779B97F4A7C15 >> 56];
  static_assert(std::tuple_size_v<decltype(pages_)> == 256);
  if (cached.number != number) {
    cached = {number, &global_->page_at(address)};
  }
  return *cached.page;
}

bool Checker::ordered(const Warp& w, int lane, Tag tag) {
  const auto own = static_cast<uint32_t>(cluster_.index);
  const bool bulk = tag.lane() == BULK_STORE;
  const uint32_t agent = bulk ? order_.bulk_write_agent(tag.agent()) : tag.agent();
  if (tag.cluster() == Tag::of(own, 0, 0, false, 0).cluster()) {
    return order_.knows(w, lane, agent, tag.lane(), tag.time());
  }
  const ForeignRef& foreign = order_.view(w, lane).knows.foreign;
  if (!foreign) {
    return false;
  }
  KnownCluster& known = known_[tag.cluster() % known_.size()];
  if (known.foreign == foreign && known.cluster == tag.cluster() &&
      known.clock->knows(agent, tag.lane(), tag.time())) {
    return true;
  }
  ClockRef clock = foreign->find({tag.cluster(), agent, tag.lane(), tag.time()});
  if (clock) {
    known = {foreign, clock, tag.cluster()};
  }
  return clock != nullptr;
}

struct Checker::GlobalTouch {
  Warp& w;
  const Inst* in;
  const WarpAccess& a;
  const bool strong;
  const bool bulk;  // the destination of a bulk store
  const uint32_t pc;
  const Tag tag;     // of lane 0
  const Time floor;  // what the warps of the block did until then is ordered before
  const uint32_t first_warp, num_warps;  // of the block
  const bool alike;                      // all lanes know the same
  Tag seen;                              // lane 0's, if all lanes of its warp were ordered before
  Page* page = nullptr;                  // the last one touched
  uint64_t number = UINT64_MAX;          // of it
  std::unique_lock<SpinLock> lock;       // of it

  GlobalTouch(const Checker& c, Warp& w, const Inst* in, const WarpAccess& a, bool strong,
              bool bulk = false)
      : w(w),
        in(in),
        a(a),
        strong(strong),
        bulk(bulk),
        pc(c.pc_of(w, in)),
        tag(Tag::of(static_cast<uint32_t>(c.cluster_.index), c.order_.warp_agent(w), 0, strong,
                    c.order_.now())),
        floor(c.order_.floor(w, a.mask)),
        first_warp(w.block->rank * static_cast<uint32_t>(w.block->warps.size())),
        num_warps(static_cast<uint32_t>(w.block->warps.size())),
        alike(&c.order_.view(w, 0) == &c.order_.view(w, LANES - 1)) {}

  Tag tag_of(int lane) const {
    return tag.with_lane(bulk ? BULK_STORE : static_cast<uint32_t>(lane));
  }
  void hold() {
    if (!lock) {
      lock = std::unique_lock(page->lock);
    }
  }
  void let_go() { lock = {}; }
  // Whether the other access is clearly no race with what a lane does; the rest is looked up.
  bool harmless(Tag other, Tag mine, bool wrote) const {
    return other.nothing() || other.same_thread(mine) || (wrote && strong && other.atomic()) ||
           (other.cluster() == mine.cluster() && other.agent() - first_warp < num_warps &&
            other.lane() < LANES && other.time() <= floor) ||
           (other.lane() < LANES && other.with_lane(0).bits == seen.bits);
  }
};

void Checker::global_access(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  const bool write = a.kind != Kind::Load;
  const auto [low, bytes] = range_of(a);
  // Mostly one allocation whose bytes need no look, or a row of initialised ones.
  const Region* all = region_of(w, in, low, bytes, write);
  if (all && !all->watched) {
    const std::string what = verb_of(a.kind) + " of " + std::to_string(a.bytes) + " bytes";
    for_lanes(a.mask, [&](int l) { check_heap(w, in, l, a.at(l), a.bytes, what); });
  }
  if (all && (!races_ || !is_watched(*all))) {
    if (!all->initialised || all->initialised->all()) {
      return;
    }
    const bool row = a.regular && a.step == a.bytes && a.mask == ALL_LANES;
    if (row && (a.kind == Kind::Store || all->initialised->is_marked(low, bytes))) {
      if (write) {
        all->initialised->mark_store(low, bytes, a.bytes);
      }
      return;
    }
  }
  const bool written = all && (!uninitialised_ || !all->initialised || all->initialised->all());
  if (races_ && !write && written && !global_->orders_clusters && is_settled(a)) {
    return;
  }
  GlobalTouch touch(*this, w, in, a, strong);
  for_lanes(a.mask, [&](int l) {
    const uint64_t address = a.at(l);
    const Region* region = all ? all : region_of(w, in, address, a.bytes, write);
    if (!region) {
      return;  // executing it reports this
    }
    if (uninitialised_ && region->initialised && !region->initialised->all()) {
      if (a.kind != Kind::Store && !region->initialised->is_marked(address, a.bytes)) {
        uninitialised(w, in, a, l, address);
      }
      if (write) {
        region->initialised->mark_store(address, a.bytes, a.bytes);
      }
    }
    if (races_ && is_watched(*region)) {
      touch_pieces(touch, l, address, address + a.bytes);
    }
  });
}

inline void Checker::touch_pieces(GlobalTouch& t, int lane, uint64_t first, uint64_t last) {
  for (uint64_t at = first; at < last; at += uint64_t{1} << global_->shift) {
    if (at >> PAGE_SHIFT != t.number) {
      t.let_go();
      t.number = at >> PAGE_SHIFT;
      t.page = &page_at(at);
    }
    if (t.a.kind == Kind::Load) {
      read_piece(t, lane, at);
    } else {
      write_piece(t, lane, at);
    }
  }
}

inline void Checker::read_piece(GlobalTouch& t, int lane, uint64_t address) {
  Piece& piece = t.page->at(address, global_->shift);
  const Tag mine = t.tag_of(lane);
  if (!t.strong && piece.read.load(std::memory_order_acquire) != mine.bits) {
    t.hold();
    record_read(piece, mine, t.pc);
    if (!global_->orders_clusters && piece.is_shared()) {
      const uint64_t at = Page::offset_of(address) >> global_->shift;
      auto& word = t.page->settled[at / 64];
      word.store(word.load(std::memory_order_relaxed) | uint64_t{1} << at % 64,
                 std::memory_order_release);
    }
  }
  if (!t.harmless({piece.written.load(std::memory_order_acquire)}, mine, true)) {
    t.hold();
    after_access(t, lane, address, {piece.written.load()}, true, piece.pc(Piece::WRITE));
  }
}

// Whether recording another read of these pieces would change nothing.
bool Checker::is_settled(const WarpAccess& a) {
  const int shift = global_->shift;
  const uint64_t pieces = (uint64_t{1} << (a.bytes >> shift)) - 1;
  const std::atomic<uint64_t>* word = nullptr;
  uint64_t group = UINT64_MAX, wanted = 0;  // of 64 pieces; those of them that are read
  for (Mask rest = a.mask; rest; rest &= rest - 1) {
    const uint64_t address = a.at(std::countr_zero(rest));
    if (address >> (shift + 6) != group) {
      if (word && (word->load(std::memory_order_acquire) & wanted) != wanted) {
        return false;
      }
      group = address >> (shift + 6);
      word = &page_at(address).settled[Page::offset_of(address) >> (shift + 6)];
      wanted = 0;
    }
    wanted |= pieces << (address >> shift) % 64;
  }
  return (word->load(std::memory_order_acquire) & wanted) == wanted;
}

// Keeps one of another cluster, if there was one.
void Checker::record_read(Piece& piece, Tag mine, uint32_t pc) const {
  const Tag last{piece.read.load(std::memory_order_relaxed)};
  const Tag earlier{piece.earlier.load(std::memory_order_relaxed)};
  const bool foreign = !earlier.nothing() && earlier.cluster() != mine.cluster();
  const bool own = last.cluster() == mine.cluster();
  if (!last.nothing() && !last.same_thread(mine) && !(own && foreign)) {
    piece.earlier.store(last.bits, std::memory_order_release);
    piece.set_pc(Piece::EARLIER, piece.pc(Piece::READ));
  }
  piece.read.store(mine.bits, std::memory_order_release);
  piece.set_pc(Piece::READ, pc);
}

inline void Checker::write_piece(GlobalTouch& t, int lane, uint64_t address) {
  Piece& piece = t.page->at(address, global_->shift);
  const Tag mine = t.tag_of(lane);
  t.hold();
  const Tag written{piece.written.load(std::memory_order_relaxed)};
  const Tag read{piece.read.load(std::memory_order_relaxed)};
  const Tag earlier{piece.earlier.load(std::memory_order_relaxed)};
  const uint32_t pcs[] = {piece.pc(Piece::WRITE), piece.pc(Piece::READ), piece.pc(Piece::EARLIER)};
  piece.written.store(mine.bits, std::memory_order_release);
  piece.set_pc(Piece::WRITE, t.pc);
  if (t.harmless(written, mine, true) && t.harmless(read, mine, false) &&
      t.harmless(earlier, mine, false)) {
    return;
  }
  after_access(t, lane, address, written, true, pcs[Piece::WRITE]);
  after_access(t, lane, address, read, false, pcs[Piece::READ]);
  after_access(t, lane, address, earlier, false, pcs[Piece::EARLIER]);
}

void Checker::after_access(GlobalTouch& t, int lane, uint64_t address, Tag other, bool wrote,
                           uint32_t pc) {
  if (t.harmless(other, t.tag_of(lane), wrote)) {
    return;
  }
  if (ordered(t.w, lane, other)) {
    const KnownCluster& known = known_[other.cluster() % known_.size()];
    if (t.alike && known.clock && known.cluster == other.cluster() &&
        known.foreign == order_.view(t.w, lane).knows.foreign &&
        known.clock->of(other.agent()) >= other.time()) {
      t.seen = other.with_lane(0);
    }
    return;
  }
  t.let_go();  // other cores may have to finish what they do there
  const Who who = other.lane() == BULK_STORE
                      ? Who::of(order_.bulk_write_agent(other.agent()), SEVERAL, Who::ASYNC)
                      : Who::of(other.agent(), other.lane(), other.atomic() ? Who::ATOMIC : 0);
  const bool own = other.cluster() == t.tag.cluster();
  const bool both_store = wrote && t.a.kind == Kind::Store;
  for (int tries = own ? 1 : 100; both_store && tries > 0; tries--) {
    if (same_value(t.w, t.in, t.a, lane, address, size_t{1} << global_->shift,
                   own ? who : Who::of(0x3fff, 0), other.time(), pc)) {
      return;
    }
    if (!own) {  // another core has announced a write that it may not have made yet
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  report(t.w, t.in, t.a, lane, address,
         {who, other.time(), pc, wrote, false, own ? UINT32_MAX : other.cluster()});
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
      region->initialised->mark_store(address, bytes, UINT32_MAX);
    } else if (!region->initialised->is_marked(address, bytes)) {
      uninitialised(*issuer.warp, issuer.in, a, issuer.lane, address);
    }
  }
  if (races_ && is_watched(*region)) {
    GlobalTouch touch(*this, *issuer.warp, issuer.in, a, atomic, write && !atomic);
    const uint64_t first = address >> global_->shift << global_->shift;
    touch_pieces(touch, issuer.lane, first, address + bytes);
  }
}

}  // namespace wbsim
