// access.h: from the addresses of a warp to host memory, with the memory check in between.
#pragma once

#include <algorithm>
#include <utility>

#include "decode/decoder.h"
#include "exec/shared_window.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace wbsim {

constexpr int HALF = LANES / 2;

// Where the lanes of one memory instruction read or write. Addresses mostly advance by a constant
// step from lane to lane, or do so in each half of the warp (blocks 16 threads wide): step 0 is one
// place for all, step = the access's size is a row. Anything else is scattered.
struct Access {
  bool scattered;
  uint8_t* first[2];                  // of each half
  int64_t step[2];                    // bytes from lane to lane
  alignas(64) uint8_t* lanes[LANES];  // scattered: of the active lanes

  uint8_t* lane(int l) const {
    return scattered ? lanes[l] : first[l / HALF] + step[l / HALF] * (l % HALF);
  }
};

// The window an address is an offset from, and the register it comes in: 32 or 64 bits.
enum class AddressKind : uint8_t { Generic, Shared32, Shared64, Local32, Local64, Param };

// The address operand of an instruction on this space: its base goes to inst.a, its offset to
// inst.imm. (memory_ops.cpp)
AddressKind memory_operand(Decode& d, const ptx::Operand& op, ptx::Space space);

// Records how the instruction orders other accesses, from its modifiers.
void note_order(Decode& d);

constexpr bool is_shared(AddressKind kind) {
  return kind == AddressKind::Shared32 || kind == AddressKind::Shared64;
}
constexpr bool is_local(AddressKind kind) {
  return kind == AddressKind::Local32 || kind == AddressKind::Local64;
}

template <AddressKind KIND>
using AddressOf = std::conditional_t<KIND == AddressKind::Shared32 || KIND == AddressKind::Local32,
                                     uint32_t, uint64_t>;

// Whether N = 16 or 32 addresses advance by `step` from lane to lane.
#if defined(__AVX512F__)
template <int N>
inline bool advances_by(const uint32_t* a, uint32_t step) {
  __m512i steps = _mm512_set1_epi32(static_cast<int>(step));
  __mmask16 different = 0;
  for (int i = 0; i < N; i += 16) {
    __m512i v = _mm512_load_si512(a + i);
    __m512i behind = i + 16 < N ? _mm512_load_si512(a + i + 16) : v;
    __m512i difference = _mm512_sub_epi32(_mm512_alignr_epi32(behind, v, 1), v);
    different |= _mm512_mask_cmpneq_epi32_mask(i + 16 < N ? 0xffff : 0x7fff, difference, steps);
  }
  return different == 0;
}
template <int N>
inline bool advances_by(const uint64_t* a, uint64_t step) {
  __m512i steps = _mm512_set1_epi64(static_cast<int64_t>(step));
  __mmask8 different = 0;
  for (int i = 0; i < N; i += 8) {
    __m512i v = _mm512_load_si512(a + i);
    __m512i behind = i + 8 < N ? _mm512_load_si512(a + i + 8) : v;
    __m512i difference = _mm512_sub_epi64(_mm512_alignr_epi64(behind, v, 1), v);
    different |= _mm512_mask_cmpneq_epi64_mask(i + 8 < N ? 0xff : 0x7f, difference, steps);
  }
  return different == 0;
}
#else
template <int N, class A>
inline bool advances_by(const A* a, A step) {
  A different = 0;
  for (int l = 0; l + 1 < N; l++) {
    different |= static_cast<A>(a[l + 1] - a[l]) ^ step;
  }
  return different == 0;
}
#endif

// The host's memory at an address in a window; generic addresses already are host addresses. As
// numbers, since the address may not have been checked yet.
template <AddressKind KIND>
inline uint8_t* host_memory(const Warp& w, uint64_t address) {
  const uint8_t* window = is_shared(KIND)              ? w.shared
                          : is_local(KIND)             ? w.local
                          : KIND == AddressKind::Param ? w.block->params
                                                       : nullptr;
  const uint64_t first = is_shared(KIND) ? SHARED_BASE : 0;
  return reinterpret_cast<uint8_t*>(reinterpret_cast<uint64_t>(window) - first + address);
}

// Whether `bytes` bytes at an address are in [first, last); correct at both ends of the address
// space.
inline bool within(uint64_t address, uint64_t bytes, uint64_t first, uint64_t last) {
  return address >= first && address <= last && bytes <= last - address;
}

