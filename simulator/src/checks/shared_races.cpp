// shared_races.cpp: races and uninitialised reads in shared memory.

#include <algorithm>
#include <bit>
#include <cstring>

#include "checks/checker.h"
#include "checks/pieces.h"
#include "decode/opcode.h"
#include "decode/registers.h"
#include "exec/block.h"
#include "exec/lanes.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

struct Checker::Touch {
  Warp& w;
  const Inst* in;
  const WarpAccess& a;
  bool strong;
  SharedShadow& shadow;
  uint32_t agent, pc;
  Time now, floor;
  uint32_t apart;

  Touch(const Checker& c, Warp& w, const Inst* in, const WarpAccess& a, bool strong, Mask lanes)
      : w(w),
        in(in),
        a(a),
        strong(strong),
        shadow(c.shadow_of(*a.owner)),
        agent(c.order_.warp_agent(w)),
        pc(c.pc_of(w, in)),
        now(c.order_.now()),
        // Nothing is known as a whole of the warps of another block.
        floor(!c.races_            ? LAST_TIME
              : a.owner == w.block ? c.order_.floor(w, lanes)
                                   : c.order_.started()),
        apart(a.owner == w.block ? 0 : APART) {}
};

// Lanes that touch adjacent bytes, or all the same ones.
struct Checker::Stretch {
  Mask lanes;
  uint64_t first;  // offset
  bool same;

  uint32_t lane() const { return static_cast<uint32_t>(std::countr_zero(lanes)); }
  uint32_t num_lanes() const { return static_cast<uint32_t>(std::popcount(lanes)); }
  // Calls f(lane, piece) for each lane and each of its pieces.
  template <class F>
  void each_piece(const WarpAccess& a, int shift, F f) const {
    for_lanes(lanes, [&](int l) {
      const auto piece = static_cast<uint32_t>(a.at(l) >> shift);
      for (uint32_t i = 0; i < a.bytes >> shift; i++) {
        f(l, piece + i);
      }
    });
  }
};

// The stretches of an access, in the order of their lanes. Writes to the same place are separate
// stretches.
struct Checker::Stretches {
  Stretch of[LANES];
  int count = 0;

  explicit Stretches(const WarpAccess& a) {
    const bool load = a.kind == Kind::Load;
    auto is_stretch = [&](int64_t step) { return step == a.bytes || (step == 0 && load); };
    if (a.regular && is_stretch(a.step) && (a.mask == ALL_LANES || a.step == 0)) [[likely]] {
      add(a.mask, a.at(std::countr_zero(a.mask)), a.step == 0);
    } else if (a.halves && is_stretch(a.half_step[0]) && is_stretch(a.half_step[1])) {
      add(ALL_LANES >> 16, a.address[0], a.half_step[0] == 0);
      add(ALL_LANES << 16, a.address[16], a.half_step[1] == 0);
    } else {
      find(a);
    }
  }
  void add(Mask lanes, uint64_t first, bool same) { of[count++] = {lanes, first, same}; }
  [[gnu::noinline]] void find(const WarpAccess& a) {
    const bool load = a.kind == Kind::Load;
    for (Mask rest = a.mask; rest;) {
      const int lane = std::countr_zero(rest);
      const uint64_t first = a.at(lane);
      Mask lanes = Mask{1} << lane;
      rest &= rest - 1;
      int next = std::countr_zero(rest);
      const bool same = load && rest && a.at(next) == first;
      uint64_t at = first + (same ? 0 : a.bytes);
      while (rest && (same || next == std::bit_width(lanes)) && a.at(next) == at) {
        lanes |= Mask{1} << next;
        rest &= rest - 1;
        next = std::countr_zero(rest);
        at += same ? 0 : a.bytes;
      }
      add(lanes, first, same);
    }
  }
  const Stretch* begin() const { return of; }
  const Stretch* end() const { return of + count; }
};

