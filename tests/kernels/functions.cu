// Kernels for tests/toolchain/test_device_functions.py.
#include <cassert>
#include <cstdint>
#include <cstdio>

// ---- Calls ----
__device__ __noinline__ long long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

__device__ __noinline__ bool is_odd(int n);
__device__ __noinline__ bool is_even(int n) { return n == 0 || is_odd(n - 1); }
__device__ __noinline__ bool is_odd(int n) { return n != 0 && is_even(n - 1); }

// Each activation has its own array, and hands its address down.
__device__ __noinline__ int sum_of_chain(const int* above, int depth) {
  int mine[4];
  for (int i = 0; i < 4; i++) mine[i] = (above ? above[i] : 0) + i * depth;
  int below = depth > 0 ? sum_of_chain(mine, depth - 1) : 0;
  return below + mine[0] + mine[1] + mine[2] + mine[3];
}

__global__ void recursion_kernel(long long* out, int lanes) {
  int i = threadIdx.x;
  if (i < lanes) {
    out[3 * i] = fib(i % 14);
    out[3 * i + 1] = is_even(i) ? 1 : 0;
    out[3 * i + 2] = sum_of_chain(nullptr, i % 9);
  }
}
void recursion(int64_t* out, int lanes, cudaStream_t stream) {
  recursion_kernel<<<1, 64, 0, stream>>>(reinterpret_cast<long long*>(out), lanes);
}

__device__ __noinline__ int endless_recursion(int n) { return n + 3 * endless_recursion(n + 1); }
__global__ void overflow_kernel(int* out) { out[0] = endless_recursion(out[0]); }
void overflow(int* out, cudaStream_t stream) { overflow_kernel<<<1, 1, 0, stream>>>(out); }

// ---- Pointers ----
__device__ int twice(int x) { return 2 * x; }
__device__ int thrice(int x) { return 3 * x; }
__device__ int negated(int x) { return -x; }
using Function = int (*)(int);
__device__ Function functions[3] = {twice, thrice, negated};

struct Shape {
  __device__ virtual float area(float side) const = 0;
};
struct Square : Shape {
  __device__ float area(float side) const override { return side * side; }
};
struct Disc : Shape {
  __device__ float area(float side) const override { return 3.0f * side * side; }
};

__global__ void pointers_kernel(int* out, float* areas) {
  int i = threadIdx.x;
  out[i] = functions[i % 3](i);
  Square square;
  Disc disc;
  const Shape* shape = i % 2 ? static_cast<const Shape*>(&square) : &disc;
  areas[i] = shape->area(static_cast<float>(i));
}
void pointers(int* out, float* areas, cudaStream_t stream) {
  pointers_kernel<<<1, 64, 0, stream>>>(out, areas);
}

__global__ void wild_call_kernel(int* out, long long address) {
  out[0] = reinterpret_cast<Function>(address)(out[0]);
}
void wild_call(int* out, int64_t address, cudaStream_t stream) {
  wild_call_kernel<<<1, 1, 0, stream>>>(out, address);
}

// ---- Large arguments and results ----
struct Big {
  int a[6];
  char c;
  double d;
};
__device__ __noinline__ Big changed(Big b, int n) {
  b.a[n % 6] += n;
  b.c = static_cast<char>(n);
  b.d *= n;
  return b;
}
__global__ void structures_kernel(double* out) {
  int i = threadIdx.x;
  Big b = {{1, 2, 3, 4, 5, 6}, 'x', 1.5};
  b = changed(changed(b, i), i + 1);
  double sum = b.d + b.c;
  for (int v : b.a) sum += v;
  out[i] = sum;
}
void structures(double* out, cudaStream_t stream) { structures_kernel<<<1, 32, 0, stream>>>(out); }

// ---- A barrier inside of a function, and early exits ----
__device__ __noinline__ int exchanged(int v) {
  __shared__ int s[64];
  s[threadIdx.x] = v;
  __syncthreads();
  return s[63 - threadIdx.x];
}
__device__ __noinline__ int leave_if(int v) {
  if (v == 5) asm volatile("exit;");
  return v + 100;
}
__global__ void barriers_kernel(int* out) {
  int v = exchanged(threadIdx.x);
  out[threadIdx.x] = leave_if(v);
}
void barriers(int* out, cudaStream_t stream) { barriers_kernel<<<1, 64, 0, stream>>>(out); }

// ---- A dense switch: brx.idx ----
__global__ void indirect_kernel(int* out) {
  int i = threadIdx.x, r = 0;
  asm volatile(
      "{ .reg .u32 index; and.b32 index, %1, 3;\n"
      "targets: .branchtargets ONE, TWO, THREE, ONE;\n"
      "brx.idx index, targets;\n"
      "ONE: mov.s32 %0, 1; bra DONE;\n"
      "TWO: mov.s32 %0, 20; bra DONE;\n"
      "THREE: mov.s32 %0, 300;\n"
      "DONE: }"
      : "=r"(r)
      : "r"(i));
  out[i] = r;
}
void indirect(int* out, cudaStream_t stream) { indirect_kernel<<<1, 64, 0, stream>>>(out); }

