// bulk_copy_ops.cpp: cp.async.bulk and its tensor, reduce and prefetch forms: copies of the TMA
// unit; st.async, red.async.
//
// Operands are checked when a copy is issued, where the report belongs; its effect comes later
// (copy_queue.h).

#include <array>

#include "counting/counting.h"
#include "exec/block.h"
#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "exec/ops/copy_queue.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/tensor_copy.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

// Words of inst.list: addresses, then slots.
enum Word { SHARED = 0, OTHER = 3, MBARRIER = 6, COORDINATES = 9, OFFSETS = 14, NUM_WORDS = 17 };

// inst.a: slot of the size; inst.b: slot of the mask of blocks, or 0; inst.dst: the reduction;
// inst.dst2: its type; inst.count: number of tensor dimensions.
enum Flag : uint8_t { IM2COL = 1 };

constexpr const char* THE_SOURCE = "the source of the copy";
constexpr const char* THE_DESTINATION = "the destination of the copy";

Reduce reduce_of(const Inst* in) { return static_cast<Reduce>(in->dst); }

// Calls f(destination, mbarrier) for each block that a copy goes to: the one that the addresses
// name, or with multicast those in the mask, at the same offsets.
template <class F>
void each_destination(const Issuer& issuer, SharedPlace to, SharedPlace mbarrier, F f) {
  const Inst* in = issuer.in;
  if (!in->b) {
    if (to.block != mbarrier.block) {
      issuer.fail("memcheck",
                  "the destination is in block " + std::to_string(to.block->rank) +
                      " of the cluster and its mbarrier in block " +
                      std::to_string(mbarrier.block->rank),
                  "a copy signals an mbarrier of the block that it writes to");
    }
    f(to, mbarrier);
    return;
  }
  uint32_t blocks = issuer.warp->reg<uint16_t>(in->b)[issuer.lane];
  for_lanes(blocks, [&](int rank) {
    f(in_block(issuer, to, rank, THE_DESTINATION), in_block(issuer, mbarrier, rank, THE_MBARRIER));
  });
}

void add_store(const Issuer& issuer, uint32_t bytes, std::function<void(uint8_t*)> read,
               std::function<void(const uint8_t*)> write) {
  WarpCopies& copies = copies_of(*issuer.warp);
  uint32_t group = copies.bulk_committed[issuer.lane];
  BulkStore& store = copies.stores.emplace_back();
  store.in = issuer.in, store.lane = issuer.lane, store.group = group, store.bytes = bytes;
  store.read = std::move(read), store.write = std::move(write);
}

// Reports that the last store reads pieces of `bytes` bytes at these offsets in a block's memory.
void begin_read(Checker& checker, const Issuer& issuer, Block& block,
                std::span<const uint32_t> offsets, uint32_t bytes) {
  HappensBefore& order = checker.order();
  checker.async_read(issuer, block, offsets, bytes, order.bulk_agent(*issuer.warp));
  copies_of(*issuer.warp).stores.back().issued = order.now();
  order.advance();
}

// A copy of this many bytes into shared memory begins.
void begin_write(const Issuer& issuer, SharedPlace to, uint64_t bytes, SharedPlace mbarrier,
                 bool atomic, Signal signal) {
  if (Checker* checker = issuer.block().cluster->checker.get()) {
    HappensBefore& order = checker->order();
    checker->use_mbarrier(issuer, mbarrier, false);
    checker->async_write(issuer, to, static_cast<uint32_t>(bytes), order.mbarrier_agent(mbarrier),
                         atomic);
    signal.issued = order.issue_copy(issuer, mbarrier, signal.bytes);
  }
  enqueue(mbarrier, std::move(signal));
}

// ---- Copies of bytes ----------------------------------------------------------------------------

uint32_t checked_size(const Issuer& issuer) {
  uint32_t size = issuer.warp->reg<uint32_t>(issuer.in->a)[issuer.lane];
  if (size % 16 != 0) {
    issuer.fail("memcheck",
                "a bulk copy of " + std::to_string(size) + " bytes; the size is a multiple of 16");
  }
  return size;
}

