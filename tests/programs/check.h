// check.h: the self-checks of the programs in this folder.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                         \
    }                                                                       \
  } while (false)

#define EXPECT(expected, call)                                                            \
  do {                                                                                    \
    auto got_ = (call);                                                                   \
    if (got_ != (expected)) {                                                             \
      std::printf("%s:%d: %s is %d, expected %s\n", __FILE__, __LINE__, #call, int(got_), \
                  #expected);                                                             \
      std::exit(1);                                                                       \
    }                                                                                     \
  } while (false)

#define OK(call) EXPECT(cudaSuccess, call)
