// shared_races.cpp: races and uninitialised reads in shared memory.

#include <bit>
#include <cstring>

#include "checker.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

namespace {

// Whether one of n values is above a limit. Vector instructions: no early way out.
bool any_above(const uint32_t* values, uint32_t n, uint32_t limit) {
  uint32_t above = 0;
  for (uint32_t i = 0; i < n; i++) {
    above |= static_cast<uint32_t>(values[i] > limit);
  }
  return above != 0;
}

// The same for values outside of [low, high].
bool any_outside(const uint32_t* values, uint32_t n, uint32_t low, uint32_t high) {
  uint32_t outside = 0;
  for (uint32_t i = 0; i < n; i++) {
    outside |= static_cast<uint32_t>(values[i] - low > high - low);
  }
  return outside != 0;
}

// The record of a lane's read now: SEVERAL if other lanes have read since the warp synchronised.
inline uint32_t recorded(uint32_t before, uint32_t synced, Time now, uint32_t lane) {
  bool others = before > (synced << 6 | 63) && (before & 63) != lane;
  return now << 6 | (others ? SEVERAL : lane);
}

}  // namespace

bool Checker::ordered(const Warp& w, int lane, Who who, Time time) const {
  return order_.knows(w, lane, who.agent(), who.lane(), time);
}

uint32_t Checker::pc_of(const Warp& w, const Inst* in) const {
  return static_cast<uint32_t>(in - w.block->kernel->code.data());
}

void Checker::shared_access(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  const bool row = a.regular && a.mask == ALL_LANES && a.step == a.bytes && a.owner == w.block;
  if (a.kind == Kind::Load) {
    if (row) {
      read_row(w, in, a, strong);
    } else if (a.regular && a.step == 0 && order_.is_uniform(w)) {
      read_lane(w, in, a, std::countr_zero(a.mask), strong);
    } else {
      for_lanes(a.mask, [&](int l) { read_lane(w, in, a, l, strong); });
    }
  } else if (row && a.kind == Kind::Store) {
    write_row(w, in, a, strong);
  } else {
    for_lanes(a.mask, [&](int l) { write_lane(w, in, a, l, strong); });
  }
}

// All lanes side by side.
void Checker::read_row(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  SharedShadow& s = shadow_of(*a.owner);
  const uint32_t per_lane = a.bytes >> s.shift, n = per_lane * LANES;
  const auto first = static_cast<uint32_t>(a.first >> s.shift);
  const Time started = order_.started(), floor = races_ ? order_.floor(w, a.mask) : LAST_TIME;
  if (any_outside(&s.written[first], n, uninitialised_ ? started : 0, floor)) {
    for (uint32_t i = 0; i < n; i++) {
      after_write(w, in, a, static_cast<int>(i / per_lane), first + i, strong);
    }
  }
  if (!races_ || strong) {
    return;
  }
  const uint32_t agent = order_.warp_agent(w), pc = pc_of(w, in);
  Reads& reads = s.of(agent);
  uint32_t *record = &reads.record[first], *pcs = &reads.pc[first], *last = &s.read[first];
  const Time now = order_.now(), synced = order_.synced(w);
  if (per_lane == 1) {
    for (uint32_t l = 0; l < LANES; l++) {
      record[l] = recorded(record[l], synced, now, l);
    }
  } else {
    for (uint32_t i = 0; i < n; i++) {
      record[i] = recorded(record[i], synced, now, i / per_lane);
    }
  }
  for (uint32_t i = 0; i < n; i++) {
    pcs[i] = pc;
    last[i] = now;
  }
}

void Checker::read_lane(Warp& w, const Inst* in, const WarpAccess& a, int lane, bool strong) {
  SharedShadow& s = shadow_of(*a.owner);
  const uint32_t n = a.bytes >> s.shift;
  const auto first = static_cast<uint32_t>(a.at(lane) >> s.shift);
  const Time started = order_.started(), floor = races_ ? order_.floor(w, lane) : LAST_TIME;
  const bool several = a.regular && a.step == 0 && (a.mask & (a.mask - 1));
  const uint32_t agent = order_.warp_agent(w), pc = pc_of(w, in);
  const Time now = order_.now(), synced = order_.synced(w);
  Reads* reads = races_ && !strong ? &s.of(agent) : nullptr;
  for (uint32_t piece = first; piece < first + n; piece++) {
    if (s.written[piece] - started > floor - started) {
      after_write(w, in, a, lane, piece, strong);
    }
    if (reads) {
      uint32_t& record = reads->record[piece];
      record = several ? now << 6 | SEVERAL : recorded(record, synced, now, lane);
      reads->pc[piece] = pc;
      s.read[piece] = now | (a.owner == w.block ? 0 : APART);
    }
  }
}