uint8_t* checked_global(const Issuer& issuer, uint32_t size, bool write) {
  uint64_t address = address_of(*issuer.warp, issuer.in->list + OTHER, issuer.lane);
  if (address % 16 != 0) {
    issuer.fail("memcheck", std::string(write ? THE_DESTINATION : THE_SOURCE) +
                                " in global memory is not aligned to 16 bytes");
  }
  if (size) {
    check_global(*issuer.warp, issuer.in, issuer.lane, address, size, write);
    if (Checker* checker = issuer.block().cluster->checker.get()) {
      checker->global_copy(issuer, reinterpret_cast<const void*>(address), size, write,
                           reduce_of(issuer.in) != Reduce::None);
    }
    if (issuer.block().worker->launch->counting) {
      count_copy(*issuer.warp, issuer.in, address, size, write);
    }
  }
  return reinterpret_cast<uint8_t*>(address);
}

// global -> shared
const Inst* load_bytes(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    uint32_t size = checked_size(issuer);
    const uint8_t* from = checked_global(issuer, size, false);
    SharedPlace place = shared_place(issuer, in->list + SHARED, size, 16, THE_DESTINATION);
    each_destination(issuer, place, mbarrier_place(issuer, in->list + MBARRIER),
                     [&](SharedPlace to, SharedPlace mbarrier) {
                       begin_write(issuer, to, size, mbarrier, false,
                                   {issuer, size, 0, [=] { std::memcpy(to.data(), from, size); }});
                     });
  });
  return next(in);
}

// shared -> shared of another block, or a reduction into it
const Inst* send_bytes(Warp& w, const Inst* in, Mask m) {
  ReduceElements reduce = reduction(reduce_of(in), static_cast<Type>(in->dst2));
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    uint32_t size = checked_size(issuer);
    SharedPlace from = shared_place(issuer, in->list + OTHER, size, 16, THE_SOURCE);
    SharedPlace place = shared_place(issuer, in->list + SHARED, size, 16, THE_DESTINATION);
    each_destination(
        issuer, place, mbarrier_place(issuer, in->list + MBARRIER),
        [&](SharedPlace to, SharedPlace mbarrier) {
          auto apply = [=] {
            if (from.block->live_warps == 0) {
              issuer.fail("memcheck",
                          "the block exited before this copy had read its "
                          "shared memory");
            }
            if (reduce) {
              reduce(to.data(), from.data(), size);
            } else {
              std::memmove(to.data(), from.data(), size);
            }
          };
          if (Checker* checker = w.block->cluster->checker.get()) {
            checker->async_read(issuer, from, size, checker->order().mbarrier_agent(mbarrier));
          }
          begin_write(issuer, to, size, mbarrier, reduce != nullptr, {issuer, size, 0, apply});
        });
  });
  return next(in);
}

// shared -> global, or a reduction into it
const Inst* store_bytes(Warp& w, const Inst* in, Mask m) {
  ReduceElements reduce = reduction(reduce_of(in), static_cast<Type>(in->dst2));
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    uint32_t size = checked_size(issuer);
    SharedPlace from = shared_place(issuer, in->list + SHARED, size, 16, THE_SOURCE);
    uint8_t* to = checked_global(issuer, size, true);
    add_store(
        issuer, size, [=](uint8_t* buffer) { std::memcpy(buffer, from.data(), size); },
        [=](const uint8_t* buffer) {
          if (reduce) {
            reduce(to, buffer, size);
          } else {
            std::memcpy(to, buffer, size);
          }
        });
    if (Checker* checker = w.block->cluster->checker.get()) {
      begin_read(*checker, issuer, *from.block, std::span(&from.offset, 1), size);
    }
  });
  return next(in);
}

const Inst* prefetch_bytes(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    checked_global(issuer, checked_size(issuer), false);
  });
  return next(in);
}

// ---- Copies of boxes of tensors -----------------------------------------------------------------

