#include "exec/ops/access.h"

#include <bit>
#include <cstdio>
#include <string>

#include "checks/finding.h"
#include "exec/lanes.h"
#include "exec/ops/shared_address.h"
#include "wbsim.h"

namespace wbsim {
namespace {

std::string bytes_text(uint64_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); }

std::string hex(uint64_t v) {
  char buffer[20];
  std::snprintf(buffer, sizeof buffer, "0x%llx", static_cast<unsigned long long>(v));
  return buffer;
}

std::string verb(const Warp& w, const Inst* in, bool write) {
  const bool atomic =
      w.block->kernel->info[in - w.block->kernel->code.data()].kind == InstInfo::Atomic;
  return atomic ? "atomic update" : write ? "write" : "read";
}

constexpr uint64_t FAR = uint64_t{1} << 32;  // from an allocation, to still be worth naming it

// How far from a region an address may be to be explained by it. The variables of modules are in the
// host's memory: so is what is near them.
uint64_t reach_of(const Region& r) {
  return r.text == VARIABLE_TEXT ? std::max<uint64_t>(r.bytes, 256) : FAR;
}

// The region in which an access would be if 32 bits had been enough for its index, or for the
// offset in bytes: it misses by 2^31 or 2^32 elements of up to 16 bytes.
const Region* where_meant(const RegionTable& regions, uint64_t address, uint64_t bytes) {
  for (uint64_t shift = 31; shift <= 36; shift++) {
    for (uint64_t meant : {address + (uint64_t{1} << shift), address - (uint64_t{1} << shift)}) {
      if (const Region* r = regions.find(meant, bytes, false)) {
        return r;
      }
    }
  }
  return nullptr;
}

// "8 bytes past the end of 'a' (float32 [10, 10], 400 bytes)".
std::string place_of(const RegionTable& regions, uint64_t address, uint64_t bytes) {
  const std::string former = regions.former ? regions.former(address) : "";
  if (!former.empty()) {
    return former;
  }
  const Region* meant = where_meant(regions, address, bytes);
  const Region* r = meant ? meant : regions.nearest(address);
  if (!r) {
    return "no memory is allocated";
  }
  const bool unnamed = r->name.starts_with("cuda");  // the call that allocated it
  std::string what = (unnamed ? "an allocation of " + r->name : "'" + r->name + "'") + " (" +
                     (r->text.empty() ? "" : r->text + ", ") + bytes_text(r->bytes) + ")";
  if (address < r->first) {
    uint64_t gap = r->first - address;
    return gap > reach_of(*r) && !meant ? "far from every allocation"
                                        : bytes_text(gap) + " before the start of " + what;
  }
  if (address + bytes > r->last()) {
    uint64_t gap = address - r->last();
    if (address < r->last()) {
      return "across the end of " + what;
    }
    return gap > reach_of(*r) && !meant ? "far from every allocation"
           : gap == 0                   ? "just past the end of " + what
                                        : bytes_text(gap) + " past the end of " + what;
  }
  return "inside " + what;
}

const char* space_name(AddressKind kind) {
  switch (kind) {
    case AddressKind::Generic:
      return "global";
    case AddressKind::Shared32:
    case AddressKind::Shared64:
      return "shared";
    case AddressKind::Param:
      return "parameter";
    default:
      return "local";
  }
}

[[noreturn]] void fail(const Warp& w, const Inst* in, int lane, uint64_t address,
                       const std::string& message, const std::string& hint) {
  Finding f = finding_at(w, in, lane, "memcheck", message);
  f.address = address;
  f.hint = hint;
  throw f;
}

[[noreturn]] void misaligned(const Warp& w, const Inst* in, int lane, uint64_t address, int bytes,
                             int alignment, bool write) {
  fail(w, in, lane, address,
       "misaligned " + verb(w, in, write) + " of " + bytes_text(bytes) + " at address " +
           hex(address) + ", which is not a multiple of " + std::to_string(alignment),
       "a vector type such as float4 is aligned to its size: check the base pointer and the row's "
       "length");
}

void check_live(const Warp& w, const Inst* in, int lane, const Block& block, uint64_t address) {
  if (std::string trouble = trouble_with(*w.block, block); !trouble.empty()) {
    fail(w, in, lane, address,
         "access to the shared memory of the cluster's block " + std::to_string(block.rank) +
             trouble,
         NOT_LIVE_HINT);
  }
}

// One lane's access through a generic address: finds its region, or reports an error.
void check_generic(Warp& w, const Inst* in, int lane, uint64_t address, int bytes, bool write) {
  const Worker& worker = *w.block->worker;
  const Block& block = *w.block;
  auto inside = [&](const uint8_t* base, uint64_t size) {
    uint64_t first = reinterpret_cast<uint64_t>(base);
    return within(address, bytes, first, first + size);
  };
  const Block* holder = block_holding(*w.block, address);
  if (holder && inside(holder->shared, holder->shared_bytes)) {
    check_live(w, in, lane, *holder, address);
    return;
  }
  if (inside(block.params, worker.launch->params.size())) {
    return;
  }
  uint64_t local = block.local_bytes;
  if (inside(w.local + local * lane, local)) {
    return;
  }
  check_global(w, in, lane, address, bytes, write);
}

// A shared address that names another block of the cluster; nullptr if it is not in one.
uint8_t* in_other_block(const Warp& w, const Inst* in, int lane, uint64_t address, uint64_t bytes) {
  const Block* block =
      address <= UINT32_MAX ? block_at(*w.block, static_cast<uint32_t>(address)) : nullptr;
  uint64_t offset = address & OFFSET_MASK;
  if (!block || !within(offset, bytes, SHARED_BASE, SHARED_BASE + block->shared_bytes)) {
    return nullptr;
  }
  check_live(w, in, lane, *block, address);
  return block->shared + (offset - SHARED_BASE);
}

[[noreturn]] void outside_window(const Warp& w, const Inst* in, int lane, AddressKind kind,
                                 uint64_t address, int bytes, bool write) {
  const Kernel& kernel = *w.block->kernel;
  uint64_t base = 0, size = kernel.param_bytes;
  std::string whose = "the kernel's parameters (" + bytes_text(size) + ")";
  const uint64_t rank = address >> RANK_SHIFT;  // plus one, if the address names a block
  if (is_shared(kind) && rank > 0 && rank <= MAX_CLUSTER) {
    auto& blocks = w.block->cluster->blocks;
    base = SHARED_BASE;
    size = rank <= blocks.size() ? blocks[rank - 1]->shared_bytes : 0;
    address &= OFFSET_MASK;
    whose = "the shared memory of block " + std::to_string(rank - 1) + " of a cluster of " +
            std::to_string(blocks.size());
  } else if (is_shared(kind)) {
    base = SHARED_BASE;
    size = w.block->shared_bytes;
    whose = "the block's shared memory (" + bytes_text(kernel.shared_bytes) + " static, " +
            bytes_text(size - kernel.shared_bytes) + " dynamic)";
  } else if (is_local(kind)) {
    size = w.block->local_bytes;
    whose = "the thread's local memory (" + bytes_text(size) + ")";
  }
  std::string where = address < base           ? bytes_text(base - address) + " before the start"
                      : address == base + size ? "just past the end"
                      : address > base + size  ? bytes_text(address - base - size) + " past the end"
                                               : "across the end";
  fail(w, in, lane, address,
       "out-of-bounds " + verb(w, in, write) + " of " + bytes_text(bytes) + " in " +
           space_name(kind) + " memory, " + where + " of " + whose,
       is_shared(kind)
           ? "check the index against the declaration, or against the bytes of the launch"
           : "check the index against the declaration");
}

// The most frequent mistake with such an address.
std::string hint_for(const RegionTable& regions, uint64_t address, uint64_t bytes) {
  if (address < 4096) {
    return ": a null pointer; was its cudaMalloc called, and did it succeed?";
  }
  const std::string former = regions.former ? regions.former(address) : "";
  if (former.ends_with("freed")) {
    return ": call cudaFree after the last kernel that uses the memory";
  }
  if (!former.empty()) {
    return ": kernels use the variable by its name; what host code passes to one is the address "
           "that cudaGetSymbolAddress returns";
  }
  if (where_meant(regions, address, bytes)) {
    return ": an index computed in 32 bits (int, unsigned) has overflowed; compute it in size_t or "
           "int64_t, before the first multiplication";
  }
  const Region* r = regions.nearest(address);
  if (!r || address + reach_of(*r) < r->first || address > r->last() + reach_of(*r)) {
    return ": is it a host pointer? Device memory comes from cudaMalloc";
  }
  return ": check the index against the shape, and the guard (if (i < n))";
}

}  // namespace

