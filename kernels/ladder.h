// ladder.h: what a rung is. It names no operator: each has its own header (matmul.h, ...).
//
// An operator is a ladder of kernels, all for one problem. Its file (matmul.cu, softmax.cu, ...)
// ends with a table of rungs, slowest idea first. The table is the only registration: bindings,
// tests, benchmarks and documentation enumerate it. It is also the dispatch: the last rung that
// accepts a problem gets it, unless another is named.
//
// Plain host C++: no torch, no device code.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>

// As CUDA's headers declare it. A build of rungs for the CPU has no other use for CUDA.
typedef struct CUstream_st* cudaStream_t;

// The largest M, N, K, cols, ... a problem may have. The margin up to INT_MAX lets a kernel round
// an index up to the end of its tile without overflow.
constexpr int MAX_DIM = INT_MAX - 65535;

// Element types, by torch's names.
enum class DType { float32, float64, float16, bfloat16, int8, int32, boolean };

// A tensor: outermost dimension first, strides in elements. A missing dimension, such as the batch
// of a single matrix, has size 1 and stride 0, as has any dimension of size 1. Any size may be 0.
struct View {
  void* data = nullptr;  // nullptr: no such tensor, or nothing in it
  DType dtype = DType::float32;
  int64_t size[4] = {1, 1, 1, 1};
  int64_t stride[4] = {0, 0, 0, 0};

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Scratch memory on the problem's device that lives until the launch has finished:
// `void* scratch = p.workspace(bytes);`. For launchers only; kernels have no use for it.
struct Workspace {
  void* (*allocate)(void* owner, size_t bytes) = nullptr;
  void* owner = nullptr;
  void* operator()(size_t bytes) const { return allocate(owner, bytes); }
};

// What an input must look like for a rung to support it. Fields only: Python reads them too.
struct Needs {
  const char* dtypes = "float32";  // torch's names, and tf32, separated by spaces
  const char* options = "";        // those of the operator's options that it supports
  int alignment = 1;               // bytes: data pointers and row strides are multiples of it
  int compute_capability = 0;      // the lowest that it runs on, as 10 * major + minor; 0: any
  const char* composed_of = "";    // ladders whose kernels it launches; all others launch their own
};

// A rung is its kernel: it never delegates to another rung. It declines problems that it supports
// but that its idea cannot speed up: `declines` returns the reason as text, or nullptr.
template <class Problem>
struct Rung {
  const char* name;
  void (*launch)(const Problem& problem, cudaStream_t stream);  // throws std::exception
  Needs needs = {};
  const char* (*declines)(const Problem& problem) = nullptr;
};

// The rungs of a table.
template <class Problem>
class Ladder {
 public:
  template <int N>
  Ladder(const Rung<Problem> (&rungs)[N]) : begin_(rungs), end_(rungs + N) {}

  const Rung<Problem>* begin() const { return begin_; }
  const Rung<Problem>* end() const { return end_; }

  // The rung of that name, or nullptr.
  const Rung<Problem>* find(const char* name) const {
    for (const Rung<Problem>& rung : *this) {
      if (std::strcmp(rung.name, name) == 0) return &rung;
    }
    return nullptr;
  }

 private:
  const Rung<Problem>*begin_, *end_;
};