constexpr uint32_t BOX_ALIGN = 128;  // in shared memory

TensorBox box_of(const Issuer& issuer) {
  Warp& w = *issuer.warp;
  const Inst* in = issuer.in;
  TensorBox box{load_tensor_map(issuer, address_of(w, in->list + OTHER, issuer.lane))};
  const char* modes[] = {"tiled", "im2col"};
  bool im2col = in->flags & IM2COL;
  if (box.map.rank != in->count || box.map.im2col != im2col) {
    issuer.fail("memcheck", "a copy of a " + std::to_string(in->count) + "-dimensional " +
                                modes[im2col] + " tensor with the map of a " +
                                std::to_string(box.map.rank) + "-dimensional " +
                                modes[box.map.im2col != 0] + " one");
  }
  for (int i = 0; i < in->count; i++) {
    box.at[i] = w.reg<int32_t>(in->list[COORDINATES + i])[issuer.lane];
  }
  for (int i = 0; i < 3; i++) {
    uint32_t slot = in->list[OFFSETS + i];
    box.offsets[i] = slot ? w.reg<uint16_t>(slot)[issuer.lane] : 0;
  }
  return box;
}

SharedPlace shared_box(const Issuer& issuer, const TensorBox& box, const char* what) {
  return shared_place(issuer, issuer.in->list + SHARED, box.shared_bytes(), BOX_ALIGN, what);
}

// Of a tensor without rows, a copy without a swizzle is one of bytes: they may be swizzled already.
bool has_rows(const TensorBox& box) { return box.map.rank > 1 || box.map.swizzle; }

// Notes a destination that is not where the pattern of its swizzle begins.
void note_destination(const Issuer& issuer, const TensorBox& box, SharedPlace to) {
  constexpr uint32_t UNIT_BYTES = 16;
  const uint32_t width = UNIT_BYTES * (static_cast<uint32_t>(box.swizzle()) + 1);
  const uint32_t period = 8 * width, off = to.address() % period;
  Worker& worker = *issuer.block().worker;
  if (box.swizzle() == Swizzle::None || off == 0 || !worker.launch->observed()) {
    return;
  }
  const auto pc = static_cast<uint32_t>(issuer.in - issuer.block().kernel->code.data());
  Note& note = worker.notes[{pc, 'D'}];
  note.odd = true;
  note.text = "the destination of the copy is " + std::to_string(off) +
              " bytes behind a multiple of " + std::to_string(period) +
              ", where the pattern of a " + std::to_string(width) +
              "-byte swizzle begins: right only if what reads it swizzles by the address, as "
              "tensor copies and wgmma do; align it to " +
              std::to_string(period) + " bytes";
}

const Inst* load_tensor(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    TensorBox box = box_of(issuer);
    check_box(issuer, box, false);
    each_destination(
        issuer, shared_box(issuer, box, THE_DESTINATION),
        mbarrier_place(issuer, in->list + MBARRIER), [&](SharedPlace to, SharedPlace mbarrier) {
          if (Checker* checker = w.block->cluster->checker.get(); checker && has_rows(box)) {
            note_destination(issuer, box, to);
            checker->tile_write(issuer, to, static_cast<uint32_t>(box.bytes()), box.swizzle(),
                                box.row_bytes());
          }
          begin_write(issuer, to, box.shared_bytes(), mbarrier, false,
                      {issuer, static_cast<uint32_t>(box.bytes()), 0, [=] { load_box(box, to); }});
        });
  });
  return next(in);
}

const Inst* store_tensor(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    TensorBox box = box_of(issuer);
    check_box(issuer, box, true, reduce_of(in) != Reduce::None);
    SharedPlace from = shared_box(issuer, box, THE_SOURCE);
    ReduceElements reduce = reduction(reduce_of(in), box.type(reduce_of(in)));
    if (reduce_of(in) != Reduce::None && !reduce) {
      issuer.fail("memcheck",
                  "the tensor's elements are of a type that this reduction does not "
                  "exist for");
    }
    add_store(
        issuer, static_cast<uint32_t>(box.bytes()),
        [=](uint8_t* buffer) { read_box(box, from, buffer); },
        [=](const uint8_t* buffer) { write_box(box, buffer, reduce); });
    if (Checker* checker = w.block->cluster->checker.get()) {
      begin_read(*checker, issuer, *from.block, units_inside(box, from), 16);
    }
  });
  return next(in);
}

