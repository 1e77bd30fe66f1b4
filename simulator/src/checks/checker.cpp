#include "checks/checker.h"

#include <algorithm>
#include <bit>

#include "checks/finding.h"
#include "exec/lanes.h"

namespace wbsim {

using Kind = WarpAccess::Kind;
using Where = WarpAccess::Where;

int smallest_access(const Kernel& kernel, ptx::Space space) {
  uint32_t bytes = 4;
  for (const InstInfo& info : kernel.info) {
    if (info.element && (info.space == space || info.space == ptx::Space::Generic)) {
      bytes =
          std::min<uint32_t>(bytes, info.observed == InstInfo::Lanes ? info.bytes : info.element);
    }
  }
  return std::countr_zero(bytes);
}

Checker::Checker(const Launch& launch, Cluster& cluster, GlobalShadow* global)
    : launch_(launch),
      cluster_(cluster),
      races_(launch.settings.racecheck),
      uninitialised_(launch.settings.initcheck),
      shift_(smallest_access(*launch.kernel, ptx::Space::Shared)),
      global_(global),
      undefined_(launch),
      regions_(launch.kernel->code.size()),
      homes_(launch.kernel->code.size()) {}

WarpAccess Checker::by_lane(Kind kind, Block* owner, int lane, uint64_t first, uint64_t bytes) {
  WarpAccess a;
  a.kind = kind;
  a.where = owner ? Where::Shared : Where::Global;
  a.owner = owner;
  a.mask = Mask{1} << lane;
  a.bytes = static_cast<uint32_t>(bytes);
  a.regular = true;
  a.first = first;
  return a;
}

void Checker::start() {
  const bool late = order_.now() > LAST_TIME / 2;
  order_.start(cluster_, late);
  shadows_.resize(cluster_.blocks.size());
  for (auto& block : cluster_.blocks) {
    auto& shadow = shadows_[block->rank];
    if (!shadow) {
      shadow = std::make_unique<SharedShadow>();
    }
    shadow->resize(block->shared_bytes, shift_);
    if (late || copies_ > 0) {  // a copy that was never waited for has no time
      shadow->forget();
    }
  }
  copies_ = 0;
  endings_.assign(cluster_.blocks.size(), {});
  acquires_.clear();
  accumulators_.start(order_.num_warps(), *launch_.kernel);
  undefined_pieces_.clear();
  undefined_groups_.assign(group_of(*cluster_.blocks.back(), GROUP_STRIDE), 0);
  if (uninitialised_) {
    undefined_.start(cluster_);
  }
}

// Each variable is identified by its host address, in shared memory too.
void Checker::release_variables(Warp& w, const Inst* in, const WarpAccess& a) {
  const InstInfo& info = w.block->kernel->info[pc_of(w, in)];
  const bool global = a.where == Where::Global;
  const uint64_t base = global ? 0 : reinterpret_cast<uint64_t>(a.owner->shared);
  for_lanes(a.mask, [&](int l) {
    const uint64_t address = base + a.at(l);
    if (a.kind != Kind::Load) {
      Knowledge released = order_.release_by_store(w, l, info.releases, false);
      if (released.all) {
        order_.store_variable(address, released);
      }
      Knowledge wide;
      if (global && info.wide) {
        wide = info.releases ? released : order_.release_by_store(w, l, false, true);
      }
      if (wide.all) {
        global_->variables.log_of(address)->add(static_cast<uint32_t>(cluster_.index), wide);
      }
    }
    if (a.kind != Kind::Store) {
      acquires_.push_back({&w, l, address, global});
    }
  });
}

// In global memory an undefined value is a result. Through shared memory it goes on: many kernels
// store more there than they use.
void Checker::follow_undefined(Warp& w, const Inst* in, const WarpAccess& a) {
  if (a.where == Where::Global) {
    undefined_in_global(w, in, a);
    return;
  }
  const InstInfo& info = launch_.kernel->info[pc_of(w, in)];
  if (info.observed != InstInfo::Lanes || info.element == 0) {
    return;
  }
  const int shift = shadow_of(*a.owner).shift;
  const uint32_t element = info.element;
  const bool stores = a.kind == Kind::Store;
  const bool stores_undefined = stores && w.undefined && undefined_.may_store(w, in);
  if (!stores_undefined && !holds_undefined(a)) {
    return;
  }
  for_lanes(a.mask, [&](int l) {
    Origin origin;
    const uint32_t undefined = stores_undefined ? undefined_.stored(w, in, l, origin) : 0;
    for (uint32_t e = 0; e < a.bytes / element; e++) {
      const uint64_t first = a.at(l) + uint64_t{e} * element;
      for (uint64_t piece = first >> shift; piece <= (first + element - 1) >> shift; piece++) {
        const uint64_t key = piece_key(*a.owner, piece);
        if (stores && (undefined >> e & 1)) {
          undefined_pieces_[key] = origin;
          undefined_groups_[group_of(*a.owner, piece)] = 1;
        } else if (stores) {
          undefined_pieces_.erase(key);
        } else if (auto found = undefined_pieces_.find(key); found != undefined_pieces_.end()) {
          if (a.kind == Kind::Atomic) {
            undefined_.report(w, in, l, "atomic update of an undefined value", found->second);
          }
          undefined_.loaded(w, in, l, e, found->second);
        }
      }
    }
  });
}

bool Checker::holds_undefined(const WarpAccess& a) const {
  if (undefined_pieces_.empty()) {
    return false;
  }
  const auto [low, bytes] = range_of(a);
  const int shift = shadow_of(*a.owner).shift;
  const auto groups = undefined_groups_.begin();
  return std::any_of(groups + group_of(*a.owner, low >> shift),
                     groups + group_of(*a.owner, (low + bytes - 1) >> shift) + 1,
                     [](uint8_t some) { return some; });
}

void Checker::undefined_in_global(Warp& w, const Inst* in, const WarpAccess& a) {
  for_lanes(a.kind == Kind::Store && w.undefined ? a.mask : 0, [&](int l) {
    Origin origin;
    if (undefined_.stored(w, in, l, origin)) {
      const Region* region = launch_.regions.find(a.at(l), a.bytes, false);
      const bool named = region && !region->name.starts_with("cuda");
      undefined_.report(
          w, in, l,
          "write of an undefined value to global memory" + (named ? " '" + region->name + "'" : ""),
          origin);
    }
  });
}

void Checker::acquire_variables() {
  for (const Acquire& acquire : acquires_) {
    order_.load_variable(*acquire.warp, acquire.lane, acquire.address);
    ReleaseLog* log = acquire.global ? global_->variables.existing_log(acquire.address) : nullptr;
    if (log) {
      auto foreign = std::make_shared<Foreign>();
      foreign->logs.emplace_back(log, log->size());
      order_.acquire(*acquire.warp, Mask{1} << acquire.lane, {nullptr, nullptr, foreign});
    }
  }
  acquires_.clear();
  if (atomics_.owns_lock()) {
    atomics_.unlock();
  }
}

// ---- Asynchronous operations --------------------------------------------------------------------

void Checker::async_write(const Issuer& issuer, SharedPlace to, uint32_t bytes, uint32_t agent,
                          bool atomic) {
  Warp& w = *issuer.warp;
  SharedShadow& s = shadow_of(*to.block);
  const WarpAccess a = by_lane(Kind::Store, to.block, issuer.lane, to.offset, bytes);
  const uint32_t first = to.offset >> s.shift, end = (to.offset + bytes) >> s.shift;
  const Mask m = a.mask;
  if (races_) {
    uint32_t last_agent = UINT32_MAX, until = 0;
    for (uint32_t piece = first; piece < end; piece++) {
      const Who who{s.writer[piece]};
      if (who.agent() != last_agent) {
        last_agent = who.agent();
        until = order_.known(w, m, last_agent);
      }
      if ((s.written[piece] & ~APART) > until) {
        after_write(w, issuer.in, a, issuer.lane, piece, atomic);
      }
    }
    for (uint32_t reader : s.readers) {
      const uint32_t limit = order_.known(w, m, reader) << 6 | 63;
      const auto& record = s.reads[reader]->record;
      for (uint32_t piece = first; piece < end; piece++) {
        if (record[piece] > limit) {
          after_read(w, issuer.in, a, issuer.lane, piece, reader);
        }
      }
    }
  }
  const uint32_t who = Who::of(agent, SEVERAL, Who::ASYNC | (atomic ? Who::ATOMIC : 0)).bits;
  std::fill(&s.written[first], &s.written[end], order_.now() | APART);
  std::fill(&s.writer[first], &s.writer[end], who);
  std::fill(&s.write_pc[first], &s.write_pc[end], pc_of(w, issuer.in));
  for (uint32_t piece = first; !undefined_pieces_.empty() && piece < end; piece++) {
    undefined_pieces_.erase(piece_key(*to.block, piece));
  }
}

void Checker::async_read(const Issuer& issuer, SharedPlace from, uint32_t bytes, uint32_t agent) {
  async_read(issuer, *from.block, std::span(&from.offset, 1), bytes, agent);
}

void Checker::async_read(const Issuer& issuer, Block& block, std::span<const uint32_t> offsets,
                         uint32_t bytes, uint32_t agent) {
  Warp& w = *issuer.warp;
  SharedShadow& s = shadow_of(block);
  WarpAccess a = by_lane(Kind::Load, &block, issuer.lane, 0, bytes);
  const uint32_t pc = pc_of(w, issuer.in);
  Reads* reads = races_ ? &s.of(agent) : nullptr;
  const Time now = order_.now();
  const ClockRef proxied = order_.view(w, issuer.lane).knows.proxied;
  uint32_t last_agent = UINT32_MAX, seen_until = 0;  // what the issuer sees of the last agent
  for (uint32_t offset : offsets) {
    for (uint32_t piece = offset >> s.shift; piece < (offset + bytes) >> s.shift; piece++) {
      const Time time = s.written[piece] & ~APART;
      const Who who{s.writer[piece]};
      if (who.agent() != last_agent) {
        last_agent = who.agent();
        seen_until = order_.known(w, a.mask, last_agent);
        if (last_agent < order_.num_warps()) {
          seen_until = std::min(seen_until, proxied ? proxied->of(last_agent) : 0);
        }
      }
      if (time < order_.started() || (races_ && time > seen_until)) {
        a.first = offset;
        after_write(w, issuer.in, a, issuer.lane, piece, false);
        if (time >= order_.started() && !who.async() &&
            !order_.knows_proxied(w, issuer.lane, who.agent(), who.lane(), time)) {
          report(w, issuer.in, a, issuer.lane, uint64_t{piece} << s.shift,
                 {who, time, s.write_pc[piece], true, true});
        }
      }
      if (reads) {
        reads->record[piece] = now << 6 | SEVERAL;
        reads->pc[piece] = pc;
        s.note_read(piece, 1, now | APART);
      }
    }
  }
}

void Checker::tile_write(const Issuer& issuer, SharedPlace to, uint32_t bytes, Swizzle swizzle,
                         uint32_t row_bytes) {
  const uint32_t pc = pc_of(*issuer.warp, issuer.in);
  shadow_of(*to.block).tiles.add({to.offset, bytes, order_.now() | APART, pc, swizzle, row_bytes});
}

const Tile* Checker::tile_at(const Issuer& issuer, const Block& block, uint32_t offset,
                             uint32_t bytes) const {
  const SharedShadow& s = shadow_of(block);
  const uint32_t piece = offset >> s.shift, pieces = bytes >> s.shift;
  const uint32_t written = s.written[piece], time = written & ~APART;
  const Tile* tile = s.tiles.at(offset, written);
  const bool whole = tile && time < LAST_TIME &&
                     std::all_of(
                         &s.written[piece], &s.written[piece + pieces],
                         [&](uint32_t other) { return other == written; });
  return whole && (!races_ || ordered(*issuer.warp, issuer.lane, Who{s.writer[piece]}, time))
             ? tile
             : nullptr;
}

bool Checker::is_written(const Block& block, uint32_t offset, uint32_t bytes) const {
  const SharedShadow& s = shadow_of(block);
  return std::all_of(&s.written[offset >> s.shift], &s.written[(offset + bytes) >> s.shift],
                     [&](uint32_t written) { return (written & ~APART) >= order_.started(); });
}

void Checker::lane_copy(Warp& w, const Inst* in, int lane, const uint8_t* to, uint32_t bytes) {
  const auto offset = static_cast<uint64_t>(to - w.block->shared);
  const WarpAccess a = by_lane(Kind::Store, w.block, lane, offset, bytes);
  SharedShadow& s = shadow_of(*w.block);
  const uint32_t before = s.write_pc[offset >> s.shift];
  const bool refill = (s.written[offset >> s.shift] & ~APART) >= order_.started() &&
                      w.block->kernel->info[before].source->opcode == "cp";
  write_lane(w, in, a, lane, false);
  copies_++;
  // Until it has taken effect, nothing is ordered after it, not even the lane itself.
  const uint32_t flags = Who::ASYNC | (refill ? Who::REFILL : 0);
  const uint32_t who = Who::of(order_.warp_agent(w), SEVERAL, flags).bits;
  for (uint32_t piece = a.first >> s.shift; piece < (a.first + bytes) >> s.shift; piece++) {
    s.written[piece] = LAST_TIME | APART;
    s.writer[piece] = who;
    undefined_pieces_.erase(piece_key(*w.block, piece));
  }
}

void Checker::lane_copied(Warp& w, int lane, const uint8_t* to, uint32_t bytes, Time when) {
  SharedShadow& s = shadow_of(*w.block);
  copies_--;
  const auto first = static_cast<uint32_t>(to - w.block->shared);
  for (uint32_t piece = first >> s.shift; piece < (first + bytes) >> s.shift; piece++) {
    s.written[piece] = when;
    s.writer[piece] = Who::of(order_.warp_agent(w), lane).bits;
  }
}

// ---- The end of a block -------------------------------------------------------------------------

void Checker::visit(const Warp& w, const Inst* in, Mask m, const Block& owner) {
  for (Visit& visit : endings_[owner.rank].visits) {
    if (visit.warp == &w) {
      visit = {&w, in, m, order_.now()};
      return;
    }
  }
  endings_[owner.rank].visits.push_back({&w, in, m, order_.now()});
}

void Checker::exits(Warp& w, Mask m) {
  if (cluster_.blocks.size() > 1) {
    endings_[w.block->rank].knew.join(order_.release(w, m));
  }
}

void Checker::ended(const Block& block) const {
  if (cluster_.blocks.size() == 1) {
    return;
  }
  const Ending& ending = endings_[block.rank];
  for (const Visit& visit : ending.visits) {
    const uint32_t agent = order_.warp_agent(*visit.warp);
    for_lanes(visit.lanes, [&](int l) {
      if (!ending.knew.all->knows(agent, static_cast<uint32_t>(l), visit.when)) {
        Finding f =
            finding_at(*visit.warp, visit.in, l, "memcheck",
                       "the shared memory of the cluster's block " + std::to_string(block.rank) +
                           " may be gone: nothing keeps that block from exiting before");
        f.hint = NOT_LIVE_HINT;
        throw f;
      }
    });
  }
}

void Checker::use_mbarrier(const Issuer& issuer, SharedPlace at, bool init) {
  const WarpAccess a = by_lane(Kind::Store, at.block, issuer.lane, at.offset, sizeof(uint64_t));
  write_lane(*issuer.warp, issuer.in, a, issuer.lane, !init);
  if (!races_) {
    return;
  }
  // Later uses hide the initialisation from the record of the last write.
  const Warp& w = *issuer.warp;
  Initialisation& known = order_.initialisation(at);
  if (init) {
    known = {order_.warp_agent(w), static_cast<uint32_t>(issuer.lane), pc_of(w, issuer.in),
             order_.now()};
    return;
  }
  const Who who = Who::of(known.agent, known.lane);
  if (known.when && !ordered(w, issuer.lane, who, known.when)) {
    report(w, issuer.in, a, issuer.lane, at.offset, {who, known.when, known.pc, true});
  }
}

}  // namespace wbsim
