// lanes.h: the building blocks of instruction handlers: loops over the lanes of a warp.
#pragma once

#include "exec/warp.h"

namespace wbsim {

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

}  // namespace wbsim