const Inst* prefetch_tensor(Warp& w, const Inst* in, Mask m) {
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    check_box(issuer, box_of(issuer), false);
  });
  return next(in);
}

// ---- Groups -------------------------------------------------------------------------------------

const Inst* commit(Warp& w, const Inst* in, Mask m) {
  WarpCopies& copies = copies_of(w);
  for_lanes(m, [&](int l) { copies.bulk_committed[l]++; });
  return next(in);
}

// inst.imm: groups that may remain pending; inst.flags: only their sources must have been read.
const Inst* wait_group(Warp& w, const Inst* in, Mask m) {
  WarpCopies& copies = copies_of(w);
  if (!copies.stores.empty()) {
    for_lanes(m, [&](int l) {
      int64_t end = int64_t{copies.bulk_committed[l]} - in->imm;
      if (end > 0) {
        finish_stores(w, l, static_cast<uint32_t>(end), in->flags != 0);
      }
    });
  }
  return next(in);
}

// ---- st.async, red.async ------------------------------------------------------------------------
// inst.list: the destination, the mbarrier, the values; inst.imm: bytes of one value.
//
// A thread that waits for the values also learns what the sender had waited for, but not what the
// sender did since: the values may overtake its stores.

enum ElementWord { ELEMENT_MBARRIER = 3, VALUES = 6 };

const Inst* send_values(Warp& w, const Inst* in, Mask m) {
  ReduceElements reduce = reduction(reduce_of(in), static_cast<Type>(in->dst2));
  const auto size = static_cast<uint32_t>(in->imm), bytes = size * in->count;
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    SharedPlace place = shared_place(issuer, in->list, bytes, bytes, THE_DESTINATION);
    std::array<uint8_t, 16> values;
    for (uint32_t i = 0; i < in->count; i++) {
      std::memcpy(values.data() + i * size, w.frame + in->list[VALUES + i] + l * size, size);
    }
    each_destination(issuer, place, mbarrier_place(issuer, in->list + ELEMENT_MBARRIER),
                     [&](SharedPlace to, SharedPlace mbarrier) {
                       auto apply = [=] {
                         if (reduce) {
                           reduce(to.data(), values.data(), bytes);
                         } else {
                           std::memcpy(to.data(), values.data(), bytes);
                         }
                       };
                       Signal signal{issuer, bytes, 0, apply};
                       if (Checker* checker = issuer.block().cluster->checker.get()) {
                         signal.released = checker->order().view(w, l).knows;
                       }
                       begin_write(issuer, to, bytes, mbarrier, reduce != nullptr, signal);
                     });
  });
  return next(in);
}

// ---- Builders -----------------------------------------------------------------------------------

constexpr const char* COMPLETES = "mbarrier::complete_tx::bytes";

// The state spaces of destination and source, which appear in this order.
struct Spaces {
  Window to, from;
};

Spaces take_spaces(Decode& d) {
  std::vector<Window> found;
  for (const std::string& modifier : d.source.mods) {
    for (auto& [name, window] :
         {std::pair("global", Window::Global), std::pair("shared::cta", Window::Cta),
          std::pair("shared::cluster", Window::Cluster)}) {
      if (modifier == name && d.take(name)) {
        found.push_back(window);
      }
    }
  }
  if (found.size() != 2) {
    throw Unsupported{};
  }
  return {found[0], found[1]};
}

// Gathers the words of inst.list.
struct Words {
  std::vector<uint32_t> all = std::vector<uint32_t>(NUM_WORDS, 0);