void check_global(Warp& w, const Inst* in, int lane, uint64_t address, uint64_t bytes, bool write) {
  Worker& worker = *w.block->worker;
  Span& allowed = w.allowed[in - w.block->kernel->code.data()];
  if (within(address, bytes, allowed.first, allowed.last) || !worker.launch->settings.memcheck) {
    return;
  }
  const Region* r = worker.launch->regions.find(address, bytes, write);
  if (!r) {
    fail(w, in, lane, address,
         "out-of-bounds " + verb(w, in, write) + " of " + bytes_text(bytes) +
             " in global memory, " + place_of(worker.launch->regions, address, bytes),
         "address " + hex(address) + hint_for(worker.launch->regions, address, bytes));
  }
  if (write && r->role == WBSIM_IN) {
    fail(w, in, lane, address,
         "write to '" + r->name + "' (" + r->text + "), which is an input of this kernel",
         "a kernel writes to its outputs only: is the order of the arguments right?");
  }
  allowed = {r->first, r->last()};
}

template <AddressKind KIND, bool WRITE>
uint8_t* resolve_stretch(Warp& w, const Inst* in, int lane, uint64_t address, int bytes,
                         int alignment) {
  if (w.block->worker->launch->settings.memcheck && (address & (alignment - 1)) != 0) {
    misaligned(w, in, lane, address, bytes, alignment, WRITE);
  }
  if (!is_allowed<KIND>(w, in, address, bytes)) {
    if constexpr (KIND == AddressKind::Generic) {
      check_generic(w, in, lane, address, bytes, WRITE);
    } else if (uint8_t* other =
                   is_shared(KIND) ? in_other_block(w, in, lane, address, bytes) : nullptr) {
      return other;
    } else {
      outside_window(w, in, lane, KIND, address, bytes, WRITE);
    }
  }
  return host_memory<KIND>(w, address);
}