void Checker::write_row(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  SharedShadow& s = shadow_of(*a.owner);
  const uint32_t per_lane = a.bytes >> s.shift, n = per_lane * LANES;
  const auto first = static_cast<uint32_t>(a.first >> s.shift);
  if (races_) {
    const Time floor = order_.floor(w, a.mask);
    if (any_above(&s.written[first], n, floor)) {
      for (uint32_t i = 0; i < n; i++) {
        after_write(w, in, a, static_cast<int>(i / per_lane), first + i, strong);
      }
    }
    if (any_above(&s.read[first], n, floor)) {
      for (uint32_t agent : s.readers) {
        const uint32_t* record = &s.reads[agent]->record[first];
        if (any_above(record, n, order_.known(w, a.mask, agent) << 6 | 63)) {
          for (uint32_t i = 0; i < n; i++) {
            after_read(w, in, a, static_cast<int>(i / per_lane), first + i, agent);
          }
        }
      }
    }
  }
  const uint32_t agent = order_.warp_agent(w), pc = pc_of(w, in);
  const uint32_t flags = strong ? Who::ATOMIC : 0;
  const Time now = order_.now();
  uint32_t *written = &s.written[first], *writer = &s.writer[first], *pcs = &s.write_pc[first];
  for (uint32_t i = 0; i < n; i++) {
    written[i] = now;
    pcs[i] = pc;
  }
  for (uint32_t i = 0; i < n; i++) {
    writer[i] = Who::of(agent, per_lane == 1 ? i : i / per_lane, flags).bits;
  }
}

void Checker::write_lane(Warp& w, const Inst* in, const WarpAccess& a, int lane, bool strong) {
  SharedShadow& s = shadow_of(*a.owner);
  const uint32_t n = a.bytes >> s.shift;
  const auto first = static_cast<uint32_t>(a.at(lane) >> s.shift);
  const uint32_t agent = order_.warp_agent(w), pc = pc_of(w, in);
  const Time now = order_.now(), floor = races_ ? order_.floor(w, lane) : LAST_TIME;
  const uint32_t apart = a.owner == w.block ? 0 : APART;
  for (uint32_t piece = first; piece < first + n; piece++) {
    if (a.kind == Kind::Atomic && uninitialised_ &&
        (s.written[piece] & ~APART) < order_.started()) {
      uninitialised(w, in, a, lane, uint64_t{piece} << s.shift);
    }
    if (s.written[piece] > floor && races_) {
      after_write(w, in, a, lane, piece, strong);
    }
    if (s.read[piece] > floor && races_) {
      for (uint32_t reader : s.readers) {
        after_read(w, in, a, lane, piece, reader);
      }
    }
    s.written[piece] = now | apart;
    s.writer[piece] = Who::of(agent, lane, strong ? Who::ATOMIC : 0).bits;
    s.write_pc[piece] = pc;
  }
}

void Checker::after_write(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                          uint32_t piece, bool strong) const {
  const SharedShadow& s = shadow_of(*a.owner);
  const Time time = s.written[piece] & ~APART;
  const Who who{s.writer[piece]};
  const uint64_t offset = uint64_t{piece} << s.shift;
  if (time < order_.started()) {
    if (uninitialised_ && a.kind == Kind::Load) {
      uninitialised(w, in, a, lane, offset);
    }
    return;
  }
  if (!races_ || (strong && who.atomic()) || ordered(w, lane, who, time) ||
      same_value(w, in, a, lane, offset, size_t{1} << s.shift, who, time, s.write_pc[piece])) {
    return;
  }
  report(w, in, a, lane, offset, {who, s.write_pc[piece], true});
}

void Checker::after_read(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                         uint32_t piece, uint32_t agent) const {
  const SharedShadow& s = shadow_of(*a.owner);
  const uint32_t record = s.reads[agent]->record[piece];
  const Time time = record >> 6;
  const Who who = Who::of(agent, record & 63, agent >= order_.num_warps() ? Who::ASYNC : 0);
  if (time >= order_.started() && !ordered(w, lane, who, time)) {
    report(w, in, a, lane, uint64_t{piece} << s.shift, {who, s.reads[agent]->pc[piece], false});
  }
}

namespace {

// What a lane stores, byte by byte; false for instructions other than st.
bool stored_bytes(const Warp& w, const Inst* in, const InstInfo& info, int lane, uint8_t* out) {
  if (info.observed != InstInfo::Lanes || info.register_bytes == 0) {
    return false;
  }
  for (int e = 0; e < in->count; e++) {
    uint32_t slot = in->count == 1 ? in->b : in->list[e];
    std::memcpy(out + e * info.element, w.frame + slot + lane * info.register_bytes, info.element);
  }
  return true;
}

}  // namespace

bool Checker::same_value(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                         uint64_t offset, size_t size, Who who, Time time,
                         uint32_t other_pc) const {
  const InstInfo& info = w.block->kernel->info[pc_of(w, in)];
  uint8_t mine[32], other[32];
  if (a.kind != Kind::Store || who.async() || !stored_bytes(w, in, info, lane, mine)) {
    return false;
  }
  const uint8_t* own = mine + (offset - a.at(lane));
  const uint8_t* memory =
      a.owner ? a.owner->shared + offset : reinterpret_cast<const uint8_t*>(offset);
  if (std::memcmp(own, memory, size) == 0) {
    return true;
  }
  const int lane2 = static_cast<int>(who.lane());
  const bool together = who.agent() == order_.warp_agent(w) && time == order_.now() &&
                        other_pc == pc_of(w, in) && ((a.mask >> lane2) & 1) &&
                        offset - a.at(lane2) < a.bytes;
  return together && stored_bytes(w, in, info, lane2, other) &&
         std::memcmp(own, other + (offset - a.at(lane2)), size) == 0;
}

}  // namespace wbsim