  void address(Decode& d, size_t at, const Operand& op, Window window) {
    std::vector<uint32_t> words;
    push_address(d, op, window, words);
    std::copy(words.begin(), words.end(), all.begin() + at);
  }
};

// The operands after the fixed ones: a mask of blocks with multicast, a cache policy with a hint.
void take_rest(Decode& d, size_t i) {
  if (d.take("multicast::cluster")) {
    d.inst.b = d.src(i++, Type::U16);
  }
  if (d.take("L2::cache_hint")) {
    d.src(i++, Type::B64);
  }
  if (i != d.num_args()) {
    throw Unsupported{};
  }
}

void build_bytes(Decode& d, bool reduces) {
  Spaces spaces = take_spaces(d);
  bool to_global = spaces.to == Window::Global, from_global = spaces.from == Window::Global;
  if (reduces) {
    d.inst.dst = static_cast<uint32_t>(take_reduce(d));
    d.take("noftz");
    Type type = d.take_type();
    d.inst.dst2 = static_cast<uint32_t>(type);
    if (from_global || !reduction(reduce_of(&d.inst), type)) {
      throw Unsupported{};
    }
  }
  Words words;
  words.address(d, to_global ? OTHER : SHARED, d.arg(0), spaces.to);
  words.address(d, to_global ? SHARED : OTHER, d.arg(1), spaces.from);
  d.inst.a = d.src(2, Type::U32);
  if (to_global) {
    if (!d.take("bulk_group")) {
      throw Unsupported{};
    }
    take_rest(d, 3);
    d.inst.run = store_bytes;
  } else {
    if (!d.take(COMPLETES)) {
      throw Unsupported{};
    }
    words.address(d, MBARRIER, d.arg(3), spaces.to);
    take_rest(d, 4);
    d.inst.run = from_global ? load_bytes : send_bytes;
  }
  d.inst.list = d.list(words.all);
}

// [tensorMap, {coordinates}]
void tensor_operand(Decode& d, Words& words, const Operand& op) {
  static constexpr const char* DIMS[] = {"1d", "2d", "3d", "4d", "5d"};
  for (uint16_t i = 0; i < std::size(DIMS); i++) {
    if (d.take(DIMS[i])) {
      d.inst.count = i + 1;
    }
  }
  if (op.kind != Operand::Memory || op.items.size() != 1 ||
      op.items[0].items.size() != d.inst.count) {
    throw Unsupported{};
  }
  words.address(d, OTHER, op, Window::Global);
  for (int i = 0; i < d.inst.count; i++) {
    words.all[COORDINATES + i] = d.src(op.items[0].items[i], Type::S32);
  }
}

// The offsets of im2col, one per dimension between the channels and the images.
void im2col_operand(Decode& d, Words& words, const Operand& op) {
  if (op.kind != Operand::Vector || op.items.size() + 2 != d.inst.count) {
    throw Unsupported{};
  }
  for (size_t i = 0; i < op.items.size(); i++) {
    words.all[OFFSETS + i] = d.src(op.items[i], Type::U16);
  }
}

void build_tensor(Decode& d, bool reduces) {
  Words words;
  if (d.take("prefetch")) {
    if (reduces || !d.take("L2") || !d.take("global")) {
      throw Unsupported{};
    }
    tensor_operand(d, words, d.arg(0));
    d.take("tile");
    size_t i = 1;
    if (d.take("im2col")) {
      d.inst.flags = IM2COL;
      im2col_operand(d, words, d.arg(i++));
    }
    take_rest(d, i);
    d.inst.run = prefetch_tensor;
  } else if (Spaces spaces = take_spaces(d); spaces.to == Window::Global) {
    tensor_operand(d, words, d.arg(0));
    words.address(d, SHARED, d.arg(1), spaces.from);
    d.take("tile");
    d.inst.flags = d.take("im2col_no_offs") ? IM2COL : 0;
    if (reduces) {
      d.inst.dst = static_cast<uint32_t>(take_reduce(d));
    }
    if (!d.take("bulk_group") || (reduces && reduce_of(&d.inst) == Reduce::None)) {
      throw Unsupported{};
    }
    take_rest(d, 2);
    d.inst.run = store_tensor;
  } else {
    words.address(d, SHARED, d.arg(0), spaces.to);
    tensor_operand(d, words, d.arg(1));
    words.address(d, MBARRIER, d.arg(2), spaces.to);
    d.take("tile");
    size_t i = 3;
    if (d.take("im2col")) {
      d.inst.flags = IM2COL;
      im2col_operand(d, words, d.arg(i++));
    }
    if (reduces || spaces.from != Window::Global || !d.take(COMPLETES)) {
      throw Unsupported{};
    }
    take_rest(d, i);
    d.inst.run = load_tensor;
  }
  d.inst.list = d.list(words.all);
}