// ---- printf, assert, malloc ----
__global__ void print_kernel(int lanes) {
  int i = threadIdx.x;
  if (i < lanes) {
    int n = printf("block %d thread %2d|%-6s|%c|%+.3f|%08x|%lld|%%|%*d|\n", blockIdx.x, i, "text",
                   'a' + i, i / 8.0, 0xabc0 + i, -5000000000ll - i, 6, i);
    if (n != 9) printf("printf returned %d\n", n);
  }
}
void print(int blocks, int lanes, cudaStream_t stream) {
  print_kernel<<<blocks, 32, 0, stream>>>(lanes);
}
__global__ void print_wild_kernel(long long address) {
  printf("%s\n", reinterpret_cast<const char*>(address));
}
void print_wild(int64_t address, cudaStream_t stream) {
  print_wild_kernel<<<1, 1, 0, stream>>>(address);
}

__global__ void check_kernel(int limit) { assert(static_cast<int>(threadIdx.x) < limit); }
void check(int limit, cudaStream_t stream) { check_kernel<<<1, 64, 0, stream>>>(limit); }

__global__ void heap_kernel(int* out, int rounds) {
  int i = threadIdx.x, sum = 0;
  for (int r = 0; r < rounds; r++) {
    int* mine = static_cast<int*>(malloc(64));
    for (int k = 0; k < 16; k++) mine[k] = i * k + r;
    __syncthreads();
    for (int k = 0; k < 16; k++) sum += mine[k];
    free(mine);
  }
  out[i] = sum;
}
void heap(int* out, int rounds, cudaStream_t stream) {
  heap_kernel<<<2, 64, 0, stream>>>(out, rounds);
}
__global__ void free_twice_kernel() {
  void* p = malloc(8);
  free(p);
  free(p);
}
void free_twice(cudaStream_t stream) { free_twice_kernel<<<1, 1, 0, stream>>>(); }
__global__ void exhaust_kernel(int* out) { out[0] = malloc(1ull << 40) == nullptr; }
void exhaust(int* out, cudaStream_t stream) { exhaust_kernel<<<1, 1, 0, stream>>>(out); }

// What one kernel allocated, another one reads.
__device__ int* kept;
__global__ void keep_kernel() {
  kept = static_cast<int*>(malloc(64));
  kept[3] = 17;
}
__global__ void read_kept_kernel(int* out) { out[0] = kept[3]; }
void keep(int* out, cudaStream_t stream) {
  keep_kernel<<<1, 1, 0, stream>>>();
  read_kept_kernel<<<1, 1, 0, stream>>>(out);
}

__global__ void print_odd_kernel() {
  printf("%ls|%3lc|%Lf|%2147483640d|\n", reinterpret_cast<const wchar_t*>("abc"), 'x', 1.5, 7);
}
void print_odd(cudaStream_t stream) { print_odd_kernel<<<1, 1, 0, stream>>>(); }

// ---- Jumps and stacks gone wrong ----
// Every jump back splits the warp, which meets again before the next one.
__global__ void split_for_ever_kernel() {
  asm volatile(
      "{.reg .b32 r; and.b32 r, %0, 1; ways: .branchtargets BACK, AGAIN;"
      "BACK: add.u32 r, r, 0; AGAIN: brx.idx r, ways;}" ::"r"(threadIdx.x));
}
void split_for_ever(cudaStream_t stream) { split_for_ever_kernel<<<1, 32, 0, stream>>>(); }

// The place to return to of a call in `larger` comes under the call in `smaller`.
__device__ unsigned before[8];
__device__ __noinline__ int leaf(int n, bool write) {
  unsigned mine[4] = {0, 1, 2, 3};
  unsigned long long at;
  asm volatile("cvta.to.local.u64 %0, %1;" : "=l"(at) : "l"(mine) : "memory");
  for (int i = 0; i < 8; i++) {
    if (write) {
      asm volatile("st.local.u32 [%0], %1;" ::"l"(at - 32 + 4 * i), "r"(before[i]) : "memory");
    } else {
      asm volatile("ld.local.u32 %0, [%1];" : "=r"(before[i]) : "l"(at - 32 + 4 * i) : "memory");
    }
  }
  return mine[n & 3];
}
__device__ __noinline__ int smaller(int n) { return n > 0 ? smaller(n - 1) + 1 : leaf(n, true); }
__device__ __noinline__ int larger(int n, int a, int b, int c, int d, double e, double f) {
  int below = n > 0 ? larger(n - 1, b, c, d, a, f, e) : leaf(n, false);
  return below * a + b * c + d + static_cast<int>(e * f);
}
__global__ void wrong_return_kernel(int* out) {
  out[0] = larger(0, out[1], out[2], out[3], out[4], out[5], out[6]);
  out[0] = smaller(0);
}
void wrong_return(int* out, cudaStream_t stream) { wrong_return_kernel<<<1, 1, 0, stream>>>(out); }
