// execution.cu: what tests/simulator/test_simulator.py runs.
#include <cstdint>
#include <cstdio>
__constant__ float table[4] = {1.0f, 2.0f, 4.0f, 8.0f};
__device__ int visits;
__device__ int* const visits_address = &visits;
__device__ volatile int flag;

// Nested branches, loops whose trip count differs from lane to lane, and early exits.
__global__ void collatz_kernel(const int* x, int* steps, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v = x[i], count = 0;
  while (v != 1) {
    if (v % 2 == 0) {
      v /= 2;
    } else {
      v = 3 * v + 1;
      if (count > 1000) return;
    }
    count++;
  }
  steps[i] = count;
}
void collatz(const int* x, int* steps, int n, int threads, cudaStream_t stream) {
  collatz_kernel<<<(n + threads - 1) / threads, threads, 0, stream>>>(x, steps, n);
}

// Every warp writes before the barrier what another one reads behind it.
__global__ void reverse_kernel(const float* x, float* y, int rounds) {
  extern __shared__ float smem[];
  float v = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int r = 0; r < rounds; r++) {
    smem[threadIdx.x] = v;
    __syncthreads();
    v = smem[blockDim.x - 1 - threadIdx.x];
    __syncthreads();
  }
  y[blockIdx.x * blockDim.x + threadIdx.x] = v;
}
void reverse(const float* x, float* y, int blocks, int threads, int rounds, int smem,
             cudaStream_t stream) {
  reverse_kernel<<<blocks, threads, smem, stream>>>(x, y, rounds);
}

// Without a barrier the result depends on the order of the warps.
__global__ void race_kernel(int* out) {
  __shared__ int last;
  last = threadIdx.x / 32;
  __syncwarp();
  if (threadIdx.x == 0) out[0] = -1;
  __syncthreads();
  if (threadIdx.x == 0) out[0] = last;
}
void race(int* out, cudaStream_t stream) { race_kernel<<<1, 256, 0, stream>>>(out); }

// A warp spins on another warp; a lane spins on another lane.
__global__ void handshake_kernel(int* out) {
  if (threadIdx.x < 32) {
    while (flag == 0) {
    }
    out[threadIdx.x] = 1;
  } else {
    flag = 1;
  }
}
void handshake(int* out, cudaStream_t stream) { handshake_kernel<<<1, 64, 0, stream>>>(out); }

__global__ void lock_kernel(int* lock, int* sum) {
  while (atomicCAS(lock, 0, 1) != 0) {
  }
  *(volatile int*)sum = *(volatile int*)sum + 1;
  __threadfence();
  atomicExch(lock, 0);
}
void spin_lock(int* lock, int* sum, int blocks, cudaStream_t stream) {
  lock_kernel<<<blocks, 64, 0, stream>>>(lock, sum);
}

__global__ void endless_kernel(int* out) {
  while (true) {
    out[0] += 1;
  }
}
void endless(int* out, cudaStream_t stream) { endless_kernel<<<1, 32, 0, stream>>>(out); }

__global__ void half_barrier_kernel(int* out) {
  if (threadIdx.x < 32) {
    asm volatile("bar.sync 1, 64;");
  }
  out[threadIdx.x] = 1;
}
void half_barrier(int* out, cudaStream_t stream) { half_barrier_kernel<<<1, 64, 0, stream>>>(out); }

// Producer and consumer warps meet at a named barrier: one arrives, the other waits.
__global__ void named_barrier_kernel(int* out) {
  __shared__ int value;
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) value = 42;
    asm volatile("bar.arrive 3, 64;" ::: "memory");
  } else {
    asm volatile("bar.sync 3, 64;" ::: "memory");
    out[threadIdx.x - 32] = value;
  }
}
void named_barrier(int* out, cudaStream_t stream) {
  named_barrier_kernel<<<1, 64, 0, stream>>>(out);
}

__global__ void globals_kernel(float* out) {
  atomicAdd(visits_address, 1);
  out[threadIdx.x] = table[threadIdx.x % 4];
}
void globals(float* out, cudaStream_t stream) { globals_kernel<<<1, 32, 0, stream>>>(out); }
__global__ void read_visits_kernel(int* out) { out[0] = visits; }
void read_visits(int* out, cudaStream_t stream) { read_visits_kernel<<<1, 1, 0, stream>>>(out); }

// A local array indexed at run time lives in local memory.
__global__ void local_kernel(const int* index, int* out) {
  int a[8];
  for (int i = 0; i < 8; i++) a[i] = i * i + threadIdx.x;
  out[threadIdx.x] = a[index[threadIdx.x]];
}
void local_array(const int* index, int* out, cudaStream_t stream) {
  local_kernel<<<1, 32, 0, stream>>>(index, out);
}

