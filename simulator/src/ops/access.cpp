#include "access.h"

#include <bit>
#include <cstdio>
#include <string>

#include "wbsim.h"

namespace wbsim {
namespace {

std::string bytes_text(uint64_t n) {
  return std::to_string(n) + (n == 1 ? " byte" : " bytes");
}

std::string hex(uint64_t v) {
  char buffer[20];
  std::snprintf(buffer, sizeof buffer, "0x%llx", static_cast<unsigned long long>(v));
  return buffer;
}

// "8 bytes past the end of 'a' (float32 [10, 10], 400 bytes)".
std::string place_of(const RegionTable& regions, uint64_t address, uint64_t bytes) {
  const Region* r = regions.nearest(address);
  if (!r) {
    return "no memory is allocated";
  }
  std::string what = "'" + r->name + "' (" + (r->text.empty() ? "" : r->text + ", ") + bytes_text(r->bytes) + ")";
  uint64_t far = uint64_t{1} << 32;
  if (address < r->first) {
    uint64_t gap = r->first - address;
    return gap > far ? "far from every allocation" : bytes_text(gap) + " before the start of " + what;
  }
  if (address + bytes > r->last()) {
    uint64_t gap = address - r->last();
    if (address < r->last()) {
      return "across the end of " + what;
    }
    return gap > far ? "far from every allocation" : bytes_text(gap) + " past the end of " + what;
  }
  return "inside " + what;
}

const char* space_name(AddressKind kind) {
  switch (kind) {
    case AddressKind::Generic: return "global";
    case AddressKind::Shared32:
    case AddressKind::Shared64: return "shared";
    case AddressKind::Param: return "parameter";
    default: return "local";
  }
}

[[noreturn]] void fail(const Warp& w, const Inst* in, int lane, uint64_t address, const std::string& message,
                       const std::string& hint) {
  Finding f = finding_at(w, in, lane, "memcheck", message);
  f.address = address;
  f.hint = hint;
  throw f;
}

[[noreturn]] void misaligned(const Warp& w, const Inst* in, int lane, uint64_t address, int bytes, bool write) {
  fail(w, in, lane, address,
       std::string("misaligned ") + (write ? "write" : "read") + " of " + bytes_text(bytes) + " at address " +
           hex(address) + ", which is not a multiple of " + std::to_string(bytes),
       "");
}

// One lane's access through a generic address: finds its region, or reports.
void check_generic(Warp& w, const Inst* in, int lane, uint64_t address, int bytes, bool write) {
  Worker& worker = *w.block->worker;
  const Block& block = *w.block;
  Worker::Span& allowed = worker.allowed[in - block.kernel->code.data()];
  auto inside = [&](const uint8_t* base, uint64_t size) {
    uint64_t first = reinterpret_cast<uint64_t>(base);
    return size && address >= first && address + bytes <= first + size;
  };
  if (inside(block.shared, block.shared_bytes) || inside(block.params, worker.launch->params.size())) {
    return;
  }
  uint64_t local = block.kernel->local_bytes;
  if (inside(w.local + local * lane, local)) {
    return;
  }
  const Region* r = worker.launch->regions->find(address, bytes, write);
  if (!r) {
    fail(w, in, lane, address,
         std::string("out-of-bounds ") + (write ? "write" : "read") + " of " + bytes_text(bytes) + " in global memory, " +
             place_of(*worker.launch->regions, address, bytes),
         "address " + hex(address) + ": check the index against the shape, and the guard of the ragged edge");
  }
  if (write && r->role == WBSIM_IN) {
    fail(w, in, lane, address, "write to '" + r->name + "' (" + r->text + "), which is an input of this kernel", "");
  }
  allowed = {r->first, r->last()};
}

// The check of a whole warp, given the smallest and the largest address: one comparison where the instruction stays in the
// region it touched last.
void check_span(Warp& w, const Inst* in, Mask m, const uint64_t* addresses, uint64_t low, uint64_t high, int bytes,
                bool write) {
  Worker& worker = *w.block->worker;
  if (!worker.launch->settings.memcheck) {
    return;
  }
  const Worker::Span& allowed = worker.allowed[in - w.block->kernel->code.data()];
  if (low >= allowed.first && high + bytes <= allowed.last) [[likely]] {
    return;
  }
  for_lanes(m, [&](int l) {
    uint64_t a = addresses[l] + in->imm;
    if (a < allowed.first || a + bytes > allowed.last) {
      check_generic(w, in, l, a, bytes, write);
    }
  });
}

[[noreturn]] void outside_window(const Warp& w, const Inst* in, Mask m, AddressKind kind, uint64_t base, uint64_t size,
                                 const uint64_t* offsets, int bytes, bool write) {
  int lane = std::countr_zero(m);
  for_lanes(m, [&](int l) {
    if (offsets[l] - base > size - std::min<uint64_t>(size, bytes) || size < static_cast<uint64_t>(bytes)) {
      if (!(offsets[lane] - base > size - std::min<uint64_t>(size, bytes))) {
        lane = l;
      }
    }
  });
  uint64_t at = offsets[lane];
  std::string where = at < base ? bytes_text(base - at) + " before the start"
                      : at >= base + size ? bytes_text(at - base - size) + " past the end"
                                          : "across the end";
  std::string whose = kind == AddressKind::Shared32 || kind == AddressKind::Shared64
                          ? "the block's shared memory (" + bytes_text(w.block->kernel->shared_bytes) + " static, " +
                                bytes_text(size - w.block->kernel->shared_bytes) + " dynamic)"
                      : kind == AddressKind::Param
                          ? "the kernel's parameters (" + bytes_text(size) + ")"
                          : "the thread's local memory (" + bytes_text(size) + ")";
  fail(w, in, lane, at,
       std::string("out-of-bounds ") + (write ? "write" : "read") + " of " + bytes_text(bytes) + " in " + space_name(kind) +
           " memory, " + where + " of " + whose,
       "");
}

// Offsets from a window (shared or local memory), or generic addresses; A is the type of the address register.
template <AddressKind KIND, class A, bool WRITE>
void resolve_as(Access& access, Warp& w, const Inst* in, Mask m, int bytes) {
  const A* a = w.reg<A>(in->a);
  const int lead = std::countr_zero(m);
  const A first = a[lead];
  constexpr bool SHARED = KIND == AddressKind::Shared32 || KIND == AddressKind::Shared64;
  constexpr bool LOCAL = KIND == AddressKind::Local32 || KIND == AddressKind::Local64;
  constexpr bool PARAM = KIND == AddressKind::Param;

  // Which pattern, the extremes, and the low address bits, in one pass that vectorises.
  A apart = 0, apart_from_row = 0, low_bits = 0;
  A low = first, high = first;
  if (m == ALL_LANES) {
    for (int l = 0; l < LANES; l++) {
      apart |= a[l] ^ first;
      apart_from_row |= a[l] ^ static_cast<A>(first + static_cast<A>(l) * static_cast<A>(bytes));
      low_bits |= a[l];
      low = a[l] < low ? a[l] : low;
      high = a[l] > high ? a[l] : high;
    }
  } else {
    apart_from_row = 1;
    for_lanes(m, [&](int l) {
      apart |= a[l] ^ first;
      low_bits |= a[l];
      low = a[l] < low ? a[l] : low;
      high = a[l] > high ? a[l] : high;
    });
  }
  // Vector accesses are powers of two; in->imm is part of every address.
  if (((low_bits | static_cast<A>(in->imm)) & static_cast<A>(bytes - 1)) != 0 && w.block->worker->launch->settings.memcheck) {
    for_lanes(m, [&](int l) {
      uint64_t address = static_cast<uint64_t>(a[l]) + in->imm;
      if (address & (bytes - 1)) {
        misaligned(w, in, l, address, bytes, WRITE);
      }
    });
  }

  uint8_t* base;
  if constexpr (SHARED || LOCAL || PARAM) {
    uint64_t window = SHARED ? SHARED_BASE : 0;
    uint64_t size = SHARED  ? w.block->shared_bytes
                    : LOCAL ? w.block->kernel->local_bytes
                            : w.block->kernel->param_bytes;
    uint64_t lowest = static_cast<uint64_t>(low) + in->imm - window;
    uint64_t highest = static_cast<uint64_t>(high) + in->imm - window;
    if (lowest > size || highest > size || highest + bytes > size) [[unlikely]] {
      uint64_t offsets[LANES];
      for (int l = 0; l < LANES; l++) {
        offsets[l] = static_cast<uint64_t>(a[l]) + in->imm;
      }
      outside_window(w, in, m, KIND, window, size, offsets, bytes, WRITE);
    }
    base = (SHARED  ? w.block->shared - SHARED_BASE
            : LOCAL ? w.local
                    : const_cast<uint8_t*>(w.block->params)) +
           in->imm;
  } else {
    if constexpr (sizeof(A) == 8) {
      check_span(w, in, m, reinterpret_cast<const uint64_t*>(a), low + in->imm, high + in->imm, bytes, WRITE);
    }
    base = reinterpret_cast<uint8_t*>(in->imm);
  }
  if constexpr (LOCAL) {
    access.pattern = Access::Scattered;
    uint64_t stride = w.block->kernel->local_bytes;
    for (int l = 0; l < LANES; l++) {
      access.lanes[l] = base + a[l] + stride * l;
    }
    return;
  }
  access.first = base + first;
  if (apart == 0) {
    access.pattern = Access::Uniform;
  } else if (apart_from_row == 0) {
    access.pattern = Access::Consecutive;
  } else {
    access.pattern = Access::Scattered;
    for (int l = 0; l < LANES; l++) {
      access.lanes[l] = base + a[l];
    }
  }
}

}  // namespace

template <AddressKind KIND, bool WRITE>
void resolve(Access& access, Warp& w, const Inst* in, Mask m, int bytes) {
  using A = std::conditional_t<KIND == AddressKind::Shared32 || KIND == AddressKind::Local32, uint32_t, uint64_t>;
  resolve_as<KIND, A, WRITE>(access, w, in, m, bytes);
}

#define INSTANTIATE(KIND)                                                                       \
  template void resolve<AddressKind::KIND, false>(Access&, Warp&, const Inst*, Mask, int); \
  template void resolve<AddressKind::KIND, true>(Access&, Warp&, const Inst*, Mask, int);
INSTANTIATE(Generic)
INSTANTIATE(Shared32)
INSTANTIATE(Shared64)
INSTANTIATE(Local32)
INSTANTIATE(Local64)
template void resolve<AddressKind::Param, false>(Access&, Warp&, const Inst*, Mask, int);

}  // namespace wbsim
