// async_copy_ops.cpp: cp.async: a thread's copies that complete later, and their groups.
//
// inst.a, imm: the source; inst.list: the destination; inst.count: bytes written; inst.b: slot of
// the number of bytes to read, or of the predicate that says to read none.

#include "counting/counting.h"
#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "exec/ops/copy_queue.h"
#include "exec/ops/dispatch.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

enum Source : uint8_t { WHOLE, SIZED, IGNORED };

// Bytes that each lane reads.
void read_sizes(Warp& w, const Inst* in, Mask m, uint8_t* sizes) {
  for_lanes(m, [&](int l) {
    uint32_t size = in->count;
    if (in->flags == SIZED) {
      size = w.reg<uint32_t>(in->b)[l];
      if (size > in->count) {
        Issuer{&w, in, l}.fail("memcheck", "cp.async of " + std::to_string(in->count) +
                                               " bytes with a source of " + std::to_string(size));
      }
    } else if (in->flags == IGNORED) {
      size = (w.pred(in->b) >> l) & 1 ? 0 : size;
    }
    sizes[l] = static_cast<uint8_t>(size);
  });
}

// The destination of a lane: mostly a 32-bit address that needs no closer look.
uint8_t* destination(Warp& w, const Inst* in, int l) {
  const Block& block = *w.block;
  uint64_t offset = address_of(w, in->list, l) - SHARED_BASE;
  if (offset % in->count == 0 && within(offset, in->count, 0, block.shared_bytes)) [[likely]] {
    return block.shared + offset;
  }
  return shared_place({&w, in, l}, in->list, in->count, in->count, "the destination of cp.async")
      .data();
}

// The lanes of m, and the places that they read or write.
template <class Place>
WarpAccess access_of(Mask m, uint32_t bytes, Place place) {
  WarpAccess access;
  access.mask = m;
  access.bytes = bytes;
  for_lanes(m, [&](int l) { access.address[l] = place(l); });
  return access;
}

void count(Warp& w, const Inst* in, Mask m, const LaneCopy& copy) {
  Mask reading = 0;
  for_lanes(m, [&](int l) { reading |= Mask{copy.read[l] > 0} << l; });
  const WarpAccess from = access_of(
      reading, in->count, [&](int l) { return reinterpret_cast<uint64_t>(copy.from[l]); });
  WarpAccess to =
      access_of(m, in->count, [&](int l) { return uint64_t(copy.to[l] - w.block->shared); });
  to.kind = WarpAccess::Kind::Store;
  to.where = WarpAccess::Where::Shared;
  to.owner = w.block;
  count_lane_copy(w, in, from, to);
}

// Reports to the checks what the copy reads and writes.
void check(Checker& checker, Warp& w, const Inst* in, Mask m, LaneCopy& copy) {
  copy.issued = checker.order().now();
  for (uint32_t size = 1; size <= in->count; size++) {
    Mask reading = 0;
    for_lanes(m, [&](int l) { reading |= Mask{copy.read[l] == size} << l; });
    if (reading) {
      checker.access(w, in, access_of(reading, size, [&](int l) {
                       return reinterpret_cast<uint64_t>(copy.from[l]);
                     }));
    }
  }
  for_lanes(m, [&](int l) { checker.lane_copy(w, in, l, copy.to[l], copy.bytes); });
}

// Addresses are checked here, where the report belongs. A source of no bytes may be anywhere.
const Inst* copy(Warp& w, const Inst* in, Mask m) {
  WarpCopies& copies = copies_of(w);
  LaneCopy& copy = copies.copies.emplace_back();
  copy.mask = m;
  copy.bytes = static_cast<uint8_t>(in->count);
  copy.number = copies.issued++;
  std::copy_n(copies.committed, LANES, copy.group);
  read_sizes(w, in, m, copy.read);
  Mask whole = 0;
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    copy.to[l] = destination(w, in, l);
    whole |= Mask{copy.read[l] == in->count} << l;
    if (copy.read[l] > 0 && copy.read[l] < in->count) {
      uint64_t address = w.reg<uint64_t>(in->a)[l] + in->imm;
      if (address % in->count != 0) {
        issuer.fail("memcheck", "the source of cp.async is misaligned: it is not a multiple of " +
                                    std::to_string(in->count));
      }
      check_global(w, in, l, address, copy.read[l], false);
      copy.from[l] = reinterpret_cast<const uint8_t*>(address);
    }
  });
  if (whole) {
    Access at;
    resolve<AddressKind::Generic, false>(at, w, in, whole, in->count);
    for_lanes(whole, [&](int l) { copy.from[l] = at.lane(l); });
  }
  for_lanes(m & ~whole, [&](int l) {
    if (copy.read[l] == 0) {
      copy.from[l] = copy.to[l];  // reads nothing
    }
  });
  if (w.block->worker->launch->counting) {
    count(w, in, m, copy);
  }
  if (Checker* checker = w.block->cluster->checker.get()) {
    check(*checker, w, in, m, copy);
  }
  return next(in);
}

