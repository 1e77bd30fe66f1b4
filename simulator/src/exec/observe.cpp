#include "exec/observe.h"

#include <bit>

#include "checks/checker.h"
#include "counting/counting.h"
#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

using Where = WarpAccess::Where;

inline void tell(Warp& w, const Inst* in, const WarpAccess& access) {
  const Block& block = *w.block;
  if (block.worker->launch->counting) {
    count_access(w, in, access);
  }
  if (Checker* checker = block.cluster->checker.get()) {
    checker->access(w, in, access);
  }
}

// Whether all addresses of the lanes of m advance by a constant step, and by which.
template <class A>
bool is_regular(const A* a, Mask m, A& first, A& step) {
  if (m == ALL_LANES) {
    step = static_cast<A>(a[1] - a[0]);
    first = a[0];
    return advances_by<LANES>(a, step);
  }
  int lane = std::countr_zero(m);
  Mask rest = m & (m - 1);
  if (!rest) {
    first = a[lane], step = 0;
    return true;
  }
  int second = std::countr_zero(rest);
  step = static_cast<A>(a[second] - a[lane]);
  if (second != lane + 1) {
    step = static_cast<A>(step / static_cast<A>(second - lane));
  }
  first = static_cast<A>(a[lane] - step * static_cast<A>(lane));
  A different = 0;
  for (int l = 0; l < LANES; l++) {
    const A active = (m >> l) & 1 ? ~A{0} : A{0};
    different |= (a[l] ^ static_cast<A>(first + step * static_cast<A>(l))) & active;
  }
  return different == 0;
}

// Blocks 16 threads wide: both halves of the warp may be regular.
template <class A>
void note_halves(WarpAccess& access, const A* a) {
  if (access.mask == ALL_LANES) {
    const A step[2] = {static_cast<A>(a[1] - a[0]), static_cast<A>(a[HALF + 1] - a[HALF])};
    access.halves = advances_by<HALF>(a, step[0]) && advances_by<HALF>(a + HALF, step[1]);
    access.half_step[0] = static_cast<std::make_signed_t<A>>(step[0]);
    access.half_step[1] = static_cast<std::make_signed_t<A>>(step[1]);
  }
}

// Addresses that are offsets from a window of `size` bytes that starts at `base`.
template <class A>
void observe_window(Warp& w, const Inst* in, WarpAccess& access, uint64_t base, uint64_t size) {
  const A* a = w.reg<A>(in->a);
  const A shift = static_cast<A>(in->imm) - static_cast<A>(base);
  A first, step;
  access.regular = is_regular(a, access.mask, first, step);
  if (access.regular) {
    access.step = static_cast<std::make_signed_t<A>>(step);
    access.first = static_cast<A>(first + shift);
    int low = std::countr_zero(access.mask), high = 31 - std::countl_zero(access.mask);
    if (within(access.at(low), access.bytes, 0, size) &&
        within(access.at(high), access.bytes, 0, size)) {
      tell(w, in, access);
      return;
    }
    access.regular = false;
  }
  A outside = 0;
  const auto end = static_cast<A>(size - access.bytes);  // of the offsets inside
  for (int l = 0; l < LANES; l++) {
    const A offset = static_cast<A>(a[l] + shift);
    access.address[l] = offset;
    outside |= static_cast<A>(offset > end) & static_cast<A>(access.mask >> l);
  }
  if (access.bytes <= size && !(outside & 1)) {
    note_halves(access, a);
    tell(w, in, access);
    return;
  }
  // Lanes that address another block of the cluster, or nothing at all.
  Mask own = 0;
  const bool shared = access.where == Where::Shared;
  for_lanes(access.mask,
            [&](int l) { own |= Mask{within(access.address[l], access.bytes, 0, size)} << l; });
  Mask others = shared ? access.mask & ~own : 0;
  access.mask = own;
  if (own) {
    tell(w, in, access);
  }
  while (others) {
    WarpAccess remote = access;
    remote.mask = 0;
    remote.owner = nullptr;
    for_lanes(others, [&](int l) {
      uint64_t address = static_cast<A>(a[l] + static_cast<A>(in->imm));
      Block* block =
          address <= UINT32_MAX ? block_at(*w.block, static_cast<uint32_t>(address)) : nullptr;
      uint64_t offset = (address & OFFSET_MASK) - SHARED_BASE;
      if (!block || !within(offset, access.bytes, 0, block->shared_bytes)) {
        others &= ~(Mask{1} << l);
      } else if (!remote.owner || remote.owner == block) {
        remote.owner = block;
        remote.address[l] = offset;
        remote.mask |= Mask{1} << l;
        others &= ~(Mask{1} << l);
      }
    });
    if (remote.mask) {
      tell(w, in, remote);
    }
  }
}

