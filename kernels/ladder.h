// ladder.h: the contract between a ladder of kernels and everything that uses it.
//
// A ladder file (matmul.cu, softmax.cu, ...) ends with one table of rungs. That table is
// the only registration: bindings.cpp, the tests, the benchmark and the documentation enumerate
// it. This header says what a table line holds and what a launcher is given. Plain host C++: no
// torch, no device code.
//
// Problems are plain data, so a launcher may pass the whole struct to its kernel. Any size may be
// 0, and no output overlaps another argument. Strides of dimensions of size 1 mean nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>

// The largest M, N, K, cols, ... a problem may have. What is missing to INT_MAX lets a kernel round
// an index up to the end of its tile without overflow.
constexpr int MAX_DIM = INT_MAX - 65535;

// What an input must look like for a rung to take it. Fields only: Python reads them too.
struct Requirements {
  const char* dtypes = "float32";  // torch's names, separated by spaces
  int alignment = 1;               // bytes: data pointers and row strides are multiples of it
  const char* head_dims = "";      // attention: the D it takes, separated by spaces; "" takes any
  int compute_capability = 0;      // smallest one it runs on, as 10 * major + minor; 0 runs on any
  const char* options = "";        // softmax: those of "scale log lse" that it knows
};

template <class Problem>
struct Rung {
  const char* name;
  void (*launch)(const Problem& problem, cudaStream_t stream);  // throws std::exception
  Requirements needs = {};
};

// The rung of that name, or nullptr. `ladder` is one of the functions at the end.
template <class Problem>
const Rung<Problem>* find_rung(const Rung<Problem>* (*ladder)(int* n), const char* name) {
  int n = 0;
  const Rung<Problem>* rungs = ladder(&n);
  for (int i = 0; i < n; ++i) {
    if (std::strcmp(rungs[i].name, name) == 0) return &rungs[i];
  }
  return nullptr;
}

// Scratch memory on the problem's device that lives until the launch has finished:
// `void* scratch = p.workspace(bytes);`. For launchers only, kernels have no use for it.
struct Workspace {
  void* (*allocate)(void* owner, size_t bytes);
  void* owner;
  void* operator()(size_t bytes) const { return allocate(owner, bytes); }
};

// C[b] = A[b] B[b] for every b in 0..batch-1; with b_transposed, C[b] = A[b] B[b]^T.
// Elements of a row are adjacent; rows and matrices are strides apart, counted in elements.
struct MatmulProblem {
  const float* A;  // [batch, M, K]
  const float* B;  // [batch, K, N], or [batch, N, K] if b_transposed
  float* C;        // [batch, M, N]
  int batch, M, N, K;
  int64_t lda, ldb, ldc;                 // from one row to the next
  int64_t stride_a, stride_b, stride_c;  // from one matrix to the next; 0 repeats the same one
  bool b_transposed;
};

enum class DType { float32, float64, float16, bfloat16 };

// y[r] = softmax(scale * x[r]) for every row r in 0..rows-1, or with `log` its logarithm, and
// lse[r] = log(sum(exp(scale * x[r]))). Tensors are of `dtype`; lse is float, double for float64.
struct SoftmaxProblem {
  const void* x;  // [rows, cols]
  void* y;        // [rows, cols]
  void* lse;      // [rows], contiguous; nullptr where nobody asks for it
  DType dtype;
  int64_t rows;
  int cols;
  int64_t ldx, ldy;  // from one row to the next, in elements
  double scale;      // finite; 1 unless the rung knows "scale"
  bool log;
};

// Softmax backward: the gradient dx of what the rows x came from, given dy, the gradient of y, and
// dlse, that of lse:
//   dx = scale * y * (dy - (sum(dy * y) - dlse))
//   dx = scale * (dy - exp(y) * (sum(dy) - dlse))    with `log`, y being a log-softmax
struct SoftmaxBackwardProblem {
  const void* dy;    // [rows, cols]
  const void* y;     // [rows, cols]
  const void* dlse;  // [rows], contiguous, of lse's dtype; nullptr means zeros
  void* dx;          // [rows, cols]
  DType dtype;
  int64_t rows;
  int cols;
  int64_t lddy, ldy, lddx;
  double scale;
  bool log;
};

// Where the rows of a [B, H, N, D] tensor lie: elements of a row are adjacent, the rest is strided.
struct Strides {
  int64_t batch, head, row;
};

// O[b, h] = softmax(scale * Q K^T) V for every batch b and head h, and
// LSE = log(sum(exp(scale * Q K^T))).
// causal: query i sees the keys 0 .. i + Nk - Nq (the last query sees all). A query that sees none
// gets O = 0 and LSE = -inf.
struct AttentionProblem {
  const float* Q;  // [B, H, Nq, D]
  const float* K;  // [B, H, Nk, D]
  const float* V;  // [B, H, Nk, D]
  float* O;        // [B, H, Nq, D]
  float* LSE;      // [B, H, Nq], contiguous, natural logarithm
  int B, H, Nq, Nk, D;
  Strides q, k, v, o;
  bool causal;
  float scale;
  Workspace workspace;
};

// Each ladder file defines one of these.
extern "C" const Rung<MatmulProblem>* matmul_rungs(int* n);
extern "C" const Rung<SoftmaxProblem>* softmax_rungs(int* n);
extern "C" const Rung<SoftmaxBackwardProblem>* softmax_backward_rungs(int* n);
extern "C" const Rung<AttentionProblem>* attention_rungs(int* n);