void build_copy(Decode& d) {
  bool everywhere = d.take("ca");
  if (!everywhere && !d.take("cg")) {
    throw Unsupported{};
  }
  bool hinted = d.take("L2::cache_hint");
  d.drop({"L2::64B", "L2::128B", "L2::256B"});
  if (take_window(d) != Window::Cta || !d.take("global")) {
    throw Unsupported{};
  }
  std::vector<uint32_t> words;
  push_address(d, d.arg(0), Window::Cta, words);
  d.inst.list = d.list(words);
  words.clear();
  push_address(d, d.arg(1), Window::Global, words);
  d.inst.a = words[0];
  d.inst.imm = d.arg(1).offset;
  uint64_t bytes = d.arg(2).kind == Operand::Integer ? d.arg(2).bits : 0;
  if (bytes != 16 && (bytes != 4 || !everywhere) && (bytes != 8 || !everywhere)) {
    throw Unsupported{};
  }
  d.inst.count = static_cast<uint16_t>(bytes);
  d.inst.flags = WHOLE;
  if (d.num_args() > (hinted ? 4 : 3)) {
    bool is_predicate = d.register_bytes(d.arg(3)) == 1;
    d.inst.flags = is_predicate ? IGNORED : SIZED;
    d.inst.b = is_predicate ? d.pred(d.arg(3)) : d.src(3, Type::U32);
  }
  d.info.kind = InstInfo::Load;
  d.info.space = ptx::Space::Global;
  d.info.bytes = d.inst.count;
  d.info.bypasses_l1 = !everywhere;
  d.inst.run = copy;
}

const Inst* commit(Warp& w, const Inst* in, Mask m) {
  WarpCopies& copies = copies_of(w);
  for_lanes(m, [&](int l) { copies.committed[l]++; });
  return next(in);
}

const Inst* wait_group(Warp& w, const Inst* in, Mask m) {
  WarpCopies& copies = copies_of(w);
  finish_lane_copies(w, m, [&](const LaneCopy& copy, int l) {
    return copy.group[l] + static_cast<uint64_t>(in->imm) < copies.committed[l];
  });
  return next(in);
}

const Inst* wait_all(Warp& w, const Inst* in, Mask m) {
  finish_lane_copies(w, m, [](const LaneCopy&, int) { return true; });
  return next(in);
}

// One arrival per lane once its copies so far have completed. Without noinc the phase expects that
// arrival in addition.
const Inst* arrive_when_done(Warp& w, const Inst* in, Mask m) {
  WarpCopies& copies = copies_of(w);
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    SharedPlace barrier = mbarrier_place(issuer, in->list);
    if (!in->flags) {
      expect_arrivals(issuer, barrier, 1);
    }
    Checker* checker = w.block->cluster->checker.get();
    const Time when = checker ? checker->order().now() : 0;
    auto finish = [&w, l, end = copies.issued, when] {
      finish_lane_copies(
          w, Mask{1} << l, [end](const LaneCopy& copy, int) { return copy.number < end; }, when);
    };
    Signal signal{issuer, 0, 1, finish};
    if (checker) {
      checker->use_mbarrier(issuer, barrier, false);
      signal.released = checker->order().release(w, Mask{1} << l);
    }
    enqueue(barrier, std::move(signal));
  });
  return next(in);
}

void build_async(Decode& d) {
  if (!d.take("async")) {
    throw Unsupported{};
  }
  if (d.take("commit_group")) {
    d.inst.run = commit;
  } else if (d.take("wait_all")) {
    d.inst.run = wait_all;
  } else if (d.take("wait_group")) {
    if (d.arg(0).kind != Operand::Integer) {
      throw Unsupported{};
    }
    d.inst.imm = static_cast<int64_t>(d.arg(0).bits);
    d.inst.run = wait_group;
  } else if (d.take("mbarrier")) {
    if (!d.take("arrive") || !d.take("b64")) {
      throw Unsupported{};
    }
    d.inst.flags = d.take("noinc");
    std::vector<uint32_t> words;
    push_address(d, d.arg(0), take_window(d), words);
    d.inst.list = d.list(words);
    d.inst.run = arrive_when_done;
  } else {
    build_copy(d);
  }
}

constexpr Opcode OPCODES[] = {
    {"cp", build_async, UnitRule::Memory, First::Other, Flow::Other,
     [](const ptx::Instruction& inst) { return !has(inst, "bulk"); }},
};

}  // namespace

std::span<const Opcode> async_copy_opcodes() { return OPCODES; }

}  // namespace wbsim
