// warp.h: the state of a running warp and block, and the helpers that instruction handlers are
// written with.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "launch.h"
#include "memory.h"
#include "program.h"

namespace wbsim {

constexpr uint32_t SHARED_BASE = 1024;  // shared addresses start here, as on sm_90

struct Block;
struct Worker;

// Bytes that start on a 1024-byte boundary: vector instructions like cache lines, swizzles of
// shared memory repeat after 1024 bytes.
class Buffer {
 public:
  void assign(size_t bytes, uint8_t value) {
    data_.reset(static_cast<uint8_t*>(::operator new(bytes + 1, ALIGN)));
    std::memset(data_.get(), value, bytes);
  }
  uint8_t* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t ALIGN{1024};
  struct Delete {
    void operator()(uint8_t* p) const { ::operator delete(p, ALIGN); }
  };
  std::unique_ptr<uint8_t, Delete> data_;
};

// Lanes of a warp that share a pc. A warp is a set of these; the one with the smallest pc runs.
struct Group {
  const Inst* pc;
  Mask mask;
  enum State : uint8_t { Ready, AtBarrier, AtWarpSync } state = Ready;
  uint8_t barrier = 0;
  Mask active = 0;   // AtWarpSync: the lanes of mask that its guard lets through
  Mask members = 0;  // AtWarpSync: the lanes it waits for
};

struct Warp {
  uint8_t* frame = nullptr;
  Block* block = nullptr;
  Mask mask = 0;               // lanes of the running group
  Mask live = 0;               // lanes that have not exited
  Mask carry = 0;              // CC.CF of each lane
  const Inst* stop = HALT;     // the nearest pc of another ready group: reaching it means merging
  const Inst* spun = nullptr;  // where a group used up its time: another one goes next
  std::vector<Group> parked;   // every group but the running one
  int index = 0;
  uint8_t* local = nullptr;  // LANES * local_bytes

  template <class T>
  T* reg(uint32_t slot) {
    return reinterpret_cast<T*>(frame + slot);
  }
  Mask& pred(uint32_t slot) { return *reinterpret_cast<Mask*>(frame + slot); }
};

struct Barrier {
  int arrived =
      0;  // threads; those that exited or never were in a warp arrive with its last live one
  int expected = 0;  // 0: all warps of the block
};

struct Block {
  const Kernel* kernel = nullptr;
  Worker* worker = nullptr;
  uint64_t index = 0;  // in the grid
  uint32_t ctaid[3] = {0, 0, 0};
  uint8_t* shared = nullptr;
  uint32_t shared_bytes = 0;  // static and dynamic
  const uint8_t* params = nullptr;
  std::vector<Warp> warps;
  Barrier barriers[16];
  int live_warps = 0;
};

// A worker runs blocks, one after the other, on one core.
struct Worker {
  struct Span {
    uint64_t first = 1, last = 0;  // addresses
  };
  const Launch* launch = nullptr;
  const std::atomic<bool>* stop = nullptr;         // another worker found something
  const std::atomic<bool>* interrupted = nullptr;  // Ctrl-C
  std::vector<Count> counts;                       // beside Kernel::code
  std::vector<Span> allowed;  // beside Kernel::code: the region this instruction touched last
  Buffer frames, shared, local;
  uint64_t instructions = 0;  // of the running block
  uint64_t random = 0;
  Block block;
};

// ---- Helpers for handlers -----------------------------------------------------------------------

inline const Inst* next(const Inst* in) { return in + 1; }

template <class T>
inline void store_masked(T* __restrict__ to, const T* __restrict__ from, Mask m) {
  for (int l = 0; l < LANES; l++) {
    to[l] = (m >> l) & 1 ? from[l] : to[l];
  }
}

// dst[l] = f(a[l], b[l], c[l]) for the active lanes. f has no side effects, so with a partial mask
// all lanes are computed and only the active ones stored.
template <auto F, class D, class A>
const Inst* map1(Warp& w, const Inst* in, Mask m) {
  D* d = w.reg<D>(in->dst);
  const A* a = w.reg<A>(in->a);
  if (m == ALL_LANES) {
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
      d[l] = F(a[l]);
    }
  } else {
    alignas(64) D out[LANES];
    for (int l = 0; l < LANES; l++) {
      out[l] = F(a[l]);
    }
    store_masked(d, out, m);
  }
  return next(in);
}

template <auto F, class D, class A, class B = A>
const Inst* map2(Warp& w, const Inst* in, Mask m) {
  D* d = w.reg<D>(in->dst);
  const A* a = w.reg<A>(in->a);
  const B* b = w.reg<B>(in->b);
  if (m == ALL_LANES) {
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
      d[l] = F(a[l], b[l]);
    }
  } else {
    alignas(64) D out[LANES];
    for (int l = 0; l < LANES; l++) {
      out[l] = F(a[l], b[l]);
    }
    store_masked(d, out, m);
  }
  return next(in);
}

template <auto F, class D, class A, class B = A, class C = D>
const Inst* map3(Warp& w, const Inst* in, Mask m) {
  D* d = w.reg<D>(in->dst);
  const A* a = w.reg<A>(in->a);
  const B* b = w.reg<B>(in->b);
  const C* c = w.reg<C>(in->c);
  if (m == ALL_LANES) {
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
      d[l] = F(a[l], b[l], c[l]);
    }
  } else {
    alignas(64) D out[LANES];
    for (int l = 0; l < LANES; l++) {
      out[l] = F(a[l], b[l], c[l]);
    }
    store_masked(d, out, m);
  }
  return next(in);
}

// Calls f(lane) for every active lane, lowest first.
template <class F>
inline void for_lanes(Mask m, F f) {
  while (m) {
    f(__builtin_ctz(m));
    m &= m - 1;
  }
}

// ---- Control, implemented by the scheduler (scheduler.cpp) --------------------------------------

// Splits the running group: the lanes of `taken` continue at `target`, the rest behind `in`.
const Inst* branch(Warp& w, const Inst* in, Mask taken, const Inst* target);
const Inst* exit_lanes(Warp& w, const Inst* in, Mask m);
// Arrives at a barrier of the block and, if `wait`, parks until `threads` (0: all) have arrived.
const Inst* arrive_barrier(Warp& w, const Inst* in, Mask m, int id, int threads, bool wait);

}  // namespace wbsim
