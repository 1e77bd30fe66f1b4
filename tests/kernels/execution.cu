// execution.cu: what tests/test_simulator.py runs.
#include <cstdint>
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