__global__ void offset_kernel(const float* x, float* y, int read, int write) { y[write] = x[read]; }
void offset(const float* x, float* y, int read, int write, cudaStream_t stream) {
  offset_kernel<<<1, 1, 0, stream>>>(x, y, read, write);
}
__global__ void vector_kernel(const float* x, float* y, int at) {
  *reinterpret_cast<float4*>(y) = *reinterpret_cast<const float4*>(x + at);
}
void vector_read(const float* x, float* y, int at, cudaStream_t stream) {
  vector_kernel<<<1, 1, 0, stream>>>(x, y, at);
}
__global__ void write_input_kernel(const float* x) { const_cast<float*>(x)[3] = 1.0f; }
void write_input(const float* x, cudaStream_t stream) {
  write_input_kernel<<<1, 1, 0, stream>>>(x);
}
__global__ void wild_kernel(int64_t address) { *reinterpret_cast<float*>(address) = 1.0f; }
void wild_write(int64_t address, cudaStream_t stream) { wild_kernel<<<1, 1, 0, stream>>>(address); }
__global__ void shared_offset_kernel(float* y, int at) {
  extern __shared__ float smem[];
  smem[at] = 1.0f;
  y[0] = smem[0];
}
void shared_offset(float* y, int at, int bytes, cudaStream_t stream) {
  shared_offset_kernel<<<1, 1, bytes, stream>>>(y, at);
}
__global__ void trap_kernel(int* out) {
  if (threadIdx.x == 7) __trap();
}
void trap(int* out, cudaStream_t stream) { trap_kernel<<<1, 32, 0, stream>>>(out); }
__global__ void copy_kernel(const float* x, float* y) {
  int i = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  int n = blockDim.x * blockDim.y * blockDim.z;
  y[i * n + t] = 2.0f * x[i * n + t];
}
void copy_3d(const float* x, float* y, int gx, int gy, int gz, int bx, int by, int bz,
             cudaStream_t stream) {
  copy_kernel<<<dim3(gx, gy, gz), dim3(bx, by, bz), 0, stream>>>(x, y);
}

// nvcc folds the 2000 into the offset, and what is left of the address is negative.
__global__ void negative_base_kernel(float* y, int k) {
  __shared__ float s[2048];
  for (int i = threadIdx.x; i < 2048; i += 32) s[i] = i;
  __syncthreads();
  int j = threadIdx.x - k;
  y[threadIdx.x] = s[j + 2000];
}
void negative_base(float* y, int k, cudaStream_t stream) {
  negative_base_kernel<<<1, 32, 0, stream>>>(y, k);
}

// Lanes 0 to 15 wait for lanes that exit, while lane 31 spins on a flag that lane 0 sets behind it.
__global__ void late_exit_kernel(volatile int* flags) {
  int lane = threadIdx.x;
  if (lane == 31) {
    while (flags[0] == 0) {
    }
    flags[1] = 7;
    return;
  }
  if (lane >= 16) {
    if (flags[2] == 0) flags[3] = lane;
    return;
  }
  __syncwarp(0x7fffffff);
  if (lane == 0) flags[0] = 1;
}
void late_exit(int* flags, cudaStream_t stream) { late_exit_kernel<<<1, 32, 0, stream>>>(flags); }

__global__ void product_kernel(float* y, float a, float b) { y[0] = a * b; }
void product(float* y, float a, float b, cudaStream_t stream) {
  product_kernel<<<1, 1, 0, stream>>>(y, a, b);
}

// Shared memory that nobody wrote.
__global__ void unwritten_kernel(float* y) {
  __shared__ float s[32];
  if (threadIdx.x == 0) s[0] = 1.0f;
  __syncthreads();
  y[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];
}
void unwritten(float* y, int blocks, cudaStream_t stream) {
  unwritten_kernel<<<blocks, 32, 0, stream>>>(y);
}

__global__ void static_40k_kernel(float* y) {
  __shared__ float s[10240];
  extern __shared__ float more[];
  s[threadIdx.x] = y[0];
  more[threadIdx.x] = y[1];
  __syncthreads();
  y[2] = s[31 - threadIdx.x] + more[31 - threadIdx.x];
}
void static_40k(float* y, int bytes, cudaStream_t stream) {
  static_40k_kernel<<<1, 32, bytes, stream>>>(y);
}
__global__ void static_60k_kernel(float* y) {
  __shared__ float s[15360];
  s[threadIdx.x] = y[0];
  __syncthreads();
  y[2] = s[31 - threadIdx.x];
}
void static_60k(float* y, cudaStream_t stream) { static_60k_kernel<<<1, 32, 0, stream>>>(y); }

__global__ void device_numbers_kernel(unsigned* out) {
  unsigned sm, sms;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
  asm volatile("mov.u32 %0, %%nsmid;" : "=r"(sms));
  out[2 * blockIdx.x] = sm;
  out[2 * blockIdx.x + 1] = sms;
}
void device_numbers(int* out, int blocks, cudaStream_t stream) {
  device_numbers_kernel<<<blocks, 1, 0, stream>>>(reinterpret_cast<unsigned*>(out));
}

// Scattered reads that the check looks up one by one, for a while.
__global__ void wander_kernel(const int* next, int* out, int steps) {
  int at = blockIdx.x * blockDim.x + threadIdx.x;
  for (int i = 0; i < steps; i++) at = next[at];
  out[blockIdx.x * blockDim.x + threadIdx.x] = at;
}
void wander(const int* next, int* out, int steps, cudaStream_t stream) {
  wander_kernel<<<8, 128, 0, stream>>>(next, out, steps);
}

// A kernel that says how large its blocks are.
__global__ void __block_size__((64, 1, 1)) sized_kernel(int* out) { out[threadIdx.x] = 1; }
void sized(int* out, int threads, cudaStream_t stream) {
  void* args[] = {&out};
  cudaLaunchKernel(reinterpret_cast<const void*>(sized_kernel), dim3(1), dim3(threads), args, 0,
                   stream);
}

// A clock read by another instruction than mov.
__global__ void odd_clock_kernel(int* out) {
  uint64_t now;
  asm volatile("cvt.u64.u32 %0, %%clock;" : "=l"(now));
  out[0] = static_cast<int>(now);
}
void odd_clock(int* out, cudaStream_t stream) { odd_clock_kernel<<<1, 1, 0, stream>>>(out); }