// The address of one lane. It wraps at the width of its register: nvcc folds constants into
// offsets.
template <AddressKind KIND>
inline uint64_t address_of(AddressOf<KIND> base, const Inst* in) {
  return static_cast<AddressOf<KIND>>(base + static_cast<AddressOf<KIND>>(in->imm));
}

// Whether [address, address + bytes) needs no closer look: inside its window, or inside the region
// that this instruction touched last.
template <AddressKind KIND>
inline bool is_allowed(const Warp& w, const Inst* in, uint64_t address, uint64_t bytes) {
  if constexpr (KIND == AddressKind::Generic) {
    const Span& allowed = w.allowed[in - w.block->kernel->code.data()];
    return within(address, bytes, allowed.first, allowed.last) ||
           !w.block->worker->launch->settings.memcheck;
  } else {
    uint64_t size = is_shared(KIND)  ? w.shared_bytes
                    : is_local(KIND) ? w.block->local_bytes
                                     : w.block->kernel->param_bytes;
    uint64_t first = is_shared(KIND) ? SHARED_BASE : 0;
    return within(address, bytes, first, first + size);
  }
}

// 16 lanes whose addresses advance by a constant step. False: they do not, or an address needs a
// closer look.
template <AddressKind KIND>
[[gnu::noinline]] bool resolve_half(Access& access, Warp& w, const Inst* in, int h, int bytes) {
  using A = AddressOf<KIND>;
  const A* a = w.reg<A>(in->a) + h * HALF;
  const A step = static_cast<A>(a[1] - a[0]);
  // A step is signed, whatever the register's width.
  access.step[h] = static_cast<std::make_signed_t<A>>(step);
  uint64_t begin = address_of<KIND>(a[0], in);
  uint64_t end = begin + static_cast<uint64_t>(access.step[h]) * (HALF - 1);
  access.first[h] = host_memory<KIND>(w, begin);
  uint64_t low = std::min(begin, end);
  // No step is so large that its multiples wrap around: all lanes are between the first and last.
  return std::in_range<int32_t>(access.step[h]) && advances_by<HALF>(a, step) &&
         ((begin | step) & (bytes - 1)) == 0 &&
         is_allowed<KIND>(w, in, low, std::max(begin, end) - low + bytes);
}

// Reports a range of global memory that is not inside one allocation, or must not be written.
void check_global(Warp& w, const Inst* in, int lane, uint64_t address, uint64_t bytes, bool write);

// The general case: any mask, any pattern, and every report.
template <AddressKind KIND, bool WRITE>
void resolve_lanes(Access& access, Warp& w, const Inst* in, Mask m, int bytes);

// One stretch of memory that a warp accesses as a whole: checks and translates. Reports name the
// lane.
template <AddressKind KIND, bool WRITE>
uint8_t* resolve_stretch(Warp& w, const Inst* in, int lane, uint64_t address, int bytes,
                         int alignment);

// Checks and translates. bytes: of one lane's access, a power of two. Throws Finding for an access
// outside every allocation, misaligned, or writing to an input.
template <AddressKind KIND, bool WRITE>
[[gnu::always_inline]] inline void resolve(Access& access, Warp& w, const Inst* in, Mask m,
                                           int bytes) {
  if (!is_local(KIND) && m == ALL_LANES) [[likely]] {
    using A = AddressOf<KIND>;
    const A* a = w.reg<A>(in->a);
    access.scattered = false;
    // The most frequent first: all lanes at one place, or in one row.
    const A step = static_cast<A>(a[1] - a[0]);
    if ((step == 0 || step == static_cast<A>(bytes)) && advances_by<LANES>(a, step)) [[likely]] {
      uint64_t begin = address_of<KIND>(a[0], in);
      if ((begin & (bytes - 1)) == 0 && is_allowed<KIND>(w, in, begin, step * (LANES - 1) + bytes))
          [[likely]] {
        access.step[0] = access.step[1] = step;
        access.first[0] = host_memory<KIND>(w, begin);
        access.first[1] = access.first[0] + step * HALF;
        return;
      }
    } else if (resolve_half<KIND>(access, w, in, 0, bytes) &&
               resolve_half<KIND>(access, w, in, 1, bytes)) {
      return;
    }
  }
  resolve_lanes<KIND, WRITE>(access, w, in, m, bytes);
}

}  // namespace wbsim