template <AddressKind KIND, bool WRITE>
void resolve_lanes(Access& access, Warp& w, const Inst* in, Mask m, int bytes) {
  const auto* a = w.reg<AddressOf<KIND>>(in->a);
  const uint64_t local_stride = is_local(KIND) ? w.block->local_bytes : 0;
  access.scattered = true;
  for_lanes(m, [&](int l) {
    access.lanes[l] =
        resolve_stretch<KIND, WRITE>(w, in, l, address_of<KIND>(a[l], in), bytes, bytes) +
        local_stride * l;
  });
}

#define INSTANTIATE(KIND)                                                                        \
  template uint8_t* resolve_stretch<AddressKind::KIND, false>(Warp&, const Inst*, int, uint64_t, \
                                                              int, int);                         \
  template uint8_t* resolve_stretch<AddressKind::KIND, true>(Warp&, const Inst*, int, uint64_t,  \
                                                             int, int);                          \
  template void resolve_lanes<AddressKind::KIND, false>(Access&, Warp&, const Inst*, Mask, int); \
  template void resolve_lanes<AddressKind::KIND, true>(Access&, Warp&, const Inst*, Mask, int);
INSTANTIATE(Generic)
INSTANTIATE(Shared32)
INSTANTIATE(Shared64)
INSTANTIATE(Local32)
INSTANTIATE(Local64)
template void resolve_lanes<AddressKind::Param, false>(Access&, Warp&, const Inst*, Mask, int);

}  // namespace wbsim