void build_prefetch(Decode& d) {
  if (!d.take("L2") || !d.take("global")) {
    throw Unsupported{};
  }
  Words words;
  words.address(d, OTHER, d.arg(0), Window::Global);
  d.inst.a = d.src(1, Type::U32);
  take_rest(d, 2);
  d.inst.list = d.list(words.all);
  d.inst.run = prefetch_bytes;
}

void build_bulk(Decode& d) {
  bool reduces = d.take("reduce");
  if (!d.take("async") || !d.take("bulk")) {
    throw Unsupported{};
  }
  if (d.take("commit_group")) {
    d.inst.run = commit;
  } else if (d.take("wait_group")) {
    if (d.arg(0).kind != Operand::Integer) {
      throw Unsupported{};
    }
    d.inst.imm = static_cast<int64_t>(d.arg(0).bits);
    d.inst.flags = d.take("read");
    d.inst.run = wait_group;
  } else if (d.take("tensor")) {
    build_tensor(d, reduces);
  } else if (d.take("prefetch")) {
    build_prefetch(d);
  } else {
    build_bytes(d, reduces);
  }
}

// st.async and red.async: [destination], value, [mbarrier].
void build_send(Decode& d) {
  if (!d.take("async") || !d.take(COMPLETES)) {
    throw Unsupported{};
  }
  bool reduces = d.source.opcode == "red";
  d.drop({"weak", "relaxed", "cluster"});
  Window window = d.take("shared::cluster") ? Window::Cluster : Window::Generic;
  d.inst.count = d.take("v2") ? 2 : d.take("v4") ? 4 : 1;
  if (reduces) {
    d.inst.dst = static_cast<uint32_t>(take_reduce(d));
  }
  Type type = d.take_type();
  d.inst.dst2 = static_cast<uint32_t>(type);
  d.inst.imm = ptx::bytes_of(type);
  if (d.inst.imm < 4 || d.inst.imm * d.inst.count > 16 ||
      (reduces && (d.inst.count > 1 || !reduction(reduce_of(&d.inst), type)))) {
    throw Unsupported{};
  }
  std::vector<uint32_t> words;
  push_address(d, d.arg(0), window, words);
  push_address(d, d.arg(2), window, words);
  const Operand& value = d.arg(1);
  std::vector<Operand> values =
      value.kind == Operand::Vector ? value.items : std::vector<Operand>{value};
  if (values.size() != d.inst.count) {
    throw Unsupported{};
  }
  for (const Operand& v : values) {
    words.push_back(d.src(v, type));
  }
  d.inst.list = d.list(words);
  d.inst.run = send_values;
}

constexpr Opcode OPCODES[] = {
    {"cp", build_bulk, UnitRule::Memory, First::Other, Flow::Other,
     [](const ptx::Instruction& inst) { return has(inst, "bulk"); }},
    {"st", build_send, UnitRule::Memory, First::Other, Flow::Plain, asynchronous},
    {"red", build_send, UnitRule::Memory, First::Other, Flow::Other, asynchronous},
};

}  // namespace

std::span<const Opcode> bulk_copy_opcodes() { return OPCODES; }

}  // namespace wbsim