namespace {

// What is recorded of a stretch's reads.
struct Reading {
  Time now, synced;
  uint32_t lane;   // the first one
  int lane_shift;  // log2 of the pieces of a lane
};

// The record of a read by these lanes, with those that have read since the warp synchronised.
inline uint32_t with_earlier(uint32_t before, uint32_t synced, Time now, uint32_t lanes) {
  const bool unsynced = before > (synced << 6 | 63);
  return now << 6 | (unsynced ? joined_lanes(before & 63, lanes) : lanes);
}

// The smallest group that contains two lanes, as joined_lanes() finds it.
constexpr uint32_t lanes_between(uint32_t first, uint32_t last) {
  return first == last ? first : ((first + 32) >> std::bit_width(first ^ last)) + 31;
}
static_assert(lanes_between(0, 31) == SEVERAL && lanes_between(5, 5) == 5);
static_assert(lanes_between(16, 31) == joined_lanes(16, 31));
static_assert(lanes_between(9, 10) == joined_lanes(9, 10));

inline void note(const Reading& r, uint32_t* records, uint32_t n) {
  if (any_above(records, n, r.synced << 6 | 63)) {
    for (uint32_t i = 0; i < n; i++) {
      records[i] = with_earlier(records[i], r.synced, r.now, r.lane + (i >> r.lane_shift));
    }
    return;
  }
  in_parts(n, [&](uint32_t i, auto size) {
    constexpr uint32_t N = size;
    Values<N>& record = values_at<N>(records + i);
    record = (lane_of<N>(i, r.lane_shift) + r.lane) | r.now << 6;
  });
}

}  // namespace

bool Checker::ordered(const Warp& w, int lane, Who who, Time time) const {
  return order_.knows(w, lane, who.agent(), who.lane(), time);
}

void Checker::shared_access(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  if (a.owner != w.block && races_) {
    visit(w, in, a.mask, *a.owner);
  }
  if (a.kind == Kind::Load) {
    read_shared(w, in, a, strong);
  } else if (a.kind == Kind::Store) {
    write_shared(w, in, a, strong);
  } else {
    for_lanes(a.mask, [&](int l) { write_lane(w, in, a, l, strong); });
  }
}

void Checker::read_shared(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  const Touch touch(*this, w, in, a, strong, a.mask);
  SharedShadow& s = touch.shadow;
  const uint32_t low = uninitialised_ ? order_.started() : 0;
  const int shift = s.shift, lane_shift = std::countr_zero(a.bytes) - shift;
  const Time synced = order_.synced(w);
  Reads* const reads = races_ && !strong ? &s.of(touch.agent) : nullptr;
  for (const Stretch& stretch : Stretches(a)) {
    const uint32_t n = (stretch.same ? 1 : stretch.num_lanes()) << lane_shift;
    const auto first = static_cast<uint32_t>(stretch.first >> shift);
    if (any_outside(&s.written[first], n, low, touch.floor)) [[unlikely]] {
      after_writes(touch, stretch);
    }
    if (!reads) {
      continue;
    }
    if (stretch.same && (stretch.lanes & (stretch.lanes - 1))) {
      const uint32_t last = 31 - static_cast<uint32_t>(std::countl_zero(stretch.lanes));
      const uint32_t lanes = lanes_between(stretch.lane(), last);
      for (uint32_t i = 0; i < n; i++) {
        reads->record[first + i] = with_earlier(reads->record[first + i], synced, touch.now, lanes);
      }
    } else {
      note({touch.now, synced, stretch.lane(), lane_shift}, &reads->record[first], n);
    }
    fill(&reads->pc[first], n, touch.pc);
    s.note_read(first, n, touch.now | touch.apart);
  }
}

void Checker::write_shared(Warp& w, const Inst* in, const WarpAccess& a, bool strong) {
  const Touch touch(*this, w, in, a, strong, a.mask);
  for (const Stretch& stretch : Stretches(a)) {
    write_stretch(touch, stretch);
  }
}

void Checker::write_lane(Warp& w, const Inst* in, const WarpAccess& a, int lane, bool strong) {
  const Mask m = Mask{1} << lane;
  const Touch touch(*this, w, in, a, strong, m);
  const SharedShadow& s = touch.shadow;
  const Stretch stretch{m, a.at(lane), false};
  if (a.kind == Kind::Atomic && uninitialised_) {
    stretch.each_piece(a, s.shift, [&](int l, uint32_t piece) {
      if ((s.written[piece] & ~APART) < order_.started()) {
        uninitialised(w, in, a, l, uint64_t{piece} << s.shift);
      }
    });
  }
  write_stretch(touch, stretch);
}