// Which memory a generic address is in.
struct Window {
  Where where = Where::Global;
  Block* owner = nullptr;
  uint64_t base = 0;
  bool observed = true;  // not the kernel's parameters
};

Window window_of(Warp& w, uint64_t address) {
  if (Block* holder = block_holding(*w.block, address)) {
    return {Where::Shared, holder, reinterpret_cast<uint64_t>(holder->shared)};
  }
  const uint64_t local = reinterpret_cast<uint64_t>(w.local);
  const uint64_t local_bytes = w.block->local_bytes;
  if (address - local < LANES * local_bytes) {
    return {Where::Local, nullptr, local + (address - local) / local_bytes * local_bytes};
  }
  uint64_t params = reinterpret_cast<uint64_t>(w.block->params);
  return {Where::Global, nullptr, 0, address - params >= w.block->worker->launch->params.size()};
}

void observe_generic(Warp& w, const Inst* in, WarpAccess& access, bool is_global) {
  const uint64_t* a = w.reg<uint64_t>(in->a);
  uint64_t first, step;
  access.regular = is_regular(a, access.mask, first, step);
  if (access.regular) {
    access.first = first + in->imm;
    access.step = static_cast<int64_t>(step);
  }
  auto address_at = [&](int l) { return a[l] + in->imm; };
  if (is_global) {
    access.where = Where::Global;
    if (!access.regular) {
      for (int l = 0; l < LANES; l++) {
        access.address[l] = address_at(l);
      }
    }
    tell(w, in, access);
    return;
  }
  // Lanes in the same window are reported together.
  access.regular = false;
  for (Mask rest = access.mask; rest;) {
    const Window window = window_of(w, address_at(std::countr_zero(rest)));
    WarpAccess part = access;
    part.where = window.where;
    part.owner = window.owner;
    part.mask = 0;
    for_lanes(rest, [&](int l) {
      Window own = window_of(w, address_at(l));
      if (own.where == window.where && own.owner == window.owner &&
          own.observed == window.observed) {
        part.address[l] = address_at(l) - own.base;
        part.mask |= Mask{1} << l;
      }
    });
    rest &= ~part.mask;
    uint64_t from, by;
    part.regular = is_regular(part.address, part.mask, from, by);
    part.first = from, part.step = static_cast<int64_t>(by);
    if (window.observed) {
      tell(w, in, part);
    }
  }
}

}  // namespace

void observe(Warp& w, const Inst* in, Mask m) {
  const InstInfo& info = w.block->kernel->info[in - w.block->kernel->code.data()];
  WarpAccess access;
  access.mask = m;
  access.kind = info.kind == InstInfo::Load    ? WarpAccess::Kind::Load
                : info.kind == InstInfo::Store ? WarpAccess::Kind::Store
                                               : WarpAccess::Kind::Atomic;
  access.bytes = info.bytes;
  if (info.observed == InstInfo::Rows) {
    if (m != w.live) {
      return;  // the rest of the warp is yet to come
    }
    access.bytes = 16;
    access.mask = ALL_LANES >> (LANES - 8 * in->count);
  }
  const auto kind = static_cast<AddressKind>(info.address);
  if (kind == AddressKind::Shared32) [[likely]] {
    access.where = Where::Shared;
    access.owner = w.block;
    return observe_window<uint32_t>(w, in, access, SHARED_BASE, w.shared_bytes);
  }
  switch (kind) {
    case AddressKind::Shared32:
      return;
    case AddressKind::Shared64:
      access.where = Where::Shared;
      access.owner = w.block;
      return observe_window<uint64_t>(w, in, access, SHARED_BASE, w.shared_bytes);
    case AddressKind::Local32:
      access.where = Where::Local;
      return observe_window<uint32_t>(w, in, access, 0, w.block->local_bytes);
    case AddressKind::Local64:
      access.where = Where::Local;
      return observe_window<uint64_t>(w, in, access, 0, w.block->local_bytes);
    case AddressKind::Generic:
      return observe_generic(w, in, access, info.space == ptx::Space::Global);
    case AddressKind::Param:
      return;
  }
}

void observe_access(Warp& w, const Inst* in, const WarpAccess& access) { tell(w, in, access); }

}  // namespace wbsim
