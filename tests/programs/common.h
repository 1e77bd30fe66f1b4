// common.h: memory, numbers and comparisons for the programs in this folder.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "check.h"

// n zeroed elements visible to host and device. They are never freed: programs end soon.
template <class T>
T* zeros(size_t n) {
  T* data;
  OK(cudaMallocManaged(&data, n * sizeof(T)));
  std::memset(static_cast<void*>(data), 0, n * sizeof(T));
  return data;
}

// The same numbers on every machine (a linear congruential generator, its upper bits).
struct Random {
  uint64_t state = 1;
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state >> 33);
  }
  float uniform() { return float(next() % 2048) / 1024 - 1; }  // [-1, 1), exact in 11 bits
};

// Launch errors are returned by the launch, errors of the kernel by the synchronisation.
inline void finish() {
  OK(cudaGetLastError());
  OK(cudaDeviceSynchronize());
}

// |got - want| <= tolerance * (1 + |want|) everywhere; NaN never passes.
template <class T, class U>
void expect_close(const char* what, const T* got, const U* want, size_t n, double tolerance) {
  for (size_t i = 0; i < n; i++) {
    double g = double(got[i]), w = double(want[i]);
    if (!(std::abs(g - w) <= tolerance * (1 + std::abs(w)))) {
      std::printf("%s: element %zu is %g, expected %g\n", what, i, g, w);
      std::exit(1);
    }
  }
}

template <class T, class U>
void expect_equal(const char* what, const T* got, const U* want, size_t n) {
  expect_close(what, got, want, n, 0);
}