void Checker::write_stretch(const Touch& touch, const Stretch& stretch) {
  const auto& [w, in, a, strong, s, agent, pc, now, floor, apart] = touch;
  const int shift = s.shift, lane_shift = std::countr_zero(a.bytes) - shift;
  const uint32_t n = stretch.num_lanes() << lane_shift;
  const auto first = static_cast<uint32_t>(stretch.first >> shift);
  if (races_ && any_above(&s.written[first], n, floor)) {
    after_writes(touch, stretch);
  }
  if (races_ && s.is_read_since(first, n, floor)) {
    for (uint32_t reader : s.readers) {
      const uint32_t* record = &s.reads[reader]->record[first];
      if (any_above(record, n, order_.known(w, stretch.lanes, reader) << 6 | 63)) {
        stretch.each_piece(
            a, shift, [&](int lane, uint32_t piece) { after_read(w, in, a, lane, piece, reader); });
      }
    }
  }
  fill(&s.written[first], n, now | apart);
  fill(&s.write_pc[first], n, pc);
  uint32_t* const writer = &s.writer[first];
  const uint32_t who = Who::of(agent, stretch.lane(), strong ? Who::ATOMIC : 0).bits;
  in_parts(n, [&](uint32_t i, auto size) {
    constexpr uint32_t N = size;
    values_at<N>(writer + i) = lane_of<N>(i, lane_shift) + who;
  });
}

void Checker::after_writes(const Touch& t, const Stretch& stretch) const {
  stretch.each_piece(t.a, t.shadow.shift, [&](int lane, uint32_t piece) {
    after_write(t.w, t.in, t.a, lane, piece, t.strong);
  });
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
  if (!races_ && uninitialised_ && a.kind == Kind::Load && time == LAST_TIME) {
    uninitialised(w, in, a, lane, offset);  // cp.async has not been waited for
  }
  if (!races_ || (strong && who.atomic() && !exchanged_in_warp(w, in, a, who, s.write_pc[piece])) ||
      ordered(w, lane, who, time) ||
      same_value(w, in, a, lane, offset, size_t{1} << s.shift, who, time, s.write_pc[piece])) {
    return;
  }
  report(w, in, a, lane, offset, {who, time, s.write_pc[piece], true});
}

// Lanes of a warp that exchange data through volatile accesses, as if they ran in lockstep: a value
// that decides no branch is data, not a flag that the lane waits for.
bool Checker::exchanged_in_warp(const Warp& w, const Inst* in, const WarpAccess& a, Who who,
                                uint32_t write_pc) const {
  const Kernel& kernel = *w.block->kernel;
  const uint32_t pc = pc_of(w, in);
  const ptx::Instruction &read = *kernel.info[pc].source, &write = *kernel.info[write_pc].source;
  if (a.kind != Kind::Load || who.agent() != order_.warp_agent(w) || !has(read, "volatile") ||
      !has(write, "volatile")) {
    return false;
  }
  auto [known, is_new] = is_flag_.try_emplace(pc, false);
  if (is_new) {
    for (auto& function : kernel.functions) {
      if (pc - function->first < function->source->code.size()) {
        known->second = may_decide_branch(*function->source, read);
      }
    }
  }
  return !known->second;
}

void Checker::after_read(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                         uint32_t piece, uint32_t agent) const {
  const SharedShadow& s = shadow_of(*a.owner);
  auto reader = [&](uint32_t agent) {
    return Who::of(agent, s.reads[agent]->record[piece] & 63,
                   agent >= order_.num_warps() ? Who::ASYNC : 0);
  };
  auto races = [&](uint32_t agent) {
    const Time time = s.reads[agent]->record[piece] >> 6;
    return time >= order_.started() && !ordered(w, lane, reader(agent), time);
  };
  if (!races(agent)) {
    return;
  }
  if (agent == order_.warp_agent(w)) {  // a reader in another warp says more
    auto other = std::find_if(s.readers.begin(), s.readers.end(),
                              [&](uint32_t reader) { return reader != agent && races(reader); });
    agent = other == s.readers.end() ? agent : *other;
  }
  report(w, in, a, lane, uint64_t{piece} << s.shift,
         {reader(agent), s.reads[agent]->record[piece] >> 6, s.reads[agent]->pc[piece], false});
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
  // A misaligned access, which is reported when it is executed, covers only a part of the piece.
  const uint64_t begin = std::max(offset, a.at(lane));
  size = std::min(offset + size, a.at(lane) + a.bytes) - begin;
  const uint8_t* own = mine + (begin - a.at(lane));
  const uint8_t* memory =
      a.owner ? a.owner->shared + begin : reinterpret_cast<const uint8_t*>(begin);
  if (std::memcmp(own, memory, size) == 0) {
    return true;
  }
  const int lane2 = static_cast<int>(who.lane());
  const bool together = who.agent() == order_.warp_agent(w) && time == order_.now() &&
                        other_pc == pc_of(w, in) && ((a.mask >> lane2) & 1) &&
                        begin - a.at(lane2) <= a.bytes - size;
  return together && stored_bytes(w, in, info, lane2, other) &&
         std::memcmp(own, other + (begin - a.at(lane2)), size) == 0;
}

}  // namespace wbsim
